"""Plain lists are encoded as `Vocab.encode` encodes columns, whatever they hold."""

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polyrank.data.arrays import from_arrays
from polyrank.data.bags import Bag
from polyrank.data.dense import DenseEncoding
from polyrank.data.vocab import Vocab, Vocabulary
from polyrank.errors import DataError
from polyrank.schema import DenseFeature, Schema, SequenceFeature, SparseFeature, Task
from polyrank.serve.inputs import encode_column
from polyrank.serve.lookup import lookups

SCHEMA = Schema(
    [
        SparseFeature("integer"),
        SparseFeature("text"),
        SparseFeature("decimal"),
        SparseFeature("identity", vocab_size=4),
        SparseFeature("hashed", hash=10),
        SparseFeature("rare", min_count=9),
        SequenceFeature("integers", shared_with="integer"),
        SequenceFeature("texts", shared_with="text"),
        SequenceFeature("padded", shared_with="integer", padding_idx=0),
        DenseFeature("number"),
    ],
    [Task("click")],
)
KNOWN_IDS, KNOWN_TEXTS = [-(2**63), -7, 0, 1, 2**53 + 1, 2**63 - 1], ["", "7", "7.0", "é", "true"]
VOCAB = Vocab(
    {
        "integer": Vocabulary("int", pl.Series([*KNOWN_IDS, None]), pl.Series([1] * 7)),
        "text": Vocabulary("string", pl.Series([*KNOWN_TEXTS, None]), pl.Series([1] * 6)),
        "decimal": Vocabulary("float", pl.Series([0.5, 0.0, None]), pl.Series([1] * 3)),
        "identity": Vocabulary("identity", size=4),
        "hashed": Vocabulary("hash", size=11),
        "rare": Vocabulary("int"),
    },
    {"number": DenseEncoding("bins", edges=(0.0, 1.0), missing=True)},
)
FEATURES = {feature.name: feature for feature in SCHEMA.features}
LOOKUPS = lookups(SCHEMA, VOCAB)

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
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


def check(name, column):
    """A list and its column are encoded alike, or both are refused."""
    feature = FEATURES[name]
    try:
        expected = encode_column(feature, from_arrays({name: column})[name], VOCAB)
    except DataError:
        with pytest.raises(DataError, match=name):
            LOOKUPS[name](column)
        return
    same(LOOKUPS[name](column), expected)
    same(LOOKUPS[name](from_arrays({name: column})[name]), expected)


@pytest.mark.parametrize("name", ["integer", "text", "decimal", "identity", "hashed", "rare"])
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


def test_values_of_two_types_are_refused_with_both():
    with pytest.raises(DataError, match=r"'text' holds values of the types int, str.*convert them"):
        LOOKUPS["text"](["a", 1])


def test_records_are_no_ids():
    with pytest.raises(DataError, match="'text'"):
        LOOKUPS["text"]([{"a": 1}])
