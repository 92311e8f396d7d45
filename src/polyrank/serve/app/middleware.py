"""What every request passes on its way in and out: its id, its line in the log, its counts."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from uuid import uuid4

from pydantic_core import to_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyrank.serve.app.telemetry import Telemetry

logger = logging.getLogger(__name__)

CLIENT_GONE = 499  # as nginx logs it; never sent
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}\Z")


@dataclass
class State:
    """Whether the server has been told to stop, and still answers what arrives."""

    draining: bool = False


class RequestMiddleware:
    """ASGI middleware around all routes.

    The fields of a request's line in the log are a dict in the scope, to which endpoints may add.
    `timed` has every path, and whether its requests are in the histogram of seconds.
    """

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, state: State, timed: Mapping[str, bool]
    ) -> None:
        self.app, self.telemetry, self.state, self.timed = app, telemetry, state, timed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = perf_counter()
        fields: dict[str, Any] = {"request_id": _request_id(scope)}
        scope.setdefault("state", {})["fields"] = fields
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = fields["request_id"]
                if self.state.draining:
                    headers["Connection"] = "close"
            try:
                await send(message)
            except RuntimeError as error:
                # how uvloop reports a client that reset a connection with several requests on it
                if "closed" not in str(error):
                    raise
                raise ClientDisconnect from error

        self.telemetry.in_flight += 1
        try:
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            status = CLIENT_GONE
            fields["error"] = "the client disconnected before the answer"
        except Exception as error:
            logger.exception(
                "unexpected error", extra={"fields": {"request_id": fields["request_id"]}}
            )
            response = error_response(
                500, "unexpected error; the server's log has it under this request_id", fields
            )
            fields["error"] = repr(error)  # for the log alone
            if status:
                raise  # the response has begun: the connection is broken off
            await response(scope, receive, sending)
        finally:
            self.telemetry.in_flight -= 1
            self._record(scope, fields, status, perf_counter() - start)

    def _record(self, scope: Scope, fields: dict[str, Any], status: int, seconds: float) -> None:
        path = scope["path"]
        self.telemetry.answered(path if path in self.timed else "other", status)
        if self.timed.get(path, False):
            self.telemetry.took(seconds)
        line = {
            "request_id": fields.pop("request_id"),
            "method": scope["method"],
            "path": path,
            "status": status,
            "ms": round(seconds * 1000, 3),
            **fields,
        }
        level = logging.ERROR if status in (0, 500) else logging.INFO
        logger.log(level, "request", extra={"fields": line})


def error_response(
    status: int, message: str, fields: dict[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error in JSON, and note it in the fields for the log."""
    fields["error"] = message
    body = to_json({"error": message, "request_id": fields["request_id"]})
    return Response(body, status, headers, media_type="application/json")


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _SANE_ID.match(given) else uuid4().hex
