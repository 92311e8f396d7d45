"""Scoring of files, a chunk at a time in the order of the rows, into a file or a folder of parts.

Whatever the number of threads, one of them predicts a whole chunk: the same rows give the same
bits. Meanwhile the next chunk is read and the last one written.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet

from polyrank.data import checksums
from polyrank.data.read import (
    Joined,
    collect,
    collect_chunks,
    column_names,
    count_rows,
    files,
    is_parquet,
    known_columns,
    read,
)
from polyrank.data.shared import Lists, Shared
from polyrank.errors import DataError
from polyrank.files import replacing, writing
from polyrank.meter import metered, watching
from polyrank.paths import local, store_of
from polyrank.schema import Schema
from polyrank.serve.engine import Predictions
from polyrank.serve.parts import Counts, PartsFolder
from polyrank.serve.shards import Shard, ShardsFolder

CHUNK_ROWS = 100_000
PART_CHUNKS = 10
PIECE_ROWS = (
    10_000  # joined at a time with lists that rows share, which may have hundreds of values
)
_FAILURES = (pl.exceptions.PolarsError, pa.ArrowException)
Write = Callable[[pl.DataFrame], None]
Opened = Callable[[BinaryIO], AbstractContextManager[Write]]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model that predicts frames with a column for each feature."""

    schema: Schema
    predict: Callable[[pl.DataFrame], Predictions]
    threads: int = 1  # that may call `predict` at the same time
    # What a later process must share to resume the parts, such as the checksum of the bundle.
    identity: Mapping[str, Any] = field(default_factory=dict)
    more: Sequence[str] = ()  # columns that it predicts behind the schema's outputs


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows to score, and the lists that they share, if any."""

    frame: pl.LazyFrame
    lists: Lists | None
    columns: Sequence[str]  # that its frame needs for the model's inputs

    @classmethod
    def of(cls, source: Any, schema: Schema) -> _Rows:
        if not isinstance(source, Joined):
            return cls(read(source, schema), None, schema.inputs)
        frame, shared = Shared.of(source, schema)
        lists = Lists.of(shared)
        own = [name for name in schema.inputs if name not in lists.values.columns]
        return cls(frame, lists, list(dict.fromkeys([*own, shared.key])))

    def pieces(self, chunk: pl.DataFrame, inputs: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the inputs of a chunk, in pieces that are bounded where rows share long lists."""
        if self.lists is None:
            yield chunk.select(inputs)
            return
        for piece in chunk.iter_slices(PIECE_ROWS):
            yield self.lists.beside(piece).select(inputs)


def predict_file(predictor: Predictor, source: Any, out: str | Path) -> Counts:
    """Score a source into a Parquet, CSV or TSV file: its key columns, then the outputs.

    The source is a path, a glob or whatever `read` takes, with or without labels. Lists that a
    `Joined` source shares are in memory once, and joined a chunk at a time. The file is
    written beside its place and renamed at the end.
    """
    out = local(out, "the file of predictions")
    opened = _WRITERS.get(out.suffix.lower())
    if opened is None:
        raise DataError(
            f"{out}: unknown extension {out.suffix!r} (known: {', '.join(_WRITERS)}; none for a "
            "folder of parts)"
        )
    _check_apart(source, out)
    rows = _Rows.of(source, predictor.schema)
    keys = _keys(predictor, rows)
    chunks = _predicted(predictor, rows, keys)
    with writing(out, DataError, *_FAILURES), closing(chunks):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            return _write(chunks, temporary, opened)


def predict_parts(
    predictor: Predictor,
    source: str | Joined,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
) -> Counts:
    """Score files into a folder of Parquet parts of 1,000,000 rows, which can be resumed.

    A part is written beside its place and renamed. `parts.json` records the source, the model and
    the finished parts; a run that is interrupted and resumed gives the parts of one that was not
    interrupted, to the byte. `force` removes existing parts.
    """
    out = local(out, "the folder of predictions")
    folder = PartsFolder(out, resume=resume, force=force)
    _check_apart(source, out)
    rows = _Rows.of(source, predictor.schema)
    keys = _keys(predictor, rows)
    head = _head(predictor, source, rows.frame, keys)
    with writing(out, DataError, *_FAILURES):
        folder.open(head)
        before = folder.rows
        if not folder.finished:
            with closing(_predicted(predictor, rows, keys, before)) as chunks:
                for first in chunks:
                    with folder.part() as temporary:
                        rest = islice(chunks, PART_CHUNKS - 1)
                        found = _write(chain([first], rest), temporary, _parquet)
                    folder.add(found)
            folder.finish()
    return Counts(folder.rows, dict(folder.unseen), dict(folder.nulls), before)


def predict_shard(
    predictor: Predictor,
    source: str | Joined,
    out: str | Path,
    shard: Shard,
    *,
    resume: bool = False,
    force: bool = False,
) -> Counts:
    """Score a shard of files into one Parquet part of a folder that the other shards share.

    The parts of all shards, read in the order of their names, are what `predict_file` would have
    written, to the bit. Of Parquet files only the row groups that hold the shard's rows are read;
    text files have no index, so they are read to count their rows, and only the shard's are parsed.

    The part is written beside its place and renamed. `resume` keeps a part that is there, `force`
    replaces it; no shard touches another's.
    """
    out = local(out, "the folder of predictions")
    folder = ShardsFolder(out, shard, resume=resume, force=force)
    _check_apart(source, out)
    rows = _Rows.of(source, predictor.schema)
    total = count_rows(rows.frame)
    keys = _keys(predictor, rows, total)
    columns, own = _columns(predictor, rows.frame, keys), shard.rows(total, CHUNK_ROWS)
    with writing(out, DataError, *_FAILURES):
        folder.open(_shards_head(predictor, source, columns, total))
        if folder.finished:
            return Counts(len(own), {}, {}, len(own))
        with (
            closing(_predicted(predictor, rows, keys, own.start, own.stop)) as chunks,
            folder.writing_part() as temporary,
        ):
            nothing = (pl.DataFrame(schema=columns), Predictions({}, {}, {}))
            return _write(chunks if own else [nothing], temporary, _parquet)


def _keys(predictor: Predictor, rows: _Rows, total: int | None = None) -> list[str]:
    """Return the key columns in the data; refuse data without the features or without rows.

    Where their number is known, none is read.
    """
    known_columns(rows.frame, rows.columns)
    if total is None:
        total = collect(rows.frame.head(1), rows.columns).height
    if not total:
        raise DataError("there are no rows to score")
    known = column_names(rows.frame)
    return [name for name in predictor.schema.keys.columns if name in known]


def _head(
    predictor: Predictor, source: str | Joined, frame: pl.LazyFrame, keys: list[str]
) -> dict[str, Any]:
    """Return what all parts have in common."""
    paths = _files(source)
    _refuse_stores(paths)
    try:
        found = checksums.of_files(paths)
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    hashed = zip(paths, found, strict=True)
    columns = _columns(predictor, frame, keys)
    return {
        **predictor.identity,
        "source": [{"file": Path(path).name, "sha256": each} for path, each in hashed],
        "columns": {name: str(dtype) for name, dtype in columns.items()},
        "rows per part": CHUNK_ROWS * PART_CHUNKS,
    }


def _shards_head(
    predictor: Predictor, source: str | Joined, columns: pl.Schema, total: int
) -> dict[str, Any]:
    """Return what all shards have in common; a checksum would read the whole log for each."""
    paths = _files(source)
    _refuse_stores(paths)
    sizes = {path: Path(path).stat().st_size for path in paths}
    return {
        **predictor.identity,
        "source": [{"file": Path(path).name, "bytes": size} for path, size in sizes.items()],
        "rows": total,
        "columns": {name: str(dtype) for name, dtype in columns.items()},
    }


def _refuse_stores(paths: Iterable[str]) -> None:
    """Refuse rows of which no cheap mark tells whether they are still the same."""
    for path in paths:
        if store_of(path) is not None:
            raise DataError(
                f"{path}: a folder of parts records by which files it was made, and those of an "
                "object store would be downloaded for their checksum: copy them to this machine, "
                "or write one file, such as --out predictions.parquet"
            )


def _files(source: Any) -> list[str]:
    """Return the paths that a source reads; a frame has none."""
    if isinstance(source, Joined):
        return [*_files(source.rows), *_files(source.shared)]
    return files(str(source)) if isinstance(source, str | Path) else []


def _columns(predictor: Predictor, frame: pl.LazyFrame, keys: list[str]) -> pl.Schema:
    """Return the columns to write and their types."""
    types = frame.collect_schema()
    return pl.Schema(
        {name: types[name] for name in keys}
        | {name: pl.Float64() for name in [*predictor.schema.outputs, *predictor.more]}
    )


def _predicted(
    predictor: Predictor,
    rows: _Rows,
    keys: list[str],
    start: int = 0,
    stop: int | None = None,
) -> Generator[tuple[pl.DataFrame, Predictions]]:
    """Yield the columns to write and the predictions of each chunk from one row to another."""
    inputs, frame = predictor.schema.inputs, rows.frame
    if start or stop is not None:
        frame = frame.slice(start, None if stop is None else stop - start)
    total = None if stop is None else stop - start
    if total is None and watching() and is_parquet(rows.frame):
        total = count_rows(rows.frame) - start
    chunks = metered(
        collect_chunks(frame, [*keys, *rows.columns], CHUNK_ROWS),
        "scoring", total=total, size=lambda chunk: chunk.height,
    )  # fmt: skip
    waiting: deque[Future[tuple[pl.DataFrame, Predictions]]] = deque()

    def one(chunk: pl.DataFrame, first: int) -> tuple[pl.DataFrame, Predictions]:
        try:
            found = _together([predictor.predict(piece) for piece in rows.pieces(chunk, inputs)])
            # Series and arrays make a frame in one piece: the bytes of the file do not depend on
            # how the rows were read.
            return pl.DataFrame({**chunk.select(keys).to_dict(), **found.outputs}), found
        except DataError as error:
            if not first:
                raise
            last = first + chunk.height - 1
            raise DataError(f"in rows {first:,} to {last:,}: {error}") from None

    pool = ThreadPoolExecutor(predictor.threads)
    try:
        for chunk in chunks:
            waiting.append(pool.submit(one, chunk, start))
            start += chunk.height
            if len(waiting) > predictor.threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _together(found: list[Predictions]) -> Predictions:
    """Return the predictions of pieces as those of the whole."""
    if len(found) == 1:
        return found[0]
    outputs = {
        name: np.concatenate([each.outputs[name] for each in found]) for name in found[0].outputs
    }
    return Predictions(
        outputs, _added(each.unseen for each in found), _added(each.nulls for each in found)
    )


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for each in counts:
        total.update(each)
    return dict(total)


def _write(
    chunks: Iterable[tuple[pl.DataFrame, Predictions]], path: Path, opened: Opened
) -> Counts:
    rows, unseen, nulls = 0, Counter[str](), Counter[str]()
    # Opened here, so that the error of a failed write does not name a temporary path.
    with path.open("wb") as file, opened(file) as write:
        for frame, found in chunks:
            write(frame)
            rows += frame.height
            unseen.update(found.unseen)
            nulls.update(found.nulls)
    return Counts(rows, dict(unseen), dict(nulls))


def _check_apart(source: Any, out: Path) -> None:
    """Refuse to write over the source."""
    for path in _files(source):
        if store_of(path) is not None:
            continue
        found, place = Path(path).resolve(), out.resolve()
        if found == place:
            raise DataError(f"{out} is also the source, which it would replace: choose another")
        if place in found.parents:
            raise DataError(f"{out} contains the source {path}: choose another folder")


@contextmanager
def _parquet(file: BinaryIO) -> Generator[Write]:
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
def _separated(file: BinaryIO, *, by: str) -> Generator[Write]:
    first = True

    def write(frame: pl.DataFrame) -> None:
        nonlocal first
        frame.write_csv(file, include_header=first, separator=by)
        first = False

    yield write


_WRITERS: Mapping[str, Opened] = {
    ".parquet": _parquet,
    ".csv": partial(_separated, by=","),
    ".tsv": partial(_separated, by="\t"),
}
