"""Kinds of label: one torch-free file a kind, and its likelihood in `objective/`."""

from __future__ import annotations

from polyrank.labels.binary import Binary
from polyrank.labels.categorical import Categorical
from polyrank.labels.count import Count
from polyrank.labels.kind import LabelKind
from polyrank.labels.lognormal import LogNormal
from polyrank.labels.ordinal import Ordinal
from polyrank.labels.quantile import Quantile
from polyrank.labels.regression import Regression
from polyrank.labels.watch_time import WatchTime
from polyrank.labels.weighted_logistic import WeightedLogistic
from polyrank.registry import Registry

LABELS: Registry[type[LabelKind]] = Registry(
    "label",
    {
        "binary": Binary,
        "regression": Regression,
        "ordinal": Ordinal,
        "count": Count,
        "lognormal": LogNormal,
        "quantile": Quantile,
        "categorical": Categorical,
        "watch_time": WatchTime,
        "weighted_logistic": WeightedLogistic,
    },
)

__all__ = [
    "LABELS",
    "Binary",
    "Categorical",
    "Count",
    "LabelKind",
    "LogNormal",
    "Ordinal",
    "Quantile",
    "Regression",
    "WatchTime",
    "WeightedLogistic",
]
