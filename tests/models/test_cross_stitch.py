"""Cross-stitch against its equation, with gradients, in float64."""

import pytest
import torch
from tests.models.plain import WIDTH, built, compared, expert

from polyrank.errors import ConfigError
from polyrank.models.cross_stitch import CrossStitch

ODD = ("task", "training", "weight")  # names that a container of modules could take for its own


def reference(names, layers, activation="relu"):
    def plain(weights, x):
        s = dict.fromkeys(names, x)
        for at in range(layers):
            z = {k: expert(weights, f"layer.{at}.{k}", s[k], activation) for k in names}
            s = {
                k: sum(weights[f"stitch.{at}.task.{k}.{j}.weight"] * z[j] for j in names)
                for k in names
            }
        return s

    return plain


@pytest.mark.parametrize("names", [("click",), ("click", "buy"), ODD])
@pytest.mark.parametrize("hidden", [(4,), (5, 3)])
@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_it_is_its_equation(names, hidden, activation):
    """Misra et al., CVPR 2016, eq. 1."""
    trunk = built(CrossStitch(hidden=hidden, activation=activation), names)
    compared(trunk, reference(names, len(hidden), activation), len(hidden) * (WIDTH + 5 + 3))


def test_towers_begin_nearly_separate():
    trunk = built(CrossStitch(hidden=[4, 4]), ("a", "b", "c"))
    for stitch in trunk.stitch:
        rows = stitch(torch.eye(3, dtype=torch.float64)[None])[0]
        expected = torch.full((3, 3), 0.05).double()
        expected.fill_diagonal_(0.9)
        torch.testing.assert_close(rows, expected, rtol=1e-6, atol=0)
    alone = built(CrossStitch(hidden=[4]), ("a",))
    assert alone.stitch[0].task["a"]["a"].weight.item() == 1


def test_weights_are_by_layer_and_by_both_tasks():
    names = list(built(CrossStitch(hidden=[4]), ("click", "buy")).state_dict())
    assert names == [
        *(f"layer.0.{k}.linear.0.{each}" for k in ("click", "buy") for each in ("weight", "bias")),
        *(f"stitch.0.task.{k}.{j}.weight" for k in ("click", "buy") for j in ("click", "buy")),
    ]


def test_all_stitches_but_the_last_are_shared():
    trunk = built(CrossStitch(hidden=[4, 3]), ("click", "buy"))
    shared = {id(each) for each in trunk.shared_parameters()}
    names = {name for name, each in trunk.named_parameters() if id(each) in shared}
    assert {name.rpartition(".:")[0].partition(".task")[0] for name in names} == {"stitch.0"}
    assert len(names) == 4


def test_layers_are_checked():
    with pytest.raises(ConfigError, match="CrossStitch: hidden must be a list of widths, got 4"):
        CrossStitch(hidden=4)
    with pytest.raises(ConfigError, match="unknown activation 'swsh'; did you mean 'swish'"):
        CrossStitch(activation="swsh")
