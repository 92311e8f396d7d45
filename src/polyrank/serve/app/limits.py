"""The bounds of a request, and what enforces them: its size, its time, its place in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyrank import spec
from polyrank.errors import ConfigError, PolyrankError

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds within which the server answers."""

    body_mb: float = 16.0  # MiB; Python parses that in a tenth of a second, and runs nothing else
    rows: int = 10_000  # per request; that many with 31 columns fit into `body_mb`
    timeout_s: float = 5.0  # for a body to arrive, and again for its answer
    queue: int = 64  # requests that wait or run, at a millisecond each; one more gets 429
    # A body up to so many KiB is scored on the event loop itself, a quarter faster than by a
    # thread; 0 turns it off. 64 KiB take a millisecond or two, at worst 20 (10,000 candidates that
    # differ in one column): short enough for a health check to wait.
    inline_kb: float = 64.0
    # Threads for larger bodies. With two, a request of thousands of rows does not hold up another;
    # parsing holds Python's lock, so more add nothing.
    workers: int = 2
    # Bodies in memory, of requests that arrive, wait or run: as many of the largest as come at once
    # would take more than a small machine has. Parsed, a body takes several times its bytes.
    total_mb: float = 256.0
    head_kb: float = 64.0  # request line and headers
    connections: int = 512  # open ones; half of the files that most systems allow a process
    drain_s: float = 1.0  # seconds of accepting with `Connection: close` after a signal

    def __post_init__(self) -> None:
        for name in ("rows", "queue", "workers", "connections"):
            spec.whole(f"limit {name}", getattr(self, name))
        for name in ("body_mb", "total_mb", "head_kb", "timeout_s"):
            spec.number(f"limit {name}", getattr(self, name), above=0)
        if self.total_mb < self.body_mb:
            raise ConfigError(
                f"limit total_mb must be at least body_mb, {self.body_mb:g}, for one body to fit, "
                f"got {self.total_mb:g}"
            )
        for name in ("inline_kb", "drain_s"):
            spec.number(f"limit {name}", getattr(self, name), least=0)

    @property
    def body_bytes(self) -> int:
        """Largest body in bytes."""
        return int(self.body_mb * 2**20)

    @property
    def head_bytes(self) -> int:
        """Largest request line with its headers, in bytes."""
        return int(self.head_kb * 1024)


class Refused(PolyrankError):
    """A request that gets an error instead of scores, with its HTTP status and extra headers."""

    def __init__(
        self, message: str, status: int = 422, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class Bodies:
    """The bytes of all bodies in memory; only the event loop's thread may call it."""

    def __init__(self, limits: Limits) -> None:
        self.bytes = 0
        self.most = int(limits.total_mb * 2**20)

    def room(self) -> Room:
        """Return room for a body."""
        return Room(self)

    def check(self, more: int) -> None:
        """Refuse so many more bytes with 429 if all bodies would be too many."""
        if self.bytes + more > self.most:
            raise Refused(
                f"the server holds {self.bytes / 2**20:.1f} of at most {self.most / 2**20:g} MiB "
                "of requests: try again",
                429,
                {"Retry-After": "1", "Connection": "close"},
            )


class Room:
    """What one body takes up, until the last of its holders leaves."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies, self._bytes, self._holders = bodies, 0, 1

    def check(self, more: int) -> None:
        """Refuse so many more bytes if they have no room."""
        self._bodies.check(more)

    def add(self, more: int) -> None:
        """Take up so many more bytes, or refuse them."""
        self._bodies.check(more)
        self._bytes += more
        self._bodies.bytes += more

    def stay(self) -> None:
        """Note one more holder of the body."""
        self._holders += 1

    def leave(self) -> None:
        """Give up the body."""
        self._holders -= 1
        if not self._holders:
            self._bodies.bytes -= self._bytes
            self._bytes = 0


async def read_body(scope: Scope, receive: Receive, limits: Limits, room: Room) -> bytes:
    """Return the whole body of a request, or refuse it: 413, 429 or 408."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            if int(value) > limits.body_bytes:
                raise _too_large(limits)
            room.check(int(value))
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
                room.add(len(part))
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise Refused(
            f"the body did not arrive within {limits.timeout_s:g} s", 408, {"Connection": "close"}
        ) from None


def _too_large(limits: Limits) -> Refused:
    return Refused(
        f"the body is larger than {limits.body_mb:g} MiB: send fewer rows per request, or score a "
        "file with `polyrank predict`",
        413,
        {"Connection": "close"},
    )


class Lingering:
    """A response sent before the whole request has arrived.

    Closing a connection while the client is still sending resets it, and the response is lost. So
    the rest of the request is read and dropped after it, for so many seconds at most.
    """

    def __init__(self, response: ASGIApp, seconds: float) -> None:
        self.response, self.seconds = response, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, read the rest of the request, and end."""

        async def send_without_end(message: Message) -> None:
            more = {"more_body": True} if message["type"] == "http.response.body" else {}
            await send({**message, **more})

        await self.response(scope, receive, send_without_end)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Queue:
    """A queue of limited length: small bodies are scored at once, others by worker threads.

    While a thread works, the event loop stays free for health checks and for refusing what is too
    much. Only the event loop's thread may call it.
    """

    def __init__(self, limits: Limits) -> None:
        self.length = 0  # requests that wait or run
        self._limits = limits
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="score")

    def check(self) -> None:
        """Refuse one more request with 429 if the queue is full."""
        if self.length >= self._limits.queue:
            raise Refused(
                f"the queue of {self.length} requests is full: try again", 429, {"Retry-After": "1"}
            )

    async def run(self, work: Callable[[bytes], Result], body: bytes, room: Room) -> Result:
        """Return what work makes of a body; 429 if the queue is full, 503 if it takes too long.

        `room` is the body's, which a job that cannot be stopped keeps to its end.
        """
        self.check()
        if len(body) <= self._limits.inline_kb * 1024:
            self.length += 1
            try:
                await asyncio.sleep(0)  # requests that have arrived take their places first
                return work(body)
            finally:
                self._leave()
        job = self._pool.submit(work, body)
        self.length += 1
        loop = asyncio.get_running_loop()

        def left() -> None:
            self._leave()
            room.leave()

        def done_elsewhere(_: Future[Result]) -> None:
            with suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(left)

        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            seconds = self._limits.timeout_s
            raise Refused(
                f"no answer within {seconds:g} s: try again later, with fewer rows",
                503,
                {"Retry-After": str(ceil(seconds))},
            ) from None
        finally:
            # A running job cannot be stopped: it keeps its place until it ends.
            if job.done():
                self._leave()
            else:
                room.stay()
                job.add_done_callback(done_elsewhere)

    def _leave(self) -> None:
        self.length -= 1
