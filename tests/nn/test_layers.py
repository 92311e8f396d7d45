"""MLP, experts, gates and the container by name."""

import pytest
import torch

from polyrank.nn.experts import ExpertBank, Gate, mixture
from polyrank.nn.mlp import MLP, BatchNorm
from polyrank.nn.named import Named


def test_without_layers_an_mlp_is_the_identity():
    x = torch.randn(3, 5)
    assert torch.equal(MLP(5, [])(x), x)
    assert MLP(5, []).width == 5


def test_an_mlp_is_linear_norm_relu():
    mlp = MLP(4, [3], norm="batch")
    x = torch.randn(6, 4)
    z = x @ mlp.linear[0].weight.T + mlp.linear[0].bias
    z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(mlp(x), z.relu())


def test_a_batch_of_one_row_uses_the_running_statistics():
    norm = BatchNorm(3)
    for _ in range(5):
        norm(torch.randn(16, 3))
    x = torch.randn(1, 3)
    expected = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_the_gate_is_softmax_of_a_linear_map():
    gate = Gate(4, 3)
    x = torch.randn(5, 4)
    torch.testing.assert_close(gate(x), torch.softmax(x @ gate.weight.T, dim=1))
    assert [name for name, _ in gate.named_parameters()] == ["weight"]


def test_a_mixture_is_the_weighted_sum_of_experts():
    weights, outputs = torch.rand(2, 3), torch.rand(2, 3, 4)
    expected = sum(weights[:, e, None] * outputs[:, e] for e in range(3))
    torch.testing.assert_close(mixture(weights, outputs), expected)


def test_experts_start_different():
    bank = ExpertBank(4, 3, [2], "none", 0.0)
    out = bank(torch.randn(5, 4))
    assert out.shape == (5, 3, 2)
    assert not torch.equal(bank[0].linear[0].weight, bank[1].linear[0].weight)


@pytest.mark.parametrize("name", ["update", "forward", "keys", "training", "_modules", "click"])
def test_a_module_may_have_any_task_name(name):
    named = Named({name: torch.nn.Linear(1, 1)})
    assert list(named) == [name]
    assert list(named.state_dict()) == [f"{name}.weight", f"{name}.bias"]
    assert named[name].in_features == 1
    assert named.eval()[name].training is False
