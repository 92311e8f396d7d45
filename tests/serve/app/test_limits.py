"""A limit is a number that limits something."""

import asyncio
import re
from threading import Event

import pytest

from polyrank.errors import ConfigError
from polyrank.serve.app.limits import Bodies, Limits, Queue, Refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": 0}, "limit rows must be a whole number of at least 1, got 0"),
        ({"queue": 2.5}, "limit queue must be a whole number of at least 1, got 2.5"),
        (
            {"workers": True},
            "limit workers must be a whole number of at least 1, got True",
        ),
        ({"body_mb": 0}, "limit body_mb must be a number above 0, got 0"),
        (
            {"timeout_s": float("nan")},
            "limit timeout_s must be a number above 0, got nan",
        ),
        ({"timeout_s": "5"}, "limit timeout_s must be a number above 0, got '5'"),
        ({"inline_kb": -1}, "limit inline_kb must be a number of at least 0, got -1"),
        (
            {"body_mb": 300},
            "limit total_mb must be at least body_mb, 300, for one body to fit, got 256",
        ),
        ({"connections": 0}, "limit connections must be a whole number of at least 1, got 0"),
        ({"head_kb": 0}, "limit head_kb must be a number above 0, got 0"),
        ({"drain_s": -1}, "limit drain_s must be a number of at least 0, got -1"),
    ],
)
def test_a_wrong_limit_is_refused(given, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Limits(**given)


def test_no_drain_is_one():
    assert Limits(drain_s=0).drain_s == 0


def test_bodies_have_room_until_the_last_holder_leaves():
    bodies = Bodies(Limits(body_mb=1, total_mb=2))
    first, second = bodies.room(), bodies.room()
    first.add(2**20)
    first.stay()
    second.add(2**19)
    message = "the server holds 1.5 of at most 2 MiB of requests: try again"
    with pytest.raises(Refused, match=message) as caught:
        second.add(2**20)
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "1")
    first.leave()
    assert bodies.bytes == 3 * 2**19
    first.leave()
    second.add(2**20)
    second.leave()
    assert bodies.bytes == 0


def test_a_job_that_cannot_be_stopped_keeps_its_room():
    limits, go = Limits(timeout_s=0.01, inline_kb=0), Event()
    queue, bodies = Queue(limits), Bodies(limits)

    async def ask():
        room = bodies.room()
        room.add(3)
        with pytest.raises(Refused, match="no answer within"):
            await queue.run(lambda _: go.wait(60), b"abc", room)
        room.leave()
        assert (bodies.bytes, queue.length) == (3, 1)
        go.set()
        while bodies.bytes:
            await asyncio.sleep(0)
        assert queue.length == 0

    asyncio.run(ask())
