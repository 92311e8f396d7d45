"""STEM against its equations, with gradients and what stops them, in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.models.plain import WIDTH, compared, expert, softmax

import polyrank as pr
from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.models.stem import STEM
from polyrank.schema import Task

NAMES = ("click", "shared")  # a name that the shared group could take for its own
# x: three sets of one column each, then three numbers that every set has.
COLUMNS = {"click": [0, 3, 4, 5], "shared": [1, 3, 4, 5], None: [2, 3, 4, 5]}


def built(spec):
    tasks = tuple(Task(name) for name in NAMES)
    schema = pr.Schema([pr.SparseFeature("user"), pr.DenseFeature("x", encoding="none")], tasks)
    layout = Layout(schema, SimpleNamespace(rows={"user": 4}, columns={"x": 3}), {"user": 3},
                    sets=3)  # fmt: skip
    assert layout.width == WIDTH
    torch.manual_seed(0)
    return spec.build(layout, tasks).double()


def reference(levels, own, shared, gate_layers):
    """{task: (B, H)}, expert by expert; None is the shared set."""

    def plain(w, x):
        h = {group: x[:, columns] for group, columns in COLUMNS.items()}
        for level in range(levels):
            at = f"level.{level}"
            e = {k: [expert(w, f"{at}.expert.{k}.{i}", h[k]) for i in range(own)] for k in NAMES}
            e[None] = [expert(w, f"{at}.shared.{i}", h[None]) for i in range(shared)]
            after = {}
            for group in COLUMNS if level < levels - 1 else NAMES:
                gate = f"{at}.gate.{group}" if group else f"{at}.shared_gate"
                read = h[group] + h[None] if group else h[None]
                read = expert(w, f"{gate}.network", read) if gate_layers else read
                rows = [w[f"{gate}.choice.task.{k}.weight"] for k in NAMES]
                weights = softmax(read @ torch.cat([*rows, w[f"{gate}.choice.shared.weight"]]).T)
                seen = [
                    each if group in (k, None) or k is None else each.detach()
                    for k in (*NAMES, None)
                    for each in e[k]
                ]
                after[group] = sum(weights[:, [i]] * each for i, each in enumerate(seen))
            h = after
        return {k: h[k] for k in NAMES}

    return plain


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("own", "shared"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("gate_hidden", [(), (3,)])
def test_it_is_its_equations(levels, own, shared, gate_hidden):
    spec = STEM(levels=levels, task_experts=own, shared_experts=shared, hidden=[4],
                gate_hidden=gate_hidden)  # fmt: skip
    compared(built(spec), reference(levels, own, shared, len(gate_hidden)), 100 * levels * WIDTH)


def test_a_tasks_embeddings_learn_from_its_own_labels_alone():
    trunk = built(STEM(hidden=[4]))
    x = torch.randn(9, WIDTH, dtype=torch.float64, requires_grad=True)
    trunk(x)["click"].sum().backward()
    moved = (x.grad != 0).any(dim=0).tolist()
    assert moved == [True, False, True, True, True, True]  # not the set of the other task
    others = [each.grad for name, each in trunk.named_parameters() if "expert.:shared" in name]
    assert others
    assert all(each is None or not each.any() for each in others)


def test_tables_hold_a_set_for_each_task_and_one_for_all():
    rows = {"item": np.arange(60) % 7, "click": np.arange(60) % 2, "buy": np.arange(60) % 3 == 0}
    rows["buy"] = rows["buy"] * rows["click"]
    schema = pr.Schema(
        [pr.SparseFeature("item")], [pr.Task("click"), pr.Task("buy", given="click")]
    )
    model = pr.Model(trunk=STEM(), embed_dim=4, interaction=False)
    bundle = pr.fit(schema, model, train=rows, epochs=1)
    layout = bundle.ranker.layout
    assert (layout.sets, layout.widths) == (3, {"item": 12})
    assert bundle.ranker.named_weights()["embed.item"].shape == (8, 12)
    assert [layout.of_set(number)[0] for number in range(3)] == [
        slice(0, 4), slice(4, 8), slice(8, 12),
    ]  # fmt: skip
    inside = pr.Model(trunk=pr.PEPNet(trunk=STEM(), gates=["item"]), embed_dim=4)
    assert pr.fit(schema, inside, train=rows, epochs=1).ranker.layout.sets == 3


def test_a_layout_without_sets_is_refused():
    tasks = tuple(Task(name) for name in NAMES)
    schema = pr.Schema([pr.SparseFeature("user")], tasks)
    layout = Layout(schema, SimpleNamespace(rows={"user": 4}, columns={}), {"user": 3})
    with pytest.raises(ConfigError, match=r"STEM needs tables of 3 sets .* the layout has 1"):
        STEM().build(layout, tasks)


def test_the_shared_experts_are_what_is_shared():
    trunk = built(STEM(levels=2))
    shared = {id(each) for each in trunk.shared_parameters()}
    names = {name.split(".")[2] for name, each in trunk.named_parameters() if id(each) in shared}
    assert names == {"shared", "shared_gate"}


@pytest.mark.parametrize("field", ["levels", "shared_experts", "task_experts", "hidden"])
def test_sizes_are_checked(field):
    value = [0] if field == "hidden" else 0
    with pytest.raises(
        ConfigError, match=f"STEM: {field} must be a whole number of at least 1, got 0"
    ):
        STEM(**{field: value})
    with pytest.raises(ConfigError, match="STEM: gate_hidden must be a list of widths, got 3"):
        STEM(gate_hidden=3)
