"""Vector features: a column of lists of numbers of one length, such as pretrained embeddings.

Letters: N rows, D numbers of a vector, P components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import polars as pl

from polyrank.errors import DataError, SchemaError
from polyrank.features.bags import Bag
from polyrank.features.kind import Codec, Encoded, Feature, Slot
from polyrank.features.vocabulary import Vocabulary
from polyrank.spec import whole

# A narrower spread counts as none: dividing by it would overflow float32.
_NARROWEST = 1e-20
_CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class VectorEncoding:
    """How the vectors of one feature become columns; fitted on the training rows.

    Args:
        mean: of each number, which stands in for that of a missing vector.
        sd: of each number; 1 for a constant one.
        missing: training had a missing vector, so an indicator column is appended.
        components: rows that standardised vectors are multiplied by; none leaves them as they are.

    Shape:
        mean, sd: (D,) of float32 · components: (P, D) or empty, of float64
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    missing: bool = False
    components: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def fit(cls, vectors: np.ndarray, components: int | None = None) -> VectorEncoding:
        """Return the encoding of training vectors, (N, D) with NaN in the rows of missing ones.

        Principal components are those of the standardised numbers, each scaled to deviation 1; the
        largest weight of each is positive.
        """
        absent = np.isnan(vectors[:, 0])
        present = vectors[~absent].astype(np.float64)
        # Sorted, so that the sums do not depend on the order of rows.
        ordered = np.sort(present, axis=0)
        mean = ordered.mean(axis=0).astype(np.float32)
        spread = ordered[-1] - ordered[0]
        sd = np.where(spread > _NARROWEST, ordered.std(axis=0), 1.0).astype(np.float32)
        found = cls(tuple(mean.tolist()), tuple(sd.tolist()), bool(absent.any()))
        if components is None:
            return found
        standard = (present - mean) / sd
        values, axes = np.linalg.eigh(standard.T @ standard / len(standard))
        values, axes = values[::-1][:components], axes.T[::-1][:components]
        largest = np.abs(axes).argmax(axis=1)
        axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
        # A component without spread stays as it is: there is nothing to scale.
        axes = axes / np.sqrt(np.where(values > 1e-12, values, 1.0))[:, None]
        return cls(found.mean, found.sd, found.missing, tuple(map(tuple, axes.tolist())))

    @property
    def size(self) -> int:
        """Numbers of a vector, D."""
        return len(self.mean)

    @property
    def columns(self) -> int:
        """Number of float columns, the indicator included."""
        return (len(self.components) or self.size) + int(self.missing)

    @np.errstate(over="ignore")  # a value beyond reach becomes ±inf, which prediction refuses
    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Return float columns of vectors: (N, D), NaN = missing → (N, columns).

        What is standardised is one float32 operation a step; components are summed in float64, so
        that the order of their sum does not matter to float32.
        """
        out = np.empty((len(vectors), self.columns), dtype=np.float32)
        mean, sd = (np.array(each, dtype=np.float32) for each in (self.mean, self.sd))
        axes = np.array(self.components, dtype=np.float64)
        body = out[:, : self.columns - int(self.missing)]
        absent = np.isnan(vectors[:, 0])
        for start in range(0, len(vectors), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            standard = (np.where(absent[rows, None], mean, vectors[rows]) - mean) / sd
            body[rows] = standard.astype(np.float64) @ axes.T if self.components else standard
        if self.missing:
            out[:, -1] = absent
        return out


@dataclass(frozen=True)
class VectorFeature(Feature):
    """A column of lists of numbers, all of one length: what another model says of an item.

    Each number is standardised on the training rows. A null vector becomes the training mean, with
    an indicator column if training has one. The vectors themselves are not learned: the network
    reads them beside the embeddings.

    Args:
        name: column of lists or of fixed-size arrays, or a 2-D array.
        components: how many principal components of the standardised vectors the network reads in
            their place, fitted on the training rows; None reads all numbers.

    Raises:
        SchemaError: components that are no whole number of at least 1.

    Examples:
        >>> VectorFeature("image", components=16).components
        16
    """

    kind: ClassVar[str] = "vector"
    graph: ClassVar[str | None] = "polyrank.serve.export.features:VectorGraph"
    state: ClassVar[type | None] = VectorEncoding
    lists: ClassVar[bool] = True
    expects: ClassVar[str] = "a list of numbers is expected"

    components: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components is not None:
            where = f"feature {self.name!r}: components"
            found = whole(where, self.components, error=SchemaError)
            object.__setattr__(self, "components", found)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot(name=self.name, place="dense"),)

    def values(self, column: pl.Series) -> np.ndarray:
        """Return the length of each vector, by which the audit knows a column: float32 (N,)."""
        vectors = vectors_of(column)
        return np.sqrt(np.square(vectors.astype(np.float64)).sum(axis=1)).astype(np.float32)

    def fit(self, column: pl.Series) -> VectorEncoding:
        vectors = vectors_of(column)
        if column.null_count() == len(column):
            raise DataError(
                f"vector feature {self.name!r} has no vector in training: leave the feature out"
            )
        if self.components is not None and self.components > vectors.shape[1]:
            raise DataError(
                f"vector feature {self.name!r} has vectors of {vectors.shape[1]:,} numbers, which "
                f"have no {self.components:,} components: ask for at most as many"
            )
        return VectorEncoding.fit(vectors, self.components)

    def codec(self, tables: Mapping[str, Vocabulary], state: VectorEncoding) -> VectorCodec:
        return VectorCodec(self, state)


class VectorCodec(Codec):
    """Raw vectors, which the exported graph encodes itself."""

    def __init__(self, feature: VectorFeature, encoding: VectorEncoding) -> None:
        self.feature, self.encoding = feature, encoding

    @property
    def columns(self) -> Mapping[str, int]:
        return {self.feature.name: self.encoding.columns}

    def read(self, column: pl.Series) -> Encoded:
        return Encoded(vectors_of(column, self.encoding.size), 0, 0, column.null_count())

    def read_values(self, values: Sequence[Any]) -> Encoded | None:
        if not all(type(each) is list and len(each) == self.encoding.size for each in values):
            return None
        if not set(map(type, chain.from_iterable(values))) <= {float, int}:
            return None
        try:
            exact = np.array(values, dtype=np.float64)
        except OverflowError:  # an integer beyond float64
            return None
        if not (np.abs(exact) < np.finfo(np.float32).max).all():  # refused with its row
            return None
        return Encoded(exact.astype(np.float32), 0, 0, 0)

    def place(self, values: Any) -> Mapping[str, np.ndarray | Bag]:
        return {self.feature.name: self.encoding.apply(values)}

    @property
    def json(self) -> dict[str, Any]:
        size = self.encoding.size
        of = {"items": {"type": "number"}, "minItems": size, "maxItems": size}
        return {"type": ["array", "null"], **of}

    @property
    def example(self) -> list[float]:
        return [0.5] * self.encoding.size

    def described(self, *, with_vocabulary: bool) -> dict[str, Any]:
        return {"type": "float32", "columns": self.encoding.size, "missing": "NaN"}


def vectors_of(column: pl.Series, size: int | None = None) -> np.ndarray:
    """Return a column of vectors as float32 (N, D), with NaN in the rows that are null.

    Args:
        column: lists or arrays of numbers.
        size: D as training had it; None takes that of the first vector.

    Raises:
        DataError: a column of no lists of numbers, vectors of unequal length, or one that holds
            null, NaN or ±inf.
    """
    where, dtype = f"vector feature {column.name!r}", column.dtype
    if isinstance(dtype, pl.Array):
        column = column.cast(pl.List(dtype.inner))
    elif dtype == pl.Null:
        column = column.cast(pl.List(pl.Float32))
    held = column.dtype.inner if isinstance(column.dtype, pl.List) else pl.String()
    if not (held.is_numeric() or held == pl.Null):
        raise DataError(f"{where} must be a column of lists of numbers, got {dtype}")
    present = column.is_not_null().to_numpy()
    lengths = column.list.len().fill_null(0).to_numpy()
    known = "as in training" if size is not None else "as the first has"
    if size is None:
        size = int(lengths[present.argmax()]) if present.any() else 1
        if not size:
            raise DataError(f"{where} has vectors without numbers: write null for a missing one")
    wrong = present & (lengths != size)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{where} must have vectors of one length, {size:,} {known}, but {int(wrong.sum()):,} "
            f"of {int(present.sum()):,} have another, the first in row {row} with "
            f"{lengths[row]:,} numbers: correct them, or write null for a missing vector"
        )
    found = np.full((len(column), size), np.nan, dtype=np.float32)
    if not present.any():
        return found
    # A cast to float32 makes inf of what is too large for it, and NaN of null.
    numbers = (
        column.filter(pl.Series(present)).explode(empty_as_null=False).cast(pl.Float32).to_numpy()
    )
    found[present] = numbers.reshape(-1, size)
    bad = present & ~np.isfinite(found).all(axis=1)
    if bad.any():
        raise DataError(
            f"{where} must hold finite numbers of 32 bits, but {int(bad.sum()):,} of "
            f"{int(present.sum()):,} vectors have null, NaN or what is too large, the first in row "
            f"{int(bad.argmax())}: correct them, or write null for the whole vector"
        )
    return found
