"""Any column as whole numbers, by what its training rows hold: what every check counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from polyrank.data.check.drift import id_bins, number_bins
from polyrank.data.check.one_feature import BINS
from polyrank.features import DenseFeature, Feature
from polyrank.features.bags import Elements
from polyrank.features.dense import DenseEncoding
from polyrank.features.vocabulary import Vocabulary

_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of one split.

    Args:
        codes: of each value: 0 for an unseen id or a missing number.
        counts: of each code.
        nulls: values, or lists, that are null.
        exact: what tells the values of two rows apart; of lists a checksum.
        offsets: where each row's list begins, if rows hold lists.

    Shape:
        codes (rows,) or (elements,), exact (rows,), offsets (rows + 1,)
    """

    codes: np.ndarray
    counts: np.ndarray
    nulls: int
    exact: np.ndarray
    offsets: np.ndarray | None = None


class Coding(Protocol):
    """How a column becomes codes, fitted on training rows."""

    @property
    def distinct(self) -> int:
        """Distinct training values, null among them."""
        ...

    def encode(self, column: pl.Series) -> Coded:
        """Return a column of any split as codes."""
        ...

    def bins(self, train: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the coarse bins in which drift is measured, from the counts of two splits."""
        ...


@dataclass(frozen=True, eq=False)
class Ids:
    """Ids, or lists of ids, by a vocabulary of all that training has.

    Hashed and identity tables are looked at likewise: what matters here is what the log holds.
    """

    vocabulary: Vocabulary
    values: Callable[[pl.Series], Elements]

    @property
    def distinct(self) -> int:
        """Distinct training ids, null among them."""
        return self.vocabulary.rows - 1

    def encode(self, column: pl.Series) -> Coded:
        """Return the row of each id in the vocabulary."""
        ids, offsets, _ = self.values(column)
        codes, _, nulls = self.vocabulary.encode(ids)
        counts = np.bincount(codes, minlength=self.vocabulary.rows)
        if offsets is None:
            return Coded(codes, counts, nulls, codes)
        places = np.arange(len(codes)) - np.repeat(offsets[:-1], np.diff(offsets))
        mixed = mix(codes.astype(np.uint64) + (places.astype(np.uint64) << np.uint64(32)))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        exact = sums[offsets[1:]] - sums[offsets[:-1]]  # modulo 2^64
        return Coded(codes, counts, column.null_count(), exact, offsets)

    def bins(self, train: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the most frequent training ids and the rest."""
        return id_bins(train), id_bins(later)


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers by their quantile bins in training, missing ones apart."""

    encoding: DenseEncoding
    distinct: int
    values: Callable[[pl.Series], np.ndarray]

    def encode(self, column: pl.Series) -> Coded:
        """Return the bin of each number."""
        values = self.values(column)
        codes = self.encoding.ids(values)
        missing = np.isnan(values)
        exact = (values + np.float32(0)).view(np.uint32)  # −0 is 0
        if missing.any():
            exact[missing] = 0x7FC00000  # one NaN of the many
        counts = np.bincount(codes, minlength=self.encoding.rows)
        return Coded(codes, counts, int(np.count_nonzero(missing)), exact)

    def bins(self, train: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tenths of the training values, and the missing ones."""
        return number_bins(train, later)


def coding(feature: Feature | None, train: pl.Series) -> Coding:
    """Return how a feature's column, or a key's, becomes codes.

    Args:
        feature: None for a key, whose values are ids.
        train: its training rows.

    Raises:
        DataError: a column that cannot be what the feature says.
    """
    values: Callable[[pl.Series], Any] = Elements if feature is None else feature.values
    found = values(train)
    if isinstance(found, Elements):
        return Ids(Vocabulary.fit([found.ids]), values)
    missing = int(np.isnan(found).any())
    if np.isnan(found).all():
        return Numbers(DenseEncoding("bins"), missing, values)
    encoding = DenseEncoding.fit(DenseFeature("number", "bins", BINS), found)
    return Numbers(encoding, len(encoding.edges) + 1 + missing, values)


def mix(state: np.ndarray) -> np.ndarray:
    """Return well-mixed 64-bit numbers, modulo 2^64."""
    state = state * _MIX
    state ^= state >> np.uint64(29)
    state *= _MIX
    state ^= state >> np.uint64(32)
    return state
