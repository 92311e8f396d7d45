"""What a metric is: one definition, from which its value, its replicates and its titles follow.

Letters: N rows, G groups, R replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from polyrank.errors import ConfigError
from polyrank.labels import LABELS
from polyrank.metrics.areas import DrawnRanks
from polyrank.metrics.inputs import coded, column, mean, refuse_other_labels, weighing
from polyrank.metrics.undefined import Undefined
from polyrank.text import counted

Key = Literal["user", "request"]
Scale = Literal["logit", "log", "log of the rest", "plain"]
Role = Literal["compared", "diagnosed", "segment table", "calibration table"]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of weight above 0 that a metric is measured on, checked; every array (N,).

    Args:
        label: finite.
        prediction: finite.
        weight: relative to the largest; None weighs every row 1.
        codes: by the key's name, integers that are equal where the keys are, below 0 where the key
            is missing.
    """

    label: np.ndarray
    prediction: np.ndarray
    weight: np.ndarray | None = None
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)
    _totals: dict[Summand, np.float64] = field(init=False, repr=False, default_factory=dict)

    @classmethod
    def of(
        cls,
        label: ArrayLike,
        prediction: ArrayLike,
        weight: ArrayLike | None = None,
        codes: Mapping[str, np.ndarray] | None = None,
    ) -> Rows:
        """Check columns, and leave out rows of weight 0; raise Undefined where no row is left."""
        y = column("label", label)
        p = column("prediction", prediction, rows=len(y))
        kept, w = weighing(weight, rows=len(y))
        if not len(y):
            raise Undefined("no rows")
        if not len(y[kept]):
            raise Undefined("no rows of weight above 0")
        return cls(y[kept], p[kept], w, {name: each[kept] for name, each in (codes or {}).items()})

    @cached_property
    def positive(self) -> np.ndarray:
        """Whether the label is 1; any other than 0 and 1 raises DataError."""
        refuse_other_labels(self.label)
        return self.label == 1

    @property
    def count(self) -> str:
        """The number of rows in words."""
        return counted(len(self.label), "row")

    def total(self, summand: Summand) -> np.float64:
        """Return a weighted sum over the rows; metrics share those that they have in common."""
        if summand not in self._totals:
            values = summand(self)
            total = values.sum() if self.weight is None else np.dot(values, self.weight)
            self._totals[summand] = np.float64(total)
        return self._totals[summand]


Summand = Callable[[Rows], np.ndarray]


def one(rows: Rows) -> np.ndarray:
    """Return 1 for each row."""
    return np.ones(len(rows.label))


class Groups(NamedTuple):
    """Groups of rows with a value each; every array (G,)."""

    value: np.ndarray
    weight: np.ndarray | None  # in the mean; None weighs all alike
    code: np.ndarray  # of the key


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: what it measures, and how it is read.

    It is a function of `sums` over rows, the mean of `groups`, or what `whole` returns; one of
    these is given. The first two are resampled by their sums, and `whole` by `ranked`.

    Args:
        name: as in JSON, tables and `stop`.
        title: as in charts and pages.
        note: what a reader of the title may want to know, in a few words.
        kinds: names of the kinds of label that have it.
        higher_is_better: None where the best value lies in between, as 1 does for `pcoc`.
        best: the best value of a metric without a direction.
        sums: what is summed, each a function of the rows to a number per row.
        value: (sum, sum, …) -> value, elementwise.
        groups: the groups of rows whose mean it is; those of the user key, if it has replicates.
        whole: a function of the rows, where neither fits.
        ranked: its replicates from drawn counts of ranked positives and negatives.
        needs: why rows cannot support it, or None where they can.
        key: which key groups its rows; None for a metric of single rows.
        groups_are: what a group must have, to name what is missing: "with both classes".
        scale: on which its interval is symmetric; None for a metric without intervals.
        ranks: whether it depends on the order of the predictions alone, so that it measures any
            score, and not only a probability.
        roles: where it is shown beside the scorecard. "compared": in comparisons of runs; these
            have a direction and are few, since each extra metric adds a chance of a false positive.
            "diagnosed": of predictions before calibration, and of each segment. "segment table" and
            "calibration table": those of the diagnosed that printed tables have room for.

    Raises:
        ConfigError: none or several of `sums`, `groups` and `whole`; a scale without replicates;
            neither a direction nor a best value; compared without a direction.

    Example:
        >>> def squared_gap(rows):
        ...     return (rows.prediction - rows.label) ** 2
        >>> brier = Metric(
        ...     name="brier", title="Brier score", kinds=("binary",), higher_is_better=False,
        ...     sums=(squared_gap, one), scale="log",
        ... )
        >>> brier([0, 1], [0.5, 0.5])
        0.25
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    higher_is_better: bool | None
    note: str = ""
    best: float | None = None
    sums: tuple[Summand, ...] = ()
    value: Callable[..., Any] = np.divide
    groups: Callable[[Rows], Groups] | None = None
    whole: Callable[[Rows], float] | None = None
    ranked: Callable[[DrawnRanks], np.ndarray] | None = None
    needs: Callable[[Rows], str | None] | None = None
    key: Key | None = None
    groups_are: str = ""
    scale: Scale | None = None
    ranks: bool = False
    roles: tuple[Role, ...] = ()

    def __post_init__(self) -> None:
        directed = self.higher_is_better is not None
        for broken, rule in (
            (
                sum(map(bool, (self.sums, self.groups, self.whole))) != 1,
                "one of sums, groups and whole says what it is",
            ),
            (
                self.scale is not None and not self.has_replicates,
                "an interval on a scale needs sums, groups of users, or ranked",
            ),
            (directed == (self.best is not None), "it has either a direction or a best value"),
            ("compared" in self.roles and not directed, "what is compared has a direction"),
        ):
            if broken:
                raise ConfigError(f"metric {self.name!r}: {rule}")

    @property
    def has_replicates(self) -> bool:
        """Whether `bootstrap` can resample it."""
        by_user = self.groups is not None and self.key == "user"
        return bool(self.sums) or by_user or self.ranked is not None

    @property
    def of_events(self) -> bool:
        """Whether its labels happen or not, so that its rows are positives and negatives."""
        return all(LABELS[kind].is_event for kind in self.kinds)

    def lacks(self, keys: Container[str]) -> str | None:
        """Return that its key is not among these, or None where it is or there is none."""
        return f"no {self.key} key" if self.key is not None and self.key not in keys else None

    def measure(self, rows: Rows) -> float:
        """Return its value on some rows.

        Raises:
            Undefined: these rows cannot support it; the message is the reason.
            DataError: a label or a prediction is out of its domain.
        """
        reason = self.lacks(rows.codes) or (self.needs and self.needs(rows))
        if reason:
            raise Undefined(reason)
        if self.whole is not None:
            return self.whole(rows)
        if self.groups is None:
            return float(self.value(*(rows.total(each) for each in self.sums)))
        found = self.groups(rows)
        if not len(found.value):
            raise Undefined(f"no {self.key} {self.groups_are} among {rows.count}")
        return mean(found.value, found.weight)

    def __call__(
        self,
        label: ArrayLike,
        prediction: ArrayLike,
        weight: ArrayLike | None = None,
        *,
        key: Any = None,
    ) -> float:
        """Return its value on plain columns.

        Args:
            label: as its kind of label takes it.
            prediction: likewise.
            weight: sample weights; None weighs every row 1.
            key: of each row, for a metric with a key; null and NaN are missing.

        Raises:
            Undefined: these rows cannot support it; the message is the reason.
            DataError: shapes differ, or a value is out of its domain.

        Shape:
            every array (N,)
        """
        codes: dict[str, np.ndarray] = {}
        if self.key is not None and key is not None:
            codes[self.key] = coded(self.key, key, rows=len(column("label", label)))
        return self.measure(Rows.of(label, prediction, weight, codes))
