"""Clients that send too large a head, or nothing, or read nothing: each is given up and counted."""

import json
import socket

import pytest

from polyrank.serve.app.limits import Limits

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
HASTY = Limits(timeout_s=0.2, head_kb=4)


@pytest.fixture
def web(serving, engine):
    return serving(engine, HASTY)


def refused(web, reason):
    name = f'polyrank_connections_refused_total{{reason="{reason}"}} '
    (line,) = [each for each in web.get("/metrics").body.decode().splitlines() if name in each]
    return float(line.removeprefix(name))


def everything(connection):
    """What comes until the server closes; a reset ends it too."""
    found = b""
    try:
        while some := connection.recv(1 << 16):
            found += some
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize(
    "rest",
    [
        b"X: " + b"x" * 8192 + b"\r\n\r\n",  # one header, in one piece
        b"X: " + b"x" * 8192,  # that does not end
        b"".join(b"X%d: x\r\n" % number for number in range(1000)) + b"\r\n",  # many
        b"".join(b"X%d: x\r\n" % number for number in range(1000)),
    ],
)
def test_a_head_above_the_limit_is_431(web, rest):
    with web.socket() as client:
        client.sendall(HEAD + rest)
        assert everything(client).startswith(b"HTTP/1.1 431 ")
    assert refused(web, "head") == 1
    assert web.get("/healthz").status == 200


def test_a_url_counts_too(web):
    with web.socket() as client:
        client.sendall(b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert everything(client).startswith(b"HTTP/1.1 431 ")


def test_the_body_behind_a_head_that_is_too_large_is_no_body(web):
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX: " + b"x" * 8192
    with web.socket() as client:
        client.sendall(head + b"\r\n\r\nabc" + HEAD + b"\r\n")
        answer = everything(client)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_large_body_is_no_head(web, engine, rows):
    names = [*engine.inputs, "margin"]
    body = {"rows": {name: rows[name][:200] for name in names}}
    assert len(json.dumps(body)) > HASTY.head_bytes
    for _ in range(2):
        assert web.score(body).status == 200
    assert refused(web, "head") == 0


@pytest.mark.parametrize("begun", [b"G", HEAD, b"POST /v1/score HTTP/1.1\r\nContent-Le"])
def test_a_head_that_does_not_end_is_408(web, begun):
    with web.socket() as client:
        client.sendall(begun)
        assert everything(client).startswith(b"HTTP/1.1 408 ")
    assert refused(web, "slow") == 1


@pytest.mark.parametrize("sent", [b"", b"\r\n" * 10])
def test_a_connection_that_says_nothing_is_closed(web, sent):
    with web.socket() as client:
        client.sendall(sent)
        assert everything(client) == b""
    assert refused(web, "slow") == 1


def test_the_second_request_on_a_connection_has_its_time_too(web):
    with web.socket() as client:
        client.sendall(HEAD + b"\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        client.sendall(HEAD)
        assert everything(client).startswith(b"HTTP/1.1 408 ")


def test_a_blank_line_does_not_keep_an_idle_connection(web):
    with web.socket() as client:
        client.sendall(HEAD + b"\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"\r\n")
        assert everything(client) == b""


def test_a_body_that_nobody_waits_for_is_not_waited_for(web):
    with web.socket() as client:
        client.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        assert everything(client).startswith(b"HTTP/1.1 200 ")
    assert refused(web, "slow") == 1


def test_one_connection_too_many_is_503(serving, engine):
    web = serving(engine, Limits(connections=3))
    held = [web.socket() for _ in range(3)]
    for each in held:
        each.sendall(HEAD + b"\r\n")
        assert each.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    with web.socket() as one_more:
        answer = everything(one_more)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in answer
    for each in held:
        each.close()
    for _ in range(2000):  # until the server has seen it
        try:
            found = web.get("/healthz").status
        except ConnectionError:
            continue
        if found == 200:
            break
    assert refused(web, "many") >= 1


def test_a_client_that_reads_no_answer_is_given_up(serving, engine, rows):
    """Its answers pile up in the system's buffers, then in ours, and then it has its time."""
    web = serving(engine, Limits(timeout_s=0.2))
    names = [*engine.inputs, "margin"]
    body = json.dumps({"rows": {name: rows[name] * 10 for name in names}}).encode()
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(60)
        deaf.connect(("127.0.0.1", web.port))
        with pytest.raises(ConnectionError):  # long before so much is sent
            deaf.sendall((head.encode() + body) * 100)
    assert refused(web, "unread") == 1
    assert web.get("/healthz").status == 200
