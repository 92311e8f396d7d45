"""Trunks against their papers' equations, written plainly."""

from types import SimpleNamespace

import pytest
import torch

from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.models.mmoe import MMoE
from polyrank.models.shared_bottom import Separate, SharedBottom
from polyrank.schema import DenseFeature, Schema, Task

TASKS = (Task("click"), Task("buy", given="click"))


@pytest.fixture
def layout():
    schema = Schema([DenseFeature("x", encoding="standard")], TASKS)
    return Layout(schema, SimpleNamespace(rows={}, columns={"x": 6}), {})


def affine(x, linear):
    return [
        [sum(w * value for w, value in zip(row, line, strict=True)) + bias
         for row, bias in zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)]
        for line in x
    ]  # fmt: skip


def test_separate_hands_x_to_every_task(layout):
    x = torch.randn(3, 6)
    assert {name: value is x for name, value in Separate().build(layout, TASKS)(x).items()} == {
        "click": True, "buy": True
    }  # fmt: skip


def test_shared_bottom_is_one_function_for_all(layout):
    trunk = SharedBottom(hidden=[4]).build(layout, TASKS)
    x = torch.randn(3, 6)
    hidden = trunk(x)
    expected = [[max(v, 0) for v in line] for line in affine(x.tolist(), trunk.bottom.linear[0])]
    torch.testing.assert_close(hidden["click"], torch.tensor(expected))
    assert hidden["buy"] is hidden["click"]


def test_mmoe_is_equation_6_and_7(layout):
    """f^k(x) = Σ_i g^k(x)_i f_i(x), g^k(x) = softmax(W_gk x)."""
    trunk = MMoE(experts=3, hidden=[4]).build(layout, TASKS)
    x = torch.randn(5, 6)
    hidden = trunk(x)
    for task in ("click", "buy"):
        for row in range(5):
            scores = trunk.gate[task].weight.double() @ x[row].double()
            gate = torch.exp(scores) / torch.exp(scores).sum()
            expected = torch.zeros(4, dtype=torch.float64)
            for index, expert in enumerate(trunk.expert):
                layer = expert.linear[0]
                out = layer.weight.double() @ x[row].double() + layer.bias.double()
                expected += gate[index] * out.clamp(min=0)
            torch.testing.assert_close(hidden[task][row].double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(hidden["click"], hidden["buy"])


def test_the_gate_has_neither_norm_nor_dropout(layout):
    trunk = MMoE(norm="batch", dropout=0.5).build(layout, TASKS)
    x = torch.randn(5, 6)
    assert torch.equal(trunk.gate["click"](x), trunk.gate["click"](x))
    assert list(trunk.gate.state_dict()) == ["click.weight", "buy.weight"]


def test_mmoe_has_its_weights_by_expert_and_task(layout):
    trunk = MMoE(experts=2, hidden=[4]).build(layout, TASKS)
    assert list(trunk.state_dict()) == [
        "expert.0.linear.0.weight", "expert.0.linear.0.bias",
        "expert.1.linear.0.weight", "expert.1.linear.0.bias",
        "gate.click.weight", "gate.buy.weight",
    ]  # fmt: skip


def test_mmoe_mixes_at_one_level(layout):
    (level,) = MMoE(experts=3).build(layout, TASKS).mixing(torch.randn(2, 6))
    assert (level.experts, list(level.gates)) == (("0", "1", "2"), ["click", "buy"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MMoE(experts=0), "MMoE: experts must be a whole number of at least 1, got 0"),
        (lambda: MMoE(hidden=[16, 0]), r"MMoE: hidden must be a whole number of at least 1, got 0"),
        (
            lambda: SharedBottom(hidden=[2.5]),
            "SharedBottom: hidden must be a whole number of at least 1, got 2.5",
        ),
    ],
)
def test_sizes_are_checked(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
