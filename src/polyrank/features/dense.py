"""Dense features: a column of numbers, as float32 columns or as rows of an embedding table."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from struct import error
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import polars as pl

from polyrank.errors import DataError, SchemaError, did_you_mean
from polyrank.features.bags import Bag, packed
from polyrank.features.ids import EXACT
from polyrank.features.kind import (
    Codec,
    Encoded,
    Feature,
    Slot,
    Together,
    check_wide,
    checked_tower,
)
from polyrank.features.vocabulary import NoneType, Vocabulary
from polyrank.spec import number, whole

logger = logging.getLogger(__name__)

Encoding = Literal["standard", "log", "bins", "values", "piecewise_linear", "none"]
# Those that give rows of a table, and whether row 0 is for what training did not have: of `bins` it
# is for missing values, which no id dropout may stand in for.
_UNSEEN: Mapping[str, bool] = {"bins": False, "values": True}
AUTO = "auto"
MEAN = "mean"
# The most is what census, of 200,000 rows, was measured with; fewer rows are a choice, at 25 to 60
# of them a bin up to a thousand.
_FEWEST_BINS, _MOST_BINS = 4, 48
# A narrower spread counts as none: dividing by it would overflow float32.
_NARROWEST = 1e-20
# Up to here comparing with each edge, without a branch, is faster than a binary search.
_FEW_EDGES = 128
_CHUNK_ROWS = 65_536  # which stay in the cache meanwhile


@dataclass(frozen=True)
class DenseEncoding:
    """How the values of one dense feature become columns or ids; fitted on the training rows.

    The constants are fitted in float64 and rounded to float32, and every operation on values is
    one float32 operation, so that any float32 twin of this class gives the same bits. The
    logarithm, which libraries round differently in float32, is one of float64, rounded.

    Args:
        mean: of log values for `log`; stands in for a missing value.
        sd: 1 for a constant column.
        edges: T + 1 for `piecewise_linear`; for `bins` the largest value of each but the last; for
            `values` the values themselves, in order.
        missing: training had a missing value, so an indicator column is appended; of `values`, a
            row.
    """

    kind: Encoding
    mean: float = 0.0
    sd: float = 1.0
    edges: tuple[float, ...] = ()
    missing: bool = False

    @np.errstate(over="ignore")  # what float32 cannot hold becomes ±inf, which is refused
    def __post_init__(self) -> None:
        edges = np.array(self.edges, dtype=np.float32)
        mean, sd = np.array([self.mean, self.sd], dtype=np.float32)
        if not (np.isfinite(edges).all() and (edges[1:] > edges[:-1]).all()):
            raise SchemaError(f"edges of {self.kind!r} must be finite float32 numbers that rise")
        if self.kind == "piecewise_linear" and len(edges) < 2:
            raise SchemaError(f"{self.kind!r} needs two edges or more, got {len(edges)}")
        if not (np.isfinite([mean, sd]).all() and sd > 0):
            raise SchemaError(
                "mean and sd must be finite float32 numbers, and sd above 0, got "
                f"{self.mean} and {self.sd}"
            )

    @classmethod
    def fit(
        cls,
        kind: Encoding,
        values: np.ndarray,
        *,
        bins: int | Literal["auto"] = AUTO,
        min_count: int = 1,
    ) -> DenseEncoding:
        """Return the encoding of a kind fitted on training values, in any order.

        `bins` is for `bins` and `piecewise_linear`, `min_count` for `values`.
        """
        # Sorted, so that the sums behind mean and deviation do not depend on the order of rows.
        values = np.sort(np.asarray(values, dtype=np.float32))
        present = values[: len(values) - int(np.isnan(values).sum())]
        missing = len(present) < len(values)
        if not len(present):
            ends = (0.0, 1.0) if kind == "piecewise_linear" else ()
            return cls(kind, edges=ends, missing=missing)
        if kind == "log":
            present = np.sort(_signed_log(present))
        exact = present.astype(np.float64)
        mean = _rounded(exact.mean())
        # A constant column may have a deviation of 1e-17 by rounding, so it is told by its range.
        sd = _rounded(exact.std()) if present[-1] - present[0] > _NARROWEST else 1.0
        edges = np.empty(0, dtype=np.float32)
        if kind == "values":
            edges = _frequent(present, min_count)
        elif kind in ("bins", "piecewise_linear"):
            cut = _cuts if kind == "bins" else _linear_edges
            edges = cut(present, bins_for(len(present)) if bins == AUTO else int(bins))
        return cls(kind, mean, sd, tuple(edges.tolist()), missing)

    @property
    def looked_up(self) -> bool:
        """Whether it gives rows of a table, and no float columns."""
        return self.kind in _UNSEEN

    @property
    def columns(self) -> int:
        """Number of float columns, the indicator included; 0 for rows of a table."""
        if self.looked_up:
            return 0
        body = len(self.edges) - 1 if self.kind == "piecewise_linear" else 1
        return body + int(self.missing)

    @property
    def rows(self) -> int:
        """Number of table rows: a missing value's and one a bin, or as `ids` has them of values."""
        return len(self.edges) + (1 + int(self.missing) if self.kind == "values" else 2)

    @np.errstate(over="ignore")  # a value beyond reach becomes ±inf, which prediction refuses
    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return values, NaN = missing, as float columns (rows, columns); none for table rows.

        The last column says "missing" where training had missing values. Piecewise-linear column t
        is 0 below its bin, 1 above it and linear inside; the first has no lower and the last no
        upper clamp.

        Reference:
            Gorishniy et al., "On Embeddings for Numerical Features", NeurIPS 2022, eq. 1.
        """
        values = np.asarray(values, dtype=np.float32)
        absent = np.isnan(values)
        mean = np.float32(self.mean)
        out = np.empty((len(values), self.columns), dtype=np.float32)
        if self.looked_up:
            return out
        body = out[:, : self.columns - int(self.missing)]
        if self.kind == "piecewise_linear":
            filled = np.where(absent, mean, values)
            edges = np.array(self.edges, dtype=np.float32)
            lower = np.zeros(len(edges) - 1, dtype=np.float32)
            upper = np.ones(len(edges) - 1, dtype=np.float32)
            lower[0], upper[-1] = -np.inf, np.inf
            body[:] = (filled[:, None] - edges[:-1]) / (edges[1:] - edges[:-1])
            np.clip(body, lower, upper, out=body)
        elif self.kind == "none":
            body[:, 0] = np.where(absent, mean, values)
        else:
            scaled = _signed_log(values) if self.kind == "log" else values
            body[:, 0] = (np.where(absent, mean, scaled) - mean) / np.float32(self.sd)
        if self.missing:
            out[:, -1] = absent
        return out

    def ids(self, values: np.ndarray) -> np.ndarray:
        """Return the table row of each value.

        Of `bins`, 0 for a missing value, then one row a bin. Of `values`, 0 for any other value,
        then a row for each, in order, and one for a missing value if training had any.
        """
        values = np.asarray(values, dtype=np.float32)
        edges = np.array(self.edges, dtype=np.float32)
        if len(edges) > _FEW_EDGES:
            rows = np.searchsorted(edges, values, side="left").astype(np.int32)
        else:
            rows = _edges_below(values, edges)
        absent = np.isnan(values)
        if self.kind == "values":
            # NaN behind the last, since it equals nothing.
            other = np.append(edges, np.float32(np.nan)).take(rows) != values
            rows += 1
            rows[other] = 0
            if self.missing:
                rows[absent] = len(edges) + 1
            return rows
        rows += 1
        rows[absent] = 0
        return rows

    def named(self, rows: np.ndarray) -> list[str]:
        """Return what some table rows stand for: intervals of `bins`, or values.

        Examples:
            >>> DenseEncoding("bins", edges=(0.5, 2.0)).named(np.array([0, 1, 2, 3]))
            ['missing', '(−∞, 0.5]', '(0.5, 2]', '(2, ∞)']
            >>> DenseEncoding("values", edges=(0.5,), missing=True).named(np.array([0, 1, 2]))
            ['any other', '0.5', 'missing']
        """
        edges = [str(each).removesuffix(".0") for each in np.array(self.edges, dtype=np.float32)]
        if self.kind == "values":
            names = ["any other", *edges, "missing"]
        else:
            ends = [f"{edge}]" for edge in edges] + ["∞)"]
            names = ["missing"]
            names += [f"({low}, {end}" for low, end in zip(["−∞", *edges], ends, strict=True)]
        return [names[row] for row in rows]


@dataclass(frozen=True)
class DenseEncodings:
    """What is fitted of one dense feature: its encodings, in the order of its slots."""

    parts: tuple[DenseEncoding, ...]
    mean: float | None = None  # of the training values, where it is served


def bins_for(rows: int) -> int:
    """Return the number of quantile bins that the training rows with a value allow.

    16·(log₁₀ rows − 2), rounded, and within 4 … 48: 16 of a thousand rows, 32 of ten thousand and
    48 from a hundred thousand on.

    Examples:
        >>> [bins_for(rows) for rows in (100, 1_000, 10_000, 100_000, 10_000_000)]
        [4, 16, 32, 48, 48]
    """
    free = round(16 * (np.log10(max(rows, 1)) - 2))
    return min(max(free, _FEWEST_BINS), _MOST_BINS)


@dataclass(frozen=True)
class NumberFeature(Feature):
    """A column of numbers that fills no part of x: what a kind of label reads beside the label.

    The base of kinds of numbers; they differ in `slots` and in what they `fit`.
    """

    numeric: ClassVar[bool] = True
    expects: ClassVar[str] = "a number is expected"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return ()

    def values(self, column: pl.Series) -> np.ndarray:
        return float32_of(column)

    def codec(self, tables: Mapping[str, Vocabulary], state: Any) -> NumberCodec:
        return NumberCodec(self)


class NumberCodec(Codec):
    """Raw numbers, which the exported graph encodes itself."""

    def __init__(self, feature: NumberFeature) -> None:
        self.feature = feature

    def read(self, column: pl.Series) -> Encoded:
        numbers = self.feature.values(column)
        return Encoded(numbers, 0, 0, int(np.count_nonzero(np.isnan(numbers))))

    def read_values(self, values: Sequence[Any]) -> Encoded | None:
        try:
            exact = packed("d", values)
        except error:  # something else than a number or a boolean
            if not set(map(type, values)) <= {float, int, NoneType}:
                return None
            try:
                exact = np.array(values, dtype=np.float64)  # None becomes NaN
            except OverflowError:
                return None
        except OverflowError:  # an integer beyond float64
            return None
        # Up to EXACT float64 holds every integer, so float32 is rounded to once. The comparison is
        # also false of NaN, which is then looked for; and of ±∞, which is refused with its count.
        if (np.abs(exact) <= EXACT).all():
            return Encoded(exact.astype(np.float32), 0, 0, 0)
        absent = np.isnan(exact)
        if not (absent | (np.abs(exact) <= EXACT)).all():
            return None
        return Encoded(exact.astype(np.float32), 0, 0, int(np.count_nonzero(absent)))

    def together(self, alike: Mapping[str, Any]) -> tuple[Sequence[str], Together] | None:

        def read(columns: Mapping[str, list[Any]]) -> dict[str, Encoded] | None:
            found = self.read_values(list(chain.from_iterable(columns.values())))
            if found is None:
                return None
            numbers = np.asarray(found.values).reshape(len(columns), -1)
            nulls = [0] * len(numbers)
            if found.nulls:
                nulls = np.count_nonzero(np.isnan(numbers), axis=1).tolist()
            return {name: Encoded(numbers[at], 0, 0, nulls[at]) for at, name in enumerate(columns)}

        return tuple(alike), read

    def place(self, values: Any) -> Mapping[str, np.ndarray | Bag]:
        return {}

    @property
    def json(self) -> dict[str, Any]:
        return {"type": ["number", "null"]}

    @property
    def example(self) -> float:
        return 1.5

    def described(self, *, with_vocabulary: bool) -> dict[str, Any]:
        return {"type": "float32", "missing": "NaN"}


@dataclass(frozen=True)
class DenseFeature(NumberFeature):
    """A column of numbers.

    Args:
        name: column; cast to float32 before anything is fitted or encoded.
        encoding: `standard` (mean 0, deviation 1), `log` (sign(x)·log(1+|x|), then standard),
            `bins` (quantile bins with an embedding each), `values` (frequent values with an
            embedding each), `piecewise_linear` (Gorishniy et al., 2022), `none`; or several of
            them side by side. All are fitted on the training rows. The default and its number of
            bins are chosen by docs/evidence.md.
        bins: number of quantile bins of `bins` and `piecewise_linear`, fewer where values repeat;
            `"auto"` goes by the number of training rows, from 4 to 48. A value that fills a bin by
            itself has a bin, and a knot, of its own.
        embed_dim: width of the embeddings of `bins` and `values`; None takes the model's.
        min_count: how often `values` must see a value in training to give it an embedding; all
            others share one.
        wide: whether a model with wide rows has some for the bins; exact values have none, since
            many of a number's values say which user or item a row is of, whose effect is known.
        serving: the number that every row has at prediction, whatever it holds; "mean" is that of
            the training rows, and None reads the column. See docs/position.md.
        tower: widths of the layers of a small tower of its own, [] for a linear map: the trunk does
            not read the feature, and what the tower says is added to each head's logit, so that
            its effect is the same whatever the other features are. None leaves it to the trunk.

    Raises:
        SchemaError: an unknown encoding, one that is named twice, or a value of a wrong type or
            below 1.

    Examples:
        >>> DenseFeature("price", encoding="log").encoding
        'log'
        >>> both = DenseFeature("age", encoding=["piecewise_linear", "values"])
        >>> [slot.name for slot in both.slots]
        ['age', 'age#values']
    """

    kind: ClassVar[str] = "dense"
    graph: ClassVar[str | None] = "polyrank.serve.export.features:DenseGraph"
    state: ClassVar[type | None] = DenseEncodings

    encoding: Encoding | Sequence[Encoding] = ("piecewise_linear", "bins", "values")
    bins: int | Literal["auto"] = AUTO
    embed_dim: int | None = None
    min_count: int = 20
    _: KW_ONLY
    wide: bool = True
    serving: float | Literal["mean"] | None = None
    tower: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tower", checked_tower(self.name, self.tower))
        check_wide(self.name, self.wide)
        where = f"feature {self.name!r}"
        if self.serving is not None and self.serving != MEAN:
            value = number(
                f"{where}: unless it is {MEAN!r}, serving", self.serving, error=SchemaError
            )
            object.__setattr__(self, "serving", value)
        if not self.encodings:
            raise SchemaError(
                f"{where}: encoding is empty: name at least one, or leave the key out"
            )
        for each in self.encodings:
            if each not in get_args(Encoding):
                hint = did_you_mean(str(each), get_args(Encoding))
                raise SchemaError(f"{where}: unknown encoding {each!r}{hint}")
            if self.encodings.count(each) > 1:
                raise SchemaError(f"{where}: encoding names {each!r} twice: once is enough")
        # One encoding is its name, however it was given.
        alone = len(self.encodings) == 1
        object.__setattr__(self, "encoding", self.encodings[0] if alone else self.encodings)
        if self.bins != AUTO:
            self._set_whole("bins", f"unless it is {AUTO!r}, ")
        if self.embed_dim is not None:
            self._set_whole("embed_dim")
        self._set_whole("min_count")

    def _set_whole(self, field: str, unless: str = "") -> None:
        where = f"feature {self.name!r}: {unless}{field}"
        value = whole(where, getattr(self, field), error=SchemaError)
        object.__setattr__(self, field, value)

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """The names of its encodings, one a slot."""
        if isinstance(self.encoding, list | tuple):
            return tuple(self.encoding)
        return (self.encoding,)  # pyrefly: ignore

    @property
    def slots(self) -> tuple[Slot, ...]:
        names = [self.name, *(f"{self.name}#{each}" for each in self.encodings[1:])]
        return tuple(map(self._slot, names, self.encodings))

    def _slot(self, name: str, encoding: Encoding) -> Slot:
        if encoding not in _UNSEEN:
            return Slot(name=name, place="dense")
        bins = encoding == "bins"
        return Slot(
            name=name, place="ids", table=name, unseen=_UNSEEN[encoding],
            wide=self.wide and bins, ordered=bins,
        )  # fmt: skip

    def fit(self, column: pl.Series) -> DenseEncodings:
        values = np.sort(self.values(column))
        if np.isnan(values).all():
            logger.warning("dense feature %r has no value in training", self.name)
        options: Any = {"bins": self.bins, "min_count": self.min_count}
        parts = tuple(DenseEncoding.fit(each, values, **options) for each in self.encodings)
        if self.serving != MEAN:
            return DenseEncodings(parts)
        present = values[~np.isnan(values)].astype(np.float64)
        if not len(present):
            raise DataError(
                f"dense feature {self.name!r} has no value in training, so serving = {MEAN!r} has "
                "none either: name a number, or remove the feature"
            )
        return DenseEncodings(parts, _rounded(present.mean()))

    def codec(self, tables: Mapping[str, Vocabulary], state: DenseEncodings) -> DenseCodec:
        return DenseCodec(self, state)


class DenseCodec(NumberCodec):
    """Numbers by fitted encodings; `encodings` are by slot."""

    def __init__(self, feature: DenseFeature, state: DenseEncodings) -> None:
        super().__init__(feature)
        self.mean = state.mean
        self.encodings = {
            slot.name: each for slot, each in zip(feature.slots, state.parts, strict=True)
        }

    @property
    def serving(self) -> float | None:
        return self.mean if self.feature.serving == MEAN else self.feature.serving

    @property
    def rows(self) -> Mapping[str, int]:
        return {slot: each.rows for slot, each in self.encodings.items() if each.looked_up}

    @property
    def columns(self) -> Mapping[str, int]:
        return {slot: each.columns for slot, each in self.encodings.items() if not each.looked_up}

    def place(self, values: Any) -> Mapping[str, np.ndarray | Bag]:
        return {
            slot: each.ids(values) if each.looked_up else each.apply(values)
            for slot, each in self.encodings.items()
        }

    def named(self, slot: str, rows: np.ndarray) -> list[str]:
        return self.encodings[slot].named(rows)

    def ordered(self, columns: np.ndarray) -> np.ndarray:
        # Parts of a piecewise linear encoding grow with the number, so their sum orders as it does.
        missing = any(each.missing for each in self.encodings.values())  # all or none
        values = columns[:, : columns.shape[1] - int(missing)].sum(axis=1)
        if missing:
            values[columns[:, -1] == 1] = np.nan
        return values


def float32_of(column: pl.Series) -> np.ndarray:
    """Return a numeric column as float32 with NaN for null, or a DataError, as for infinity."""
    name, dtype = column.name, column.dtype
    if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        raise DataError(
            f"column {name!r} must hold numbers, got {dtype}: convert it; ids belong in a "
            "SparseFeature"
        )
    values = column.cast(pl.Float32).to_numpy()
    infinite = int(np.isinf(values).sum())
    if infinite:
        raise DataError(
            f"column {name!r} has {infinite:,} infinite value{'s'[: infinite > 1]} (±inf, or "
            "beyond the 3.4e38 of float32): replace them by null or by a finite number"
        )
    return values


def _signed_log(values: np.ndarray) -> np.ndarray:
    """sign(x)·log(1 + |x|) of float32, to the nearest float32.

    One unit in the last place more or less is a deviation where all values lie close together, such
    as seconds since 1970.
    """
    exact = np.abs(values).astype(np.float64)
    np.log1p(exact, out=exact)
    return np.copysign(exact, values).astype(np.float32)


def _rounded(value: float) -> float:
    return float(np.float32(value))


def _linear_edges(present: np.ndarray, bins: int) -> np.ndarray:
    edges = np.unique(np.concatenate([present[:1], _cuts(present, bins), present[-1:]]))
    edges = edges[np.diff(edges, prepend=-np.inf) > _NARROWEST]
    if len(edges) == 1:
        # A bin has a width; towards zero, so that no constant overflows.
        only = float(edges[0])
        width = max(1.0, abs(only))
        return np.array(sorted((only, _rounded(only - width if only > 0 else only + width))))
    return edges


def _cuts(present: np.ndarray, bins: int) -> np.ndarray:
    """Return the largest value of each quantile bin but the last; values are sorted.

    Up to `bins` distinct values get a bin each. Else a value that fills a bin by itself gets one to
    itself, and the others are shared out among the bins that are left: plain quantiles of a
    column that is mostly 0 would cut the rest of it hardly at all.
    """
    distinct = _first_distinct(present, bins + 1)
    if len(distinct) <= bins:
        return distinct[:-1]
    # A bin each, and one more where it parts its neighbours; the heaviest, if not all have room.
    starts, ends = _heavy(present, bins, most=(bins - 1) // 2)
    free = bins - 2 * len(starts)
    bounds = zip([0, *ends], [*starts, len(present)], strict=True)
    rest = np.concatenate([present[start:end] for start, end in bounds])
    places = np.linspace(0, 1, free + 1)[1:-1]
    quantiles = np.quantile(rest, places, method="inverted_cdf")
    cuts = np.unique(np.concatenate([quantiles, present[starts], present[starts[starts > 0] - 1]]))
    return cuts[cuts < present[-1]]


def _first_distinct(ordered: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` of the smallest distinct values, without a look at all rows."""
    places = [0]
    while len(places) < count:
        place = int(np.searchsorted(ordered, ordered[places[-1]], side="right"))
        if place == len(ordered):
            break
        places.append(place)
    return ordered[places]


def _heavy(ordered: np.ndarray, bins: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each run of one value longer than a bin begins and ends.

    Of more than `most` of them, the longest. Such a run has a row at a multiple of the size of a
    bin.
    """
    values = np.unique(ordered[:: max(len(ordered) // bins, 1)])
    starts = np.searchsorted(ordered, values, side="left")
    ends = np.searchsorted(ordered, values, side="right")
    heavy = np.flatnonzero(ends - starts > len(ordered) / bins)
    longest = np.argsort(starts[heavy] - ends[heavy], kind="stable")[:most]
    heavy = np.sort(heavy[longest])
    return starts[heavy], ends[heavy]


def _frequent(ordered: np.ndarray, min_count: int) -> np.ndarray:
    """Return each value that occurs at least `min_count` times, in order; −0 is 0."""
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(starts, append=len(ordered))
    return ordered[starts[counts >= min_count]] + np.float32(0)


def _edges_below(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return how many of a few edges are smaller than each value; 0 for NaN."""
    below = np.empty(len(values), dtype=np.int32)
    for start in range(0, len(values), _CHUNK_ROWS):
        chunk = values[start : start + _CHUNK_ROWS]
        count = np.zeros(len(chunk), dtype=np.uint8)
        for edge in edges:
            count += chunk > edge
        below[start : start + _CHUNK_ROWS] = count
    return below
