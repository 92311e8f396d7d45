"""Means of a normal and a log-normal number between two limits, in float64.

Only operations that every runtime of an exported graph has in float64: no erf.
"""

from __future__ import annotations

from math import erfc, exp, pi, sqrt

import numpy as np
import torch
from torch import Tensor

_DEGREE = 24
_CENTRE = 3.75  # of t = (x − centre) / (x + centre), which maps [0, ∞) to [−1, 1)


def _scaled_erfc(x: float) -> float:
    """exp(x²)·erfc(x) of a number of at least 0."""
    if x < 3:
        return exp(x * x) * erfc(x)
    fraction = x
    for k in range(80, 0, -1):  # Laplace's continued fraction
        fraction = x + k / 2 / fraction
    return 1 / (sqrt(pi) * fraction)


def _coefficients() -> list[float]:
    """Chebyshev's of (1 + 2x)·exp(x²)·erfc(x), by its values at his nodes."""
    t = np.cos(np.pi * (np.arange(_DEGREE + 1) + 0.5) / (_DEGREE + 1))
    x = _CENTRE * (1 + t) / (1 - t)
    values = np.array([(1 + 2 * each) * _scaled_erfc(each) for each in x.tolist()])
    return np.polynomial.chebyshev.chebfit(t, values, _DEGREE).tolist()


_COEFFICIENTS = _coefficients()


def mills(x: Tensor) -> Tensor:
    """Return (1 − Φ(x)) ÷ φ(x) of numbers of at least 0, to about 1e-14 of its value.

    Reference:
        Shepherd and Laframboise, Chebyshev approximation of (1 + 2x)exp(x²)erfc x in 0 ≤ x < ∞,
        Mathematics of Computation 1981.
    """
    x = x / sqrt(2)
    t = 2 * (x - _CENTRE) / (x + _CENTRE)
    last = before = torch.zeros_like(x)
    for coefficient in _COEFFICIENTS[:0:-1]:  # Clenshaw's recurrence
        last, before = coefficient + t * last - before, last
    smooth = _COEFFICIENTS[0] + t / 2 * last - before
    return sqrt(pi / 2) * smooth / (1 + 2 * x)


def mean_between(mean: Tensor, deviation: Tensor, upper: Tensor) -> Tensor:
    """Return E[exp(Y) − 1] for a normal Y that is cut off at 0 and at an upper limit.

    It is within 0 and exp(upper) − 1 whatever the mean and the deviation are: every exponential of
    it is of what lies below a limit.

    Shape:
        float64 (N,) each, `deviation` and `upper` above 0 → (N,)
    """
    limits = torch.stack([torch.zeros_like(upper), upper])
    z = (limits - mean) / deviation
    tilted = z - deviation
    density = torch.exp(-(z**2) / 2) / sqrt(2 * pi)
    tails = mills(torch.stack([z.abs(), tilted.abs()]))
    below = density * tails[0]  # Φ(z), or 1 − Φ(z) where z is above 0
    below = torch.where(z < 0, below, 1 - below)
    # ∫ exp(y) below a limit: exp(mean + deviation²/2)·Φ(z − deviation).
    part = torch.exp(limits) * density * tails[1]
    whole = torch.exp(torch.minimum(mean + deviation**2 / 2, limits))
    part = torch.where(tilted < 0, part, whole - part)
    inside = (part[1] - part[0]) - (below[1] - below[0])
    most = torch.exp(upper) - 1
    found = inside + most * (1 - below[1])
    found = torch.where(found < 0, 0.0, found)
    return torch.where(found > most, most, found)
