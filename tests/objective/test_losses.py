"""Named losses: rows, denominators, missing labels, weights, scales."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyrank.data.statistics import fitted_labels, term_statistics
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.objective.likelihood import log_outcomes, log_union
from polyrank.objective.losses import Supervision
from polyrank.schema import Keys, Schema, SparseFeature, Task
from polyrank.terms import joint_label

NAN = float("nan")
NO_KEYS = Keys()


def supervision(rows, tasks, keys=NO_KEYS):
    schema = Schema([SparseFeature("item")], tasks, keys)
    frame = pl.LazyFrame({"item": [1] * len(next(iter(rows.values()))), **rows})
    table = encode(frame, schema, Vocab.fit(frame, schema))
    return Supervision(schema, term_statistics(table), fitted_labels(table)), table


def funnel(space="all"):
    return [Task("click"), Task("buy", given="click", space=space)]


def logits(count, names=("click", "buy"), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, generator=generator).requires_grad_() for name in names}


ROWS = {"click": [0, 1, 1, 0, 1, 0], "buy": [0, 1, 0, 0, 0, 0]}


def losses_of(found, z, labels, weight=None):
    return found.losses(z, torch.tensor(labels, dtype=torch.float32), weight)


def labels_of(rows):
    return np.array([rows["click"], rows["buy"]], dtype=float).T


def test_losses_equal_cross_entropy_by_hand():
    found, _ = supervision(ROWS, funnel(("all", "click")))
    z = logits(6)
    losses, rows = losses_of(found, z, labels_of(ROWS))
    click, buy = (torch.sigmoid(z[name]).detach().double().numpy() for name in ("click", "buy"))
    y, b = np.array(ROWS["click"]), np.array(ROWS["buy"])

    def entropy(label, p):
        return -(label * np.log(p) + (1 - label) * np.log(1 - p))

    assert losses["click @ all"].item() == pytest.approx(entropy(y, click).mean(), rel=1e-5)
    assert losses["buy @ all"].item() == pytest.approx(entropy(b, click * buy).mean(), rel=1e-5)
    clicked = entropy(b, buy)[y == 1].mean()
    assert losses["buy|click @ click"].item() == pytest.approx(clicked, rel=1e-5)
    assert [rows[name].item() for name in losses] == [6, 6, 3]


HELD_ROWS = {
    "click": np.array([0, 1, 1, 1, 0, 1, 1, 1.0]),
    "cart": np.array([0, 1, 0, 1, NAN, 1, 1, NAN]),
    "buy": np.array([0, 1, 0, 0, NAN, 1, NAN, NAN]),
}


def of_funnel(hold):
    """Return the losses of a funnel in float64, their gradients by term and head, and logits."""
    tasks = [
        Task("click"),
        Task("cart", given="click", space="all", hold_ancestors=hold),
        Task("buy", given="cart", space=("all", "click"), hold_ancestors=hold),
    ]
    found, _ = supervision(HELD_ROWS, tasks)
    labels = torch.from_numpy(np.array(list(HELD_ROWS.values())).T)
    draw = np.random.default_rng(3).normal(scale=2, size=(3, len(labels)))
    heads = [torch.from_numpy(each).requires_grad_() for each in draw]
    z = dict(zip(HELD_ROWS, heads, strict=True))
    losses, _ = found.losses(z, labels, None)
    gradients = {}
    for name, loss in losses.items():
        each = torch.autograd.grad(loss, heads, retain_graph=True, materialize_grads=True)
        gradients[name] = dict(zip(z, each, strict=True))
    return losses, gradients, dict(zip(z, draw, strict=True))


def test_held_ancestors_change_no_value_and_get_no_gradient():
    (losses, gradients, _), (plain, free, _) = of_funnel(True), of_funnel(False)
    above = {
        "click @ all": [], "cart @ all": ["click"], "buy @ all": ["click", "cart"],
        "buy|click @ click": ["cart"],
    }  # fmt: skip
    assert list(losses) == list(above)
    for name, ancestors in above.items():
        assert torch.equal(losses[name], plain[name])
        own = name.split()[0].split("|")[0]
        assert free[name][own].abs().max() > 0
        assert torch.equal(gradients[name][own], free[name][own])
        for ancestor in ancestors:
            assert not gradients[name][ancestor].any()
            assert free[name][ancestor].abs().max() > 0


def test_the_gradient_under_held_ancestors_is_the_formula():
    """Of −log(1 − a·b) in the logit of b, with a constant: a·b(1 − b) / (1 − a·b)."""
    _, gradients, z = of_funnel(True)
    click, cart, buy = (1 / (1 + np.exp(-each)) for each in z.values())
    joint = joint_label(list(HELD_ROWS.values()))
    a, b = click * cart, buy
    slopes = np.where(joint == 1, -(1 - b), a * b * (1 - b) / (1 - a * b))
    seen = ~np.isnan(joint)
    expected = np.where(seen, slopes, 0) / seen.sum()
    np.testing.assert_allclose(gradients["buy @ all"]["buy"].numpy(), expected, rtol=1e-12)


def test_batches_of_any_size_are_unbiased():
    """The mean over batches of a permutation, weighted by their rows, is the term's mean loss."""
    found, _ = supervision(ROWS, funnel("click"))
    z, labels = logits(6), labels_of(ROWS)
    whole, _ = losses_of(found, z, labels)
    for name, expected in whole.items():
        total = 0.0
        for part in ([0, 3, 5, 1], [2, 4]):
            cut = {head: each[part] for head, each in z.items()}
            total += losses_of(found, cut, labels[part])[0][name].item() * len(part)
        assert total / 6 == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_without_a_click_teaches_the_conditional_nothing():
    found, _ = supervision(ROWS, funnel("click"))
    z = logits(3)
    losses, rows = losses_of(found, z, [[0, 0], [0, NAN], [0, 0]])
    sum(losses.values()).backward()
    assert losses["buy|click @ click"].item() == 0
    assert rows["buy|click @ click"].item() == 0
    assert torch.equal(z["buy"].grad, torch.zeros(3))
    assert z["click"].grad.abs().sum() > 0


@given(st.lists(st.sampled_from([(0, 0), (1, 0), (1, 1)]), min_size=1, max_size=12), st.integers(0))
def test_null_on_unclicked_rows_equals_zero_there(pairs, seed):
    found, _ = supervision(ROWS, funnel())
    gradients = []
    for missing in (0, NAN):
        z = logits(len(pairs), seed=seed % 1000)
        labels = [[click, buy if click else missing] for click, buy in pairs]
        losses, _ = losses_of(found, z, labels)
        losses["buy @ all"].backward()
        gradients.append([z["click"].grad, z["buy"].grad])
    for zero, null in zip(*gradients, strict=True):
        assert torch.equal(zero, null)


def test_a_null_label_is_not_observed():
    found, _ = supervision({"click": [0, 1, None], "buy": [0, 1, 0]}, funnel())
    z = logits(3)
    losses, rows = losses_of(found, z, [[0, 0], [1, NAN], [NAN, 1]])
    assert rows["click @ all"].item() == 2
    assert rows["buy @ all"].item() == 1
    losses["buy @ all"].backward()
    assert z["buy"].grad[1:].tolist() == [0, 0]
    assert all(torch.isfinite(each.grad).all() for each in z.values())


def test_sample_weights_are_repetitions():
    plain = {"click": [0, 1, 1, 1], "buy": [0, 0, 1, 1]}
    once = {"click": [0, 1, 1], "buy": [0, 0, 1], "w": [1.0, 1.0, 2.0]}
    repeated, _ = supervision(plain, funnel("click"))
    weighted, table = supervision(once, funnel("click"), Keys(weight="w"))
    z = logits(3)
    losses, _ = losses_of(weighted, z, table.labels, torch.from_numpy(table.weight))
    again = {name: each[[0, 1, 2, 2]] for name, each in z.items()}
    expected, _ = losses_of(repeated, again, labels_of(plain))
    # A mean over 4 rows and one over the weight 4 of 3 rows: the batch's own size differs.
    assert losses["click @ all"].item() == pytest.approx(expected["click @ all"].item(), rel=1e-5)
    assert losses["buy|click @ click"].item() == pytest.approx(
        expected["buy|click @ click"].item(), rel=1e-5
    )


def test_positive_weight_multiplies_positives_in_training_only():
    tasks = [Task("click", positive_weight=5.0)]
    found, _ = supervision({"click": [0, 1]}, tasks)
    z, labels = {"click": torch.tensor([0.5, -1.0])}, torch.tensor([[0.0], [1.0]])
    zero, one = np.log1p(np.exp(0.5)), np.log1p(np.exp(1.0))
    assert found.losses(z, labels, None)[0]["click @ all"].item() == pytest.approx(
        (zero + 5 * one) / 2, rel=1e-6
    )
    sums = found.sums(z, labels, None)["click @ all"]
    assert (sums.total / sums.weight).item() == pytest.approx((zero + one) / 2, rel=1e-6)


def test_regression_is_learned_in_units_of_its_deviation():
    tasks = [*funnel(), Task("spend", kind="regression", given="buy")]
    rows = {
        "click": [0, 1, 1, 1, 1],
        "buy": [0, 1, 1, 0, 1],
        "spend": [NAN, 320_000.0, 320_400.0, 7.0, NAN],
    }
    found, table = supervision(rows, tasks)
    assert found.fitted == {"spend": pytest.approx({"mean": 320_200.0, "deviation": 200.0})}
    z = logits(5, ("click", "buy", "spend"))
    losses, counts = losses_of(found, z, table.labels)
    assert counts["spend|buy @ buy"].item() == 2
    head = z["spend"].detach()[[1, 2]].double().numpy()
    expected = ((head - np.array([-1.0, 1.0])) ** 2).mean()
    assert losses["spend|buy @ buy"].item() == pytest.approx(expected, rel=1e-5)
    losses["spend|buy @ buy"].backward()
    assert z["spend"].grad[[0, 3, 4]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("positive_weight", [1.0, 7.0])
def test_the_constant_loss_is_that_of_the_best_constant(positive_weight):
    rows = {"click": [0] * 9 + [1]}
    found, table = supervision(rows, [Task("click", positive_weight=positive_weight)])
    (term,) = found.schema.objective
    constants = torch.linspace(-4, 4, 4001)
    labels = torch.from_numpy(table.labels)
    best = min(
        found.losses({"click": torch.full((10,), float(z))}, labels, None)[0]["click @ all"].item()
        for z in constants
    )
    value = found.likelihoods["click"].constant_loss(term, found.statistics[term.name])
    assert value == pytest.approx(best, rel=1e-4)


@given(
    st.lists(
        st.tuples(*(st.sampled_from([0.0, 1.0, NAN]),) * 3, st.sampled_from([NAN, -2.0, 5.0])),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_losses_are_the_plain_loop_over_joint_labels(labels, weighted):
    """Any mixture of 0, 1 and unobserved along a chain, on every space, weighted or not."""
    tasks = [
        Task("click"),
        Task("cart", given="click", space=("all", "click")),
        Task("buy", given="cart", space=("all", "click", "cart"), positive_weight=3.0),
        Task("spend", kind="regression", given="buy"),
    ]
    teach = {"click": [0, 1, 1, 1, 1], "cart": [0, 0, 1, 1, 1], "buy": [0, 0, 0, 1, 1],
             "spend": [NAN, NAN, NAN, 1.0, 4.0]}  # fmt: skip
    found, _ = supervision(teach, tasks)
    table = torch.tensor(labels, dtype=torch.float64)
    weight = torch.rand(len(labels), dtype=torch.float64) if weighted else None
    z = {
        task.name: torch.randn(len(labels), dtype=torch.float64, requires_grad=True)
        for task in tasks
    }
    losses, rows = found.losses(z, table, weight)
    columns = dict(zip(z, table.unbind(1), strict=True))
    for term in found.schema.objective:
        where, statistics = term.population, found.statistics[term.name]
        label = joint_label([columns[head] for head in where.heads])
        mask = ~torch.isnan(label)
        if where.conditions:
            mask = mask & (joint_label([columns[task] for task in where.conditions]) == 1)
        assert rows[term.name].item() == mask.sum().item()
        y = torch.where(mask, label, 0.0)
        if where.kind == "regression":
            mean, deviation = found.fitted["spend"].values()
            each = (z["spend"] - torch.where(mask, (y - mean) / deviation, 0.0)).square()
        else:
            outcomes = log_outcomes(z, list(z))
            yes, no = (log_union(paths, outcomes) for paths in (term.yes, term.no))
            each = -(y * yes * term.positive_weight + (1 - y) * no)
        kept = mask if weight is None else mask * weight
        expected = (each * kept).sum() / (len(labels) * statistics.weight_share)
        torch.testing.assert_close(losses[term.name], expected, rtol=1e-12, atol=1e-12)
        gradients = (
            torch.autograd.grad(loss, list(z.values()), retain_graph=True, materialize_grads=True)
            for loss in (losses[term.name], expected)
        )
        for one, two in zip(*gradients, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def weighted_log_loss(z, label, weight):
    z = z.double().numpy()
    each = np.logaddexp(0, np.where(label == 1, -z, z))
    return (weight * each).sum() / weight.sum()


def test_own_losses_are_of_the_rows_where_the_parent_happened():
    """Whatever supervises a head, and however its positives weigh in training."""
    rows = {
        "click": [1, 1, 1, 0, 1, None, 1, 0],
        "buy": [1, 0, 1, 0, None, None, 0, 0],
        "spend": [7.0, None, 4.0, None, None, None, None, None],
        "w": [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 2.0],
    }
    tasks = [
        Task("click", positive_weight=5.0),
        Task("buy", given="click"),
        Task("spend", kind="regression", given="buy"),
    ]
    _, table = supervision(rows, tasks, Keys(weight="w"))
    found = Supervision.of(table)
    z = {name: each.detach() for name, each in logits(8, ("click", "buy", "spend")).items()}
    w, labels = np.array(rows["w"]), table.labels
    own = found.own_losses(z, torch.from_numpy(labels), torch.from_numpy(w).float())
    for index, (task, some) in enumerate(
        (("click", labels[:, 0] >= 0), ("buy", labels[:, 0] == 1))
    ):
        some = some & ~np.isnan(labels[:, index])
        label, weight = labels[some, index], w[some]
        rate = (weight * label).sum() / weight.sum()
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
        expected = weighted_log_loss(z[task][torch.from_numpy(some)], label, weight) / entropy
        assert own[task] == pytest.approx(expected, rel=1e-5)
    bought, weight = np.array([7.0, 4.0]), np.array([1.0, 0.5])
    mean = np.average(bought, weights=weight)
    variance = np.average((bought - mean) ** 2, weights=weight)
    predicted = z["spend"].double().numpy()[[0, 2]] * np.sqrt(variance) + mean
    expected = np.average((bought - predicted) ** 2, weights=weight) / variance
    assert own["spend"] == pytest.approx(expected, rel=1e-4)


def test_own_losses_leave_out_a_head_without_rows_and_divide_by_no_0():
    rows = {"click": [0, 1, 1, 0], "buy": [0, 1, 1, 0]}  # every click is a purchase
    found = Supervision.of(supervision(rows, funnel())[1])
    assert found.constant_losses == {"click": pytest.approx(np.log(2)), "buy": 0.0}
    z = {name: torch.zeros(2) for name in ("click", "buy")}
    own = found.own_losses(z, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), None)
    assert own == {"click": pytest.approx(1.0), "buy": pytest.approx(np.log(2))}
    assert list(found.own_losses(z, torch.zeros(2, 2), None)) == ["click"]
