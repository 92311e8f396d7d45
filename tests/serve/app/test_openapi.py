"""Whatever schemathesis makes of the OpenAPI document is answered as it says."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks

from polyrank.serve.app.limits import Limits
from polyrank.serve.app.openapi import answer_schema
from polyrank.serve.app.routes import app

SCORE = "/v1/score"
SCORED = (SCORE, "/v1/models/default/score")

DOCUMENTED = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture
def documented(engine):
    return schemathesis.openapi.from_asgi("/openapi.json", app(engine, Limits(timeout_s=60)))


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
        others = set(documented.raw_schema["paths"]) - {*SCORED, "/openapi.json"}  # read to begin
        assert len(others) == 6
        scored = {(path, status) for path in SCORED for status in (200, 422)}
        assert seen == scored | {(each, 200) for each in others}
    else:
        assert {(path, status) for path in SCORED for status in (400, 422)} <= seen


def test_its_example_is_answered(documented, engine, serving):
    body = documented.raw_schema["paths"][SCORE]["post"]["requestBody"]
    example = body["content"]["application/json"]["schema"]["example"]
    answer = serving(engine).score(example)
    assert answer.status == 200
    assert set(answer.json) == set(answer_schema(engine)["oneOf"][0]["required"])
