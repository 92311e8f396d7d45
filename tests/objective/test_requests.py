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
from polyrank.errors import ConfigError, DataError, SchemaError
from polyrank.objective.likelihood import Labels, Likelihood
from polyrank.objective.losses import Supervision
from polyrank.objective.regression import RegressionLikelihood
from polyrank.objective.requests import Requests
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
    with pytest.raises(
        DataError, match=r"'click @ all' has no request with two different labels in train"
    ):
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


GRADED = {
    "ordinal": pr.Ordinal(values=[1, 2, 4, 7]),
    "two levels": pr.Ordinal(values=[0, 1]),
    "poisson": pr.Count(),
    "negative binomial": pr.Count(distribution="negative_binomial"),
    "lognormal": pr.LogNormal(),
    "regression": pr.Regression(),
    "log1p": pr.Regression(transform="log1p"),
}
PAIRS = [
    (ranking, name)
    for name, kind in GRADED.items()
    for ranking in RANKING
    if RANKING[ranking]().compares(kind)
]


def graded_log(kind, seed=3):
    """Rows of few different labels, so that requests have equal ones; some are not observed."""
    rng = np.random.default_rng(seed)
    values = {"ordinal": [1, 2, 4, 7], "count": [0, 1, 2, 9], "lognormal": [0.5, 3, 20]}
    drawn = [0, 1] if kind == GRADED["two levels"] else values.get(kind.name, [0, 1.5, 4])
    return pl.DataFrame(
        {
            "item": rng.integers(0, 9, ROWS),
            "request": rng.integers(0, 24, ROWS),
            "y": np.where(rng.random(ROWS) < 0.15, np.nan, rng.choice(drawn, ROWS)),
            "w": rng.integers(0, 3, ROWS).astype(float),
        }
    ).with_columns(pl.col("y").fill_nan(None))


def of_graded(ranking, kind):
    tasks = [pr.Task("y", kind=kind, ranking=ranking)]
    return pr.Schema([pr.SparseFeature("item")], tasks, {"request": "request", "weight": "w"})


def graded_score(kind, fitted, z):
    """Return the score of a row from the logits of its head, (outputs,), as documented."""
    if kind.name == "ordinal":
        shares = fitted["shares"]
        reached = [sum(shares[k:]) for k in range(len(shares))]
        expected, passed = kind.known[0], 1.0
        for k in range(1, len(shares)):
            start = reached[k] / reached[k - 1]
            passed *= sigmoid(z[k - 1] + math.log(start / (1 - start)))
            expected += passed * (kind.known[k] - kind.known[k - 1])
        return math.log((expected - kind.known[0]) / (kind.known[-1] - expected))
    if kind.name == "count":
        return z[0] + math.log(fitted["mean"])
    if kind.name == "lognormal":
        # σ ÷ that of the training rows is between .05 and 3, and 1 at z = 0.
        odds = (1 - 0.05) / (3 - 1) * math.exp(z[1])
        sigma = fitted["deviation"] * (0.05 + (3 - 0.05) * odds / (1 + odds))
        return fitted["mean"] + fitted["deviation"] * z[0] + sigma**2 / 2
    return z[0] * fitted["deviation"] + z[1] if kind.outputs == 2 else z[0]


def graded_reference(ranking, zero, score, label, request, weight):
    """Return Σ w·loss over rows, by loops over requests and pairs, from the docstrings."""
    total = 0.0
    for each in set(request):
        rows = [j for j in range(len(label)) if request[j] == each and not math.isnan(label[j])]
        if len({label[j] for j in rows}) < 2:
            continue
        most = max(label[j] - zero for j in rows)
        for i in rows:
            lower = [j for j in rows if label[j] < label[i]]
            if ranking == "softmax":
                normaliser = math.log(sum(math.exp(score[j]) for j in rows))
                total += weight[i] * (label[i] - zero) / most * (normaliser - score[i])
            elif lower:
                losses = [math.log1p(math.exp(score[j] - score[i])) for j in lower]
                total += weight[i] * sum(losses) / len(lower)
    return total


@pytest.mark.parametrize(("ranking", "name"), PAIRS)
def test_graded_losses_and_gradients_are_those_of_the_formula(ranking, name):
    kind = GRADED[name]
    found, frame = of_graded(ranking, kind), graded_log(kind)
    table = encode(frame, found, Vocab.fit(frame, found))
    statistics, fitted = term_statistics(table), fitted_labels(table)
    supervision = Supervision(found, statistics, fitted)
    generator = torch.Generator().manual_seed(7)
    shape = (ROWS, kind.outputs) if kind.outputs > 1 else (ROWS,)
    z = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    labels, weight = (
        torch.from_numpy(table.labels).double(),
        torch.from_numpy(table.weight).double(),
    )
    request = frame["request"].to_numpy().copy()
    losses, _ = supervision.losses({"y": z}, labels, weight, requests=torch.from_numpy(request))
    term = f"y @ all [{ranking}]"
    zero = kind.known[0] if kind.name == "ordinal" else 0.0
    columns = labels[:, 0].tolist(), request.tolist(), weight.tolist()

    def value(flat):
        score = [graded_score(kind, fitted["y"], row) for row in flat.reshape(ROWS, -1).tolist()]
        total = graded_reference(ranking, zero, score, *columns)
        return total / (ROWS * statistics[term].weight_share)

    flat = z.detach().numpy().reshape(-1)
    # The constants of an ordinal and the values of levels are kept in float32.
    assert float(losses[term].detach()) == pytest.approx(value(flat), rel=1e-6)
    (gradient,) = torch.autograd.grad(losses[term], z)
    for place in range(0, flat.size, 5):  # central differences: the error is about step²
        step = np.zeros(flat.size)
        step[place] = 1e-5
        slope = (value(flat + step) - value(flat - step)) / 2e-5
        assert gradient.reshape(-1)[place] == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(("ranking", "name"), PAIRS)
def test_a_request_of_equal_labels_gives_nothing_and_is_counted(ranking, name):
    kind = GRADED[name]
    found, frame = of_graded(ranking, kind), graded_log(kind)
    supervision = Supervision.of(encode(frame, found, Vocab.fit(frame, found)))
    term = next(term for term in found.objective if term.method is not None)
    groups = frame.drop_nulls("y").group_by("request").agg(pl.col("y").n_unique(), pl.len())
    mixed = groups.filter(pl.col("y") > 1)
    counted = supervision.requests[term.name]
    assert (counted.requests, counted.mixed) == (groups.height, mixed.height)
    assert counted.rows == mixed["len"].sum()
    high = float(frame["y"].max())
    z = torch.randn((5, kind.outputs) if kind.outputs > 1 else (5,)).requires_grad_()
    requests = torch.tensor([0, 0, 1, 2, 2])
    labels = torch.tensor([high, high, high, high, torch.nan])[:, None]
    sums = supervision.sums({"y": z}, labels, None, terms=[term], requests=requests)[term.name]
    assert (float(sums.total.detach()), float(sums.weight), int(sums.rows)) == (0.0, 0.0, 0)
    assert not torch.autograd.grad(sums.total, z)[0].any()


@pytest.mark.parametrize("ranking", ["pairwise", "softmax"])
def test_two_levels_rank_as_an_event_does(ranking):
    """The score of two levels is the logit of the higher one, so the losses are the same."""
    kind = GRADED["two levels"]
    found, frame = of_graded(ranking, kind), graded_log(kind)
    table = encode(frame, found, Vocab.fit(frame, found))
    levels = Supervision.of(table)
    event = Supervision(of_graded(ranking, "binary"), {})
    z = torch.randn(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.from_numpy(table.labels)
    request = torch.from_numpy(frame["request"].to_numpy().copy())
    one, two = (
        each.sums({"y": z}, labels, None, requests=request)[f"y @ all [{ranking}]"]
        for each in (levels, event)
    )
    torch.testing.assert_close(one.total, two.total, rtol=1e-10, atol=0)
    assert one.rows == two.rows > 0


@pytest.mark.parametrize("kind", [each for each in GRADED.values() if each.is_ordered])
@given(scale=st.floats(0.1, 30), seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_a_score_rises_with_the_first_output_and_is_finite(kind, scale, seed):
    frame = graded_log(kind)
    found = of_graded("pairwise", kind)
    table = encode(frame, found, Vocab.fit(frame, found))
    likelihood = Supervision(found, {}, fitted_labels(table)).likelihoods["y"]
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(rng.normal(0, scale, (40, kind.outputs)).squeeze()).requires_grad_()
    score = likelihood.score(z)
    (gradient,) = torch.autograd.grad(score.sum(), z)
    assert torch.isfinite(score).all()
    assert torch.isfinite(gradient).all()
    first = likelihood.predict(z.detach(), {})[0][score.argsort()]
    # An expected level near its end is rounded, and the score is not.
    assert (first.diff() >= -1e-12 * first.abs().max()).all()


def test_the_softmax_of_counts_is_the_likelihood_of_their_shares():
    """Counts that are Poisson's are multinomial, given their total: the same minimiser."""
    found, frame = of_graded("softmax", pr.Count()), graded_log(pr.Count())
    supervision = Supervision.of(encode(frame, found, Vocab.fit(frame, found)))
    counts = torch.tensor([1.0, 3.0, 6.0])
    z = counts.double().log().requires_grad_()
    sums = supervision.sums({"y": z}, counts[:, None], None, requests=torch.zeros(3).long())
    (gradient,) = torch.autograd.grad(sums["y @ all [softmax]"].total, z)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)


def test_an_ordered_kind_without_a_score_is_named():
    class Unscored(RegressionLikelihood):
        score = Likelihood.score

    found = Unscored(pr.Regression(), {"mean": 0.0, "deviation": 1.0})
    with pytest.raises(NotImplementedError, match="kind 'regression' is ordered and has no score"):
        found.score(torch.zeros(3))


def test_a_ranking_knows_events_alone_unless_it_says_more():
    class Own(pr.Ranking):
        name = "own"
        loss = "polyrank.objective.requests:pairwise"

    assert pr.Task("click", ranking=Own()).ranker == Own()
    with pytest.raises(SchemaError, match=r"ranking 'own' compares .* 'binary', got 'count': use"):
        pr.Task("items", kind="count", ranking=Own())


def requests_of(labels, codes):
    """Return the requests of a batch of counts, and their labels as plain numbers."""
    found = of_graded("pairwise", "count")
    term = next(term for term in found.objective if term.method is not None)
    column = torch.tensor(labels, dtype=torch.float32)[:, None]
    request = torch.tensor(codes, dtype=torch.int64)
    return Requests.of(term, Labels.of(found, column, None, request))


LABELLED = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 2.0, 5.0, math.nan]), st.integers(0, 4)), max_size=40
)


@given(rows=LABELLED)
@settings(max_examples=100, deadline=None)
def test_pairs_are_all_rows_of_a_request_with_a_higher_and_a_lower_label(rows):
    labels, codes = [label for label, _ in rows], [code for _, code in rows]
    higher, lower, count = requests_of(labels, codes).pairs()
    wanted = [
        (i, j)
        for i in range(len(rows))
        for j in range(len(rows))
        if codes[i] == codes[j] and labels[i] > labels[j]
    ]
    found = list(zip(higher.tolist(), lower.tolist(), strict=True))
    assert sorted(found) == wanted
    assert count.tolist() == [sum(each == i for each, _ in wanted) for i in higher.tolist()]


@given(rows=LABELLED, unit=st.sampled_from([0.25, 2.0, 64.0]))
@settings(max_examples=50, deadline=None)
def test_gains_do_not_depend_on_the_unit_and_the_largest_of_a_request_is_1(rows, unit):
    labels, codes = [label for label, _ in rows], [code for _, code in rows]
    one, two = (requests_of([each * by for each in labels], codes) for by in (1.0, unit))
    gains = one.gains(0.0)
    assert torch.equal(gains, two.gains(0.0))
    for code in {code for code, label in zip(codes, labels, strict=True) if label == label}:
        own = [gain for gain, each in zip(gains.tolist(), codes, strict=True) if each == code]
        seen = {label for label, each in zip(labels, codes, strict=True) if each == code}
        assert max(own) == (1.0 if len({y for y in seen if y == y}) > 1 else 0.0)
