"""Isotonic knots against scikit-learn's blocks; ends, bounds and ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from polyrank.calibration.isotonic import GROUPS, KNOTS, Isotonic, grouped, pooled


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z)))


@given(st.integers(0, 10_000), st.integers(2, 300), st.booleans())
def test_blocks_are_those_of_scikit_learn(seed, rows, weighted):
    rng = np.random.default_rng(seed)
    logit = rng.integers(-20, 20, rows) / 4
    label = (rng.random(rows) < sigmoid(logit)).astype(float)
    weight = rng.integers(1, 5, rows).astype(float) if weighted else None
    blocks = pooled(grouped(logit, label, weight))
    assert (np.diff(blocks.label) > 0).all()
    assert (np.diff(blocks.logit) > 0).all()
    assert blocks.rows.sum() == rows
    expected = IsotonicRegression().fit(logit, label, sample_weight=weight).predict(np.sort(logit))
    np.testing.assert_allclose(np.repeat(blocks.label, blocks.rows), expected, atol=1e-7)


def test_knots_inside_are_the_blocks():
    rng = np.random.default_rng(1)
    logit = rng.normal(size=5_000)
    label = (rng.random(5_000) < sigmoid(logit)).astype(float)
    found, blocks = Isotonic.fit(logit, label), pooled(grouped(logit, label))
    inside = (blocks.label > 0) & (blocks.label < 1)
    assert set(blocks.logit[inside].tolist()) >= set(found.x[1:-1])
    np.testing.assert_allclose(
        sigmoid(found.apply(blocks.logit[inside][1:-1])), blocks.label[inside][1:-1], rtol=1e-12
    )


@given(st.integers(0, 10_000), st.integers(2, 200), st.booleans())
def test_a_fit_keeps_the_order_and_stays_off_zero_and_one(seed, rows, weighted):
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=rows).astype(np.float32).astype(np.float64)
    label = (rng.random(rows) < rng.random()).astype(float)
    label[:2] = [0, 1]
    found = Isotonic.fit(logit, label, rng.exponential(size=rows) if weighted else None)
    z = found.apply(np.unique(logit))
    assert (np.diff(z) > 0).all()
    p = sigmoid(found.y)
    assert p.min() > 0
    assert p.max() < 1


def test_ends_of_one_label_get_half_a_row_of_the_other():
    logit = np.repeat([0.0, 1.0, 2.0], [9, 10, 19])
    label = np.repeat([0.0, 0.0, 1.0, 1.0], [9, 5, 5, 19])
    found = Isotonic.fit(logit, label)
    assert found.x == (0.0, 1.0, 2.0)
    np.testing.assert_allclose(sigmoid(found.y), [0.5 / 10, 0.5, 19.5 / 20])


def test_an_end_too_small_to_keep_the_order_joins_its_neighbour():
    logit = np.repeat([0.0, 1.0, 2.0], [1, 99, 10])
    label = np.repeat([0.0, 0.0, 1.0, 0.0, 1.0], [1, 90, 9, 5, 5])
    found = Isotonic.fit(logit, label)
    np.testing.assert_allclose(sigmoid(found.y), [9 / 100, 0.5])
    assert found.x == (pytest.approx(0.99), 2.0)


def test_a_logit_that_ranks_backwards_is_only_moved():
    found = Isotonic.fit(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 0.0, 0.0, 0.0]))
    assert found.x == (1.5,)
    np.testing.assert_allclose(sigmoid(found.y), [0.25])


def test_many_logits_become_groups_of_equal_counts():
    rng = np.random.default_rng(2)
    logit = np.concatenate([rng.normal(size=3 * GROUPS), np.zeros(50)])
    label = rng.integers(0, 2, len(logit)).astype(float)
    groups = grouped(logit, label)
    assert len(groups) <= GROUPS
    assert groups.rows.sum() == len(logit)
    assert np.sort(groups.rows)[-2] <= 5  # all but the ties at 0, which stay together
    assert groups.rows.max() >= 50


def test_the_number_of_knots_is_bounded():
    logit = np.repeat(np.arange(5_000.0), 200)
    share = (np.arange(5_000) + 1) / 5_002
    label = (np.tile(np.arange(200) + 0.5, 5_000) / 200 < np.repeat(share, 200)).astype(float)
    assert 150 < len(Isotonic.fit(logit, label).x) <= KNOTS


@pytest.mark.parametrize("label", [[], [0.0, 0.0], [1.0]])
def test_one_label_has_no_map(label):
    assert Isotonic.fit(np.arange(float(len(label))), np.array(label)) is None
