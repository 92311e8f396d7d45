"""Files and folders that another process sees whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from polyrank.paths import local


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a path beside `path` to write a file to; it takes `path`'s place at the end.

    A reader sees the old file or the new one, never half of one. After an exception the old one
    is left, and nothing else.
    """
    temporary = _beside(local(path, "the file"))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Generator[Path]:
    """Give a new folder beside `path` to fill; it takes `path`'s place at the end.

    No system exchanges two folders in one step: for a moment between two renames there is none.
    """
    temporary, old = _beside(local(path, "the folder")), _beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if old.exists():
        shutil.rmtree(old)


@contextmanager
def writing(what: object, error: type[Exception], *causes: type[Exception]) -> Generator[None]:
    """Raise `error` with the reason where something cannot be written (OSError or other causes)."""
    try:
        yield
    except (OSError, *causes) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{what} could not be written: {reason}") from cause


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Generator[None]:
    """Keep every other process (and thread) that locks `path` out meanwhile.

    `path` is a folder that exists, or a file that is made for the lock and removed after. Unless
    told to wait, a BlockingIOError says that it is held. The system releases the lock when its
    holder dies; where the system or its disk has no such locks, nobody is kept out.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        yield
        return
    folder = path.is_dir()
    while True:
        opened = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                flock(opened, LOCK_EX if wait else LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # a disk without locks
                yield
                return
            if not _is(path, opened):  # its last holder has just removed it
                continue
            try:
                yield
            finally:
                if not folder:  # while it is held, so that nobody removes another's
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(opened)


def is_locked(path: Path) -> bool:
    """Whether somebody keeps others out of a path by `locked` now."""
    try:
        with locked(path, wait=False):
            return False
    except BlockingIOError:
        return True


def _is(path: Path, opened: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(opened))
    except FileNotFoundError:
        return False


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}")
