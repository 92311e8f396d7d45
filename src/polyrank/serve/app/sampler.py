"""The files of sampled requests, written by a thread that nobody waits for.

A process keeps rows in memory until a file of them is due, and writes it under another name, which
it gets as a whole: killed, a process loses the rows that it holds, and leaves no half of a file.
Where requests come faster than they can be written, or cannot be written at all, they are counted
and left out.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Lock, Thread
from time import monotonic
from uuid import uuid4

import polars as pl

from polyrank.files import locked, replacing
from polyrank.serve.app.models import Loaded
from polyrank.serve.app.sampled import Sampled, frame_of
from polyrank.serve.app.sampling import Sampling
from polyrank.serve.app.scorer import Scored

logger = logging.getLogger(__name__)

WAITING = 64  # requests at most; one more is dropped and counted
WAITING_MB = 16.0  # and their bodies, in MiB; one of any size may wait alone
END_S = 10.0  # that a stopping server waits for the last file
# MODEL@TIME-HEX.parquet: no name of a model has an @, and no two files one name.
_NAME = re.compile(r"[A-Za-z0-9._-]+@(\d{8}T\d{12}Z-[0-9a-f]{8})\.parquet\Z")
_HALF = re.compile(r"\.(.+\.parquet)\.[0-9a-f]{8}\Z")  # as `replacing` names them
Count = Callable[[str, str, int], None]  # a model, what came of requests to it, and how many


@dataclass(eq=False)
class _Buffer:
    """The rows that wait for a file."""

    version: str
    since: float
    frames: list[pl.DataFrame] = field(default_factory=list)
    requests: int = 0
    rows: int = 0
    bytes: int = 0


class Files:
    """The files of a folder, which several processes may share: together at most so many bytes."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self._most = folder, most_bytes

    def write(self, model: str, frame: pl.DataFrame) -> None:
        """Write rows as one file; the oldest files leave to make room for it.

        Raises:
            OSError: it cannot be written, or is larger than all files may be together.
            PolarsError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            self._remove_halves()
            when = datetime.now(UTC)
            path = self.folder / f"{model}@{when:%Y%m%dT%H%M%S%f}Z-{uuid4().hex[:8]}.parquet"
            with replacing(path) as temporary:
                frame.write_parquet(temporary)
                self._make_room(temporary.stat().st_size)

    def _remove_halves(self) -> None:
        """Remove what a killed process has left: whoever writes holds the lock."""
        for path in self.folder.iterdir():
            if (half := _HALF.match(path.name)) and _NAME.match(half[1]):
                path.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        if size > self._most:
            raise OSError(
                f"a file of {size:,} bytes is more than the {self._most:,} that all may have: "
                "raise --log-mb, or lower --log-file-rows"
            )
        found = [
            (name[1], each) for each in self.folder.iterdir() if (name := _NAME.match(each.name))
        ]
        sizes = {path: path.stat().st_size for _, path in sorted(found)}
        total = sum(sizes.values()) + size
        for path, each in sizes.items():  # the oldest first
            if total <= self._most:
                break
            path.unlink(missing_ok=True)
            total -= each


class Sampler:
    """Keeps a share of the scored requests.

    Args:
        sampling: which ones, and what of them.
        count: called in the thread of the event loop, or while `close` waits.
    """

    def __init__(self, sampling: Sampling, count: Count) -> None:
        self._sampling, self._count = sampling, count
        self._files = Files(Path(sampling.folder), int(sampling.most_mb * 2**20))
        self._queue: Queue[Sampled | None] = Queue(WAITING)
        self._bytes, self._lock = 0, Lock()  # of bodies that wait
        self._buffers: dict[str, _Buffer] = {}
        self._failing = self._unreadable = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = Thread(target=self._run, name="sample", daemon=True)
        self._thread.start()

    def look(self, loaded: Loaded, scored: Scored, request_id: str, size: int) -> None:
        """Keep a request if its id is chosen; this returns at once.

        Args:
            loaded: the bundle that answered.
            scored: its answer.
            request_id: of the request.
            size: of its body, in bytes.
        """
        if not self._sampling.chosen(request_id):
            return
        self._loop = asyncio.get_running_loop()
        sampled = Sampled(loaded, scored, request_id, datetime.now(UTC), size)
        with self._lock:
            room = not self._bytes or self._bytes + size <= WAITING_MB * 2**20
            self._bytes += size if room else 0
        try:
            if not room:
                raise Full
            self._queue.put_nowait(sampled)
        except Full:
            if room:
                self._taken(size)
            self._count(loaded.name, "dropped", 1)

    def close(self) -> None:
        """Write what is left; to be called once nothing is scored any more."""
        with suppress(Full):
            self._queue.put(None, timeout=END_S)
        self._thread.join(END_S)

    def _taken(self, size: int) -> None:
        with self._lock:
            self._bytes -= size

    def _run(self) -> None:
        while True:
            try:
                sampled = self._queue.get(timeout=self._patience())
            except Empty:
                self._write_due()
                continue
            if sampled is None:
                for name in list(self._buffers):
                    self._write(name)
                return
            try:
                self._add(sampled)
            except Exception as error:  # noqa: BLE001  no request may end the thread
                self._refuse(sampled, error)
            finally:
                self._taken(sampled.bytes)
            del sampled  # a parsed body is not kept until the next one comes
            self._write_due()

    def _patience(self) -> float | None:
        """Return the seconds until a file is due; None where no row waits."""
        if not self._buffers:
            return None
        oldest = min(each.since for each in self._buffers.values())
        return max(0.0, oldest + self._sampling.file_s - monotonic())

    def _add(self, sampled: Sampled) -> None:
        name, version = sampled.loaded.name, sampled.loaded.version
        frame = frame_of(sampled, self._sampling.columns)
        if not frame.width:  # a model that has none of the columns
            return
        if name in self._buffers and self._buffers[name].version != version:
            self._write(name)  # another bundle may have other columns
        buffer = self._buffers.setdefault(name, _Buffer(version, monotonic()))
        buffer.frames.append(frame)
        buffer.requests += 1
        buffer.rows += frame.height
        buffer.bytes += int(frame.estimated_size())

    def _refuse(self, sampled: Sampled, error: Exception) -> None:
        self._tell(sampled.loaded.name, "unreadable", 1)
        if not self._unreadable:  # the metrics have the rest
            self._unreadable = True
            # A message may quote a value, and no log may hold what is not allowed.
            fields = {"request_id": sampled.request_id, "error": type(error).__name__}
            logger.warning("a request cannot be logged as rows", extra={"fields": fields})

    def _write_due(self) -> None:
        sampling, now = self._sampling, monotonic()
        for name, each in list(self._buffers.items()):
            if (
                each.rows >= sampling.file_rows
                or each.bytes >= sampling.file_mb * 2**20
                or now >= each.since + sampling.file_s
            ):
                self._write(name)

    def _write(self, name: str) -> None:
        buffer = self._buffers.pop(name)
        try:
            self._files.write(name, pl.concat(buffer.frames))
        except Exception as error:  # noqa: BLE001  a full disk, or whatever a library makes of it
            self._tell(name, "failed", buffer.requests)
            if not self._failing:
                self._failing = True
                logger.error(
                    "logged rows cannot be written, and are lost until they can",
                    extra={"fields": {"folder": str(self._files.folder), "error": str(error)}},
                )
            return
        self._tell(name, "written", buffer.requests)
        if self._failing:
            self._failing = False
            logger.info("logged rows are written again")

    def _tell(self, model: str, outcome: str, requests: int) -> None:
        assert self._loop is not None  # a request came
        try:
            self._loop.call_soon_threadsafe(self._count, model, outcome, requests)
        except RuntimeError:  # the loop is closed, and its thread waits in `close`
            self._count(model, outcome, requests)
