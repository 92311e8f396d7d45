"""Packed experts, gates and first layers equal the plain loop over members, names and draws too."""

import copy
import io

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import batch_norm, linear

from polyrank.nn.bank import Bank
from polyrank.nn.experts import Gate, mixture, mixtures
from polyrank.nn.mlp import MLP, first_layers
from polyrank.nn.named import Named

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
shapes = pytest.mark.parametrize("hidden", [(), (4,), (5, 3), (6, 2, 4)])
norms = pytest.mark.parametrize("norm", ["none", "batch"])


def close(found, expected, dtype, times=1):
    tolerance = times * TOLERANCE[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def plain(weights, x, members, depth, norm):
    """Each member by itself, from the weights' lasting names; running statistics in place."""
    outputs = []
    for member in range(members):
        z = x
        for layer in range(depth):
            at = f"{member}.linear.{layer}"
            z = linear(z, weights[f"{at}.weight"], weights[f"{at}.bias"])
            if norm == "batch":
                at = f"{member}.norm.{layer}"
                mean, variance, weight, bias = (
                    weights[f"{at}.{name}"]
                    for name in ("running_mean", "running_var", "weight", "bias")
                )
                z = batch_norm(z, mean, variance, weight, bias, training=len(x) > 1)
            z = z.relu()
        outputs.append(z)
    return torch.stack(outputs, dim=1)


@shapes
@norms
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_a_bank_is_the_plain_loop_forward_backward_and_in_what_it_remembers(
    hidden, norm, dtype, rows
):
    torch.manual_seed(0)
    bank = Bank(7, 3, hidden, norm, 0.0).to(dtype)
    weights = {name: each.detach().clone() for name, each in bank.state_dict().items()}
    leaves = [name for name in weights if name.endswith(("weight", "bias"))]
    for name in leaves:
        weights[name].requires_grad_()
    x = torch.randn(rows, 7, dtype=dtype, requires_grad=True)
    expected = plain(weights, x, 3, len(hidden), norm)
    out = torch.randn_like(expected) / rows  # of a mean
    wanted = torch.autograd.grad(expected, [x, *(weights[name] for name in leaves)], out)
    found = bank(x)
    close(found, expected, dtype)
    found.backward(out)
    # Gradients through batch norms are differences: ten times the rounding.
    close(x.grad, wanted[0], dtype, times=10)
    members = dict(enumerate(bank))
    for name, gradient in zip(leaves, wanted[1:], strict=True):
        number, path = name.split(".", 1)
        close(members[int(number)].get_buffer(path).grad, gradient, dtype, times=10)
    for name, each in bank.state_dict().items():
        if "running" in name:
            close(each, weights[name], dtype)
        if "tracked" in name:
            assert each == (rows > 1)


@shapes
@norms
def test_names_shapes_and_first_draws_are_those_of_members_drawn_in_turn(hidden, norm):
    torch.manual_seed(3)
    expected = {
        f"{number}.{name}": each
        for number in range(3)
        for name, each in MLP(7, hidden, norm).state_dict().items()
    }
    torch.manual_seed(3)
    found = Bank(7, 3, hidden, norm, 0.0).state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_the_packed_tensors_are_the_parameters():
    bank = Bank(7, 3, (4,), "batch", 0.0)
    shapes = {name: tuple(each.shape) for name, each in bank.named_parameters()}
    assert shapes == {
        "packed.linear.0.weight": (12, 7), "packed.linear.0.bias": (12,),
        "packed.norm.0.weight": (12,), "packed.norm.0.bias": (12,),
    }  # fmt: skip


def halved(bank):
    other = copy.deepcopy(bank)
    other.load_state_dict({name: each / 2 for name, each in bank.state_dict().items()})
    return other


def assigned(bank):
    other = copy.deepcopy(bank)
    other.load_state_dict({n: each.clone() for n, each in bank.state_dict().items()}, assign=True)
    return other


def through_a_file(bank):
    file = io.BytesIO()
    torch.save(bank, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "change", [copy.deepcopy, halved, assigned, through_a_file, lambda bank: bank.double().float()]
)
def test_members_stay_views_whatever_is_done_to_the_bank(change):
    bank = change(Bank(7, 3, (4, 2), "batch", 0.0)).eval()
    x = torch.randn(5, 7)
    close(bank(x), torch.stack([member(x) for member in bank], dim=1), torch.float32)
    with torch.no_grad():
        bank[1].linear[0].weight.fill_(2.0)
        bank[2].norm[1].running_mean.fill_(-1.0)
    assert torch.equal(bank.packed.linear[0].weight[4:8], torch.full((4, 7), 2.0))
    close(bank(x), torch.stack([member(x) for member in bank], dim=1), torch.float32)


def test_a_state_dict_that_does_not_fit_is_refused():
    bank = Bank(7, 3, (4,), "none", 0.0)
    state = bank.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*1\.linear\.0\.bias"):
        bank.load_state_dict({n: each for n, each in state.items() if n != "1.linear.0.bias"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*packed"):
        bank.load_state_dict(state | {"packed.linear.0.weight": torch.zeros(12, 7)})


def test_a_function_of_the_packed_parameters_and_buffers():
    bank = Bank(7, 3, (4,), "batch", 0.0)
    x = torch.randn(5, 7)
    parameters = {name: each.detach() * 2 for name, each in bank.named_parameters()}
    buffers = {name: each.clone() for name, each in bank.named_buffers()}
    before = copy.deepcopy(bank.state_dict())
    found = functional_call(bank, (parameters, buffers), (x,))
    assert all(torch.equal(each, before[name]) for name, each in bank.state_dict().items())
    assert buffers["packed.norm.0.num_batches_tracked"] == 1
    with torch.no_grad():
        for name, each in bank.named_parameters():
            each.copy_(parameters[name])
    close(found, bank(x), torch.float32)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mixtures_of_all_gates_are_those_of_each(dtype):
    gate = Named({name: Gate(7, 3) for name in ("click", "buy", "update")}).to(dtype)
    x, outputs = (
        torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((5, 7), (5, 3, 4))
    )
    found = mixtures(gate, x, outputs)
    expected = {name: mixture(gate[name](x), outputs) for name in gate}
    assert list(found) == list(expected)
    leaves = [x, outputs, *gate.parameters()]
    for name in gate:
        close(found[name], expected[name], dtype)
    one, two = (sum(z.square().sum() for z in each.values()) for each in (found, expected))
    for each, other in zip(
        torch.autograd.grad(one, leaves), torch.autograd.grad(two, leaves), strict=True
    ):
        close(each, other, dtype)


@norms
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_first_layers_of_those_that_read_one_tensor_are_each_ones_own(norm, dtype):
    """Towers of other widths share the matmul too; other inputs and the identity are left out."""
    hidden = {"a": (4, 2), "b": (3,), "c": (4,), "none": ()}
    mlps = {name: MLP(7, each, norm).to(dtype) for name, each in hidden.items()}
    x, other = (torch.randn(6, 7, dtype=dtype, requires_grad=True) for _ in range(2))
    inputs = {"a": x, "b": x, "c": other, "none": x}
    first = first_layers(mlps, inputs)
    assert list(first) == ["a", "b"]
    leaves = [x, *(each for name in ("a", "b") for each in mlps[name].parameters())]
    found = [mlps[name](x, first[name]) for name in ("a", "b")]
    expected = [mlps[name](x) for name in ("a", "b")]
    for each, wanted in zip(found, expected, strict=True):
        close(each, wanted, dtype)
    one, two = (sum(z.square().sum() for z in each) for each in (found, expected))
    for each, wanted in zip(
        torch.autograd.grad(one, leaves), torch.autograd.grad(two, leaves), strict=True
    ):
        close(each, wanted, dtype)
