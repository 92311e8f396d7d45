"""One form for an id, whatever the type of its column.

Among integers 7, 7.0, "7" and "7.0" are one id, and "007" is none of them. Text that is not all
plain integers is taken to the letter: "7" and "7.0", "1.1" and "1.10" are then different ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import polars as pl

from polyrank.errors import DataError

IdType = Literal["int", "string", "float"]
# The largest integer up to which every integer is a float64 of its own.
EXACT = 2**53
# As pandas writes integers, and integers with missing values among them.
_PLAIN_INTEGER = r"^(?:0|-?[1-9][0-9]*)(?:\.0+)?$"
# As polars and as Python write booleans.
_TRUE, _FALSE = ["true", "True"], ["false", "False"]


def plain_ids(series: pl.Series) -> pl.Series:
    """Return ids as Boolean, Int64, Float64 without NaN, or String; the values are the same.

    Integers beyond 64 bits become decimal text, never floats. So do decimals with a fraction,
    without the zeros at their end; decimals that are all whole are integers.

    Raises:
        DataError: a column of lists, structs, bytes or durations, which are no ids.

    Examples:
        >>> plain_ids(pl.Series([2**63, 1], dtype=pl.UInt64)).to_list()
        ['9223372036854775808', '1']
    """
    dtype = series.dtype
    if dtype in (pl.Boolean, pl.Int64, pl.String):
        return series
    if isinstance(dtype, pl.Decimal):
        whole = series.cast(pl.Int128)
        if not (whole.cast(dtype) == series).all():
            return series.cast(pl.String).str.replace(r"\.?0+$", "")
        series, dtype = whole, pl.Int128()
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
    if isinstance(dtype, pl.Categorical | pl.Enum | pl.Date | pl.Time):
        return series.cast(pl.String)
    raise DataError(
        f"feature {series.name!r}: an id must be a number, a text, a boolean or a date, got a "
        f"column of {dtype}: convert it"
    )


def id_type(columns: Sequence[pl.Series]) -> IdType:
    """Return the type in which all ids of some plain columns can be told apart.

    Floats that are all whole numbers (pandas' way to write integers with nulls) are integers, and
    so is text that is all plain integers within 64 bits.
    """
    types = {_type(column) for column in columns}
    if types <= {"int"}:
        return "int"
    if "string" in types or not all(_floats_tell_apart(column) for column in columns):
        return "string"
    return "float"


def as_type(ids: pl.Series, target: IdType) -> pl.Series:
    """Return plain ids as one type; an id with no such form becomes null.

    Text that names a boolean is 1 or 0 among integers, as a boolean is.
    """
    source = ids.dtype
    if target == "int":
        if source == pl.String:
            whole = _integers(ids)
            if whole.null_count() == ids.null_count():
                return whole
            return whole.set(ids.is_in(_TRUE), 1).set(ids.is_in(_FALSE), 0)
        if source == pl.Float64:
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


def spellings(ids: pl.Series) -> Iterator[pl.Series]:
    """Yield the texts that may stand for plain ids where text is to the letter, likeliest first.

    A number may have been written with ".0", a boolean with a capital.
    """
    texts = as_type(ids, "string")
    yield texts
    if ids.dtype == pl.Boolean:
        yield texts.str.to_titlecase()
    elif ids.dtype != pl.String:
        whole = texts.str.contains(_PLAIN_INTEGER).fill_null(value=False)
        yield (texts + ".0").zip_with(whole, texts)


def _type(ids: pl.Series) -> IdType:
    if ids.dtype == pl.String:
        return "int" if _integers(ids).null_count() == ids.null_count() else "string"
    return "float" if ids.dtype == pl.Float64 and not _whole(ids).all() else "int"


def _integers(texts: pl.Series) -> pl.Series:
    """Text as Int64; null where it is no plain integer, or beyond 64 bits."""
    integers = texts.cast(pl.Int64, strict=False)
    # Most are as polars writes them, which is many times as fast to tell as by the expression.
    odd = (integers.cast(pl.String) != texts).fill_null(value=True) & texts.is_not_null()
    if odd.any():
        integers = integers.scatter(odd.arg_true(), _oddly_written(texts.filter(odd)))
    return integers


def _oddly_written(texts: pl.Series) -> pl.Series:
    texts = texts.set(~texts.str.contains(_PLAIN_INTEGER), None)
    if texts.str.contains(".", literal=True).any():
        texts = texts.str.replace(r"\.0+$", "")
    return texts.cast(pl.Int64, strict=False)


def _floats_tell_apart(ids: pl.Series) -> bool:
    """Whether no two of the ids would be one float64."""
    if ids.dtype == pl.String:
        ids = _integers(ids)
    return ids.dtype != pl.Int64 or bool(_exact(ids).all())


def _whole(ids: pl.Series) -> pl.Series:
    return (ids == ids.floor()) & (ids.abs() <= EXACT)


def _exact(ids: pl.Series) -> pl.Series:
    return ids.is_between(-EXACT, EXACT)
