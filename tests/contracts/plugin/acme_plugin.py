"""A plugin for every axis, as another package would have it: this half imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

import polyrank as pr
from polyrank.features.dense import NumberCodec, NumberFeature
from polyrank.features.kind import Slot
from polyrank.metrics.metric import one
from polyrank.terms import Summand, term_of


@dataclass(frozen=True)
class Cyclic(NumberFeature):
    """A number on a circle, as its sine and cosine."""

    kind = "cyclic"
    graph = "acme_torch:CyclicGraph"
    period: float = 24.0

    @property
    def slots(self):
        return (Slot(name=self.name, place="dense"),)

    def codec(self, tables, state):
        return CyclicCodec(self)


class CyclicCodec(NumberCodec):
    @property
    def columns(self):
        return {self.feature.name: 2}

    def place(self, values):
        angle = values * np.float32(2 * np.pi / self.feature.period)
        return {self.feature.name: np.nan_to_num(np.stack([np.sin(angle), np.cos(angle)], axis=1))}


@dataclass(frozen=True, kw_only=True)
class Watched(pr.LabelKind):
    """Seconds watched of a video: a normal distribution, in units of what its length expects.

    Two outputs, a fitted state, and the column of the lengths, also at prediction.
    """

    name = "watched"
    likelihood = "acme_torch:WatchedLikelihood"
    default_metric = "rmse"
    metrics = ("rmse", "mae")
    allowed = "seconds of at least 0, or null"
    loss_title = "negative log-likelihood, nats"
    length: str = "length"

    @property
    def outputs(self):
        return 2

    @property
    def reads(self):
        return (self.length,)

    def stems(self, task):
        return (task, f"{task}_sd")

    def allows(self, values):
        return (values >= 0) & np.isfinite(values)

    def fit(self, label, weight, columns):
        share = label / np.nan_to_num(columns[self.length], nan=1.0)
        return {"share": float(np.average(share, weights=weight)), "unit": float(share.std())}


@dataclass(frozen=True, kw_only=True)
class Weighted(pr.Debias):
    """Rows where the parent happened, weighted by 1 / P(parent), at most `largest`."""

    name = "weighted"
    largest: float = 10.0

    def heads(self, task):
        return ("twin",)

    def terms(self, schema, task):
        return (
            term_of(schema, task, task.given, self),
            term_of(schema, task, task.given, self, "twin"),
        )

    def summands(self, term, scores, labels):
        task, parent = term.population.task, term.population.conditions[-1]
        rows, label = labels.yes[parent], labels.value[task].nan_to_num()
        twin = scores.logits[f"{task}#twin"]
        if term.part == "twin":
            return (Summand(rows, 1.0, (twin.sigmoid() - label).square()),)
        p = scores.log_probability((((parent, True),),)).exp().detach()
        weight = (1 / p).clamp(max=self.largest)
        return (Summand(rows, weight, scores.cross_entropy(term, label)),)


def squared_error(rows):
    return (rows.prediction - rows.label) ** 2


@partial(
    pr.Metric,
    title="Brier score",
    kinds=("binary",),
    higher_is_better=False,
    sums=(squared_error, one),
    scale="log",
)
def brier(errors, rows):
    return errors / rows


@dataclass(frozen=True)
class Shift(pr.CalibrationMap):
    """logit + by: the mean prediction becomes the mean label."""

    name = "shift"
    by: float = 0.0

    @classmethod
    def fit(cls, logit, label, weight, _):
        by, w = 0.0, weight / weight.sum()
        for _ in range(50):
            p = 1 / (1 + np.exp(-(logit + by)))
            by -= w @ (p - label) / (w @ (p * (1 - p)))
        return cls(float(by))

    def apply(self, values):
        return values + self.by


NAMES = {
    ("trunk", "projection"): "acme_torch:Projection",
    ("interaction", "gate"): "acme_torch:Gate",
    ("first_stage", "popularity"): "acme_torch:Popularity",
    ("balance", "largest"): "acme_torch:Largest",
    ("row_optimizer", "momentum"): "acme_torch:Momentum",
    ("schedule", "inverse"): "acme_torch:Inverse",
    ("feature", "cyclic"): Cyclic,
    ("label", "watched"): Watched,
    ("debias", "weighted"): Weighted,
    ("metric", "brier"): brier,
    ("calibration", "shift"): Shift,
}
for (axis, name), what in NAMES.items():
    pr.register(axis, name, what)
