"""Arrays whose memory is a file, and what the system is told of how they are read."""

from __future__ import annotations

import mmap
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def mapped(path: Path) -> np.ndarray:
    """Return the array of a .npy file, mapped copy-on-write: the file stays as it is."""
    # A page or less is read: it gains nothing by being mapped, and an empty array cannot be.
    if path.stat().st_size <= mmap.PAGESIZE:
        return np.load(path, allow_pickle=False)
    return np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray)


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array's memory is a file."""
    return _owner(array) is not None


def expect(rows: np.ndarray) -> None:
    """Begin to read some rows, where they are a mapped file's, while the caller goes on.

    `rows` is a view of some that lie one after the other.
    """
    file = _file(rows)
    if file is not None and rows.size:
        first = _address(rows) - _address(np.frombuffer(file, np.uint8))
        page = first // mmap.PAGESIZE * mmap.PAGESIZE
        file.madvise(mmap.MADV_WILLNEED, page, first + rows.nbytes - page)


@contextmanager
def no_more_than_touched(arrays: Iterable[np.ndarray]) -> Generator[None]:
    """Read of mapped files the pages that are touched, and nothing around them.

    A device is set to read as much around a page as a long read will want: of short runs, many
    times what is used. And where memory is short, what was expected is not always there.
    """
    files = {id(file): file for file in map(_file, arrays) if file is not None}
    for file in files.values():
        file.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        for file in files.values():
            file.madvise(mmap.MADV_NORMAL)


def _file(array: np.ndarray) -> mmap.mmap | None:
    """Return the file of an array, where there is one that the system can be told about."""
    return _owner(array) if hasattr(mmap.mmap, "madvise") else None


def _owner(array: np.ndarray) -> mmap.mmap | None:
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) else None


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
