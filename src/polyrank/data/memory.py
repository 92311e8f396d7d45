"""How much memory the encoded rows of a run may take: what was said, or half of what is free."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from polyrank.data import mapped
from polyrank.data.table import Table
from polyrank.data.windows import RUN_ROWS
from polyrank.errors import ConfigError

logger = logging.getLogger(__name__)

AUTO = "auto"
# Of a scored row, for each task: its outputs, its label and their order. 230 were measured of two.
SCORE_BYTES = 115
SHARE = 0.5  # of what is free; the model, its optimiser and the current steps need the rest
_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
          "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}  # fmt: skip
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def bytes_of(size: str | int) -> int | None:
    """Return a size in bytes; None of "auto".

    Raises:
        ConfigError: no number of bytes with a known unit, or less than 1 MiB.

    Examples:
        >>> bytes_of("2GiB"), bytes_of("1.5 MB"), bytes_of("auto")
        (2147483648, 1500000, None)
    """
    if size == AUTO:
        return None
    text = str(size).strip().lower()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text)
    unit = None if found is None or isinstance(size, bool) else _UNITS.get(found[2])
    if found is None or unit is None:
        raise ConfigError(
            f'memory must be "{AUTO}" or a size such as "2GiB" or "800MB", got {size!r}'
        )
    count = int(float(found[1]) * unit)
    if count < 1 << 20:
        raise ConfigError(f"memory must be at least 1MiB, got {size!r}")
    return count


def free() -> int | None:
    """Return the bytes that this process may still take: of the machine, or of its cgroup.

    What the kernel keeps of files counts as free, since it gives that back. None where the system
    does not say.
    """
    found = [each for each in (_of_machine(), _of_cgroup()) if each is not None]
    return min(found, default=None)


def resolved(size: str | int, processes: int = 1) -> int | None:
    """Return the bytes that encoded rows may take; None where the system does not say.

    "auto" is half of what is free, in whole MiB, shared out among processes of this host.
    """
    said = bytes_of(size)
    if said is not None:
        return said
    known = free()
    return None if known is None else max(int(SHARE * known / processes) >> 20, 1) << 20


def windowed(tables: Mapping[str, Table], limit: int | None) -> dict[str, Table]:
    """Return tables of which the training rows have a window, where all take more than `limit`.

    Two windows fit: one is in use while the next is read.
    """
    total = sum(each.nbytes for each in tables.values())
    if limit is None or total <= limit:
        return dict(tables)
    train = tables["train"]
    rows = max(limit * len(train) // (2 * max(train.nbytes, 1)), RUN_ROWS)
    if rows >= len(train):
        return dict(tables)
    logger.info(
        "the encoded rows take %s MB and may take %s MB: an epoch permutes %s of its %s rows at a "
        "time", f"{total / 1e6:,.0f}", f"{limit / 1e6:,.0f}", f"{rows:,}",
        f"{len(train):,}",
    )  # fmt: skip
    if not mapped.is_mapped(train.labels):
        logger.warning(
            "the encoded rows are in memory all the same, since they are not cached: give files, a "
            "run folder (out) and cache = true, or allow them the memory that they take"
        )
    return {**tables, "train": replace(train, window=rows)}


def tell_of_scores(tables: Mapping[str, Table], limit: int | None) -> None:
    """Warn of splits whose scores take more memory than is allowed, whatever their columns."""
    for split, table in tables.items():
        needed = len(table) * SCORE_BYTES * len(table.schema.tasks)
        if split != "train" and limit is not None and needed > limit:
            logger.warning(
                "%s has %s rows, whose scores and calibration take about %s MB, and the encoded "
                "rows may take %s MB: a metric needs the scores of all its rows at once. Give "
                "fewer rows, or allow more memory",
                split, f"{len(table):,}", f"{needed / 1e6:,.0f}", f"{limit / 1e6:,.0f}",
            )  # fmt: skip


def _of_machine() -> int | None:
    try:
        lines = (_PROC / "meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _of_cgroup() -> int | None:
    """Return what the narrowest limit above this process leaves, by version 2 or version 1."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names, root = ("memory.max", "memory.current", "inactive_file"), _CGROUP
        if controllers == "memory":
            root = _CGROUP / "memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        elif controllers:
            continue
        folder = root / path.lstrip("/")
        for each in (folder, *folder.parents):
            if each == _CGROUP.parent:
                break
            left.append(_left(each, *names))
    return min((each for each in left if each is not None), default=None)


def _left(folder: Path, limit: str, usage: str, files: str) -> int | None:
    try:
        most = int((folder / limit).read_text(encoding="ascii"))
        used = int((folder / usage).read_text(encoding="ascii"))
        stat = dict(x.split() for x in (folder / "memory.stat").read_text("ascii").splitlines())
        return max(most - used + int(stat.get(files, 0)), 0)
    except (OSError, ValueError):  # no limit is "max", which is no number
        return None
