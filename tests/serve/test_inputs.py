"""Plain lists are encoded as a codec encodes columns, whatever they hold."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polyrank.data.arrays import from_arrays
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError
from polyrank.features.bags import Bag
from polyrank.features.dense import DenseEncoding, DenseEncodings
from polyrank.features.vocabulary import Vocabulary
from polyrank.schema import DenseFeature, Schema, SequenceFeature, SparseFeature, Task
from polyrank.serve import inputs as module
from polyrank.serve.inputs import Inputs, Lookups

SCHEMA = Schema(
    [
        SparseFeature("integer"),
        SparseFeature("text"),
        SparseFeature("decimal"),
        SparseFeature("identity", vocab_size=4),
        SparseFeature("hashed", hash=10),
        SparseFeature("rare", min_count=9),
        SparseFeature("close"),
        SparseFeature("closer"),
        SparseFeature("same", shared_with="close"),
        SequenceFeature("integers", shared_with="integer"),
        SequenceFeature("texts", shared_with="text"),
        SequenceFeature("padded", shared_with="integer", padding_idx=0),
        DenseFeature("number", encoding="bins"),
        DenseFeature("another", encoding="none"),
    ],
    [Task("click")],
)
KNOWN_IDS, KNOWN_TEXTS = [-(2**63), -7, 0, 1, 2**53 + 1, 2**63 - 1], ["", "7", "7.0", "é", "true"]
VOCAB = Vocab(
    SCHEMA.features,
    {
        "integer": Vocabulary("int", pl.Series([*KNOWN_IDS, None]), pl.Series([1] * 7)),
        "text": Vocabulary("string", pl.Series([*KNOWN_TEXTS, None]), pl.Series([1] * 6)),
        "decimal": Vocabulary("float", pl.Series([0.5, 0.0, None]), pl.Series([1] * 3)),
        "identity": Vocabulary("identity", size=4),
        "hashed": Vocabulary("hash", size=11),
        "rare": Vocabulary("int"),
        "close": Vocabulary("int", pl.Series([7, -2, None, 0]), pl.Series([1] * 4)),
        "closer": Vocabulary("int", pl.Series([2**63 - 1, 2**63 - 9]), pl.Series([1, 1])),
    },
    {
        "number": DenseEncodings((DenseEncoding("bins", edges=(0.0, 1.0), missing=True),)),
        "another": DenseEncodings((DenseEncoding("none"),)),
    },
)
CODECS = Inputs(SCHEMA, VOCAB).codecs
LOOKUPS = Lookups(CODECS)

integers = st.one_of(st.sampled_from(KNOWN_IDS), st.integers(-(2**70), 2**70), st.integers(-9, 9))
texts = st.one_of(st.sampled_from([*KNOWN_TEXTS, "07", "False"]), st.text(max_size=9))
decimals = st.one_of(st.floats(), st.sampled_from([0.5, -0.0, 7.0, 2.0**53]))
values = st.one_of(*map(st.none().__or__, [integers, texts, decimals, st.booleans()]))
columns = st.one_of(
    *(st.lists(st.none() | kind, min_size=1, max_size=6)
      for kind in (integers, texts, decimals, st.booleans())),
    st.lists(values, min_size=1, max_size=6),
)  # fmt: skip


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, Bag):
            same((one.ids, one.offsets), (other.ids, other.offsets))
        elif isinstance(one, np.ndarray):
            assert one.dtype.kind == other.dtype.kind  # rows of a column are int32, others int64
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


def check(name, column):
    """A list and its column are encoded alike, or both are refused."""
    try:
        expected = CODECS[name].read(from_arrays({name: column})[name])
    except DataError:
        with pytest.raises(DataError, match=name):
            LOOKUPS({name: column})[name]
        return
    same(LOOKUPS({name: column})[name], expected)
    same(LOOKUPS({name: from_arrays({name: column})[name]})[name], expected)


@pytest.mark.parametrize(
    "name", ["integer", "text", "decimal", "identity", "hashed", "rare", "close"]
)
@given(column=columns)
@example(column=[True, False, None])
@example(column=[2**63, -(2**63) - 1])
@example(column=[None, None])
@example(column=[1, None, float("nan")])
def test_ids_are_those_of_the_vocabulary(name, column):
    check(name, column)


@given(
    column=st.lists(st.none() | st.integers() | decimals | st.booleans(), min_size=1, max_size=6)
)
@example(column=[2**53 + 1, 2**53])
@example(column=[16_777_217, None])  # halfway between two float32
@example(column=[10**400])
@example(column=[1e39, 0.0])
@example(column=["1"])
@example(column=[float("inf")])
def test_numbers_are_those_of_the_column(column):
    check("number", column)


@pytest.mark.parametrize("name", ["integers", "texts", "padded"])
@given(column=st.lists(st.none() | columns | st.just([]), min_size=1, max_size=5))
@example(column=[[1, 2, 0], None, []])
@example(column=[None])
@example(column=[[], []])
@example(column=[1, 2])
@example(column=["ab"])
def test_lists_are_those_of_the_vocabulary(name, column):
    check(name, column)


near = st.integers(-9, 9) | st.integers(2**63 - 12, 2**63 - 1) | st.just(-(2**63))
numbers = st.integers() | st.floats(allow_infinity=False, width=32)


@given(st.data())
def test_columns_that_are_looked_up_at_once_are_as_each_alone(data):
    """Where a value in one of them is odd, the others are not touched."""
    rows = data.draw(st.integers(1, 4))
    odd = st.just(None) | st.just("7") | st.booleans()
    columns = {}
    for name in data.draw(st.lists(st.sampled_from(["close", "closer", "same"]), unique=True)):
        kind = data.draw(st.sampled_from([near, near | odd]))
        columns[name] = data.draw(st.lists(kind, min_size=rows, max_size=rows))
    for name in data.draw(st.lists(st.sampled_from(["number", "another"]), unique=True)):
        kind = data.draw(st.sampled_from([numbers, st.none() | numbers]))
        columns[name] = data.draw(st.lists(kind, min_size=rows, max_size=rows))
    expected = {}
    for name, values in columns.items():
        try:
            expected[name] = CODECS[name].read(from_arrays({name: values})[name])
        except DataError:
            with pytest.raises(DataError):
                LOOKUPS(columns)
            return
    found = LOOKUPS(columns)
    assert found.keys() == expected.keys()
    for name in expected:
        same(found[name], expected[name])


def test_values_of_two_types_are_refused_with_both():
    with pytest.raises(DataError, match="'text' must hold values of one type, got int, str: conv"):
        LOOKUPS({"text": ["a", 1]})


DEEP = json.loads("[" * 250 + "]" * 250)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("text", {"a": 1}, "'text' holds objects, and an id is a number, a text"),
        ("text", DEEP, "'text' holds lists, and an id is a number, a text"),
        ("integer", [1], "'integer' holds lists, and an id is a number"),
        ("number", DEEP, "'number' holds lists, and a number is expected"),
        ("number", {}, "'number' holds objects, and a number is expected"),
        ("texts", DEEP, "'texts' holds lists in lists, and a list of ids is expected"),
        ("texts", {"a": 1}, "'texts' holds objects, and a list of ids is expected"),
        ("padded", [{"a": 1}], "'padded' holds objects, and a list of ids is expected"),
    ],
)
def test_what_is_nested_is_refused_before_a_frame_is_made(name, value, message, monkeypatch):
    def made(*_):
        raise AssertionError("a frame takes half a second for 250 levels")

    monkeypatch.setattr(module, "from_arrays", made)
    with pytest.raises(DataError, match=message):
        LOOKUPS({name: [None, value]})


def test_ids_are_counted_without_nulls_and_what_fills_up():
    lists = [[1, 2, 0], None, [], [None, 0, 5]]
    assert LOOKUPS({"integers": lists})["integers"].ids == 5
    assert LOOKUPS({"padded": lists})["padded"].ids == 3
    assert LOOKUPS({"integer": [1, None, 2]})["integer"].ids == 2
    assert LOOKUPS({"number": [1, None, 2]})["number"].ids == 0
