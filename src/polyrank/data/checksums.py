"""Checksums of files; a file that was not touched since is not read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from polyrank.files import replacing

# A change within the clock's grain of a checksum could leave the time of change as it was.
_SETTLED_NS = 2_000_000_000


def of_files(paths: Sequence[str], memory: Path | None = None) -> list[str]:
    """Return the SHA-256 of what each file holds.

    A `memory` keeps them with each file's size, inode and times. They are believed as long as all
    of these are the same: that includes the time of the last change of the inode, which no program
    can set, so that a file of equal size whose time of modification was put back is read again.
    Windows keeps no such time: there every file is read.

    Args:
        paths: of the files.
        memory: a JSON file; a missing or damaged one is an empty one. None keeps nothing, and
            every file is read.

    Raises:
        OSError: a file that cannot be read, or a memory that cannot be written.
    """
    known = {} if memory is None else _known(memory)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(paths, pool.map(lambda path: _checksum(path, known), paths), strict=True))
    if memory is None:
        return [found[path]["sha256"] for path in paths]
    kept = {path: entry for path, entry in known.items() if Path(path).exists()}
    kept |= {str(Path(path).absolute()): entry for path, entry in found.items()}
    if kept != known:
        with replacing(memory) as temporary:
            temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return [found[path]["sha256"] for path in paths]


def state(path: str) -> list[int]:
    """Return what changes whenever a file does: size, inode, and both times."""
    found = Path(path).stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _checksum(path: str, known: dict[str, Any]) -> dict[str, Any]:
    now, before = time.time_ns(), state(path)
    entry = known.get(str(Path(path).absolute()))
    if entry is not None and entry["state"] == before and os.name != "nt":
        return entry
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    settled = before[-1] < now - _SETTLED_NS and state(path) == before
    return {"state": before if settled else None, "sha256": digest}


def _known(memory: Path) -> dict[str, Any]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {
        path: entry
        for path, entry in known.items()
        if isinstance(entry, dict) and entry.keys() == {"state", "sha256"}
    }
