"""What a kind of label is, without torch: every fact of it that is no loss and no prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

Curvature = Literal["logistic", "softmax", "gaussian", "poisson"]
Scale = Literal["logit", "amount", "number", "quantiles"]


@dataclass(frozen=True, eq=False)
class Remark:
    """What some labels show beside the columns that their kind reads.

    Args:
        check: the audit's rule for it, such as `above-duration`.
        column: the column that it is about.
        rows: which rows these are: bool (rows,).
        words: what is the matter with them, behind their number: "rows of 'play' above …".
        becomes: what becomes of them, in words.
        refused: whether nothing is learned from such a log.
    """

    check: str
    column: str
    rows: np.ndarray
    words: str
    becomes: str
    refused: bool = False


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Groups of rows within which a kind of label is ranked, such as those of one duration.

    Args:
        title: what they are groups of.
        names: of each group.
        codes: the group of each row: int64 (rows,), each below the number of names.
    """

    title: str
    names: tuple[str, ...]
    codes: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LabelKind(ABC):
    """A kind of label: a frozen spec whose fields are the options of `kind = { kind = … }`.

    Attributes:
        name: as files write it.
        likelihood: "module:class" of its loss and prediction, a
            `polyrank.objective.likelihood.Likelihood`.
        is_event: whether it happens or not. An event may be `given`, has positives and negatives,
            is joined with its ancestors to one label, and is scored on all rows and on those of
            each ancestor; any other kind is scored where its `given` happened.
        is_ordered: whether rows of a request are compared by it: its labels have an order, and its
            likelihood a `score` that rises with the first output. An event needs neither.
        has_zero: whether an ordered label has a lowest value, its likelihood's `zero`, above which
            it counts as a gain.
        default_metric: what early stopping and each epoch look at.
        metrics: of other kinds that it has too, by name, in the order of its tables.
        allowed: what its label may hold, in words.
        counts: the counts of a score that its tables show.
        loss_title: of a chart of its loss: what it is, and its unit.
        standardised: whether its loss is the squared error of a standardised label, so that the
            best constant costs 1.
        curvature: the likelihood whose curvature lets wide rows estimate effects on its head:
            "logistic", "softmax", "gaussian" or "poisson"; None has no wide rows. `curvatures` has
            that of each output, of a kind with its options.
        is_average: whether its first output estimates the mean of its label.
        symbol: what it predicts of a head, in the objective's table: "E[{}]".
        has_joint: whether an output times the chance of what it is given means anything.
        charts: what a report draws of its predictions, by the names that
            `polyrank.report.sections.values` knows; none for an event.
        words: of a column's name that tell it, in English and in Chinese. A kind without any is
            told by values that are never above 0 without an event, if it is `proposed` at all.
    """

    name: ClassVar[str]
    likelihood: ClassVar[str]
    is_event: ClassVar[bool] = False
    is_ordered: ClassVar[bool] = False
    has_zero: ClassVar[bool] = False
    default_metric: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]] = ()
    allowed: ClassVar[str]
    counts: ClassVar[tuple[str, ...]] = ("rows",)
    loss_title: ClassVar[str]
    standardised: ClassVar[bool] = False
    curvature: ClassVar[Curvature | None] = None
    is_average: ClassVar[bool] = True
    symbol: ClassVar[str] = "E[{}]"
    has_joint: ClassVar[bool] = True
    charts: ClassVar[tuple[str, ...]] = ("agreement", "residuals")
    words: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def proposed(cls, label: np.ndarray, numbers: Mapping[str, np.ndarray]) -> LabelKind | None:
        """Return the kind that undeclared labels may be of; None where they do not look like it.

        Args:
            label: float64, none NaN.
            numbers: other columns that are known when rows are ranked: float64, NaN = missing.

        Shape:
            every array (rows,)
        """
        return None

    @property
    def rule(self) -> str:
        """What its label may hold, in the words of a message."""
        return self.allowed

    @property
    def curvatures(self) -> tuple[Curvature | None, ...]:
        """Of each output, the likelihood by which wide rows estimate effects on it; None for none.

        That of the first output is `curvature`; others, such as a deviation, have none unless their
        kind says so. The outputs of a softmax are all of the head's.
        """
        return (self.curvature, *[None] * (self.outputs - 1))

    def question(self, output: int) -> str:
        """Return what an output of the head is about, beside the task's name: `≥ 4`, `= 2`.

        It is "" where that is the label as a whole.
        """
        return ""

    @property
    def calibrated(self) -> Scale | None:
        """What a calibration map of it maps, by `polyrank.calibration.SCALES`; None has no map.

        "logit" is its head's; "amount" its only output, a mean of what is never below 0; "number"
        its only output, a mean of any number; "quantiles" all outputs, which must not cross.
        """
        return None

    @property
    def is_density(self) -> bool:
        """Whether its loss is the logarithm of a density, which may be below 0."""
        return False

    @property
    def is_factor(self) -> bool:
        """Whether no output is below 0, so that a fused score multiplies it."""
        return self.is_event

    @property
    def is_open(self) -> bool:
        """Whether it takes an option from the training rows before anything else is known."""
        return False

    def closed(self, found: np.ndarray) -> LabelKind:
        """Return the kind with what it takes from the distinct labels of the training rows.

        The labels are float32 (values,), from the lowest to the highest, none NaN.
        """
        return self

    @property
    def outputs(self) -> int:
        """Numbers that its head gives for a row."""
        return 1

    @property
    def reads(self) -> tuple[str, ...]:
        """Raw numeric columns that it needs beside the label, in training and at prediction."""
        return ()

    @property
    def made_of(self) -> tuple[str, ...]:
        """Raw numeric columns that its label is made of beside its own, and prediction lacks."""
        return ()

    def stems(self, task: str) -> tuple[str, ...]:
        """Return the output columns of a task without conditions; the first one is scored."""
        return (task,)

    @abstractmethod
    def allows(self, values: np.ndarray) -> np.ndarray:
        """Return which values a label may have: float64 (rows,), none NaN → bool (rows,)."""

    def absent(self, label: np.ndarray) -> tuple[str, ...]:
        """Return what its label may be and never is, in words: of float64 (rows,), none NaN."""
        return ()

    def observed(self, label: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the label as it is learned and scored.

        Args:
            label: of raw rows, float32, NaN = not observed.
            columns: those of `reads` and `made_of`, float32, NaN = missing.

        Shape:
            every array (rows,)
        """
        return label

    def remarks(self, label: np.ndarray, columns: Mapping[str, np.ndarray]) -> tuple[Remark, ...]:
        """Return what raw labels show beside other columns; arguments as in `observed`."""
        return ()

    def row_groups(
        self, fitted: Mapping[str, Any], columns: Mapping[str, np.ndarray]
    ) -> RowGroups | None:
        """Return the groups within which its predictions are ranked and shown; None for none.

        Args:
            fitted: what `fit` returned.
            columns: those of `reads`, float32 (rows,), NaN = missing.
        """
        return None

    def fit(
        self, label: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return what its loss and its prediction need of the training rows, as plain values.

        The bundle keeps it. The rows are those that teach the task.

        Args:
            label: float64, none NaN.
            weight: float64.
            columns: the columns of `reads`, float32, NaN = missing.

        Shape:
            every array (rows,)
        """
        return {}
