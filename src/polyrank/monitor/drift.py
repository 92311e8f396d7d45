"""Whether two multinomial counts differ by more than their sizes explain.

Reference:
    Yurdakul and Naranjo, Journal of Risk Model Validation 2020, "Statistical properties of the
    population stability index": under no drift PSI is about (1/n + 1/m) · chi-square(K - 1), so a
    fixed bound such as .1 means nothing without n and m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyrank.monitor.profile import Facet, Profile

ALPHA = 0.05  # of a false alarm, of all facets together
HALF = 0.5  # added to each count: a category without rows would make PSI infinite
_STEP, _ENOUGH = 200, 20  # draws at a time; exceedances after which more draws tell nothing


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far a facet has moved.

    Args:
        facet: its categories and its counts at fit.
        counts: of the rows looked at.
        psi: the population stability index, with half a row added to each category.
        p_value: of a PSI at least this large if nothing has moved.
        adjusted: the p-value after Holm's correction for the number of facets.
    """

    facet: Facet
    counts: Sequence[int]
    psi: float
    p_value: float
    adjusted: float

    @property
    def found(self) -> bool:
        """Whether it has moved, at 5 % false alarms over all facets."""
        return self.adjusted <= ALPHA

    @property
    def moved(self) -> str:
        """The category that adds most to PSI, with its shares at fit and now."""
        before, now = shares(np.array(self.facet.counts)), shares(np.array(self.counts))
        most = int(np.argmax((now - before) * np.log(now / before)))
        return f"{self.facet.categories[most]}: {before[most]:.1%} at fit, {now[most]:.1%} now"


def shares(counts: np.ndarray) -> np.ndarray:
    """Return shares of counts, half a row being added to each category; over the last axis."""
    more = counts + HALF
    return more / more.sum(axis=-1, keepdims=True)


def psi(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the population stability index Σ (q - p) · log(q / p) of counts, over the last axis.

    Examples:
        >>> round(float(psi(np.array([50, 50]), np.array([50, 50]))), 3)
        0.0
        >>> round(float(psi(np.array([5000, 5000]), np.array([8000, 2000]))), 3)
        0.416
    """
    p, q = shares(expected), shares(found)
    return ((q - p) * np.log(q / p)).sum(axis=-1)


def p_value(
    expected: np.ndarray, found: np.ndarray, generator: np.random.Generator, draws: int
) -> float:
    """Return how likely a PSI at least as large is where both counts are of one distribution.

    A parametric bootstrap: pairs of multinomial counts of both sizes, from the pooled shares. It
    stops early where 20 draws have reached the PSI (Besag and Clifford, Biometrika 1991), so that
    only what has moved costs all `draws`.
    """
    observed = psi(expected, found)
    pooled = (expected + found) / (expected + found).sum()
    sizes = int(expected.sum()), int(found.sum())
    reached = drawn = 0
    while drawn < draws and reached < _ENOUGH:
        one, two = (generator.multinomial(size, pooled, _STEP) for size in sizes)
        reached += int((psi(one, two) >= observed - 1e-12).sum())
        drawn += _STEP
    return (reached + 1) / (drawn + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, whatever their dependence.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Reference:
        Holm, Scandinavian Journal of Statistics 1979.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    raised = np.maximum.accumulate(np.array(p_values, float)[order] * factors).clip(max=1.0)
    found = np.empty(len(p_values))
    found[order] = raised
    return [float(each) for each in found]


def drifts(profile: Profile, counts: Sequence[np.ndarray], *, seed: int = 0) -> tuple[Drift, ...]:
    """Return how far each facet of a profile has moved, in its order.

    Args:
        profile: at fit.
        counts: of the rows looked at, by facet.
        seed: of the bootstrap.
    """
    # The smallest p-value that it can give must stay below ALPHA after the correction.
    draws = max(2000, int(np.ceil(4 * len(counts) / ALPHA)))
    generator = np.random.default_rng(seed)
    before = [np.array(each.counts) for each in profile.facets]
    pairs = list(zip(before, counts, strict=True))
    values = [p_value(old, new, generator, draws) for old, new in pairs]
    return tuple(
        Drift(
            facet=facet, counts=[int(each) for each in new], psi=float(psi(old, new)),
            p_value=value, adjusted=adjusted,
        )
        for facet, (old, new), value, adjusted in zip(
            profile.facets, pairs, values, holm(values), strict=True
        )
    )  # fmt: skip
