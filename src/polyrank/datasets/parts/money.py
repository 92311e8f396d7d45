"""What a purchase costs: mostly nothing, with a heavy tail."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyrank.datasets.parts.part import Log, Part, appeal
from polyrank.spec import number
from polyrank.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Money(Part):
    """Money spent: 0 without a purchase, else e^(μ + σ·N), μ = log(median) + spread·e.

    e is as in `parts.part`. `true_spend_given_buy` is e^(μ + σ²/2), and `true_spend` that times
    `true_p_buy`. (Zero-inflated lognormal: Wang, Liu and Miao, arXiv 1912.07753, section 3.)

    Args:
        median: of about all purchases.
        spread: standard deviation of μ.
        sigma: σ, of one purchase.
    """

    name = "money"
    stage = "outcome"
    median: float = 20.0
    spread: float = 0.6
    sigma: float = 0.9

    def __post_init__(self) -> None:
        number("money: median", self.median, above=0)
        number("money: spread", self.spread, least=0)
        number("money: sigma", self.sigma, above=0, most=3)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """A number given buy."""
        return (Task("spend", kind="regression", given="buy"),)

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Draw what purchases cost."""
        mu = np.log(self.median) + self.spread * appeal(log, to_world, -0.2)
        price = np.exp(mu + self.sigma * to_log.standard_normal(log.rows))
        mean = np.exp(mu + self.sigma**2 / 2)
        buy = log.labels.values["buy"]
        spend = np.where(buy == 1, price, buy)  # 0, or not observed
        log = log.adding(true_spend_given_buy=mean, true_spend=mean * log.probabilities.p_buy)
        return replace(log, labels=log.labels.adding({"spend": spend}, number=True))
