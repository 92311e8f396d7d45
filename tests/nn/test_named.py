"""Modules by the names that people give, which are never attributes."""

import copy

import pytest
import torch
from torch import nn

from polyrank.nn.named import Named

NAMES = ["update", "forward", "keys", "train", "training", "_modules", "state_dict", "click"]


def built():
    return Named({name: nn.Linear(1, 1) for name in NAMES})


def test_a_module_may_have_any_name():
    named = built()
    assert list(named) == NAMES
    assert [name for name, _ in named.items()] == NAMES
    assert vars(named).keys() & NAMES == vars(nn.Module()).keys() & NAMES
    assert named.eval()["training"].training is False
    assert named.train()["training"].training is True


def test_a_state_dict_has_the_names_in_order():
    named = built()
    parent = nn.ModuleDict({"head": named, "last": nn.Linear(1, 1, bias=False)})
    weights = [f"{name}.{part}" for name in NAMES for part in ("weight", "bias")]
    assert list(named.state_dict()) == weights
    assert list(parent.state_dict()) == [*(f"head.{each}" for each in weights), "last.weight"]


@pytest.mark.parametrize("change", [lambda named: named, copy.deepcopy])
def test_a_state_dict_loads(change):
    named = nn.Sequential(change(built()))
    state = {name: each + 1 for name, each in named.state_dict().items()}
    named.load_state_dict(state)
    for name in NAMES:
        assert torch.equal(named[0][name].weight, state[f"0.{name}.weight"])


def test_what_does_not_fit_is_refused_by_name():
    named = built()
    state = named.state_dict()
    state["Forward.weight"] = state.pop("forward.weight")
    with pytest.raises(RuntimeError) as refused:
        named.load_state_dict(state)
    assert '"forward.weight"' in str(refused.value)
    assert '"Forward.weight"' in str(refused.value)
    assert ":weight" not in str(refused.value)


def test_a_name_may_have_dots():
    names = ["a", "a.b", "a.b.c", "a.weight"]
    named = nn.Sequential(Named({name: nn.Linear(1, 1) for name in names}))
    state = {
        key: torch.full_like(each, at) for at, (key, each) in enumerate(named.state_dict().items())
    }
    assert [*state] == [f"0.{name}.{part}" for name in names for part in ("weight", "bias")]
    named.load_state_dict(state)
    for key, each in named.state_dict().items():
        assert torch.equal(each, state[key])
