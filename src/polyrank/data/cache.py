"""Encoded tables on disk, mapped into memory, so that a second run starts at once.

FOLDER/
  .gitignore         so that no repository takes it in
  files.json         checksums of the sources (polyrank.data.checksums)
  KEY/               KEY says what was encoded, and by what: 32 hex digits
    manifest.json    types of vocabularies, encodings, counts, messages, files' sizes and checksums
    vocab.0.arrow    a vocabulary
    train.ids.npy    an array of a table, which numpy maps into memory; likewise dense, labels, …
    train.keys.arrow the key columns

An entry is written under another name and then renamed, and read only if every file is as it was
written. Nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import polars as pl

from polyrank.data.table import Table
from polyrank.data.table_files import read_table, write_table
from polyrank.data.vocab import Vocab
from polyrank.features.vocabulary import Vocabulary
from polyrank.files import locked, replacing_folder
from polyrank.schema import Schema

logger = logging.getLogger(__name__)

# Of the files below, and of what encoding makes of the same rows: a change of either is a new one.
FORMAT = 6
NAME = ".polyrank-cache"
KEPT = 4
MANIFEST = "manifest.json"
_KEY = re.compile(r"[0-9a-f]{32}")
_LEFT_OVER = re.compile(r"\.[0-9a-f]{32}\.[0-9a-f]{8}")
_DAY_SECONDS = 86_400
_CHUNK_BYTES = 1 << 20
# Options that say what a model does with a Table, and nothing about how it is encoded.
_OF_MODEL = ("space", "hold_ancestors", "weight", "positive_weight")
_FAILURES = (OSError, ValueError, KeyError, TypeError, AttributeError, pl.exceptions.PolarsError)


# (folder) → what each table's manifest says, by split
Write = Callable[[Path], Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Entry:
    """What one encoding gave: tables by split, and messages as (logger, level, text)."""

    vocab: Vocab
    tables: Mapping[str, Table]
    messages: tuple[tuple[str, int, str], ...] = ()


def key_of(schema: Schema, rows: Any) -> str:
    """Return the key of an encoding; options that only a model reads do not count."""
    table = schema.to_table()
    options = [*(each.model_options for each in schema.features), *[_OF_MODEL] * len(schema.tasks)]
    for each, names in zip((*table["features"], *table["tasks"]), options, strict=True):
        for name in names:
            each.pop(name, None)
    text = json.dumps([FORMAT, table, rows], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def prepare(folder: Path) -> None:
    """Make the cache's folder, which no version control takes in."""
    folder.mkdir(parents=True, exist_ok=True)
    ignored = folder / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n", encoding="utf-8")


def load(folder: Path, key: str, schema: Schema) -> Entry | None:
    """Return an entry, or None where there is none or where it is damaged, which is logged.

    Arrays are mapped copy-on-write: their file stays as it is whatever is done to them.
    """
    path = folder / key
    if not path.is_dir():
        return None
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        body = manifest["body"]
        if manifest["checksum"] != _text_checksum(body):
            raise ValueError(f"{MANIFEST} is not what was written")
        _check_files(path, body["files"])
        entry = Entry(
            _read_vocab(path, body, schema),
            {
                split: read_table(path, split, each, schema)
                for split, each in body["tables"].items()
            },
            tuple((name, level, text) for name, level, text in body["messages"]),
        )
        os.utime(path / MANIFEST)  # the last use, by which the oldest is known
    except _FAILURES as error:
        logger.warning("%s is damaged (%s): the rows are encoded again", path, error)
        return None
    return entry


def store(folder: Path, key: str, entry: Entry) -> int:
    """Write an entry, whole or not at all, and drop the oldest; return its bytes."""

    def write(to: Path) -> dict[str, dict[str, Any]]:
        return {split: write_table(to, split, table) for split, table in entry.tables.items()}

    return store_written(folder, key, entry.vocab, write, entry.messages)


def store_written(
    folder: Path, key: str, vocab: Vocab, write: Write, messages: Sequence[tuple[str, int, str]]
) -> int:
    """Do what `store` does, with tables that `write` puts into a folder."""
    with locked(folder), replacing_folder(folder / key) as temporary:
        try:
            body = _write(temporary, vocab, write, messages)
        except pl.exceptions.PolarsError as error:
            raise OSError(str(error)) from error
        text = json.dumps({"body": body, "checksum": _text_checksum(body)}, ensure_ascii=False)
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
    _drop_oldest(folder)
    return sum(size for size, _ in body["files"].values())


class _Notes(logging.Handler):
    """Notes the warnings of the thread that made it."""

    def __init__(self, messages: list[tuple[str, int, str]]) -> None:
        super().__init__(logging.WARNING)
        self.messages, self.thread = messages, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.messages.append((record.name, record.levelno, record.getMessage()))


@contextmanager
def noted() -> Generator[list[tuple[str, int, str]]]:
    """Give a list that collects the warnings which encoding logs inside."""
    messages: list[tuple[str, int, str]] = []
    handler, source = _Notes(messages), logging.getLogger("polyrank")
    source.addHandler(handler)
    try:
        yield messages
    finally:
        source.removeHandler(handler)


def _write(
    folder: Path, vocab: Vocab, write: Write, messages: Sequence[tuple[str, int, str]]
) -> dict[str, Any]:
    vocabularies = {}
    for index, (name, table) in enumerate(vocab.tables.items()):
        file = None if table.size is not None else f"vocab.{index}"
        vocabularies[name] = {"dtype": table.dtype, "size": table.size, "file": file}
        if file:
            table.saved().write_ipc(folder / f"{file}.arrow")
    tables = write(folder)
    names = sorted(path.name for path in folder.iterdir())
    with ThreadPoolExecutor() as pool:
        checks = pool.map(lambda name: _size_and_checksum(folder / name), names)
    return {
        "vocabularies": vocabularies,
        "encodings": vocab.saved_states(),
        "tables": tables,
        "messages": [list(each) for each in messages],
        "files": dict(zip(names, checks, strict=True)),
    }


def _read_vocab(path: Path, body: Mapping[str, Any], schema: Schema) -> Vocab:
    tables = {}
    for name, facts in body["vocabularies"].items():
        if facts["file"] is None:
            tables[name] = Vocabulary(facts["dtype"], size=facts["size"])
        else:
            frame = pl.read_ipc((path / f"{facts['file']}.arrow").read_bytes())
            tables[name] = Vocabulary.from_frame(frame)
    return Vocab(schema.features, tables, Vocab.states_of(schema.features, body["encodings"]))


def _check_files(path: Path, files: Mapping[str, list[int]]) -> None:
    with ThreadPoolExecutor() as pool:
        checks = pool.map(lambda name: _size_and_checksum(path / name), files)
        for (name, expected), found in zip(files.items(), checks, strict=True):
            if expected != found:
                raise ValueError(f"{name} is not what was written")


def _size_and_checksum(path: Path) -> list[int]:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum = crc32(chunk, checksum)
        return [file.tell(), checksum]


def _text_checksum(body: Any) -> int:
    return crc32(json.dumps(body, sort_keys=True).encode())


def _drop_oldest(folder: Path) -> None:
    """Keep the entries that were used last, and nothing that a killed run left."""
    used: list[tuple[float, Path]] = []
    yesterday = time.time() - _DAY_SECONDS
    for path in folder.iterdir():
        try:
            if _KEY.fullmatch(path.name):
                used.append(((path / MANIFEST).stat().st_mtime, path))
            elif _LEFT_OVER.fullmatch(path.name) and path.stat().st_mtime < yesterday:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # another run removes it at this moment
    for _, path in sorted(used, reverse=True)[KEPT:]:
        logger.info("the cache keeps %d entries: %s, unused for longest, is removed", KEPT, path)
        shutil.rmtree(path, ignore_errors=True)
