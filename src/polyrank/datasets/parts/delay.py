"""A purchase comes some time after its click, and a log that is read before has a 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyrank.datasets.parts.part import Log, Part, appeal
from polyrank.spec import number


@dataclass(frozen=True, kw_only=True)
class Delay(Part):
    """Delayed conversion: given click and buy, the delay D ~ Exp(λ), log λ = −log m + spread·e.

    e is as in `parts.part.appeal`. Training and validation are read at the end of validation, at
    the time T: `buy` is 1 there only if the click's time + D ≤ T. The test split is read when all
    is known. Delays are rounded up to whole seconds. (Chapelle, KDD 2014.)

    | column | is |
    |---|---|
    | `buy` | what is known when the split is read |
    | `buy_eventually` | what happens in the end; its truths are those of `buy` in other logs |
    | `buy_delay_s` | D; null where no purchase is known |
    | `buy_time` | the click's time + D, for the `delay` of a task; null likewise |
    | `elapsed_s` | T − the impression's time; null in the test split |
    | `true_p_buy_seen` | P(buy known by T) = P(buy)·(1 − e^(−λ·elapsed)); in test P(buy) |
    | `true_buy_delay_s` | the mean delay, 1/λ |

    Args:
        share: m ÷ the time from the first to the last impression.
        spread: standard deviation of log λ.
    """

    name = "delay"
    stage = "event"
    share: float = 0.1
    spread: float = 0.5

    def __post_init__(self) -> None:
        number("delay: share", self.share, above=0)
        number("delay: spread", self.spread, least=0)

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Draw delays, and read the splits."""
        middle = self.share * max(1.0, float(log.time[-1] - log.time[0]))
        mean = middle * np.exp(-self.spread * appeal(log, to_world, 0.3))
        delay = np.ceil(mean * to_log.exponential(size=log.rows))
        rows, open_ = np.arange(log.rows), log.ends[1]
        elapsed = np.where(rows < open_, log.time[open_ - 1] - log.time, np.inf)
        buy = log.labels.values["buy"]
        known = np.where(delay <= elapsed, buy, 0.0)
        seen = log.probabilities.p_buy * -np.expm1(-np.floor(elapsed) / mean)
        log = log.adding(
            elapsed_s=np.where(np.isfinite(elapsed), elapsed, np.nan),
            true_p_buy_seen=seen,
            true_buy_delay_s=mean,
        )
        labels = log.labels.adding({"buy": known, "buy_eventually": buy})
        known_delay = np.where(known == 1, delay, np.nan)
        times = {"buy_delay_s": known_delay, "buy_time": log.time + known_delay}
        return replace(log, labels=labels.adding(times, number=True))
