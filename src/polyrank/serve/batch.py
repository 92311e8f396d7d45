"""Scoring of files a chunk at a time, in the order of the rows, into a file or a folder of parts.

Whatever the number of threads, a chunk is answered by one of them: the same rows give the same
bits. While a chunk is answered the next is read and the one before is written.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet

from polyrank.data import content
from polyrank.data.read import collect, collect_chunks, column_names, files, read
from polyrank.errors import DataError
from polyrank.files import replacing
from polyrank.schema import Schema
from polyrank.serve.engine import Answer
from polyrank.serve.parts import PartsFolder
from polyrank.terms import output_columns

CHUNK_ROWS = 100_000
PART_CHUNKS = 10
Write = Callable[[pl.DataFrame], None]
Opened = Callable[[BinaryIO], AbstractContextManager[Write]]


@dataclass(frozen=True, eq=False)
class Scorer:
    """Who answers.

    Args:
        schema: features, tasks and keys.
        answer: what it says of a frame with a column for each feature.
        threads: that may ask at the same time.
        identity: what a later process must have in common with this one to go on with its parts,
            such as the checksum of the bundle.
    """

    schema: Schema
    answer: Callable[[pl.DataFrame], Answer]
    threads: int = 1
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """What was scored.

    Args:
        rows: their number.
        unseen: ids that training did not see, by feature.
        nulls: missing values, by feature.
        resumed: how many of the rows were there already.
    """

    rows: int
    unseen: dict[str, int]
    nulls: dict[str, int]
    resumed: int = 0


def predict_file(scorer: Scorer, source: Any, out: str | Path) -> Scored:
    """Score a source into a Parquet or CSV file: its key columns, then the outputs.

    The file is written beside its place and renamed at the end.

    Args:
        scorer: the model.
        source: a path or glob, a polars or pandas frame, a pyarrow table, or a dict of arrays;
            labels need not be there.
        out: a path that ends in .parquet or .csv.

    Raises:
        DataError: a source that cannot be read or scored, an `out` of another extension or that
            cannot be written.

    Example:
        >>> import numpy as np
        >>> from tempfile import TemporaryDirectory
        >>> from polyrank import Keys, Schema, SparseFeature, Task
        >>> schema = Schema([SparseFeature("item")], [Task("click")], Keys(user="user"))
        >>> half = Scorer(schema, lambda rows: Answer({"p_click": np.full(len(rows), 0.5)}, {}, {}))
        >>> with TemporaryDirectory() as folder:
        ...     out = Path(folder) / "scored.csv"
        ...     scored = predict_file(half, {"item": [3, 4], "user": ["a", "b"]}, out)
        ...     scored.rows, out.read_text().split()
        (2, ['user,p_click', 'a,0.5', 'b,0.5'])
    """
    out = Path(out)
    opened = _writer(out)
    _check_apart(source, out)
    frame = read(source, scorer.schema)
    keys = _keys(scorer, frame)
    with _writing(out), closing(_scored(scorer, frame, keys)) as chunks:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            return _write(chunks, temporary, opened)


def predict_parts(
    scorer: Scorer, source: str, out: str | Path, *, resume: bool = False, force: bool = False
) -> Scored:
    """Score files into a folder of Parquet parts of 1,000,000 rows, which can be gone on with.

    A part is written beside its place and renamed. `parts.json` says what was scored by whom and
    which parts are finished; an interrupted run that is gone on with gives the parts of one that
    was not interrupted, to the byte.

    Args:
        scorer: the model.
        source: a path or glob.
        out: a folder; it is made.
        resume: go on after the last finished part, if there is one.
        force: remove the parts that are there.

    Raises:
        DataError: a source that cannot be read or scored, a folder that is not empty without
            `resume` or `force`, one with parts of something else, or one that cannot be written.
    """
    out = Path(out)
    folder = PartsFolder(out, resume=resume, force=force)
    _check_apart(source, out)
    frame = read(source, scorer.schema)
    keys = _keys(scorer, frame)
    head = _head(scorer, source, frame, keys)
    with _writing(out):
        folder.open(head)
        before = folder.rows
        if not folder.finished:
            with closing(_scored(scorer, frame, keys, before)) as chunks:
                for first in chunks:
                    with folder.part() as temporary:
                        rest = islice(chunks, PART_CHUNKS - 1)
                        found = _write(chain([first], rest), temporary, _parquet)
                    folder.add(found.rows, found.unseen, found.nulls)
            folder.finish()
    return Scored(folder.rows, dict(folder.unseen), dict(folder.nulls), before)


def _keys(scorer: Scorer, frame: pl.LazyFrame) -> list[str]:
    """Return the key columns that the data has, if it has the features and a row."""
    known = column_names(frame)
    if not collect(frame.head(1), [feature.name for feature in scorer.schema.features]).height:
        raise DataError("there are no rows to score")
    return [name for name in scorer.schema.keys.columns if name in known]


def _head(scorer: Scorer, source: str, frame: pl.LazyFrame, keys: list[str]) -> dict[str, Any]:
    """Return what all parts have in common."""
    paths, types = files(source), frame.collect_schema()
    try:
        checksums = content.checksums(paths)
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    outputs = [name for task in scorer.schema.tasks for name in output_columns(task)]
    return {
        **scorer.identity,
        "source": [
            {"file": Path(path).name, "sha256": each}
            for path, each in zip(paths, checksums, strict=True)
        ],
        "columns": {name: str(types[name]) for name in keys} | dict.fromkeys(outputs, "Float64"),
        "rows a part": CHUNK_ROWS * PART_CHUNKS,
    }


def _scored(
    scorer: Scorer, frame: pl.LazyFrame, keys: list[str], start: int = 0
) -> Generator[tuple[pl.DataFrame, Answer]]:
    """Yield what is written of each chunk from a row on, and the answer that it is of."""
    features = [feature.name for feature in scorer.schema.features]
    chunks = collect_chunks(frame.slice(start) if start else frame, [*keys, *features], CHUNK_ROWS)
    waiting: deque[Future[tuple[pl.DataFrame, Answer]]] = deque()

    def answered(chunk: pl.DataFrame, first: int) -> tuple[pl.DataFrame, Answer]:
        try:
            answer = scorer.answer(chunk.select(features))
            # A frame of series and arrays is in one piece: how the rows were read does not show in
            # the bytes of what is written.
            return pl.DataFrame({**chunk.select(keys).to_dict(), **answer.outputs}), answer
        except DataError as error:
            if not first:
                raise
            last = first + chunk.height - 1
            raise DataError(f"of the rows from {first:,} to {last:,}: {error}") from None

    pool = ThreadPoolExecutor(scorer.threads)
    try:
        for chunk in chunks:
            waiting.append(pool.submit(answered, chunk, start))
            start += chunk.height
            if len(waiting) > scorer.threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write(chunks: Iterable[tuple[pl.DataFrame, Answer]], path: Path, opened: Opened) -> Scored:
    """Write chunks into a file and return what was counted."""
    rows, unseen, nulls = 0, Counter[str](), Counter[str]()
    # A file of our own opening: what cannot be written names no temporary path.
    with path.open("wb") as file, opened(file) as write:
        for frame, answer in chunks:
            write(frame)
            rows += frame.height
            unseen.update(answer.unseen)
            nulls.update(answer.nulls)
    return Scored(rows, dict(unseen), dict(nulls))


def _check_apart(source: Any, out: Path) -> None:
    """Refuse to write over what is read."""
    if not isinstance(source, str | Path):
        return
    for path in files(str(source)):
        found, place = Path(path).resolve(), out.resolve()
        if found == place:
            raise DataError(f"{out} is what is scored: it would be replaced; choose another")
        if place in found.parents:
            raise DataError(f"{out} holds what is scored, {path}: choose another folder")


def _writer(out: Path) -> Opened:
    if out.suffix.lower() not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise DataError(
            f"{out}: unknown extension {out.suffix!r} (known: {known}; a folder of parts has none)"
        )
    return _WRITERS[out.suffix.lower()]


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{out} could not be written: {reason}") from error


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Write]:
    writer: pyarrow.parquet.ParquetWriter | None = None

    def write(frame: pl.DataFrame) -> None:
        nonlocal writer
        table = frame.to_arrow()
        if writer is None:
            writer = pyarrow.parquet.ParquetWriter(file, table.schema)
        writer.write_table(table.cast(writer.schema))

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _csv(file: BinaryIO) -> Iterator[Write]:
    first = True

    def write(frame: pl.DataFrame) -> None:
        nonlocal first
        frame.write_csv(file, include_header=first)
        first = False

    yield write


_WRITERS: Mapping[str, Opened] = {".parquet": _parquet, ".csv": _csv}
