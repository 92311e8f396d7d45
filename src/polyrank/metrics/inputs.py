"""What every metric needs of its arrays, checked once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from polyrank.errors import DataError
from polyrank.text import counted

LARGEST = 1e140  # its square, times any number of rows, stays within float64


def column(name: str, values: ArrayLike, *, rows: int | None = None) -> np.ndarray:
    """Return one float64 column (rows,) of finite values within ±1e140; refuse any other."""
    array = shaped(name, values, rows=rows)
    finite = np.abs(array) <= LARGEST
    if not finite.all():
        wrong = len(array) - int(finite.sum())
        raise DataError(
            f"{name}: {wrong:,} of {len(array):,} values are NaN, infinite or beyond {LARGEST:g}"
        )
    return array


def shaped(name: str, values: ArrayLike, *, rows: int | None = None) -> np.ndarray:
    """Return one float64 column (rows,), which may hold NaN."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        expected = "(rows,)" if rows is None else f"({rows},)"
        raise DataError(f"{name}: expected an array of shape {expected}, got {array.shape}")
    return array


def weighing(
    weight: ArrayLike | None, *, rows: int
) -> tuple[np.ndarray | slice, np.ndarray | None]:
    """Return which rows have a weight above 0, and their weights relative to the largest.

    A row of weight 0 is not there: it decides neither which classes exist nor where a bin ends. So
    is one 200 orders of magnitude below the largest: no sum notices it, and dividing by it would
    leave float64.
    """
    if weight is None:
        return slice(None), None
    w = column("weight", weight, rows=rows)
    refuse_values("weights are 0 or above", w, lambda w: w < 0)
    largest = w.max(initial=0.0)
    w = w / largest if largest > 0 else w
    kept = w > 1e-200
    return (slice(None), w) if kept.all() else (kept, w[kept])


def refuse_values(
    rule: str, values: np.ndarray, broken: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Raise DataError with the rule and the first distinct values that break it."""
    mask = broken(values)
    if mask.any():
        found = list(dict.fromkeys(values[mask][:1000].tolist()))
        more = ", …" if len(found) > 3 else ""
        shown = ", ".join(f"{value:g}" for value in found[:3])
        raise DataError(f"{rule}, got {shown}{more} in {counted(int(mask.sum()), 'row')}")


def refuse_other_labels(label: np.ndarray) -> None:
    """Raise DataError where a label is neither 0 nor 1."""
    refuse_values("binary labels are 0 or 1", label, lambda y: (y != 0) & (y != 1))


def refuse_beyond_one(name: str, values: np.ndarray) -> None:
    """Raise DataError where a value is no probability."""
    refuse_values(f"{name}: a probability lies within 0 and 1", values, lambda p: (p < 0) | (p > 1))


def mean(values: np.ndarray, weight: np.ndarray | None) -> float:
    """Return the weighted mean of at least one row."""
    if weight is None:
        return float(values.mean())
    return float(np.dot(values, weight) / weight.sum())


def key_codes(name: str, keys: Any, *, rows: int | None = None) -> np.ndarray:
    """Return an integer for each row that is equal where the keys are.

    A missing key (null, None, NaN) is a key of its own in every row, so that rows nobody can
    attribute are never ranked against one another. The int64 codes begin at 0, are not necessarily
    dense, and lie below 5·rows + 1024. Keys of mixed types are refused.
    """
    codes = coded(name, keys, rows=rows)
    missing = codes < 0
    if missing.any():
        codes[missing] = codes.max() + 1 + np.arange(missing.sum())
    return codes


def coded(name: str, keys: Any, *, rows: int | None = None) -> np.ndarray:
    """Return the same as `key_codes`, but for missing keys, which are −1."""
    series = _series(name, keys)
    if series.dtype.is_float():
        series = series.fill_nan(None)
    if rows is not None and len(series) != rows:
        raise DataError(f"{name}: expected an array of shape ({rows},), got ({len(series)},)")
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        # A categorical is a hash table of strings: four times as fast as ranking them.
        series = series.cast(pl.Categorical).to_physical()
    missing = series.is_null().to_numpy()
    if missing.all():
        return np.full(len(series), -1, dtype=np.int64)
    if not (series.dtype.is_integer() and _narrow(series)):
        series = series.rank("dense")
    present = series.fill_null(series.min()).to_numpy()
    lowest = np.array([series.min()], dtype=present.dtype)
    # Unsigned ids wrap round in int64, and so does the difference: it comes out right.
    codes = present.astype(np.int64) - lowest.astype(np.int64)
    codes[missing] = -1
    return codes


def _narrow(series: pl.Series) -> bool:
    """Whether integers lie so close together that an array can be indexed by them."""
    lowest, highest = series.min(), series.max()
    if not (isinstance(lowest, int) and isinstance(highest, int)):
        return False
    return highest - lowest <= 4 * len(series) + 1023


def _series(name: str, keys: Any) -> pl.Series:
    if isinstance(keys, pl.Series):
        return keys
    array = np.asarray(keys) if not isinstance(keys, list | tuple) else None
    if array is not None and array.ndim != 1:
        raise DataError(f"{name}: expected an array of shape (rows,), got {array.shape}")
    try:
        if array is not None and array.dtype != object:
            return pl.Series(array)
        return pl.Series([None if value != value else value for value in keys])  # NaN is missing
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: keys must be of one type ({error})") from None
