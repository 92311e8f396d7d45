"""The cross network against its formula, from its start at the identity."""

import numpy as np
import pytest
import torch
from tests.numerics import assert_close

from polyrank.errors import ConfigError
from polyrank.models import cross
from polyrank.models.cross import MANY_ROWS, Cross, CrossLayers, LowRank


def low_rank(width, rank, layers):
    return CrossLayers(LowRank(width, rank) for _ in range(layers))


def drawn(width=7, rank=3, layers=1):
    """A cross network off its start, in float64."""
    torch.manual_seed(0)
    found = low_rank(width, rank, layers).double()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.normal_()
    return found


@pytest.mark.parametrize("layers", [1, 3])
def test_the_formula(layers):
    """x_{l+1} = x_0 ⊙ (U V x_l + b) + x_l: Wang et al., WWW 2021, eq. 1-2."""
    network = drawn(layers=layers)
    x = torch.randn(11, 7, dtype=torch.float64)
    first = expected = x.numpy()
    for each in range(layers):
        v, u, b = (
            network.state_dict()[f"layer.{each}.{name}"].numpy()
            for name in ("v.weight", "u.weight", "u.bias")
        )
        rows = [u @ (v @ row) + b for row in expected]
        expected = first * np.array(rows) + expected
    assert_close(network(x), torch.from_numpy(expected), layers * (7 + 3 + 3))


def test_each_layer_has_weights_of_its_own():
    shapes = {name: tuple(each.shape) for name, each in drawn(layers=2).named_parameters()}
    assert shapes == {
        f"layer.{each}.{name}": shape
        for each in (0, 1)
        for name, shape in (("v.weight", (3, 7)), ("u.weight", (7, 3)), ("u.bias", (7,)))
    }


def test_it_starts_at_the_identity_and_leaves_it():
    """With U = 0, V has no gradient in the first step, and U and b have."""
    torch.manual_seed(0)
    network = low_rank(6, 4, 2)
    x = torch.randn(5, 6)
    assert torch.equal(network(x), x)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        moved.append([bool(each.v.weight.grad.any()) for each in network.layer])
        assert all(each.u.weight.grad.any() and each.u.bias.grad.any() for each in network.layer)
        optimizer.step()
    assert moved == [[False, False], [True, True]]


def test_one_layer_learns_a_product_that_no_linear_map_has():
    torch.manual_seed(1)
    x = torch.randn(500, 4)
    y = x[:, 0] * x[:, 1] - x[:, 2] * x[:, 3]
    left = []
    for before in (torch.nn.Identity(), low_rank(4, 4, 1)):
        network = torch.nn.Sequential(before, torch.nn.Linear(4, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(600):
            loss = (network(x).squeeze(1) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        left.append(loss.item() / y.var().item())
    assert left[0] > 0.9
    assert left[1] < 0.01


@pytest.mark.parametrize("name", ["rank", "layers"])
@pytest.mark.parametrize("value", [0, 1.5, True, "2"])
def test_a_size_that_is_none_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"Cross: {name} must be a whole number of at least 1"):
        Cross(**{name: value})


@pytest.mark.parametrize("layers", [1, 2])
def test_many_rows_have_the_same_products_and_gradients(layers):
    """Rows of a large batch are taken by chunks, the last of them smaller."""
    network = drawn(layers=layers)
    x = torch.randn(MANY_ROWS + 3, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(MANY_ROWS + 3, 7, dtype=torch.float64)
    leaves = [x, *network.parameters()]

    def gradients(crossed):
        # Balances ask for gradients more than once.
        for _ in range(2):
            found = torch.autograd.grad((crossed * weight).sum(), leaves, retain_graph=True)
        return found

    by_chunks = network.train()(x)
    whole = network.eval()(x)
    assert torch.allclose(by_chunks, whole, rtol=1e-12)
    for one, other in zip(gradients(by_chunks), gradients(whole), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_chunks_have_the_gradients_of_finite_differences(monkeypatch):
    monkeypatch.setattr(cross, "MANY_ROWS", 1)
    monkeypatch.setattr(cross, "CHUNK_ROWS", 2)
    network = drawn().train()
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, x)
