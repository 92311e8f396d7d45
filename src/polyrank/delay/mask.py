"""Rows that are too young to say anything are left out."""

from __future__ import annotations

from dataclasses import dataclass

from polyrank.delay.method import Delay


@dataclass(frozen=True, kw_only=True)
class DelayMask(Delay):
    """The likelihood of the mature rows, whatever their labels: the default of `delay`.

    To leave out young negatives alone would keep the early positives, and with them a p that is
    too high.

    Args:
        time: column of the event's time.
        window: how long after the impression the event counts.
        now: the log's cut.

    Raises:
        SchemaError: an option that cannot be.

    Examples:
        >>> from polyrank.schema import Keys, Schema, SparseFeature, Task
        >>> tasks = [Task("buy", delay=DelayMask(time="buy_time", window="7d"))]
        >>> schema = Schema([SparseFeature("item")], tasks, Keys(time="time"))
        >>> [term.name for term in schema.objective]
        ['buy @ all']
    """

    name = "mask"
