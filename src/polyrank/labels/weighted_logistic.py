"""The value of an event as the odds of a logistic regression that it weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, Literal, get_args

import numpy as np

from polyrank.errors import DataError, SchemaError, did_you_mean
from polyrank.labels.kind import Curvature, LabelKind, Remark, Scale

Negatives = Literal["every_row", "no_event"]
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class WeightedLogistic(LabelKind):
    """A value of at least 0 that an event has, such as the seconds watched after a click.

    An event is a positive that weighs its value, and the odds of the head are the prediction.

    Args:
        event: the column of the event, 0 or 1; the value is 0 where it did not happen, whatever the
            label says there. None takes rows whose label is above 0. Rows to predict lack it.
        negatives: what the negatives of weight 1 are. "every_row": each row is one, events too, and
            the odds are the mean value, E[value]. "no_event": the rows without the event alone, as
            published; the odds are E[value] ÷ P(no event), too high by as much as the event is
            frequent.

    Raises:
        SchemaError: an option that there is none of.

    Examples:
        >>> WeightedLogistic(event="click").made_of
        ('click',)

    Reference:
        Covington, Adams and Sargin, Deep neural networks for YouTube recommendations, RecSys 2016,
        section 4.2 (no_event).
    """

    name = "weighted_logistic"
    likelihood = "polyrank.objective.weighted_logistic:WeightedLogisticLikelihood"
    default_metric = "mae"
    metrics = ("mae", "rmse", "bias")
    allowed = "finite numbers of at least 0 or null"
    loss_title = "log loss weighted by the value, nats"

    event: str | None = None
    negatives: Negatives = "every_row"

    def __post_init__(self) -> None:
        where, known = f"kind {self.name!r}", get_args(Negatives)
        if self.event is not None and (not isinstance(self.event, str) or not self.event):
            raise SchemaError(f"{where}: event must name a column, got {self.event!r}")
        if self.negatives not in known:
            hint = did_you_mean(str(self.negatives), known)
            raise SchemaError(f"{where}: unknown negatives {self.negatives!r}{hint}")

    @property
    def curvatures(self) -> tuple[Curvature | None, ...]:
        """Of "every_row", whose odds are a mean: score v − (1 + v)p = (v − μ) ÷ (1 + μ)."""
        return ("poisson",) if self.negatives == "every_row" else (None,)

    @property
    def made_of(self) -> tuple[str, ...]:
        """The event."""
        return () if self.event is None else (self.event,)

    @property
    def calibrated(self) -> Scale | None:
        """Its mean; the published odds are none."""
        return "amount" if self.negatives == "every_row" else None

    @property
    def is_factor(self) -> bool:
        """Odds are."""
        return True

    def allows(self, values: np.ndarray) -> np.ndarray:
        """Numbers of at least 0 that float32 holds."""
        return (values >= 0) & (values <= _LARGEST)

    def observed(self, label: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the value where the event happened, 0 where not, NaN where nobody knows."""
        if self.event is None:
            return label
        event = columns[self.event]
        return np.where(event == 0, np.float32(0), np.where(event == 1, label, np.float32(np.nan)))

    def remarks(self, label: np.ndarray, columns: Mapping[str, np.ndarray]) -> tuple[Remark, ...]:
        """Return events that are neither 0 nor 1."""
        if self.event is None:
            return ()
        event = columns[self.event]
        wrong = ~np.isnan(event) & (event != 0) & (event != 1)
        words = f"an event {self.event!r} that is neither 0 nor 1 nor null"
        return (Remark("label-values", self.event, wrong, words, "", refused=True),)

    def fit(
        self, label: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return the mean value, `scale`, in units of which values are learned.

        Raises:
            DataError: `no_event` without a row that lacks the event: the odds have no end.
        """
        kept = weight > 0
        label, weight = label[kept], weight[kept]
        total = float(weight.sum())
        scale = float(weight @ label) / total if total > 0 else 0.0
        without = float(weight @ (label == 0)) / total if total > 0 else 1.0
        if self.negatives == "no_event" and without == 0:
            raise DataError(
                f"kind {self.name!r} with negatives = 'no_event' has no training row without the "
                "event, so that the odds grow without end: write negatives = 'every_row'"
            )
        if scale == 0:
            return {"scale": 1.0, "constant_loss": 0.0}
        if self.negatives == "no_event":
            p = 1 / (1 + without)
            constant = -log(p) - without * log(1 - p)
        else:
            value = label / scale
            own = (1 + value) * np.log1p(value) - value * np.log(np.where(value > 0, value, 1))
            constant = max(2 * log(2) - float(weight @ own) / total, 0.0)
        return {"scale": scale, "constant_loss": constant}
