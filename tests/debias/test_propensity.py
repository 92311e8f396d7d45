"""The weights of a debiased task: what they are worth, and what is said of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.debias import PropensityUse
from polyrank.debias.propensity import EDGES

probabilities = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60)


@given(probabilities, st.floats(1e-3, 1.0))
def test_the_effective_sample_is_at_most_the_rows_and_at_least_one(p, floor):
    use = PropensityUse.of("buy|click @ click", np.array(p), floor)
    assert 1 - 1e-9 <= use.effective_rows <= len(p) * (1 + 1e-9)
    assert 0 <= use.clipped_share <= 1
    assert sum(use.shares) == pytest.approx(1.0)


@given(probabilities)
def test_at_a_floor_of_one_all_rows_weigh_alike(p):
    use = PropensityUse.of("x", np.array(p), 1.0)
    assert use.effective_share == pytest.approx(1.0)


def test_the_effective_sample_is_that_of_the_formula_with_sample_weights():
    p, s = np.array([0.5, 0.25, 0.01]), np.array([1.0, 2.0, 0.5])
    use = PropensityUse.of("x", p, 0.1, s)
    w = s / np.array([0.5, 0.25, 0.1])
    assert use.effective_rows == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert use.clipped_share == pytest.approx(1 / 3)


def test_the_histogram_counts_by_its_edges_and_its_ends_hold_what_is_beyond():
    use = PropensityUse.of("x", np.array([1e-9, EDGES[0], EDGES[1], 0.5, 1.0]), 0.01)
    assert use.shares[0] == pytest.approx(0.4)
    assert use.shares[1] == pytest.approx(0.2)
    assert use.shares[-1] == pytest.approx(0.2)
    decades = [name for name in use.figures() if "propensity" in name]
    assert decades == [
        "x propensity 0.0001-0.001 share", "x propensity 0.001-0.01 share",
        "x propensity 0.01-0.1 share", "x propensity 0.1-1 share",
    ]  # fmt: skip
    assert sum(use.figures()[name] for name in decades) == pytest.approx(1.0)


def test_without_rows_there_is_nothing_to_warn_of():
    use = PropensityUse.of("x", np.zeros(0), 0.01)
    assert (use.rows, use.effective_rows, use.effective_share) == (0, 0.0, 0.0)
    assert use.warnings() == ()


def test_it_warns_below_a_tenth_of_the_rows():
    few = PropensityUse.of("buy|click @ click", np.array([1e-3] + [1.0] * 200), 1e-3)
    assert few.effective_share < 0.1
    assert few.warnings() == (
        "the weights of 'buy|click @ click' leave an effective sample of 1 of 201 rows: a few rows "
        "decide what is learned. Raise floor (now 0.001), which trades variance for bias, or use "
        "'snips' or 'dr'",
    )
    assert PropensityUse.of("x", np.array([1e-3] + [1.0] * 200), 0.5).warnings() == ()


def test_it_prints_and_is_plain_values():
    use = PropensityUse.of("buy|click @ click", np.array([0.5, 0.5]), 0.01)
    expected = "effective sample 2 of 2 rows, 0.0% of them clipped at a propensity of 0.01"
    assert str(use) == f"buy|click @ click: {expected}"
    assert use.to_json()["effective_share"] == pytest.approx(1.0)
    assert len(use.to_json()["edges"]) == len(use.shares) + 1
