"""The numbers of an exported graph against the encodings that they stand for, bit for bit."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import polyrank as pr
from polyrank.features.dense import DenseEncoding
from polyrank.serve.export.features import Bins, Columns, DenseGraph, Linear, Values

LARGEST = float(np.finfo(np.float32).max)
ODD = [0.0, -0.0, 1e-45, -1e-45, 1e-20, 1e-6, 1.0, 16777217.0, LARGEST, -LARGEST, math.nan]
NUMBERS = st.floats(width=32, allow_infinity=False) | st.sampled_from(ODD)
VALUES = st.lists(NUMBERS, min_size=1, max_size=40).map(lambda each: np.array(each, np.float32))


def of(kind, values, bins=8, min_count=1):
    return DenseEncoding.fit(kind, values, bins=bins, min_count=min_count)


def same(found, expected):
    """To the bit, but that a NaN is a NaN and −0 is 0."""
    np.testing.assert_array_equal(found.numpy(), expected, strict=True)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("kind", ["standard", "log", "none", "piecewise_linear"])
@given(training=VALUES, values=VALUES)
def test_columns_are_those_of_the_encoding(kind, training, values):
    encoding = of(kind, training)
    twin = Linear(encoding) if kind == "piecewise_linear" else Columns(encoding)
    same(twin(torch.from_numpy(values)), encoding.apply(values))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@given(training=VALUES, values=VALUES)
def test_bins_are_those_of_each_encoding(training, values):
    encodings = [of("bins", training), of("bins", values, bins=300), DenseEncoding("bins")]
    columns = np.stack([values, values[::-1], values])
    found = Bins(encodings)(torch.from_numpy(columns.copy()))
    expected = [each.ids(column) for each, column in zip(encodings, columns, strict=True)]
    same(found, np.stack(expected).astype(np.int64))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@given(training=VALUES, values=VALUES)
def test_values_are_those_of_each_encoding(training, values):
    encodings = [of("values", training), of("values", values, min_count=2), DenseEncoding("values")]
    columns = np.stack([values, np.resize(training, len(values)), values])
    found = Values(encodings)(torch.from_numpy(columns.copy()))
    expected = [each.ids(column) for each, column in zip(encodings, columns, strict=True)]
    same(found, np.stack(expected).astype(np.int64))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 127, 128, 1000])
def test_values_of_any_number(count):
    known = tuple(np.arange(count, dtype=float).tolist())
    values = np.append(np.arange(-1, count + 1, 0.5, dtype=np.float32), np.float32(np.nan))
    encoding = DenseEncoding("values", edges=known, missing=True)
    same(Values([encoding])(torch.from_numpy(values)[None])[0], encoding.ids(values).astype(int))


def test_parts_are_in_the_order_of_the_slots():
    values = np.array([0, 0, 1, 1, 2, 3, math.nan], np.float32)
    features = [
        pr.DenseFeature("a", encoding=["values", "standard", "bins"], min_count=2),
        pr.DenseFeature("b", encoding="bins", bins=2),
        pr.DenseFeature("c", encoding=["log", "values", "none"], min_count=1),
    ]
    column = pl.Series(values)
    codecs = {each.name: each.codec({}, each.fit(column)) for each in features}
    inputs = {
        each.name: torch.from_numpy(values * sign)
        for each, sign in zip(features, (1, 2, -1), strict=True)
    }
    parts = DenseGraph(codecs)(inputs)
    placed = {}
    for each in features:
        placed |= codecs[each.name].place(inputs[each.name].numpy())
    slots = [slot for each in features for slot in each.slots]
    ids = [placed[slot.name] for slot in slots if slot.place == "ids"]
    same(parts.fields, np.stack(ids).astype(np.int64))
    dense = [slot.name for slot in slots if slot.place == "dense"]
    assert dense == ["a#standard", "c", "c#none"]
    for found, name in zip(parts.columns, dense, strict=True):
        same(found, placed[name])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8, 127, 128, 129])
def test_bins_of_any_number_of_edges(count):
    edges = tuple(np.arange(count, dtype=float).tolist())
    values = np.arange(-1, count + 1, 0.5, dtype=np.float32)
    encoding = DenseEncoding("bins", edges=edges)
    same(Bins([encoding])(torch.from_numpy(values)[None])[0], encoding.ids(values).astype(np.int64))
