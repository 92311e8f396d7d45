"""User keys of every type become codes that are equal where the users are."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.errors import DataError
from polyrank.metrics.inputs import key_codes

KEYS = {
    "small integers": np.array([7, -3, 7, 120, -3], dtype=np.int8),
    "the ends of int8": np.array([127, -128, 127, 0, -128], dtype=np.int8),
    "large integers": np.array([2**62, -(2**62), 2**62, 5, -(2**62)]),
    "integers around 2^63": np.array([2**63, 2**63 - 1, 2**63, 9, 2**63 - 1], dtype=np.uint64),
    "close unsigned integers": np.array([2**63, 2**63 - 1, 2**63, 2**63 + 1, 2**63 - 1], np.uint64),
    "floats": np.array([0.5, -1.0, 0.5, 7.0, -1.0]),
    "strings": np.array(["b", "a", "b", "ccc", "a"]),
    "objects": np.array(["b", "a", "b", "ccc", "a"], dtype=object),
    "a list": ["b", "a", "b", "ccc", "a"],
    "bytes": np.array([b"b", b"a", b"b", b"ccc", b"a"]),
    "a string series": pl.Series(["b", "a", "b", "ccc", "a"]),
    "a categorical series": pl.Series(["b", "a", "b", "ccc", "a"], dtype=pl.Categorical),
}


def partition(codes):
    """Return which rows share a code."""
    return (codes[:, None] == codes[None, :]).tolist()


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_keys_of_any_type_are_coded(keys):
    codes = key_codes("user", keys)
    assert codes.dtype == np.int64
    assert codes.min() >= 0
    assert codes.max() < 5 * 5 + 1024
    assert partition(codes) == partition(np.array([0, 1, 0, 2, 1]))


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 3))))
def test_codes_are_equal_where_users_are_and_nulls_stand_alone(keys):
    codes = key_codes("user", pl.Series(keys, dtype=pl.Int64))
    alone = [(index, None) if key is None else key for index, key in enumerate(keys)]
    expected = [[one == other for other in alone] for one in alone]
    assert partition(codes) == expected
    assert all(0 <= code < 5 * len(keys) + 1024 for code in codes)


@pytest.mark.parametrize(
    "keys",
    [
        [None, "a", None, "a"],
        np.array([np.nan, "a", np.nan, "a"], dtype=object),
        np.array([np.nan, 2.0, np.nan, 2.0]),
        np.array([None, 2, None, 2], dtype=object),
        pl.Series([None, True, None, True]),
    ],
)
def test_a_missing_user_is_a_user_of_its_own(keys):
    assert partition(key_codes("user", keys)) == partition(np.array([0, 1, 2, 1]))


def test_every_user_missing():
    assert key_codes("user", [None, None]).tolist() == [0, 1]
    assert key_codes("user", []).tolist() == []


def test_keys_of_mixed_types_are_refused():
    with pytest.raises(DataError, match="user: keys must be of one type"):
        key_codes("user", np.array([1, "a"], dtype=object))


def test_keys_of_two_columns_are_refused():
    with pytest.raises(
        DataError, match=r"user: expected an array of shape \(rows,\), got \(2, 1\)"
    ):
        key_codes("user", np.array([[1], [2]]))
