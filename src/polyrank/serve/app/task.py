"""What a server is told to serve, and each of its processes.

The process that starts the others loads nothing: its memory is that of Python.
"""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from polyrank.serve.app.limits import Limits
from polyrank.serve.app.sampling import Sampling

if TYPE_CHECKING:
    from polyrank.serve.app.models import Models
    from polyrank.serve.app.split import Split

# Of several processes, one is told to stop by the first, and all of them by the second. Alone, a
# process takes them for the same.
STOP_ONE, STOP_ALL = signal.SIGTERM, signal.SIGINT


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
    sampling: Sampling | None = None

    def models(self, shared: Path | None = None) -> tuple[Models, Split]:
        """Load the models, and return them and who gets which."""
        from polyrank.serve.app.models import Models
        from polyrank.serve.app.split import Split

        models = Models.open(self.runs, self.limits.rows, self.threads, shared)
        split = Split.of(models, self.shares, self.by, self.shadows)
        if self.sampling is not None:
            from polyrank.serve.app.sampled import check

            check(self.sampling, models)
        return models, split


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
