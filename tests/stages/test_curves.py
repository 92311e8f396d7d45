"""The prior of a number's bins: against a plain inverse, and what it makes of lines and noise."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import polyrank as pr
from polyrank.stages.curves import MOST_ROWS, Curve, Curves, normal_scores, posterior

CURVE = Curve.of(np.array([4.0, *[50.0] * 12]))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.sampled_from([1e-4, 1e-2, 1.0])] * 3))
def test_the_posterior_is_that_of_a_plain_inverse(seed, found):
    rng = np.random.default_rng(seed)
    covariance = CURVE.with_variances(*found)
    said, h = rng.normal(size=13), rng.exponential(30, 13)
    precision = np.linalg.inv(covariance) + np.diag(h)
    result = posterior(covariance, said, h)
    np.testing.assert_allclose(result.mean, np.linalg.solve(precision, h * said), atol=1e-7)
    np.testing.assert_allclose(result.variance, np.diag(np.linalg.inv(precision)), rtol=1e-5)


def test_a_row_that_tells_nothing_lies_on_the_curve_of_its_neighbours():
    z = np.append(0, normal_scores(np.full(12, 50.0)))
    h = np.full(13, 400.0)
    h[[0, 6]] = 0
    said = 2 * z
    said[6] = 99
    result = posterior(CURVE.with_variances(*CURVE.variances(said, h)), said, h)
    assert result.mean[6] == pytest.approx(2 * z[6], abs=0.02)
    assert result.mean[0] == 0


@pytest.mark.parametrize(
    ("shape", "large"),
    [
        (lambda z: 1.0 * z, [True, False, False]),
        (lambda z: np.cos(1.5 * z), [False, True, False]),
        (lambda z: np.where(np.arange(len(z)) % 2, 0.5, -0.5), [False, False, True]),
    ],
    ids=["line", "curve", "deviations"],
)
def test_evidence_finds_what_the_effects_are_made_of(shape, large):
    curve = Curve.of(np.full(49, 100.0))
    z = normal_scores(np.full(48, 100.0))
    noise = np.random.default_rng(1).normal(0, 0.05, 49)
    found = curve.variances(np.append(0, shape(z)) + noise, np.full(49, 400.0))
    assert [each >= 0.1 for each in found] == large


def test_what_is_left_where_the_pull_ends_is_the_gradient_of_the_prior():
    rng = np.random.default_rng(2)
    h = rng.uniform(20, 200, (13, 3))
    said = np.cumsum(rng.normal(0, 0.3, (13, 3)), axis=0)
    centre = rng.normal(0, 0.1, (13, 3))
    level = 5.0
    at = (h * said + level * centre) / (h + level)  # where a pass ends
    found = CURVE.settled(at, centre, h, level)
    np.testing.assert_allclose(
        h * (said - found.effect), found.level * (found.effect - found.centre), atol=1e-9
    )
    covariance = CURVE.with_variances(*CURVE.variances(said[:, -1], h[:, -1]))
    for q in range(3):
        pull = np.linalg.solve(covariance, found.effect[:, q])
        np.testing.assert_allclose(h[:, q] * (said[:, q] - found.effect[:, q]), pull, atol=1e-6)


def a_log(rows: int, seed: int) -> pl.DataFrame:
    """Clicks by a user and a number that acts in a straight line."""
    rng = np.random.default_rng(seed)
    user, x = rng.integers(0, 100, rows), rng.normal(size=rows)
    z = -1 + np.random.default_rng(9).normal(0, 0.7, 100)[user] + 0.6 * x
    click = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
    return pl.DataFrame({"user": user, "x": np.exp(x), "click": click})


SCHEMA = pr.Schema(
    [pr.SparseFeature("user"), pr.DenseFeature("x", encoding="bins", bins=20)], [pr.Task("click")]
)


@pytest.fixture(scope="module")
def fitted():
    model = pr.Model(trunk=pr.SharedBottom(hidden=[4]), interaction=False, embed_dim=4)
    return pr.fit(
        SCHEMA, model, train=a_log(8_000, 1), valid=a_log(2_000, 2), epochs=1, batch_size=256
    )


def test_a_fit_reaches_the_mode_of_the_whole_prior(fitted):
    frame = a_log(8_000, 1)
    weights = fitted.ranker.named_weights()
    effect = weights["wide.effect.x"][:, 0].double().numpy()
    user = weights["wide.effect.user"][:, 0].double().numpy()
    # What is known of the rows: which user, which bin.
    names = {str(each): at for at, each in enumerate(fitted.vocab.tables["user"].values, 1)}
    rest = user[[names[str(each)] for each in frame["user"]]] + weights["wide.bias"].item()
    edges = fitted.vocab.codecs["x"].encodings["x"].edges
    bins = 1 + np.searchsorted(np.float32(edges), frame["x"].to_numpy().astype(np.float32))
    count = np.bincount(bins, minlength=len(effect)).astype(float)
    curve = Curve.of(np.maximum(count, 1))
    y = frame["click"].to_numpy()
    p = 1 / (1 + np.exp(-(rest + effect[bins])))
    h = np.bincount(bins, p * (1 - p), minlength=len(effect))
    said = effect + np.bincount(bins, y - p, minlength=len(effect)) / np.where(h > 0, h, 1)
    pull = np.linalg.inv(curve.with_variances(*curve.variances(said, h)))

    def loss(w):
        z = rest + w[bins]
        return np.logaddexp(0, z).sum() - y @ z + w @ pull @ w / 2

    best = minimize(loss, effect, method="L-BFGS-B").x
    known = count > 0
    difference = (effect - best)[known]
    assert np.abs(difference - difference.mean()).max() < 0.03
    assert np.ptp(effect[known]) > 1.5


def test_a_straight_line_is_told_better_than_by_bins_of_their_own(fitted):
    weights = fitted.ranker.named_weights()
    effect = weights["wide.effect.x"][1:, 0].double().numpy()
    z = normal_scores(np.ones(len(effect)))
    # Twenty bins of 400 rows: alone, each would be off by about 1 ÷ √(400 · .18) = .12.
    off = effect - 0.6 * z
    assert np.std(off) < 0.06


def test_too_many_rows_or_too_few_have_no_curve():
    sizes = [3, MOST_ROWS, MOST_ROWS + 1, 10]
    first = np.cumsum([0, *sizes])
    found = Curves([True, True, True, False], np.ones(first[-1], np.float32), first, -5)
    assert list(found.of_slot) == [1]
    assert found.rows == MOST_ROWS
    assert found.shift.tolist() == [-5, -3, -5, -5]


def test_resumes_and_serves_as_any_wide_rows(fitted, tmp_path):
    fitted.save(tmp_path / "bundle")
    again = pr.load(tmp_path / "bundle")
    frame = a_log(300, 3)
    assert torch.equal(
        torch.tensor(again.predict(frame)["p_click"].to_numpy()),
        torch.tensor(fitted.predict(frame)["p_click"].to_numpy()),
    )
