"""Loaders hand out what upstream's do, cut from whole columns; frames and lists as arrays."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from polyrank.classic import DataGenerator, df_to_dict, pad_sequences
from polyrank.classic.data import Rows, rows_of
from polyrank.errors import ConfigError, DataError

X = {"item": np.arange(10), "price": np.linspace(0, 1, 10)}
Y = np.stack([np.arange(10) % 2, np.arange(10) % 3 == 0], axis=1)


def test_loaders_yield_a_dict_of_tensors_and_labels():
    train, valid, test = DataGenerator(X, Y).generate_dataloader(
        x_val=X, y_val=Y, x_test=X, y_test=Y, batch_size=4, num_workers=4
    )
    assert [len(loader) for loader in (train, valid, test)] == [3, 3, 3]
    for loader in (valid, test):  # in the order of the rows
        batches = list(loader)
        assert torch.cat([x["item"] for x, _ in batches]).tolist() == list(range(10))
        assert np.array_equal(torch.cat([y for _, y in batches]).numpy(), Y)
        assert batches[0][0]["price"].dtype == torch.float64
    seen = torch.cat([x["item"] for x, _ in train])
    assert sorted(seen.tolist()) == list(range(10))
    assert torch.cat([x["item"] for x, _ in train]).tolist() != seen.tolist()


def test_a_split_ratio_shares_the_rows_out():
    loaders = DataGenerator(X, Y).generate_dataloader(split_ratio=[0.7, 0.1], batch_size=4)
    parts = [loader.dataset.x["item"].tolist() for loader in loaders]
    assert [len(part) for part in parts] == [7, 1, 2]
    assert sorted(item for part in parts for item in part) == list(range(10))


def test_a_loader_is_absent_where_there_are_no_rows():
    train, valid, test = DataGenerator(X, Y).generate_dataloader(batch_size=4)
    assert len(train.dataset) == 10
    assert valid is None
    assert test is None


def test_any_loader_is_read_by_one_pass():
    class Own(torch.utils.data.Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            return {name: column[index] for name, column in X.items()}, Y[index]

    rows = rows_of(DataLoader(Own(), batch_size=3))
    assert np.array_equal(rows.x["item"], X["item"])
    assert np.array_equal(rows.labels, Y)
    assert rows_of([{"item": torch.tensor([1, 2])}]).y is None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DataGenerator({"a": [1, 2]}, [1]), DataError, "a 2, the labels 1"),
        (lambda: DataGenerator([1, 2], [1, 2]), DataError, "x must be a dict of arrays"),
        (lambda: DataGenerator({}, []), DataError, "x has no columns"),
        (
            lambda: DataGenerator(X, Y).generate_dataloader(split_ratio=[0.9, 0.9]),
            ConfigError,
            "together at most 1",
        ),
        (
            lambda: DataGenerator(X, Y).generate_dataloader(batch_size=0),
            ConfigError,
            "batch_size must be a whole number of at least 1, got 0",
        ),
        (
            lambda: list(DataGenerator({"a": ["x"]}, [1]).generate_dataloader()[0]),
            DataError,
            "column 'a' holds <U1, and the classic API takes numbers only",
        ),
        (lambda: rows_of([3]), DataError, r"must yield \(dict of tensors, labels\)"),
        (lambda: Rows.of(X).labels, DataError, "these rows have no labels"),
    ],
)
def test_rows_that_cannot_be_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


sides = st.sampled_from(["pre", "post"])


def test_a_frames_columns_become_arrays():
    found = df_to_dict(pd.DataFrame({"item": [3, 1], "price": [0.5, 2.0]}))
    assert {name: values.tolist() for name, values in found.items()} == {
        "item": [3, 1], "price": [0.5, 2.0]
    }  # fmt: skip
    assert found["item"].dtype.kind == "i"


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=5),
    st.none() | st.integers(0, 7), sides, sides,
)  # fmt: skip
def test_padding_keeps_one_end_and_fills_the_other(sequences, maxlen, padding, truncating):
    found = pad_sequences(sequences, maxlen, padding=padding, truncating=truncating, value=-1)
    width = max(map(len, sequences), default=0) if maxlen is None else maxlen
    assert found.shape == (len(sequences), width)
    assert found.dtype == np.int32
    for row, each in zip(found.tolist(), sequences, strict=True):
        cut = max(len(each) - width, 0)
        kept = each[cut:] if truncating == "pre" else each[: len(each) - cut]
        fill = [-1] * (width - len(kept))
        assert row == (fill + kept if padding == "pre" else kept + fill)


@pytest.mark.parametrize("option", ["padding", "truncating"])
def test_an_unknown_end_is_refused(option):
    with pytest.raises(DataError, match=f"{option} must be 'pre' or 'post', got 'left'"):
        pad_sequences([[1]], **{option: "left"})
