"""How well one feature alone ranks a label: the out-of-fold AUC.

A feature that states a label, in whatever spelling, ranks it almost perfectly by the mean label of
each of its values. So would an id that is new in every row, if its own label were in the mean;
hence each row is ranked by the mean of the other folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.data.windows import some_rows
from polyrank.features.bags import Bag
from polyrank.features.dense import DenseEncoding
from polyrank.schema import Schema
from polyrank.terms import Population, population_label, populations

# Whole models of behaviour seldom rank better than this; one column alone is suspicious.
SUSPECT_AUC = 0.95
# With fewer, an AUC above .95 can be luck: its standard error at 50 and 50 is about .02.
LEAST_OF_EACH = 50
FOLDS = 5
# Quantile bins of a number: fine enough for a threshold anywhere, with enough rows in each.
BINS = 64
# Rows of the overall mean that are added to each value's own: a value seen once says little.
PRIOR_ROWS = 1.0
# Of a table about to be trained on: at one positive in 2,000 rows, 50 of them.
TABLE_ROWS = 100_000
_SEED = 5


@dataclass(frozen=True)
class Suspicion:
    """A feature that may state a task's label, and what that was measured on."""

    feature: str
    population: str  # the rows and the label, such as `buy @ all`
    auc: float  # out of fold
    positives: int
    negatives: int

    def __str__(self) -> str:
        return (
            f"feature {self.feature!r} may state the label of {self.population!r}: alone it ranks "
            f"{self.positives:,} positives above {self.negatives:,} negatives with an out-of-fold "
            f"AUC of {self.auc:.4f}"
        )


def one_feature_auc(
    codes: np.ndarray, label: np.ndarray, offsets: np.ndarray | None = None
) -> float:
    """Return the AUC with which the values of one feature rank a label, each out of its fold.

    Rows are dealt to 5 folds at random, with a fixed seed. A row's score is the mean label of its
    value in the other folds, with one row of the overall mean added; a value that is not in them
    scores the overall mean, so an id that is new in every row gives exactly .5. Ties count one
    half; both labels occur.

    Codes (rows,) are small enough to count in an array. With offsets (rows + 1,), rows hold lists
    and codes is (elements,): a list scores the mean of its elements, an empty one the overall mean.

    Reference:
        Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes",
        SIGKDD Explorations 2001, eq. 4: the smoothed mean; Hanley and McNeil, Radiology 1982: the
        area is the Mann-Whitney statistic.
    """
    label = np.asarray(label, dtype=bool)
    folds = np.random.default_rng(_SEED).integers(0, FOLDS, len(label), dtype=np.uint8)
    if offsets is not None:
        return _of_lists(np.asarray(codes), label, folds, np.asarray(offsets))
    values = int(codes.max()) + 1
    rows, positives = _counts(codes, label, values)
    prior = float(label.mean())
    parts = []
    for fold in range(FOLDS):
        mine = np.flatnonzero(folds == fold)
        own, own_positives = _counts(codes[mine], label[mine], values)
        found = np.flatnonzero(own)
        own, own_positives = own[found], own_positives[found]
        scores = _smoothed(positives[found] - own_positives, rows[found] - own, prior)
        parts.append((scores, own_positives, own - own_positives))
    return _area(*map(np.concatenate, zip(*parts, strict=True)))


def suspicion(
    feature: str,
    codes: np.ndarray,
    offsets: np.ndarray | None,
    labels: Iterable[tuple[Population, np.ndarray]],
) -> Suspicion | None:
    """Return the population of one task that a feature ranks best, if suspiciously well.

    Codes and offsets are those of `one_feature_auc`; a label is NaN where it was not observed.
    """
    best: Suspicion | None = None
    for population, label in labels:
        observed = ~np.isnan(label)
        positive = label == 1
        positives = int(np.count_nonzero(positive))
        negatives = int(np.count_nonzero(observed)) - positives
        if min(positives, negatives) < LEAST_OF_EACH:
            continue
        rows = (codes, positive, offsets)
        if not observed.all():
            rows = _some(*rows, observed)
        if _in_sample_auc(*rows) <= SUSPECT_AUC:
            continue
        auc = one_feature_auc(*rows)
        if auc > max(SUSPECT_AUC, best.auc if best else 0.0):
            best = Suspicion(feature, population.name, auc, positives, negatives)
    return best


def suspicions(table: Table, vocab: Vocab) -> tuple[Suspicion, ...]:
    """Return the features of an encoded, labelled table that may state a label.

    At most 100,000 rows are read, evenly spaced.
    """
    rows = some_rows(table, TABLE_ROWS)
    labels = {
        task.name: table.labels[rows, index].astype(np.float64)
        for index, task in enumerate(table.schema.tasks)
    }
    known = labels_by_task(table.schema, labels)
    best: dict[tuple[str, str], Suspicion] = {}  # of several parts of one feature
    for name, codes, offsets in _coded(table, vocab, rows):
        for task, of_task in known.items():
            found, other = suspicion(name, codes, offsets, of_task), best.get((name, task))
            if found is not None and (other is None or found.auc > other.auc):
                best[name, task] = found
    return tuple(best.values())


def labels_by_task(
    schema: Schema, labels: Mapping[str, np.ndarray]
) -> dict[str, list[tuple[Population, np.ndarray]]]:
    """Return the label of each population of each event, by task; NaN is not observed."""
    found: dict[str, list[tuple[Population, np.ndarray]]] = {}
    for each in populations(schema):
        if each.label_kind.is_event:
            found.setdefault(each.task, []).append((each, population_label(labels, each)))
    return found


def _coded(
    table: Table, vocab: Vocab, rows: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    columns = table.columns()
    for feature in table.schema.features:
        codec = vocab.codecs[feature.name]
        for slot in feature.slots:
            values = columns[slot.name]
            if isinstance(values, Bag):
                some = values.take(rows)
                yield feature.name, some.ids, some.offsets
            elif values.ndim == 1:
                yield feature.name, values[rows], None
            else:
                numbers = codec.ordered(values[rows])
                yield feature.name, fine_bins(numbers).ids(numbers), None


def fine_bins(values: np.ndarray) -> DenseEncoding:
    """Return the quantile bins of numbers; without any, only missing ones have a code."""
    return DenseEncoding.fit("bins", values, bins=BINS)


def _in_sample_auc(codes: np.ndarray, label: np.ndarray, offsets: np.ndarray | None) -> float:
    """In-sample AUC, an upper bound at a fifth of the cost; 1 for lists, which it does not bound.

    No function of the feature ranks these rows better.
    """
    if offsets is not None:
        return 1.0
    rows, positives = _counts(codes, label, int(codes.max()) + 1)
    return _area(positives / np.maximum(rows, 1), positives, rows - positives)


def _some(
    codes: np.ndarray, label: np.ndarray, offsets: np.ndarray | None, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    if offsets is None:
        return codes[wanted], label[wanted], None
    bag = Bag(codes, offsets).take(np.flatnonzero(wanted))
    return bag.ids, label[wanted], bag.offsets


def _of_lists(
    codes: np.ndarray, label: np.ndarray, folds: np.ndarray, offsets: np.ndarray
) -> float:
    lengths = np.diff(offsets)
    prior = float(label.mean())
    totals = np.zeros(len(label))
    if len(codes):
        values = int(codes.max()) + 1
        positive, of_fold = np.repeat(label, lengths), np.repeat(folds, lengths)
        rows, positives = _counts(codes, positive, values)
        means = np.empty(len(codes))
        for fold in range(FOLDS):
            mine = np.flatnonzero(of_fold == fold)
            own, own_positives = _counts(codes[mine], positive[mine], values)
            scores = _smoothed(positives - own_positives, rows - own, prior)
            means[mine] = scores[codes[mine]]
        sums = np.concatenate([[0.0], np.cumsum(means)])
        totals = sums[offsets[1:]] - sums[offsets[:-1]]
    scores = np.where(lengths > 0, totals / np.maximum(lengths, 1), prior)
    return _area(scores, label.astype(np.int64), (~label).astype(np.int64))


def _counts(codes: np.ndarray, label: np.ndarray, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and positives of each value."""
    return np.bincount(codes, minlength=values), np.bincount(codes[label], minlength=values)


def _smoothed(positives: np.ndarray, rows: np.ndarray, prior: float) -> np.ndarray:
    return (positives + PRIOR_ROWS * prior) / (rows + PRIOR_ROWS)


def _area(score: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
    """The Mann-Whitney statistic of scores that each stand for some positives and negatives."""
    score = np.round(score, 10)  # means that differ by rounding alone are ties
    order = np.argsort(score)
    score, positives, negatives = score[order], positives[order], negatives[order]
    ties = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))
    p, n = np.add.reduceat(positives, ties), np.add.reduceat(negatives, ties)
    below = np.cumsum(n) - n
    return float(p @ (below + n / 2) / (int(p.sum()) * int(n.sum())))
