"""From a file, a frame or arrays to a polars LazyFrame: the only way that rows come in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from polyrank.data.arrays import from_arrays
from polyrank.errors import DataError, did_you_mean
from polyrank.paths import STORES, listed, plain, store_of
from polyrank.schema import Schema

# A path or a glob, a polars or pandas frame, a pyarrow table, a mapping of arrays, or a `Joined`.
Source = Any

# Long, because a type guessed from a few rows breaks on the first odd value further down.
INFERENCE_ROWS = 50_000
CHUNK_ROWS = 100_000
SLICE_CHUNKS = 4  # of Parquet files at a time: of one, most of its row group was decoded in vain
MOST_SLICES = 400  # since each looks for its first row anew
# What numpy and pandas write for a missing number. Without this a column of integers with one
# missing value would be read as floats, and ids above 2^53 would lose their last digits.
MISSING = ["NaN", "nan"]
_CSV, _TSV, _PARQUET = ("csv", ","), ("tsv", "\t"), ("parquet", "")  # and what parts its fields
_FORMATS = {
    ".csv": _CSV,
    ".csv.gz": _CSV,
    ".tsv": _TSV,
    ".tsv.gz": _TSV,
    ".parquet": _PARQUET,
}
# A panic is of no base of polars' errors: it reads some damaged Parquet files to one.
_FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
_SEPARATORS = (",", "\t", ";", "|")  # that text files have, of which ours are the first two
_RENAMED = re.compile(r"(?P<name>.*)_duplicated_\d+")  # as polars names a column's second one
_AT_COLUMN = re.compile(r"at column '(?P<column>.*?)'")
# What polars says, and what a reader can do about it.
_EXPLAINED = (
    (r"expanded paths were empty", "no file of the store matches it"),
    (r"Object at location (?P<object>.*?) not found", "the store has no {object!r}"),
    (
        r"(?:object-store error: |error sending request)(?P<what>[^\n]{,300})",
        "the store does not answer, or refuses: {what}",
    ),
    (r"invalid utf-8", "a text is not UTF-8: save the file as UTF-8"),
    (
        r"could not parse `(?P<value>[^\r\n]{,60})[^\r\n]*[\r\n`].*is not properly escaped",
        "a quote is not closed, or stands inside a field, in what begins with {value!r}: close it, "
        "or write a quote that belongs to the text twice",
    ),
    (
        r"CSV malformed",
        "a quote is not closed, or stands inside a field: close it, or write a quote that belongs "
        "to the text twice",
    ),
    (
        r"found more fields",
        "a row has more fields than the header: put a field that holds a comma in quotes, or "
        "repair the row",
    ),
    (
        r"schema names differ: got (?P<found>.*), expected (?P<first>.*)",
        "the column names differ: {found!r} in one file where the first has {first!r}; give the "
        "files one header",
    ),
    (
        r"did not find column (?P<column>.*?), consider",
        "column {column!r} of the first file is not in another: add it there",
    ),
    (
        r"mismatch for column (?P<column>.*): incoming: (?P<found>.*) != target: (?P<first>.*)",
        "column {column!r} is {found} in one file and {first} in the first: write the files with "
        "one type",
    ),
    (
        r"could not parse `(?P<value>.*?)` as dtype `(?P<dtype>.*?)`.* at column '(?P<column>.*?)'",
        "column {column!r} holds {value!r}, but its first {rows:,} rows were read as "
        "{dtype}: clean the column, write the file as Parquet, or pass "
        "polars.scan_csv(…, schema_overrides={{{column!r}: polars.String}})",
    ),
)
_SCANNED = re.compile(r"^\s*(?:Csv|Parquet) SCAN \[(?P<files>.*)\]$", re.MULTILINE)


class OtherFrame(Protocol):
    """A pandas frame or a pyarrow table, neither of which is imported here; no polars frame."""

    @property
    def columns(self) -> Any:
        """Of a pandas frame its names."""

    def take(self, indices: Any) -> Any:
        """Return some rows, which polars calls `gather`."""


class _Stream:
    """The Arrow stream of a frame and nothing else of it, so that polars reads the stream."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._frame.__arrow_c_stream__(requested_schema)


@dataclass(frozen=True, eq=False)
class Joined:
    """Rows that share lists, such as the history of a user whom a log shows a hundred times.

    What `fit` and `evaluate` make of it equals what they make of the two tables joined on the key,
    but the join is never made: each list is encoded and kept once, and a row holds its number.

    Args:
        rows: a source of rows with the column `key`; a null key has no lists.
        shared: a source with the column `key`, each value once, and columns of lists.
        key: the column.

    Examples:
        >>> users = {"user": [7, 8], "seen": [[1, 2, 3], [2]]}
        >>> joined = Joined({"user": [8, 7, 7], "click": [0, 1, 0]}, users, "user")
        >>> read(joined).collect()["seen"].to_list()
        [[2], [1, 2, 3], [1, 2, 3]]
    """

    rows: Source
    shared: Source
    key: str

    def lazy(self, schema: Schema | None = None) -> pl.LazyFrame:
        """Return the join, for what does not know better."""
        rows, shared = read(self.rows, schema), read(self.shared, schema)
        return rows.join(shared, on=self.key, how="left", maintain_order="left")


def read(source: Source, schema: Schema | None = None) -> pl.LazyFrame:
    """Return rows as a LazyFrame; files are scanned, not read.

    Args:
        source: a path or a glob of `.csv`, `.tsv` (either also as `.gz`) or `.parquet` files
            (concatenated in sorted order), of this machine or of an object store (`s3://`,
            `gs://`, `abfss://`, `https://`), a polars or pandas frame (the index is dropped), a
            pyarrow table, or a mapping from column to 1-D array, list of lists, or 2-D array whose
            rows are lists; or a `Joined`, which is joined.
        schema: with it the features of numbers, labels and weight of a CSV or TSV file are parsed
            as Float64, and its other features and its user and request keys are read as text:
            "007" is not 7, whatever the other rows hold. Without it all types are guessed from the
            first rows.

    Raises:
        DataError: no such file, an unknown extension, a file or a frame that cannot be read, a
            column that a file has twice, arrays of unequal length, or sequence features of a CSV
            file, which has no lists.
    """
    if isinstance(source, pl.LazyFrame):
        return source
    if isinstance(source, pl.DataFrame):
        return source.lazy()
    if isinstance(source, Joined):
        return source.lazy(schema)
    if isinstance(source, str | Path):
        return _scan(plain(source), schema)
    if isinstance(source, Mapping):
        return from_arrays(source).lazy()
    if hasattr(source, "__arrow_c_stream__"):
        return _from_arrow(source).lazy()
    raise DataError(
        "rows must be a path, a polars or pandas frame, a pyarrow table or a mapping of arrays, "
        f"got {type(source).__module__}.{type(source).__qualname__}"
    )


def like(source: Source, found: pl.DataFrame) -> Any:
    """Return what was found of rows as a frame of their library, with pandas' index.

    Rows that are no frame, such as a path or arrays, have a polars frame.

    Examples:
        >>> import pandas as pd
        >>> rows = pd.DataFrame({"item": [3, 4]}, index=["a", "b"])
        >>> like(rows, pl.DataFrame({"p_click": [0.5, 0.25]})).loc["b"].to_dict()
        {'p_click': 0.25}
    """
    library = type(source).__module__.partition(".")[0]
    if library == "pandas":
        columns = {name: found[name].to_numpy() for name in found.columns}
        return type(source)(columns, index=source.index)
    return found.to_arrow() if library == "pyarrow" else found


def with_lists(rows: Source, schema: Schema, config: Mapping[str, Any]) -> Source:
    """Return rows joined with the lists that the rows of an experiment share, where they lack them.

    Args:
        rows: a source.
        schema: of the experiment.
        config: the experiment; `[data] shared` names the lists and their key.
    """
    shared = config.get("data", {}).get("shared")
    if shared is None or isinstance(rows, Joined):
        return rows
    known = column_names(read(rows, schema))
    lacks = shared["key"] in known and not set(schema.inputs) <= {*known}
    return Joined(rows, shared["file"], shared["key"]) if lacks else rows


def files(pattern: str) -> list[str]:
    """Return the files of a path or a glob in the order in which they are read.

    A path or a glob of an object store is returned as it is: the store lists its files.

    Raises:
        DataError: no such file, no such kind of store, or a glob of a web server, which lists none.
    """
    scheme, pattern = store_of(pattern), plain(pattern)
    if scheme is not None:
        if scheme not in STORES:
            raise DataError(
                f"{pattern!r}: rows are not read from {scheme}:// (known: "
                f"{', '.join(f'{each}://' for each in STORES)}); copy the file to this machine"
            )
        if "*" in pattern.partition("?")[0] and not listed(pattern):
            raise DataError(
                f"{pattern!r}: a web server does not list its files; name one file, or copy them "
                "to this machine"
            )
        return [pattern]
    # A file may have a bracket in its name, so a path that exists is never taken for a glob.
    paths = [pattern] if Path(pattern).exists() else sorted(glob(pattern, recursive=True))  # noqa: PTH207  an absolute pattern
    if not paths:
        raise DataError(
            f"no such file: {pattern!r} (looked in {str(Path.cwd())!r}; give a path or a glob)"
        )
    return paths


def collect(frame: pl.LazyFrame | pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    """Return the named columns in memory, each once; a DataError names the column and the fix."""
    wanted = known_columns(frame, columns)
    try:
        return frame.lazy().select(wanted).collect()
    except _FAILURES as error:
        raise DataError(f"{_files(frame)}{_explained(error)}") from None


def collect_chunks(
    frame: pl.LazyFrame | pl.DataFrame, columns: Iterable[str], size: int = CHUNK_ROWS
) -> Iterator[pl.DataFrame]:
    """Yield the named columns a chunk at a time, in the order of the rows.

    All chunks but the last are of one size, so that the same file gives the same bits.

    Raises:
        DataError: as `collect`, for the columns at once and for values when they are reached.

    Examples:
        >>> frame = pl.LazyFrame({"click": [0, 1, 1]})
        >>> [chunk["click"].to_list() for chunk in collect_chunks(frame, ["click"], size=2)]
        [[0, 1], [1]]
    """
    return _chunks(frame, frame.lazy().select(known_columns(frame, columns)), size)


def by_column(
    frame: pl.LazyFrame | pl.DataFrame, columns: Iterable[str]
) -> pl.LazyFrame | pl.DataFrame:
    """Return a frame of which `collect` gives one column after the other at no extra cost.

    Parquet files are left as they are, so that no more columns are in memory than are in use.
    Anything else would be parsed or computed anew for each, so the columns are collected here.
    """
    if is_parquet(frame):
        known_columns(frame, columns)
        return frame
    return collect(frame, columns)


def count_rows(frame: pl.LazyFrame | pl.DataFrame) -> int:
    """Return the number of rows; of Parquet files, from their footers."""
    try:
        return int(frame.lazy().select(pl.len()).collect(engine="streaming").item())
    except _FAILURES as error:
        raise DataError(f"{_files(frame)}{_explained(error)}") from None


def column_names(frame: pl.LazyFrame | pl.DataFrame) -> list[str]:
    """Return the columns of a frame in order; DataError if its file cannot be read."""
    try:
        return frame.lazy().collect_schema().names()
    except _FAILURES as error:
        raise DataError(_explained(error)) from None


def _chunks(
    frame: pl.LazyFrame | pl.DataFrame, wanted: pl.LazyFrame, size: int
) -> Iterator[pl.DataFrame]:
    pending: list[pl.DataFrame] = []
    height = 0
    try:
        for part in _parts(frame, wanted, size):
            pending.append(part)
            height += part.height
            while height >= size:
                whole = pl.concat(pending)
                yield whole.head(size)
                pending = [whole.slice(size)]
                height -= size
    except _FAILURES as error:
        raise DataError(f"{_files(frame)}{_explained(error)}") from None
    if height:
        yield pl.concat(pending)


def _parts(
    frame: pl.LazyFrame | pl.DataFrame, wanted: pl.LazyFrame, size: int
) -> Iterator[pl.DataFrame]:
    """Yield the rows in some parts; of Parquet files a slice after the other.

    The batches of one scan are decoded far ahead: several row groups for each core of the machine.
    """
    if not is_parquet(frame):
        yield from wanted.collect_batches(chunk_size=size, maintain_order=True)
        return
    rows = count_rows(frame)
    step = max(SLICE_CHUNKS, -(-rows // (MOST_SLICES * size))) * size
    for start in range(0, rows, step):
        yield wanted.slice(start, step).collect(engine="streaming")


def known_columns(frame: pl.LazyFrame | pl.DataFrame, columns: Iterable[str]) -> list[str]:
    """Return columns, each once; a DataError names the first that the frame does not have."""
    known, wanted = column_names(frame), list(dict.fromkeys(columns))
    for column in wanted:
        if column not in known:
            hint = did_you_mean(column, known)
            raise DataError(f"{_files(frame)}column {column!r} is not in the data{hint}")
    return wanted


def _scan(pattern: str, schema: Schema | None) -> pl.LazyFrame:
    paths = files(pattern)
    formats = {path: _format(path) for path in paths}
    kinds = {kind: path for path, (kind, _) in formats.items()}
    if len(kinds) > 1:
        raise DataError(
            f"{pattern!r} matches {' and '.join(kinds)} files, such as "
            f"{' and '.join(map(repr, kinds.values()))}: name one kind, such as '*.parquet'"
        )
    kind, separator = formats[paths[0]]
    try:
        if separator:
            return _scan_text(paths, separator, schema)
        # Files written on different days may hold narrower numbers or more columns than the first.
        scan = pl.scan_parquet(
            paths,
            glob=_in_store(paths),
            extra_columns="ignore",
            cast_options=pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast"),
        )
        scan.collect_schema()
    except _FAILURES as error:
        told, scheme = _explained(error), store_of(pattern)
        known = f"; {STORES[scheme]}" if scheme and "or refuses" in told else ""
        raise DataError(f"{pattern!r} cannot be read as {kind}: {told}{known}") from None
    return scan


def is_parquet(frame: pl.LazyFrame | pl.DataFrame) -> bool:
    """Whether a frame is Parquet files to which nothing is done."""
    return isinstance(frame, pl.LazyFrame) and frame.explain(optimized=False).lstrip().startswith(
        "Parquet SCAN"
    )


def _in_store(paths: Sequence[str]) -> bool:
    """Whether the paths are a glob that an object store resolves."""
    return any(store_of(path) is not None and listed(path) for path in paths)


def is_log(path: str | Path) -> bool:
    """Whether the name of a file says that it holds rows."""
    return str(path).lower().endswith(tuple(_FORMATS))


def _format(path: str) -> tuple[str, str]:
    name = path
    if store_of(path) is not None:
        name = path if listed(path) else re.split(r"[?#]", path)[0]  # of a signed address
        if name.endswith("/"):
            raise DataError(f"{path!r} is a folder: name its files, such as {path + '*.parquet'!r}")
    elif Path(path).is_dir():
        raise DataError(f"{path!r} is a folder: name its files, such as {path + '/*.parquet'!r}")
    for suffix, found in _FORMATS.items():
        if name.lower().endswith(suffix):
            return found
    raise DataError(
        f"{path!r}: unknown extension {Path(name).suffix!r} (known: "
        f"{', '.join(map(repr, _FORMATS))})"
    )


def _scan_text(paths: list[str], separator: str, schema: Schema | None) -> pl.LazyFrame:
    glob = _in_store(paths)
    options: dict[str, Any] = {"glob": glob, "null_values": MISSING, "separator": separator}
    scan = pl.scan_csv(paths, infer_schema_length=INFERENCE_ROWS, **options)
    try:
        types = dict(scan.collect_schema())
    except pl.exceptions.PolarsError:
        _refuse_separator(paths[0], separator, glob)
        raise
    if len(types) == 1:
        _refuse_separator(paths[0], separator, glob)
    if any(_RENAMED.fullmatch(name) for name in types):
        _refuse_duplicates(paths[0], separator, glob)
    numbers: set[str | None] = set()
    ids: set[str | None] = set()
    if schema is not None:
        _refuse_lists(schema, types)
        keys = schema.keys
        numeric = {feature.name for feature in schema.features if feature.numeric}
        numbers = {*numeric, *schema.extras, *schema.made_of, *schema.labels, keys.weight}
        features = {feature.name for feature in schema.features}
        ids = {*features, keys.user, keys.request} - numbers - {keys.time}  # a time has an order
    texts = [name for name in types if name in numbers and types[name] == pl.String]
    empty = _empty(scan, texts)
    for name, dtype in types.items():
        if name in numbers and (dtype.is_numeric() or name in empty):
            types[name] = pl.Float64()
        elif name in ids or dtype == pl.Int128:
            types[name] = pl.String()  # 40-digit ids exist, and would not fit that either

    def typed(types: Mapping[str, pl.DataType]) -> pl.LazyFrame:
        # Overrides rather than a schema: the header of each file is still compared with them.
        return pl.scan_csv(paths, schema_overrides=types, infer_schema_length=0, **options)

    return typed(_texts_for_long_integers(typed, types))


def _refuse_lists(schema: Schema, columns: Iterable[str]) -> None:
    known = set(columns)
    for feature in schema.features:
        if feature.lists and feature.name in known:
            raise DataError(
                f"{feature.kind} feature {feature.name!r} is a column of a text file, which has no "
                "lists: write the rows as Parquet, or split the text and pass the frame, such as "
                f"polars.scan_csv(…).with_columns(polars.col({feature.name!r}).str.split(' '))"
            )


def _header(path: str, separator: str, glob: bool) -> tuple[Any, ...]:
    """Return the fields of the first line, as they are written."""
    options: dict[str, Any] = {"separator": separator, "glob": glob, "infer_schema": False}
    # Rows with more fields are another fault, and some are parsed with the first.
    scan = pl.scan_csv(path, has_header=False, n_rows=1, truncate_ragged_lines=True, **options)
    return scan.collect().row(0)


def _refuse_separator(path: str, separator: str, glob: bool) -> None:
    """Refuse a header of one field in which another separator stands."""
    header = _header(path, separator, glob)
    others = [each for each in _SEPARATORS if each != separator and each in str(header[0])]
    if len(header) > 1 or not others:
        return
    found = max(others, key=str(header[0]).count)
    raise DataError(
        f"{path!r} has {found!r} between the names of its header and no {separator!r}: a .csv has "
        "commas between its fields, a .tsv tabs. Write it as Parquet: "
        f"polars.read_csv({Path(path).name!r}, separator={found!r}).write_parquet('log.parquet'), "
        "with decimal_comma=True if its numbers are written as 2,50"
    )


def _refuse_duplicates(path: str, separator: str, glob: bool) -> None:
    """Refuse a header that has a name twice, of which polars would rename the second in silence."""
    first: dict[Any, int] = {}
    for place, name in enumerate(_header(path, separator, glob), start=1):
        if name in first:
            raise DataError(
                f"{path!r} has the column {name!r} twice, as its columns {first[name]} and "
                f"{place}: remove one of them, or rename it"
            )
        first[name] = place


def _texts_for_long_integers(
    typed: Callable[[Mapping[str, pl.DataType]], pl.LazyFrame], types: Mapping[str, pl.DataType]
) -> dict[str, pl.DataType]:
    """Read as text the integers of the prefix that polars guesses to be Int64 and cannot parse.

    Before it had Int128, polars took every run of digits for an Int64.
    """
    types = dict(types)
    while integers := [name for name, dtype in types.items() if dtype == pl.Int64]:
        try:
            typed(types).head(INFERENCE_ROWS).select(integers).collect()
        except pl.exceptions.ComputeError as error:
            place = _AT_COLUMN.search(str(error))
            if place is None or place["column"] not in integers:
                raise
            types[place["column"]] = pl.String()
        else:
            break
    return types


def _empty(scan: pl.LazyFrame, columns: list[str]) -> set[str]:
    """Columns without a value in the prefix; polars calls these strings."""
    if not columns:
        return set()
    counts = scan.head(INFERENCE_ROWS).select(pl.col(columns).count()).collect()
    return {name for name in columns if counts[name].item() == 0}


def _from_arrow(source: Any) -> pl.DataFrame:
    # A pandas frame streams its index as a column; dropping it first is the only sure way.
    reset = getattr(source, "reset_index", None)
    try:
        if reset is not None:
            source = reset(drop=True)
            source.columns = [str(name) for name in source.columns]
        return pl.DataFrame(_Stream(source))
    except Exception as error:  # noqa: BLE001  classes of pyarrow and pandas, not imported here
        kind = f"{type(source).__module__.split('.')[0]} {type(source).__name__}"
        raise DataError(
            f"the {kind} cannot be read as Arrow columns: {error}; a column must hold one type"
        ) from None


def _files(frame: pl.LazyFrame | pl.DataFrame) -> str:
    """Name the files that a frame scans, in front of what went wrong."""
    try:
        found = _SCANNED.findall(frame.lazy().explain(optimized=False))
    except (pl.exceptions.PolarsError, OSError):
        return ""
    return f"{'; '.join(dict.fromkeys(found))}: " if found else ""


def _explained(error: BaseException) -> str:
    """What polars said, with the column and the fix where it is known."""
    if isinstance(error, pl.exceptions.PanicException):
        return f"polars gave up on it, as on a damaged file: {error}"
    text = str(error).strip()
    for pattern, explained in _EXPLAINED:
        if found := re.search(pattern, text, re.DOTALL if "escaped" in pattern else 0):
            return explained.format(rows=INFERENCE_ROWS, **found.groupdict())
    return text.splitlines()[0] if text else type(error).__name__
