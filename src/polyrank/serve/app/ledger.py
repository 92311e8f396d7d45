"""The counts of a server's processes, each in a file of its own that the others read.

A process writes its counts every second and when it ends, and begins with those that the process
before it in its place has left: a counter never falls. What is lost by a kill is a second's counts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from polyrank.files import replacing
from polyrank.serve.app.telemetry import State, Telemetry

WRITE_S = 1.0


@dataclass(frozen=True)
class Place:
    """The place of a process among those of a server.

    Args:
        folder: of the server's own.
        number: of the place; a process that is started again has that of the one before.
        alive: a descriptor that is closed when the process that started this one ends.
    """

    folder: Path
    number: int
    alive: int


class Ledger:
    """The counts of one process on the disk, and those of the others."""

    def __init__(self, place: Place, telemetry: Telemetry) -> None:
        self._place, self._telemetry = place, telemetry
        self._file = place.folder / f"{place.number}.json"
        if self._file.is_file():
            telemetry.add(json.loads(self._file.read_text(encoding="utf-8")), now=False)
        telemetry.elsewhere = self.others
        self._task: asyncio.Task[None] | None = None
        self._orphan = False

    def start(self, orphaned: Callable[[], None]) -> None:
        """Write from now on, and say when nobody is left who would end this process."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._writing())

        def gone() -> None:
            loop.remove_reader(self._place.alive)
            self._orphan = True
            orphaned()

        loop.add_reader(self._place.alive, gone)

    def write(self) -> None:
        """Write the counts."""
        with suppress(OSError), replacing(self._file) as temporary:
            temporary.write_text(json.dumps(self._telemetry.state()), encoding="utf-8")

    def end(self) -> None:
        """Write for the last time; where nobody is left to remove the folder, remove it."""
        if self._orphan:
            rmtree(self._place.folder, ignore_errors=True)
        else:
            self.write()

    def others(self) -> Iterator[State]:
        """Yield the counts of the other processes."""
        for file in sorted(self._place.folder.glob("[0-9]*.json")):
            if file != self._file:
                with suppress(FileNotFoundError):
                    yield json.loads(file.read_text(encoding="utf-8"))

    async def _writing(self) -> None:
        while True:
            self.write()
            await asyncio.sleep(WRITE_S)
