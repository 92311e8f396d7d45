"""By which columns a bundle's scores are cut into segments."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.metrics.observed import named_population, observed
from polyrank.metrics.segments import VALUES, columns, labelled, segments
from polyrank.schema import Schema
from polyrank.terms import populations

logger = logging.getLogger(__name__)

USER = "new or seen user"
DECILE = "score decile"


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
        seen = observed(schema, predictions, labels, where.name)
        cut = {dimension: column.filter(seen.rows) for dimension, column in by.items()}
        if deciles:
            cut[DECILE] = pl.Series(seen.prediction)
        kept = None if weight is None else weight[seen.rows]
        lines = segments(seen.label, seen.prediction, cut, weight=kept, kind=where.label_kind)
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
