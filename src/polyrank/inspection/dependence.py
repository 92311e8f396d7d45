"""Partial dependence: how predictions move with a number, all else as it is.

Letters: N rows, G values of the number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from polyrank import spec
from polyrank.data.table import Table, with_values
from polyrank.data.vocab import Vocab
from polyrank.data.windows import part
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.features import Feature
from polyrank.inspection.importance import Predict, drawn
from polyrank.meter import metered
from polyrank.metrics.predicted import scored_columns
from polyrank.schema import Schema

POINTS = 20
CURVE_ROWS = 2_000
ENDS = (0.01, 0.99)  # quantiles at which a grid ends: single odd values stretch no axis
BAND = (0.1, 0.9)
COLUMNS = {
    **dict.fromkeys(("feature", "output"), pl.String),
    **dict.fromkeys(("value", "mean", "low", "high"), pl.Float64),
}


def numbers_of(schema: Schema, features: Sequence[str] | None) -> tuple[Feature, ...]:
    """Return the features of numbers that rows have at prediction, or those that are named.

    Raises:
        ConfigError: a name of no feature, of one that holds no numbers, or of one that is set at
            prediction.
    """
    known = {each.name: each for each in schema.features}
    numbers = {name: each for name, each in known.items() if each.numeric and not each.served}
    if features is None:
        return tuple(numbers.values())
    if isinstance(features, str):
        raise ConfigError(f"features must be a list such as [{features!r}], got {features!r}")
    for name in features:
        if name in known and known[name].served:
            raise ConfigError(f"feature {name!r} is set at prediction: its column is not read")
        if name in known and name not in numbers:
            raise ConfigError(
                f"partial dependence is of a number, and {name!r} is a {known[name].kind} feature; "
                f"known numbers: {', '.join(numbers) or 'none'}"
            )
        if name not in known:
            raise ConfigError(f"unknown feature {name!r}{did_you_mean(str(name), numbers)}")
    return tuple(numbers[name] for name in features)


def grid_of(values: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Return observed values at evenly spaced quantiles, each once, without the outermost 1 %.

    Examples:
        >>> grid_of(np.array([3.0, 1.0, np.nan, 1.0, 2.0])).tolist()
        [1.0, 2.0, 3.0]
    """
    present = values[~np.isnan(values)]
    if not len(present):
        return present
    shares = np.linspace(*ENDS, points)
    return np.unique(np.quantile(present, shares, method="inverted_cdf"))


def bands(
    curves: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of rows' own curves (N, G), and the band of their shapes: each (G,).

    The band holds the middle 80 % of the curves, each moved to the level of the mean: where it has
    no width, the number moves all rows alike.
    """
    average = np.average(curves, axis=0, weights=weight)
    moved = curves - curves.mean(axis=1, keepdims=True) + average.mean()
    counts = slice(None) if weight is None else weight > 0
    low, high = np.quantile(moved[counts], BAND, axis=0)
    return average, low, high


def dependence(
    table: Table,
    vocab: Vocab,
    predict: Predict,
    values: Mapping[str, np.ndarray],
    *,
    points: int = POINTS,
    most_rows: int = CURVE_ROWS,
    seed: int = 0,
) -> pl.DataFrame:
    """Return how the outputs of encoded rows move with each number.

    For each value of a grid, all rows get it as their value of the feature and are predicted; the
    curve is the mean. Where the number goes along with other features, some of these rows are like
    none that there are: the curve says what the model computes, not what would happen.

    Args:
        table: the rows, as they are served.
        vocab: by which they are encoded.
        predict: the output columns of encoded rows.
        values: the numbers of each feature to look at, NaN where missing: float32 (N,).
        points: of a grid, at most.
        most_rows: how many rows to draw at most.
        seed: of the rows that are drawn.

    Returns:
        A line for each feature, output column and value: `mean`, and by `low` and `high` the
        middle 80 % of the rows' own curves, each moved to the level of the mean.

    Raises:
        DataError: a feature without a value in these rows.

    Reference:
        Friedman, Annals of Statistics 2001, "Greedy function approximation", eq. 51-53. Goldstein
        et al., Journal of Computational and Graphical Statistics 2015, "Peeking inside the black
        box" (the curves of single rows; theirs are moved to one point, these to one mean).
    """
    spec.whole("points", points, least=2)
    spec.whole("most_rows", most_rows)
    outputs = [name for task in table.schema.tasks for name in scored_columns(task)]
    some = drawn(len(table), most_rows, seed)
    rows = replace(part(table, some), given={})
    weight = None if rows.weight is None else rows.weight.astype(np.float64)
    frames = [pl.DataFrame(schema=COLUMNS)]
    for name, own in metered(values.items(), "moving numbers", unit="features"):
        grid = grid_of(own, points)
        if not len(grid):
            raise DataError(f"feature {name!r} has no value in these rows: there is no curve of it")
        read = vocab.codecs[name].read
        found = [
            predict(with_values(rows, vocab, {name: read(pl.Series(name, [value])).values}))
            for value in grid.tolist()
        ]
        for output in outputs:
            curves = np.column_stack([each[output] for each in found]).astype(np.float64)
            average, low, high = bands(curves, weight)
            lines = {"value": grid.astype(np.float64), "mean": average, "low": low, "high": high}
            frame = pl.DataFrame(lines).with_columns(feature=pl.lit(name), output=pl.lit(output))
            frames.append(frame.select(*COLUMNS))
    return pl.concat(frames)
