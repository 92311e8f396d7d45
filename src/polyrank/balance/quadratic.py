"""Small quadratic programs over weights that are not negative, by an active set.

Letters: P weights.
"""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-13  # of a slope, relative to what it is the sum of


def least(gram: np.ndarray, linear: np.ndarray, total: float | None = None) -> np.ndarray:
    """Return the w ≥ 0, with Σ w = total if there is one, where ½ wᵀ gram w + linearᵀ w is least.

    Weights enter one by one, the steepest first, and leave when they would go below 0. Without a
    total the problem must be bounded. gram is positive semidefinite, (P, P), with a diagonal above
    0; its scale is taken out first, so that weights of very unlike gradients are as exact.

    Examples:
        >>> least(np.array([[1.0, 0.0], [0.0, 3.0]]), np.zeros(2), total=1.0)
        array([0.75, 0.25])

    Reference:
        Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 16.3; without a total,
        Lawson and Hanson, Solving Least Squares Problems, chapter 23.
    """
    size = np.sqrt(np.diag(gram))
    gram, linear, ones = gram / np.outer(size, size), linear / size, 1 / size
    weights, inside = np.zeros(len(size)), np.zeros(len(size), dtype=bool)
    level = 0.0  # of the slope that all weights inside have, per unit of the total
    if total is not None:  # start at the best corner
        corner = np.argmin(total * total * ones**-2 / 2 + total * linear / ones)
        weights[corner], inside[corner] = total / ones[corner], True
        level = (gram[corner] @ weights + linear[corner]) / ones[corner]
    for _ in range(20 * len(size)):
        pull, push = gram @ weights, level * ones
        slope = pull + linear - push
        scale = np.abs(pull) + np.abs(linear) + np.abs(push)
        enters = ~inside & (slope < -TOLERANCE * scale)
        if not enters.any():
            break
        inside[np.argmin(np.where(enters, slope, 0.0))] = True
        while True:
            goal, level = _stationary(
                gram[np.ix_(inside, inside)], linear[inside], ones[inside], total
            )
            now = weights[inside]
            if (goal > 0).all():
                weights[inside] = goal
                break
            falls = goal <= 0
            share = np.min(now[falls] / np.maximum(now[falls] - goal[falls], np.finfo(float).tiny))
            now = now + share * (goal - now)
            now[falls & (now <= TOLERANCE * np.abs(now).max())] = 0.0
            weights[inside] = now
            inside &= weights > 0
            if not inside.any():
                break
    return weights / size


def _stationary(
    gram: np.ndarray, linear: np.ndarray, ones: np.ndarray, total: float | None
) -> tuple[np.ndarray, float]:
    """Return the weights, of any sign, where the slope is level · ones, and the level."""
    if total is None:
        return _solved(gram, -linear), 0.0
    found = _solved(gram, np.stack([-linear, ones], axis=1))
    level = float((total - ones @ found[:, 0]) / (ones @ found[:, 1]))
    return found[:, 0] + level * found[:, 1], level


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:  # gradients that depend on each other
        return np.linalg.lstsq(matrix, right)[0]
