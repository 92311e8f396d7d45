"""A request that the server does not answer with a score, and why."""

from __future__ import annotations

from collections.abc import Mapping

from polyrank.errors import PolyrankError


class Refused(PolyrankError):
    """What a client is told instead of an answer.

    Args:
        status: of HTTP.
        message: what was given, what is known, and the fix.
        headers: more of the answer's headers.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
