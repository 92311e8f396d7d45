"""The bounds of a request, and what enforces them: its body's size, its time, its place in line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields
from math import ceil, isfinite
from numbers import Real
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from polyrank.errors import ConfigError, PolyrankError

Found = TypeVar("Found")


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


async def body_of(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Return the whole body of a request.

    Args:
        scope: of the request.
        receive: its messages.
        limits: size and time.

    Raises:
        Refused: 413 or 408.
        ClientDisconnect: nobody is there any more.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limits.body_bytes:
            raise _too_large(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part = message.get("body", b"")
                size += len(part)
                if size > limits.body_bytes:
                    raise _too_large(limits)
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise Refused(
            408, f"the body did not arrive within {limits.timeout_s:g} s", {"Connection": "close"}
        ) from None


def _too_large(limits: Limits) -> Refused:
    return Refused(
        413,
        f"the body is larger than {limits.body_mb:g} MiB: send fewer rows a request, or score a "
        "file with `polyrank predict`",
        {"Connection": "close"},
    )


class Lingering(Response):
    """An answer that is given before the whole request is there.

    A connection that is closed on a client who still sends is reset, and the answer is lost with
    it. So the answer goes out, and what still comes is thrown away until it ends, or for some time.

    Args:
        content: of the answer.
        status_code: of HTTP.
        headers: of the answer.
        seconds: how long the rest is waited for.
    """

    def __init__(
        self, content: bytes, *, status_code: int, headers: dict[str, str], seconds: float
    ) -> None:
        super().__init__(content, status_code, headers, "application/json")
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, read the rest, and end."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        break
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Queue(Generic[Found]):
    """A line of limited length: small bodies are answered at once, others by worker threads.

    The event loop stays free while a thread works, for health checks and for turning away what is
    too much. Only the event loop's thread may call it.

    Args:
        work: from a body to its answer.
        limits: of the line, the wait and the threads.
    """

    def __init__(self, work: Callable[[bytes], Found], limits: Limits) -> None:
        self.length = 0  # requests that wait or run
        self._work, self._limits = work, limits
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="score")

    def check(self) -> None:
        """Turn one more request away where the line is full.

        Raises:
            Refused: 429.
        """
        if self.length >= self._limits.queue:
            raise Refused(
                429,
                f"{self.length} requests wait already, which is the most: try again",
                {"Retry-After": "1"},
            )

    async def run(self, body: bytes) -> Found:
        """Return the answer to a body.

        Raises:
            Refused: 429 where the line is full, 503 where the answer takes too long, and what the
                work refuses.
        """
        self.check()
        if len(body) <= self._limits.at_once_kb * 1024:
            return await self._at_once(body)
        job = self._pool.submit(self._work, body)
        self.length += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            seconds = self._limits.timeout_s
            raise Refused(
                503,
                f"there was no answer within {seconds:g} s: try again later, with fewer rows",
                {"Retry-After": str(ceil(seconds))},
            ) from None
        finally:
            # A job that has begun cannot be stopped, and keeps its place until it ends.
            if job.done():
                self._leave(job)
            else:
                job.add_done_callback(lambda done: _tell(loop, self._leave, done))

    async def _at_once(self, body: bytes) -> Found:
        self.length += 1
        try:
            await asyncio.sleep(0)  # whoever has arrived takes a place in the line, or is told
            return self._work(body)
        finally:
            self.length -= 1

    def _leave(self, job: Future[Any]) -> None:
        self.length -= 1


def _tell(
    loop: asyncio.AbstractEventLoop, what: Callable[[Future[Any]], None], job: Future[Any]
) -> None:
    with suppress(RuntimeError):  # the loop is closed: the process ends
        loop.call_soon_threadsafe(what, job)
