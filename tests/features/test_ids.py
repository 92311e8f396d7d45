"""One form for an id, whatever the type of its column."""

import datetime

import numpy as np
import polars as pl
import pytest

from polyrank.errors import DataError
from polyrank.features.ids import EXACT, as_type, id_type, plain_ids, spellings

NAN = float("nan")
DAY = datetime.date(2020, 1, 2)
NOON = datetime.datetime(2020, 1, 2, 12)


@pytest.mark.parametrize(
    ("series", "dtype", "values"),
    [
        (pl.Series([True, None]), pl.Boolean, [True, None]),
        (pl.Series([1, 2], dtype=pl.UInt8), pl.Int64, [1, 2]),
        (pl.Series([1, 2], dtype=pl.UInt64), pl.Int64, [1, 2]),
        (pl.Series([2**64 - 1, 2], dtype=pl.UInt64), pl.String, [str(2**64 - 1), "2"]),
        (pl.Series([2**70, -1, None], dtype=pl.Int128), pl.String, [str(2**70), "-1", None]),
        (pl.Series([1, -1, None], dtype=pl.Int128), pl.Int64, [1, -1, None]),
        (pl.Series([1.5, NAN, None], dtype=pl.Float32), pl.Float64, [1.5, None, None]),
        (pl.Series(["7"]).cast(pl.Decimal(38, 0)), pl.Int64, [7]),
        (pl.Series(["7.00", None]).cast(pl.Decimal(10, 2)), pl.Int64, [7, None]),
        (pl.Series(["7.5"]).cast(pl.Decimal(38, 1)), pl.String, ["7.5"]),
        (pl.Series(["100.50", "70.00"]).cast(pl.Decimal(10, 2)), pl.String, ["100.5", "70"]),
        (pl.Series([str(2**63)]).cast(pl.Decimal(38, 2)), pl.String, [str(2**63)]),
        (pl.Series(["a"], dtype=pl.Categorical), pl.String, ["a"]),
        (pl.Series(["a"], dtype=pl.Enum(["a"])), pl.String, ["a"]),
        (pl.Series([DAY]), pl.String, ["2020-01-02"]),
        (pl.Series([NOON]).cast(pl.Datetime("ms")), pl.String, ["2020-01-02 12:00:00.000000"]),
        (pl.Series([None]), pl.Int64, [None]),
    ],
)
def test_plain_ids(series, dtype, values):
    plain = plain_ids(series)
    assert plain.dtype == dtype
    assert plain.to_list() == values


@pytest.mark.parametrize(
    "series",
    [pl.Series("tags", [[1]]), pl.Series("tags", [b"1"]), pl.Series("tags", [NOON - NOON])],
)
def test_what_is_no_id_is_refused(series):
    with pytest.raises(DataError, match=r"'tags': an id must be .*, got a column of"):
        plain_ids(series)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([[1, 2]], "int"),
        ([[True]], "int"),
        ([[1.0, None]], "int"),
        ([[float(2**60)]], "float"),
        ([[0.5], [1]], "float"),
        ([[0.5], [EXACT + 1]], "string"),
        ([["1"], [1]], "int"),
        ([["7", "-7", "0", "7.0", "7.00", None]], "int"),
        ([[None, None]], "int"),
        ([["7", "007"]], "string"),
        ([["7", "7."]], "string"),
        ([["1.10", "7"]], "string"),
        ([["1e5", "7"]], "string"),
        ([["-0", "7"]], "string"),
        ([["+7"]], "string"),
        ([["true"]], "string"),
        ([["", "7"]], "string"),
        ([["7", str(2**63)]], "string"),
        ([["7"], [0.5]], "float"),
        ([[str(EXACT + 1)], [0.5]], "string"),
        ([[float("inf")]], "float"),
    ],
)
def test_id_type(columns, expected):
    assert id_type([pl.Series(column) for column in columns]) == expected


@pytest.mark.parametrize(
    ("values", "target", "expected"),
    [
        (["7", "-7", "0", "7.0", "-7.00", "true", "False"], "int", [7, -7, 0, 7, -7, 1, 0]),
        (["07", "-0", "+7", " 7", "7.", "7.5", "7e0", "x", "", "tRUE", str(2**63)], "int",
         [None] * 11),
        ([3.0, 3.5, -2.0, 2.0**60, float("inf")], "int", [3, None, -2, None, None]),
        ([True, False], "int", [1, 0]),
        ([1, EXACT, EXACT + 1], "float", [1.0, float(EXACT), None]),
        (["0.5", "x", "nan"], "float", [0.5, None, None]),
        ([3.0, 3.5, None], "string", ["3", "3.5", None]),
        ([3, -3, None], "string", ["3", "-3", None]),
        ([True], "string", ["true"]),
    ],
)  # fmt: skip
def test_as_type(values, target, expected):
    assert as_type(pl.Series(values), target).to_list() == expected


def test_zero_has_one_sign():
    plain = plain_ids(pl.Series([-0.0, None, NAN, 1.5]))
    assert np.signbit(plain[:1].to_numpy()).tolist() == [False]
    assert plain.to_list() == [0.0, None, None, 1.5]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["007", "7", None], [["007", "7", None]]),
        ([7, None], [["7", None], ["7.0", None]]),
        ([7.0, 7.5, None], [["7", "7.5", None], ["7.0", "7.5", None]]),
        ([True, None], [["true", None], ["True", None]]),
    ],
)
def test_spellings(values, expected):
    assert [texts.to_list() for texts in spellings(pl.Series(values))] == expected
