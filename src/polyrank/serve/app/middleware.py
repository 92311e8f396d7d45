"""What every request passes on its way in and out: its id, its line in the log, its counts."""

from __future__ import annotations

import logging
import re
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

SCORE = "/v1/score"
ROUTES = (SCORE, "/v1/metadata", "/healthz", "/readyz", "/metrics", "/openapi.json")
CLIENT_GONE = 499  # as nginx logs it; it is never sent
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}\Z")


@dataclass
class State:
    """Where the server is in its life.

    Args:
        draining: it has been told to stop, and answers what still comes.
    """

    draining: bool = False


class Front:
    """ASGI middleware around all routes.

    Args:
        app: what answers.
        telemetry: what counts.
        state: what says that the server stops.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, state: State) -> None:
        self.app, self.telemetry, self.state = app, telemetry, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = perf_counter()
        about: dict[str, Any] = {"request_id": _request_id(scope)}
        scope.setdefault("state", {})["about"] = about
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = about["request_id"]
                if self.state.draining:
                    headers["Connection"] = "close"
            try:
                await send(message)
            except RuntimeError as error:
                # uvloop's word for a client who has reset a connection with several requests on it
                if "closed" not in str(error):
                    raise
                raise ClientDisconnect from error

        self.telemetry.in_flight += 1
        try:
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            status = CLIENT_GONE
            about["error"] = "the client went away before it was answered"
        except Exception as error:
            logger.exception("unexpected", extra={"about": {"request_id": about["request_id"]}})
            answer = refusal(500, "something unexpected happened; the log has it", about)
            about["error"] = repr(error)  # what the log says, and the client is not told
            if status:
                raise  # the answer has begun: its connection is broken off
            await answer(scope, receive, sending)
        finally:
            self.telemetry.in_flight -= 1
            self._note(scope, about, status, perf_counter() - start)

    def _note(self, scope: Scope, about: dict[str, Any], status: int, seconds: float) -> None:
        path = scope["path"]
        self.telemetry.answered(path if path in ROUTES else "other", status)
        if path == SCORE:
            self.telemetry.took(seconds)
        line = {
            "request_id": about.pop("request_id"),
            "method": scope["method"],
            "path": path,
            "status": status,
            "ms": round(seconds * 1000, 3),
            **about,
        }
        level = logging.ERROR if status in (0, 500) else logging.INFO
        logger.log(level, "request", extra={"about": line})


def refusal(
    status: int, message: str, about: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    """Return an error as every one of them looks.

    Args:
        status: of HTTP.
        message: what the client is told, and the log.
        about: of the request.
        headers: more of them.
    """
    return Response(
        told(message, about), status_code=status, headers=headers, media_type="application/json"
    )


def told(message: str, about: dict[str, Any]) -> bytes:
    """Return an error's body, and note it for the log."""
    about["error"] = message
    return to_json({"error": message, "request_id": about["request_id"]})


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _SANE_ID.match(given) else uuid4().hex
