"""The metrics of scores by the values of columns, the worst segment first.

A model that is right on average may be wrong for new users, and the mean of all rows hides it. Here
every value of a column is a population of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.labels import Binary
from polyrank.metrics.binary import EPSILON
from polyrank.metrics.bootstrap import Z
from polyrank.metrics.inputs import column, mean, refuse_beyond_one, refuse_other_labels, weighing
from polyrank.metrics.metric import Metric, Rows
from polyrank.metrics.predicted import named_population, predicted
from polyrank.metrics.registry import METRICS, Kind, metrics_of
from polyrank.metrics.undefined import Undefined
from polyrank.schema import Schema
from polyrank.terms import population_label, populations
from polyrank.text import aligned

logger = logging.getLogger(__name__)

VALUES = 50  # most frequent values of a column that have a line of their own
BINS = 10  # of equal count, for numbers of more distinct values than that
JUDGED = 50  # positives and negatives, seen or predicted: the least that a line is judged by
SHOWN = 20  # lines that `as_text` prints
USER = "new or seen user"
DECILE = "score decile"
WIDEST = 37  # of what names a segment, in characters: the other columns take 83


def columns(kind: Kind = Binary) -> dict[str, type[pl.DataType]]:
    """Return the columns of segments and their types, for labels of a kind."""
    return {
        "dimension": pl.String,
        "value": pl.String,
        "rows": pl.Int64,
        "positives": pl.Int64,
        "label_mean": pl.Float64,
        "prediction_mean": pl.Float64,
        **dict.fromkeys(metrics_of(kind, "diagnosed"), pl.Float64),
        "pcoc_low": pl.Float64,
        "pcoc_high": pl.Float64,
        "excess": pl.Float64,
        "judged": pl.Boolean,
        "reason": pl.String,
    }


def segments(
    label: ArrayLike,
    prediction: ArrayLike,
    by: Mapping[str, Any],
    *,
    weight: ArrayLike | None = None,
    kind: Kind = Binary,
) -> pl.DataFrame:
    """Return a line for each value of each column, the worst first.

    The order is by `excess`: the nats that the population's log loss, per row, owes to this
    segment's mean being off, share of rows × KL(label mean ‖ prediction mean). Adding one number
    to the segment's logits would win at least that much, so a large segment that is a little off
    comes before a small one that is far off. Lines with fewer than 50 positives (or negatives),
    both seen and predicted, come last: three odd rows are no finding.

    Numbers of more than 10 distinct values are cut into 10 bins of equal count; of other columns
    the 50 most frequent values have a line each, and the rest share one. Null and NaN are a value.

    Beside counts, means and metrics a line has `pcoc_low` and `pcoc_high`, the 95 % interval of
    PCOC on the log scale over the sampling of the rows; `judged`, whether the counts suffice; and
    `reason`, why what is null is null, or why it is not judged.
    """
    y = column("label", label)
    refuse_other_labels(y)
    p = column("prediction", prediction, rows=len(y))
    refuse_beyond_one("prediction", p)
    kept, relative = weighing(weight, rows=len(y))
    w = np.zeros(len(y))
    w[kept] = 1.0 if relative is None else relative
    metrics, total = metrics_of(kind, "diagnosed"), float(w.sum())
    lines = [
        {"dimension": name, "value": value, **_measured(metrics, y[rows], p[rows], w[rows], total)}
        for name, values in by.items()
        for value, rows in _groups(name, values, len(y))
    ]
    return pl.DataFrame(lines, schema=columns(kind)).sort(
        ["judged", "excess", "rows", "dimension", "value"],
        descending=[True, True, True, False, False],
        nulls_last=True,
    )


def scarce(found: pl.DataFrame) -> str:
    """Return what lines that are not judged have too few of: "under 50 positives"."""
    few = found.filter(~pl.col("judged"))
    counts = {"positives": few["positives"], "negatives": few["rows"] - few["positives"]}
    names = [name for name, each in counts.items() if (each < JUDGED).any()]
    return f"under {JUDGED} {' or '.join(names)}" if names else "no rows of weight above 0"


def as_text(found: pl.DataFrame) -> str:
    """Return the first lines as a table of at most 120 columns, and how many more there are."""
    shown = [
        name
        for name, each in METRICS.items()
        if "segment table" in each.roles and name in found.columns
    ]
    numbers = ["label_mean", "prediction_mean", *shown]
    header = ["segment", "rows", "positives", "label", "predicted", *shown, "pcoc 95 %"]
    header.append("excess")
    lines = []
    for line in found.head(SHOWN).iter_rows(named=True):
        value = "(null)" if line["value"] is None else line["value"]
        interval = "–"
        if line["pcoc_low"] is not None:
            interval = f"{line['pcoc_low']:.3f}–{line['pcoc_high']:.3f}"
        lines.append(
            [_named(line["dimension"], value), f"{line['rows']:,}", f"{line['positives']:,}"]
            + ["–" if line[name] is None else f"{line[name]:.4f}" for name in numbers]
            + [interval, "–" if line["excess"] is None else f"{line['excess']:.1e}"]
        )
    parts = [aligned(header, lines, right=range(1, len(header)))]
    if found.height > SHOWN:
        parts.append(f"… and {found.height - SHOWN:,} more")
    few = found.height - int(found["judged"].sum())
    if few:
        has = "has" if few == 1 else "have"
        parts.append(f"– {few:,} of {found.height:,} {has} {scarce(found)}: at the end")
    return "\n".join(parts)


def _named(dimension: str, value: str) -> str:
    """Return what a segment is, within the width that the other columns leave."""
    value = _shortened(value, max(WIDEST - 3 - len(dimension), 22))
    return f"{_shortened(dimension, WIDEST - 3 - len(value))} = {value}"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _measured(
    metrics: Mapping[str, Metric], y: np.ndarray, p: np.ndarray, w: np.ndarray, total: float
) -> dict[str, Any]:
    """Return the line of a segment; `total` is the weight of the whole population."""
    positives, expected = int(y.sum()), float(p.sum())
    negatives = max(len(y) - positives, len(y) - expected)
    counts = {"positives": max(positives, expected), "negatives": negatives}
    few = [name for name, count in counts.items() if count < JUDGED]
    line: dict[str, Any] = {"rows": len(y), "positives": positives, "judged": not few}
    try:
        rows = Rows.of(y, p, w)
    except Undefined as reason:
        return {**line, "judged": False, "reason": str(reason)}
    line["label_mean"] = mean(rows.label, rows.weight)
    line["prediction_mean"] = mean(rows.prediction, rows.weight)
    reasons: dict[str, list[str]] = {}
    for name, each in metrics.items():
        try:
            line[name] = each.measure(rows)
        except Undefined as reason:
            reasons.setdefault(str(reason), []).append(name)
    bounds = ["pcoc_low", "pcoc_high"]
    if positives < JUDGED:
        reasons[f"under {JUDGED} positives"] = bounds
    elif line.get("pcoc"):
        line |= zip(bounds, _pcoc_interval(y, p, w), strict=True)
    else:
        reasons.setdefault("no ratio above 0", []).extend(bounds)
    for name in few:
        reasons.setdefault(f"under {JUDGED} {name}", []).append("judged")
    line["excess"] = w.sum() / total * _divergence(line["label_mean"], line["prediction_mean"])
    explained = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return {**line, "reason": "; ".join(explained) or None}


def _divergence(label: float, prediction: float) -> float:
    """Return KL(label ‖ prediction) of two Bernoulli means, the prediction clipped as log loss is.

    One number added to the logits of n rows wins max over c of Σ y·c − log(1 + p·(eᶜ − 1)) nats.
    The logarithm is concave in p, so by Jensen that is at least n times the same with the mean of
    p for each p, and this maximum is n·KL.
    """
    q = min(max(prediction, EPSILON), 1 - EPSILON)
    parts = [(label, q), (1 - label, 1 - q)]
    return max(sum(a * np.log(a / b) for a, b in parts if a > 0), 0.0)


def _pcoc_interval(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a ratio of sums, by its linearisation on the log scale."""
    predicted, seen = float(w @ p), float(w @ y)
    deviation = float(np.sqrt(np.square(w * (p / predicted - y / seen)).sum()))
    ratio = np.log(predicted / seen)
    return float(np.exp(ratio - Z * deviation)), float(np.exp(ratio + Z * deviation))


def _groups(name: str, values: Any, rows: int) -> Iterator[tuple[str | None, np.ndarray]]:
    """Yield each segment of a column: its value, and the numbers of its rows."""
    named = labelled(name, values)
    if len(named) != rows:
        raise DataError(f"{name}: expected an array of shape ({rows},), got ({len(named)},)")
    codes = named.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    for group in np.split(order, starts[1:]) if rows else ():
        yield named[int(group[0])], group


def labelled(name: str, values: Any) -> pl.Series:
    """Return a column as the text of each row's segment, such as "[0, 2)"; null where missing."""
    series = values if isinstance(values, pl.Series) else pl.Series(values)
    if series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object):
        raise DataError(f"{name}: segments need single values, got {series.dtype}")
    if series.dtype.is_numeric():
        numbers = series.cast(pl.Float64).fill_nan(None)
        distinct = numbers.drop_nulls().unique()
        if len(distinct) > BINS:
            return _binned(numbers)
        if series.dtype.is_integer():  # an id of 19 digits keeps them all
            return series.cast(pl.String)
        texts = [_short(each) for each in distinct]  # 3 and 3.0 are read as one number
        return numbers.replace_strict(distinct, texts, default=None, return_dtype=pl.String)
    return _pooled(series.cast(pl.String).alias("value"))


def _binned(numbers: pl.Series) -> pl.Series:
    present = numbers.drop_nulls().to_numpy()
    lowest, highest = float(present.min()), float(present.max())
    cuts = np.quantile(present, np.arange(1, BINS) / BINS, method="inverted_cdf")
    cuts = np.unique(cuts[cuts > lowest])
    edges = [lowest, *cuts.tolist(), highest]
    codes = np.searchsorted(cuts, numbers.fill_null(lowest).to_numpy(), side="right")
    return pl.Series(_intervals(edges)).gather(codes).set(numbers.is_null(), None)


def _intervals(edges: list[float]) -> list[str]:
    """Return the intervals between edges, with as many digits as tell them apart."""
    texts = [_short(edge) for edge in edges]
    for digits in (6, 9, 17):
        texts = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(texts[:-1])) == len(texts) - 1:
            break
    names = [f"[{low}, {high})" for low, high in pairwise(texts[:-1])]
    last = texts[-1] if edges[-2] == edges[-1] else f"[{texts[-2]}, {texts[-1]}]"
    return [*names, last]


def _pooled(texts: pl.Series) -> pl.Series:
    """Keep the most frequent values; the others are one."""
    counts = texts.drop_nulls().value_counts(name="rows")
    counts = counts.sort(["rows", texts.name], descending=[True, False])
    if counts.height <= VALUES:
        return texts
    kept = counts.head(VALUES)[texts.name]
    name = f"other ({counts.height - VALUES:,} values)"
    return texts.set(~texts.is_in(kept.implode()) & texts.is_not_null(), name)


def _short(number: float) -> str:
    return f"{number:.6g}"


def columns_needed(schema: Schema, known: Sequence[str], by: Sequence[str] | None) -> list[str]:
    """Return the raw columns that segments read: those of `by`, or all features but sequences.

    `known` holds the data's columns, and `by` some of them, "new or seen user" or "score decile";
    None takes these two and every feature of at most 50 values, dense ones being binned.
    """
    if isinstance(by, str):
        raise ConfigError(f"by must be a list of columns, such as [{by!r}], got {by!r}")
    if by is None:
        return [each.name for each in schema.features if not each.lists and each.name in known]
    for name in by:
        if name not in (*known, USER, DECILE):
            possible = [*known, USER, DECILE]
            raise DataError(f"by: column {name!r} is not in the data{did_you_mean(name, possible)}")
    return [name for name in dict.fromkeys(by) if name in known and name not in (USER, DECILE)]


def dimensions(table: Table, vocab: Vocab, by: Sequence[str] | None) -> dict[str, pl.Series]:
    """Return each column by which rows are cut, except the score's decile, which differs by score.

    The table carries the `columns_needed`. Ids that are numbers come as text; other numbers are
    binned.
    """
    features = {feature.name for feature in table.schema.features}
    texts = {each.name for each in table.schema.features if not (each.numeric or each.lists)}
    found = {
        column.name: column.cast(pl.String) if column.name in texts else column
        for column in table.carried
        if column.name in (features if by is None else by)
    }
    if by is None:
        found = {name: each for name, each in found.items() if _tells(table.schema, each)}
    if by is None or USER in by:
        users = _users(table, vocab)
        if users is not None:
            found[USER] = users
    return found


def score_segments(
    schema: Schema,
    predictions: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    by: Mapping[str, pl.Series],
    *,
    score: str | None = None,
    deciles: bool = True,
    weight: np.ndarray | None = None,
) -> pl.DataFrame:
    """Return the segments of one score, or of every score of an event, after a column `score`.

    The score's own deciles are a dimension as well, unless told otherwise.
    """
    found = [where for where in populations(schema) if where.label_kind.is_event]
    if score is not None:
        found = [named_population(schema, score)]
        if not found[0].label_kind.is_event:
            raise ConfigError(f"segments need the score of an event, got {score!r}")
    frames = [pl.DataFrame(schema={"score": pl.String, **columns()})]  # without events, no line
    for where in found:
        label = population_label(labels, where)
        rows = ~np.isnan(label)
        prediction = predicted(schema, predictions, where)[rows]
        cut = {dimension: column.filter(rows) for dimension, column in by.items()}
        if deciles:
            cut[DECILE] = pl.Series(prediction)
        kept = None if weight is None else weight[rows]
        lines = segments(label[rows], prediction, cut, weight=kept, kind=where.label_kind)
        frames.append(lines.select(pl.lit(where.name).alias("score"), pl.all()))
    return pl.concat(frames, how="diagonal")


def _tells(schema: Schema, column: pl.Series) -> bool:
    """Whether a column has few values, and more than one; a number is binned to few.

    Where nearly all numbers are alike, all bins are one.
    """
    if any(each.numeric and each.name == column.name for each in schema.features):
        return labelled(column.name, column).n_unique() > 1
    return 1 < column.n_unique() <= VALUES


def _users(table: Table, vocab: Vocab) -> pl.Series | None:
    """Return "seen" or "new" for each row, where the vocabulary of the users tells."""
    key = table.schema.keys.user
    feature = next((each for each in table.schema.features if each.name == key), None)
    tables = () if feature is None or feature.ragged else feature.id_tables
    if feature is None or not tables or vocab.tables[tables[0]].size is not None:
        logger.info(
            "no segments of new and seen users: the bundle does not hold its training users, "
            "because the user key (%s) is not a sparse feature with a vocabulary", key,
        )  # fmt: skip
        return None
    least = feature.least_count(tables[0])
    unknown = "new" if least == 1 else f"new, or in under {least} rows"
    rows = table.columns()[feature.name]
    found = pl.Series(USER, np.where(rows == 0, unknown, "seen"))
    return found if table.user is None else found.set(table.user.is_null(), None)
