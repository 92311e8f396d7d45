"""What one request may ask of the server, and how long everything may take."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite
from numbers import Real

from polyrank.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds within which the server answers.

    Args:
        body_mb: largest body in MiB. Python stands still while a body is parsed: 16 MiB are a
            tenth of a second.
        rows: most rows of a request. So many with 31 columns fit into `body_mb`; more of them are
            the work of `polyrank predict`.
        timeout_s: for a body to arrive, and again for its answer. A caller who ranks has given up
            long before.
        queue: scoring requests that wait or run; one more is answered 429. At a millisecond each,
            the last of them waits as long as a person does not notice.
        at_once_kb: a body up to so many KiB is answered by the event loop itself, which takes a
            quarter less time than a thread; 0 for none. 64 KiB of rows are a millisecond or two,
            and 20 at the worst (10,000 candidates that differ in one column), for which a health
            check can wait.
        workers: threads that answer larger bodies. With two, a request of thousands of rows does
            not hold up another; parsing holds Python's lock, so more of them add nothing.
        drain_s: after a signal, how long the door stays open with the sign that it closes.

    Raises:
        ConfigError: a value that is no number above 0, or no whole number where it counts.

    Example:
        >>> Limits(rows=100).body_bytes
        16777216
    """

    body_mb: float = 16.0
    rows: int = 10_000
    timeout_s: float = 5.0
    queue: int = 64
    at_once_kb: float = 64.0
    workers: int = 2
    drain_s: float = 1.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            number = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
            if each.type == "int" and not isinstance(value, int):
                number = False
            may_be_0 = each.name in ("at_once_kb", "drain_s")
            if not number or value < 0 or (value == 0 and not may_be_0):
                kind = "a whole number of at least 1" if each.type == "int" else "a number above 0"
                kind = "a number of at least 0" if may_be_0 else kind
                raise ConfigError(f"limit {each.name}: {kind} is expected, however: {value!r}")

    @property
    def body_bytes(self) -> int:
        """Largest body in bytes."""
        return int(self.body_mb * 2**20)
