"""Cross networks with full matrices against their formulas, row by row in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.numerics import assert_close

from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.models.dcnv2 import DCNv2
from polyrank.models.gdcn import GDCN
from polyrank.schema import DenseFeature, Schema, Task

WIDTH = 7
kinds = pytest.mark.parametrize("kind", [DCNv2, GDCN])


def drawn(spec):
    """The module of an interaction off its start, in float64."""
    schema = Schema([DenseFeature("x", encoding="standard")], [Task("click")])
    layout = Layout(schema, SimpleNamespace(rows={}, columns={"x": WIDTH}), {})
    torch.manual_seed(0)
    found = spec.build(layout).double()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.normal_(std=0.5)
    return found


def crossed(kind, weights, first, layers, at=""):
    """Return x_L of one row and, by finite sums alone, nothing of torch."""
    x = first
    for each in range(layers):
        w, b = weights[f"{at}layer.{each}.w.weight"], weights[f"{at}layer.{each}.w.bias"]
        product = first * (w @ x + b)
        if kind is GDCN:
            product = product / (1 + np.exp(-weights[f"{at}layer.{each}.gate.weight"] @ x))
        x = product + x
    return x


@kinds
@pytest.mark.parametrize("layers", [1, 3])
def test_the_formula(kind, layers):
    """Wang et al., WWW 2021, eq. 1; Wang et al., CIKM 2023, eq. 2."""
    network = drawn(kind(layers=layers))
    weights = {name: each.numpy() for name, each in network.state_dict().items()}
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    expected = [crossed(kind, weights, row, layers) for row in x.numpy()]
    assert_close(network(x), torch.from_numpy(np.array(expected)), 100 * layers * WIDTH)


@kinds
def test_parallel_adds_a_linear_map_of_layers_that_read_x(kind):
    network = drawn(kind(layers=2, structure="parallel", hidden=[4, 3]))
    weights = {name: each.numpy() for name, each in network.state_dict().items()}
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    expected = []
    for row in x.numpy():
        deep = row
        for layer in (0, 1):
            w, b = (weights[f"deep.linear.{layer}.{name}"] for name in ("weight", "bias"))
            deep = np.maximum(w @ deep + b, 0)
        both = np.concatenate([crossed(kind, weights, row, 2, "cross."), deep])
        # The paper's linear map of both, the part of the cross network at the identity.
        expected.append(np.hstack([np.eye(WIDTH), weights["output.weight"]]) @ both)
    assert_close(network(x), torch.from_numpy(np.array(expected)), 200 * WIDTH)


@kinds
@pytest.mark.parametrize("options", [{}, {"structure": "parallel", "hidden": [4]}])
def test_gradients_are_those_of_finite_differences(kind, options):
    network = drawn(kind(layers=2, **options))
    x = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in network.named_parameters()]

    def called(x, *weights):
        return torch.func.functional_call(network, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(called, (x, *network.parameters()))


@kinds
@pytest.mark.parametrize("options", [{}, {"structure": "parallel", "hidden": [4]}])
def test_it_starts_at_the_identity_and_leaves_it(kind, options):
    schema = Schema([DenseFeature("x", encoding="standard")], [Task("click")])
    layout = Layout(schema, SimpleNamespace(rows={}, columns={"x": WIDTH}), {})
    torch.manual_seed(0)
    network = kind(**options).build(layout)
    x = torch.randn(20, WIDTH)
    assert torch.equal(network(x), x)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    assert all(each.grad.any() for each in network.parameters())


@kinds
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers must be a whole number of at least 1, got 0"),
        ({"structure": "paralel"}, "unknown structure 'paralel'; did you mean 'parallel'"),
        ({"hidden": [0], "structure": "parallel"}, "hidden must be a whole number of at least 1"),
        ({"hidden": 4}, "hidden must be a list of widths, got 4"),
        ({"hidden": [4]}, r"got hidden=\[4\] with structure='stacked'"),
        ({"structure": "parallel"}, r"got hidden=\[\] with structure='parallel'"),
        ({"dropout": 1}, "dropout must be a number of at least 0 and below 1, got 1"),
    ],
)
def test_options_are_checked(kind, options, message):
    with pytest.raises(ConfigError, match=f"{kind.__name__}: .*{message}"):
        kind(**options)
