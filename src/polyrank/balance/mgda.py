"""The multiple-gradient descent algorithm.

Letters: T terms, P of them present in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polyrank.balance.gradients import GradientBalance, Present, sized, weight_factors
from polyrank.balance.method import Balance, BalanceTerm, check_several
from polyrank.balance.quadratic import least
from polyrank.errors import ConfigError, did_you_mean

# What each gradient is divided by, from (norms, losses).
SCALES = {
    "none": lambda norms, losses: np.ones_like(norms),  # noqa: ARG005
    "norm": lambda norms, losses: norms,  # noqa: ARG005
    "loss": lambda norms, losses: losses,  # noqa: ARG005
    "loss_norm": lambda norms, losses: norms * losses,
}
LOWEST_LOSS = 1e-8  # by which a gradient is divided


@dataclass(frozen=True, kw_only=True)
class MGDA(Balance):
    """The shortest convex combination of gradients, along which every loss falls.

    min ‖Σ w_i g_i / s_i‖ over w ≥ 0, Σ w = 1; the step is Σ weight_i · w_i / s_i · g_i, with the
    sum of its weights as for the sum of losses.

    The scale s decides nearly everything. Without one, the smallest gradient gets nearly all of the
    weight. With "norm", and two terms, both unit gradients count alike.

    The scaled gradients are also what is stepped along, since the combination of the unscaled ones
    by such weights need not descend (public code takes that one: with "norm" and two terms it
    is the plain sum).

    Args:
        scale: what each gradient is divided by first: "none", the paper's; "norm", its norm;
            "loss", its term's loss; "loss_norm", both.

    Raises:
        ConfigError: an unknown scale; at `build`, a single term.

    Examples:
        >>> import torch
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("a @ all", "b @ all")]
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> losses = {"a @ all": x[0, 0], "b @ all": 2 * x[0, 1]}
        >>> MGDA().build(terms).backward(losses, [x])
        tensor(0.)
        >>> x.grad
        tensor([[1.6000, 0.8000]])

    Reference:
        Désidéri, Comptes Rendus Mathématique 2012; Sener and Koltun, NeurIPS 2018, eq. 3 and
        algorithm 2, at the shared representation.
    """

    scale: str = "none"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            known = ", ".join(map(repr, SCALES))
            hint = did_you_mean(str(self.scale), SCALES)
            raise ConfigError(f"MGDA: scale must be one of {known}, got {self.scale!r}{hint}")

    def build(self, terms: Sequence[BalanceTerm]) -> MGDAModule:
        check_several("MGDA", terms)
        return MGDAModule(weight_factors(terms), self.scale)


class MGDAModule(GradientBalance):
    """Has no state."""

    by_value = True

    def __init__(self, factors: Mapping[str, float], scale: str) -> None:
        super().__init__(factors)
        self.scale = scale

    def weights(self, present: Present) -> np.ndarray:
        norms = np.sqrt(np.diag(present.gram))
        scale = SCALES[self.scale](norms, np.maximum(present.losses, LOWEST_LOSS))
        found = mgda(present.gram / np.outer(scale, scale)) / scale
        return sized(present.factors * found, present.factors)


def mgda(gram: np.ndarray) -> np.ndarray:
    """Return the convex combination of gradients that is shortest: (P, P) → (P,).

    Examples:
        >>> mgda(np.array([[1.0, 0.0], [0.0, 4.0]]))
        array([0.8, 0.2])
    """
    if len(gram) == 2:
        (a, b), (_, c) = gram
        apart = a + c - 2 * b
        first = np.clip((c - b) / apart, 0.0, 1.0) if apart > 0 else 0.5
        return np.array([first, 1 - first])
    return least(gram, np.zeros(len(gram)), total=1.0)
