"""Optimisers of embedding rows and of the dense part, and learning-rate schedules.

An optimiser's name in a configuration is its key here.
"""

from polyrank.train.optim.adagrad import Adagrad, RowwiseAdagrad
from polyrank.train.optim.adam import DenseAdam, LazyAdam
from polyrank.train.optim.dense import (
    Adam,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    set_lr,
)
from polyrank.train.optim.engine import RowEngine, RowOptimizer
from polyrank.train.optim.method import EmbeddingEngine, EmbeddingOptimizer
from polyrank.train.optim.schedule import Constant, Cosine
from polyrank.train.optim.sgd import SGD

DENSE: dict[str, type[Adam]] = {"adam": Adam}
EMBEDDINGS: dict[str, type[EmbeddingOptimizer]] = {
    "lazy_adam": LazyAdam,
    "rowwise_adagrad": RowwiseAdagrad,
    "adagrad": Adagrad,
    "sgd": SGD,
    "adam": DenseAdam,
}
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
