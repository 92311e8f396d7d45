import asyncio
import socket
import subprocess
import sys
import urllib.request

import pytest

REFUSED = "opens no socket beyond loopback"


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(("192.0.2.1", 9), timeout=1),
        lambda: socket.create_connection(("example.com", 80), timeout=1),
        lambda: socket.getaddrinfo("example.com", 443),
        lambda: socket.gethostbyname("example.com"),
        lambda: urllib.request.urlopen("http://example.com", timeout=1),
        lambda: asyncio.run(asyncio.open_connection("192.0.2.1", 9)),
    ],
    ids=["address", "name", "getaddrinfo", "gethostbyname", "urllib", "asyncio"],
)
def test_a_socket_beyond_loopback_is_refused(reach):
    with pytest.raises(Exception, match=REFUSED):
        reach()


@pytest.mark.parametrize("call", ["connect", "connect_ex", "sendto"])
def test_each_socket_call_is_refused(call):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        arguments = [b"x", ("192.0.2.1", 9)] if call == "sendto" else [("192.0.2.1", 9)]
        with pytest.raises(Exception, match=REFUSED):
            getattr(sender, call)(*arguments)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_free(host):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection((host, server.getsockname()[1]), timeout=5) as client,
    ):
        assert client.getpeername()[0] == "127.0.0.1"


def test_a_unix_socket_is_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a Unix socket has a limit of about 100 bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("door")
        server.listen()
        client.connect("door")


def test_a_process_that_a_test_starts_is_held_to_it():
    code = "import socket; socket.getaddrinfo('example.com', 443)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 1
    assert REFUSED in answer.stderr
