"""Which metrics a kind of label has, by the name that JSON, tables and `stop` use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from polyrank.errors import ConfigError, did_you_mean
from polyrank.metrics import binary, ranking, regression

Key = Literal["user", "request"]
Scale = Literal["logit", "log", "log of the rest", "plain"]


@dataclass(frozen=True)
class Metric:
    """A metric, which owns its direction.

    Args:
        name: as in JSON.
        higher_is_better: None where the best value lies in between, as 1 does for `pcoc`.
        function: (label, prediction, weight) -> float, or with a `key`
            (label, prediction, key, weight) -> float.
        key: which key groups its rows; None for a metric of single rows.
        best: the best value of a metric without a direction.
        scale: on which its interval is symmetric; None for a metric without intervals.
    """

    name: str
    higher_is_better: bool | None
    function: Callable[..., float]
    key: Key | None = None
    best: float | None = None
    scale: Scale | None = None


def _named(*metrics: Metric) -> Mapping[str, Metric]:
    return {each.name: each for each in metrics}


METRICS: Mapping[str, Mapping[str, Metric]] = {
    "binary": _named(
        Metric("auc", True, binary.auc, scale="logit"),
        Metric("gauc", True, binary.grouped_auc, key="user", scale="logit"),
        Metric("pr_auc", True, binary.average_precision, scale="logit"),
        Metric("log_loss", False, binary.log_loss, scale="log"),
        Metric("ne", False, binary.normalized_entropy, scale="log"),
        Metric("pcoc", None, binary.pcoc, best=1, scale="log"),
        Metric("ece", False, binary.ece),
        Metric("ndcg@10", True, ranking.ndcg, key="request"),
        Metric("recall@10", True, ranking.recall, key="request"),
        Metric("mrr", True, ranking.reciprocal_rank, key="request"),
    ),
    "regression": _named(
        Metric("rmse", False, regression.rmse, scale="log"),
        Metric("mae", False, regression.mae, scale="log"),
        Metric("r2", True, regression.r2, scale="log of the rest"),
        Metric("bias", None, regression.bias, best=0, scale="plain"),
    ),
}


def metric(kind: str, name: str) -> Metric:
    """Return a metric of a kind of label.

    Raises:
        ConfigError: an unknown kind or name, with the nearest.

    Example:
        >>> metric("binary", "gauc").key
        'user'
    """
    if kind not in METRICS:
        raise ConfigError(f"unknown kind {kind!r}{did_you_mean(kind, METRICS)}")
    if name not in METRICS[kind]:
        hint = did_you_mean(name, METRICS[kind])
        raise ConfigError(f"a {kind} task has no metric {name!r}{hint}")
    return METRICS[kind][name]


def direction(kind: str, name: str) -> bool:
    """Return whether a higher value of a metric is better.

    Raises:
        ConfigError: an unknown kind or name, with the nearest, or a metric without a direction.

    Example:
        >>> direction("binary", "log_loss")
        False
    """
    found = metric(kind, name)
    if found.higher_is_better is None:
        directed = [each for each in METRICS[kind].values() if each.higher_is_better is not None]
        raise ConfigError(
            f"metric {name!r} is best near {found.best:g}, neither high nor low, so it cannot tell "
            f"a better epoch; use one of {', '.join(repr(each.name) for each in directed)}"
        )
    return found.higher_is_better
