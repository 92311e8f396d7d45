"""Joint optimisation of ranking and calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank import spec
from polyrank.errors import SchemaError
from polyrank.ranking.method import Ranking


@dataclass(frozen=True, kw_only=True)
class JRC(Ranking):
    """JRC: two logits f_0 and f_1 a row, whose difference is the task's logit z.

    The likelihood, with the weight 1 − share, is −log p(y) for p(1) = σ(f_1 − f_0) = σ(z). Over a
    request, each row is told from the others by the logit of its own label y, with the weight
    share: −log(e^(f_y(x)) / Σ over rows x' of the request of e^(f_y(x'))). Here f_0 is an
    auxiliary head, `click#level`, and f_1 = f_0 + z: the head that a model predicts by is z alone,
    so it stays calibrated, and the level is free to rank. Requests of one label give nothing.

    Raises:
        SchemaError: a share of 1, which would leave the calibration out.

    Reference:
        Sheng et al., KDD 2023, "Joint Optimization of Ranking and Calibration with Contextualized
        Hybrid Model", eq. 7, 8 and 10; share is 1 − α.
    """

    name = "jrc"
    loss = "polyrank.objective.requests:jrc"

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.number("ranking 'jrc': share", self.share, above=0, below=1, error=SchemaError)

    def heads(self, task: Any) -> tuple[str, ...]:
        """f_0."""
        return ("level",)
