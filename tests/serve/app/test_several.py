"""Several bundles in one server: by name, by share, and in the shadow."""

import asyncio
import json
import logging

import numpy as np
import pytest

import polyrank as pr
from polyrank.cli.app import run
from polyrank.serve.app.limits import Bodies, Limits
from polyrank.serve.app.models import Model, Models
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.app.shadow import WAITING, Shadows
from polyrank.serve.app.split import Split
from polyrank.serve.app.telemetry import Telemetry

SMALL = Limits(rows=300, timeout_s=30)


@pytest.fixture(scope="module")
def models(exported, later):
    return Models([Model(n, pr.Engine(p), 300) for n, p in {"old": exported, "new": later}.items()])


@pytest.fixture
def sent(rows, engine):
    """A request of three rows of one user."""

    def of(user):
        names = [*engine.inputs, "margin"]
        return {"rows": {name: rows[name][:3] for name in names} | {"user": [user] * 3}}

    return of


def expected(models, name, body):
    engine, columns = models[name].current.engine, body["rows"]
    return engine.predict({key: columns[key] for key in engine.inputs}).to_dict(as_series=False)


def test_a_model_answers_by_its_name(serving, models, sent):
    web, body = serving(models, SMALL), sent(7)
    for name in ("old", "new"):
        answer = web.ask("POST", f"/v1/models/{name}/score", json.dumps(body))
        assert answer.headers["X-Model"] == name
        assert answer.headers["X-Model-Version"] == models[name].current.version
        assert answer.json["outputs"] == expected(models, name, body)
        found = web.get(f"/v1/models/{name}/metadata").json
        assert (found["model"], found["version"]) == (name, models[name].current.version)
    assert web.score(body).headers["X-Model"] == "old"
    assert web.get("/v1/models").json == {
        "models": [
            {"name": name, "version": models[name].current.version, "share": share, "shadow": False}
            for name, share in (("old", 1.0), ("new", 0.0))
        ],
        "split_by": None,
    }
    missing = web.ask("POST", "/v1/models/nwe/score", json.dumps(body))
    assert missing.status == 404
    assert "did you mean '/v1/models/new/score'?" in missing.json["error"]


def test_traffic_is_shared_out_by_the_key(serving, models, sent):
    split = Split(shares={"new": 0.5}, by="user")
    web, seen = serving(models, SMALL, None, split), set()
    for user in range(20):
        body = sent(user)
        answer, name = web.score(body), split.chosen(user) or "old"
        assert answer.headers["X-Model"] == name
        assert answer.json["outputs"] == expected(models, name, body)
        seen.add(name)
    assert seen == {"old", "new"}
    refused = web.score({"rows": {**sent(1)["rows"], "user": [1, 2, 3]}})
    assert refused.status == 422
    assert "send a request for each" in refused.json["error"]


def test_a_key_that_no_bundle_needs_is_documented_and_not_ignored(serving, models, sent):
    web = serving(models, SMALL, None, Split(shares={"new": 0.5}, by="session"))
    body = sent(7)
    assert "column 'session' is missing" in web.score(body).json["error"]
    answer = web.score({"rows": {**body["rows"], "session": ["s"] * 3}})
    assert answer.status == 200
    assert "ignored" not in answer.json
    paths = web.get("/openapi.json").json["paths"]
    schema, own = (
        paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        for path in ("/v1/score", "/v1/models/old/score")
    )
    assert "session" in schema["example"]["rows"][0]
    assert web.score(schema["example"]).status == 200
    assert "session" not in own["example"]["rows"][0]


@pytest.mark.parametrize("more", [{}, {"explore": {"kind": "ucb"}, "top_k": 2}])
def test_a_shadow_is_compared_and_answers_nobody(models, sent, more):
    telemetry = Telemetry(Bodies(Limits()))
    shadows = Shadows(models, ("new",), telemetry)
    body = sent(7)
    given = models["old"].current.scorer(json.dumps(body).encode())

    async def look():
        asked = json.dumps(body | more).encode()  # which the shadow does not explore
        shadows.look(asked, given, "r1", Bodies(Limits()).room())
        await shadows.settled()

    asyncio.run(look())
    assert +telemetry.shadows == {("new", "scored"): 1}
    assert telemetry.shadow_rows == {"new": 3}
    old, new = (expected(models, name, body) for name in ("old", "new"))
    for output in old:
        difference = np.abs(np.subtract(old[output], new[output])).sum()
        assert telemetry.shadow_differences["new", output] == pytest.approx(difference, rel=1e-12)
    assert telemetry.rows == {"new": 3}
    scores = [models[name].current.scorer(json.dumps(body).encode()).score for name in models]
    same = np.argmax(scores[0]) == np.argmax(scores[1])
    assert telemetry.shadow_first == {"new": int(same)}
    assert b'polyrank_shadow_requests_total{model="new",outcome="scored"} 1.0' in (
        telemetry.exposition()
    )


def test_a_broken_shadow_is_counted_and_a_slow_one_skips(models, sent, caplog, monkeypatch):
    telemetry = Telemetry(Bodies(Limits()))
    shadows = Shadows(models, ("new",), telemetry)
    body = json.dumps(sent(7)).encode()
    given = models["old"].current.scorer(body)

    def fails(*_):
        raise ZeroDivisionError("in the shadow")

    monkeypatch.setattr(Scorer, "score", fails)

    async def look():
        for number in range(WAITING + 2):
            shadows.look(body, given, f"r{number}", Bodies(Limits()).room())
        await shadows.settled()

    caplog.set_level(logging.WARNING, "polyrank")
    asyncio.run(look())
    assert +telemetry.shadows == {("new", "failed"): WAITING, ("new", "skipped"): 2}
    assert caplog.records[0].fields["error"] == "ZeroDivisionError('in the shadow')"
    assert caplog.records[0].fields["request_id"] == "r0"


def test_only_shared_traffic_has_shadows(serving, models, sent):
    web, body = serving(models, SMALL, None, Split(shadows=("new",))), sent(7)
    web.ask("POST", "/v1/models/old/score", json.dumps(body))
    web.score(body)
    for _ in range(2000):
        text = web.get("/metrics").body
        if b'polyrank_shadow_requests_total{model="new",outcome="scored"} 1.0' in text:
            break
    else:
        raise AssertionError(text)
    assert web.get("/v1/models").json["models"][1]["shadow"] is True


def test_the_command_line_names_bundles_shares_and_shadows(exported, later, capsys):
    runs = [f"old={exported}", f"new={later}"]
    shares = ["--share", "new=.1", "--split-by", "session", "--shadow", "nex"]
    assert run(["serve", *runs, *shares, "--port", "0"]) == 1
    assert "no model 'nex' is served; did you mean 'new'?" in capsys.readouterr().err
    assert run(["serve", str(exported), str(later), "--port", "0"]) == 1
    assert "two models are called 'default': name each bundle, as in" in capsys.readouterr().err
