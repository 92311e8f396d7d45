"""Losses, gradients and predictions of kinds of label against float64 from their formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

import polyrank as pr
from polyrank.objective.likelihood import BatchScores, Labels, likelihoods

ROWS = 48
SEEDS = st.integers(0, 2**32 - 1)


def drawn_labels(kind, rng):
    if isinstance(kind, pr.Count):
        return rng.negative_binomial(1.5, 0.3, ROWS)
    if isinstance(kind, pr.LogNormal):
        return rng.lognormal(2, 1.3, ROWS)
    if isinstance(kind, pr.Ordinal | pr.Categorical):
        return rng.choice([1, 2, 4, 7], ROWS, p=[0.4, 0.3, 0.2, 0.1])
    return rng.gamma(1.5, 20, ROWS)


class Case:
    """Rows of one kind with logits, a quarter of the labels not observed."""

    def __init__(self, kind, seed):
        rng = np.random.default_rng(seed)
        self.label = drawn_labels(kind, rng).astype(np.float32)
        self.kind = kind.closed(np.unique(self.label))
        self.fitted = self.kind.fit(self.label.astype(np.float64), np.ones(ROWS), {})
        shape = (ROWS, self.kind.outputs) if self.kind.outputs > 1 else ROWS
        self.z = rng.normal(0, 1.5, shape).astype(np.float32)
        self.seen = rng.random(ROWS) < 0.75
        self.schema = pr.Schema([pr.DenseFeature("x")], [pr.Task("y", kind=self.kind)])
        self.likelihood = likelihoods(self.schema, {"y": self.fitted})["y"]

    @property
    def z64(self):
        return self.z.astype(np.float64)

    @property
    def y(self):
        return self.label.astype(np.float64)

    def measured(self):
        """The value of each row, and the gradient of the sum over observed rows."""
        z = torch.from_numpy(self.z).requires_grad_()
        label = torch.from_numpy(np.where(self.seen, self.label, np.nan).astype(np.float32))
        (term,) = self.schema.objective
        labels = Labels.of(self.schema, label[:, None])
        scores = BatchScores.of(self.schema, {"y": z})
        (part,) = self.likelihood.summands(term, scores, labels)
        assert part.rows.numpy().tolist() == self.seen.tolist()
        part.value[part.rows].sum().backward()
        return part.value.detach().double().numpy(), z.grad.double().numpy()

    def predicted(self):
        found = self.likelihood.predict(torch.from_numpy(self.z64), {})
        assert len(found) == len(self.kind.stems("y"))
        return [each.numpy() for each in found]


def numeric(function, z, step=1e-6):
    """The gradient of a function of each row, (rows,), at z, by central differences."""
    found = np.zeros_like(z)
    flat = z.reshape(len(z), -1)
    for column in range(flat.shape[1]):
        ends = []
        for sign in (1, -1):
            moved = flat.copy()
            moved[:, column] += sign * step
            ends.append(function(moved.reshape(z.shape)))
        found.reshape(len(z), -1)[:, column] = (ends[0] - ends[1]) / (2 * step)
    return found


def check(case, function, rtol=2e-5, atol=2e-5):
    """The loss is the function of float64 logits, and so is its gradient where it was observed."""
    value, gradient = case.measured()
    np.testing.assert_allclose(value[case.seen], function(case.z64)[case.seen], rtol, atol)
    expected = numeric(function, case.z64)
    expected[~case.seen] = 0
    np.testing.assert_allclose(gradient, expected, 20 * rtol, 20 * atol)


@given(SEEDS)
def test_poisson(seed):
    case = Case(pr.Count(), seed)
    mean = case.fitted["mean"]
    check(case, lambda z: -stats.poisson.logpmf(case.y, mean * np.exp(z)))
    (found,) = case.predicted()
    np.testing.assert_allclose(found, mean * np.exp(case.z64), rtol=1e-12)
    constant = -stats.poisson.logpmf(case.y, mean).mean()
    assert case.fitted["constant_loss"] == pytest.approx(constant)


@given(SEEDS)
def test_negative_binomial(seed):
    case = Case(pr.Count(distribution="negative_binomial"), seed)
    mean, dispersion = case.fitted["mean"], case.fitted["dispersion"]

    def loss(z):
        mu, r = mean * np.exp(z[:, 0]), 1 / (dispersion * np.exp(z[:, 1]))
        return -stats.nbinom.logpmf(case.y, r, r / (r + mu))

    check(case, loss, rtol=1e-4, atol=1e-4)
    constant = loss(np.zeros((ROWS, 2))).mean()
    assert case.fitted["constant_loss"] == pytest.approx(constant)
    np.testing.assert_allclose(case.predicted()[0], mean * np.exp(case.z64[:, 0]), rtol=1e-12)


def test_the_dispersion_is_that_of_moments_and_its_end_is_poisson():
    counts = np.random.default_rng(1).negative_binomial(2, 0.2, 20_000).astype(float)
    fitted = pr.Count(distribution="negative_binomial").fit(counts, np.ones(len(counts)), {})
    assert fitted["dispersion"] == pytest.approx(0.5, rel=0.1)
    even = np.full(100, 3.0)
    assert pr.Count().fit(even, np.ones(100), {})["dispersion"] == pytest.approx(1e-3)


def test_extreme_logits_of_a_count_give_finite_losses():
    case = Case(pr.Count(distribution="negative_binomial"), 3)
    case.z = np.where(np.arange(2 * ROWS).reshape(ROWS, 2) % 2, 200, -200).astype(np.float32)
    value, gradient = case.measured()
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    assert np.isfinite(case.predicted()[0]).all()


def of_levels(case, z):
    """P(y = k) of each value, from the chain of questions: (rows, values)."""
    shares = np.array(case.fitted["shares"])
    reached = shares[::-1].cumsum()[::-1]
    passed = special.expit(z.reshape(ROWS, -1) + special.logit(reached[1:] / reached[:-1]))
    at_least = np.column_stack([np.ones(ROWS), passed.cumprod(1), np.zeros(ROWS)])
    return at_least[:, :-1] - at_least[:, 1:], at_least[:, 1:-1]


@given(SEEDS)
def test_ordinal(seed):
    case = Case(pr.Ordinal(), seed)
    place = np.searchsorted(case.kind.values, case.y)

    def loss(z):
        return -np.log(of_levels(case, z)[0][np.arange(ROWS), place])

    check(case, loss, rtol=1e-4, atol=1e-4)
    level, *at_least = case.predicted()
    chance, above = of_levels(case, case.z64)
    np.testing.assert_allclose(np.column_stack(at_least), above, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(level, chance @ np.array(case.kind.values), rtol=1e-6)
    assert (np.diff(np.column_stack(at_least), axis=1) <= 0).all()


def test_the_levels_start_at_their_shares():
    case = Case(pr.Ordinal(), 5)
    case.z = np.zeros_like(case.z)
    chance = of_levels(case, case.z64)[0]
    np.testing.assert_allclose(chance, [case.fitted["shares"]] * ROWS, rtol=1e-9)
    (term,) = case.schema.objective
    entropy = stats.entropy(case.fitted["shares"])
    assert case.likelihood.constant_loss(term, None) == pytest.approx(entropy)


@given(SEEDS, st.booleans())
def test_categorical(seed, other):
    options = {"values": [1, 2, 4], "others": "other"} if other else {}
    case = Case(pr.Categorical(**options), seed)
    place = case.kind.places(case.y)
    start = np.log(case.fitted["shares"])

    def loss(z):
        return -special.log_softmax(z + start, axis=1)[np.arange(ROWS), place]

    check(case, loss, rtol=1e-4, atol=1e-4)
    found = np.column_stack(case.predicted())
    np.testing.assert_allclose(found, special.softmax(case.z64 + start, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)


@given(SEEDS)
def test_lognormal(seed):
    case = Case(pr.LogNormal(), seed)
    mean, deviation = case.fitted["mean"], case.fitted["deviation"]

    def parameters(z):
        share = 0.05 + 2.95 * special.expit(z[:, 1] + special.logit(0.95 / 2.95))
        return mean + deviation * z[:, 0], deviation * share

    def loss(z):
        mu, sigma = parameters(z)
        density = stats.lognorm.logpdf(case.y, sigma, scale=np.exp(mu))
        return -density - np.log(case.y) - np.log(deviation)  # of log y, in units of its deviation

    check(case, loss, rtol=1e-4, atol=1e-3)
    mu, sigma = parameters(case.z64)
    np.testing.assert_allclose(case.predicted()[0], np.exp(mu + sigma**2 / 2), rtol=1e-9)


def test_the_mean_of_a_lognormal_is_the_integral():
    case = Case(pr.LogNormal(), 2)
    case.z = np.zeros_like(case.z)
    mean, deviation = case.fitted["mean"], case.fitted["deviation"]
    found, _ = integrate.quad(
        lambda t: np.exp(t) * stats.norm.pdf(t, mean, deviation), mean - 12 * deviation,
        mean + 14 * deviation, epsabs=0, epsrel=1e-10, limit=200,
    )  # fmt: skip
    assert case.predicted()[0][0] == pytest.approx(found, rel=1e-6)


@given(SEEDS, st.sampled_from([(0.5,), (0.1, 0.5, 0.9), (0.05, 0.2, 0.6, 0.95)]))
def test_quantile(seed, levels):
    case = Case(pr.Quantile(levels=levels), seed)
    unit, start = case.fitted["unit"], np.array(case.fitted["quantiles"])
    gaps = np.maximum(np.diff(start) / unit, 1e-3)

    def quantiles(z):
        z = z.reshape(ROWS, -1)
        grown = np.log1p(np.exp(z[:, 1:] + np.log(np.e - 1))) * gaps
        return start[0] + unit * np.column_stack([z[:, :1], grown]).cumsum(1)

    def loss(z):
        gap = (case.y[:, None] - quantiles(z)) / unit
        return np.where(gap > 0, np.array(levels) * gap, (np.array(levels) - 1) * gap).mean(1)

    value, _ = case.measured()
    np.testing.assert_allclose(value[case.seen], loss(case.z64)[case.seen], rtol=1e-4, atol=1e-5)
    found = np.column_stack(case.predicted())
    np.testing.assert_allclose(found, quantiles(case.z64), rtol=1e-5, atol=1e-5 * unit)
    assert (np.diff(found, axis=1) >= 0).all()


def test_the_gradient_of_a_quantile_counts_the_rows_on_either_side():
    case = Case(pr.Quantile(levels=(0.3,)), 4)
    _, gradient = case.measured()
    below = case.predicted()[0] > case.y
    np.testing.assert_allclose(gradient, np.where(below, 0.7, -0.3) * case.seen, rtol=1e-6)


@given(SEEDS, st.floats(0.2, 3))
def test_huber(seed, delta):
    case = Case(pr.Regression(loss="huber", delta=delta), seed)
    mean, deviation = case.fitted["mean"], case.fitted["deviation"]

    def loss(z):
        return 2 * special.huber(delta, z - (case.y - mean) / deviation)

    check(case, loss, rtol=1e-4, atol=1e-4)
    assert case.fitted["constant_loss"] == pytest.approx(loss(np.zeros(ROWS)).mean())


@given(SEEDS)
def test_log1p_and_the_way_back(seed):
    case = Case(pr.Regression(transform="log1p"), seed)
    mean, deviation, scale = (case.fitted[name] for name in ("mean", "deviation", "scale"))
    share = (1 + case.y) / scale

    def parts(z, of_log):
        own = (z[:, 0] - (np.log1p(case.y) - mean) / deviation) ** 2
        mu = np.exp(deviation * of_log + z[:, 1])
        return own + mu - share * np.log(mu) - share + share * np.log(share)

    value, gradient = case.measured()
    expected = parts(case.z64, case.z64[:, 0])[case.seen]
    np.testing.assert_allclose(value[case.seen], expected, rtol=1e-4, atol=1e-4)
    # The way back does not move the log.
    held = numeric(lambda z: parts(z, case.z64[:, 0]), case.z64)
    held[~case.seen] = 0
    np.testing.assert_allclose(gradient, held, rtol=2e-3, atol=2e-3)
    expected = scale * np.exp(deviation * case.z64[:, 0] + case.z64[:, 1]) - 1
    np.testing.assert_allclose(case.predicted()[0], np.maximum(expected, 0), rtol=1e-9, atol=1e-9)


def test_the_way_back_is_unbiased_whatever_the_distribution():
    """The gradient of the second head is the predicted less the observed, in units of the mean."""
    case = Case(pr.Regression(transform="log1p"), 8)
    case.seen[:] = True
    _, gradient = case.measured()
    predicted = case.fitted["scale"] * np.exp(
        case.fitted["deviation"] * case.z64[:, 0] + case.z64[:, 1]
    )
    expected = (predicted - (1 + case.y)) / case.fitted["scale"]
    np.testing.assert_allclose(gradient[:, 1], expected, rtol=1e-4, atol=1e-4)


def test_means_of_generated_rows_are_recovered_by_a_constant_model():
    """The minimiser of each loss over constant logits predicts the mean, or the quantiles."""
    rng = np.random.default_rng(0)
    for kind, label in (
        (pr.Count(), rng.poisson(3, ROWS)),
        (pr.Regression(transform="log1p"), rng.gamma(0.7, 9, ROWS)),
    ):
        case = Case(kind, 0)
        case.label, case.seen = label.astype(np.float32), np.ones(ROWS, bool)
        one = torch.zeros(case.z[:1].shape, requires_grad=True)
        (term,) = case.schema.objective
        labels = Labels.of(case.schema, torch.from_numpy(case.label)[:, None])
        optimizer = torch.optim.LBFGS([one], max_iter=200, tolerance_grad=1e-9)

        def closure(one=one, case=case, term=term, labels=labels, optimizer=optimizer):
            optimizer.zero_grad()
            scores = BatchScores.of(case.schema, {"y": one.expand(ROWS, *one.shape[1:])})
            (part,) = case.likelihood.summands(term, scores, labels)
            loss = part.value.mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        (found,) = case.likelihood.predict(one.detach().double(), {})
        assert float(found[0]) == pytest.approx(label.mean(), rel=1e-3)
