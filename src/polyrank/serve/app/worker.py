"""One process of a server that has several: `python -m polyrank.serve.app.worker TASK`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import msgspec

from polyrank.errors import PolyrankError
from polyrank.serve.app.ledger import Place
from polyrank.serve.app.server import serve
from polyrank.serve.app.task import Task

SHARED = "shared"


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
        split=split, watch=task.served.watch, sampling=task.served.sampling,
        place=Place(folder, task.number, task.alive),
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
