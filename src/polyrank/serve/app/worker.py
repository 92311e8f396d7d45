"""One process of a server that has several: `python -m polyrank.serve.app.worker TASK`."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from polyrank.errors import PolyrankError
from polyrank.serve.app.ledger import Place
from polyrank.serve.app.limits import Limits
from polyrank.serve.app.models import Models
from polyrank.serve.app.server import serve
from polyrank.serve.app.split import Split

SHARED = "shared"


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, and how: the options of `polyrank serve`."""

    runs: tuple[str, ...]
    limits: Limits
    threads: int = 1
    shares: tuple[str, ...] = ()
    by: str | None = None
    shadows: tuple[str, ...] = ()
    watch: bool = False

    def models(self, shared: Path | None = None) -> tuple[Models, Split]:
        """Load the models, and return them and who gets which."""
        models = Models.open(self.runs, self.limits.rows, self.threads, shared)
        return models, Split.of(models, self.shares, self.by, self.shadows)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a process is told.

    Args:
        served: what it serves.
        folder: of the server's own.
        number: of its place.
        listener: descriptor of the socket that all of them accept from.
        ready: descriptor of a pipe, for a byte once it answers, or its error.
        alive: descriptor of a pipe that ends with the process that started it.
    """

    served: Served
    folder: str
    number: int
    listener: int
    ready: int
    alive: int

    def to_json(self) -> str:
        """Return the task for a command line."""
        return msgspec.json.encode(asdict(self)).decode()


def main(text: str) -> int:
    """Serve until told to stop."""
    task = msgspec.json.decode(text, type=Task)
    folder = Path(task.folder)
    try:
        models, split = task.served.models(folder / SHARED)
    except PolyrankError as error:
        os.write(task.ready, str(error).encode())
        return 1

    def started(_: str) -> None:
        os.write(task.ready, b"\0")
        os.close(task.ready)

    serve(
        models, task.served.limits, listener=socket.socket(fileno=task.listener), started=started,
        split=split, watch=task.served.watch,
        place=Place(folder, task.number, task.alive),
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
