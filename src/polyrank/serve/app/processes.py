"""Several processes behind one socket: started, watched, started again, and stopped.

The processes accept from one listening socket, so a connection that one of them does not take is
taken by another: ending one loses nothing that waits. None is forked from a process with threads.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from polyrank import spec
from polyrank.errors import PolyrankError
from polyrank.serve.app.log import log_to_stderr
from polyrank.serve.app.sockets import url
from polyrank.serve.app.task import STOP_ALL, Served, Task

logger = logging.getLogger(__name__)

_STOP = ("SIGTERM", "SIGINT")
_LOOK_S = 0.1  # between two looks at the processes, where no signal comes
_MOST_WAIT_S = 10.0  # before a process is started again that keeps failing


@dataclass(eq=False)
class _Process:
    """A process in its place."""

    number: int
    running: subprocess.Popen[bytes]
    ready: int  # descriptor of its pipe; -1 once it has answered
    said: bytes = b""


class Processes:
    """The processes of a server.

    Args:
        served: what each of them serves.
        count: of processes.
        listener: the socket; closed here when they stop.
        folder: of the server's own, for their counts and what they share.
    """

    def __init__(self, served: Served, count: int, listener: socket.socket, folder: Path) -> None:
        spec.whole("workers", count)
        if not hasattr(signal, "sigtimedwait"):
            raise PolyrankError("more than one worker needs Linux: leave --workers out")
        self._served, self._count, self._listener, self._folder = served, count, listener, folder
        self._alive, self._holding = os.pipe()
        # One hash of texts in all of them: what they share is found by it.
        seed = str(secrets.randbelow(2**32 - 1) + 1)
        self._environment = os.environ | {"PYTHONHASHSEED": seed}
        self._processes: dict[int, _Process] = {}
        self._again: dict[int, float] = {}  # when a place is filled again
        self._failures = [0] * count
        self._stopping = False

    def run(self, started: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; `started` is called once all of them answer.

        The first one is waited for: it fills what is shared, and a bundle that cannot be served is
        found by it.

        Raises:
            PolyrankError: one of them cannot start to begin with, with its reason.
        """
        names = (*_STOP, "SIGHUP", "SIGCHLD")
        signals = {getattr(signal, name) for name in names}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            self._start(0)
            announced = False
            while self._processes or self._again:
                ready = [each for each in self._processes.values() if each.ready < 0]
                if ready and not announced:
                    missing = set(range(self._count)) - self._processes.keys()
                    for number in () if self._stopping else sorted(missing):
                        self._start(number)
                if len(ready) == self._count and not announced and not self._stopping:
                    announced = True
                    started()
                found = signal.sigtimedwait(signals, _LOOK_S)
                if found is not None:
                    self._told(signal.Signals(found.si_signo))
                self._look(announced=announced)
        finally:
            self._end()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        logger.info("stopped")

    def _told(self, which: signal.Signals) -> None:
        if which.name == "SIGHUP":
            self._send(signal.SIGHUP)
        elif which.name in _STOP:
            logger.info("%s: stopping %d workers", which.name, len(self._processes))
            self._stopping = True
            self._again.clear()
            self._listener.close()
            self._send(STOP_ALL)

    def _look(self, *, announced: bool) -> None:
        for each in list(self._processes.values()):
            self._listen(each)
            code = each.running.poll()
            if code is None:
                continue
            del self._processes[each.number]
            reason = each.said.decode(errors="replace")
            was_ready = each.ready < 0
            if not was_ready:
                os.close(each.ready)
            if self._stopping:
                continue
            if not announced:
                raise PolyrankError(reason or f"a worker ended with {code} before it answered")
            self._failures[each.number] = 0 if was_ready else self._failures[each.number] + 1
            failures = self._failures[each.number]
            wait = min(_MOST_WAIT_S, 0.0 if not failures else 0.1 * 2**failures)
            fields = {"worker": each.number, "code": code, "again_in_s": wait}
            if reason:
                fields["error"] = reason
            logger.warning("a worker ended", extra={"fields": fields})
            self._again[each.number] = monotonic() + wait
        for number, when in list(self._again.items()):
            if monotonic() >= when:
                del self._again[number]
                self._start(number)

    def _start(self, number: int) -> None:
        ready, tell = os.pipe()
        os.set_blocking(ready, False)
        listener = self._listener.fileno()
        task = Task(
            served=self._served, folder=str(self._folder), number=number, listener=listener,
            ready=tell, alive=self._alive,
        )  # fmt: skip
        try:
            running = subprocess.Popen(
                [sys.executable, "-m", "polyrank.serve.app.worker", task.to_json()],
                pass_fds=(listener, tell, self._alive),
                env=self._environment,
                start_new_session=True,  # a terminal's Ctrl-C is told to this process alone
            )
        finally:
            os.close(tell)
        self._processes[number] = _Process(number, running, ready)

    def _listen(self, process: _Process) -> None:
        """Read what a process says of its start."""
        while process.ready >= 0:
            try:
                some = os.read(process.ready, 65_536)
            except BlockingIOError:
                return
            if some == b"\0":
                os.close(process.ready)
                process.ready = -1
                self._failures[process.number] = 0
                logger.info("a worker answers", extra={"fields": {"worker": process.number}})
            elif some:
                process.said += some
            else:
                return

    def _send(self, which: signal.Signals) -> None:
        for each in self._processes.values():
            if each.running.poll() is None:
                each.running.send_signal(which)

    def _end(self) -> None:
        """Leave nobody behind, also after an error."""
        os.close(self._holding)
        for each in self._processes.values():
            each.running.kill()
            each.running.wait()
            if each.ready >= 0:
                os.close(each.ready)
        os.close(self._alive)


def serve_by_several(
    served: Served, count: int, *, listener: socket.socket, started: Callable[[str], None]
) -> None:
    """Serve by several processes until SIGTERM or SIGINT, then answer what was accepted."""
    log_to_stderr()
    address = url(listener)
    with TemporaryDirectory(prefix="polyrank-serve-") as folder:
        processes = Processes(served, count, listener, Path(folder))
        processes.run(lambda: started(address))
