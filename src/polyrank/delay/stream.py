"""A log as the stream that a learner would have seen: a row enters it more than once.

Letters, in windows: e from an impression to the cut, d to its event, L the length of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from polyrank.delay.method import EarlyDelay, seconds_of
from polyrank.errors import DataError, SchemaError
from polyrank.loss_method import Summand


@dataclass(frozen=True, kw_only=True)
class StreamDelay(EarlyDelay):
    """A method for a stream: a row enters it when it is seen, and again when more is known.

    Of what a row teaches, only what entered in the last `stream` before the cut counts. Events of
    rows that are older than the stream are then in it, as many as its newest rows still miss, if
    the log is about stationary over the stream and the window before it. It learns in the task's
    own population: rows where its `given` happened, or all of a root.

    Args:
        time: column of the event's time.
        window: how long after the impression the event counts.
        now: the log's cut.
        stream: its length, as `window` is written. None takes the longest of which every
            event has its row in the log: from one window after the first training row.

    Raises:
        SchemaError: an option that cannot be.
    """

    stream: str | float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream is not None:
            seconds_of(self.stream, self._of("stream"))

    @property
    def length(self) -> float:
        """L, once the training rows have said what it is."""
        assert self.stream is not None, "the training rows say how long the stream is: `closed`"
        return seconds_of(self.stream, self._of("stream")) / self.window_seconds

    @property
    def learns_from(self) -> str:
        """The stream, in days."""
        return f"what came in the last {self.length * self.window_seconds / 86_400:.4g} days"

    def closed(self, now: str | float, log_seconds: float) -> Self:
        """Return the method with the cut and the stream of the training rows.

        Raises:
            DataError: a log too short for the stream.
        """
        longest = log_seconds - self.window_seconds
        asked = longest if self.stream is None else seconds_of(self.stream, self._of("stream"))
        if not 0 < asked <= longest:
            what = "a stream" if self.stream is None else f"its stream of {self.stream!r}"
            raise DataError(
                f"delay {self.name!r} needs a log of {what} and the window of {self.window!r} "
                f"before it, got {log_seconds / 86_400:.4g} days: take more rows, a shorter "
                "window, or 'mask' or 'dfm', which need no stream"
            )
        return replace(super().closed(now, log_seconds), stream=asked)

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        """Return a term of its own population, of each of its parts."""
        own = task.given or "all"
        if task.spaces != (own,):
            raise SchemaError(
                f"task {task.name!r}: delay {self.name!r} learns in the task's own population, so "
                f"space must be {own!r}, got {task.space!r}; or use 'mask' or 'dfm'"
            )
        return tuple(schema.term(task, own, self, part) for part in (None, *self.parts))

    @property
    def parts(self) -> tuple[str, ...]:
        """Its further terms, each with an auxiliary head of that name."""
        return ()

    def heads(self, task: Any) -> tuple[str, ...]:
        return self.parts

    def seen(self, term: Any, labels: Any, age: Any) -> Any:
        """Return the rows of the term's population of which something entered at some age.

        Args:
            term: its term.
            labels: of the batch.
            age: of the row when it entered, in windows: (B,), or a number.

        Shape:
            bool (B,)
        """
        where = term.population
        e = labels.elapsed[where.task]
        return labels.within(where, (e >= age) & (e - age <= self.length), early=where.task)


@dataclass(frozen=True, kw_only=True)
class WaitingDelay(StreamDelay):
    """A method that waits before a row enters, and learns what share of the events comes later.

    The auxiliary head `delayed` predicts q = P(an event after the wait and within the window); it
    learns from mature rows.

    Args:
        time: column of the event's time.
        window: how long after the impression the event counts.
        now: the log's cut.
        stream: its length.
        wait: until a row enters, as `window` is written and shorter. None is a tenth of it.

    Raises:
        SchemaError: an option that cannot be.
    """

    wait: str | float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        where = self._of("wait")
        if self.wait is not None and seconds_of(self.wait, where) >= self.window_seconds:
            raise SchemaError(
                f"{where} must be shorter than the window of {self.window!r}, got {self.wait!r}"
            )

    @property
    def waited(self) -> float:
        """The wait in windows."""
        if self.wait is None:
            return 0.1
        return seconds_of(self.wait, self._of("wait")) / self.window_seconds

    @property
    def parts(self) -> tuple[str, ...]:
        return (DELAYED,)

    def start(self, head: str, rate: float) -> float:
        return rate / 2

    def came(self, term: Any, labels: Any) -> tuple[Any, Any]:
        """Return whether an event was known by the end of the wait, and whether after it: (B,)."""
        e, d = labels.elapsed[term.population.task], labels.delay[term.population.task]
        known = (d <= e) & (d <= 1)
        return known & (d <= self.waited), known & (d > self.waited)

    def delayed(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        """Return the log loss of the head `delayed` on mature rows."""
        head = f"{term.population.task}#{DELAYED}"
        yes, no = labels.outcome(term.population)
        late = yes & self.came(term, labels)[1]
        return (
            Summand(late, 1.0, scores.head_entropy(head, 1.0)),
            Summand((yes | no) & ~late, 1.0, scores.head_entropy(head, 0.0)),
        )


DELAYED = "delayed"
