"""Fake negatives, weighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.delay.stream import StreamDelay
from polyrank.loss_method import Summand


@dataclass(frozen=True, kw_only=True)
class FNW(StreamDelay):
    """Every row enters at once as a negative, and once more as a positive when its event comes.

    So a positive is p ÷ (1 + p) of the stream, and the loss of a positive is weighted 1 + p, that
    of a negative (1 + p)·(1 − p), with p the prediction as a constant: in expectation that is the
    log loss of the labels. In a stream that is stationary, p becomes the events of the stream ÷ its
    rows; on a log that ends without its last events and has no others in their place, it
    would be those of naive labels.

    Args:
        time: column of the event's time.
        window: how long after the impression the event counts.
        now: the log's cut.
        stream: its length.

    Raises:
        SchemaError: an option that cannot be.

    Examples:
        >>> from polyrank.schema import Keys, Schema, SparseFeature, Task
        >>> tasks = [Task("click"),
        ...          Task("buy", given="click", delay=FNW(time="buy_time", window="7d"))]
        >>> schema = Schema([SparseFeature("item")], tasks, Keys(time="time"))
        >>> [term.name for term in schema.objective]
        ['click @ all', 'buy|click @ click [fnw]']

    Reference:
        Ktena et al., Addressing delayed feedback for continuous training with neural networks in
        CTR prediction, RecSys 2019, section 4.4.
    """

    name = "fnw"

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        e, d = labels.elapsed[term.population.task], labels.delay[term.population.task]
        log_p, log_rest = scores.log_probability(term.yes), scores.log_probability(term.no)
        p = log_p.detach().exp()
        came = self.seen(term, labels, d) & (d <= e) & (d <= 1)
        return (
            Summand(came, 1 + p, -log_p, positive=True, counts=False),
            Summand(self.seen(term, labels, 0.0), (1 + p) * (1 - p), -log_rest),
        )
