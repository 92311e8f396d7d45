"""Batch scoring of files: a chunk at a time, in the order of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet

from polyrank.bundle.model import Bundle
from polyrank.data.read import column_names, read
from polyrank.errors import DataError, did_you_mean
from polyrank.files import replacing

CHUNK_ROWS = 100_000
Write = Callable[[pl.DataFrame], None]


@dataclass(frozen=True)
class Scored:
    """What was scored.

    Args:
        rows: their number.
        unseen: ids that training did not see, by feature.
        nulls: missing values, by feature.
    """

    rows: int
    unseen: dict[str, int]
    nulls: dict[str, int]


def predict_file(
    bundle: Bundle,
    source: Any,
    out: str | Path,
    progress: Callable[[int], None] | None = None,
    *,
    raw: bool = False,
) -> Scored:
    """Score a source into a Parquet or CSV file: its key columns, then the outputs.

    The file is written beside its place and renamed at the end.

    Args:
        bundle: the model.
        source: as in `Bundle.predict`.
        out: a path that ends in .parquet or .csv.
        progress: called with the rows scored so far.
        raw: as in `Bundle.predict`.

    Raises:
        DataError: a source that cannot be read or scored, or an `out` of another extension.
    """
    out = Path(out)
    if out.suffix.lower() not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise DataError(f"{out}: unknown extension {out.suffix!r} (known: {known})")
    if isinstance(source, str | Path) and Path(source).resolve() == out.resolve():
        raise DataError(f"{out} is what is scored: it would be replaced; choose another")
    frame = read(source, bundle.schema)
    known_columns = column_names(frame)
    keys = [name for name in bundle.schema.keys.columns if name in known_columns]
    features = [feature.name for feature in bundle.schema.features]
    wanted = list(dict.fromkeys([*keys, *features]))
    for name in wanted:
        if name not in known_columns:
            raise DataError(
                f"column {name!r} is not in the data{did_you_mean(name, known_columns)}"
            )
    rows, unseen, nulls = 0, Counter[str](), Counter[str]()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary, _WRITERS[out.suffix.lower()](temporary) as write:
            for chunk in _chunks(frame.select(wanted)):
                table = bundle.encode(chunk)
                write(
                    pl.concat([chunk.select(keys), bundle.score(table, raw=raw)], how="horizontal")
                )
                rows += len(table)
                unseen.update(table.unseen)
                nulls.update(table.nulls)
                if progress is not None:
                    progress(rows)
            if not rows:
                raise DataError("no rows to score")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the rows could not be scored into {out}: {error}") from error
    return Scored(rows, dict(unseen), dict(nulls))


def _chunks(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Yield chunks of one size, so that the same file gives the same bits."""
    pending: list[pl.DataFrame] = []
    height = 0
    for part in frame.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True):
        pending.append(part)
        height += part.height
        while height >= CHUNK_ROWS:
            whole = pl.concat(pending)
            yield whole.head(CHUNK_ROWS)
            pending = [whole.slice(CHUNK_ROWS)]
            height -= CHUNK_ROWS
    if height:
        yield pl.concat(pending)


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    writer: pyarrow.parquet.ParquetWriter | None = None

    def write(frame: pl.DataFrame) -> None:
        nonlocal writer
        table = frame.to_arrow()
        if writer is None:
            writer = pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table.cast(writer.schema))

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    with path.open("wb") as file:
        first = True

        def write(frame: pl.DataFrame) -> None:
            nonlocal first
            frame.write_csv(file, include_header=first)
            first = False

        yield write


_WRITERS = {".parquet": _parquet, ".csv": _csv}
