"""polyrank's loop over tables encoded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import torch

import polyrank as pr
from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.objective.losses import Supervision
from polyrank.train.fit import isolated
from polyrank.train.heads import start
from polyrank.train.loop import Trainer
from polyrank.train.optim import EMBEDDINGS
from polyrank.train.training import Training

COMPILES = "compile" in {each.name for each in fields(Training)}
DEFAULT = next(kind for kind, each in EMBEDDINGS.items() if type(Training().embeddings) is each)


def trainer_of(
    model: pr.Model, vocab: Vocab, tables: Mapping[str, Table], training: Training, seed: int
) -> Trainer:
    """Return the trainer of `pr.fit`: a new ranker on the tables `train` and, if any, `valid`."""
    tables = {
        split: replace(each, schema=model.supervised(each.schema)) for split, each in tables.items()
    }
    train = tables["train"]
    with isolated(seed, training):
        ranker = model.build(model.layout(train.schema, vocab)).to(training.device)
        start(ranker, train, training.device)
        supervision = Supervision.of(train)
        return Trainer(
            ranker, training, supervision, train=train, valid=tables.get("valid"), seed=seed
        )


def compiled(training: Training) -> Training:
    """Return the same training with its step as one compiled graph."""
    return replace(training, compile=True)


def embedding_optimizer(kind: str, lr: float | None = None, l2: float | None = None):
    """Return an embedding optimiser by its kind."""
    return EMBEDDINGS[kind](lr=lr, l2=l2)


def set_threads(threads: int) -> None:
    """Set the threads of torch and, if it is installed, of numba."""
    torch.set_num_threads(threads)
    try:
        import numba
    except ImportError:
        return
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
