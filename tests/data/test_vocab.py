"""What a schema fits on training rows: shared tables together, numbers, and nothing of the rest."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from polyrank.data.read import read
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError
from polyrank.schema import DenseFeature, Schema, SparseFeature, Task

TASKS = [Task("click")]


def test_vocab_of_a_schema():
    schema = Schema(
        [
            SparseFeature("item", min_count=2),
            SparseFeature("last", shared_with="item"),
            SparseFeature("raw", vocab_size=9),
            DenseFeature("price", encoding="standard"),
            DenseFeature("age", encoding="bins", bins=4),
        ],
        TASKS,
    )
    log = pl.LazyFrame(
        {
            "item": [1, 2, 3],
            "last": ["2", "x", None],
            "raw": [1, 2, 3],
            "price": [1, 2, None],
            "age": [10, 20, 30],
        }
    )
    vocab = Vocab.fit(log, schema)
    # min_count counts both columns together: 2 occurs once in each
    assert vocab.tables["item"].to_frame().rows() == [(1, "2", 2)]
    assert vocab.rows == {"item": 2, "raw": 9, "age": 4}
    assert vocab.columns == {"price": 2}
    assert set(vocab.tables) == {"item", "raw"}
    assert set(vocab.states) == {"price", "age"}


def test_shared_table_of_floats_and_large_integers_keeps_them_apart():
    schema = Schema([SparseFeature("a"), SparseFeature("b", shared_with="a")], TASKS)
    log = pl.LazyFrame({"a": [0.5, 1.0], "b": [2**53, 2**53 + 1]})
    vocabulary = Vocab.fit(log, schema).tables["a"]
    assert vocabulary.dtype == "string"
    assert vocabulary.rows == 5


def test_no_rows_to_fit_on():
    with pytest.raises(DataError, match="no rows in train"):
        Vocab.fit(pl.LazyFrame({"item": []}), Schema([SparseFeature("item")], TASKS))


def test_missing_feature_is_named():
    with pytest.raises(DataError, match="column 'item' is not in the data; did you mean 'items'"):
        Vocab.fit(pl.LazyFrame({"items": [1]}), Schema([SparseFeature("item")], TASKS))


def test_column_of_lists_is_refused():
    with pytest.raises(DataError, match=r"'tags': an id must be .* got a column of List"):
        Vocab.fit(pl.LazyFrame({"tags": [[1]]}), Schema([SparseFeature("tags")], TASKS))


def test_pandas_float_ids_with_nan_are_the_integers_they_were():
    schema = Schema([SparseFeature("item")], TASKS)
    vocab = Vocab.fit(pl.LazyFrame({"item": [10, 20, 20]}), schema)
    frame = read(pd.DataFrame({"item": [20.0, np.nan, 10.0, 30.0]})).collect()
    rows, unseen, nulls = vocab.tables["item"].encode(frame["item"])
    assert (rows.tolist(), unseen, nulls) == ([1, 0, 2, 0], 1, 1)
