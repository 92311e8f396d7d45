"""Requests that are kept as rows: which, what of them, and in how many bytes."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from threading import Event

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.bundle.model import load
from polyrank.cli.app import run
from polyrank.errors import ConfigError
from polyrank.report.monitoring import monitor
from polyrank.serve.app import sampler as under_test
from polyrank.serve.app.limits import Limits
from polyrank.serve.app.models import Model, Models
from polyrank.serve.app.sampled import Sampled, check, columns_known, frame_of
from polyrank.serve.app.sampler import WAITING, Files, Sampler
from polyrank.serve.app.sampling import Sampling

SMALL = Limits(rows=300, timeout_s=30)


@pytest.fixture(scope="module")
def loaded(engine):
    return Model("default", engine, 300).current


@pytest.fixture
def scored(loaded, body):
    return loaded.scorer(json.dumps(body).encode())


@pytest.fixture
def body(engine, rows):
    names = [*engine.inputs, "margin"]
    return {"rows": {name: rows[name][:50] for name in names} | {"secret": ["s3cret"] * 50}}


def kept(folder, pattern="*.parquet"):
    return pl.read_parquet(folder / pattern)


def test_monitor_reads_what_was_logged_and_predicts_it_alike(
    serving, engine, exported, rows, body, tmp_path, capsys
):
    told = ("score", "request_id", "row", "version", "time")
    columns = (*engine.inputs, "margin", *engine.outputs, *told)
    sampling = Sampling(folder=str(tmp_path), columns=columns, share=1.0, file_rows=50)
    web = serving(engine, SMALL, None, None, sampling)
    answer = web.score(body, {"X-Request-ID": "r1"})
    while not list(tmp_path.glob("*.parquet")):
        web.get("/metrics")
    found = kept(tmp_path)
    assert found.columns == list(columns)
    assert found["request_id"].unique().to_list() == ["r1"]
    assert found["row"].to_list() == list(range(50))
    assert found["version"].unique().to_list() == [engine.version]
    assert found["time"].dtype == pl.Datetime("us", "UTC")
    assert found["score"].to_list() == answer.json["score"]
    predicted = engine.predict(found)
    for name, values in answer.json["outputs"].items():
        assert found[name].to_list() == values
        assert predicted[name].to_list() == values
    assert monitor(load(exported), str(tmp_path / "*.parquet")).rows == 50
    assert run(["monitor", str(exported), f"{tmp_path}/*.parquet", "--json"]) in (0, 3)
    assert json.loads(capsys.readouterr().out)["rows"] == 50
    labels = pl.DataFrame(
        {
            "request_id": ["r1"] * 30, "row": np.arange(30), "user": rows["user"][:30],
            **{name: rows[name][:30] for name in ("click", "buy", "spend")},
        }
    )  # fmt: skip
    key = ("request_id", "row", "user")  # logged as text, and a number in the labels
    card = monitor(load(exported), str(tmp_path / "*.parquet"), labels=labels, key=key).scorecard
    assert card["click @ all"].rows == 30


def test_nothing_is_written_that_was_not_named(serving, engine, body, tmp_path):
    sampling = Sampling(folder=str(tmp_path), columns=("price",), share=1.0, file_rows=50)
    web = serving(engine, SMALL, None, None, sampling)
    web.score(body, {"X-Request-ID": "r1"})
    while not list(tmp_path.glob("*.parquet")):
        web.get("/metrics")
    (file,) = tmp_path.iterdir()
    assert pl.read_parquet(file).columns == ["price"]
    written = file.read_bytes()
    for text in ("s3cret", "Zürich", "user", "p_click", "r1"):
        assert text.encode() not in written
    assert b'polyrank_sampled_requests_total{model="default",outcome="written"} 1.0' in (
        web.get("/metrics").body
    )


def test_by_default_nothing_is_written(serving, engine, body):
    web = serving(engine, SMALL)
    web.score(body)
    assert b"polyrank_sampled" not in web.get("/metrics").body


def test_a_share_is_chosen_by_the_id_and_a_larger_one_keeps_it():
    ids = [f"request {number}" for number in range(20_000)]
    few, more, every = (
        {each for each in ids if Sampling(folder="f", columns=("a",), share=share).chosen(each)}
        for share in (0.01, 0.1, 1.0)
    )
    assert few < more < every == set(ids)
    assert len(few) == pytest.approx(200, abs=4 * 200**0.5)
    assert len(more) == pytest.approx(2000, abs=4 * 1800**0.5)


def test_all_forms_of_a_request_give_its_rows(loaded, engine, rows):
    names, columns = [*engine.inputs, "margin"], ("user", "seen", "age", "margin")
    table = {name: rows[name][:3] for name in names}
    records = [{name: table[name][row] for name in names} for row in range(3)]
    context = {"user": 7.0, "seen": ["x", None]}
    own = {name: values for name, values in table.items() if name not in context}
    one = [{name: record[name] for name in own} for record in records]
    found = []
    for given in (
        {"rows": table},
        {"rows": records},
        {"context": context, "candidates": own},
        {"context": context, "candidates": one},
    ):
        scored = loaded.scorer(json.dumps(given).encode())
        sampled = Sampled(loaded, scored, "r", datetime.now(UTC), 1)
        found.append(frame_of(sampled, columns))
    assert found[0].equals(found[1])
    assert found[2].equals(found[3])
    assert found[0]["user"].to_list() == [str(each) for each in table["user"]]
    assert found[2]["user"].to_list() == ["7"] * 3
    assert found[2]["seen"].to_list() == [["x", None]] * 3
    assert {name: str(dtype) for name, dtype in found[0].schema.items()} == {
        "user": "String", "seen": "List(String)", "age": "Float64", "margin": "Float64",
    }  # fmt: skip


def test_what_explored_is_logged_with_its_propensity(sure, rows):
    engine = pr.Engine(sure)
    loaded, columns = Model("default", engine, 300).current, ("explored", "propensity", "score")
    given = {"rows": {name: rows[name][:6] for name in [*engine.inputs, "margin"]}}
    for how in ({"kind": "thompson", "seed": 3}, {"kind": "ucb"}, None):
        asked = given | ({"explore": how} if how else {})
        scored = loaded.scorer(json.dumps(asked).encode())
        found = frame_of(Sampled(loaded, scored, "r", datetime.now(UTC), 1), columns)
        assert found.columns == list(columns)
        assert found["propensity"].dtype == pl.Float64
        answer = json.loads(scored.body)
        for name, key in (("explored", "score"), ("propensity", "propensity")):
            values = answer.get("explored", {}).get(key)
            assert found[name].to_list() == (values or [None] * 6)


def test_tensors_are_logged_too_and_refused_requests_are_not(serving, engine, tmp_path):
    sampling = Sampling(folder=str(tmp_path), columns=("city", "seen"), share=1.0, file_rows=1)
    web = serving(engine, SMALL, None, None, sampling)
    assert web.score({"rows": [{}]}).status == 422
    example = web.get("/openapi.json").json["paths"]["/v2/models/default/infer"]["post"]
    example = example["requestBody"]["content"]["application/json"]["schema"]["example"]
    assert web.ask("POST", "/v2/models/default/infer", json.dumps(example)).status == 200
    while not list(tmp_path.glob("*.parquet")):
        web.get("/metrics")
    sent = {each["name"]: each["data"] for each in example["inputs"]}
    assert kept(tmp_path).to_dicts() == [{"city": sent["city"][0], "seen": sent["seen"]}]


def test_each_model_has_files_of_its_own(serving, exported, later, body, tmp_path):
    engines = {"old": pr.Engine(exported), "new": pr.Engine(later)}
    models = Models([Model(name, each, 300) for name, each in engines.items()])
    sampling = Sampling(folder=str(tmp_path), columns=("price", "version"), share=1.0, file_rows=50)
    web = serving(models, SMALL, None, None, sampling)
    for name in engines:
        web.ask("POST", f"/v1/models/{name}/score", json.dumps(body))
    while len(list(tmp_path.glob("*.parquet"))) < 2:
        web.get("/metrics")
    for name, each in engines.items():
        found = kept(tmp_path, f"{name}@*.parquet")
        assert found["version"].unique().to_list() == [each.version]
        assert found.height == 50


def used(sampling, work):
    """Run work with a sampler in an event loop; return its counts once it is closed."""
    counts = {}

    def count(_, outcome, requests):
        counts[outcome] = counts.get(outcome, 0) + requests

    async def main():
        sampler = Sampler(sampling, count)
        try:
            work(sampler)
        finally:
            await asyncio.get_running_loop().run_in_executor(None, sampler.close)
        await asyncio.sleep(0)  # for what the thread has told

    asyncio.run(main())
    return counts


@pytest.mark.parametrize(
    ("due", "files"),
    [({}, 1), ({"file_rows": 100}, 3), ({"file_mb": 1e-6}, 6), ({"file_s": 1e-9}, 6)],
)
def test_a_file_is_written_by_rows_by_size_by_time_and_in_the_end(
    loaded, scored, tmp_path, due, files
):
    sampling = Sampling(folder=str(tmp_path), columns=("price",), share=1.0, **due)

    def work(sampler):
        for number in range(6):
            sampler.look(loaded, scored, f"r{number}", 10)

    assert used(sampling, work) == {"written": 6}
    assert len(list(tmp_path.iterdir())) == files
    assert kept(tmp_path).height == 300


def test_the_oldest_files_leave_and_no_file_of_others(tmp_path):
    frame = pl.DataFrame({"x": np.random.default_rng(1).normal(size=1000)})
    other = tmp_path / "mine.parquet"
    other.write_bytes(b"x" * 50_000)
    files, seen = Files(tmp_path, 30_000), []
    for _ in range(8):
        files.write("default", frame)
        now = sorted(each.name for each in tmp_path.glob("default@*"))
        seen += [each for each in now if each not in seen]
        assert now == seen[-len(now) :]
        assert sum((tmp_path / each).stat().st_size for each in now) <= 30_000
    assert 1 < len(now) < 8
    assert other.exists()
    with pytest.raises(OSError, match="is more than the 100 that all may have: raise --log-mb"):
        Files(tmp_path, 100).write("default", frame)
    assert sorted(each.name for each in tmp_path.glob("default@*")) == now
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_logged_once_and_scoring_goes_on(
    loaded, scored, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "polyrank")
    real, full = pl.DataFrame.write_parquet, [True] * 3

    def write(frame, path):
        path.write_bytes(b"half")
        if full and full.pop():
            raise OSError(28, "No space left on device")
        real(frame, path)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", write)
    sampling = Sampling(folder=str(tmp_path), columns=("price",), share=1.0, file_rows=1)

    def work(sampler):
        for number in range(5):
            sampler.look(loaded, scored, f"r{number}", 10)

    assert used(sampling, work) == {"failed": 3, "written": 2}
    assert kept(tmp_path).height == 100
    assert len(list(tmp_path.iterdir())) == 2
    assert [each.getMessage() for each in caplog.records] == [
        "logged rows cannot be written, and are lost until they can",
        "logged rows are written again",
    ]
    assert "No space left on device" in caplog.records[0].fields["error"]


def test_a_slow_disk_drops_and_never_blocks(loaded, scored, tmp_path, monkeypatch):
    begun, go = Event(), Event()

    def slow(*_):
        begun.set()
        assert go.wait(60)

    monkeypatch.setattr(Files, "write", slow)
    sampling = Sampling(folder=str(tmp_path), columns=("price",), share=1.0, file_rows=1)

    def work(sampler):
        sampler.look(loaded, scored, "r", 10)
        assert begun.wait(60)
        for number in range(WAITING + 3):
            sampler.look(loaded, scored, f"r{number}", 10)
        go.set()

    assert used(sampling, work) == {"dropped": 3, "written": WAITING + 1}


def test_bodies_that_wait_are_bounded(loaded, scored, tmp_path, monkeypatch):
    begun, go = Event(), Event()

    def slow(*_):
        begun.set()
        assert go.wait(60)

    monkeypatch.setattr(Files, "write", slow)
    monkeypatch.setattr(under_test, "WAITING_MB", 1.0)
    sampling = Sampling(folder=str(tmp_path), columns=("price",), share=1.0, file_rows=1)

    def work(sampler):
        sampler.look(loaded, scored, "r", 10)
        assert begun.wait(60)
        for number in range(3):
            sampler.look(loaded, scored, f"r{number}", 2**19)
        go.set()

    counts = used(sampling, work)
    assert counts["dropped"] >= 1
    assert counts["dropped"] + counts["written"] == 4


def test_a_value_that_is_none_is_counted_and_not_quoted(loaded, rows, engine, tmp_path, caplog):
    names = [*engine.inputs, "margin"]
    table = {name: rows[name][:2] for name in names}
    scored = loaded.scorer(json.dumps({"rows": table}).encode())
    scored.given["rows"]["price"] = [{"secret": 1}, 2]
    sampling = Sampling(folder=str(tmp_path), columns=("price",), share=1.0)

    def work(sampler):
        for number in range(2):
            sampler.look(loaded, scored, f"r{number}", 10)

    assert used(sampling, work) == {"unreadable": 2}
    (record,) = caplog.records
    assert record.fields["request_id"] == "r0"
    assert "secret" not in str(record.fields)


KILLED = """
import os, signal, sys
from pathlib import Path
import polars as pl
from polyrank.serve.app.sampler import Files

files, frame = Files(Path(sys.argv[1]), 10**9), pl.DataFrame({"x": [1.0, 2.0]})
files.write("default", frame)
real = pl.DataFrame.write_parquet

def killed(frame, path):
    real(frame, path)
    with path.open("r+b") as file:
        file.truncate(10)
    os.kill(os.getpid(), signal.SIGKILL)

pl.DataFrame.write_parquet = killed
files.write("default", frame)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_kill_9_in_rotation_leaves_no_half_of_a_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert kept(tmp_path)["x"].to_list() == [1.0, 2.0]
    assert len(list(tmp_path.iterdir())) == 2  # and a half, under another name
    Files(tmp_path, 10**9).write("default", pl.DataFrame({"x": [3.0]}))
    assert kept(tmp_path)["x"].to_list() == [1.0, 2.0, 3.0]
    assert not list(tmp_path.glob(".*"))


SERVER = """
import os, signal, sys
import polars as pl
from polyrank.cli.app import run

real, left = pl.DataFrame.write_parquet, [1, 1]

def killed(frame, path):
    real(frame, path)
    if not left:
        os.truncate(path, 10)
        os.kill(os.getpid(), signal.SIGKILL)
    left.pop()

pl.DataFrame.write_parquet = killed
run(["serve", *sys.argv[1:]])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_server_that_is_killed_in_rotation_loses_the_rows_it_holds_and_no_answer(
    exported, body, client, tmp_path
):
    folder = tmp_path / "rows"
    options = ["--log-rows", str(folder), "--log-column", "request_id", "--log-share", "1"]
    command = [sys.executable, "-c", SERVER, str(exported), "--port", "0", *options]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--log-file-rows", "100"], stdout=subprocess.PIPE, stderr=log, text=True
        ) as server,
    ):
        try:
            web = client(int(server.stdout.readline().rsplit(":", 1)[1]))
            for number in range(6):  # 50 rows each: the third file is that of the last two
                assert web.score(body, {"X-Request-ID": f"r{number}"}).status == 200
            assert server.wait(60) == -signal.SIGKILL
        finally:
            server.kill()
    assert sorted(set(kept(folder)["request_id"])) == ["r0", "r1", "r2", "r3"]
    assert kept(folder).height == 200
    assert len(list(folder.glob(".*"))) == 1  # the half
    Files(folder, 10**9).write("default", pl.DataFrame({"request_id": ["r6"]}))
    assert not list(folder.glob(".*"))


def test_a_reload_in_mid_buffer_begins_another_file(run_folder, exported, later, body, tmp_path):
    path = run_folder(exported)
    model = Model("default", pr.Engine(path), 300, path=path)
    before = model.current
    scored = before.scorer(json.dumps(body).encode())
    folder = tmp_path / "rows"
    sampling = Sampling(folder=str(folder), columns=("version", "price", "request_id"), share=1.0)

    def work(sampler):
        for number in range(2):
            sampler.look(before, scored, f"r{number}", 10)
        run_folder(later)
        assert model.reload()
        sampler.look(model.current, model.current.scorer(json.dumps(body).encode()), "r2", 10)
        sampler.look(before, scored, "r3", 10)  # it took the bundle before the reload

    assert used(sampling, work) == {"written": 4}
    versions = [pr.Engine(each).version for each in (exported, later)]
    files = [pl.read_parquet(each) for each in sorted(folder.iterdir())]
    assert [each["version"].unique().to_list() for each in files] == [
        [versions[0]], [versions[1]], [versions[0]],
    ]  # fmt: skip
    assert [each["request_id"].unique().sort().to_list() for each in files] == [
        ["r0", "r1"], ["r2"], ["r3"],
    ]  # fmt: skip


def test_what_is_written_after_the_last_answer_is_counted(loaded, scored, tmp_path):
    counts = []
    sampling = Sampling(folder=str(tmp_path), columns=("price",), share=1.0)

    async def main():
        sampler = Sampler(sampling, lambda *given: counts.append(given))
        sampler.look(loaded, scored, "r", 10)
        return sampler

    asyncio.run(main()).close()
    assert counts == [("default", "written", 1)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"columns": ()}, "no column is logged unless it is named"),
        ({"columns": ("a", "a")}, "column 'a' to log is named twice"),
        ({"share": 0.0}, "log share must be a number above 0 and at most 1, got 0.0"),
        ({"share": 1.5}, "log share must be a number above 0 and at most 1, got 1.5"),
        ({"file_rows": 0}, "log file rows must be a whole number"),
        ({"file_mb": 0.0}, "log file_mb must be a number above 0, got 0.0"),
        ({"file_s": 0.0}, "log file_s must be a number above 0, got 0.0"),
        ({"most_mb": -1.0}, "log most_mb must be a number above 0, got -1.0"),
    ],
)
def test_what_cannot_be_sampled_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**{"folder": "f", "columns": ("a",), **given})


def test_unknown_columns_and_folders_are_refused(engine, tmp_path):
    models = Models([Model("default", engine, 300)])
    known = columns_known(engine)
    assert {"user", "margin", "p_buy", "score", "request_id"} <= set(known)
    check(Sampling(folder=str(tmp_path / "new"), columns=known), models)
    assert (tmp_path / "new").is_dir()
    with pytest.raises(
        ConfigError,
        match=r"'prise' to log is neither.*did you mean 'price'\? \(known: 'age', [^()]*\)$",
    ):
        check(Sampling(folder=str(tmp_path), columns=("prise",)), models)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="of logged rows could not be written"):
        check(Sampling(folder=str(tmp_path / "file"), columns=("price",)), models)


def test_the_command_line_refuses_options_without_a_folder(exported, tmp_path, capsys):
    assert run(["serve", str(exported), "--log-share", ".1"]) == 1
    assert "give --log-rows FOLDER" in capsys.readouterr().err
    assert run(["serve", str(exported), "--log-rows", str(tmp_path)]) == 1
    assert "give --log-column for each one to keep" in capsys.readouterr().err
    assert run(["serve", str(exported), "--log-rows", str(tmp_path), "--log-column", "usr"]) == 1
    assert "column 'usr' to log" in capsys.readouterr().err
