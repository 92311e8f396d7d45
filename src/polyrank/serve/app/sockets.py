"""The socket that a server listens on."""

from __future__ import annotations

import socket

from polyrank import spec
from polyrank.errors import PolyrankError

BACKLOG = 2048  # connections that wait to be accepted


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket that accepts connections; port 0 takes a free one."""
    spec.whole("port", port, least=0, most=2**16 - 1)  # a resolver would wrap it around
    found = None
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen(BACKLOG)
        found.setblocking(False)
    except OSError as error:
        if found is not None:
            found.close()
        raise PolyrankError(
            f"cannot listen on {host!r}, port {port}: {error.strerror or error}; choose another "
            "with --host and --port (0 takes any free port)"
        ) from None
    return found


def url(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if listener.family == socket.AF_INET6 else host}:{port}"
