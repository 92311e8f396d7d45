"""Levels in an order, such as stars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from polyrank.labels.kind import Curvature
from polyrank.labels.values import Valued, said

_USUAL = 11  # levels at most of a scale that people are asked to use


@dataclass(frozen=True, kw_only=True)
class Ordinal(Valued):
    """A level of a few, in an order: a chain of questions, each of which level is exceeded.

    Its outputs are the expected level, and P(label ≥ v) of each value but the lowest. Under `given`
    the joint outputs multiply the chance that there is a level at all: P(click and stars ≥ 4).

    Args:
        values: the levels; by default those of the training rows.

    Examples:
        >>> import polyrank as pr
        >>> from polyrank.terms import output_columns
        >>> stars = pr.Task("stars", kind=Ordinal(values=[1, 2, 3]))
        >>> output_columns(stars)
        ('stars', 'p_stars_at_least_2', 'p_stars_at_least_3')

    Reference:
        Shi, Cao, Raschka: Deep neural networks for rank-consistent ordinal regression based on
        conditional probabilities, 2021 (CORN).
    """

    name = "ordinal"
    likelihood = "polyrank.objective.ordinal:OrdinalLikelihood"
    is_ordered = has_zero = True
    default_metric = "mae"
    metrics = ("mae", "rmse", "bias", "tau_b")
    loss_title = "log loss of the level, nats"
    curvature = "logistic"
    charts = ("agreement", "levels")
    words = ("rating", "stars", "star", "评分", "星级")

    @classmethod
    def proposed(cls, label: np.ndarray, numbers: Mapping[str, np.ndarray]) -> Self | None:
        """A few values, such as 0 to 10 or half stars."""
        return cls() if 2 < len(np.unique(label)) <= _USUAL else None

    @property
    def outputs(self) -> int:
        """A logit for each value but the lowest."""
        return 1 if self.is_open else self.size - 1

    @property
    def curvatures(self) -> tuple[Curvature | None, ...]:
        """Each question is a binary one, of the rows that it is asked of."""
        return (self.curvature,) * self.outputs

    def question(self, output: int) -> str:
        """Return `≥ 3 if ≥ 2`; of the lowest question `≥ 2`, since every row is asked."""
        lower, level = self.known[output : output + 2]
        return f"≥ {level:g} if ≥ {lower:g}" if output else f"≥ {level:g}"

    @property
    def is_factor(self) -> bool:
        """Where no level is below 0."""
        return self.values is not None and min(self.values) >= 0

    def stems(self, task: str) -> tuple[str, ...]:
        """`stars`, the expected level; then `p_stars_at_least_2` and so on."""
        above = () if self.values is None else self.values[1:]
        return (task, *(f"p_{task}_at_least_{said(each)}" for each in above))
