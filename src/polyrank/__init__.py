"""polyrank: multi-task ranking from impression logs.

One model predicts several outcomes of an impression (click, purchase, rating, watch time).

    import polyrank as pr
    bundle = pr.fit(schema, pr.ESMM(tower=[16, 8]), train="train.parquet", valid="valid.parquet")
    print(bundle.evaluate("test.parquet"))

The names below are the public ones. They are imported on first use, so that `import polyrank`
and `polyrank --help` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.balance import GradNorm, MetaBalance, Sum, Uncertainty
    from polyrank.bundle.model import Bundle, load
    from polyrank.config import Experiment
    from polyrank.data.sampling import Sampling
    from polyrank.errors import (
        BundleError,
        ConfigError,
        DataError,
        ExportError,
        LeakageWarning,
        PolyrankError,
        SchemaError,
        TrainingError,
    )
    from polyrank.layout import Layout
    from polyrank.metrics.fusion import Fusion
    from polyrank.metrics.scorecard import Score, Scorecard
    from polyrank.models.aitm import AITM
    from polyrank.models.experts import ExpertUse, GateUse
    from polyrank.models.mmoe import MMoE
    from polyrank.models.model import ESMM, Model
    from polyrank.models.ple import PLE
    from polyrank.models.separate import Separate
    from polyrank.models.shared_bottom import SharedBottom
    from polyrank.models.trunk import Mixing, Trunk, TrunkModule
    from polyrank.schema import (
        DenseFeature,
        Keys,
        Schema,
        SequenceFeature,
        SparseFeature,
        Task,
    )
    from polyrank.serve.engine import Engine
    from polyrank.train.fit import fit
    from polyrank.train.optim import (
        SGD,
        Adagrad,
        Adam,
        Constant,
        Cosine,
        DenseAdam,
        LazyAdam,
        RowwiseAdagrad,
    )
    from polyrank.train.training import Stop, Training

_HOME = {
    "polyrank.balance": ["GradNorm", "MetaBalance", "Sum", "Uncertainty"],
    "polyrank.bundle.model": ["Bundle", "load"],
    "polyrank.config": ["Experiment"],
    "polyrank.data.sampling": ["Sampling"],
    "polyrank.errors": [
        "BundleError",
        "ConfigError",
        "DataError",
        "ExportError",
        "LeakageWarning",
        "PolyrankError",
        "SchemaError",
        "TrainingError",
    ],
    "polyrank.layout": ["Layout"],
    "polyrank.metrics.fusion": ["Fusion"],
    "polyrank.metrics.scorecard": ["Score", "Scorecard"],
    "polyrank.models.aitm": ["AITM"],
    "polyrank.models.experts": ["ExpertUse", "GateUse"],
    "polyrank.models.mmoe": ["MMoE"],
    "polyrank.models.model": ["ESMM", "Model"],
    "polyrank.models.ple": ["PLE"],
    "polyrank.models.separate": ["Separate"],
    "polyrank.models.shared_bottom": ["SharedBottom"],
    "polyrank.models.trunk": ["Mixing", "Trunk", "TrunkModule"],
    "polyrank.schema": [
        "DenseFeature",
        "Keys",
        "Schema",
        "SequenceFeature",
        "SparseFeature",
        "Task",
    ],
    "polyrank.serve.engine": ["Engine"],
    "polyrank.train.fit": ["fit"],
    "polyrank.train.optim": [
        "SGD",
        "Adagrad",
        "Adam",
        "Constant",
        "Cosine",
        "DenseAdam",
        "LazyAdam",
        "RowwiseAdagrad",
    ],
    "polyrank.train.training": ["Stop", "Training"],
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__version__ = version("polyrank")
__all__ = [
    "AITM",
    "ESMM",
    "PLE",
    "SGD",
    "Adagrad",
    "Adam",
    "Bundle",
    "BundleError",
    "ConfigError",
    "Constant",
    "Cosine",
    "DataError",
    "DenseAdam",
    "DenseFeature",
    "Engine",
    "Experiment",
    "ExpertUse",
    "ExportError",
    "Fusion",
    "GateUse",
    "GradNorm",
    "Keys",
    "Layout",
    "LazyAdam",
    "LeakageWarning",
    "MMoE",
    "MetaBalance",
    "Mixing",
    "Model",
    "PolyrankError",
    "RowwiseAdagrad",
    "Sampling",
    "Schema",
    "SchemaError",
    "Score",
    "Scorecard",
    "Separate",
    "SequenceFeature",
    "SharedBottom",
    "SparseFeature",
    "Stop",
    "Sum",
    "Task",
    "Training",
    "TrainingError",
    "Trunk",
    "TrunkModule",
    "Uncertainty",
    "fit",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'polyrank' has no attribute {name!r}")
    return getattr(import_module(_MODULE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
