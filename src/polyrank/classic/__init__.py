"""The multi-task API of Torch-RecHub over the same engine.

    from polyrank.classic import DataGenerator, ESMM, MTLTrainer, SparseFeature

A script runs with its import lines changed, or unchanged by
`python -m polyrank.classic script.py`. Raw ids are the rows of their tables.
"""

from __future__ import annotations

from polyrank.classic.data import DataGenerator, df_to_dict, pad_sequences
from polyrank.classic.features import DenseFeature, SequenceFeature, SparseFeature
from polyrank.classic.models import AITM, ESMM, MMOE, PLE, SharedBottom
from polyrank.classic.trainer import MTLTrainer

__all__ = [
    "AITM",
    "ESMM",
    "MMOE",
    "PLE",
    "DataGenerator",
    "DenseFeature",
    "MTLTrainer",
    "SequenceFeature",
    "SharedBottom",
    "SparseFeature",
    "df_to_dict",
    "pad_sequences",
]
