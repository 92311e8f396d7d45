"""A server in its own process, from start to stop."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from parts.load import BENCHMARKS

START_SECONDS = 120  # vocabularies of 1.5 million ids are read
STOP_SECONDS = 30
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Server:
    """A running server.

    Args:
        port: on 127.0.0.1.
        process: its id.
    """

    port: int
    process: int

    @property
    def memory_mib(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="utf-8")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return int(fields["VmRSS"].split()[0]) / 1024


@contextmanager
def serving(command: Sequence[str]) -> Generator[Server]:
    """Start Python with arguments, wait for the address it prints, and stop it at the end.

    Its log goes to a file.

    Raises:
        SystemExit: no address within two minutes; with the end of the log.
    """
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, *command], cwd=BENCHMARKS, stdout=subprocess.PIPE, stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            line = process.stdout.readline().decode() if ready else ""
            found = ADDRESS.search(line)
            if found is None:
                log.seek(0)
                said = log.read()[-2000:].decode(errors="replace")
                raise SystemExit(f"{' '.join(command)}: expected an address, got {line!r}\n{said}")
            yield Server(int(found[1]), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
