"""AdaTT against the paper's equations, with gradients, in float64."""

import pytest
import torch
from tests.models.plain import WIDTH, built, compared, expert, softmax

from polyrank.errors import ConfigError
from polyrank.models.adatt import AdaTT

ODD = ("shared", "training", "own")  # names that a container of modules could take for its own


def reference(names, levels, own, shared):
    """{task: (B, H)}, expert by expert; `own` and `shared` are the experts of each group."""

    def plain(weights, x):
        groups = [*names, None]  # None is the shared group
        h = dict.fromkeys(groups, x)

        def at_gate(gate, value):
            rows = [weights[f"{gate}.task.{name}.weight"] for name in names]
            rows += [weights[f"{gate}.shared.weight"]] if shared else []
            return softmax(value @ torch.cat(rows).T)

        for level in range(levels):
            at = f"level.{level}"
            experts = {
                name: [expert(weights, f"{at}.expert.{name}.{i}", h[name]) for i in range(own)]
                for name in names
            }
            experts[None] = [expert(weights, f"{at}.shared.{i}", h[None]) for i in range(shared)]
            everyone = [each for group in groups for each in experts[group]]
            after = {}
            for group in groups if shared and level < levels - 1 else names:
                gate = f"{at}.gate.{group}" if group is not None else f"{at}.shared_gate"
                w = at_gate(gate, h[group])
                fused = sum(w[:, [i]] * each for i, each in enumerate(everyone))
                count = len(experts[group])
                native = f"{at}.own.{group}" if group is not None else f"{at}.shared_own"
                v = weights[f"{native}.weight"] if count > 1 else torch.ones(1)
                after[group] = fused + sum(v[i] * experts[group][i] for i in range(count))
            h = after
        return {name: h[name] for name in names}

    return plain


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("names", [("click",), ("click", "buy"), ODD])
@pytest.mark.parametrize(("own", "shared"), [(1, 0), (1, 1), (2, 0), (2, 3)])
def test_it_is_its_equations(levels, names, own, shared):
    spec = AdaTT(levels=levels, task_experts=own, shared_experts=shared, hidden=[4])
    terms = levels * (WIDTH + 4 + len(names) * own + shared + own)
    compared(built(spec, names), reference(names, levels, own, shared), 10 * terms)


def test_the_residual_is_of_the_tasks_own_experts():
    """The mixture of all and the residual add up, and the residual alone is the task's."""
    trunk = built(AdaTT(levels=1, task_experts=1), ("click", "buy"))
    x = torch.randn(5, WIDTH).double()
    (level,) = trunk.mixing(x)
    assert level.experts == ("click 0", "buy 0", "shared group 0")
    assert torch.equal(level.residuals["buy"], level.outputs[:, 1])
    names = [name for name, _ in trunk.named_parameters() if ".own." in name]
    assert names == []  # of one expert, v is 1


def test_the_shared_group_is_what_is_shared():
    trunk = built(AdaTT(levels=2, shared_experts=2), ("click", "buy"))
    shared = {id(each) for each in trunk.shared_parameters()}
    names = {name.split(".")[2] for name, each in trunk.named_parameters() if id(each) in shared}
    assert names == {"shared", "shared_gate", "shared_own"}
    assert built(AdaTT(shared_experts=0), ("click", "buy")).shared_parameters() == []


@pytest.mark.parametrize(
    ("field", "value", "least"),
    [("levels", 0, 1), ("task_experts", 0, 1), ("shared_experts", -1, 0), ("hidden", [0], 1)],
)
def test_sizes_are_checked(field, value, least):
    with pytest.raises(
        ConfigError, match=f"AdaTT: {field} must be a whole number of at least {least}"
    ):
        AdaTT(**{field: value})
