"""The answer of a metric that its rows cannot support: a reason, never NaN and never 0.5."""

from __future__ import annotations

from polyrank.errors import PolyrankError


class Undefined(PolyrankError, ValueError):
    """A metric has no value on these rows; the message is the reason."""
