"""A draw from what the logit may be: each row is first as often as it may be the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

import numpy as np

from polyrank import spec
from polyrank.exploration.chances import chances
from polyrank.exploration.method import DRAWS, MOST, Exploration, Sure
from polyrank.exploration.posterior import centre

MOST_SEED = 2**63 - 1
MOST_DRAWS = 100_000


@dataclass(frozen=True, kw_only=True)
class Thompson(Exploration):
    """Rank by a draw of N(m, (scale·sd)²), one for each row and head.

    m = z − (½ − σ(z))·(scale·sd)², with the logit z that is served, so that the mean probability of
    draws is about the one that is served. Rows are drawn independently: what all rows of a request
    are unsure of together, such as the effect of its user, has no part in their order, and
    `Engine.explore` leaves it out.

    Args:
        seed: of this request; one seed and one request are one order.
        scale: of the deviation; below 1 explores less.
        draws: of the Monte Carlo estimate of propensities; None integrates where the order depends
            on one head alone, and else takes 1,000.

    Raises:
        ConfigError: a value out of range.

    Examples:
        >>> sure = Sure(np.array([-1.0, -1.5]), np.array([0.1, 1.0]))
        >>> how = Thompson(seed=1)
        >>> bool((how.moved({"click": sure})["click"] == how.moved({"click": sure})["click"]).all())
        True

    Reference:
        Thompson, Biometrika 1933; Chapelle and Li, An empirical evaluation of Thompson sampling,
        NIPS 2011 (the scale).
    """

    seed: int
    scale: float = 1.0
    draws: int | None = None

    json: ClassVar[Mapping[str, Any]] = {
        "seed": {"type": "integer", "minimum": 0, "maximum": MOST_SEED},
        "scale": {"type": "number", "minimum": 0.001, "maximum": MOST},
        "draws": {"type": "integer", "minimum": 1, "maximum": MOST_DRAWS},
    }
    required = ("seed",)
    random = True

    def __post_init__(self) -> None:
        spec.whole("seed", self.seed, least=0, most=MOST_SEED)
        spec.number("scale", self.scale, least=0.001, most=MOST)
        if self.draws is not None:
            spec.whole("draws", self.draws, most=MOST_DRAWS)

    def normal(self, sure: Sure) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of what is drawn of a head: float64 (N,) each."""
        sd = self.scale * sure.deviation
        return centre(sure.logit, sd), sd

    def moved(self, heads: Mapping[str, Sure]) -> dict[str, np.ndarray]:
        drawn = zip(heads.items(), self._generators(), strict=False)
        return {name: self._drawn(sure, each) for (name, sure), each in drawn}

    def chances(self, sure: Sure, first: int) -> np.ndarray | None:
        return chances(*self.normal(sure), first) if self.draws is None else None

    @property
    def replicates(self) -> int:
        return DRAWS if self.draws is None else self.draws

    def again(self, heads: Mapping[str, Sure], draws: int) -> dict[str, np.ndarray]:
        found = {}
        for (name, sure), generator in zip(heads.items(), self._generators(), strict=False):
            self._drawn(sure, generator)  # which is the one of `moved`
            found[name] = self._drawn(sure, generator, draws)
        return found

    def _drawn(self, sure: Sure, generator: np.random.Generator, *draws: int) -> np.ndarray:
        mean, sd = self.normal(sure)
        return mean + sd * generator.standard_normal((*draws, len(mean)))

    def _generators(self) -> Iterator[np.random.Generator]:
        """Yield a stream for each head, in the order of the tasks."""
        return (np.random.default_rng([self.seed, head]) for head in count())
