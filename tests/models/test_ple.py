"""PLE against the paper's equations, written plainly in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import polyrank as pr
from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.models.ple import PLE
from polyrank.nn.experts import mixture
from polyrank.schema import DenseFeature, Schema, Task


def built(names=("click", "buy"), **options):
    tasks = tuple(Task(name) for name in names)
    schema = Schema([DenseFeature("x", encoding="standard")], tasks)
    layout = Layout(schema, SimpleNamespace(rows={}, columns={"x": 6}), {})
    torch.manual_seed(0)
    return PLE(**options).build(layout, tasks)


def reference(weights, x, tasks, levels, counts, depth):
    """Return {task: (B, H)}: per row, sums and products alone, from the weights' lasting names.

    `counts` are the experts of a task and the shared ones; `depth` is the layers of an expert.
    """
    weights = {name: each.detach().double().numpy() for name, each in weights.items()}

    def softmax(scores):
        exponentials = np.exp(scores)
        return exponentials / exponentials.sum()

    def expert(name, value):
        for layer in range(depth):
            weight, bias = (weights[f"{name}.linear.{layer}.{part}"] for part in ("weight", "bias"))
            value = np.maximum(weight @ value + bias, 0)
        return value

    own_count, shared_count = counts
    rows = []
    for row in x.double().numpy():
        g = dict.fromkeys([*(("task", task) for task in tasks), "shared"], row)
        for level in range(levels):
            at = f"level.{level}"
            e_shared = [expert(f"{at}.shared.{i}", g["shared"]) for i in range(shared_count)]
            e_own = {
                task: [expert(f"{at}.expert.{task}.{i}", g["task", task]) for i in range(own_count)]
                for task in tasks
            }
            after = {}
            for task in tasks:
                w = softmax(weights[f"{at}.gate.{task}.weight"] @ g["task", task])
                selected = np.stack(e_own[task] + e_shared)  # S^k: own experts, then shared
                after["task", task] = w @ selected
            if level < levels - 1:
                gate = np.concatenate(
                    [weights[f"{at}.shared_gate.task.{task}.weight"] for task in tasks]
                    + [weights[f"{at}.shared_gate.shared.weight"]]
                )
                everyone = np.stack([e for task in tasks for e in e_own[task]] + e_shared)
                after["shared"] = softmax(gate @ g["shared"]) @ everyone
            g = after
        rows.append({task: g["task", task] for task in tasks})
    return {task: np.stack([row[task] for row in rows]) for task in tasks}


# Names that a container of modules could take for its own.
ODD = ("shared", "training", "update", "expert", "level")


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("names", [("click",), ("click", "buy"), ODD])
@pytest.mark.parametrize(("counts", "hidden"), [((2, 2), (4,)), ((1, 3), (5, 3))])
def test_ple_is_its_equations(levels, names, counts, hidden):
    own, shared = counts
    trunk = built(names, levels=levels, task_experts=own, shared_experts=shared, hidden=hidden)
    x = torch.randn(5, 6)
    found = trunk(x)
    assert list(found) == list(names)
    expected = reference(trunk.state_dict(), x, names, levels, counts, len(hidden))
    for name in names:
        np.testing.assert_allclose(
            found[name].detach().numpy(), expected[name], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_every_level_but_the_last_has_the_shared_gate(levels):
    trunk = built(levels=levels)
    gates = [level.shared_gate is not None for level in trunk.level]
    assert gates == [True] * (levels - 1) + [False]
    names = {name for name in trunk.state_dict() if "shared_gate" in name}
    assert len(names) == 3 * (levels - 1)  # the tasks' two and the shared experts' rows


def test_weights_are_by_level_expert_and_task():
    expert = ("linear.0.weight", "linear.0.bias")
    banks = ("expert.click", "expert.buy", "shared")
    level = [f"{bank}.{i}.{name}" for bank in banks for i in range(2) for name in expert]
    level += ["gate.click.weight", "gate.buy.weight"]
    shared = [f"shared_gate.{name}.weight" for name in ("task.click", "task.buy", "shared")]
    assert list(built(levels=2).state_dict()) == [
        *(f"level.0.{name}" for name in (*level, *shared)),
        *(f"level.1.{name}" for name in level),
    ]


def test_the_shared_gate_carries_one_task_to_another():
    """With one level a task's experts are its own; with more, other tasks read them too."""
    for levels, reaches in ((1, False), (2, True)):
        trunk = built(levels=levels)
        trunk(torch.randn(50, 6))["buy"].square().sum().backward()
        gradient = trunk.level[0].expert["click"][0].linear[0].weight.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == reaches


def test_experts_start_different():
    level = built().level[0]
    first = [*level.expert["click"], *level.expert["buy"], *level.shared]
    weights = [expert.linear[0].weight for expert in first]
    assert all(
        not torch.equal(one, two) for i, one in enumerate(weights) for two in weights[i + 1 :]
    )


@pytest.mark.parametrize("levels", [1, 2])
def test_the_shared_experts_and_shared_gates_are_the_shared_parameters(levels):
    trunk = built(ODD, levels=levels)
    shared = {id(each) for each in trunk.shared_parameters()}
    names = {name for name, each in trunk.named_parameters() if id(each) in shared}
    expected = {
        name for name, _ in trunk.named_parameters() if name.split(".")[2].startswith("shared")
    }
    assert names == expected
    assert len(trunk.shared_parameters()) == len(names)


def test_gates_have_neither_norm_nor_dropout_nor_bias():
    trunk = built(norm="batch", dropout=0.5)
    level, x = trunk.level[0], torch.randn(5, 6)
    assert torch.equal(level.gate["click"](x), level.gate["click"](x))
    assert torch.equal(level.shared_gate(x), level.shared_gate(x))
    gates = [name for name, _ in trunk.named_parameters() if "gate" in name]
    assert all(name.endswith(".weight") for name in gates)


@pytest.mark.parametrize("field", ["levels", "shared_experts", "task_experts", "hidden"])
def test_sizes_are_checked(field):
    value = [0] if field == "hidden" else 0
    with pytest.raises(
        ConfigError, match=f"PLE: {field} must be a whole number of at least 1, got 0"
    ):
        PLE(**{field: value})


def test_oddly_named_tasks_train_and_come_back(tmp_path):
    generator = np.random.default_rng(0)
    rows = {"item": generator.integers(0, 9, 200)}
    rows |= {name: generator.integers(0, 2, 200) for name in ODD}
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task(name) for name in ODD])
    bundle = pr.fit(schema, pr.Model(trunk=PLE()), train=rows, epochs=1)
    bundle.save(tmp_path / "b")
    assert pr.load(tmp_path / "b").predict(rows).equals(bundle.predict(rows))


def test_each_level_tells_who_sees_which_expert():
    trunk = built(("click", "shared"), levels=2, shared_experts=1, task_experts=2, hidden=[3])
    first, last = trunk.mixing(torch.randn(5, 6))
    own = {name: (f"{name} 0", f"{name} 1") for name in ("click", "shared")}
    assert first.experts == (*own["click"], *own["shared"], "shared group 0")
    assert first.choice("click") == (*own["click"], "shared group 0")
    assert first.choice("shared") == (*own["shared"], "shared group 0")
    assert first.choice("shared group") == first.experts
    assert (list(first.gates), list(last.gates)) == (
        ["click", "shared", "shared group"],
        ["click", "shared"],
    )
    assert (first.level, last.level) == ("level 0", "level 1")


def test_the_next_level_reads_what_the_gates_mixed():
    trunk = built(levels=2, hidden=[3]).double()
    x = torch.randn(5, 6).double()
    first, _ = trunk.mixing(x)
    mixed = {name: mixture(weights, first.outputs) for name, weights in first.gates.items()}
    common = mixed.pop("shared group")
    after, _ = trunk.level[1](mixed, common)
    torch.testing.assert_close(after, trunk(x), rtol=1e-12, atol=1e-12)
