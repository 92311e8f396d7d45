"""Maps: they keep the order, read their own tables and refuse what is no map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank import spec
from polyrank.calibration import MAPS, CalibrationMap, Isotonic, IsotonicMean, Platt
from polyrank.errors import ConfigError

LOGITS = st.lists(st.integers(-4000, 4000), min_size=2, max_size=40, unique=True).map(
    lambda ticks: np.sort(np.array(ticks, dtype=np.float64) / 100)
)
RISING = st.lists(st.integers(-2000, 2000), min_size=1, max_size=30, unique=True).map(
    lambda ticks: tuple(sorted(tick / 100 for tick in ticks))
)


@st.composite
def maps(draw):
    which = draw(st.sampled_from([Platt, Isotonic, IsotonicMean]))
    if which is Platt:
        return Platt(draw(st.floats(1e-3, 1e3)), draw(st.floats(-50, 50)))
    x, y = draw(RISING), draw(RISING)
    knots = min(len(x), len(y))
    above = {"above": draw(st.floats(1e-3, 1e3))} if which is IsotonicMean else {}
    return which(x[:knots], y[:knots], **above)


def from_table(table, where="calibrator"):
    return spec.choose(MAPS, table, where)


@given(maps(), LOGITS)
def test_a_map_is_strictly_increasing(found, logits):
    assert (np.diff(found.apply(logits)) > 0).all()


@given(maps())
def test_a_map_reads_its_own_table(found):
    assert from_table(spec.chosen(MAPS, found)) == found


def test_knots_are_met_and_the_ends_go_on_with_slope_one():
    found = Isotonic((-2.0, 0.0, 1.0), (-5.0, -1.0, 3.0))
    given_, expected = [-9.0, -2.0, -1.0, 0.0, 0.5, 1.0, 4.0], [-12.0, -5.0, -3.0, -1.0, 1, 3, 6]
    np.testing.assert_allclose(found.apply(np.array(given_)), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Platt(0.0, 1.0), "slope must be a number above 0, got 0.0"),
        (lambda: Platt(-2.0, 1.0), "slope must be a number above 0"),
        (lambda: Platt(1.0, float("nan")), "intercept must be a finite number, got nan"),
        (lambda: Isotonic((), ()), "at least 1, got 0 and 0"),
        (lambda: Isotonic((0.0,), (0.0, 1.0)), "the same number of knots, .* got 1 and 2"),
        (lambda: Isotonic((0.0, 0.0), (0.0, 1.0)), "x must rise from knot to knot, got 0.0"),
        (lambda: Isotonic((0.0, 1.0), (1.0, 1.0)), "y must rise from knot to knot"),
        (lambda: Isotonic((0.0,), (float("inf"),)), "y must hold finite numbers"),
        (lambda: from_table({"kind": "plat"}), "calibrator: unknown kind 'plat'; did you mean"),
        (lambda: from_table({"kind": "platt", "slope": 1.0}), "the key 'intercept' is missing"),
        (
            lambda: from_table({"kind": "platt", "slope": -1.0, "intercept": 0.0}, "buy"),
            "buy: slope must be a number above 0",
        ),
    ],
)
def test_what_is_no_map_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@given(maps(), LOGITS)
def test_the_inverse_of_a_map_takes_back_what_it_does(found, logits):
    mapped = found.apply(logits)
    scale = np.abs(logits).max() + np.abs(mapped).max() + 1
    # Of a map that is steep or flat, the next float64 is that much further away.
    flattest = np.diff(mapped).min() / np.diff(logits).max()
    tolerance = 1e-13 * scale * max(1, 1 / flattest)
    np.testing.assert_allclose(found.inverse(mapped), logits, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        CalibrationMap.inverse(found, mapped), logits, rtol=0, atol=tolerance
    )
