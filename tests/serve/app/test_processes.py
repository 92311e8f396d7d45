"""Several processes behind one socket: whatever becomes of one, each request is answered."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from http.client import RemoteDisconnected
from pathlib import Path
from threading import Event, Thread
from time import sleep

import polars as pl
import pytest

import polyrank as pr
from polyrank.cli.app import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="more than one worker needs Linux")


@pytest.fixture
def body(engine, rows):
    needed = [*engine.inputs, "margin"]
    return json.dumps({"rows": {name: rows[name][:20] for name in needed}}).encode()


@pytest.fixture
def several(client, tmp_path):
    """Start a server of two processes; nothing of it outlives the test.

    Its log is a file: a pipe that nobody reads would stop it after some hundred requests.
    """

    @contextmanager
    def start(folder, *options):
        command = [sys.executable, "-m", "polyrank", "serve", str(folder), "--port", "0"]
        log = tmp_path / "log"
        with (
            log.open("w") as written,
            subprocess.Popen(
                [*command, "--workers", "2", *options], stdout=subprocess.PIPE, stderr=written,
                text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
            ) as server,
        ):  # fmt: skip
            found = []
            try:
                line = server.stdout.readline()
                assert "serving" in line, log.read_text(encoding="utf-8")
                found = children(server.pid)
                yield server, client(int(line.rsplit(":", 1)[1]))
            finally:
                server.kill()
                for each in found:
                    gone(each)

    return start


def children(process):
    tasks = Path(f"/proc/{process}/task")
    texts = [(each / "children").read_text(encoding="ascii") for each in tasks.iterdir()]
    return [int(each) for each in " ".join(texts).split()]


def gone(process):
    """Wait for a process that is nobody's child to end."""
    while True:
        try:
            state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state.split()[0] == "Z":
            return


def metrics(web):
    text = web.get("/metrics").body.decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def until(check):
    for _ in range(100_000):
        if check():
            return
        sleep(0.001)  # for the processes that it waits for
    raise AssertionError("it did not come")


@pytest.mark.slow
def test_a_worker_that_is_restarted_under_load_loses_no_request(
    several, exported, body, engine, tmp_path
):
    sent = json.loads(body)["rows"]
    expected = engine.predict({name: sent[name] for name in engine.inputs})
    with several(exported, "--drain", "0.3") as (server, web):
        before = set(children(server.pid))
        assert len(before) == 2
        answers, faults, done = [], [], Event()

        def client():
            connection = web.connection()
            while not done.is_set():
                try:
                    answers.append(web.score(body, connection=connection))
                except (RemoteDisconnected, ConnectionError):
                    connection.close()  # closed while idle, before a byte: sent again
                except Exception as fault:  # noqa: BLE001
                    faults.append(fault)
                    break
            connection.close()

        threads = [Thread(target=client) for _ in range(4)]
        for each in threads:
            each.start()
        try:
            for number in range(2):
                (old, *_) = before & set(children(server.pid))
                os.kill(old, signal.SIGTERM)
                until(lambda old=old: old not in children(server.pid))
                until(lambda: len(children(server.pid)) == 2)
                name = f'polyrank_bundle{{model="default",version="{engine.version}"}}'
                until(lambda name=name: metrics(web).get(name) == 2)
                assert len(before & set(children(server.pid))) == 1 - number
        finally:  # else they would go on for ever
            done.set()
        for each in threads:
            each.join(60)
        until(lambda: metrics(web)['polyrank_rows_total{model="default"}'] >= 20 * len(answers))
        counted = metrics(web)['polyrank_rows_total{model="default"}']
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert faults == []
    assert server.returncode == 0
    assert {answer.status for answer in answers} == {200}
    for answer in answers:
        assert answer.json["outputs"] == expected.to_dict(as_series=False)
    assert counted == 20 * len(answers)  # each once, whoever counted it
    log = (tmp_path / "log").read_text(encoding="utf-8")
    said = [json.loads(line) for line in log.splitlines()]
    assert sum(each["message"] == "a worker ended" for each in said) == 2
    assert not [each for each in said if each["level"] == "error"]


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_a_reload_reaches_all(
    several, run_folder, exported, later, body
):
    with several(run_folder(exported)) as (server, web):
        first, second = children(server.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(children(server.pid)) == 2 and first not in children(server.pid))
        assert web.score(body).status == 200
        run_folder(later)
        version = pr.Engine(later).version
        name = f'polyrank_bundle{{model="default",version="{version}"}}'
        server.send_signal(signal.SIGHUP)
        until(lambda: metrics(web).get(name) == 2)
        assert second in children(server.pid)
        assert web.score(body).headers["X-Model-Version"] == version
        run_folder(exported)
        version = pr.Engine(exported).version
        name = f'polyrank_bundle{{model="default",version="{version}"}}'
        server.send_signal(signal.SIGHUP)
        os.kill(second, signal.SIGKILL)  # within its reload, or about it
        until(lambda: metrics(web).get(name) == 2)
        assert web.score(body).headers["X-Model-Version"] == version
        server.send_signal(signal.SIGINT)
        server.wait(60)
    assert server.returncode == 0


@pytest.mark.slow
def test_workers_log_into_one_folder_and_what_is_killed_loses_what_it_holds(
    several, exported, body, tmp_path
):
    folder = tmp_path / "rows"
    options = ("--log-rows", str(folder), "--log-column", "request_id", "--log-column", "user")
    sizes = ("--log-share", "1", "--log-file-rows", "60", "--log-file-seconds", "1000")

    def kept():
        return pl.read_parquet(folder / "*.parquet") if any(folder.glob("*.parquet")) else None

    def named(worker, count):
        """Let one worker alone answer some requests; return their ids."""
        for each in children(server.pid):
            os.kill(each, signal.SIGCONT if each == worker else signal.SIGSTOP)
        ids = [f"{worker}-{number}" for number in range(count)]
        for each in ids:
            assert web.score(body, {"X-Request-ID": each}).status == 200
        for each in children(server.pid):
            os.kill(each, signal.SIGCONT)
        return ids

    with several(exported, "--drain", "0", *options, *sizes) as (server, web):
        first, second = children(server.pid)
        one, two = named(first, 7), named(second, 8)
        until(lambda: (found := kept()) is not None and found.height == 20 * 12)
        os.kill(second, signal.SIGKILL)  # it holds two requests
        until(lambda: len(children(server.pid)) == 2 and second not in children(server.pid))
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert server.returncode == 0
    assert set(kept()["request_id"]) == {*one, *two[:6]}
    assert kept().height == 20 * 13
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(several, exported, tmp_path):
    with several(exported, "--drain", "0") as (server, _):
        workers = children(server.pid)
        server.kill()
        server.wait(60)
        assert list(tmp_path.glob("polyrank-serve-*"))
        for each in workers:
            gone(each)
    assert not list(tmp_path.glob("polyrank-serve-*"))


def test_a_bundle_that_cannot_be_served_is_refused_with_its_reason(capsys, tmp_path, bundle):
    bundle.save(tmp_path / "plain")
    assert run(["serve", str(tmp_path / "plain"), "--port", "0", "--workers", "2"]) == 1
    assert "has no model.onnx: run `polyrank export" in capsys.readouterr().err
    assert run(["serve", str(tmp_path / "plain"), "--port", "0", "--workers", "0"]) == 1
    assert "workers must be a whole number of at least 1, got 0" in capsys.readouterr().err


def test_more_than_one_needs_a_system_that_has_it(monkeypatch, capsys, exported):
    monkeypatch.delattr(signal, "sigtimedwait")
    assert run(["serve", str(exported), "--port", "0", "--workers", "2"]) == 1
    assert "more than one worker needs Linux: leave --workers out" in capsys.readouterr().err
