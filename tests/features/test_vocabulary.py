"""Vocabularies: which ids have a row, and that the same id finds it from any type of column."""

import datetime
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from polyrank.errors import DataError
from polyrank.features.vocabulary import Vocabulary, counts_of

NAN = float("nan")


def fit(values, min_count=1):
    return Vocabulary.fit([pl.Series(values)], min_count)


def rows(vocabulary, values):
    return vocabulary.encode(values if isinstance(values, pl.Series) else pl.Series(values))


def check(vocabulary, values, expected, unseen=0, nulls=0):
    found, *counts = rows(vocabulary, values)
    assert found.dtype == np.int32
    assert (found.tolist(), *counts) == (expected, unseen, nulls)


# ------------------------------------------------------------------------------------ which rows


@pytest.mark.parametrize("ids", [["b", "a", "b", None], [7, 0, -3, None], [0.5, 2.0, None]])
def test_a_row_is_named_by_its_id(ids):
    vocabulary = fit(ids)
    names = vocabulary.named(rows(vocabulary, ids)[0])
    assert names == ["null" if each is None else str(each) for each in ids]
    assert vocabulary.named(np.array([0])) == ["unseen or rare"]


def test_without_ids_every_row_is_for_the_unseen():
    assert fit(["a"], min_count=2).named(np.array([0, 0])) == ["unseen or rare"] * 2


def test_rows_are_by_count_then_value():
    vocabulary = fit(["b", "a", "c", "c", None])
    assert vocabulary.values.to_list() == ["c", None, "a", "b"]
    assert vocabulary.counts.to_list() == [2, 1, 1, 1]
    assert vocabulary.rows == 5
    check(vocabulary, ["a", "x", None], [3, 0, 2], unseen=1, nulls=1)


def test_rare_ids_share_row_0_and_are_counted_as_unseen():
    vocabulary = fit([1, 1, 2, None], min_count=2)
    assert vocabulary.rows == 2
    check(vocabulary, [1, 2, 3, None], [1, 0, 0, 0], unseen=2, nulls=1)


def test_null_has_a_row_if_training_has_enough_of_them():
    check(fit([1, None, None], min_count=2), [1, None], [0, 1], unseen=1, nulls=1)
    check(fit([1]), [None], [0], nulls=1)


def test_nan_is_null():
    check(fit([1.0, NAN]), [NAN, None, 1.0], [1, 1, 2], nulls=2)


# --------------------------------------------------------------------------- ids of every type

ids_of_every_type = {
    "negative": [-5, -1, 3],
    "beyond 31 bits": [2**31, 2**31 + 1, -(2**31) - 1],
    "ends of 64 bits": [-(2**63), 2**63 - 1, 0],
    "beyond 53 bits": [2**53, 2**53 + 1, 2**53 + 2],
    "beyond 63 bits": pl.Series([2**63, 2**63 + 1, 5], dtype=pl.UInt64),
    "128 bits": pl.Series([2**100, 2**100 + 1, -5], dtype=pl.Int128),
    "floats": [0.1, -0.5, 2.0],
    "whole floats": [1.0, 2.0, 3.0],
    "booleans": [True, False],
    "texts": ["", "7", "07", "ü", "a b"],
    "dates": [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)],
    "categories": pl.Series(["a", "b"], dtype=pl.Categorical),
}


@pytest.mark.parametrize("kind", ids_of_every_type)
def test_ids_round_trip(kind):
    values = pl.Series(ids_of_every_type[kind])
    vocabulary = Vocabulary.fit([values])
    found, unseen, nulls = vocabulary.encode(values)
    assert sorted(found.tolist()) == list(range(1, len(values) + 1))
    assert (unseen, nulls) == (0, 0)
    again = Vocabulary.from_frame(vocabulary.to_frame())
    assert again.dtype == vocabulary.dtype
    assert again.encode(values)[0].tolist() == found.tolist()


@pytest.mark.parametrize(
    ("training", "values", "expected", "unseen"),
    [
        ([7, 3, 3], ["7", "07", "x", "3"], [2, 0, 0, 1], 2),
        ([7, 3, 3], ["7.0", "007", "7.5", "3"], [2, 0, 0, 1], 2),
        (["7", "3.0", "3"], ["7.0", "3", "07"], [2, 1, 0], 1),
        (["7.0", "3.5", "3.5"], [7, 3], [2, 0], 1),
        (["7.0", "3.5", "3.5"], [7.0, 3.5, 3.0], [2, 1, 0], 1),
        (["7.0", "7", "7"], pl.Series(["7.00", "3.50"]).cast(pl.Decimal(10, 2)), [1, 0], 1),
        (["7", "x", "x"], pl.Series(["7.00", "3.50"]).cast(pl.Decimal(10, 2)), [2, 0], 1),
        (["True", "False", "False"], [True, False], [2, 1], 0),
        (["true", "false", "false"], [True, False], [2, 1], 0),
        ([True, False, False], ["true", "False", "1", "x"], [2, 1, 2, 0], 1),
        ([7, 3, 3], [7.0, 3.5, NAN, 3.0], [2, 0, 0, 1], 1),
        ([7, 3, 3], pl.Series([2**63, 3], dtype=pl.UInt64), [0, 1], 1),
        ([1, 0, 0], [True, False], [2, 1], 0),
        (["7", "3", "3"], [7, 3, 8], [2, 1, 0], 1),
        (["7", "3", "3"], [7.0, 3.0, 3.5], [2, 1, 0], 1),
        (["a", "b"], pl.Series(["b", "x", None], dtype=pl.Categorical), [2, 0, 0], 1),
        ([0.5, 2.0, 2.0], [2, 3], [1, 0], 1),
        ([0.5, 2.0, 2.0], ["0.5", "2", "x"], [2, 1, 0], 1),
        ([0.5, 2.0, 2.0], pl.Series([0.5, 2.0], dtype=pl.Float32), [2, 1], 0),
        ([True, False, False], [1, 0], [2, 1], 0),
        ([1, 2], pl.Series([None, None]), [0, 0], 0),
    ],
)
def test_the_same_id_is_found_from_another_type(training, values, expected, unseen):
    found, misses, _ = rows(fit(training), values)
    assert found.tolist() == expected
    assert misses == unseen


def test_whole_floats_are_the_integers_they_were():
    trained_on_floats = fit([20.0, NAN, 20.0])
    assert trained_on_floats.dtype == "int"
    check(trained_on_floats, [20, 21], [1, 0], unseen=1)


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9))))
def test_integers_by_a_plain_dictionary(values):
    series = pl.Series(values, dtype=pl.Int64)
    vocabulary = Vocabulary.fit([series], min_count=2)
    kept = {value for value, count in Counter(values).items() if count >= 2}
    found, unseen, nulls = vocabulary.encode(series)
    assert vocabulary.rows == len(kept) + 1
    by_value = dict(zip(vocabulary.values.to_list(), range(1, vocabulary.rows), strict=True))
    assert found.tolist() == [by_value.get(value, 0) for value in values]
    assert unseen == sum(value is not None and value not in kept for value in values)
    assert nulls == values.count(None)


@given(
    st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1)),
        st.lists(st.one_of(st.none(), st.text(max_size=3))),
        st.lists(st.one_of(st.none(), st.floats())),
    ),
    st.randoms(use_true_random=False),
)
def test_encoding_does_not_depend_on_the_order_of_rows(values, random):
    shuffled = values.copy()
    random.shuffle(shuffled)
    kind = {int: pl.Int64, str: pl.String, float: pl.Float64}.get(
        next((type(value) for value in values if value is not None), int)
    )
    series = pl.Series(values, dtype=kind)
    first = Vocabulary.fit([series])
    second = Vocabulary.fit([pl.Series(shuffled, dtype=kind)])
    assert_frame_equal(first.to_frame(), second.to_frame())
    assert first.encode(series)[0].tolist() == second.encode(series)[0].tolist()


def test_sparse_and_dense_ranges_of_integers_agree():
    values = np.random.default_rng(0).integers(0, 50, 1000)
    near, far = fit(values), fit(values * 10**15)
    assert near.direct is not None
    assert far.direct is None
    assert near.encode(pl.Series(values))[0].tolist() == (
        far.encode(pl.Series(values * 10**15))[0].tolist()
    )


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9), min_size=1))
def test_text_of_integers_is_encoded_as_the_integers(values):
    integers = pl.Series(values, dtype=pl.Int64)
    texts = integers.cast(pl.String)
    vocabulary = Vocabulary.fit([texts])
    assert_frame_equal(vocabulary.to_frame(), Vocabulary.fit([integers]).to_frame())
    expected = vocabulary.encode(integers)[0].tolist()
    for spelling in (texts, texts + ".0", texts.cast(pl.Categorical)):
        assert vocabulary.encode(spelling)[0].tolist() == expected


def test_one_odd_text_makes_all_of_them_text():
    vocabulary = fit(["00001", "2", "2", "K1A0B1"])
    assert vocabulary.dtype == "string"
    check(vocabulary, ["00001", "1", "2", "2.0"], [2, 0, 1, 0], unseen=2)
    check(vocabulary, [1, 2], [0, 1], unseen=1)
    merged = fit(["1.10", "1.1", "1e5", "100000", "true", "1", str(2**53 + 1), "1.5"])
    assert merged.rows == 9


# -------------------------------------------------------------------------------------- identity


def test_identity():
    vocabulary = Vocabulary("identity", size=4)
    assert vocabulary.rows == 4
    values = [0, 3, 4, -1, 2**40, None]
    check(vocabulary, values, [0, 3, 0, 0, 0, 0], unseen=3, nulls=1)
    check(vocabulary, [1.0, 1.5, NAN], [1, 0, 0], unseen=1, nulls=1)
    check(vocabulary, ["2", "x"], [2, 0], unseen=1)
    check(vocabulary, ["3.0", "03", None, "4"], [3, 0, 0, 0], unseen=2, nulls=1)


# ------------------------------------------------------------------------------------- save, load


def test_frame_has_row_value_and_count():
    frame = fit(["b", "b", "a"]).to_frame()
    assert frame.to_dict(as_series=False) == {"row": [1, 2], "value": ["b", "a"], "count": [2, 1]}
    check(Vocabulary.from_frame(frame[::-1]), ["a", "b"], [2, 1])


def test_empty_vocabulary():
    vocabulary = fit([1, 2], min_count=2)
    assert vocabulary.rows == 1
    check(Vocabulary.from_frame(vocabulary.to_frame()), [1, None], [0, 0], unseen=1, nulls=1)


def test_frame_of_other_columns_is_refused():
    with pytest.raises(DataError, match=r"row, value and count, got \['id'\]"):
        Vocabulary.from_frame(pl.DataFrame({"id": [1]}))


def test_frame_of_another_type_is_refused():
    with pytest.raises(DataError, match="Int64, String or Float64 values, got Boolean"):
        Vocabulary.from_frame(pl.DataFrame({"row": [1], "value": [True], "count": [1]}))


# ------------------------------------------------------------------------------ close together


@pytest.mark.parametrize("low", [-(2**63), -5, 0, 2**63 - 70_001])
@pytest.mark.parametrize("nulls", [False, True])
def test_integers_that_lie_close_together_are_counted_and_found_like_others(low, nulls):
    generator = np.random.default_rng(0)
    ids = pl.Series([low + int(each) for each in generator.integers(0, 70_000, 80_000)])
    if nulls:
        ids = ids.set(pl.Series(generator.random(len(ids)) < 0.1), None)
    found = counts_of(ids).sort("value")
    assert found.equals(ids.alias("value").value_counts(name="count").sort("value"))
    vocabulary = Vocabulary.fit([ids])
    assert vocabulary.direct is not None
    rows, unseen, absent = vocabulary.encode(ids)
    assert (unseen, absent) == (0, ids.null_count())
    assert pl.Series([None, *vocabulary.values]).gather(rows).equals(ids.alias(""))
    others = pl.Series([low, low + 70_000, 2**63 - 1, -(2**63), low - 1 if low > -(2**63) else 0])
    expected = [vocabulary.to_frame().filter(value=each)["row"].sum() for each in others]
    assert vocabulary.encode(others)[0].tolist() == expected


@pytest.mark.slow
@given(
    st.lists(st.lists(st.integers(0, 6) | st.none(), max_size=12), min_size=2, max_size=4),
    st.integers(1, 4),
)
def test_growing_counts_like_one_fit_and_keeps_rows(parts, least):
    columns = [pl.Series(part, dtype=pl.Int64) for part in parts]
    found = Vocabulary.fit(columns[:1], least)
    for column in columns[1:]:
        before, found = (
            found,
            Vocabulary.from_frame(found.saved()).grown([counts_of(column)], least),
        )
        assert found.values[: len(before.values)].equals(before.values)
    whole = Vocabulary.fit(columns, least)
    one, two = (
        dict(zip(each.values.to_list(), each.counts.to_list(), strict=True))
        for each in (found, whole)
    )
    assert one == two


def test_growing_never_makes_ids_one_that_were_told_apart():
    first = Vocabulary.fit([pl.Series(["a", "7", "7", "07", "07"])], min_count=2)
    grown = first.grown([counts_of(pl.Series([7, 8, 8]))], min_count=2)
    assert grown.dtype == "string"
    assert grown.values.to_list() == ["07", "7", "8"]
    assert grown.counts.to_list() == [2, 3, 2]
    wider = Vocabulary.fit([pl.Series([7, 8])]).grown([counts_of(pl.Series(["x", "7"]))])
    assert wider.values.to_list() == ["7", "8", "x"]
    assert wider.encode(pl.Series([8, 7]))[0].tolist() == [2, 1]
