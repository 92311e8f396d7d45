"""The numbers of an exported graph against the encodings that they stand for, bit for bit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import polyrank as pr
from polyrank.features.dense import DenseEncoding
from polyrank.serve.export.features import Bins, Columns, Linear

LARGEST = float(np.finfo(np.float32).max)
ODD = [0.0, -0.0, 1e-45, -1e-45, 1e-20, 1e-6, 1.0, 16777217.0, LARGEST, -LARGEST, math.nan]
NUMBERS = st.floats(width=32, allow_infinity=False) | st.sampled_from(ODD)
VALUES = st.lists(NUMBERS, min_size=1, max_size=40).map(lambda each: np.array(each, np.float32))


def of(kind, values, bins=8):
    return DenseEncoding.fit(pr.DenseFeature("x", encoding=kind, bins=bins), values)


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


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8, 127, 128, 129])
def test_bins_of_any_number_of_edges(count):
    edges = tuple(np.arange(count, dtype=float).tolist())
    values = np.arange(-1, count + 1, 0.5, dtype=np.float32)
    encoding = DenseEncoding("bins", edges=edges)
    same(Bins([encoding])(torch.from_numpy(values)[None])[0], encoding.ids(values).astype(np.int64))
