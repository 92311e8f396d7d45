"""How a request's body comes in: within its size, and in time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from polyrank.serve.app.limits import Limits
from polyrank.serve.app.refused import Refused


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
