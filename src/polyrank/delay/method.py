"""What a correction of late conversions is: when a label is known, and what learns before that.

Letters: W the window, d a conversion's delay, e the time from the impression to the log's cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar, Self

from polyrank import spec
from polyrank.errors import SchemaError
from polyrank.loss_method import LossMethod

# A label that time has not decided: no row of a population whose path has its task.
IMMATURE = inf
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


@dataclass(frozen=True, kw_only=True)
class Delay:
    """When an event is known that comes late; its fields are the options of `delay`.

    An event counts if it comes within the window W after its impression (`[keys] time`). A row is
    mature where e ≥ W, whatever its label. Rows that are not leave every population whose path has
    the task, in training, in calibration and in scores; only the terms of an `EarlyDelay` have
    them.

    Args:
        time: column of the event's time, null where it did not happen: dates, ISO 8601 text or
            seconds, as those of `[keys] time`. Rows to predict lack it.
        window: W, in seconds or as "90s", "30m", "12h", "7d" or "2w".
        now: the log's cut, in the form of the times. None takes the latest time of the training
            rows. Of other rows, the cut is the later one of it and of their own latest time.

    Attributes:
        name: as files write it.

    Raises:
        SchemaError: an option that cannot be.
    """

    name: ClassVar[str]

    time: str
    window: str | float
    now: str | float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.time, str) or not self.time:
            raise SchemaError(f"{self._of('time')} must name a column, got {self.time!r}")
        seconds_of(self.window, self._of("window"))
        if self.now is not None and not isinstance(self.now, str):
            now = spec.number(self._of("now"), self.now, error=SchemaError)
            object.__setattr__(self, "now", now)

    @property
    def window_seconds(self) -> float:
        """W in seconds."""
        return seconds_of(self.window, self._of("window"))

    @property
    def learns_from(self) -> str:
        """The rows that teach its task, in words."""
        return "mature rows"

    def closed(self, now: str | float, log_seconds: float) -> Self:
        """Return the method with what it takes from the training rows.

        Args:
            now: their latest time.
            log_seconds: from their earliest time to the cut.
        """
        del log_seconds
        return self if self.now is not None else replace(self, now=now)

    def _of(self, option: str) -> str:
        return f"delay {self.name!r}: {option}"


@dataclass(frozen=True, kw_only=True)
class EarlyDelay(Delay, LossMethod):
    """A method whose terms learn from rows that are not mature, in place of the likelihood."""

    axis = "delay"

    @property
    def learns_from(self) -> str:
        """The rows that teach its task, in words."""
        return "every row"

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        """Return a term in each space of the task."""
        return tuple(schema.term(task, space, self) for space in task.spaces)


def seconds_of(span: Any, where: str) -> float:
    """Return a span of time in seconds; SchemaError for what is none.

    Examples:
        >>> seconds_of("12h", "window"), seconds_of(90, "window")
        (43200.0, 90.0)
    """
    if isinstance(span, str):
        found = _SPAN.fullmatch(span.strip())
        if found and float(found[1]) > 0:
            return float(found[1]) * _SECONDS[found[2]]
        raise SchemaError(
            f"{where} must be a number of seconds above 0 or a text such as '90s', '30m', '12h', "
            f"'7d' or '2w', got {span!r}"
        )
    return spec.number(where, span, above=0, error=SchemaError)
