"""A body is scored, or refused with a status below 500 and a message."""

import asyncio
import json

import pytest
from hypothesis import strategies as st

import polyrank as pr
from polyrank.serve.app.routes import app

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6),
    st.sampled_from([2**63, -(2**63), 2**64, 10**400, 1e308, "", "北京", "a/b", "\ud800", "\0"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def post(folder):
    """A function from a path and a body to the status and the JSON that the application answers."""
    served = app(pr.Engine(folder))

    def call(path, body):
        sent = []
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "headers": [(b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
        }  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        loop.run_until_complete(served(scope, receive, send))
        content = b"".join(each.get("body", b"") for each in sent[1:])
        return sent[0]["status"], json.loads(content)

    loop = asyncio.new_event_loop()
    yield call
    loop.close()


def encoded(value):
    """JSON as Python writes it, NaN and lone surrogates included; 10^400 has no float."""
    return json.dumps(value).encode()


def asked(post, path, body):
    status, found = post(path, body)
    assert status in (200, 400, 413, 422), (status, found)
    assert ("error" in found) == (status != 200), found


def bodies(inputs):
    """Bodies near the two routes' shapes, and any JSON."""
    names = st.sampled_from([*inputs, "other"])
    record = st.dictionaries(names, SCALARS | st.lists(SCALARS, max_size=3), max_size=6)
    full = st.fixed_dictionaries(dict.fromkeys(inputs, SCALARS | st.lists(SCALARS, max_size=3)))
    rows = st.one_of(
        st.lists(full, max_size=3), st.lists(record, max_size=3), st.dictionaries(names, JSON),
        st.fixed_dictionaries(dict.fromkeys(inputs, st.lists(SCALARS, min_size=2, max_size=2))),
        JSON,
    )  # fmt: skip
    score = st.one_of(
        st.fixed_dictionaries({"rows": rows}, optional={"top_k": JSON}),
        st.fixed_dictionaries(
            {"context": record | JSON, "candidates": rows}, optional={"top_k": JSON}
        ),
    )
    tensor = st.fixed_dictionaries(
        {
            "name": names | JSON,
            "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
            "datatype": st.sampled_from(["INT64", "FP32", "FP64", "BYTES", "BOOL", "?"]) | JSON,
            "data": st.lists(SCALARS, max_size=4) | JSON,
        },
        optional={"parameters": JSON},
    )
    infer = st.fixed_dictionaries(
        {"inputs": st.lists(tensor, max_size=6) | JSON},
        optional={"id": JSON, "outputs": JSON, "parameters": JSON},
    )
    return score, infer


@pytest.mark.parametrize("path", ["/v1/score", "/v2/models/default/infer"])
def test_bodies(path, fuzz, post, schema):
    score, infer = bodies(schema.inputs)
    near = score if path == "/v1/score" else infer

    def check(body):
        asked(post, path, body)

    cut = st.tuples(near.map(encoded), st.integers(0, 200)).map(lambda each: each[0][: each[1]])
    fuzz(st.one_of(near.map(encoded), JSON.map(encoded), cut, st.binary(max_size=40)), check)
