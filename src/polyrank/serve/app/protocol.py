"""A connection that is given up where its client sends too much of a head, or nothing for too long.

uvicorn bounds neither: its parser takes a head of any size, and a client that has begun a request,
or that reads no answer, may keep its connection for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from polyrank.serve.app.limits import Limits

_STATUS = {
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Guarded(HttpToolsProtocol):
    """A connection within limits.

    Args:
        limits: `head_kb` of a request line and its headers, `timeout_s` for them, for a rest of a
            body that nobody waits for and for a client that reads no answer, and `connections`.
        refused: called with the reason where a connection is given up.
        args: uvicorn's own.
    """

    def __init__(
        self, *args: Any, limits: Limits, refused: Callable[[str], None], **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self._limits, self._refused = limits, refused
        self._gone = False  # given up: what arrives is dropped
        self._within_head = True  # no head is complete since the request before
        self._begun = False  # and a byte of one is there
        self._head_bytes = self._messages = 0
        self._patience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self._limits.connections:
            self.transport = transport
            self._give_up("many", 503, "Retry-After: 1\r\n")
            return
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._read_again()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._gone:
            return
        before = self._messages
        super().data_received(data)
        if self._gone or not self._within_head:
            return
        if self._begun:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                self._give_up("head", 431)
                return
        if (self._begun or before == self._messages) and self._patience is None:
            self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun, self._head_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._within_head = False
        if self._head_bytes > self._limits.head_bytes:
            self._give_up("head", 431)
        if not self._gone:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._gone:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_waiting()
        self._within_head, self._begun = True, False
        self._messages += 1
        if not self._gone:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._within_head:  # answered before the body is there
            self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._limits.timeout_s, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_again()

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(self._limits.timeout_s, self._late)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _read_again(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _late(self) -> None:
        self._patience = None
        if self._within_head and self._begun:
            self._give_up("slow", 408)
        else:  # it never spoke, or it was answered
            self._gone = True
            self._refused("slow")
            self.transport.close()

    def _abort(self) -> None:
        self._gone = True
        self._refused("unread")
        self.transport.abort()  # closing would wait for the client to read

    def _give_up(self, reason: str, status: int, header: str = "") -> None:
        self._gone = True
        self._refused(reason)
        text = _STATUS[status]
        self.transport.write(
            f"HTTP/1.1 {status} {text}\r\nContent-Type: text/plain; charset=utf-8\r\n{header}"
            f"Connection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        self.transport.close()


def guarded(limits: Limits, refused: Callable[[str], None]) -> Any:
    """Return what makes the connections of a uvicorn server."""
    return partial(Guarded, limits=limits, refused=refused)
