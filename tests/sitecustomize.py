"""The suite talks to this machine only: a socket to anywhere else is refused.

An audit hook sees every Python socket, however it was made. `conftest.py` imports this module for
the test process, and puts its folder on PYTHONPATH: Python imports a module of this name when it
starts, so the processes that tests start are held to the same rule.
"""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address

RESOLVING = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
OWN_NAME = socket.gethostname()  # which torchrun looks up; an address behind it is judged itself
SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")


class SocketRefused(Exception):  # no OSError: code that tries several hosts would catch it
    """A test tried to reach beyond loopback."""


def on_this_machine(host: object) -> bool:
    """Return whether a host is this machine; None and an empty name are.

    Examples:
        >>> [on_this_machine(host) for host in ("localhost", "127.0.0.2", "::1", None)]
        [True, True, True, True]
        >>> [on_this_machine(host) for host in ("example.com", "10.0.0.1", b"1.1.1.1")]
        [False, False, False]
    """
    if isinstance(host, bytes):
        host = host.decode("idna")
    if host is None or host in ("", "localhost", OWN_NAME):
        return True
    try:
        return ip_address(str(host)).is_loopback
    except ValueError:
        return False


def refuse(event: str, args: tuple) -> None:
    """Raise where an audit event leaves this machine."""
    if event in RESOLVING:
        host = args[0]
    elif event in SENDING:
        address = args[1]  # a path for a Unix socket, None where the socket is connected already
        if not isinstance(address, tuple) or not isinstance(address[0], str | bytes):
            return
        host = address[0]
    else:
        return
    if not on_this_machine(host):
        raise SocketRefused(
            f"{event} to {host!r}: the test suite opens no socket beyond loopback; "
            "make the data, or read it from a file"
        )


def install() -> None:
    """Hold this process to the rule; an audit hook cannot be taken out again."""
    sys.addaudithook(refuse)


if __name__ == "sitecustomize":
    install()
