"""Where an impression stood in its request, and that low places are overlooked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyrank.datasets.parts.part import Log, Part
from polyrank.spec import number


@dataclass(frozen=True, kw_only=True)
class Position(Part):
    """Position bias: click ~ θ(k)·σ(a + hidden·U), with θ(k) = k^(−power) at the position k.

    The positions 1, 2, … of a request are in the order of a past ranker's score, z plus noise: what
    is relevant stands high, so position and relevance are confounded. `true_p_click` and
    `true_p_buy` are what the log has at that position, `true_p_examined` is θ, and `do_p_click`
    what the first position would give. Examination depends on nothing but the position, so
    P(buy | click) is what it was. The rate of click falls. (The examination hypothesis and power
    law: Joachims, Swaminathan and Schnabel, WSDM 2017, section 4 and 6.1.)

    Args:
        power: of the decay; 0 leaves every position alike.
        noise: standard deviation of what the past ranker's score adds to z.
    """

    name = "position"
    stage = "event"
    power: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        number("position: power", self.power, least=0)
        number("position: noise", self.noise, least=0)

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Order each request, and take clicks and purchases from what nobody looked at."""
        score = log.relevance + self.noise * to_log.standard_normal(log.rows)
        position = ranks(log.request, -score)
        seen = position.astype(float) ** -self.power
        unseen = to_log.random(log.rows) >= seen
        labels = {name: np.where(unseen, 0.0, log.labels.values[name]) for name in ("click", "buy")}
        truth = log.probabilities
        log = log.adding(position=position, true_p_examined=seen, do_p_click=truth.p_click)
        return replace(
            log,
            labels=log.labels.adding(labels),
            truth=replace(truth, p_click=seen * truth.p_click, p_buy=seen * truth.p_buy),
        )


def ranks(request: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return the place of each row in its request by a key, from 1: int32 (B,).

    >>> ranks(np.array([0, 0, 0, 1]), np.array([0.3, 0.1, 0.2, 0.9])).tolist()
    [3, 1, 2, 1]
    """
    order = np.lexsort((key, request))
    ordered = request[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[first, len(ordered)])
    found = np.empty(len(request), dtype=np.int32)
    found[order] = np.arange(len(request)) - np.repeat(first, lengths) + 1
    return found
