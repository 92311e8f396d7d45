"""Lists of candidates of which one is chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyrank.datasets.parts.part import Log, Part, appeal
from polyrank.spec import number
from polyrank.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Choice(Part):
    """One choice a request: P(row | request) = e^u / Σ over the request of e^u, u = spread·e.

    e is as in `parts.part`, and the probability is `true_p_chosen`. A request of one row has it
    chosen. (Multinomial logit: McFadden, 1974.)

    Args:
        spread: standard deviation of the utility u.
    """

    name = "choice"
    stage = "outcome"
    spread: float = 1.5

    def __post_init__(self) -> None:
        number("choice: spread", self.spread, least=0)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """A root."""
        return (Task("chosen"),)

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Choose one row a request: the largest of u plus Gumbel noise has these probabilities."""
        utility = self.spread * appeal(log, to_world, 0.5)
        noisy = utility + to_log.gumbel(size=log.rows)
        # Splits hold whole requests, each on rows that lie together.
        first = np.flatnonzero(np.r_[True, log.request[1:] != log.request[:-1]])
        lengths = np.diff(np.r_[first, log.rows])
        chosen = noisy == np.repeat(np.maximum.reduceat(noisy, first), lengths)
        weight = np.exp(utility - np.repeat(np.maximum.reduceat(utility, first), lengths))
        p = weight / np.repeat(np.add.reduceat(weight, first), lengths)
        labels = log.labels.adding({"chosen": chosen.astype(float)})
        return replace(log.adding(true_p_chosen=p), labels=labels)
