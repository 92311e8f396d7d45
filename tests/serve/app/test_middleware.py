"""What the middleware does with an application that misbehaves."""

import asyncio
import logging

import pytest

from polyrank.serve.app.limits import Bodies, Limits
from polyrank.serve.app.middleware import RequestMiddleware, State
from polyrank.serve.app.telemetry import Telemetry

SCOPE = {"type": "http", "method": "GET", "path": "/healthz", "headers": []}
PATHS = {"/healthz": False}


async def begins_and_breaks(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("half way")


def test_an_answer_that_has_begun_is_broken_off():
    telemetry, sent = Telemetry(Bodies(Limits())), []

    async def send(message):
        sent.append(message)

    with pytest.raises(RuntimeError, match="half way"):
        asyncio.run(
            RequestMiddleware(begins_and_breaks, telemetry, State(), PATHS)(dict(SCOPE), None, send)
        )
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert telemetry.in_flight == 0
    assert telemetry.requests == {("/healthz", 200): 1}


async def answers(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


def test_a_client_who_resets_the_connection_is_no_fault(caplog):
    async def send(_):
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    telemetry = Telemetry(Bodies(Limits()))
    caplog.set_level(logging.INFO, "polyrank")
    asyncio.run(RequestMiddleware(answers, telemetry, State(), PATHS)(dict(SCOPE), None, send))
    assert telemetry.requests == {("/healthz", 499): 1}
    assert telemetry.in_flight == 0
    (line,) = caplog.records
    assert (line.levelname, line.fields["status"]) == ("INFO", 499)


def test_a_message_out_of_turn_is_a_fault():
    async def send(_):
        raise RuntimeError("Unexpected ASGI message")

    telemetry = Telemetry(Bodies(Limits()))
    with pytest.raises(RuntimeError, match="Unexpected ASGI message"):
        asyncio.run(RequestMiddleware(answers, telemetry, State(), PATHS)(dict(SCOPE), None, send))
