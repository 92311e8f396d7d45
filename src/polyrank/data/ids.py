"""One form for an id, whatever the type of its column: 7, 7.0 and "7" are the same, "07" is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl

from polyrank.errors import DataError

IdType = Literal["int", "string", "float"]
# The largest integer up to which every integer is a float64 of its own.
EXACT = 2**53
_CANONICAL_DECIMAL = r"^(?:0|-?[1-9][0-9]*)$"


def plain_ids(series: pl.Series) -> pl.Series:
    """Return ids as Boolean, Int64, Float64 without NaN, or String; the values are the same.

    Integers beyond 64 bits become decimal text, never floats.

    Raises:
        DataError: a column of lists, structs, bytes or durations, which are no ids.

    Example:
        >>> plain_ids(pl.Series([2**63, 1], dtype=pl.UInt64)).to_list()
        ['9223372036854775808', '1']
    """
    dtype = series.dtype
    if dtype in (pl.Boolean, pl.Int64, pl.String):
        return series
    if isinstance(dtype, pl.Decimal) and dtype.scale == 0:
        series, dtype = series.cast(pl.Int128), pl.Int128()
    if dtype in (pl.UInt64, pl.Int128, pl.UInt128):
        narrow = series.cast(pl.Int64, strict=False)
        fits = narrow.null_count() == series.null_count()
        return narrow if fits else series.cast(pl.String)
    if dtype.is_integer() or dtype == pl.Null:
        return series.cast(pl.Int64)
    if dtype.is_float():
        series = series.cast(pl.Float64).fill_nan(None)
        return series.set(series == 0, 0.0)  # −0 is 0
    if isinstance(dtype, pl.Datetime):
        return series.dt.cast_time_unit("us").cast(pl.String)  # one text for one instant
    if isinstance(dtype, pl.Categorical | pl.Enum | pl.Decimal | pl.Date | pl.Time):
        return series.cast(pl.String)
    raise DataError(
        f"feature {series.name!r} is a column of {dtype}, and an id is a number, a text, a boolean "
        "or a date: convert it"
    )


def id_type(columns: Sequence[pl.Series]) -> IdType:
    """Return the type in which all ids of some plain columns can be told apart.

    Floats that are all whole numbers (pandas' way to write integers with nulls) are integers.

    Example:
        >>> id_type([pl.Series([1.0, None, 2.0])]), id_type([pl.Series([0.5]), pl.Series(["a"])])
        ('int', 'string')
    """
    types = {_type(column) for column in columns}
    if types <= {"int"}:
        return "int"
    if "string" in types or any(
        column.dtype == pl.Int64 and not _exact(column).all() for column in columns
    ):
        return "string"  # text, or integers that float64 cannot tell apart
    return "float"


def as_type(ids: pl.Series, target: IdType) -> pl.Series:
    """Return plain ids as one type; an id with no such form becomes null.

    Example:
        >>> as_type(pl.Series(["7", "07", "x"]), "int").to_list()
        [7, None, None]
        >>> as_type(pl.Series([3.0, 3.5]), "string").to_list()
        ['3', '3.5']
    """
    source = ids.dtype
    if target == "int":
        if source == pl.String:
            ids = ids.set(~ids.str.contains(_CANONICAL_DECIMAL), None)
        elif source == pl.Float64:
            ids = ids.set(~_whole(ids), None)
        return ids.cast(pl.Int64, strict=False)
    if target == "float":
        if source == pl.Int64:
            ids = ids.set(~_exact(ids), None)
        return ids.cast(pl.Float64, strict=False).fill_nan(None)
    if source == pl.Float64:
        whole = _whole(ids)
        texts = ids.set(~whole, None).cast(pl.Int64).cast(pl.String)
        return texts.zip_with(whole.fill_null(value=True), ids.cast(pl.String))
    return ids.cast(pl.String)


def _type(ids: pl.Series) -> IdType:
    if ids.dtype == pl.String:
        return "string"
    return "float" if ids.dtype == pl.Float64 and not _whole(ids).all() else "int"


def _whole(ids: pl.Series) -> pl.Series:
    return (ids == ids.floor()) & (ids.abs() <= EXACT)


def _exact(ids: pl.Series) -> pl.Series:
    return ids.is_between(-EXACT, EXACT)
