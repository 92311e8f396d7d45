"""The perceptron, its batch norm, and first layers that share one matmul."""

import pytest
import torch
from tests.numerics import assert_close

from polyrank.nn.mlp import MLP, BatchNorm, first_layers


def test_without_layers_an_mlp_is_the_identity():
    x = torch.randn(3, 5)
    assert torch.equal(MLP(5, [])(x), x)
    assert MLP(5, []).width == 5


def test_an_mlp_is_linear_norm_relu():
    mlp = MLP(4, [3], norm="batch")
    x = torch.randn(6, 4)
    z = x @ mlp.linear[0].weight.T + mlp.linear[0].bias
    z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
    assert_close(mlp(x), z.relu(), length=4 + 10 * 6)  # a norm divides by what may be small


def test_a_batch_of_one_row_uses_the_running_statistics():
    norm = BatchNorm(3)
    for _ in range(5):
        norm(torch.randn(16, 3))
    x = torch.randn(1, 3)
    expected = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    assert_close(norm(x), expected, length=8)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_layers_of_those_that_read_one_tensor_are_each_ones_own(norm, dtype):
    """Towers of other widths share the matmul too; other inputs and the identity are left out."""
    torch.manual_seed(0)
    hidden = {"a": (4, 2), "b": (3,), "c": (4,), "none": ()}
    mlps = {name: MLP(7, each, norm).to(dtype) for name, each in hidden.items()}
    x, other = (torch.randn(6, 7, dtype=dtype, requires_grad=True) for _ in range(2))
    inputs = {"a": x, "b": x, "c": other, "none": x}
    first = first_layers(mlps, inputs)
    assert list(first) == ["a", "b"]
    leaves = [x, *(each for name in ("a", "b") for each in mlps[name].parameters())]
    found = [mlps[name](x, first[name]) for name in ("a", "b")]
    expected = [mlps[name](x) for name in ("a", "b")]
    # A norm, and more so its gradient, divides by what may be small: ten times the sums' length.
    times = 10 if norm == "batch" else 1
    for each, wanted in zip(found, expected, strict=True):
        assert_close(each, wanted, length=times * (7 + 4 + 6))
    one, two = (sum(z.square().sum() for z in each) for each in (found, expected))
    for each, wanted in zip(
        torch.autograd.grad(one, leaves), torch.autograd.grad(two, leaves), strict=True
    ):
        assert_close(each, wanted, length=2 * times * (7 + 4 + 6))
