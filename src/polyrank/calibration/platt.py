"""Platt scaling by maximum likelihood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank import spec
from polyrank.calibration.map import CalibrationMap
from polyrank.labels import LabelKind

STEPS = 100
# Twice the distance from the best mean log loss at which the step that was just taken is the last:
# Newton's convergence is quadratic, so what is left is its square.
DECREMENT = 1e-14
# The least slope, in logits a standard deviation of the logit: odds that differ by a hundredth are
# one rate for all rows, and still keep their order.
FLATTEST = 0.01


@dataclass(frozen=True)
class Platt(CalibrationMap):
    """A line on the logit, slope · z + intercept; a slope below 1 takes back overconfidence.

    Reference:
        Platt, Probabilistic outputs for support vector machines, 1999, eq. 2.
    """

    slope: float
    intercept: float

    name = "platt"

    def __post_init__(self) -> None:
        spec.number("slope", self.slope, above=0)  # which keeps the order
        spec.number("intercept", self.intercept)

    @classmethod
    def fit(
        cls,
        prediction: np.ndarray,
        label: np.ndarray,
        weight: np.ndarray | None = None,
        kind: LabelKind | None = None,
    ) -> Platt | None:
        """Return the line on the logit of the highest likelihood, by Newton's method.

        Labels are taken without Platt's smoothing, so that the mean prediction is the mean label.

        None where there is no maximum: one label only, or a logit that separates them. Equal logits
        can only be moved: slope 1. Where the best line falls or is level, the best of those that
        rise by at least .01 per standard deviation: all but the base rate.

        Reference:
            Platt, Probabilistic outputs for support vector machines, 1999, eq. 2 and 3; Lin, Lin
            and Weng, A note on Platt's probabilistic outputs, Machine Learning 2007, algorithm 1.
        """
        logit = prediction
        w = np.full(len(logit), 1 / max(len(logit), 1)) if weight is None else weight / weight.sum()
        positive = label == 1
        if positive.all() or not positive.any():
            return None
        low, high = logit[~positive].max(), logit[positive].min()
        center = float(w @ logit)
        spread = float(np.sqrt(w @ (logit - center) ** 2))
        if logit.max() == logit.min():
            rate = float(w @ label)
            return cls(1.0, float(np.log(rate / (1 - rate)) - logit[0]))
        if high >= low:
            return None
        found = _newton((logit - center) / spread, label, w)
        if found is None:
            return None
        if not found[0] >= FLATTEST:  # the loss is convex: the best that is allowed is the end
            found = _moved(FLATTEST * (logit - center) / spread, label, w)
        slope = float(found[0]) / spread
        return cls(slope, float(found[1]) - slope * center)

    def words(self, number: Callable[[float], str] = str) -> str:
        """Return its line."""
        return f"Platt, slope {number(self.slope)}, intercept {number(self.intercept)}"

    def apply(self, values: Any) -> Any:
        return self.slope * values + self.intercept

    def inverse(self, values: np.ndarray) -> np.ndarray:
        return (values - self.intercept) / self.slope


def log_loss(logit: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return each row's cross-entropy, in a form that no logit overflows.

    Examples:
        >>> log_loss(np.array([0.0, 1000.0]), np.array([1.0, 0.0])).round(4).tolist()
        [0.6931, 1000.0]
    """
    return np.maximum(logit, 0) + np.log1p(np.exp(-np.abs(logit))) - label * logit


def _newton(u: np.ndarray, label: np.ndarray, weight: np.ndarray) -> np.ndarray | None:
    """Return the best (slope, intercept) of a standardised logit, or None if it is not found."""

    def loss(where: np.ndarray) -> float:
        return float(weight @ log_loss(where[0] * u + where[1], label))

    rate = float(weight @ label)
    # The base rate: from the logit as it is, where it is extreme, the loss would look flat.
    at = np.array([0.0, np.log(rate / (1 - rate))])
    for _ in range(STEPS):
        z = at[0] * u + at[1]
        small = np.exp(-np.abs(z))
        p = np.where(z >= 0, 1.0, small) / (1 + small)
        residual, curvature = weight * (p - label), weight * small / (1 + small) ** 2
        gradient = np.array([residual @ u, residual.sum()])
        bent = curvature * u
        hessian = np.array([[bent @ u, bent.sum()], [bent.sum(), curvature.sum()]])
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            return None
        decrement = float(gradient @ step)
        if decrement <= DECREMENT:
            return at - step
        # A whole step, or half of it until the loss falls enough (Armijo).
        now, share = loss(at), 1.0
        while share > 1e-6 and not loss(at - share * step) <= now - share * decrement / 4 + 1e-15:
            share /= 2
        at = at - share * step
    return None


def _moved(z: np.ndarray, label: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return (FLATTEST, the best intercept) of logits of that slope, which differ by little."""
    rate = float(weight @ label)
    shift = float(np.log(rate / (1 - rate)))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(z + shift)))
        step = float(weight @ (p - label)) / float(weight @ (p * (1 - p)))
        shift -= step
        if abs(step) <= DECREMENT**0.5:
            break
    return np.array([FLATTEST, shift])
