"""The hash of ids: golden vectors, a plain-Python reference, and tables without a vocabulary."""

from datetime import date
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.features import hashing
from polyrank.features.hashing import buckets, stable64
from polyrank.features.ids import plain_ids
from polyrank.schema import Schema, SequenceFeature, SparseFeature, Task

MASK = 2**64 - 1
# Never to change without a new VERSION: saved models find their rows by these.
GOLDEN = {
    0: 0xE220A8397B1DCDAF,
    1: 0x910A2DEC89025CC1,
    7: 0x63CBE1E459320DD7,
    -1: 0xE4D971771B652C20,
    2**63 - 1: 0x2A67D7552E039EA7,
    2**63: 0x6C70A9A5209A184E,
    0.5: 0x3FE8F0E5A0177A51,
    "": 0x8209B480FAED1B10,
    "007": 0xF596549D89A5C8B8,
    "北京": 0x1E48E714FC8178E8,
    "aaaaaaaa": 0x4B1919759D8B90E2,
    "aaaaaaaaa": 0x854AD83DBC3D3214,
    "item-1234567890": 0x9245F0A77A8C650E,
}


def mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def reference(value):
    if isinstance(value, int):
        return mix(value + 0x9E3779B97F4A7C15 & MASK)
    data = value.encode()
    h = mix(len(data) + 0xD1B54A32D192ED03 & MASK)
    for start in range(0, len(data), 8):
        word = int.from_bytes(data[start : start + 8], "little")
        h = mix((h ^ word) + 0x9E3779B97F4A7C15 & MASK)
    return h


def hashed(values, dtype=None):
    return stable64(plain_ids(pl.Series(values, dtype=dtype, strict=False)))


def test_golden_vectors():
    assert hashing.VERSION == 1
    for value, expected in GOLDEN.items():
        assert hashed([value])[0] == expected, value


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_integers_are_the_reference(values):
    assert hashed(values, pl.Int64).tolist() == [reference(value) for value in values]


@given(st.lists(st.text(max_size=40).map("x".__add__), max_size=20))
def test_texts_are_the_reference_in_whatever_company(values):
    assert hashed(values, pl.String).tolist() == [reference(value) for value in values]


def test_chunks_do_not_matter(monkeypatch):
    values = [f"{'long ' * (n % 7)}{n}" for n in range(100)]
    whole = hashed(values)
    monkeypatch.setattr(hashing, "_CHUNK_ROWS", 7)
    assert np.array_equal(hashed(values), whole)
    assert len(hashed([], pl.String)) == 0


@pytest.mark.parametrize(
    "columns",
    [
        [[7], [7.0], ["7"], ["7.0"], pl.Series([7], dtype=pl.UInt8), [Decimal("7")]],
        [[0.5], ["0.5"], [Decimal("0.50")]],
        [[1e-7], ["1e-07"]],
        [[True], ["true"], ["True"], [1]],
        [[2**63], [str(2**63)], pl.Series([2**63], dtype=pl.UInt64)],
        [["a"], pl.Series(["a"], dtype=pl.Categorical)],
        [[date(2026, 1, 2)], ["2026-01-02"]],
        [[-0.0], [0], ["0"]],
    ],
)
def test_one_id_has_one_hash_in_whatever_type(columns):
    found = {int(stable64(plain_ids(pl.Series(column)))[0]) for column in columns}
    assert len(found) == 1


def test_an_id_has_one_hash_whatever_the_rest_of_its_column():
    assert hashed(["7", "x"])[0] == hashed(["7"])[0] == hashed([7.0, 0.5])[0]
    assert hashed(["007"])[0] != hashed(["7"])[0]


def test_buckets_are_even():
    counts = np.bincount(buckets(pl.Series(range(100_000)), 100))
    assert counts.std() < 2 * np.sqrt(1000)
    texts = buckets(pl.Series([f"item-{n}" for n in range(100_000)]), 100)
    assert np.bincount(texts).std() < 2 * np.sqrt(1000)


def test_the_largest_table_has_rows_within_int32():
    found = buckets(pl.Series(range(1000)), 2**31 - 2) + 1
    assert found.dtype == np.int32
    assert found.min() > 0


def test_a_hashed_table_knows_every_id_and_has_null_in_row_0():
    schema = Schema(
        [SparseFeature("item", hash=20), SequenceFeature("seen", shared_with="item")],
        [Task("click")],
    )
    log = pl.DataFrame({"item": [1, None, 3], "seen": [["1", None], [], ["x"]], "click": [0, 1, 0]})
    vocab = Vocab.fit(log, schema)
    assert vocab.rows == {"item": 21}
    table = encode(log, schema, vocab)
    one, three = (1 + reference(value) % 20 for value in (1, 3))
    assert table.ids.tolist() == [[one, 0, three]]
    assert table.bags[0].ids.tolist() == [one, 0, 1 + reference("x") % 20]
    assert table.unseen == {"item": 0, "seen": 0}
    assert table.nulls == {"item": 1, "seen": 1}


def test_a_whole_float_is_the_integer_up_to_64_bits():
    """An id column that a null turned into float64 keeps the buckets of the ids it can tell."""
    ids = [10**16, 2**53 + 2, -(2**60), 7]
    floats = plain_ids(pl.Series([float(each) for each in ids]))
    integers = plain_ids(pl.Series(ids))
    texts = plain_ids(pl.Series([str(each) for each in ids]))
    assert stable64(floats).tolist() == stable64(integers).tolist() == stable64(texts).tolist()
    assert (
        stable64(plain_ids(pl.Series([1.5, 2.0**63]))).tolist()
        != stable64(plain_ids(pl.Series([1, 2**62]))).tolist()
    )
