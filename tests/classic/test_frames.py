"""Frames and ragged lists as arrays."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.classic import df_to_dict, pad_sequences
from polyrank.errors import DataError

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
    with pytest.raises(DataError, match=f"{option} is 'pre' or 'post', however: 'left'"):
        pad_sequences([[1]], **{option: "left"})
