"""Packed experts and gates equal the plain loop over experts; names and first draws too."""

import copy
import io

import pytest
import torch
from tests.numerics import assert_close
from torch.func import functional_call
from torch.nn.functional import batch_norm, linear

from polyrank.nn.experts import ExpertBank, Gate, mixture, mixtures
from polyrank.nn.mlp import MLP
from polyrank.nn.named import Named

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
LONGEST = 7 + 6 + 2 + 4  # terms of the sums of an expert's layers, one after the other
shapes = pytest.mark.parametrize("hidden", [(), (4,), (5, 3), (6, 2, 4)])
norms = pytest.mark.parametrize("norm", ["none", "batch"])


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
@dtypes
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_a_bank_is_the_plain_loop_forward_backward_and_in_what_it_remembers(
    hidden, norm, dtype, rows
):
    torch.manual_seed(0)
    bank = ExpertBank(7, 3, hidden, norm, 0.0).to(dtype)
    weights = {name: each.detach().clone() for name, each in bank.state_dict().items()}
    leaves = [name for name in weights if name.endswith(("weight", "bias"))]
    for name in leaves:
        weights[name].requires_grad_()
    x = torch.randn(rows, 7, dtype=dtype, requires_grad=True)
    expected = plain(weights, x, 3, len(hidden), norm)
    out = torch.randn_like(expected) / rows  # of a mean
    wanted = torch.autograd.grad(expected, [x, *(weights[name] for name in leaves)], out)
    found = bank(x)
    # A norm, and more so its gradient, divides by what may be small: ten times the sums' length.
    times = 10 if norm == "batch" else 1
    assert_close(found, expected, times * (LONGEST + rows))
    found.backward(out)
    assert_close(x.grad, wanted[0], 2 * times * (LONGEST + rows))
    members = dict(enumerate(bank))
    for name, gradient in zip(leaves, wanted[1:], strict=True):
        number, path = name.split(".", 1)
        assert_close(
            members[int(number)].get_buffer(path).grad, gradient, 2 * times * (LONGEST + rows)
        )
    for name, each in bank.state_dict().items():
        if "running" in name:
            assert_close(each, weights[name], LONGEST + rows)
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
    found = ExpertBank(7, 3, hidden, norm, 0.0).state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_the_packed_tensors_are_the_parameters():
    bank = ExpertBank(7, 3, (4,), "batch", 0.0)
    shapes = {name: tuple(each.shape) for name, each in bank.named_parameters()}
    assert shapes == {
        "linear.0.weight": (12, 7), "linear.0.bias": (12,),
        "norm.0.weight": (12,), "norm.0.bias": (12,),
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
    bank = change(ExpertBank(7, 3, (4, 2), "batch", 0.0)).eval()
    x = torch.randn(5, 7)
    assert_close(bank(x), torch.stack([expert(x) for expert in bank], dim=1), LONGEST)
    with torch.no_grad():
        bank[1].linear[0].weight.fill_(2.0)
        bank[2].norm[1].running_mean.fill_(-1.0)
    assert torch.equal(bank.linear[0].weight[4:8], torch.full((4, 7), 2.0))
    assert_close(bank(x), torch.stack([expert(x) for expert in bank], dim=1), LONGEST)


def test_a_state_dict_that_does_not_fit_is_refused():
    bank = ExpertBank(7, 3, (4,), "none", 0.0)
    state = bank.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*1\.linear\.0\.bias"):
        bank.load_state_dict({n: each for n, each in state.items() if n != "1.linear.0.bias"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*linear"):
        bank.load_state_dict(state | {"linear.0.weight": torch.zeros(12, 7)})


def test_a_function_of_the_packed_parameters_and_buffers():
    bank = ExpertBank(7, 3, (4,), "batch", 0.0)
    x = torch.randn(5, 7)
    parameters = {name: each.detach() * 2 for name, each in bank.named_parameters()}
    buffers = {name: each.clone() for name, each in bank.named_buffers()}
    before = copy.deepcopy(bank.state_dict())
    found = functional_call(bank, (parameters, buffers), (x,))
    assert all(torch.equal(each, before[name]) for name, each in bank.state_dict().items())
    assert buffers["norm.0.num_batches_tracked"] == 1
    with torch.no_grad():
        for name, each in bank.named_parameters():
            each.copy_(parameters[name])
    assert_close(found, bank(x), 10 * (LONGEST + 5))


@dtypes
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
        assert_close(found[name], expected[name], 7 + 3)
    one, two = (sum(z.square().sum() for z in each.values()) for each in (found, expected))
    for each, other in zip(
        torch.autograd.grad(one, leaves), torch.autograd.grad(two, leaves), strict=True
    ):
        assert_close(each, other, 2 * (7 + 3 + 4 + 5))


def test_the_gate_is_softmax_of_a_linear_map():
    gate = Gate(4, 3)
    x = torch.randn(5, 4)
    assert_close(gate(x), torch.softmax(x @ gate.weight.T, dim=1), 4 + 3)
    assert [name for name, _ in gate.named_parameters()] == ["weight"]


def test_a_mixture_is_the_weighted_sum_of_experts():
    weights, outputs = torch.rand(2, 3), torch.rand(2, 3, 4)
    expected = sum(weights[:, e, None] * outputs[:, e] for e in range(3))
    assert_close(mixture(weights, outputs), expected, 3)


def test_experts_start_different():
    bank = ExpertBank(4, 3, [2], "none", 0.0)
    out = bank(torch.randn(5, 4))
    assert out.shape == (5, 3, 2)
    assert not torch.equal(bank[0].linear[0].weight, bank[1].linear[0].weight)


@shapes
@norms
def test_a_bank_of_swish_is_each_expert_by_itself(hidden, norm):
    torch.manual_seed(0)
    bank = ExpertBank(7, 3, hidden, norm, 0.0, "swish").double().eval()
    x = torch.randn(5, 7).double()
    for at, expert in enumerate(bank):
        z = x
        for layer, normed in zip(expert.linear, expert.norm, strict=True):
            z = normed(layer(z))
            z = z / (1 + (-z).exp())
        assert_close(bank(x)[:, at], z, 10 * LONGEST)
