"""Losses over a request against loops in float64: values, gradients, what gives nothing."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import polyrank as pr
from polyrank.data.statistics import fitted_labels, term_statistics
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, DataError
from polyrank.objective.losses import Supervision
from polyrank.ranking import RANKING

ROWS = 90


def log(seed=0, requests=18):
    rng = np.random.default_rng(seed)
    click = (rng.random(ROWS) < 0.45).astype(float)
    buy = np.where(click == 1, (rng.random(ROWS) < 0.5).astype(float), np.nan)
    click[rng.random(ROWS) < 0.1] = np.nan
    return pl.DataFrame(
        {
            "item": rng.integers(0, 9, ROWS),
            "request": rng.integers(0, requests, ROWS),
            "click": click,
            "buy": np.where(np.isnan(click), np.nan, buy),
            "w": rng.integers(0, 3, ROWS).astype(float),
        }
    ).with_columns(pl.col("click", "buy").fill_nan(None))


def schema(ranking, **options):
    tasks = [
        pr.Task("click", ranking=ranking),
        pr.Task("buy", given="click", ranking=ranking, **options),
    ]
    return pr.Schema([pr.SparseFeature("item")], tasks, {"request": "request", "weight": "w"})


def of_click(kind):
    tasks = [pr.Task("click", ranking=kind)]
    return pr.Schema([pr.SparseFeature("item")], tasks, {"request": "request"})


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def of_row(kind, i, rows, score, level, label):
    """Return the loss of a row among those of its request, from the paper's equation."""
    if kind == "jrc":
        f = [level[j] + (score[j] if label[i] == 1 else 0.0) for j in rows]
        own = level[i] + (score[i] if label[i] == 1 else 0.0)
        return math.log(sum(math.exp(each) for each in f)) - own
    if label[i] != 1:
        return 0.0
    if kind == "softmax":
        return -math.log(math.exp(score[i]) / sum(math.exp(score[j]) for j in rows))
    negatives = [j for j in rows if label[j] == 0]
    return sum(math.log(1 + math.exp(score[j] - score[i])) for j in negatives) / len(negatives)


def reference(kind, score, level, label, request, weight):
    """Return Σ w·loss over the rows of requests with both labels."""
    total = 0.0
    for each in set(request):
        rows = [j for j in range(len(label)) if request[j] == each and not math.isnan(label[j])]
        if {label[j] for j in rows} == {0.0, 1.0}:
            total += sum(weight[i] * of_row(kind, i, rows, score, level, label) for i in rows)
    return total


def joint(click, buy):
    if 0 in (click, buy):
        return 0.0
    return math.nan if math.isnan(click) or math.isnan(buy) else 1.0


@pytest.mark.parametrize("space", ["click", "all"])
@pytest.mark.parametrize("kind", list(RANKING))
def test_losses_and_gradients_are_those_of_the_formula(kind, space):
    found, frame = schema(kind, space=space), log()
    table = encode(frame, found, Vocab.fit(frame, found))
    statistics = term_statistics(table)
    supervision = Supervision(found, statistics, fitted_labels(table))
    generator = torch.Generator().manual_seed(5)
    z = {
        head.name: torch.randn(ROWS, generator=generator, dtype=torch.float64).requires_grad_()
        for head in found.heads
    }
    labels, weight = (
        torch.from_numpy(table.labels).double(),
        torch.from_numpy(table.weight).double(),
    )
    request = frame["request"].to_numpy().copy()
    losses, _ = supervision.losses(z, labels, weight, requests=torch.from_numpy(request))
    click, buy = labels.T.tolist()
    conditional = [b if c == 1 else math.nan for c, b in zip(click, buy, strict=True)]
    targets = {
        "click @ all": click,
        "buy|click @ click": conditional,
        "buy @ all": [joint(c, b) for c, b in zip(click, buy, strict=True)],
    }
    tested = 0
    for term in found.objective:
        if term.method is None:
            continue
        task, label = term.population.task, targets[term.population.name]

        def value(flat, task=task, label=label, term=term):
            names = list(z)
            each = dict(zip(names, np.reshape(flat, (len(names), ROWS)).tolist(), strict=True))
            score = each[task]
            if len(term.population.heads) == 2:
                p = [
                    sigmoid(a) * sigmoid(b) for a, b in zip(each["click"], each["buy"], strict=True)
                ]
                score = [math.log(q / (1 - q)) for q in p]
            level = each.get(f"{task}#level", [0.0] * ROWS)
            total = reference(kind, score, level, label, request.tolist(), weight.tolist())
            return total / (ROWS * statistics[term.name].weight_share)

        flat = np.concatenate([each.detach().numpy() for each in z.values()])
        assert float(losses[term.name].detach()) == pytest.approx(value(flat), rel=1e-10)
        gradients = torch.autograd.grad(
            losses[term.name], list(z.values()), materialize_grads=True, retain_graph=True
        )
        gradient = torch.cat(gradients).numpy()
        for place in range(0, len(flat), 7):  # central differences: the error is about step²
            step = np.zeros(len(flat))
            step[place] = 1e-5
            slope = (value(flat + step) - value(flat - step)) / 2e-5
            assert gradient[place] == pytest.approx(slope, rel=1e-5, abs=1e-8)
        tested += 1
    assert tested == 2


@pytest.mark.parametrize("kind", list(RANKING))
def test_a_request_of_one_row_or_of_one_label_gives_nothing(kind):
    found = pr.Schema(
        [pr.SparseFeature("item")], [pr.Task("click", ranking=kind)], {"request": "r"}
    )
    term = next(term for term in found.objective if term.method is not None)
    z = {head.name: torch.randn(6).requires_grad_() for head in found.heads}
    requests = torch.tensor([0, 1, 1, 2, 2, 2])
    labels = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, torch.nan])[:, None]
    sums = Supervision(found, {}).sums(z, labels, None, terms=[term], requests=requests)[term.name]
    assert (float(sums.total.detach()), float(sums.weight), int(sums.rows)) == (0.0, 0.0, 0)
    gradients = torch.autograd.grad(sums.total, list(z.values()), materialize_grads=True)
    assert not torch.cat(gradients).any()


@given(
    values=st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=24),
    shift=st.floats(-50, 50, width=32),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["pairwise", "softmax"]),
)
@settings(max_examples=60, deadline=None)
def test_a_constant_added_to_a_request_changes_nothing_and_extremes_are_finite(
    values, shift, seed, kind
):
    rng = np.random.default_rng(seed)
    found = pr.Schema(
        [pr.SparseFeature("item")], [pr.Task("click", ranking=kind)], {"request": "r"}
    )
    term = next(term for term in found.objective if term.method is not None)
    requests = torch.from_numpy(rng.integers(0, 3, len(values)))
    labels = torch.from_numpy(rng.integers(0, 2, len(values)).astype(np.float32))[:, None]
    z = torch.tensor(values, dtype=torch.float64)
    moved = z + shift * torch.tensor([0.0, 1.0, -2.0])[requests]
    one, two = (
        Supervision(found, {}).sums({"click": each}, labels, None, terms=[term], requests=requests)
        for each in (z, moved)
    )
    assert torch.isfinite(one[term.name].total)
    # Each of up to 24·24 differences of numbers up to 180 is off by less than 180·2^-52.
    torch.testing.assert_close(one[term.name].total, two[term.name].total, rtol=1e-10, atol=1e-10)


def test_what_there_is_to_rank_is_counted():
    found, frame = schema("softmax"), log()
    table = encode(frame, found, Vocab.fit(frame, found))
    counted = Supervision.of(table).requests
    groups = frame.drop_nulls("click").group_by("request").agg(pl.col("click").n_unique(), pl.len())
    mixed = groups.filter(pl.col("click") == 2)
    each = counted["click @ all [softmax]"]
    assert (each.requests, each.mixed) == (groups.height, mixed.height)
    assert each.rows == mixed["len"].sum()
    assert each.longest == frame.group_by("request").len()["len"].max()


def test_nothing_to_rank_is_refused():
    found, frame = schema("softmax"), log().with_columns(request=pl.int_range(pl.len()))
    table = encode(frame, found, Vocab.fit(frame, found))
    with pytest.raises(DataError, match=r"'click @ all' has no request with both labels in train"):
        Supervision.of(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            pl.all().exclude("request"),
            "train: a ranking loss needs the key column 'request': add it",
        ),
        (
            [pl.exclude("request"), pl.col("request").replace(3, None)],
            r"train: \d+ rows have no 'request', which a ranking loss needs",
        ),
    ],
)
def test_rows_need_their_requests(change, message):
    found, frame = schema("softmax"), log().select(change)
    table = encode(frame, found, Vocab.fit(frame, found))
    with pytest.raises(DataError, match=message):
        Supervision.of(table)


def test_sampled_negatives_are_refused():
    found, frame = schema("softmax"), log()
    table = encode(frame, found, Vocab.fit(frame, found))
    with pytest.raises(ConfigError, match="sampled negatives leave requests without the rows"):
        Supervision.of(table, pr.Sampling(task="click", keep=0.5))
