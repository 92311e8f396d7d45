"""The loss of a sample has its minimum at the probabilities of the whole log."""

import itertools

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyrank.data.sampling import Sampling
from polyrank.data.statistics import fitted_labels, term_statistics
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.objective.losses import Supervision
from polyrank.schema import Schema, SparseFeature, Task

TASKS = [
    Task("click"),
    Task("buy", given="click", space=("all", "click")),
    Task("like"),
    Task("share", given="like", space="all"),
    Task("stars", kind="regression"),
    Task("spend", kind="regression", given="buy"),
]
NAMES = [task.name for task in TASKS]
NAN = float("nan")
probabilities = st.floats(0.02, 0.98)


def supervision(labels, sampling, tasks=TASKS):
    schema = Schema([SparseFeature("item")], tasks)
    columns = dict(zip([task.name for task in tasks], labels.T, strict=True))
    frame = pl.DataFrame({"item": [1] * len(labels), **columns})
    table = encode(frame, schema, Vocab.fit(frame, schema))
    return Supervision(
        schema, term_statistics(table, sampling), fitted_labels(table, sampling), sampling
    )


def random_labels(rows=200, seed=0):
    generator = np.random.default_rng(seed)
    click, buy, like, share = (generator.random((4, rows)) < 0.5).astype(float)
    buy, share = click * buy, like * share
    stars = generator.normal(3, 1, rows)
    click[::7], buy[::7] = NAN, 0.0  # a joint label of 0 whose root is not known
    buy[5::11] = np.where(click[5::11] == 0, NAN, buy[5::11])
    spend = np.where(buy == 1, generator.normal(20, 5, rows), NAN)
    return np.stack([click, buy, like, share, stars, spend], axis=1)


def random_logits(rows):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(rows, generator=generator, dtype=torch.float64).requires_grad_()
        for name in NAMES
    }


def logit(p):
    return np.log(p) - np.log1p(-p)


@pytest.mark.parametrize("weighted", [False, True])
def test_losses_are_those_of_the_shifted_root_and_of_weighted_rows(weighted):
    labels, keep = random_labels(), 0.2
    found = supervision(labels, Sampling("click", keep))
    z = random_logits(len(labels))
    weight = np.random.default_rng(2).random(len(labels)) if weighted else np.ones(len(labels))
    given_weight = torch.tensor(weight) if weighted else None
    losses, rows = found.losses(z, torch.tensor(labels), given_weight)

    root = labels[:, 0]
    shift = np.where(np.isnan(root), 0.0, -np.log(keep))
    p = {name: 1 / (1 + np.exp(-each.detach().numpy())) for name, each in z.items()}
    p["click"] = 1 / (1 + np.exp(-(z["click"].detach().numpy() + shift)))

    def entropy(y, q):
        return -np.where(y == 1, np.log(q), np.log1p(-q))

    outside = weight * np.where(root == 0, 1 / keep, 1.0)
    buy, like, share = labels[:, 1], labels[:, 2], labels[:, 3]
    joint = np.where((root == 0) | (buy == 0), 0.0, buy)
    expected = {
        "click @ all": (entropy(root, p["click"]), ~np.isnan(root), weight),
        "buy @ all": (entropy(joint, p["click"] * p["buy"]), ~np.isnan(joint), weight),
        "buy|click @ click": (entropy(buy, p["buy"]), (root == 1) & ~np.isnan(buy), weight),
        "like @ all": (entropy(like, p["like"]), like == like, outside),
        "share @ all": (entropy(share, p["like"] * p["share"]), like == like, outside),
    }
    for name, (each, mask, used) in expected.items():
        share_of_weight = found.statistics[name].weight_share
        value = (each * used)[mask].sum() / (len(labels) * share_of_weight)
        assert losses[name].item() == pytest.approx(value, rel=1e-9), name
        assert rows[name].item() == mask.sum()
    mean, deviation = found.fitted["stars"].values()
    squares = (z["stars"].detach().numpy() - (labels[:, 4] - mean) / deviation) ** 2
    stars = (squares * outside).sum() / (len(labels) * found.statistics["stars @ all"].weight_share)
    assert losses["stars @ all"].item() == pytest.approx(stars, rel=1e-9)


@given(st.tuples(*(probabilities,) * 5), st.floats(0.01, 1))
def test_at_the_true_logits_the_expected_gradient_is_zero(truth, keep):
    """Every outcome by its probability in the sample; a click makes a like more or less likely."""
    click, buy, like_after, like_else, share = truth
    tasks = [TASKS[0], TASKS[1], TASKS[2], TASKS[3]]
    rows, chance = [], []
    for c, b, k, s in itertools.product((0, 1), repeat=4):
        if b > c or s > k:
            continue
        like = like_after if c else like_else
        p = click * (buy if b else 1 - buy) if c else (1 - click) * keep
        p *= like * (share if s else 1 - share) if k else 1 - like
        rows.append([c, b, k, s])
        chance.append(p)
    labels = np.array(rows, dtype=float)
    found = supervision(labels, Sampling("click", keep), tasks)
    truths = {
        "click": click, "buy": buy, "share": share,
        "like": click * like_after + (1 - click) * like_else,
    }  # fmt: skip
    z = {
        name: torch.full((len(labels),), logit(p), dtype=torch.float64, requires_grad=True)
        for name, p in truths.items()
    }
    weight = torch.tensor(chance, dtype=torch.float64) / sum(chance)
    losses, _ = found.losses(z, torch.tensor(labels), weight)
    for name, loss in losses.items():
        gradients = torch.autograd.grad(
            loss, list(z.values()), retain_graph=True, allow_unused=True
        )
        for gradient in gradients:
            assert gradient is None or abs(gradient.sum().item()) < 1e-12, name


@given(st.floats(-30, 30), st.floats(1e-4, 1))
def test_the_sample_probability_is_the_sigmoid_of_the_shifted_logit(z, keep):
    """P(click | kept) = p / (p + keep (1 − p)) = σ(z − log keep), both sides as logarithms."""
    found = supervision(np.array([[0.0], [1.0]]), Sampling("click", keep), [TASKS[0]])
    logits = {"click": torch.full((2,), z, dtype=torch.float64)}
    p, q = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    for label, outcome in ((1.0, p), (0.0, keep * q)):
        labels = torch.full((2, 1), label, dtype=torch.float64)
        loss = found.losses(logits, labels, None)[0]["click @ all"].item()
        assert loss == pytest.approx(-np.log(outcome / (p + keep * q)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_a_logistic_model_of_a_sample_recovers_the_whole_log(slope):
    """Fitted in full batches to a sampled log, intercept and slope are the true ones."""
    generator, keep, rows = np.random.default_rng(5), 0.1, 200_000
    x = generator.normal(size=rows) * (slope != 0)
    click = generator.random(rows) < 1 / (1 + np.exp(3 - slope * x))
    buy = click & (generator.random(rows) < 0.3)
    kept = click | (generator.random(rows) < keep)
    labels = np.stack([click, buy], axis=1)[kept].astype(float)
    tasks = [Task("click"), Task("buy", given="click", space="all")]
    found = supervision(labels, Sampling("click", keep), tasks)
    feature, targets = torch.tensor(x[kept]), torch.tensor(labels)
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        z = {"click": weights[0] + weights[1] * feature, "buy": weights[2].expand(len(feature))}
        total = sum(found.losses(z, targets, None)[0].values())
        total.backward()
        return total

    optimizer.step(loss)
    # Four standard errors of 200,000 rows with some 10,000 clicks, or 3,000 purchases.
    assert weights.tolist() == pytest.approx([-3.0, slope, logit(0.3)], abs=0.09)


def test_sums_know_of_no_sampling():
    """Validation rows say by their weights what was sampled: predictions are the true ones."""
    labels = random_labels()
    z, given_labels = random_logits(len(labels)), torch.tensor(labels)
    one = supervision(labels, Sampling("click", 0.1)).sums(z, given_labels, None)["buy @ all"]
    other = supervision(labels, None).sums(z, given_labels, None)["buy @ all"]
    assert one == other


def test_nothing_was_thrown_away_at_a_rate_of_one():
    labels = random_labels()
    z, given_labels = random_logits(len(labels)), torch.tensor(labels)
    one, _ = supervision(labels, Sampling("click", 1.0)).losses(z, given_labels, None)
    other, _ = supervision(labels, None).losses(z, given_labels, None)
    assert {name: each.item() for name, each in one.items()} == pytest.approx(
        {name: each.item() for name, each in other.items()}, rel=1e-12
    )


def test_the_constants_that_epochs_are_compared_by_are_of_the_whole_log():
    """Validation losses are weighted to be of it; a fifth of the negatives was kept."""
    click = np.array([1.0] * 20 + [0.0] * 20)
    buy = np.array([1.0] * 5 + [0.0] * 35)
    like = np.array([1.0, 0.0] * 20)
    tasks = [Task("click"), Task("buy", given="click"), Task("like")]
    schema = Schema([SparseFeature("item")], tasks)
    columns = {"item": [1] * 40, "click": click, "buy": buy, "like": like}
    frame = pl.DataFrame(columns)
    table = encode(frame, schema, Vocab.fit(frame, schema))
    found = Supervision.of(table, Sampling("click", 0.2)).constant_losses
    for name, rate in (("click", 20 / 120), ("buy", 5 / 20), ("like", 0.5)):
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
        assert found[name] == pytest.approx(entropy, rel=1e-6)
