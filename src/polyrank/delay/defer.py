"""Every row enters twice: after a wait, and with its final label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.delay.stream import DELAYED, WaitingDelay
from polyrank.loss_method import Summand


@dataclass(frozen=True, kw_only=True)
class DEFER(WaitingDelay):
    """A row enters after a wait with the label of then, and again when its label is final.

    It is final when an event comes after the wait, else when the window ends. So each row is two of
    the stream and its features keep their distribution. With q = P(an event after the wait), an
    auxiliary head, a positive is p − q/2 of the stream: positives are weighted p ÷ (p − q/2) and
    negatives (1 − p) ÷ (1 − p + q/2), with p and q constants and q at most p.

    Args:
        time: column of the event's time.
        window: how long after the impression the event counts.
        now: the log's cut.
        stream: its length.
        wait: until a row enters.

    Raises:
        SchemaError: an option that cannot be.

    Examples:
        >>> from polyrank.schema import Keys, Schema, SparseFeature, Task
        >>> late = DEFER(time="buy_time", window="7d", wait="6h")
        >>> tasks = [Task("click"), Task("buy", given="click", delay=late)]
        >>> schema = Schema([SparseFeature("item")], tasks, Keys(time="time"))
        >>> [term.name for term in schema.objective][1:]
        ['buy|click @ click [defer]', 'buy|click @ click [defer delayed]']

    Reference:
        Gu et al., Real negatives matter: continuous training with real negatives for delayed
        feedback modeling, KDD 2021, section 4.
    """

    name = "defer"

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        task = term.population.task
        if term.part == DELAYED:
            return self.delayed(term, scores, labels)
        early, late = self.came(term, labels)
        log_p, log_rest = scores.log_probability(term.yes), scores.log_probability(term.no)
        # q/2 is at most p/2, so that no weight of a positive is above 2.
        p, rest = log_p.detach().exp(), log_rest.detach().exp()
        half = scores.logits[f"{task}#{DELAYED}"].sigmoid().detach().minimum(p) / 2
        positive, negative = p / (p - half).clamp(min=_TINY), rest / (rest + half).clamp(min=_TINY)
        entered = self.seen(term, labels, self.waited)
        ended = self.seen(term, labels, 1.0)
        again = self.seen(term, labels, labels.delay[task]) & late
        return (
            Summand(entered & early, positive, -log_p, positive=True),
            Summand(entered & ~early, negative, -log_rest),
            Summand(ended & early, positive, -log_p, positive=True, counts=False),
            Summand(ended & ~early & ~late, negative, -log_rest, counts=False),
            Summand(again, positive, -log_p, positive=True, counts=False),
        )


_TINY = 1e-30  # where p underflows: 0 ÷ 0 would be no number
