"""Optimisers of embedding rows and of the dense part, and learning-rate schedules.

An optimiser's name in a configuration is its key here.
"""

from polyrank.registry import Registry
from polyrank.train.optim.dense import (
    Adam,
    Constant,
    Cosine,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    set_lr,
)
from polyrank.train.optim.engine import EmbeddingEngine, EmbeddingOptimizer, RowEngine, RowOptimizer
from polyrank.train.optim.rules import SGD, Adagrad, DenseAdam, LazyAdam, RowwiseAdagrad

DENSE: dict[str, type[Adam]] = {"adam": Adam}
EMBEDDINGS: Registry[type[EmbeddingOptimizer]] = Registry(
    "row_optimizer",
    {
        "lazy_adam": LazyAdam,
        "rowwise_adagrad": RowwiseAdagrad,
        "adagrad": Adagrad,
        "sgd": SGD,
        "adam": DenseAdam,
    },
)
SCHEDULES: dict[str, type[Constant] | type[Cosine]] = {"constant": Constant, "cosine": Cosine}

__all__ = [
    "DENSE",
    "EMBEDDINGS",
    "SCHEDULES",
    "SGD",
    "Adagrad",
    "Adam",
    "Constant",
    "Cosine",
    "DenseAdam",
    "EmbeddingEngine",
    "EmbeddingOptimizer",
    "LazyAdam",
    "RowEngine",
    "RowOptimizer",
    "RowwiseAdagrad",
    "load_optimizer_state",
    "optimizer_state",
    "parameter_groups",
    "set_lr",
]
