"""Stars that some who click give: an ordinal outcome."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyrank.datasets.marginals import sigmoid
from polyrank.datasets.parts.part import Log, Part, appeal, constant
from polyrank.spec import number
from polyrank.tasks import Task

AT_LEAST = {2: 0.93, 3: 0.80, 4: 0.55, 5: 0.25}  # of those who click: level and about its rate


@dataclass(frozen=True, kw_only=True)
class Stars(Part):
    """Stars 1 to 5, given click: P(stars ≥ k) = σ(c_k + spread·e), with e as in `parts.part`.

    `true_p_stars_k_given_click` is P(stars ≥ k | click), and `true_stars_given_click` their sum
    plus 1, the expected number. (Proportional odds: McCullagh, JRSS B 1980.)

    Args:
        spread: standard deviation of the logits.
    """

    name = "stars"
    stage = "outcome"
    spread: float = 1.2

    def __post_init__(self) -> None:
        number("stars: spread", self.spread, least=0)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """A number given click."""
        return (Task("stars", kind="regression", given="click"),)

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Draw stars, of those who click."""
        e, chance = appeal(log, to_world, 0.3), to_log.random(log.rows)
        stars, mean = np.ones(log.rows), np.ones(log.rows)
        for level, rate in AT_LEAST.items():
            p = sigmoid(constant(self.spread, rate) + self.spread * e)
            stars, mean = stars + (chance < p), mean + p
            log = log.adding(**{f"true_p_stars_{level}_given_click": p})
        log = log.adding(true_stars_given_click=mean)
        return replace(log, labels=log.labels.adding({"stars": log.given("click", stars)}))
