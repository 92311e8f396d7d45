"""Every fault over a real socket: it has its answer, nothing is lost, and the next one is right."""

import asyncio
import json
import logging
import re
from threading import Event, Thread

import numpy as np
import pytest

from polyrank.schema import Schema
from polyrank.serve.app.limits import Bodies, Limits, Queue
from polyrank.serve.app.middleware import State

SMALL = Limits(body_mb=0.25, rows=300, timeout_s=30)


@pytest.fixture
def web(serving, engine):
    return serving(engine, SMALL)


@pytest.fixture
def good(engine, rows):
    """Three rows as records, and the check that an answer has their numbers."""
    needed = [*engine.inputs, "margin"]
    records = [{name: rows[name][row] for name in needed} for row in range(3)]
    expected = engine.predict({name: rows[name][:3] for name in engine.inputs})

    def check(web, **more):
        answer = web.score({"rows": records}, **more)
        assert answer.status == 200, answer.body
        found = answer.json
        assert found["rows"] == 3
        assert list(found["outputs"]) == expected.columns
        for name in expected.columns:
            np.testing.assert_array_equal(found["outputs"][name], expected[name])
        return found

    check.records, check.expected = records, expected
    return check


class Held:
    """An engine whose answers wait until they are let go."""

    def __init__(self, engine):
        self._engine = engine
        self.go, self.cities = Event(), []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def predict_columns(self, columns, shared):
        assert self.go.wait(60)
        self.cities += columns["city"]
        return self._engine.predict_columns(columns, shared)


def test_records_columns_and_candidates_have_one_answer(web, good):
    records = good(web)
    columns = {name: [each[name] for each in good.records] for name in good.records[0]}
    assert web.score({"rows": columns}).json == records
    own = {"city", "seen", "price"}
    shared = {name: value for name, value in good.records[0].items() if name not in own}
    candidates = [{name: each[name] for name in own} for each in good.records]
    found = web.score({"context": shared, "candidates": candidates}).json
    joined = web.score({"rows": [shared | each for each in candidates]}).json
    assert found == joined


def test_the_score_is_the_fused_one_and_orders_the_rows(web, good, engine, rows):
    found = good(web)
    outputs = {name: good.expected[name].to_numpy() for name in good.expected.columns}
    margin = np.array(rows["margin"][:3])
    score = np.log(outputs["p_click"]) + 2 * np.log(outputs["p_buy"]) + 0.1 * margin
    np.testing.assert_allclose(found["score"], score, rtol=1e-12)
    assert found["order"] == np.argsort(-score).tolist()
    top = web.score({"rows": good.records, "top_k": 2}).json
    assert list(top) == ["rows", "top", "unseen"]
    assert [each["row"] for each in top["top"]] == found["order"][:2]
    best = top["top"][0]
    assert best["score"] == found["score"][best["row"]]
    assert best["p_click"] == outputs["p_click"][best["row"]]
    assert set(best) == {"row", "score", *engine.outputs}


def test_equal_scores_keep_the_order_of_the_rows(web, good):
    found = web.score({"rows": [good.records[0]] * 3, "top_k": 10}).json
    assert [each["row"] for each in found["top"]] == [0, 1, 2]


def test_unseen_ids_and_ignored_columns_are_in_the_answer(web, good):
    record = good.records[0] | {"city": "Atlantis", "request": "r1"}
    found = web.score({"rows": [record] * 2}).json
    assert found["unseen"]["city"] == 2
    assert found["ignored"] == ["request"]
    assert "ignored" not in good(web)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"rows": [{"user": 1}', 400, "the body is not JSON in UTF-8"),
        (b'{"rows": [{"user": "\xe9"}]}', 400, "the body is not JSON in UTF-8"),
        (b"", 400, "the body is not JSON in UTF-8"),
        ({"rows": []}, 422, "no rows to score"),
        ({"rowz": []}, 422, "unknown key 'rowz'; did you mean 'rows'?"),
        ({"rows": [{"user": 1}]}, 422, "column 'city' is missing from row 0 of rows"),
        ({"rows": [{}] * 301}, 413, "a request may have 300 rows, got 301"),
    ],
)
def test_a_wrong_body_gets_an_error_that_says_why(web, good, body, status, message):
    answer = web.score(body, {"X-Request-ID": "mine-7"})
    assert answer.status == status
    assert message in answer.json["error"]
    assert answer.json["request_id"] == answer.headers["X-Request-ID"] == "mine-7"
    good(web)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"price": "cheap"}, "price"),
        ({"price": [1.5]}, "price"),
        ({"price": {"eur": 1}}, "price"),
        ({"price": 1e300}, "price"),
        ({"user": [1]}, "user"),
        ({"user": {"id": 1}}, "user"),
        ({"seen": "a/b"}, "seen"),
        ({"seen": [["a/b"]]}, "seen"),
        ({"seen": {"a": 1}}, "seen"),
        (
            {"margin": "x"},
            "fusion: column 'margin' must be a number in every row, got a string in row 1",
        ),
        ({"margin": None}, "fusion: 1 of 3 values of column 'margin' are missing or infinite"),
        ({"margin": 1e309}, "fusion: 1 of 3 values of column 'margin' are missing or infinite"),
        ({"margin": 10**400}, "fusion: 1 of 3 values of column 'margin' are missing or infinite"),
    ],
)
def test_a_wrong_type_names_its_column(web, good, wrong, message):
    first, second, third = good.records
    answer = web.score({"rows": [first, second | wrong, third]})
    assert answer.status == 422, answer.body
    assert message in answer.json["error"]
    good(web)


def test_nan_and_null_are_missing(web, good):
    without = [each | {"price": None} for each in good.records]
    body = json.dumps({"rows": without})
    assert (
        web.score(body.encode()).json
        == web.score(body.replace('"price": null', '"price": NaN').encode()).json
    )


def test_a_text_of_10_mb(serving, engine, good):
    long = {"rows": [good.records[0] | {"city": "x" * 10**7}]}
    web = serving(engine)
    assert web.score(long).json["unseen"]["city"] == 1  # within the default: an id like any other
    good(web)
    web = serving(engine, SMALL)
    answer = web.score(long)
    assert answer.status == 413
    assert "the body is larger than 0.25 MiB: send fewer rows per request" in answer.json["error"]
    good(web)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_read_away_and_answered(web, good, chunked):
    part = b" " * 2**16

    def parts():
        yield from [part] * 64

    length = {} if chunked else {"Content-Length": str(64 * len(part))}
    answer = web.score_parts(parts(), length)
    assert answer.status == 413
    assert answer.headers["Connection"] == "close"
    good(web)


def test_a_body_above_the_limit_is_not_waited_for_without_end(serving, engine, good):
    web = serving(engine, Limits(timeout_s=0.2))
    with web.socket() as idle:
        idle.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n{")
        answer = idle.makefile("rb").read()  # to the end: the connection is closed
    assert answer.startswith(b"HTTP/1.1 413 ")
    good(serving(engine, SMALL))


def test_a_million_rows_are_413(serving, engine, good):
    web = serving(engine, Limits(body_mb=64))
    answer = web.score({"rows": {name: [1] * 10**6 for name in good.records[0]}})
    assert answer.status == 413
    assert "a request may have 10,000 rows, got 1,000,000" in answer.json["error"]
    good(web)


def test_a_long_list_for_many_candidates_is_413(web, good):
    """Its body is small, and what it asks for is not."""
    context = {**good.records[0], "seen": ["x"] * 20_000}
    prices = [context.pop("price")] * 2
    answer = web.score({"context": context, "candidates": {"price": prices}})
    assert answer.status == 413
    assert answer.json["error"] == (
        "column 'seen' of the context has 20,000 ids for each of 2 rows, more than the 30,000 ids "
        "that a request may have: send fewer candidates, or only the last ids"
    )
    few = {"context": context, "candidates": {"price": prices[:1]}}
    assert web.score(few).status == 200
    good(web)


def test_a_slow_body_is_408(serving, engine, good):
    web = serving(engine, Limits(timeout_s=0.2))
    with web.socket() as slow:
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = slow.makefile("rb").read()  # to the end: the connection is closed
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"error":"the body did not arrive within 0.2 s"' in answer
    good(serving(engine, SMALL))


def test_a_client_that_goes_away_in_the_middle_is_counted(web, good):
    with web.socket() as gone:
        gone.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        until(web, "polyrank_in_flight", 2)
    until(web, 'polyrank_requests_total{route="/v1/score",status="499"}', 1)
    good(web)


def test_more_bodies_than_fit_are_429(serving, engine, good):
    """What has arrived of a body counts, and what is announced of the next."""
    web = serving(engine, Limits(body_mb=0.25, total_mb=0.25, timeout_s=30))
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"
    with web.socket() as slow:
        slow.sendall(head + b" " * 150_000)
        until(web, "polyrank_body_bytes", 150_000)
        for length in ({"Content-Length": "200000"}, {}):
            refused = web.score_parts(iter([b" " * 100_000] * 2), length)
            assert refused.status == 429
            assert (refused.headers["Retry-After"], refused.headers["Connection"]) == ("1", "close")
            assert "of at most 0.25 MiB of requests: try again" in refused.json["error"]
        good(web)  # a small one has room
    assert metric(web, "polyrank_queue_rejected_total") == 2
    until(web, 'polyrank_requests_total{route="/v1/score",status="499"}', 1)
    assert metric(web, "polyrank_body_bytes") == 0


def test_a_full_queue_is_429(serving, engine, good):
    held = Held(engine)
    web = serving(held, Limits(queue=2, timeout_s=60, inline_kb=0))
    answers = []
    waiting = [Thread(target=lambda: answers.append(good(web))) for _ in range(2)]
    for each in waiting:
        each.start()
    until(web, "polyrank_in_flight", 3)
    refused = web.score({"rows": good.records})
    assert refused.status == 429
    assert refused.headers["Retry-After"] == "1"
    assert refused.json["error"] == "the queue of 2 requests is full: try again"
    assert web.get("/healthz").status == 200  # the loop is free meanwhile
    held.go.set()
    for each in waiting:
        each.join()
    assert len(answers) == 2
    assert metric(web, "polyrank_queue_rejected_total") == 1
    good(web)


def test_a_line_of_small_bodies_has_its_length_too():
    """Each takes its place before the first of them is answered."""
    queue, room = Queue(Limits(queue=3)), Bodies(Limits()).room()

    async def ask():
        return await asyncio.gather(
            *(queue.run(bytes, b"1", room) for _ in range(5)),
            return_exceptions=True,
        )

    found = asyncio.run(ask())
    assert found[:3] == [b"1"] * 3
    assert [each.status for each in found[3:]] == [429, 429]
    assert queue.length == 0


@pytest.mark.parametrize("kib", [0, 64])
def test_a_body_has_one_answer_whoever_gives_it(serving, engine, good, kib):
    good(serving(engine, Limits(inline_kb=kib)))


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_503(serving, engine, good):
    held = Held(engine)
    web = serving(held, Limits(timeout_s=1, workers=1, inline_kb=0))
    for city in ("begun", "waits"):
        late = web.score({"rows": [good.records[0] | {"city": city}]})
        assert late.status == 503
        assert late.headers["Retry-After"] == "1"
        assert late.json["error"] == "no answer within 1 s: try again later, with fewer rows"
    held.go.set()
    good(web)
    assert "begun" in held.cities  # it could not be stopped, and held nobody up
    assert "waits" not in held.cities


def test_an_unexpected_error_is_500_with_its_id(serving, engine, good, caplog):
    class Broken(Held):
        def predict_columns(self, columns, shared):
            raise RuntimeError("a secret of the house")

    web = serving(Broken(engine))
    answer = web.score({"rows": good.records}, {"X-Request-ID": "a1"})
    assert answer.status == 500
    assert answer.json == {
        "error": "unexpected error; the server's log has it under this request_id",
        "request_id": "a1",
    }
    web.get("/healthz")  # a line is written after its answer, and before the next one
    logged = [each for each in caplog.records if each.exc_info]
    assert len(logged) == 1
    assert logged[0].fields == {"request_id": "a1"}
    line = next(each.fields for each in caplog.records if "status" in getattr(each, "fields", {}))
    assert (line["status"], line["error"]) == (500, "RuntimeError('a secret of the house')")


@pytest.mark.parametrize("sent", ["x" * 129, "zwölf".encode(), "two words", ""])
def test_an_insane_request_id_is_replaced(web, sent):
    answer = web.ask("GET", "/healthz", headers={"X-Request-ID": sent})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_a_line_in_the_log_says_what_happened(web, good, engine, caplog):
    caplog.set_level(logging.INFO, "polyrank")
    good(web, headers={"X-Request-ID": "r7"})
    web.score({"rows": []}, {"X-Request-ID": "r8"})
    web.get("/healthz")  # a line is written after its answer, and before the next one
    lines = {each.fields["request_id"]: each.fields for each in caplog.records}
    assert lines["r7"].pop("ms") > 0
    assert lines["r7"] == {
        "request_id": "r7",
        "method": "POST",
        "path": "/v1/score",
        "status": 200,
        "rows": 3,
        "model": "default",
        "version": engine.version,
    }
    assert lines["r8"]["error"] == "no rows to score"


def test_top_k_needs_a_fusion(serving, engine, good):
    class Plain(Held):
        fusion, fusion_columns = None, ()

        def predict_columns(self, columns, shared):
            return self._engine.predict_columns(columns, shared)

        def score(self, answer, columns):
            return None

    web = serving(Plain(engine))
    answer = web.score({"rows": good.records, "top_k": 1})
    assert answer.status == 422
    assert "this bundle declares no fusion: add a [fusion] table" in answer.json["error"]
    found = web.score({"rows": good.records}).json
    assert list(found) == ["rows", "outputs", "unseen", "ignored"]
    assert found["ignored"] == ["margin"]


def test_other_routes(web):
    assert web.get("/healthz").json == {"status": "alive"}
    assert web.get("/readyz").json == {"status": "ready", "ready": True}
    answer = web.get("/v1/scor")
    assert answer.status == 404
    assert "no route '/v1/scor'; did you mean '/v1/score'?" in answer.json["error"]
    answer = web.get("/v1/score")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert answer.json["error"] == "/v1/score takes POST, got GET"
    assert web.get("/docs").status == 404
    answer = web.ask("DELETE", "/healthz")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert answer.json["error"] == "/healthz takes GET or HEAD, got DELETE"


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/v1/metadata", "/openapi.json"]
)
def test_a_head_is_that_of_the_answer(web, path):
    answer = web.ask("HEAD", path)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"] == web.get(path).headers["Content-Type"]


@pytest.mark.parametrize("path", ["/v1/score/", "/healthz/"])
def test_a_slash_too_many_is_no_redirect(web, path):
    answer = web.ask("GET", path, headers={"Host": "elsewhere.example"})
    assert answer.status == 404
    assert "Location" not in answer.headers
    assert f"did you mean '{path[:-1]}'?" in answer.json["error"]


def test_the_metadata_say_what_is_served(web, engine):
    found = web.get("/v1/metadata").json
    assert Schema.from_table(found["schema"]) == engine.schema
    assert found["outputs"] == list(engine.outputs)
    assert found["columns"] == [*engine.inputs, "margin"]
    assert found["fusion"] == {"click": 1.0, "buy": 2.0, "margin": 0.1}
    assert found["parity"]["differences"]["p_click"] <= 1e-6
    assert found["limits"]["rows"] == 300


def test_a_server_that_stops_says_so(serving, engine, good):
    state = State()
    web = serving(engine, SMALL, state)
    connection = web.connection()
    good(web, connection=connection)
    state.draining = True
    answer = web.ask("GET", "/readyz", connection=connection)
    assert (answer.status, answer.json) == (503, {"status": "draining", "ready": False})
    assert answer.headers["Connection"] == "close"
    connection.close()
    assert web.get("/healthz").status == 200
    good(web)  # and still answers


def test_the_counts_are_those_of_the_requests(web, good):
    good(web)
    shared = {"city": "Atlantis", "seen": ["Zürich", None, "Atlantis"], "age": None}
    own = [{name: each[name] for name in each if name not in shared} for each in good.records]
    assert web.score({"context": shared, "candidates": own}).status == 200
    web.score(b"{")
    web.get("/nowhere/7")
    first = {name: [each[name] for each in good.records] for name in good.records[0]}
    lists = [each for each in first["seen"] if each is not None]
    found, ages = metrics(web), first["age"]
    expected = {
        'polyrank_requests_total{route="/v1/score",status="200"}': 2,
        'polyrank_requests_total{route="/v1/score",status="400"}': 1,
        'polyrank_requests_total{route="other",status="404"}': 1,
        'polyrank_rows_total{model="default"}': 6,
        "polyrank_request_seconds_count": 3,
        'polyrank_request_seconds_bucket{le="+Inf"}': 3,
        'polyrank_ids_total{feature="user",model="default"}': 6,
        'polyrank_ids_total{feature="city",model="default"}': 6 - first["city"].count(None),
        'polyrank_unseen_ids_total{feature="city",model="default"}': 3,
        'polyrank_ids_total{feature="seen",model="default"}': sum(map(len, lists)) + 3 * 2,
        'polyrank_missing_values_total{feature="seen",model="default"}': 3,
        'polyrank_missing_values_total{feature="age",model="default"}': ages.count(None) + 3,
        "polyrank_in_flight": 1,
        "polyrank_queue_rejected_total": 0,
    }
    assert {name: found[name] for name in expected} == expected
    buckets = [
        value for name, value in found.items() if name.startswith("polyrank_request_seconds_b")
    ]
    assert buckets == sorted(buckets)
    assert found["polyrank_request_seconds_sum"] > 0


def test_the_distribution_of_each_output_stands_beside_that_at_fit(web, good):
    before = metrics(web)
    good(web)
    after = metrics(web)
    fit = web.get("/metrics").body.decode()
    for output in good(web)["outputs"]:
        prefix = 'polyrank_predictions_total{bin="'
        bins = [each for each in after if each.startswith(prefix) and f'"{output}"' in each]
        assert sum(after[each] - before[each] for each in bins) == len(good.records)
        shares = [
            value
            for name, value in after.items()
            if name.startswith("polyrank_profile_share") and f'name="{output}"' in name
        ]
        assert len(shares) == len(bins)
        assert sum(shares) == pytest.approx(1)
    assert 'category="unseen",model="default",name="city",of="id"' in fit


def metrics(web):
    lines = web.get("/metrics").body.decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def metric(web, name):
    return metrics(web).get(name, 0)


def until(web, name, least):
    """Ask until a count is there; what does not come fails."""
    for _ in range(2000):
        if metric(web, name) >= least:
            return
    raise AssertionError(f"{name} did not reach {least}")
