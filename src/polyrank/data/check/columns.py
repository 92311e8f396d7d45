"""One column of a log: its codes, which every check counts, and what they show in each split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from polyrank.data.check.audit import Finding, finding
from polyrank.data.check.one_feature import fine_bins, suspicion
from polyrank.data.labels import HiddenLabel, find_leak
from polyrank.features import Feature
from polyrank.features.bags import Elements
from polyrank.features.dense import DenseEncoding
from polyrank.features.vocabulary import Vocabulary
from polyrank.terms import Population

# An id that is new in nine of ten rows teaches next to nothing, with a table as long as the log.
NEARLY_UNIQUE = 0.9
# In fewer rows, even an honest id may be new in most.
LEAST_UNIQUE_ROWS = 100
# The usual bound: below .1 nothing, above .2 a shift that affects models (Siddiqi, 2006).
MOST_DRIFT = 0.2
# All other ids share one bin: rare ids come and go in any log.
FREQUENT_IDS = 20
NUMBER_BINS = 10
# Standard deviations of sampling noise that are allowed: at 3, one feature in a hundred by chance.
DEVIATIONS = 3.0
_HALF_A_ROW = 0.5
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of one split; code 0 is an unseen id or a missing number."""

    codes: np.ndarray  # (rows,), or (elements,) of lists
    counts: np.ndarray  # of each code
    nulls: int  # values, or lists, that are null
    exact: np.ndarray  # (rows,): what tells the values of two rows apart; of lists a checksum
    offsets: np.ndarray | None = None  # (rows + 1,): where each row's list begins


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
        ids, offsets, null_lists, weights = self.values(column)
        codes, _, nulls = self.vocabulary.encode(ids)
        counts = np.bincount(codes, minlength=self.vocabulary.rows)
        if offsets is None:
            return Coded(codes, counts, nulls, codes)
        places = np.arange(len(codes)) - np.repeat(offsets[:-1], np.diff(offsets))
        mixed = mix(codes.astype(np.uint64) + (places.astype(np.uint64) << np.uint64(32)))
        if weights is not None:
            mixed = mix(mixed + (weights + np.float32(0)).view(np.uint32))  # −0 is 0
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        exact = sums[offsets[1:]] - sums[offsets[:-1]]  # modulo 2^64
        return Coded(codes, counts, null_lists, exact, offsets)

    def bins(self, *counts: np.ndarray) -> list[np.ndarray]:
        """Return counts of the 20 most frequent training ids, and of the rest, in each split."""
        frequent = [of_split[1 : FREQUENT_IDS + 1] for of_split in counts]
        return [np.append(f, c.sum() - f.sum()) for f, c in zip(frequent, counts, strict=True)]


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers by their quantile bins in training, missing ones apart."""

    encoding: DenseEncoding
    distinct: int  # training values, missing ones among them
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

    def bins(self, *counts: np.ndarray) -> list[np.ndarray]:
        """Return counts of missing values and of tenths of the first, training, split's values."""
        present = counts[0][1:]
        below = np.cumsum(present) - present
        tenth = 1 + (NUMBER_BINS * below) // max(int(present.sum()), 1)
        # A bin above all training values belongs to the last tenth.
        of = np.concatenate([[0], np.minimum(tenth, NUMBER_BINS)])
        binned = (np.bincount(of, each, minlength=NUMBER_BINS + 1) for each in counts)
        return [each.astype(np.int64) for each in binned]


Coding = Ids | Numbers


def coding(feature: Feature, train: pl.Series) -> Coding:
    """Return how a column becomes codes, fitted on its training rows; raises a DataError."""
    found: Any = feature.values(train)
    if isinstance(found, Elements):
        return Ids(Vocabulary.fit([found.ids]), feature.values)
    encoding, missing = fine_bins(found), np.isnan(found)
    distinct = len(encoding.edges) + int(not missing.all()) + int(missing.any())
    return Numbers(encoding, distinct, feature.values)


def mix(state: np.ndarray) -> np.ndarray:
    """Return well-mixed 64-bit numbers, modulo 2^64."""
    state = state * _MIX
    state ^= state >> np.uint64(29)
    state *= _MIX
    state ^= state >> np.uint64(32)
    return state


def label_findings(
    column: pl.Series,
    coded: Coded,
    hidden: Sequence[HiddenLabel],
    labels: Mapping[str, Sequence[tuple[Population, np.ndarray]]],
) -> Iterator[Finding]:
    """Yield whether a training column states one of the `hidden` labels, exactly or as good as.

    `labels` are the populations of each event, with their labels.
    """
    stated = False
    for label in hidden:
        if leak := find_leak(column, label):
            stated = True
            check = "label-opposite" if leak.opposite else "label-equal"
            message = f"{leak}: a model would read the label"
            numbers = {"rows": leak.rows, "task": label.task}
            yield finding(check, message, column.name, "train", numbers)
    if stated:  # then it ranks well, too
        return
    for of_task in labels.values():
        if found := suspicion(column.name, coded.codes, coded.offsets, of_task):
            names = ("auc", "positives", "negatives", "population")
            numbers = {name: getattr(found, name) for name in names}
            yield finding("may-state-label", str(found), column.name, "train", numbers)


def value_findings(name: str, coding: Coding, coded: Mapping[str, Coded]) -> Iterator[Finding]:
    """Yield what is odd about the values of a feature, coded in each split."""
    train, distinct = coded["train"], coding.distinct
    rows = len(train.exact)
    if distinct <= 1:
        value = "no value" if train.nulls == rows else "one value"
        message = f"feature {name!r} has {value} in all {rows:,} training rows"
        yield finding("constant", message, name, "train", {"rows": rows})
    single = isinstance(coding, Ids) and train.offsets is None
    if single and rows >= LEAST_UNIQUE_ROWS and distinct > NEARLY_UNIQUE * rows:
        message = (
            f"feature {name!r} has {distinct:,} distinct ids in {rows:,} training rows: most have "
            "one row to learn from"
        )
        yield finding("nearly-unique", message, name, "train", {"distinct": distinct, "rows": rows})
    shares = {split: each.nulls / max(len(each.exact), 1) for split, each in coded.items()}
    if any(shares.values()):
        shown = ", ".join(f"{share:.2%} in {split}" for split, share in shares.items())
        yield finding("nulls", f"feature {name!r} is null: {shown}", name, None, shares)


def drift_findings(name: str, coding: Coding, coded: Mapping[str, Coded]) -> Iterator[Finding]:
    """Yield where a feature's distribution in a later split is not that of training."""
    for split, later in coded.items():
        index, noise = stability_index(*coding.bins(coded["train"].counts, later.counts))
        if split != "train" and index - noise > MOST_DRIFT:
            message = (
                f"feature {name!r} has drifted from train to {split}: population stability index "
                f"{index:.3f}, of which sampling explains {noise:.3f}"
            )
            yield finding("drift", message, name, split, {"psi": index, "noise": noise})


def stability_index(train: np.ndarray, later: np.ndarray) -> tuple[float, float]:
    """Return the population stability index of two histograms, and what noise alone explains.

    The index is Σ (q − p) ln(q / p) over the B bins that hold any row, p and q being their shares
    of n training and m later rows. Half a row is added to each bin, so that an empty one has a
    finite share. If both are drawn from one distribution, the index is distributed like
    (1/n + 1/m) χ² with B − 1 degrees of freedom, so noise is taken as its mean and 3 deviations:
    (1/n + 1/m) · (B − 1 + 3 √(2 (B − 1))). Both are 0 where one side has no row.

    Reference:
        Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal
        of Risk Model Validation 2020: the χ² distribution.
    """
    held = (train > 0) | (later > 0)
    n, m, bins = int(train.sum()), int(later.sum()), int(np.count_nonzero(held))
    if not n or not m:
        return 0.0, 0.0
    p, q = train[held] + _HALF_A_ROW, later[held] + _HALF_A_ROW
    p, q = p / p.sum(), q / q.sum()
    free = bins - 1
    noise = (1 / n + 1 / m) * (free + DEVIATIONS * np.sqrt(2 * free))
    return float((q - p) @ np.log(q / p)), float(noise)
