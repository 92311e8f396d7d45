"""What a metric is: one definition, from which its value, its replicates and its titles follow.

Letters: N rows, G groups, R replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from polyrank.errors import ConfigError
from polyrank.labels import LABELS, LabelKind
from polyrank.metrics.areas import DrawnRanks
from polyrank.metrics.inputs import coded, column, mean, refuse_other_labels, weighing
from polyrank.metrics.undefined import Undefined
from polyrank.text import counted

Key = Literal["user", "request", "group"]
Scale = Literal["logit", "log", "log of the rest", "fisher", "plain"]
Role = Literal["compared", "diagnosed", "segment table", "calibration table"]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of weight above 0 that a metric is measured on, checked, finite; every array (N,).

    Weights are relative to the largest; None weighs every row 1. Codes, by the key's name, are
    integers that are equal where the keys are, below 0 where the key is missing.
    """

    label: np.ndarray
    prediction: np.ndarray
    weight: np.ndarray | None = None
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)
    outputs: np.ndarray | None = None  # all of a head's outputs, (N, outputs), where it has several
    kind: LabelKind | None = None  # of the label, with its options
    _totals: dict[Summand, np.float64] = field(init=False, repr=False, default_factory=dict)

    @classmethod
    def of(
        cls,
        label: ArrayLike,
        prediction: ArrayLike,
        weight: ArrayLike | None = None,
        codes: Mapping[str, np.ndarray] | None = None,
        outputs: np.ndarray | None = None,
        kind: LabelKind | None = None,
    ) -> Rows:
        """Check columns, and leave out rows of weight 0; raise Undefined where no row is left."""
        y = column("label", label)
        p = column("prediction", prediction, rows=len(y))
        kept, w = weighing(weight, rows=len(y))
        if not len(y):
            raise Undefined("no rows")
        if not len(y[kept]):
            raise Undefined("no rows of weight above 0")
        found = {name: each[kept] for name, each in (codes or {}).items()}
        own = None if outputs is None else outputs[kept]
        return cls(y[kept], p[kept], w, found, own, kind)

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

    code: np.ndarray  # of the key
    value: np.ndarray
    weight: np.ndarray | None  # in the mean; None weighs all alike


@dataclass(frozen=True)
class Metric:
    """A metric: what it measures, and how it is read.

    It decorates its formula: `@partial(Metric, title=…)`. The formula is a function of `sums` over
    rows, elementwise; or, of a metric with a `key`, a function of `Rows` to `Groups`, whose mean it
    is; or else one of `Rows` to a number. The first two are resampled by their sums, and
    the last by `ranked`.

    Args:
        formula: see above.
        title: as in charts and pages.
        kinds: names of the kinds of label that have it.
        higher_is_better: None where the best value lies in between, as 1 does for `pcoc`.
        name: as in JSON, tables and `stop`; the formula's by default.
        best: the best value of a metric without a direction.
        note: what a reader of the title may want to know, in a few words.
        sums: what is summed, each a function of the rows to a number per row.
        key: which key groups its rows; None for a metric of single rows. "group" are the groups of
            a label's own kind, such as those of duration.
        groups_are: what a group must have, to name what is missing: "with both classes".
        degree: how many rows what is summed is about: 2 where each row's part is of its pairs with
            all others, so that another weight of a row counts twice.
        needs: why rows cannot support it, or None where they can.
        ranked: its replicates from drawn counts of ranked positives and negatives.
        scale: on which its interval is symmetric; None for a metric without intervals.
        ranks: whether it depends on the order of the predictions alone, so that it measures any
            score, and not only a probability.
        roles: where it is shown beside the scorecard. "compared": in comparisons of runs; these
            have a direction and are few, since each extra metric adds a chance of a false positive.
            "diagnosed": of predictions before calibration, and of each segment. "segment table" and
            "calibration table": those of the diagnosed that printed tables have room for.

    Raises:
        ConfigError: a scale without replicates; neither a direction nor a best value; compared
            without a direction.

    Examples:
        >>> from functools import partial
        >>> def squared_gap(rows):
        ...     return (rows.prediction - rows.label) ** 2
        >>> @partial(
        ...     Metric, title="Brier score", kinds=("binary",), higher_is_better=False,
        ...     sums=(squared_gap, one), scale="log",
        ... )
        ... def brier(gaps, rows):
        ...     return gaps / rows
        >>> brier.name, brier([0, 1], [0.5, 0.5])
        ('brier', 0.25)
    """

    formula: Callable[..., Any]
    _: KW_ONLY
    title: str
    kinds: tuple[str, ...]
    higher_is_better: bool | None
    name: str = ""
    best: float | None = None
    note: str = ""
    sums: tuple[Summand, ...] = ()
    key: Key | None = None
    groups_are: str = ""
    degree: int = 1
    needs: Callable[[Rows], str | None] | None = None
    ranked: Callable[[DrawnRanks], np.ndarray] | None = None
    scale: Scale | None = None
    ranks: bool = False
    roles: tuple[Role, ...] = ()

    def __post_init__(self) -> None:
        about = {name: getattr(self.formula, name, None) for name in ("__doc__", "__module__")}
        about |= {"name": self.name or self.formula.__name__, "__wrapped__": self.formula}
        for name, value in about.items():
            object.__setattr__(self, name, value)
        directed = self.higher_is_better is not None
        for broken, rule in (
            (self.scale is not None and not self.has_replicates, "a scale needs replicates"),
            (directed == (self.best is not None), "it has either a direction or a best value"),
            ("compared" in self.roles and not directed, "what is compared has a direction"),
        ):
            if broken:
                raise ConfigError(f"metric {self.name!r}: {rule}")

    @property
    def has_replicates(self) -> bool:
        """Whether `bootstrap` can resample it."""
        return bool(self.sums) or self.key is not None or self.ranked is not None

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
        if self.sums:
            return float(self.formula(*(rows.total(each) for each in self.sums)))
        if self.key is None:
            return float(self.formula(rows))
        found = self.formula(rows)
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
        outputs: ArrayLike | None = None,
        kind: LabelKind | None = None,
    ) -> float:
        """Return its value on plain columns.

        Args:
            label: as its kind of label takes it.
            prediction: likewise.
            weight: sample weights; None weighs every row 1.
            key: of each row, of one type, for a metric with a key; null and NaN are missing.
            outputs: all of a head's outputs, (N, outputs), for a metric of several.
            kind: of the label, with its options, likewise.

        Raises:
            Undefined: these rows cannot support it; the message is the reason.
            DataError: shapes differ, or a value is out of its domain.

        Shape:
            every array (N,)
        """
        codes: dict[str, np.ndarray] = {}
        if self.key is not None and key is not None:
            codes[self.key] = coded(self.key, key, rows=len(column("label", label)))
        own = None if outputs is None else np.asarray(outputs, dtype=np.float64)
        return self.measure(Rows.of(label, prediction, weight, codes, own, kind))
