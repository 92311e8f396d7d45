"""A logging policy decides which impressions have outcomes at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyrank.datasets.marginals import sigmoid
from polyrank.datasets.parts.part import Labels, Log, Part, constant
from polyrank.spec import number


@dataclass(frozen=True, kw_only=True)
class Exposure(Part):
    """Exposure by a logging policy: shown ~ e = floor + (1 − floor)·σ(c + strength·s).

    s = (z + noise·N)/√(1 + noise²) is a past model's score. Training and validation have a row for
    every candidate, shown or not, with null labels where it was not; in the test split all labels
    are known, as if everything had been shown. `past_score` is s, `exposed` 0 or 1, and
    `propensity` e, which is also `true_p_exposed`. Given the score, exposure does not depend on any
    outcome, so 1/propensity makes means of the shown those of all candidates.

    Args:
        rate: about the share of candidates that are shown.
        strength: of the score in the policy; 0 shows at random.
        noise: standard deviation of what the score adds to z.
        floor: the least propensity, above 0.
    """

    name = "exposure"
    stage = "log"
    rate: float = 0.3
    strength: float = 1.5
    noise: float = 0.5
    floor: float = 0.02

    def __post_init__(self) -> None:
        number("exposure: floor", self.floor, above=0, below=1)
        number("exposure: rate", self.rate, above=self.floor, below=1)
        number("exposure: noise", self.noise, least=0)
        number("exposure: strength", self.strength)

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Show some, and forget what happened to the others in training and validation."""
        noise = self.noise * to_log.standard_normal(log.rows)
        score = (log.relevance + noise) / np.sqrt(1 + self.noise**2)
        rate = (self.rate - self.floor) / (1 - self.floor)
        p = sigmoid(constant(abs(self.strength), rate) + self.strength * score)
        propensity = self.floor + (1 - self.floor) * p
        exposed = to_log.random(log.rows) < propensity
        known = exposed | (np.arange(log.rows) >= log.ends[1])
        values = {name: np.where(known, each, np.nan) for name, each in log.labels.values.items()}
        log = log.adding(
            past_score=score,
            exposed=exposed.astype(np.int8),
            propensity=propensity,
            true_p_exposed=propensity,
        )
        return replace(log, labels=Labels(values, log.labels.numbers))
