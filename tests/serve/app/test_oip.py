"""Version 2 of the Open Inference Protocol: what a public client sends is answered as rows are."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.serve.app import oip
from polyrank.serve.app.limits import Limits, Refused
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.export.write import export

PATH = "/v2/models/default/infer"
CLIENT = Path(__file__).parents[1] / "oip_client.py"
# An interpreter with tritonclient; `make oip` makes one.
PYTHON = os.environ.get("OIP_PYTHON") or (sys.executable if find_spec("tritonclient") else None)


@pytest.fixture(scope="module")
def scorer(engine):
    return Scorer(engine, 100)


@pytest.fixture(scope="module")
def sent(engine, rows):
    """Twelve rows with texts, lists of every length, nulls and large integers."""
    return {name: rows[name][:12] for name in [*engine.inputs, "margin"]}


@pytest.fixture
def asked(engine, sent):
    """The same as tensors in JSON."""
    lists = [each or [] for each in sent["seen"]]
    longest = max(map(len, lists))
    padded = [[*each, *["\ufdd1"] * (longest - len(each))] for each in lists]
    types = {each["name"]: each["datatype"] for each in oip.metadata("m", engine)["inputs"]}
    return {
        "inputs": [
            {"name": name, "shape": [12], "datatype": types[name], "data": values}
            if name != "seen"
            else {"name": name, "shape": [12, longest], "datatype": "BYTES", "data": padded}
            for name, values in sent.items()
        ]
    }


def infer(scorer, body, header=None):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return oip.infer(scorer, "m", header, raw)


def test_tensors_have_the_answer_of_rows(scorer, asked, sent):
    rows = json.loads(scorer(json.dumps({"rows": sent}).encode()).body)
    scored = infer(scorer, asked | {"id": "r7"})
    found = json.loads(scored.body)
    assert {key: found[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "m",
        "model_version": scorer.engine.version,
        "id": "r7",
    }
    outputs = {each["name"]: each["data"] for each in found["outputs"]}
    assert outputs == rows["outputs"] | {"score": rows["score"]}
    assert {each["datatype"] for each in found["outputs"]} == {"FP64"}
    assert scored.unseen == dict.fromkeys(scored.unseen, 0) | rows["unseen"]


def test_values_may_be_flat_and_of_other_types(scorer, asked):
    expected = json.loads(infer(scorer, asked).body)
    for each in asked["inputs"]:
        if each["name"] == "seen":
            each["data"] = [cell for row in each["data"] for cell in row]
        if each["name"] == "user":  # integers as texts
            each |= {"datatype": "BYTES", "data": [str(value) for value in each["data"]]}
        if each["name"] == "slot":
            each |= {"shape": [12, 1], "datatype": "UINT8"}
    assert json.loads(infer(scorer, asked).body) == expected


def test_only_the_outputs_asked_for_are_written_as_asked(scorer, asked):
    outputs = json.loads(infer(scorer, asked).body)["outputs"]
    every = {each["name"]: each["data"] for each in outputs}
    wanted = [{"name": "score"}, {"name": "p_buy", "parameters": {"binary_data": True}}]
    answer = infer(scorer, asked | {"outputs": wanted}).answer
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.media_type == "application/octet-stream"
    score, p_buy = json.loads(answer.content[:length])["outputs"]
    assert score["data"] == every["score"]
    assert p_buy["parameters"] == {"binary_data_size": 12 * 8}
    assert "data" not in p_buy
    assert np.frombuffer(answer.content[length:], "<f8").tolist() == every["p_buy"]


@pytest.mark.slow
def test_a_padded_list_loses_its_padding_and_its_weights(tmp_path):
    lists = pr.SequenceFeature("seen", weights="times", pooling="sum")
    schema = pr.Schema([lists, pr.SparseFeature("at", hash=9)], [pr.Task("click")])
    log = {
        "seen": [[1, 2], [2], [1, 1, 3]] * 8, "times": [[1.0, 2.0], [3.0], [1.0, 0.5, 2.0]] * 8,
        "at": ["a", "b", None] * 8, "click": [0, 1, 1] * 8,
    }  # fmt: skip
    bundle = pr.fit(schema, pr.Model(tower=[4]), train=log, epochs=1)
    bundle.save(tmp_path / "bundle")
    frame = {name: log[name] for name in schema.inputs}
    export(bundle, tmp_path / "bundle", [pl.DataFrame(frame)])
    scorer = Scorer(pr.Engine(tmp_path), 10)
    found = oip.metadata("m", scorer.engine)
    assert {each["name"]: (each["datatype"], each["shape"]) for each in found["inputs"]} == {
        "seen": ("INT64", [-1, -1]),
        "at": ("BYTES", [-1]),
        "times": ("FP64", [-1, -1]),
    }
    rest = 1 - 2**63
    cells = {
        "seen": ("INT64", [[1, 2, rest], [2, rest, rest], [1, 1, 3]]),
        "times": ("FP32", [[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [1.0, 0.5, 2.0]]),
    }
    body = {
        "inputs": [
            {"name": name, "shape": [3, 3], "datatype": datatype, "data": data}
            for name, (datatype, data) in cells.items()
        ]
        + [{"name": "at", "shape": [3], "datatype": "BYTES", "data": ["a", "b", "\ufdd0"]}]
    }
    plain = {name: values[:3] for name, values in frame.items()}
    rows = json.loads(scorer(json.dumps({"rows": plain}).encode()).body)
    assert json.loads(infer(scorer, body).body)["outputs"][0]["data"] == rows["outputs"]["p_click"]
    body["inputs"][1] |= {"shape": [3, 2], "data": [1.0] * 6}
    with pytest.raises(Refused, match="inputs 'seen' and 'times' must have one shape"):
        infer(scorer, body)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "usr"}, "the bundle has no input 'usr'; did you mean 'user'?"),
        ({"name": "city"}, "input 'city' is there twice"),
        ({"shape": [11]}, "input 'user': shape [11] of INT64 has 11 values, got 12"),
        ({"shape": []}, "the shape must be [rows], or [rows, length] of lists, got []"),
        ({"shape": [-12]}, "the shape must be [rows], or [rows, length] of lists, got [-12]"),
        ({"shape": [6, 2]}, "has a value for each row: its shape must be [rows], got [6, 2]"),
        ({"data": None}, "input 'user' has no data: send a list of its values"),
        ({"data": {}}, "input 'user' has an object as data: send a list"),
        ({"data": ["a"] * 12}, "input 'user' is INT64, and holds a string"),
        ({"data": [[1]] * 12}, "input 'user' is INT64, and holds a list"),
        ({"datatype": "INT"}, "the request is not one of version 2: Invalid enum value 'INT'"),
        ({"name": 3}, "Expected `str`, got `int` - at `$.inputs[0].name`"),
        ({"parameters": {"binary_data_size": 8}}, "binary_data_size must be bytes that follow, g"),
    ],
)
def test_a_wrong_tensor_is_refused(scorer, asked, changed, message):
    asked["inputs"][0] |= changed
    with pytest.raises(Refused, match=re.escape(message)):
        infer(scorer, asked)


def test_other_wrong_requests_are_refused(scorer, asked):
    seen = next(each for each in asked["inputs"] if each["name"] == "seen")
    flat = seen | {"shape": [2], "data": ["a", "b"]}
    for body, message in {
        (json.dumps(asked | {"outputs": [{"name": "p_bye"}]})): "no output 'p_bye'; did you mean",
        json.dumps({"inputs": [flat]}): "input 'seen' holds lists: its shape must be [rows, l",
        json.dumps({"inputs": asked["inputs"][1:]}): "column 'user' is missing from rows",
        json.dumps({"inputs": []}): "column 'user' is missing from rows",
        "[]": "the request is not one of version 2: Expected `object`, got `array`",
    }.items():
        with pytest.raises(Refused, match=re.escape(message)) as caught:
            infer(scorer, body.encode())
        assert caught.value.status == 422
    with pytest.raises(Refused, match="the body is not JSON in UTF-8") as caught:
        infer(scorer, b"{")
    assert caught.value.status == 400
    many = [
        each | {"shape": [1200, *each["shape"][1:]], "data": each["data"] * 100}
        for each in asked["inputs"]
    ]
    with pytest.raises(Refused, match="a request may have 100 rows, got 1,200") as caught:
        infer(scorer, {"inputs": many})
    assert caught.value.status == 413


def test_bytes_that_are_not_what_the_json_says_are_refused(scorer):
    def sent(raw, **tensor):
        one = {"name": "city", "shape": [1], "datatype": "BYTES", **tensor}
        head = json.dumps({"inputs": [one | {"parameters": {"binary_data_size": len(raw)}}]})
        return infer(scorer, head.encode() + raw, str(len(head)))

    for raw, tensor, message in [
        (b"\x02\0\0\0a", {}, "input 'city' ends within a text"),
        (b"\x01\0\0\0\xff", {}, "input 'city' holds a text that is not UTF-8"),
        (b"\x01\0\0\0a" * 2, {}, "shape [1] of BYTES has 1 values, got 2"),
        (b"\0" * 7, {"datatype": "INT64"}, "shape [1] of INT64 has 8 bytes, got 7"),
    ]:
        with pytest.raises(Refused, match=re.escape(message)):
            sent(raw, **tensor)
    with pytest.raises(Refused, match="3 bytes behind the JSON belong to no input"):
        infer(scorer, b'{"inputs": []}xyz', "14")
    for length in ("15", "-1", "x"):
        message = "Inference-Header-Content-Length must be the bytes of the JSON, at most 14, got"
        with pytest.raises(Refused, match=message) as caught:
            infer(scorer, b'{"inputs": []}', length)
        assert caught.value.status == 400


def test_the_routes_over_a_socket(serving, engine, asked):
    web = serving(engine, Limits(timeout_s=30))
    assert web.get("/v2").json["extensions"] == ["binary_tensor_data"]
    assert web.get("/v2/health/live").json == {"live": True}
    assert web.get("/v2/health/ready").json["ready"] is True
    assert web.get("/v2/models/default/ready").json["ready"] is True
    assert web.get("/v2/models/default").json == oip.metadata("default", engine)
    answer = web.ask("POST", PATH, json.dumps(asked))
    assert answer.status == 200
    assert answer.headers["X-Model"] == "default"
    refused = web.ask("POST", PATH, json.dumps({"inputs": asked["inputs"][:1]}))
    assert refused.status == 422
    assert "column 'city' is missing from rows" in refused.json["error"]


@pytest.mark.skipif(PYTHON is None, reason="needs tritonclient: make oip")
def test_a_public_client_gets_what_the_engine_predicts(serving, engine, scorer, sent, tmp_path):
    web = serving(engine, Limits(timeout_s=30))
    (tmp_path / "rows.json").write_text(json.dumps(sent), encoding="utf-8")
    command = [PYTHON, str(CLIENT), str(web.port), "default", str(tmp_path / "rows.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["server"]["name"] == "polyrank"
    assert found["model"] == oip.metadata("default", engine)
    rows = json.loads(scorer(json.dumps({"rows": sent}).encode()).body)
    expected = rows["outputs"] | {"score": rows["score"]}
    assert found["answers"] == [expected] * 5
    status, message = found["refused"]
    assert status == "422"
    assert "column 'user' is missing from rows" in message
