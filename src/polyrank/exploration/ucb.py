"""The upper end of an interval: optimism about what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from polyrank import spec
from polyrank.exploration.method import MOST, Exploration, Sure


@dataclass(frozen=True, kw_only=True)
class UCB(Exploration):
    """Rank by z + alpha·sd, with the logit z that is served.

    It is deterministic: one request always has one order, so each row's propensity is 0 or 1, of
    which inverse propensity weights make nothing.

    Args:
        alpha: how many deviations; 0 is the order that is served.

    Raises:
        ConfigError: an alpha below 0 or above 100.

    Examples:
        >>> sure = Sure(np.array([-1.0, -1.5]), np.array([0.1, 1.0]))
        >>> UCB(alpha=2.0).moved({"click": sure})["click"].tolist()
        [-0.8, 0.5]

    Reference:
        Auer, Using confidence bounds for exploitation-exploration trade-offs, JMLR 2002.
    """

    alpha: float = 1.0

    json: ClassVar[Mapping[str, Any]] = {"alpha": {"type": "number", "minimum": 0, "maximum": MOST}}

    def __post_init__(self) -> None:
        spec.number("alpha", self.alpha, least=0, most=MOST)

    def moved(self, heads: Mapping[str, Sure]) -> dict[str, np.ndarray]:
        return {name: each.logit + self.alpha * each.deviation for name, each in heads.items()}
