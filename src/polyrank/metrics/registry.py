"""Which metrics a kind of label has, by the name that JSON, tables and `stop` use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from polyrank.errors import ConfigError, did_you_mean
from polyrank.metrics import binary, regression


@dataclass(frozen=True)
class Metric:
    """A metric, which owns its direction.

    Args:
        name: as in JSON.
        higher_is_better: None where the best value lies in between, as 1 does for `pcoc`.
        function: (label, prediction, weight) -> float, or with `needs_user`
            (label, prediction, user, weight) -> float.
        needs_user: whether it groups rows by user.
        best: the best value of a metric without a direction.
        ranks: whether it depends on the order of the predictions alone, so that it measures any
            score, and not only a probability.
    """

    name: str
    higher_is_better: bool | None
    function: Callable[..., float]
    needs_user: bool = False
    best: float | None = None
    ranks: bool = False


def _named(*metrics: Metric) -> Mapping[str, Metric]:
    return {each.name: each for each in metrics}


METRICS: Mapping[str, Mapping[str, Metric]] = {
    "binary": _named(
        Metric("auc", True, binary.auc, ranks=True),
        Metric("gauc", True, binary.grouped_auc, needs_user=True, ranks=True),
        Metric("pr_auc", True, binary.average_precision, ranks=True),
        Metric("log_loss", False, binary.log_loss),
        Metric("ne", False, binary.normalized_entropy),
        Metric("pcoc", None, binary.pcoc, best=1),
        Metric("ece", False, binary.ece),
    ),
    "regression": _named(
        Metric("rmse", False, regression.rmse),
        Metric("mae", False, regression.mae),
        Metric("r2", True, regression.r2),
        Metric("bias", None, regression.bias, best=0),
    ),
}


def metric(kind: str, name: str) -> Metric:
    """Return a metric of a kind of label.

    Raises:
        ConfigError: an unknown kind or name, with the nearest.

    Example:
        >>> metric("binary", "gauc").needs_user
        True
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
