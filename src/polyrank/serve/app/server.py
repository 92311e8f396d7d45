"""The process that serves: a socket, signals, and an end without a lost answer."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from polyrank.errors import PolyrankError
from polyrank.serve.app.limits import Limits
from polyrank.serve.app.middleware import State
from polyrank.serve.app.routes import app
from polyrank.serve.app.telemetry import to_stderr
from polyrank.serve.engine import Engine

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BACKLOG = 2048  # connections that wait to be taken


def serve(
    engine: Engine,
    limits: Limits,
    *,
    host: str,
    port: int,
    started: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, and then answer everything that was accepted.

    The process is the server's: it takes its signals and its log.

    Args:
        engine: that answers.
        limits: of requests, and of the end.
        host: name or address of one's own to listen at.
        port: 0 takes a free one.
        started: called with the address as soon as requests are answered.

    Raises:
        PolyrankError: an address or a port that cannot be listened at.
    """
    state = State()
    answering = app(engine, limits, state)
    # The first run of a graph allocates what the others use, and a bundle that cannot answer at all
    # is found before anybody asks.
    engine.answer({name: [None] for name in engine.features})
    listener = listening(host, port)
    to_stderr()
    config = uvicorn.Config(
        answering,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
        lifespan="off",
        ws="none",
        # Longer than a proxy keeps a connection that nobody uses (60 s and more), so that it is the
        # proxy who closes, and never both at once with a request under way.
        timeout_keep_alive=75,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(2 * limits.timeout_s + 1),  # a body, its answer
    )
    server = _Server(config, state, limits.drain_s, lambda: started(address(listener)))
    # What was loaded stays: the collector need not go through it again while requests wait.
    gc.collect()
    gc.freeze()
    server.run([listener])
    logger.info("stopped")


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and takes connections.

    Raises:
        PolyrankError: an address or a port that cannot be listened at.
    """
    if not 0 <= port < 2**16:  # a resolver would take the rest of a division by it
        raise PolyrankError(f"a port is a number from 0 to 65535, however: {port}")
    found = None
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen(_BACKLOG)
        found.setblocking(False)
    except OSError as error:
        if found is not None:
            found.close()
        reason = error.strerror or error
        raise PolyrankError(
            f"cannot listen at {host!r}, port {port}: {reason}; --host and --port name another "
            "address, and port 0 is a free one"
        ) from None
    return found


def address(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return (
        f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
    )


class _Server(uvicorn.Server):
    """uvicorn, but a signal first says that the end is near, and then lets it come."""

    def __init__(
        self, config: uvicorn.Config, state: State, drain_s: float, started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._state, self._drain_s, self._announce = state, drain_s, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals while serving; none is raised again, since an end asked for is good."""
        loop = asyncio.get_running_loop()

        def told(number: int, _: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._stop, signal.Signals(number).name)

        before = {each: signal.signal(each, told) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _stop(self, name: str) -> None:
        if self._state.draining:
            logger.warning("%s again: stopping at once", name)
            self.should_exit = self.force_exit = True
            return
        # A listener that closes resets what nobody has read yet, and so does a connection. So for
        # a while everything is answered as before, and says that it was the last on its connection.
        self._state.draining = True
        logger.info("%s: draining for %g s", name, self._drain_s)
        asyncio.get_running_loop().call_later(self._drain_s, self._close)

    def _close(self) -> None:
        self.should_exit = True
