"""Scoring of files, a chunk at a time in the order of the rows, into one file or a folder of parts.

Whatever the number of threads, one of them predicts a whole chunk: the same rows give the same
bits. Meanwhile the next chunk is read and the last one written.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet

from polyrank.data import checksums
from polyrank.data.read import collect, collect_chunks, column_names, files, read
from polyrank.errors import DataError
from polyrank.files import replacing, writing
from polyrank.schema import Schema
from polyrank.serve.engine import Predictions

CHUNK_ROWS = 100_000
PART_CHUNKS = 10
MANIFEST = "parts.json"
FORMAT = 2  # of the manifest
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


@dataclass(frozen=True)
class Counts:
    """The counts of scored files: rows, unseen ids and missing values by feature."""

    rows: int
    unseen: dict[str, int]
    nulls: dict[str, int]
    resumed: int = 0  # rows that an earlier run had finished


def predict_file(predictor: Predictor, source: Any, out: str | Path) -> Counts:
    """Score a source into a Parquet, CSV or TSV file: its key columns, then the outputs.

    The source is a path, a glob or whatever `read` takes, with or without labels. The file is
    written beside its place and renamed at the end.
    """
    out = Path(out)
    opened = _WRITERS.get(out.suffix.lower())
    if opened is None:
        raise DataError(
            f"{out}: unknown extension {out.suffix!r} (known: {', '.join(_WRITERS)}; none for a "
            "folder of parts)"
        )
    _check_apart(source, out)
    frame = read(source, predictor.schema)
    keys = _keys(predictor, frame)
    chunks = _predicted(predictor, frame, keys)
    with writing(out, DataError, *_FAILURES), closing(chunks):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            return _write(chunks, temporary, opened)


def predict_parts(
    predictor: Predictor, source: str, out: str | Path, *, resume: bool = False, force: bool = False
) -> Counts:
    """Score files into a folder of Parquet parts of 1,000,000 rows, which can be resumed.

    A part is written beside its place and renamed. `parts.json` records the source, the model and
    the finished parts; a run that is interrupted and resumed gives the parts of one that was not
    interrupted, to the byte. `force` removes existing parts.
    """
    out = Path(out)
    folder = PartsFolder(out, resume=resume, force=force)
    _check_apart(source, out)
    frame = read(source, predictor.schema)
    keys = _keys(predictor, frame)
    head = _head(predictor, source, frame, keys)
    with writing(out, DataError, *_FAILURES):
        folder.open(head)
        before = folder.rows
        if not folder.finished:
            with closing(_predicted(predictor, frame, keys, before)) as chunks:
                for first in chunks:
                    with folder.part() as temporary:
                        rest = islice(chunks, PART_CHUNKS - 1)
                        found = _write(chain([first], rest), temporary, _parquet)
                    folder.add(found)
            folder.finish()
    return Counts(folder.rows, dict(folder.unseen), dict(folder.nulls), before)


def _keys(predictor: Predictor, frame: pl.LazyFrame) -> list[str]:
    """Return the key columns in the data; refuse data without the features or without rows."""
    if not collect(frame.head(1), predictor.schema.inputs).height:
        raise DataError("there are no rows to score")
    known = column_names(frame)
    return [name for name in predictor.schema.keys.columns if name in known]


def _head(
    predictor: Predictor, source: str, frame: pl.LazyFrame, keys: list[str]
) -> dict[str, Any]:
    """Return what all parts have in common."""
    paths, types = files(source), frame.collect_schema()
    try:
        found = checksums.of_files(paths)
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    outputs = predictor.schema.outputs
    hashed = zip(paths, found, strict=True)
    return {
        **predictor.identity,
        "source": [{"file": Path(path).name, "sha256": each} for path, each in hashed],
        "columns": {name: str(types[name]) for name in keys} | dict.fromkeys(outputs, "Float64"),
        "rows per part": CHUNK_ROWS * PART_CHUNKS,
    }


def _predicted(
    predictor: Predictor, frame: pl.LazyFrame, keys: list[str], start: int = 0
) -> Generator[tuple[pl.DataFrame, Predictions]]:
    """Yield the columns to write and the predictions of each chunk from a row on."""
    inputs = predictor.schema.inputs
    chunks = collect_chunks(frame.slice(start) if start else frame, [*keys, *inputs], CHUNK_ROWS)
    waiting: deque[Future[tuple[pl.DataFrame, Predictions]]] = deque()

    def one(chunk: pl.DataFrame, first: int) -> tuple[pl.DataFrame, Predictions]:
        try:
            found = predictor.predict(chunk.select(inputs))
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


class PartsFolder:
    """A folder of parts of one source, each written whole or not at all.

    The constructor only checks the folder; `open` begins to write.

    parts.json            the source, the model, the finished parts, and whether all are finished
    part-00000.parquet    the first rows; every part but the last has the same number
    """

    def __init__(self, path: Path, *, resume: bool, force: bool) -> None:
        if resume and force:
            raise DataError(
                "resume continues after existing parts and force removes them: give one of the two"
            )
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file: parts need a folder")
        self.path, self._resumes = path, resume
        self.parts: dict[str, dict[str, int]] = {}
        self.unseen, self.nulls = Counter[str](), Counter[str]()
        self.finished = False
        self._head: Mapping[str, Any] = {}
        self._found = self._read()
        if self._found and not (resume or force):
            raise DataError(
                f"{path} already has parts: continue with --resume, replace them with --force, or "
                "choose another --out"
            )

    @property
    def rows(self) -> int:
        """Rows in the finished parts."""
        return sum(part["rows"] for part in self.parts.values())

    def open(self, head: Mapping[str, Any]) -> None:
        """Create the folder with its manifest, or resume the one that is there.

        `head` is what all parts have in common; parts with another are refused.
        """
        self._head = json.loads(json.dumps(head))
        if self._found and self._resumes:
            self._resume(self._found)
        self.path.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self._write()

    def part(self) -> AbstractContextManager[Path]:
        """Give a path to write the next part to, which gets its name at the end."""
        return replacing(self.path / _part(len(self.parts)))

    def add(self, counts: Counts) -> None:
        """Record in the manifest that the next part is finished."""
        name = _part(len(self.parts))
        self.parts[name] = {"rows": counts.rows, "bytes": (self.path / name).stat().st_size}
        self.unseen.update(counts.unseen)
        self.nulls.update(counts.nulls)
        self._write()

    def finish(self) -> None:
        """Record in the manifest that there are no more rows."""
        self.finished = True
        self._write()

    def _read(self) -> dict[str, Any]:
        """Return the manifest of a folder that has more than a killed process left of its first."""
        if not self.path.is_dir() or all(
            each.match(f".{MANIFEST}.????????") for each in self.path.iterdir()
        ):
            return {}
        try:
            found = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}; this polyrank has format {FORMAT}")
            sizes = [(int(each["rows"]), int(each["bytes"])) for each in found["parts"].values()]
            # These names are removed later: none may point elsewhere.
            if [*found["parts"]] != [_part(number) for number in range(len(sizes))]:
                raise ValueError("its parts are not numbered from 0")
            _ = dict(found["head"]), Counter(found["unseen"]), Counter(found["nulls"])
            _ = bool(found["finished"])
        except FileNotFoundError:
            raise DataError(
                f"{self.path} is not empty and has no parts of polyrank (no {MANIFEST}): it is "
                "left as it is; choose another --out"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path / MANIFEST} cannot be read ({error}): {self.path} is left as it is; "
                "choose another --out"
            ) from None
        return found

    def _resume(self, found: Mapping[str, Any]) -> None:
        for key in {**found["head"], **self._head}:
            before, now = found["head"].get(key), self._head.get(key)
            if before != now:
                raise DataError(
                    f"{self.path} has parts with another {key} ({_change(before, now)}): --resume "
                    "needs the same; use --force or another --out"
                )
        for name, each in found["parts"].items():
            part = self.path / name
            size = part.stat().st_size if part.is_file() else None
            if size != each["bytes"]:
                what = "is missing"
                if size is not None:
                    what = f"has {size:,} bytes and was written with {each['bytes']:,}"
                raise DataError(f"{part} {what}: start again with --force")
        self.parts, self.finished = dict(found["parts"]), bool(found["finished"])
        self.unseen, self.nulls = Counter(found["unseen"]), Counter(found["nulls"])

    def _sweep(self) -> None:
        """Remove the parts that are not resumed, and what a killed process left of one."""
        listed = [*self._found.get("parts", ())]
        written = [*listed, _part(len(listed))]  # the last may be whole, but without its entry
        for name in set(written) - self.parts.keys():
            (self.path / name).unlink(missing_ok=True)
        for name in (MANIFEST, *written):
            for left in self.path.glob(f".{name}.????????"):
                left.unlink(missing_ok=True)

    def _write(self) -> None:
        manifest = {
            "format": FORMAT,
            "finished": self.finished,
            "rows": self.rows,
            "head": self._head,
            "parts": self.parts,
            "unseen": self.unseen,
            "nulls": self.nulls,
        }
        with replacing(self.path / MANIFEST) as temporary:
            text = json.dumps(manifest, ensure_ascii=False, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")


def _part(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _change(before: Any, now: Any) -> str:
    """Describe the first difference, within a table or a list that of one entry."""
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"{len(before)} files before and {len(now)} now"
        number = next(n for n in range(len(now)) if before[n] != now[n])
        return f"file {number + 1} of {len(now)}: {_change(before[number], now[number])}"
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
        return f"{key} {_change(before.get(key), now.get(key))}"
    texts = ("missing" if each is None else repr(each) for each in (before, now))
    was, has = (text if len(text) <= 40 else f"{text[:12]}…'" for text in texts)
    return f"was {was}, is {has}"


def _check_apart(source: Any, out: Path) -> None:
    """Refuse to write over the source."""
    if not isinstance(source, str | Path):
        return
    for path in files(str(source)):
        found, place = Path(path).resolve(), out.resolve()
        if found == place:
            raise DataError(f"{out} is also the source, which it would replace: choose another")
        if place in found.parents:
            raise DataError(f"{out} contains the source {path}: choose another folder")


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
def _separated(file: BinaryIO, *, by: str) -> Iterator[Write]:
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
