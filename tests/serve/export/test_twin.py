"""The pieces of the twin against what they stand for, bit for bit."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import polyrank as pr
from polyrank.calibration.maps import Isotonic, Platt
from polyrank.models.outputs import outputs
from polyrank.serve.export.twin import Knots, Line, Twin

LOGITS = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1e-300, 700.0, -800.0])


def same(found, expected):
    """To the bit, but that a NaN is a NaN and −0 is 0."""
    np.testing.assert_array_equal(found.numpy(), expected, strict=True)


@given(
    st.floats(1e-3, 1e3), st.floats(-100, 100), st.lists(LOGITS, min_size=1)
)  # fmt: skip
def test_a_line_is_platts(slope, intercept, logits):
    z = np.array(logits)
    same(Line(Platt(slope, intercept))(torch.from_numpy(z)), Platt(slope, intercept).apply(z))


# A slope of a map is a finite number: knots are float32 logits and at least 1e-6 apart.
PLACES = st.integers(-50_000_000, 50_000_000).map(lambda each: each / 1e6)
KNOTS = st.lists(PLACES, min_size=1, max_size=12, unique=True).map(sorted)


@given(KNOTS, st.data())
def test_knots_are_those_of_isotonic(x, data):
    steps = st.lists(st.floats(1e-3, 10), min_size=len(x), max_size=len(x))
    y = np.cumsum(data.draw(steps))
    found = Isotonic(tuple(x), tuple(y.tolist()))
    z = np.array([*data.draw(st.lists(LOGITS)), *x, x[0] - 1, x[-1] + 1])
    expected = found.apply(z)
    np.testing.assert_allclose(Knots(found)(torch.from_numpy(z)).numpy(), expected, 1e-12, 1e-12)


SCHEMA = pr.Schema(
    [pr.SparseFeature("item")],
    [
        pr.Task("again", given="buy"),
        pr.Task("click"),
        pr.Task("buy", given="click"),
        pr.Task("spend", kind="regression", given="buy"),
        pr.Task("dwell", kind="regression"),
    ],
)
SCALES = {"spend": (300.0, 50.0), "dwell": (-1.0, 1e-3)}


def outputs_of(logits):
    me = SimpleNamespace(schema=SCHEMA, calibrated=frozenset(), scales=SCALES)
    return Twin._outputs(me, logits, {})


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5))
def test_outputs_are_those_of_predict(values):
    logits = {name: np.array([z], np.float32) for name, z in zip(SCHEMA.by_name, values)}  # noqa: B905
    found = outputs_of({name: torch.from_numpy(z) for name, z in logits.items()})
    expected = outputs(SCHEMA, logits, SCALES)
    assert list(found) == list(expected)
    for name, each in expected.items():
        np.testing.assert_allclose(found[name].numpy(), each, rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_nan_in_all_outputs_below(broken):
    logits = {name: torch.zeros(2) for name in SCHEMA.by_name}
    logits["buy"][1] = broken
    found = outputs_of(logits)
    wrong = {name for name, each in found.items() if each[1].isnan()}
    assert wrong == {"p_buy_given_click", "p_buy", "p_again", "spend"}
    assert not any(each[0].isnan() for each in found.values())
