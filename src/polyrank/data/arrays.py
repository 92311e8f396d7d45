"""Arrays, lists and tensors by column to a polars frame, without losing a digit or a null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
import pyarrow

from polyrank.errors import DataError
from polyrank.features.bags import offsets_of

# Type names of pandas' missing values, which is not imported here.
_NO_VALUE = {"NAType", "NaTType"}


def from_arrays(source: Mapping[str, Any]) -> pl.DataFrame:
    """Return arrays, lists or tensors by column as a frame; DataError if one cannot be read.

    Integers stay integers where one is missing. The rows of a 2-D array, and the lists in a list or
    in an array of objects, are lists.
    """
    columns = [_series(str(name), values) for name, values in source.items()]
    lengths = {series.name: len(series) for series in columns}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name!r}: {length:,}" for name, length in lengths.items())
        raise DataError(f"the arrays must have one length, got {shown}")
    return pl.DataFrame(columns)


def _series(name: str, values: Any) -> pl.Series:
    try:
        series = _converted(name, values)
        if series.dtype == pl.Object:
            raise TypeError("it must hold numbers, texts or times: convert it")
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"column {name!r} cannot be read as an array: {error}") from None
    return series


def _converted(name: str, values: Any) -> pl.Series:
    if isinstance(values, pl.Series):
        return values.alias(name)
    if isinstance(values, list | tuple):
        return _from_objects(name, values)
    if hasattr(values, "detach"):  # a tensor: its numbers, wherever they are
        values = values.detach().cpu().numpy()
    dtype = getattr(values, "dtype", None)
    if dtype is None and (
        hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__")
    ):
        return pl.Series(name, values)
    # numpy would make floats of pandas' integers where one is missing, and lose their last digits.
    array = np.asarray(values, dtype=None if dtype is None or isinstance(dtype, np.dtype) else "O")
    if array.ndim == 2:
        rows, width = array.shape
        return _as_lists(_converted(name, array.reshape(-1)), np.full(rows, width))
    if array.ndim != 1:
        raise DataError(
            f"column {name!r} must be a 1-D array, or a 2-D one of lists, got shape {array.shape}"
        )
    if array.dtype.kind == "O":
        return _from_objects(name, array.tolist())
    if array.dtype.kind == "S":
        array = np.char.decode(array)
    return pl.Series(name, np.ascontiguousarray(array))


def _from_objects(name: str, values: Any) -> pl.Series:
    """Python objects: NaN and NA are pandas' null, and integers may be of any size."""
    plain = [None if _is_missing(each) else each for each in values]
    present = [each for each in plain if each is not None]
    if present and all(isinstance(each, list | tuple | np.ndarray) for each in present):
        return _from_lists(name, plain, present)
    integers = all(isinstance(each, int | np.integer) for each in present)
    if integers and not all(isinstance(each, bool) for each in present):
        if any(not -(2**63) <= each < 2**63 for each in present):
            return pl.Series(name, [None if each is None else str(each) for each in plain])
        return pl.Series(name, plain, dtype=pl.Int64)
    numbers = all(isinstance(each, int | float | np.number) for each in present)
    if numbers and any(isinstance(each, float | np.floating) for each in present):
        return pl.Series(name, plain, dtype=pl.Float64, strict=False)
    plain = [str(each) if isinstance(each, UUID) else each for each in plain]
    return pl.Series(name, plain, strict=True)


def _from_lists(name: str, plain: Sequence[Any], present: Sequence[Any]) -> pl.Series:
    lengths = np.array([0 if each is None else len(each) for each in plain])
    arrays = [each for each in present if isinstance(each, np.ndarray) and each.ndim == 1]
    if len(arrays) == len(present) and len({each.dtype for each in arrays}) == 1:
        values = _converted(name, np.concatenate(arrays))
    else:
        lists = (each.tolist() if isinstance(each, np.ndarray) else each for each in present)
        values = _from_objects(name, list(chain.from_iterable(lists)))
    null = np.array([each is None for each in plain])
    return _as_lists(values, lengths, null if null.any() else None)


def _as_lists(values: pl.Series, lengths: np.ndarray, null: np.ndarray | None = None) -> pl.Series:
    """The elements of lists, one list after the other, as lists; some of them null."""
    mask = None if null is None else pyarrow.array(null)
    lists = pyarrow.LargeListArray.from_arrays(
        pyarrow.array(offsets_of(lengths)), values.to_arrow(), mask=mask
    )
    return pl.Series(values.name, lists)


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return value != value
    return type(value).__name__ in _NO_VALUE
