"""Rows weighted by the inverse of the probability that they were observed, and what that costs.

Letters: B rows of a batch, N rows where the conditions happened.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from polyrank.debias.method import Debias

FEW = 0.1  # of the rows: an effective sample below this share of them is told as a warning
EDGES = tuple(10.0 ** (exponent / 4) for exponent in range(-16, 1))  # of the histogram: 1e-4 … 1


@dataclass(frozen=True, kw_only=True)
class PropensityWeighted(Debias):
    """A method that weighs rows by 1 / p, p being the probability of the path to the condition.

    p is the model's own: the product along the path, such as P(click)·P(cart|click). It is a
    constant (stop-gradient), else the heads on the path would learn to make the weights small.

    Args:
        floor: the least p, within (0, 1], so that no row weighs more than 1 / floor. What it
            cuts off is bias; what it leaves is variance.

    Raises:
        SchemaError: a floor out of range.
    """

    floor: float = 0.01

    def __post_init__(self) -> None:
        self._check("floor", above=0, most=1)

    def propensity(self, term: Any, scores: Any) -> Any:
        """Return p of the term's condition, at least `floor` and without a gradient: (B,)."""
        return self._floored(scores.log_probability(term.population.happened))

    def complement(self, term: Any, scores: Any) -> Any:
        """Return 1 − p likewise, from the paths on which the condition does not happen."""
        return self._floored(scores.log_probability(term.population.did_not_happen))

    def _floored(self, log_probability: Any) -> Any:
        return log_probability.detach().exp().clamp(min=self.floor)


@dataclass(frozen=True, kw_only=True)
class PropensityUse:
    """What the weights of a debiased task are worth, on rows where its condition happened.

    Args:
        term: the population that is weighted, such as `buy|click @ click`.
        rows: N.
        effective_rows: (Σw)² / Σw²: as many rows of one weight would give a mean as sure.
        clipped_share: of the rows whose propensity is below the floor.
        floor: of the propensity.
        shares: of the rows by propensity, between `EDGES`; those below the first are in the first.

    Shape:
        shares: (16,)

    Reference:
        Kish, Survey Sampling, 1965 (the effective sample).
    """

    term: str
    rows: int
    effective_rows: float
    clipped_share: float
    floor: float
    shares: tuple[float, ...]

    @classmethod
    def of(
        cls, term: str, propensity: np.ndarray, floor: float, weight: np.ndarray | None = None
    ) -> PropensityUse:
        """Measure the weights of rows; `propensity` is without the floor, `weight` of samples.

        Shape:
            propensity, weight: (N,)

        Examples:
            >>> found = PropensityUse.of("buy|click @ click", np.array([0.5, 0.5, 0.001]), 0.1)
            >>> round(found.effective_rows, 3), round(found.clipped_share, 3)
            (1.815, 0.333)
        """
        p = propensity.astype(np.float64)
        own = np.ones(len(p)) if weight is None else weight.astype(np.float64)
        w = own / np.maximum(p, floor)
        squares = float(w @ w)
        counted, _ = np.histogram(np.clip(p, EDGES[0], EDGES[-1]), EDGES)
        return cls(
            term=term,
            rows=len(p),
            effective_rows=float(w.sum()) ** 2 / squares if squares > 0 else 0.0,
            clipped_share=float((p < floor).mean()) if len(p) else 0.0,
            floor=floor,
            shares=tuple((counted / max(len(p), 1)).tolist()),
        )

    @property
    def effective_share(self) -> float:
        """Effective rows ÷ rows; 0 without rows."""
        return self.effective_rows / self.rows if self.rows else 0.0

    def figures(self) -> dict[str, float]:
        """Return the columns of an epoch's history; of the histogram, a share a decade."""
        decades = {
            f"{self.term} propensity {low:g}-{10 * low:g} share": sum(self.shares[at : at + 4])
            for at, low in enumerate(EDGES[:-1])
            if at % 4 == 0
        }
        return {
            f"{self.term} effective rows": self.effective_rows,
            f"{self.term} effective share": self.effective_share,
            f"{self.term} clipped share": self.clipped_share,
            **decades,
        }

    def warnings(self) -> tuple[str, ...]:
        """Return what is wrong with the weights, with remedies."""
        if not self.rows or self.effective_share >= FEW:
            return ()
        return (
            f"the weights of {self.term!r} leave an effective sample of "
            f"{self.effective_rows:,.0f} of {self.rows:,} rows: a few rows decide what is learned. "
            f"Raise floor (now {self.floor:g}), which trades variance for bias, or use 'snips' "
            "or 'dr'",
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "effective_share": self.effective_share, "edges": list(EDGES)}

    def __str__(self) -> str:
        return (
            f"{self.term}: effective sample {self.effective_rows:,.0f} of {self.rows:,} rows, "
            f"{self.clipped_share:.1%} of them clipped at a propensity of {self.floor:g}"
        )
