"""Dropout of whole fields: which columns go together, how often, and what stays."""

from types import SimpleNamespace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from polyrank.nn.field_dropout import FieldDropout

SLICES = {"user": slice(0, 3), "price": slice(3, 4), "#wide": slice(4, 6), "item": slice(6, 8)}
FEATURES = ["user", "price", "item"]
LAYOUT = SimpleNamespace(slices=SLICES, width=8)
ROWS = 20_000


def test_a_slot_goes_as_a_whole_and_the_others_are_divided_by_what_is_kept():
    torch.manual_seed(0)
    x = torch.randn(ROWS, 8)
    dropped = FieldDropout(LAYOUT, 0.2)(x)
    gone = {}
    for name in FEATURES:
        columns = SLICES[name]
        zero = dropped[:, columns] == 0
        assert torch.equal(zero.any(1), zero.all(1)), name
        gone[name] = zero.any(1)
        kept = ~gone[name]
        torch.testing.assert_close(dropped[kept, columns], x[kept, columns] / 0.8)
    deviation = (0.2 * 0.8 / ROWS) ** 0.5
    for each in gone.values():
        assert abs(each.float().mean() - 0.2) < 5 * deviation
    both = (gone["user"] & gone["item"]).float().mean()  # drawn apart
    assert abs(both - 0.04) < 5 * (0.04 * 0.96 / ROWS) ** 0.5


def test_what_a_first_stage_gives_always_stays():
    x = torch.randn(200, 8)
    dropped = FieldDropout(LAYOUT, 0.9)(x)
    assert torch.equal(dropped[:, SLICES["#wide"]], x[:, SLICES["#wide"]])
    assert (dropped[:, SLICES["user"]] == 0).any()


def test_in_evaluation_nothing_happens_and_nothing_is_drawn():
    x = torch.randn(5, 8)
    state = torch.get_rng_state()
    assert FieldDropout(LAYOUT, 0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dropped_slot_gets_no_gradient():
    x = torch.randn(50, 8, requires_grad=True)
    dropped = FieldDropout(LAYOUT, 0.5)(x)
    dropped.sum().backward()
    assert torch.equal(x.grad == 0, dropped == 0)
    assert (x.grad == 0).any()


def test_it_holds_nothing_that_a_bundle_saves():
    assert FieldDropout(LAYOUT, 0.5).state_dict() == {}


def traced(module, x):
    return make_fx(module)(x)


def compiled(module, _):
    return torch.compile(module, backend="eager", fullgraph=True)


@pytest.mark.parametrize("capture", [traced, compiled])
def test_a_captured_graph_draws_what_the_module_draws(capture):
    module, x = FieldDropout(LAYOUT, 0.5), torch.randn(30, 8)
    graph = capture(module, x)
    found = []
    for call, seed in ((module, 3), (graph, 3), (graph, 4)):
        torch.manual_seed(seed)
        found.append(call(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])  # drawn anew in each call
