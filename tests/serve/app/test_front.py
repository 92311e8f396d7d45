"""What the middleware does with an application that misbehaves."""

import asyncio

import pytest

from polyrank.serve.app.front import Front, State
from polyrank.serve.app.telemetry import Telemetry

SCOPE = {"type": "http", "method": "GET", "path": "/healthz", "headers": []}


async def begins_and_breaks(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("half way")


def test_an_answer_that_has_begun_is_broken_off():
    telemetry, sent = Telemetry([], []), []

    async def send(message):
        sent.append(message)

    with pytest.raises(RuntimeError, match="half way"):
        asyncio.run(Front(begins_and_breaks, telemetry, State())(dict(SCOPE), None, send))
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert telemetry.in_flight == 0
    assert telemetry.requests == {("/healthz", 200): 1}
