"""Loss, gradient and odds of a value that weights its event, against float64 and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import polyrank as pr
from polyrank.labels import WeightedLogistic
from polyrank.objective.likelihood import BatchScores, Labels, likelihoods

ROWS = 80
forms = pytest.mark.parametrize("negatives", ["every_row", "no_event"])


def measured(negatives, value, z):
    kind = WeightedLogistic(negatives=negatives)
    seen = value[~np.isnan(value)].astype(np.float64)
    fitted = kind.fit(seen, np.ones(len(seen)), {})
    schema = pr.Schema([pr.DenseFeature("x")], [pr.Task("play", kind=kind)])
    likelihood = likelihoods(schema, {"play": fitted})["play"]
    logits = torch.from_numpy(z.astype(np.float32)).requires_grad_()
    labels = Labels.of(schema, torch.from_numpy(value.astype(np.float32))[:, None])
    (term,) = schema.objective
    (part,) = likelihood.summands(term, BatchScores.of(schema, {"play": logits}), labels)
    (part.value * part.rows).sum().backward()
    return likelihood, part, logits.grad.numpy(), value / fitted["scale"]


@forms
@given(seed=st.integers(0, 2**32 - 1))
def test_loss_and_gradient_equal_float64(negatives, seed):
    rng = np.random.default_rng(seed)
    value = rng.exponential(30, ROWS) * (rng.random(ROWS) < 0.6)
    value[:5] = np.nan
    value = value.astype(np.float32).astype(np.float64)
    z = rng.normal(0, 3, ROWS).astype(np.float32).astype(np.float64)
    _, part, gradient, v = measured(negatives, value, z)
    p, rows = 1 / (1 + np.exp(-z)), ~np.isnan(value)
    positive, negative = v * np.logaddexp(0, -z), np.logaddexp(0, z)
    if negatives == "every_row":
        safe = np.where(v > 0, v, 1)
        expected = positive + negative - ((1 + v) * np.log1p(v) - v * np.log(safe))
        slope = p - v * (1 - p)
    else:
        expected = np.where(v > 0, positive, negative)
        slope = np.where(v > 0, -v * (1 - p), p)
    np.testing.assert_array_equal(part.rows.numpy(), rows)
    np.testing.assert_allclose(
        part.value.detach().numpy()[rows], expected[rows], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(gradient, np.where(rows, slope, 0), rtol=1e-4, atol=1e-5)


def groups(seed):
    """Rows of three kinds, one-hot, and their values."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, 600)
    value = rng.exponential(10.0 * (group + 1)) * (rng.random(600) < 0.3 * (group + 1) - 0.05)
    return group, value.astype(np.float32).astype(np.float64)


@forms
def test_the_odds_are_what_scikit_learn_gives_for_weighted_rows(negatives):
    """Each row again as a negative of weight 1, or the rows without the event alone."""
    group, value = groups(4)
    x, happened = np.eye(3)[group], value > 0
    if negatives == "every_row":
        rows = np.concatenate([x, x])
        y, weight = np.repeat([1, 0], len(x)), np.concatenate([value, np.ones(len(x))])
    else:
        rows, y, weight = x, happened.astype(int), np.where(happened, value, 1)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=5000)
    model.fit(rows, y, sample_weight=weight)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    kind = WeightedLogistic(negatives=negatives)
    fitted = kind.fit(value, np.ones(len(value)), {})
    schema = pr.Schema([pr.DenseFeature("x")], [pr.Task("play", kind=kind)])
    likelihood = likelihoods(schema, {"play": fitted})["play"]
    labels = Labels.of(schema, torch.from_numpy(value)[:, None])
    (term,) = schema.objective
    optimizer = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        scores = BatchScores.of(schema, {"play": torch.from_numpy(x) @ theta})
        (part,) = likelihood.summands(term, scores, labels)
        part.value.mean().backward()
        return part.value.mean()

    optimizer.step(closure)
    (odds,) = likelihood.predict(theta.detach(), {})
    np.testing.assert_allclose(odds, np.exp(model.coef_[0]), rtol=1e-4)
    means = np.array([value[group == each].mean() for each in range(3)])
    absent = np.array([(value[group == each] == 0).mean() for each in range(3)])
    expected = means if negatives == "every_row" else means / absent
    np.testing.assert_allclose(odds, expected, rtol=1e-5)
