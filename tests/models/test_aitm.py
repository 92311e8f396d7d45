"""AITM against the paper's equations, written plainly in float64; its chain and its calibrator."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import polyrank as pr
from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.models.aitm import AITM
from polyrank.schema import DenseFeature, Schema, Task

FUNNEL = (Task("click"), Task("cart", given="click"), Task("buy", given="cart"))
ROOTS = (Task("click"), Task("buy"))


def built(tasks, **options):
    schema = Schema([DenseFeature("x", encoding="standard")], tasks)
    layout = Layout(schema, SimpleNamespace(rows={}, columns={"x": 6}), {})
    torch.manual_seed(0)
    return AITM(**options).build(layout, tasks)


def reference(weights, x, before, tasks, depth):
    """Return {task: (B, columns)}, one row at a time."""
    weights = {name: each.detach().double().numpy() for name, each in weights.items()}

    def mlp(name, value, layers):
        for layer in range(layers):
            weight, bias = (weights[f"{name}.linear.{layer}.{part}"] for part in ("weight", "bias"))
            value = np.maximum(weight @ value + bias, 0)
        return value

    def z(task, row):
        q = mlp(f"tower.{task}", row, depth)
        if task not in before:
            return q
        p = mlp(f"transfer.{task}", z(before[task], row), 1)
        h1, h2, h3 = (weights[f"attention.{task}.h{i}.weight"] for i in (1, 2, 3))
        score = [math.exp((h2 @ u) @ (h3 @ u) / math.sqrt(len(h1))) for u in (p, q)]
        return sum(w / sum(score) * (h1 @ u) for w, u in zip(score, (p, q), strict=True))

    return {task: np.stack([z(task, row) for row in x.double().numpy()]) for task in tasks}


CASES = {
    "chain": (FUNNEL, None, {"cart": "click", "buy": "cart"}),
    "any order": (FUNNEL[::-1], None, {"cart": "click", "buy": "cart"}),
    "branches and roots": (
        (Task("buy", given="click"), Task("like", given="click"), Task("click"), Task("stay")),
        None,
        {"buy": "click", "like": "click"},
    ),
    "declared": (ROOTS, ["click", "buy"], {"buy": "click"}),
    "declared, backwards": (ROOTS, ["buy", "click"], {"click": "buy"}),
    "both": (
        (Task("buy"), Task("cart", given="click"), Task("click")),
        ["cart", "buy"],
        {"cart": "click", "buy": "cart"},
    ),
    "odd names": (
        (Task("training"), Task("update", given="training"), Task("tower", given="update")),
        None,
        {"update": "training", "tower": "update"},
    ),
    "one task": ((Task("click"),), None, {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("hidden", "dim"), [([4], None), ([8, 5], 3)])
def test_aitm_is_its_equations(case, hidden, dim):
    tasks, chain, before = CASES[case]
    trunk = built(tasks, hidden=hidden, dim=dim, chain=chain)
    x = torch.randn(5, 6)
    found = trunk(x)
    names = [task.name for task in tasks]
    assert list(found) == names
    expected = reference(trunk.state_dict(), x, before, names, len(hidden))
    for name in names:
        np.testing.assert_allclose(
            found[name].detach().numpy(), expected[name], rtol=1e-4, atol=1e-6
        )


def test_a_root_has_neither_transfer_nor_attention():
    names = set(built(FUNNEL).state_dict())
    assert {"tower.click.linear.0.weight", "transfer.buy.linear.0.weight"} <= names
    assert {"attention.buy.h1.weight", "attention.cart.h3.weight"} <= names
    assert not any(name.startswith(("transfer.click", "attention.click")) for name in names)
    assert built(FUNNEL).shared_parameters() == []


def test_what_given_links_needs_no_calibrator():
    """P(click)·P(buy|click) ≤ P(click) whatever the logits: the penalty would be 0."""
    trunk = built(FUNNEL, chain=["click", "cart", "buy"])
    assert trunk.penalties(dict.fromkeys(("click", "cart", "buy"), torch.randn(4))) == {}


def test_the_calibrator_is_its_formula():
    trunk = built(ROOTS, chain=["click", "buy"], penalty=0.6)
    logits = {"click": torch.tensor([-2.0, 0.0, 3.0]), "buy": torch.tensor([1.0, -1.0, 4.0])}
    found = trunk.penalties(logits)

    def p(z):
        return 1 / (1 + math.exp(-z))

    expected = 0.6 * ((p(1) - p(-2)) + 0 + (p(4) - p(3))) / 3
    assert list(found) == ["buy above click"]
    assert found["buy above click"].item() == pytest.approx(expected, rel=1e-6)


def test_the_calibrator_compares_joints():
    """The task before may itself be conditional: its joint is what buy must not exceed."""
    trunk = built(CASES["both"][0], chain=["cart", "buy"], penalty=1.0)
    logits = {name: torch.zeros(2) for name in ("click", "cart", "buy")}
    found = trunk.penalties(logits)
    assert found["buy above cart"].item() == pytest.approx(0.5 - 0.25)
    assert list(found) == ["buy above cart"]


def test_without_a_weight_or_with_a_regression_there_is_no_calibrator():
    logits = {"click": torch.zeros(2), "buy": torch.ones(2), "stay": torch.ones(2)}
    assert built(ROOTS, chain=["click", "buy"], penalty=0).penalties(logits) == {}
    tasks = (*ROOTS, Task("stay", kind="regression"))
    trunk = built(tasks, chain=["click", "stay", "buy"])
    assert trunk.penalties(logits) == {}
    assert trunk.before == {"stay": "click", "buy": "stay"}


@pytest.mark.parametrize(
    ("tasks", "chain", "message"),
    [
        (ROOTS, ["clik", "buy"], "AITM: chain: unknown task 'clik'; did you mean 'click'"),
        (FUNNEL, ["click", "buy"], "puts 'click' before 'buy', whose given is 'cart': leave out"),
        (FUNNEL, ["cart", "click"], "chain and given make a cycle: click → "),
    ],
)
def test_a_chain_that_contradicts_the_tasks_is_refused(tasks, chain, message):
    with pytest.raises(ConfigError, match=message):
        built(tasks, chain=chain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chain": "click"}, "chain must be a list of at least two different tasks, got 'click'"),
        ({"chain": ["click"]}, "chain must be a list of at least two different tasks"),
        ({"chain": ["a", "b", "a"]}, "chain must be a list of at least two different tasks"),
        ({"penalty": -1}, "penalty must be a number of at least 0, got -1"),
        ({"penalty": math.nan}, "penalty must be a number of at least 0, got nan"),
        ({"dim": 0}, "AITM: dim must be a whole number of at least 1, got 0"),
        ({"hidden": [0]}, "AITM: hidden must be a whole number of at least 1, got 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        AITM(**options)


def test_its_table_reads_back():
    model = pr.Model(trunk=AITM(chain=["click", "buy"], dim=8, penalty=1))
    assert pr.Model.from_table(model.to_table()) == model
    assert pr.Model.from_table(pr.Model(trunk=AITM()).to_table()).trunk == AITM()


def test_the_calibrator_brings_probabilities_into_order():
    """Labels that contradict the chain: P(buy) = .8 above P(click) = .3, and the penalty pulls."""
    generator = np.random.default_rng(0)
    rows = {"item": generator.integers(0, 5, 400)}
    rows |= {"click": generator.random(400) < 0.3, "buy": generator.random(400) < 0.8}
    rows = {name: column.astype(int) for name, column in rows.items()}
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click"), pr.Task("buy")])
    excess = []
    for penalty in (0.0, 5.0):
        model = pr.Model(trunk=AITM(hidden=[8], chain=["click", "buy"], penalty=penalty))
        bundle = pr.fit(schema, model, train=rows, epochs=20, lr=0.01, batch_size=100)
        predicted = bundle.predict(rows)
        excess.append((predicted["p_buy"] - predicted["p_click"]).clip(lower_bound=0).mean())
        penalised = "train penalty buy above click loss" in bundle.history.columns
        assert penalised == (penalty > 0)
    assert excess[0] > 0.3
    assert excess[1] < 0.1
