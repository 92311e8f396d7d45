"""Whatever schemathesis makes of the OpenAPI document is answered as it says."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks

import polyrank as pr
from polyrank.serve.app import oip
from polyrank.serve.app.limits import Limits
from polyrank.serve.app.openapi import answer_schema, request_schema
from polyrank.serve.app.routes import app

SCORE = "/v1/score"
SCORED = (SCORE, "/v1/models/default/score")
INFER = "/v2/models/default/infer"

DOCUMENTED = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture
def documented(engine):
    return schemathesis.openapi.from_asgi("/openapi.json", app(engine, Limits(timeout_s=60)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*GenerationMode])
def test_whatever_is_sent_is_answered_as_documented(documented, mode):
    seen = set()

    def check(case):
        answer = case.call()
        case.validate_response(answer, checks=DOCUMENTED)
        seen.add((case.operation.path, answer.status_code))

    bounded = settings(
        max_examples=60, derandomize=True, deadline=None, suppress_health_check=[*HealthCheck]
    )
    for found in documented.get_all_operations():
        operation = found.ok()
        if mode == GenerationMode.POSITIVE or operation.body:  # nothing else can be sent wrongly
            bounded(given(case=operation.as_strategy(generation_mode=mode))(check))()
    if mode == GenerationMode.POSITIVE:
        read = {*SCORED, INFER, "/openapi.json"}  # the document was read to begin
        others = set(documented.raw_schema["paths"]) - read
        assert len(others) == 11
        scored = {(path, status) for path in SCORED for status in (200, 422)}
        expected = scored | {(each, 200) for each in others} | {(INFER, 422)}
        assert seen - {(INFER, 200)} == expected
    else:
        wrong = {(path, status) for path in (*SCORED, INFER) for status in (400, 422)}
        assert wrong <= seen


@pytest.mark.parametrize("path", [SCORE, INFER])
def test_its_example_is_answered(documented, engine, serving, path):
    body = documented.raw_schema["paths"][path]["post"]["requestBody"]
    example = body["content"]["application/json"]["schema"]["example"]
    answer = serving(engine).ask("POST", path, json.dumps(example))
    assert answer.status == 200
    if path == SCORE:
        assert set(answer.json) == set(answer_schema(engine)["oneOf"][0]["required"])
    else:
        assert set(answer.json) == set(oip.answer_schema()["required"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*GenerationMode])
def test_explored_requests_are_answered_as_documented(sure, mode):
    """Those of a bundle with deviations, of which a request may ask for more."""
    documented = schemathesis.openapi.from_asgi(
        "/openapi.json", app(pr.Engine(sure), Limits(timeout_s=60))
    )
    seen = set()

    def check(case):
        answer = case.call()
        case.validate_response(answer, checks=DOCUMENTED)
        explored = isinstance(case.body, dict) and "explore" in case.body
        seen.add((explored, answer.status_code))

    bounded = settings(
        max_examples=60, derandomize=True, deadline=None, suppress_health_check=[*HealthCheck]
    )
    operation = documented[SCORE]["POST"]
    bounded(given(case=operation.as_strategy(generation_mode=mode))(check))()
    assert (True, 422) in seen


@pytest.mark.parametrize(
    "how", [{"kind": "thompson", "seed": 3, "draws": 20}, {"kind": "ucb", "alpha": 2}]
)
@pytest.mark.parametrize("more", [{}, {"top_k": 1}])
def test_an_explored_answer_is_as_documented(sure, how, more):
    engine = pr.Engine(sure)
    documented = schemathesis.openapi.from_asgi("/openapi.json", app(engine))
    body = {**request_schema(engine)["example"], "explore": how, **more}
    case = documented[SCORE]["POST"].Case(body=body, media_type="application/json")
    answer = case.call()
    assert answer.status_code == 200
    case.validate_response(answer, checks=DOCUMENTED)
    assert "explored" in answer.json()
