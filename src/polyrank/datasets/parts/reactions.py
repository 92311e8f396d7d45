"""Like, share and hide: outcomes that need no click."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyrank.datasets.marginals import sigmoid
from polyrank.datasets.parts.part import Log, Part, appeal, constant
from polyrank.spec import number
from polyrank.tasks import Task

# Name: rate, and correlation of its logit with that of click.
REACTIONS = {"like": (0.05, 0.6), "share": (0.01, 0.4), "hide": (0.02, -0.5)}


@dataclass(frozen=True, kw_only=True)
class Reactions(Part):
    """Three more roots, r ~ σ(c + spread·e) each, with e as in `parts.part.appeal`.

    The rates are about 5 % like, 1 % share and 2 % hide; whoever clicks rather likes and shares
    and rather does not hide. `true_p_like`, `true_p_share` and `true_p_hide` are the probabilities.

    Args:
        spread: standard deviation of each logit.
    """

    name = "reactions"
    stage = "outcome"
    spread: float = 1.0

    def __post_init__(self) -> None:
        number("reactions: spread", self.spread, least=0)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """A root a reaction."""
        return tuple(map(Task, REACTIONS))

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Draw the three."""
        labels = log.labels
        for name, (rate, alike) in REACTIONS.items():
            logit = constant(self.spread, rate) + self.spread * appeal(log, to_world, alike)
            p = sigmoid(logit)
            labels = labels.adding({name: (to_log.random(log.rows) < p).astype(float)})
            log = log.adding(**{f"true_p_{name}": p})
        return replace(log, labels=labels)
