"""From what a first stage says of a logit to the normal that the true logit is drawn from.

A logistic regression is right on average: σ(z) is the mean probability of all rows that look alike
to it. Where the true logit varies among them, z is nearer to 0 than the mean of the true logit, and
effects estimated on this scale vary less than the true ones. These functions undo that, each to
first order in the variance.

References:
    Zeger, Liang and Albert, Biometrics 1988, eq. 3; MacKay, Neural Computation 1992, The evidence
    framework applied to classification networks (the constant π/8).
"""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np

ATTENUATION = pi / 8  # of a squared logit, for each unit of variance


def deviation(variance: Any) -> Any:
    """Return the standard deviation of the true logit: √(V·(1 + πV/8)).

    Args:
        variance: V, the posterior variance of the margin of a logistic regression; at least 0.

    Shape:
        any, of numpy or torch, → the same

    Examples:
        >>> deviation(np.array([0.0, 0.01, 1.0])).round(3).tolist()
        [0.0, 0.1, 1.18]
    """
    return (variance * (1 + ATTENUATION * variance)) ** 0.5


def variance(deviation: Any) -> Any:
    """Return V, of which `deviation` is that of the true logit.

    Shape:
        any, of numpy or torch, → the same

    Examples:
        >>> variance(deviation(np.array([0.25, 4.0]))).round(6).tolist()
        [0.25, 4.0]
    """
    return ((1 + 4 * ATTENUATION * deviation**2) ** 0.5 - 1) / (2 * ATTENUATION)


def centre(logit: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return the mean of the true logit: z − (½ − σ(z))·sd², whose mean probability is about σ(z).

    Args:
        logit: z, as it is served, before a calibration map.
        deviation: of the true logit.

    Shape:
        logit, deviation: any → the same

    Examples:
        >>> centre(np.array([-2.0, -2.0]), np.array([0.0, 1.0])).round(3).tolist()
        [-2.0, -2.381]
    """
    return logit + np.tanh(logit / 2) / 2 * deviation**2
