"""The probability that a row is among the first K, where rows are drawn independently.

Letters: N rows, K places, G nodes.
"""

from __future__ import annotations

from math import ceil, erf, log2, pi, sqrt

import numpy as np

from polyrank.errors import ConfigError

WIDE = 8.5  # deviations: beyond them lies less than 1e-16
NODES = 4  # a deviation; the error of the trapezium rule falls as exp(−2π²·NODES²) for a normal
MOST_WORK = 3e8  # multiplications, about a second
_BLOCK = 2**20  # numbers of an array
_STEP = 1 / 128  # of the table: its cubics are within 2e-11
_AT = np.arange(-9 / _STEP, 9 / _STEP + 1) * _STEP
_CDF = np.array([(1 + erf(each / sqrt(2))) / 2 for each in _AT])
_SLOPE = np.exp(-(_AT**2) / 2) / sqrt(2 * pi) * _STEP


def chances(mean: np.ndarray, deviation: np.ndarray, first: int) -> np.ndarray:
    """Return P(row i is among the `first` largest of independent N(mean, deviation²)).

    For one place, it is the integral of φ_i · Π_{j≠i} Φ_j. For K places, the product gives way to
    the probability that at most K − 1 other rows are larger: the sum of the coefficients below K of
    Π_{j≠i} (Φ_j + (1 − Φ_j)·t), taken at each node from a tree of products, without a division.

    Args:
        mean: of each row.
        deviation: of each row, above 0.
        first: K, at least 1.

    Raises:
        ConfigError: it would take more than about a second.

    Shape:
        mean, deviation: float64 (N,) → (N,)

    Examples:
        >>> chances(np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.5]), 1).round(3).tolist()
        [0.161, 0.161, 0.679]
    """
    rows = len(mean)
    found = np.zeros(rows)
    if first >= rows:
        return found + 1
    lows = mean - WIDE * deviation
    low = np.partition(lows, rows - first)[rows - first]  # `first` rows are above it
    some = np.flatnonzero(mean + WIDE * deviation > low)  # others are never among the first
    m, s = mean[some], deviation[some]
    step, high = s.min() / NODES, float((m + WIDE * s).max())
    nodes = ceil((high - low) / step) + 1
    work = 4.0 * nodes * len(some) * first * (1 + log2(first))
    if work > MOST_WORK:
        raise ConfigError(
            f"propensities of the first {first:,} of {len(some):,} rows take too long to "
            "integrate: give draws, such as 1000, for a Monte Carlo estimate, or send fewer "
            "candidates"
        )
    total = np.zeros(len(some))
    each = max(_BLOCK // (len(some) * first), 1)
    for start in range(0, nodes, each):
        x = low + step * np.arange(start, min(start + each, nodes))
        u = (x - m[:, None]) / s[:, None]
        density = np.exp(-(u**2) / 2) / (sqrt(2 * pi) * s[:, None])
        total += step * (density * _at_most(normal_cdf(u), first)).sum(1)
    found[some] = np.minimum(total, 1)
    return found


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Return Φ(x) by cubics through a table, within 2e-11.

    Shape:
        float64, any → the same
    """
    inside = np.clip(x, _AT[0], _AT[-1])
    place = np.minimum(((inside - _AT[0]) / _STEP).astype(np.int64), len(_AT) - 2)
    t = (inside - _AT[place]) / _STEP
    rest = 1 - t
    return (
        (1 + 2 * t) * rest**2 * _CDF[place] + t * rest**2 * _SLOPE[place]
        + t**2 * (3 - 2 * t) * _CDF[place + 1] - t**2 * rest * _SLOPE[place + 1]
    )  # fmt: skip


def _at_most(below: np.ndarray, first: int) -> np.ndarray:
    """Return P(at most first − 1 other rows are larger), of P(a row is below) at each node.

    Shape:
        (N, G) → (N, G)
    """
    rows, nodes = below.shape
    leaves = 1 << (rows - 1).bit_length()
    level = np.zeros((leaves, min(first, 2), nodes))
    level[:rows, 0] = below
    level[rows:, 0] = 1  # rows that are never larger
    if first > 1:
        level[:rows, 1] = 1 - below
    levels = [level]
    while len(levels[-1]) > 1:
        last = levels[-1]
        levels.append(_product(last[::2], last[1::2], first))
    others = np.ones((1, 1, nodes))  # of the root: no other rows
    for level in reversed(levels[:-1]):
        pairs = [_product(level[1::2], others, first), _product(level[::2], others, first)]
        others = np.stack(pairs, axis=1).reshape(len(level), *pairs[0].shape[1:])
    return others[:rows].sum(1)


def _product(a: np.ndarray, b: np.ndarray, first: int) -> np.ndarray:
    """Return the coefficients of the products of polynomials, of the powers below `first`."""
    few, many = (a, b) if a.shape[1] <= b.shape[1] else (b, a)
    powers = min(few.shape[1] + many.shape[1] - 1, first)
    found = np.zeros((len(a), powers, a.shape[2]))
    for power in range(min(few.shape[1], powers)):
        own = many[:, : powers - power]
        found[:, power : power + own.shape[1]] += few[:, power : power + 1] * own
    return found
