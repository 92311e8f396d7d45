"""Elapsed-time sampling: rows wait, and events that come later enter again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.delay.stream import DELAYED, WaitingDelay
from polyrank.loss_method import Summand

REAL = "real_negative"


@dataclass(frozen=True, kw_only=True)
class ESDFM(WaitingDelay):
    """A row enters after a wait with the label of then; an event that comes later enters again.

    With q = P(an event after the wait) and s = P(no event | none by the end of the wait), a
    positive is weighted 1 + q and a negative (1 + q)·s. Both are auxiliary heads, which learn from
    mature rows beside the model (the paper trains them before it), and are constants here.

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
        >>> late = ESDFM(time="buy_time", window="7d", wait="1h")
        >>> tasks = [Task("click"), Task("buy", given="click", delay=late)]
        >>> schema = Schema([SparseFeature("item")], tasks, Keys(time="time"))
        >>> [head.name for head in schema.heads]
        ['click', 'buy', 'buy#delayed', 'buy#real_negative']

    Reference:
        Yang et al., Capturing delayed feedback in conversion rate prediction via elapsed-time
        sampling, AAAI 2021, equations 10-13.
    """

    name = "es_dfm"

    @property
    def parts(self) -> tuple[str, ...]:
        return (DELAYED, REAL)

    def start(self, head: str, rate: float) -> float:
        return 1 - rate / 2 if head == REAL else super().start(head, rate)

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        task = term.population.task
        if term.part == DELAYED:
            return self.delayed(term, scores, labels)
        early, late = self.came(term, labels)
        if term.part == REAL:
            yes, no = labels.outcome(term.population)
            return (
                Summand(no, 1.0, scores.head_entropy(f"{task}#{REAL}", 1.0)),
                Summand(yes & late, 1.0, scores.head_entropy(f"{task}#{REAL}", 0.0)),
            )
        q = scores.logits[f"{task}#{DELAYED}"].sigmoid().detach()
        s = scores.logits[f"{task}#{REAL}"].sigmoid().detach()
        sure, rest = -scores.log_probability(term.yes), -scores.log_probability(term.no)
        entered = self.seen(term, labels, self.waited)
        again = self.seen(term, labels, labels.delay[task]) & late
        return (
            Summand(entered & early, 1 + q, sure, positive=True),
            Summand(entered & ~early, (1 + q) * s, rest),
            Summand(again, 1 + q, sure, positive=True, counts=False),
        )
