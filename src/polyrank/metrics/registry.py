"""Which metrics a kind of label has, by the name that JSON, tables and `stop` use.

A module of any package adds one: `register("metric", "brier", "my_package.metrics:BRIER")`, a
`Metric` whose `kinds` names the kinds of label that have it. Training, scorecards, segments,
comparisons and reports then know it.
"""

from __future__ import annotations

from collections.abc import Mapping

from polyrank.errors import ConfigError, did_you_mean
from polyrank.labels import LABELS, LabelKind
from polyrank.metrics import amounts, binary, concordance, ranking, regression, several
from polyrank.metrics.metric import Metric, Role
from polyrank.registry import Registry

Kind = str | LabelKind | type[LabelKind]

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        each.name: each
        for room in (binary, ranking, regression, concordance, amounts, several)
        for each in room.METRICS
    },
)


def metrics_of(kind: Kind, role: Role | None = None) -> Mapping[str, Metric]:
    """Return the metrics of a kind of label, or those of one role, in the order of its tables."""
    of = _kind(kind)
    own = {name: each for name, each in METRICS.items() if of.name in each.kinds}
    own |= {name: METRICS[name] for name in of.metrics}
    return {name: each for name, each in own.items() if role is None or role in each.roles}


def metric(kind: Kind, name: str) -> Metric:
    """Return a metric of a kind of label; an unknown one raises ConfigError with the nearest."""
    known = metrics_of(kind)
    if name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"a {_kind(kind).name} task has no metric {name!r}{hint}")
    return known[name]


def direction(kind: Kind, name: str) -> bool:
    """Return whether a higher value of a metric is better; one without a direction is refused."""
    found = metric(kind, name)
    if found.higher_is_better is None:
        known = metrics_of(kind).items()
        directed = [repr(name) for name, each in known if each.higher_is_better is not None]
        raise ConfigError(
            f"metric {name!r} is best near {found.best:g}, neither high nor low, so it cannot tell "
            f"a better epoch; use one of {', '.join(directed)}"
        )
    return found.higher_is_better


def _kind(kind: Kind) -> LabelKind | type[LabelKind]:
    if not isinstance(kind, str):
        return kind
    if kind not in LABELS:
        raise ConfigError(f"unknown kind {kind!r}{did_you_mean(kind, LABELS)}")
    return LABELS[kind]
