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
from polyrank.features.kind import Codec, Encoded, Feature, Slot, Together, check_wide
from polyrank.features.vocabulary import NoneType, Vocabulary
from polyrank.spec import whole

logger = logging.getLogger(__name__)

Encoding = Literal["standard", "log", "bins", "piecewise_linear", "none"]
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
        edges: T + 1 for `piecewise_linear`; for `bins` the largest value of each but the last.
        missing: training had a missing value, so an indicator column is appended.
    """

    kind: Encoding
    mean: float = 0.0
    sd: float = 1.0
    edges: tuple[float, ...] = ()
    missing: bool = False

    @classmethod
    def fit(cls, feature: DenseFeature, values: np.ndarray) -> DenseEncoding:
        """Return the encoding of a feature fitted on its training values, in any order."""
        # Sorted, so that the sums behind mean and deviation do not depend on the order of rows.
        values = np.sort(np.asarray(values, dtype=np.float32))
        present = values[: len(values) - int(np.isnan(values).sum())]
        missing = len(present) < len(values)
        kind = feature.encoding
        if not len(present):
            logger.warning("dense feature %r has no value in training", feature.name)
            ends = (0.0, 1.0) if kind == "piecewise_linear" else ()
            return cls(kind, edges=ends, missing=missing)
        if kind == "log":
            present = np.sort(_signed_log(present))
        exact = present.astype(np.float64)
        mean = _rounded(exact.mean())
        # A constant column may have a deviation of 1e-17 by rounding, so it is told by its range.
        sd = _rounded(exact.std()) if present[-1] - present[0] > _NARROWEST else 1.0
        cut = {"piecewise_linear": _linear_edges, "bins": _cuts}.get(kind)
        edges = () if cut is None else tuple(cut(present, feature.bins).tolist())
        return cls(kind, mean, sd, edges, missing)

    @property
    def columns(self) -> int:
        """Number of float columns, the indicator included; 0 for `bins`."""
        if self.kind == "bins":
            return 0
        body = len(self.edges) - 1 if self.kind == "piecewise_linear" else 1
        return body + int(self.missing)

    @property
    def rows(self) -> int:
        """Number of table rows of `bins`: the missing value's, then one a bin."""
        return len(self.edges) + 2

    @np.errstate(over="ignore")  # a value beyond reach becomes ±inf, which prediction refuses
    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return values, NaN = missing, as float columns (rows, columns); none for `bins`.

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
        if self.kind == "bins":
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
        """Return the table row of each value: 0 for a missing one, then one row a bin."""
        values = np.asarray(values, dtype=np.float32)
        edges = np.array(self.edges, dtype=np.float32)
        if len(edges) > _FEW_EDGES:
            rows = np.searchsorted(edges, values, side="left").astype(np.int32)
        else:
            rows = _edges_below(values, edges)
        rows += 1
        rows[np.isnan(values)] = 0
        return rows


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
            `bins` (quantile bins with an embedding each), `piecewise_linear` (Gorishniy et al.,
            2022), `none`. All are fitted on the training rows. The default and its number of bins
            are chosen by docs/evidence.md.
        bins: number of quantile bins of `bins` and `piecewise_linear`; fewer where values repeat.
        embed_dim: width of the embedding of `bins`; None takes the model's.
        wide: whether a model with wide rows has some for these bins.

    Raises:
        SchemaError: an unknown encoding, or a value of a wrong type or below 1.

    Example:
        >>> DenseFeature("price", encoding="log").encoding
        'log'
    """

    kind: ClassVar[str] = "dense"
    graph: ClassVar[str | None] = "polyrank.serve.export.features:DenseGraph"
    state: ClassVar[type | None] = DenseEncoding

    encoding: Encoding = "bins"
    bins: int = 32
    embed_dim: int | None = None
    _: KW_ONLY
    wide: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_wide(self.name, self.wide)
        if self.encoding not in get_args(Encoding):
            hint = did_you_mean(str(self.encoding), get_args(Encoding))
            raise SchemaError(f"feature {self.name!r}: unknown encoding {self.encoding!r}{hint}")
        for field in ("bins", "embed_dim"):
            if (value := getattr(self, field)) is not None or field == "bins":
                value = whole(f"feature {self.name!r}: {field}", value, error=SchemaError)
                object.__setattr__(self, field, value)

    @property
    def slots(self) -> tuple[Slot, ...]:
        if self.encoding == "bins":  # missing values have a row, so none is for unseen ones
            return (Slot(name=self.name, place="ids", table=self.name, wide=self.wide),)
        return (Slot(name=self.name, place="dense"),)

    def fit(self, column: pl.Series) -> DenseEncoding:
        return DenseEncoding.fit(self, self.values(column))

    def codec(self, tables: Mapping[str, Vocabulary], state: DenseEncoding) -> DenseCodec:
        return DenseCodec(self, state)


class DenseCodec(NumberCodec):
    """Numbers by a fitted encoding."""

    def __init__(self, feature: DenseFeature, encoding: DenseEncoding) -> None:
        super().__init__(feature)
        self.encoding = encoding

    @property
    def rows(self) -> Mapping[str, int]:
        return dict.fromkeys(self.feature.tables, self.encoding.rows)

    @property
    def columns(self) -> Mapping[str, int]:
        return {} if self.feature.tables else {self.feature.name: self.encoding.columns}

    def place(self, values: Any) -> Mapping[str, np.ndarray | Bag]:
        encode = self.encoding.ids if self.feature.tables else self.encoding.apply
        return {self.feature.name: encode(values)}

    def ordered(self, columns: np.ndarray) -> np.ndarray:
        # Parts of a piecewise linear encoding grow with the number, so their sum orders as it does.
        missing = self.encoding.missing
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
    starts, ends = _heavy(present, bins)
    free = bins - 2 * len(starts)  # a bin each, and one more where it parts its neighbours
    if free < 1:
        starts, ends, free = starts[:0], ends[:0], bins
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


def _heavy(ordered: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each run of one value longer than a bin begins and ends.

    Such a run has a row at a multiple of the size of a bin.
    """
    values = np.unique(ordered[:: max(len(ordered) // bins, 1)])
    starts = np.searchsorted(ordered, values, side="left")
    ends = np.searchsorted(ordered, values, side="right")
    heavy = ends - starts > len(ordered) / bins
    return starts[heavy], ends[heavy]


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
