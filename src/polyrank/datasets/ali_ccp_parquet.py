"""The raw files of Ali-CCP to Parquet and an experiment, in memory that does not grow with them.

FOLDER/
  {train,valid,test}.parquet   a row an impression: labels, single values, lists of its own
  common.parquet               the lists that rows share, by the number that they name
  experiment.toml              all of it
  single-values.toml           the 23 fields as most readers have them, the last of several values

A field that has several values is a column of lists, `FIELD.all`, beside the lists of their values,
`FIELD.values`; `FIELD` and `DFIELD` are the last id and its value. A common row is read and written
once, whatever the number of impressions that name it.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from polyrank.datasets.ali_ccp import DENSE, LABELS, SPARSE, USER
from polyrank.datasets.ali_ccp_lines import Lines, code_of, lines_of, name_of
from polyrank.datasets.ali_ccp_raw import COMMON, COMMON_BAGS, SAMPLE, SAMPLE_BAGS, SPLITS
from polyrank.datasets.write import FILE, as_toml, experiment_table, whole_folder
from polyrank.errors import ConfigError, DataError
from polyrank.features.bags import offsets_of
from polyrank.files import replacing
from polyrank.schema import (
    DenseFeature,
    Feature,
    Keys,
    Schema,
    SequenceFeature,
    SparseFeature,
    Task,
)

logger = logging.getLogger(__name__)

KEY = "common"  # column: the number of a row's lists
SINGLE_FILE = "single-values.toml"
LEAST_COUNT = 10  # of an id in training, as readers of the log have it
GROUP_ROWS, GROUP_LISTS = 262_144, 8_192  # of a Parquet row group
_SMALL = ("121", "122", "124", "125", "126", "127", "128", "129", "301")
_NONE = -1  # an id is at least 0


@dataclass
class Counts:
    """What was found in the raw files.

    Args:
        rows: impressions of `train` and of the official test together, as all others.
        clicks: of these.
        buys: purchases, orphans among them.
        orphans: purchases without a click.
        common: common rows.
        features: in all lines, those of common rows once.
        repeated: values of fields with one value a row that a row had more of: only the last is
            kept.
        unknown: rows whose common row is missing.
    """

    rows: int = 0
    clicks: int = 0
    buys: int = 0
    orphans: int = 0
    common: int = 0
    features: int = 0
    repeated: int = 0
    unknown: int = 0

    def to_json(self) -> dict[str, int]:
        """Return plain data."""
        return asdict(self)


def convert(raw: str | Path, folder: str | Path, *, seed: int = 0, force: bool = False) -> Counts:
    """Write the raw files of a folder as Parquet, with experiments that are ready to run.

    The official split is kept; its test is halved at random, by `seed`, into validation and test.

    Raises:
        ConfigError: a folder that holds an experiment, without `force`.
        DataError: a file that is missing, cannot be read, or has a line of another form.
    """
    raw, folder = Path(raw).expanduser(), Path(folder).expanduser()
    for name in (f"{kind}_{split}.csv" for kind in _KINDS for split in SPLITS):
        if not (raw / name).is_file():
            raise DataError(
                f"{raw} has no {name}: name the folder that holds the four raw files, unpacked"
            )
    counts = Counts()
    with whole_folder(folder), ExitStack() as files:
        if (folder / FILE).exists() and not force:
            raise ConfigError(
                f"{folder / FILE} exists: name another folder, or replace it with --force "
                "(force=True in Python)"
            )
        # What is entered first is renamed last.
        written = [files.enter_context(replacing(folder / name)) for name in (FILE, SINGLE_FILE)]
        tables = _all_values(), _single_values()
        for path, table in zip(written, tables, strict=True):
            path.write_text(as_toml(table), encoding="utf-8")
        common = files.enter_context(_writer(folder / "common.parquet", GROUP_LISTS))
        for split in SPLITS:
            found = _common(raw / f"common_features_{split}.csv", common, counts)
            names = ("train",) if split == "train" else ("valid", "test")
            writers = [
                files.enter_context(_writer(folder / f"{name}.parquet", GROUP_ROWS))
                for name in names
            ]
            _skeleton(raw / f"sample_skeleton_{split}.csv", found, writers, counts, seed)
        (folder / FILE).unlink(missing_ok=True)
    for count, what in (
        (counts.unknown, "rows name a common row that is not there: their common fields are null"),
        (counts.repeated, "values of fields with one value were not the last of a line: left out"),
    ):
        if count:
            logger.warning("%s %s", f"{count:,}", what)
    return counts


_KINDS = ("sample_skeleton", "common_features")


@dataclass(frozen=True, eq=False)
class _Common:
    """The common rows of one file.

    Shape:
        keys: uint64 (M,), sorted · numbers: int32 (M,) · ids: {field: int64 (M,)} · values:
        {field: float32 (M,)}
    """

    keys: np.ndarray
    numbers: np.ndarray
    ids: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]


class _Fields:
    """The features of some lines by their fields."""

    def __init__(self, lines: Lines, fields: Iterable[str]) -> None:
        names = tuple(fields)
        codes = np.array([code_of(name) for name in names], dtype=np.uint64)
        by_code = np.argsort(codes)
        place = np.searchsorted(codes[by_code], lines.field).clip(max=len(names) - 1)
        known = codes[by_code][place] == lines.field
        if not known.all():
            field = name_of(lines.field[int(np.argmin(known))])
            raise DataError(
                f"the field {field!r} is not one of those that these lines have: {', '.join(names)}"
            )
        number = by_code.astype(np.uint8)[place]
        order = np.argsort(number, kind="stable")
        self.count = len(lines.index)
        self.ends = offsets_of(np.bincount(number, minlength=len(names)))
        self.line = np.repeat(np.arange(self.count), np.diff(lines.offsets))[order]
        self.id, self.value = lines.id[order], lines.value[order]
        self.places = {name: at for at, name in enumerate(names)}

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the offsets of each line's ids, the ids, and their values."""
        own = self._own(name)
        lengths = np.bincount(self.line[own], minlength=self.count)
        return offsets_of(lengths), self.id[own], self.value[own]

    def last(self, name: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the last id of each line and its value, and how many others there are."""
        offsets, ids, values = self.lists(name)
        there = np.diff(offsets) > 0
        place = offsets[1:][there] - 1
        found = np.full(self.count, _NONE, dtype=np.int64)
        number = np.full(self.count, np.nan, dtype=np.float32)
        found[there], number[there] = ids[place], values[place]
        return found, number, len(ids) - len(place)

    def _own(self, name: str) -> slice:
        at = self.places[name]
        return slice(self.ends[at], self.ends[at + 1])


def _common(path: Path, writer: _Parquet, counts: Counts) -> _Common:
    """Write the lists of common rows, and return what else they have."""
    ids: dict[str, list[np.ndarray]] = {name: [] for name in (*COMMON, *COMMON_BAGS)}
    values: dict[str, list[np.ndarray]] = {name: [] for name in COMMON_BAGS}
    keys: list[np.ndarray] = []

    def read(lines: Lines) -> tuple[Lines, _Fields]:
        return lines, _Fields(lines, (*COMMON, *COMMON_BAGS))

    first = counts.common
    for lines, fields in lines_of(path, 0, read):
        keys.append(lines.index)
        for name, of_field in ids.items():
            found, number, others = fields.last(name)
            of_field.append(found)
            if name in values:
                values[name].append(number)
            else:
                counts.repeated += others
        number = np.arange(counts.common, counts.common + len(lines.index), dtype=np.int32)
        writer.write({KEY: pa.array(number), **_lists(fields, COMMON_BAGS)})
        counts.common += len(lines.index)
        counts.features += len(lines.id)
    if not keys:
        raise DataError(f"{path} has no lines")
    every = np.concatenate(keys)
    order = np.argsort(every)
    if (every[order][1:] == every[order][:-1]).any():
        raise DataError(f"{path} has two lines with one common_feature_index")
    return _Common(
        every[order],
        (first + order).astype(np.int32),
        {name: np.concatenate(each)[order] for name, each in ids.items()},
        {name: np.concatenate(each)[order] for name, each in values.items()},
    )


def _skeleton(
    path: Path, common: _Common, writers: list[_Parquet], counts: Counts, seed: int
) -> None:
    random = np.random.default_rng(seed)

    def read(lines: Lines) -> tuple[Lines, dict[str, pa.Array], int, int]:
        fields = _Fields(lines, (*SAMPLE, *SAMPLE_BAGS))
        place = np.searchsorted(common.keys, lines.index).clip(max=len(common.keys) - 1)
        known = common.keys[place] == lines.index
        columns = {
            name: pa.array(lines.numbers[at], pa.int8()) for at, name in enumerate(LABELS, 1)
        }
        repeated = 0
        numbers: dict[str, np.ndarray] = {}
        for name in SPARSE:
            if name in common.ids:
                ids = np.where(known, common.ids[name][place], _NONE)
                value = common.values[name][place] if name in common.values else None
                number = None if value is None else np.where(known, value, np.float32(np.nan))
            else:
                ids, number, others = fields.last(name)
                repeated += others * (name not in SAMPLE_BAGS)
            columns[name] = pa.array(ids, mask=ids == _NONE)
            if number is not None:
                numbers[f"D{name}"] = number
        for name in DENSE:
            columns[name] = pa.array(numbers[name], mask=np.isnan(numbers[name]))
        columns[KEY] = pa.array(common.numbers[place], mask=~known)
        return lines, {**columns, **_lists(fields, SAMPLE_BAGS)}, repeated, int((~known).sum())

    rows = 0
    for lines, columns, repeated, unknown in lines_of(path, 3, read):
        click, buy = lines.numbers[1], lines.numbers[2]
        if not ((click <= 1) & (buy <= 1)).all():
            raise DataError(f"{path} has a click or a purchase that is neither 0 nor 1")
        rows += len(click)
        counts.rows += len(click)
        counts.clicks += int(click.sum())
        counts.buys += int(buy.sum())
        counts.orphans += int((buy > click).sum())
        counts.features += len(lines.id)
        counts.repeated += repeated
        counts.unknown += unknown
        if len(writers) == 1:
            writers[0].write(columns)
            continue
        half = random.random(len(click)) < 0.5
        for writer, chosen in zip(writers, (half, ~half), strict=True):
            writer.write({name: each.filter(pa.array(chosen)) for name, each in columns.items()})
    if not rows:
        raise DataError(f"{path} has no lines")


def _lists(fields: _Fields, names: Iterable[str]) -> dict[str, pa.Array]:
    found: dict[str, pa.Array] = {}
    for name in names:
        offsets, ids, values = fields.lists(name)
        where = pa.array(offsets.astype(np.int32))
        found[f"{name}.all"] = pa.ListArray.from_arrays(where, pa.array(ids))
        found[f"{name}.values"] = pa.ListArray.from_arrays(where, pa.array(values))
    return found


class _Parquet:
    """Writes columns of chunks as row groups of so many rows."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows
        self._waiting: list[pa.RecordBatch] = []
        self._writer: parquet.ParquetWriter | None = None

    def write(self, columns: Mapping[str, pa.Array]) -> None:
        """Write some rows behind those before."""
        self._waiting.append(pa.RecordBatch.from_pydict(dict(columns)))
        if sum(each.num_rows for each in self._waiting) >= self.rows:
            self.flush()

    def flush(self) -> None:
        """Write what waits for more."""
        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            if self._writer is None:
                self._writer = parquet.ParquetWriter(
                    self.path, table.schema, compression="zstd", compression_level=1,
                    use_dictionary=False,
                )  # fmt: skip
            self._writer.write_table(table, row_group_size=self.rows)
            self._waiting = []

    def close(self) -> None:
        """Finish the file."""
        self.flush()
        if self._writer is not None:
            self._writer.close()


@contextmanager
def _writer(path: Path, rows: int) -> Generator[_Parquet]:
    with replacing(path) as temporary:
        writer = _Parquet(temporary, rows)
        try:
            yield writer
        finally:
            writer.close()


def _sparse(name: str) -> SparseFeature:
    return SparseFeature(name, min_count=1 if name in _SMALL else LEAST_COUNT)


def _all_values() -> dict[str, Any]:
    """Every value of every field: those that a row has once, and the others as weighted lists."""
    lists = [
        SequenceFeature(f"{name}.all", weights=f"{name}.values", min_count=LEAST_COUNT)
        for name in (*SAMPLE_BAGS, *COMMON_BAGS)
    ]
    single = [name for name in SPARSE if name in (*SAMPLE, *COMMON)]
    numbers = [DenseFeature(name) for name in DENSE if name.removeprefix("D") in single]
    found = _table([*map(_sparse, single), *lists, *numbers], "ali_ccp")
    found["data"]["shared"] = {"file": "common.parquet", "key": KEY}
    return found


def _single_values() -> dict[str, Any]:
    """The 23 fields with one id each, and a model of the ESMM paper's kind."""
    found = _table([*map(_sparse, SPARSE)], "ali_ccp-single-values")
    found["model"] = {
        "trunk": {"kind": "separate"}, "interaction": False, "tower": [16, 8], "embed_dim": 16,
        "dropout": 0.1, "field_dropout": 0.0, "wide": False, "entire_space": True,
    }  # fmt: skip
    return found


def _table(features: list[Feature], name: str) -> dict[str, Any]:
    tasks = [Task("click"), Task("buy", label="purchase", given="click")]
    found = experiment_table(Schema(features, tasks, Keys(user=USER)), name=name)
    found["data"]["orphans"] = "drop"  # a purchase without a click says that a click is missing
    return found
