"""The process that serves: a socket, signals, and a stop that loses no answer."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from polyrank.serve.app.ledger import Ledger, Place
from polyrank.serve.app.limits import Limits
from polyrank.serve.app.log import log_to_stderr
from polyrank.serve.app.middleware import State
from polyrank.serve.app.models import Models
from polyrank.serve.app.protocol import guarded
from polyrank.serve.app.reload import Reloader
from polyrank.serve.app.routes import app
from polyrank.serve.app.sampling import Sampling
from polyrank.serve.app.sockets import BACKLOG, url
from polyrank.serve.app.split import Split
from polyrank.serve.app.task import STOP_ALL, STOP_ONE

logger = logging.getLogger(__name__)

_SIGNALS = (STOP_ONE, STOP_ALL)


def serve(
    models: Models, limits: Limits, *, listener: socket.socket, started: Callable[[str], None],
    split: Split | None = None, watch: bool = False, place: Place | None = None,
    sampling: Sampling | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT, then answer everything that was accepted.

    SIGHUP, and with `watch` a new bundle where one was read, reloads the models. It takes over the
    signals and the log of the process, and calls `started` with the URL as soon as requests are
    answered. `place` is that of one process of several. `sampling` says
    which requests are logged as rows.
    """
    state = State()
    application = app(models, limits, state, split, sampling)
    telemetry, sampler = application.state.service.telemetry, application.state.service.sampler
    reloader = Reloader(models, telemetry)
    ledger = None if place is None else Ledger(place, telemetry)
    log_to_stderr()

    def begun() -> None:
        reloader.start(watch=watch)
        if ledger is not None:
            ledger.start(lambda: server.stop("the process that started this one is gone"))
        started(url(listener))

    server = _Server(
        configured(application, limits), state, limits.drain_s, begun, reloader,
        alone=place is None,
    )  # fmt: skip
    # What is loaded stays: the collector must not go through it while requests wait.
    gc.collect()
    gc.freeze()
    server.run([listener])
    if sampler is not None:
        sampler.close()
    if ledger is not None:
        ledger.end()
    logger.info("stopped")


def configured(application: Starlette, limits: Limits) -> uvicorn.Config:
    """Return how uvicorn runs an application within limits."""
    return uvicorn.Config(
        application,
        http=guarded(limits, application.state.service.telemetry.gave_up),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on the client's address
        lifespan="off",
        ws="none",
        # Longer than proxies keep an idle connection (60 s and more), so that the proxy closes it,
        # and never the server while a request is under way.
        timeout_keep_alive=75,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(2 * limits.timeout_s + 1),  # a body and its answer
    )


class _Server(uvicorn.Server):
    """uvicorn, but a signal first announces the stop, and then stops."""

    def __init__(
        self, config: uvicorn.Config, state: State, drain_s: float, started: Callable[[], None],
        reloader: Reloader, *, alone: bool,
    ) -> None:  # fmt: skip
        super().__init__(config)
        self._state, self._drain_s, self._announce = state, drain_s, started
        self._reloader, self._alone = reloader, alone

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle the signals while serving, and raise none again: a requested stop is a success."""
        loop = asyncio.get_running_loop()

        def handle(number: int, _: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.stop, signal.Signals(number).name)

        def reload(_: int, __: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._reloader.all)

        before = {each: signal.signal(each, handle) for each in _SIGNALS}
        if hasattr(signal, "SIGHUP"):  # not on Windows
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
            # A process of several is started with them blocked, so that none is missed.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def stop(self, name: str) -> None:
        """Announce the stop and then stop; asked again, stop at once."""
        if self._state.draining:
            logger.warning("%s again: stopping at once", name)
            self.force_exit = True
            self._close()
            return
        # Closing a listener or a connection resets what nobody has read yet. So for a while
        # everything is answered as before, with the word that it is the last on its connection.
        self._state.draining = True
        logger.info("%s: draining for %g s", name, self._drain_s)
        if name == STOP_ONE.name and not self._alone:
            # The other processes accept what comes: a connection that is taken at the last moment
            # would be closed before its request is there.
            for each in self.servers:
                each.close()
        asyncio.get_running_loop().call_later(self._drain_s, self._close)

    def _close(self) -> None:
        self._reloader.stop()
        self.should_exit = True
