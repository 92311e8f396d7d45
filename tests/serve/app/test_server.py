"""The process: how it starts, what it refuses, and that it ends without losing an answer."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from http.client import RemoteDisconnected
from threading import Event, Thread

import pytest

import polyrank as pr
from polyrank.cli.app import run
from polyrank.errors import PolyrankError
from polyrank.serve.app.sockets import listen, url

CLIENTS, ENOUGH = 6, 5


@pytest.fixture
def log(tmp_path):
    """The file of the server's log: a pipe that nobody reads would stop it when it is full."""
    return tmp_path / "log"


@pytest.fixture
def process(client, log):
    """Start `polyrank serve` on a free port; whatever happens, it does not outlive the test."""
    return partial(start, client, log)


@contextmanager
def start(client, log, folder, *options):
    command = [sys.executable, "-m", "polyrank", "serve", str(folder), "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        ) as started,
    ):
        try:
            line = started.stdout.readline()
            assert "serving" in line, log.read_text(encoding="utf-8")
            yield started, client(int(line.rsplit(":", 1)[1]))
        finally:
            started.kill()


@pytest.fixture
def body(engine, rows):
    needed = [*engine.inputs, "margin"]
    return json.dumps({"rows": {name: rows[name][:20] for name in needed}}).encode()


@pytest.fixture
def expected(engine, rows):
    found = engine.predict({name: rows[name][:20] for name in engine.inputs})
    return found.to_dict(as_series=False)


@pytest.fixture
def command(capsys):
    """Run a command line in this process: exit code, standard output, standard error."""

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def lines(log):
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def test_sigterm_under_load_loses_no_answer(process, exported, body, expected, log):
    with process(exported, "--drain", "0.5") as (server, web):
        answers, faults, under_way = [], [], Event()

        def ask_until_refused():
            mine, connection = 0, web.connection()
            while True:
                try:
                    answer = web.score(body, connection=connection)
                except (RemoteDisconnected, ConnectionError) as refused:
                    return refused  # not a byte of an answer: it may be sent to another server
                finally:
                    connection.close()
                answers.append(answer)
                mine += 1
                if mine == ENOUGH:
                    ready.append(1)
                    if len(ready) == CLIENTS:
                        under_way.set()

        def client():
            try:
                ask_until_refused()
            except Exception as fault:  # noqa: BLE001  half an answer, whatever it looks like
                faults.append(fault)

        ready = []
        threads = [Thread(target=client) for _ in range(CLIENTS)]
        for each in threads:
            each.start()
        assert under_way.wait(60)
        server.send_signal(signal.SIGTERM)
        for each in threads:
            each.join(60)
        server.wait(60)
    assert faults == []
    assert server.returncode == 0
    assert len(answers) >= CLIENTS * ENOUGH
    for answer in answers:
        assert answer.status == 200
        assert answer.json["outputs"] == expected
    said = lines(log)
    assert sum(each.get("status") == 200 for each in said) == len(answers)
    assert not [each for each in said if each["level"] == "error"]
    assert [each["message"] for each in said if each["logger"].endswith("server")] == [
        "SIGTERM: draining for 0.5 s",
        "stopped",
    ]
    assert any(answer.headers["Connection"] == "close" for answer in answers)


def test_bundles_replaced_under_load_lose_no_request_and_mix_no_answer(
    process, run_folder, exported, later, rows
):
    """Each answer is that of one bundle, by the version that it names, to the last digit."""
    engines = {(engine := pr.Engine(folder)).version: engine for folder in (exported, later)}
    needed = engine.inputs
    sent = {name: rows[name][:20] for name in [*needed, "margin"]}
    body = json.dumps({"rows": sent}).encode()
    expected = {
        version: each.predict({name: sent[name] for name in needed}).to_dict(as_series=False)
        for version, each in engines.items()
    }
    folder = run_folder(exported)
    with process(folder, "--drain", "0.5") as (server, web):
        answers, faults, done = [], [], Event()

        def client():
            connection = web.connection()
            try:
                while not done.is_set():
                    answers.append(web.score(body, connection=connection))
            except Exception as fault:  # noqa: BLE001  any lost answer
                faults.append(fault)
            finally:
                connection.close()

        def counted(outcome):
            name = f'polyrank_reloads_total{{model="default",outcome="{outcome}"}} '
            (line,) = [
                each for each in web.get("/metrics").body.decode().splitlines() if name in each
            ]
            return float(line.removeprefix(name))

        threads = [Thread(target=client) for _ in range(3)]
        for each in threads:
            each.start()
        for number, bundle in enumerate([later, exported, later], 1):
            run_folder(bundle)
            server.send_signal(signal.SIGHUP)
            while counted("loaded") < number:
                pass
            with (folder / "bundle" / "model.onnx").open("r+b") as file:
                file.truncate(1000)
            server.send_signal(signal.SIGHUP)
            while counted("refused") < number:
                pass
        done.set()
        for each in threads:
            each.join(60)
        last = web.score(body)
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert faults == []
    assert {answer.status for answer in answers} == {200}
    for answer in [*answers, last]:
        assert answer.headers["X-Model"] == "default"
        assert answer.json["outputs"] == expected[answer.headers["X-Model-Version"]]
    assert {answer.headers["X-Model-Version"] for answer in answers} == set(expected)
    assert last.headers["X-Model-Version"] == pr.Engine(later).version


def test_a_body_that_is_half_there_at_sigterm_is_answered(process, exported, body, expected):
    with process(exported) as (server, web), web.socket() as half:
        head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        half.sendall(head.encode() + body[:10])
        server.send_signal(signal.SIGTERM)
        while web.get("/readyz").status != 503:  # connections are still accepted
            pass
        half.sendall(body[10:])
        headers, _, answer = half.makefile("rb").read().partition(b"\r\n\r\n")
        assert headers.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in headers.lower()
        assert json.loads(answer)["outputs"] == expected
        server.wait(60)
    assert server.returncode == 0


def test_a_second_signal_ends_it_at_once(process, exported, log):
    with process(exported, "--drain", "600") as (server, web):
        server.send_signal(signal.SIGINT)
        while web.get("/readyz").status != 503:
            pass
        server.send_signal(signal.SIGINT)
        server.wait(60)
    assert server.returncode == 0
    assert "SIGINT again: stopping at once" in [each["message"] for each in lines(log)]


def test_a_port_in_use_is_refused(exported, command):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, out, err = command("serve", exported, "--port", port)
    assert (code, out) == (1, "")
    assert err == (
        f"error: cannot listen on '127.0.0.1', port {port}: Address already in use; choose another "
        "with --host and --port (0 takes any free port)\n"
    )


def test_a_bundle_that_cannot_be_served_is_refused_before_anything_is_bound(
    exported, bundle, command, tmp_path, monkeypatch
):
    def bound(*_):
        raise AssertionError("a socket was bound")

    monkeypatch.setattr(socket.socket, "bind", bound)
    corrupt = shutil.copytree(exported, tmp_path / "corrupt")
    with (corrupt / "model.onnx").open("r+b") as file:
        file.truncate(1000)
    bundle.save(tmp_path / "plain")
    for folder, message in {
        corrupt: "model.onnx is not the file that was written",
        tmp_path / "plain": "has no model.onnx: run `polyrank export",
        tmp_path / "nowhere": "does not exist",
    }.items():
        code, out, err = command("serve", folder)
        assert (code, out) == (1, "")
        assert message in err


def test_what_the_server_needs_is_named(exported, command, monkeypatch):
    monkeypatch.setattr("polyrank.serve.extra.find_spec", lambda _: None)
    code, _, err = command("serve", exported)
    assert code == 1
    assert err == (
        "error: the server needs msgspec, onnxruntime, prometheus_client, starlette, uvicorn: "
        "pip install 'polyrank[serve]'\n"
    )


def test_no_thread_is_refused(exported, command):
    code, _, err = command("serve", exported, "--threads", 0)
    assert (code, err) == (1, "error: threads must be a whole number of at least 1, got 0\n")


def test_an_invalid_limit_is_refused(exported, command):
    code, _, err = command("serve", exported, "--queue", 0)
    assert code == 1
    assert "limit queue must be a whole number of at least 1, got 0" in err


def test_an_invalid_address_is_refused(monkeypatch):
    with pytest.raises(
        PolyrankError,
        match=r"port must be a whole number of at least 0 and at most 65,535, got 70000",
    ):
        listen("127.0.0.1", 70_000)

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        PolyrankError, match="cannot listen on 'nowhere', port 1: Name or service not known; choose"
    ):
        listen("nowhere", 1)


def test_an_address_is_written_as_a_url():
    with listen("127.0.0.1", 0) as found:
        assert url(found) == f"http://127.0.0.1:{found.getsockname()[1]}"
