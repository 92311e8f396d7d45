"""How many items those who click buy: a count."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyrank.datasets.parts.part import Log, Part, appeal
from polyrank.spec import number
from polyrank.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Items(Part):
    """Items bought after a click, whichever they are: Poisson, or negative binomial.

    The mean is μ = mean·e^(spread·e − spread²/2), with e as in `parts.part`, and
    `true_items_given_click`; the variance is μ + dispersion·μ². It does not depend on `buy`, which
    is of this item.

    Args:
        mean: about the mean count.
        spread: standard deviation of log μ.
        dispersion: 0 of a Poisson count.
    """

    name = "items"
    stage = "outcome"
    mean: float = 1.5
    spread: float = 0.7
    dispersion: float = 0.0

    def __post_init__(self) -> None:
        number("items: mean", self.mean, above=0, most=1000)
        number("items: spread", self.spread, least=0)
        number("items: dispersion", self.dispersion, least=0)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """A number given click."""
        return (Task("items", kind="regression", given="click"),)

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Draw counts, of those who click."""
        mean = self.mean * np.exp(self.spread * appeal(log, to_world, 0.3) - self.spread**2 / 2)
        rate = mean
        if self.dispersion:
            rate = mean * to_log.gamma(1 / self.dispersion, self.dispersion, size=log.rows)
        count = to_log.poisson(rate).astype(float)
        labels = log.labels.adding({"items": log.given("click", count)}, number=True)
        return replace(log.adding(true_items_given_click=mean), labels=labels)
