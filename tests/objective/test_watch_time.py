"""Losses, gradients and predictions of watch time against float64 from their formulas."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import integrate, stats

import polyrank as pr
from polyrank.labels import WatchTime
from polyrank.labels.watch_time import rank_in
from polyrank.objective.likelihood import BatchScores, Labels, likelihoods

ROWS = 64
NAN = np.nan
SEEDS = st.integers(0, 2**32 - 1)


class Case:
    """Rows with known, unknown and missing durations, with loops and unobserved labels."""

    def __init__(self, seed, unit=1.0, **options):
        rng = np.random.default_rng(seed)
        self.duration = rng.uniform(1, 60, ROWS).astype(np.float32) * np.float32(unit)
        self.duration[:6] = [0, 0, 0, NAN, NAN, -1]
        play = rng.exponential(25, ROWS).astype(np.float32) * np.float32(unit)
        play[6:10] = 0
        self.kind = WatchTime(groups=4, **options)
        self.columns = {"duration": self.duration}
        self.label = self.kind.observed(play, self.columns)
        self.fitted = self.kind.fit(self.label.astype(np.float64), np.ones(ROWS), self.columns)
        self.seen = self.label.copy()
        self.seen[10:14] = NAN
        self.schema = pr.Schema([pr.DenseFeature("x")], [pr.Task("play", kind=self.kind)])
        self.likelihood = likelihoods(self.schema, {"play": self.fitted})["play"]
        self.group = self.kind.row_groups(self.fitted, self.columns).codes
        shape = (ROWS, self.kind.outputs) if self.kind.outputs > 1 else (ROWS,)
        self.z = rng.normal(0, 2, shape).astype(np.float32)

    @property
    def bound(self):
        known = self.duration > 0
        return np.where(known, self.duration, self.fitted["unknown"]).astype(np.float64)

    @property
    def share(self):
        """The target of d2q and of pcr."""
        if self.kind.method == "pcr":
            return self.label.astype(np.float64) / self.bound
        return rank_in(np.array(self.fitted["quantiles"]), self.group, self.label)

    @property
    def target(self):
        """What a head of d2q or pcr stands for."""
        return (self.share - self.fitted["mean"]) / self.fitted["deviation"]

    def said(self, z):
        """The share that a head says."""
        return np.clip(z * self.fitted["deviation"] + self.fitted["mean"], 0, 1)

    def measured(self):
        """The value of each row, its rows, and the gradient of their sum."""
        z = torch.from_numpy(self.z).requires_grad_()
        extras = {"duration": torch.from_numpy(self.duration)}
        labels = Labels.of(
            self.schema, torch.from_numpy(self.seen)[:, None], extras["duration"][:, None]
        )
        (term,) = self.schema.objective
        (part,) = self.likelihood.summands(term, BatchScores.of(self.schema, {"play": z}), labels)
        (part.value * part.rows).sum().backward()
        return part.value.detach().numpy(), part.rows.numpy(), z.grad.numpy()

    def predicted(self, z):
        extras = {"duration": torch.from_numpy(self.duration)}
        (found,) = self.likelihood.predict(torch.from_numpy(z.astype(np.float64)), extras)
        return found.numpy()


@pytest.mark.parametrize("method", ["d2q", "pcr"])
@given(seed=SEEDS)
def test_shares_cost_their_squared_error(method, seed):
    case = Case(seed, method=method)
    value, rows, gradient = case.measured()
    np.testing.assert_array_equal(rows, ~np.isnan(case.seen))
    error = case.z.astype(np.float64) - case.target
    np.testing.assert_allclose(value[rows], error[rows] ** 2, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, np.where(rows, 2 * error, 0), rtol=1e-4, atol=1e-4)


@given(SEEDS)
@example(10841)
def test_a_censored_time_costs_its_negative_log_likelihood(seed):
    case = Case(seed, method="censored")
    value, rows, gradient = case.measured()
    fitted = case.fitted
    parameters = case.z.astype(np.float64)

    def loss(z):
        mean, deviation = latent(fitted, z)
        y, end = (np.log1p(each / fitted["scale"]) for each in (case.label, case.bound))
        top, none = case.label >= case.bound, case.label <= 0
        density = -stats.norm.logpdf(y, mean, deviation) - np.log(fitted["deviation"])
        return np.where(
            top,
            -stats.norm.logsf((end - mean) / deviation),
            np.where(none, -stats.norm.logcdf(-mean / deviation), density),
        )

    np.testing.assert_allclose(value[rows], loss(parameters)[rows], rtol=2e-4, atol=2e-5)
    for output in range(2):
        step = np.zeros(2)
        step[output] = 1e-6
        slope = (loss(parameters + step) - loss(parameters - step)) / 2e-6
        # torch's float32 erfcx, which log Φ's gradient needs, is .0012 off at -100, .0024 at -150
        np.testing.assert_allclose(
            gradient[:, output], np.where(rows, slope, 0), rtol=3e-3, atol=1e-3
        )


def latent(fitted, z):
    share = 0.05 + np.logaddexp(0, z[:, 1] + np.log(np.expm1(0.95)))
    return fitted["mean"] + fitted["deviation"] * z[:, 0], fitted["deviation"] * share


@given(SEEDS)
def test_a_censored_time_is_predicted_by_its_mean_after_the_cut(seed):
    case = Case(seed, method="censored")
    found = case.predicted(case.z)
    mean, deviation = latent(case.fitted, case.z.astype(np.float64))
    scale, top = case.fitted["scale"], np.log1p(case.bound / case.fitted["scale"])
    for row in range(0, ROWS, 7):
        m, s, end = mean[row], deviation[row], top[row]
        expected, _ = integrate.quad(
            lambda y, m=m, s=s: np.exp(y) * stats.norm.sf((y - m) / s),
            *(0, end),
            points=[np.clip(m, 0, end)],
        )
        assert found[row] == pytest.approx(scale * expected, rel=1e-5, abs=1e-7 * scale)
    assert (found >= 0).all()
    assert (found <= case.bound).all()


@pytest.mark.parametrize("method", ["d2q", "pcr", "censored"])
def test_its_loss_is_one_graph(method):
    case = Case(5, method=method)
    extras = torch.from_numpy(case.duration)[:, None]
    (term,) = case.schema.objective

    def loss(z, label):
        labels = Labels.of(case.schema, label, extras)
        scores = BatchScores.of(case.schema, {"play": z})
        (part,) = case.likelihood.summands(term, scores, labels)
        return part.value

    arguments = torch.from_numpy(case.z), torch.from_numpy(case.seen)[:, None]
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), loss(*arguments))


@pytest.mark.parametrize("method", ["d2q", "pcr", "censored"])
@given(st.sampled_from([0.001, 60.0, 1000.0]))
def test_the_unit_of_the_label_does_not_matter(method, unit):
    """Seconds, minutes and milliseconds give the same losses, and predictions in that unit."""
    one, two = Case(3, method=method), Case(3, unit=unit, method=method)
    np.testing.assert_allclose(one.measured()[0], two.measured()[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(unit * one.predicted(one.z), two.predicted(one.z), rtol=1e-3)


@given(SEEDS)
def test_a_rank_returns_as_the_watch_time_that_had_it(seed):
    """Through the group's quantile function, and never beyond a known duration."""
    case = Case(seed, method="d2q")
    found = case.predicted(case.target)
    # The groups have fewer rows than knots, so each training value is a knot.
    np.testing.assert_allclose(found, case.label, rtol=1e-5, atol=1e-5)
    for z in (np.full(ROWS, -40.0), np.full(ROWS, 40.0), case.z):
        found, known = case.predicted(z), case.duration > 0
        assert (found[known] <= case.duration[known]).all()
        assert (found >= 0).all()


@given(SEEDS)
def test_a_rank_returns_a_play_above_its_duration_that_was_kept(seed):
    case = Case(seed, method="d2q", over="keep")
    assert (case.label[14:] > case.duration[14:]).any()
    np.testing.assert_allclose(case.predicted(case.target), case.label, rtol=1e-5, atol=1e-5)


@given(SEEDS)
def test_a_rank_between_two_knots_is_interpolated(seed):
    case = Case(seed, method="d2q")
    p, knots = case.said(case.z.astype(np.float64)), np.array(case.fitted["quantiles"])
    levels = np.linspace(0, 1, knots.shape[1])
    expected = np.array(
        [np.interp(q, levels, knots[g]) for q, g in zip(p, case.group, strict=True)]
    )
    known = np.where(case.duration > 0, case.duration, np.inf)
    np.testing.assert_allclose(case.predicted(case.z), np.minimum(expected, known), rtol=1e-6)


@given(SEEDS)
def test_a_ratio_returns_as_a_share_of_the_duration(seed):
    case = Case(seed, method="pcr")
    np.testing.assert_allclose(
        case.predicted(case.z), case.said(case.z.astype(np.float64)) * case.bound, rtol=1e-12
    )


@pytest.mark.parametrize("method", ["d2q", "pcr", "censored"])
def test_a_logit_that_is_not_a_number_gives_none(method):
    case = Case(1, method=method)
    assert np.isnan(case.predicted(np.full_like(case.z, NAN))).all()


@pytest.mark.parametrize("method", ["d2q", "pcr"])
def test_a_head_that_learns_each_row_returns_its_watch_time(method):
    """Where the head is free for each row, the loss leads back to the labels."""
    case = Case(2, method=method)
    z = torch.zeros(ROWS, requires_grad=True)
    extras = {"duration": torch.from_numpy(case.duration)}
    labels = Labels.of(
        case.schema, torch.from_numpy(case.label)[:, None], extras["duration"][:, None]
    )
    (term,) = case.schema.objective
    optimizer = torch.optim.LBFGS([z], lr=1, max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        (part,) = case.likelihood.summands(term, BatchScores.of(case.schema, {"play": z}), labels)
        part.value.sum().backward()
        return part.value.sum()

    optimizer.step(closure)
    found = case.predicted(z.detach().numpy())
    assert np.abs(found - case.label).mean() < 0.02 * case.label.mean()
