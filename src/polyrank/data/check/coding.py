"""Any column as whole numbers, by what its training rows hold: what every check counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl

from polyrank.data.bags import flattened
from polyrank.data.check.drift import id_bins, number_bins
from polyrank.data.check.one_feature import BINS
from polyrank.data.dense import DenseEncoding, dense_values
from polyrank.data.vocab import Vocabulary, counts_of
from polyrank.schema import DenseFeature, Feature, SequenceFeature

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
    sequence: SequenceFeature | None = None

    @property
    def distinct(self) -> int:
        """Distinct training ids, null among them."""
        return self.vocabulary.rows - 1

    def encode(self, column: pl.Series) -> Coded:
        """Return the row of each id in the vocabulary."""
        if self.sequence is None:
            codes, _, nulls = self.vocabulary.encode(column)
            return Coded(codes, self._counted(codes), nulls, codes)
        bag, _, _ = self.vocabulary.encode_lists(column, self.sequence.padding_idx)
        places = np.arange(len(bag.ids)) - np.repeat(bag.offsets[:-1], np.diff(bag.offsets))
        mixed = mix(bag.ids.astype(np.uint64) + (places.astype(np.uint64) << np.uint64(32)))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        exact = sums[bag.offsets[1:]] - sums[bag.offsets[:-1]]  # modulo 2^64
        return Coded(bag.ids, self._counted(bag.ids), column.null_count(), exact, bag.offsets)

    def bins(self, train: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the most frequent training ids and the rest."""
        return id_bins(train), id_bins(later)

    def _counted(self, codes: np.ndarray) -> np.ndarray:
        return np.bincount(codes, minlength=self.vocabulary.rows)


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers by their quantile bins in training, missing ones apart."""

    encoding: DenseEncoding
    distinct: int

    def encode(self, column: pl.Series) -> Coded:
        """Return the bin of each number."""
        values = dense_values(column)
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
    if isinstance(feature, DenseFeature):
        return _numbers(dense_values(train))
    if isinstance(feature, SequenceFeature):
        train = flattened(train, feature.padding_idx)[0]
        return Ids(Vocabulary.of_counts([counts_of(train)]), feature)
    return Ids(Vocabulary.of_counts([counts_of(train)]))


def mix(state: np.ndarray) -> np.ndarray:
    """Return well-mixed 64-bit numbers, modulo 2^64."""
    state = state * _MIX
    state ^= state >> np.uint64(29)
    state *= _MIX
    state ^= state >> np.uint64(32)
    return state


def _numbers(values: np.ndarray) -> Numbers:
    missing = int(np.isnan(values).any())
    if np.isnan(values).all():
        return Numbers(DenseEncoding("bins"), missing)
    encoding = DenseEncoding.fit(DenseFeature("number", "bins", BINS), values)
    return Numbers(encoding, len(encoding.edges) + 1 + missing)
