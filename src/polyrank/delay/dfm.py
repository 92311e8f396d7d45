"""The delayed feedback model: whether an event comes and when are learned together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.delay.method import EarlyDelay
from polyrank.loss_method import Summand

HAZARD = "hazard"
LEAST_RATE = 1e-6  # of events in a window: below it the delay is uniform to float32
_START = 0.9  # log(1 + 9) = 2.3 events a window: nine in ten come within it


@dataclass(frozen=True, kw_only=True)
class DFM(EarlyDelay):
    """Every row teaches, by the probability of what was seen of it until the log's cut.

    In windows, with p the probability of the event within its window and λ = log(1 + e^z) of the
    auxiliary head z, an event that came after d costs −log p − log f(d), a row that is still open
    after e costs −log(1 − p + p·S(e)), and one whose window has ended, −log(1 − p). The delay is
    exponential and, as the event is one within the window, cut off there:
    f(d) = λ·e^(−λd) ÷ (1 − e^(−λ)) and S(e) = (e^(−λe) − e^(−λ)) ÷ (1 − e^(−λ)). For a window
    without end these are the paper's λ·e^(−λd) and e^(−λe).

    It is right as far as delays are exponential, given the features.

    Args:
        time: column of the event's time.
        window: how long after the impression the event counts.
        now: the log's cut.

    Raises:
        SchemaError: an option that cannot be.

    Examples:
        >>> from polyrank.schema import Keys, Schema, SparseFeature, Task
        >>> tasks = [Task("buy", delay=DFM(time="buy_time", window="7d"))]
        >>> schema = Schema([SparseFeature("item")], tasks, Keys(time="time"))
        >>> [term.name for term in schema.objective], [head.name for head in schema.heads]
        (['buy @ all [dfm]'], ['buy', 'buy#hazard'])

    Reference:
        Chapelle, Modeling delayed feedback in display advertising, KDD 2014, equations 6-9.
    """

    name = "dfm"

    def heads(self, task: Any) -> tuple[str, ...]:
        return (HAZARD,)

    def start(self, head: str, rate: float) -> float:
        return _START

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        task = term.population.task
        yes, no, open_ = labels.at_the_cut(term.population)
        z = scores.logits[f"{task}#{HAZARD}"]
        rate = z.logaddexp(z.new_zeros(())) + LEAST_RATE
        # Elsewhere any number does: what is not selected must be finite, and so its gradient.
        d = labels.delay[task].to(z.dtype).where(yes, 0.5)
        e = labels.elapsed[task].to(z.dtype).where(open_, 0.5)
        log_p, log_rest = scores.log_probability(term.yes), scores.log_probability(term.no)
        log_density = rate.log() - rate * d - _log_share(rate)
        log_open = _log_share(rate * (1 - e)) - rate * e - _log_share(rate)
        return (
            Summand(yes, 1.0, -log_p - log_density, positive=True),
            Summand(no, 1.0, -log_rest),
            Summand(open_, 1.0, -log_rest.logaddexp(log_p + log_open)),
        )


def _log_share(rate: Any) -> Any:
    """Return log(1 − e^(−rate))."""
    return (-(-rate).expm1()).log()
