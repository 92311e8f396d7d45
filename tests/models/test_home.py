"""HoME against its equations, with gradients, in float64."""

import pytest
import torch
from tests.models.plain import WIDTH, built, compared, expert, softmax

import polyrank as pr
from polyrank.errors import ConfigError
from polyrank.models.home import HoME
from polyrank.schema import Task

FUNNELS = (Task("click"), Task("buy", given="click"), Task("shared"))


def reference(category, counts, activation="swish"):
    """{task: (B, H)}, expert by expert; `counts` are those of tasks, categories and shared."""
    of_task, of_category, of_shared = counts
    names = list(dict.fromkeys(category.values()))

    def plain(w, x):
        def group(name, count, v):
            """F(v), then each expert."""
            gate = f"{name}.feature_gate"
            choice = softmax(v @ w[f"{gate}.choice.weight"].T)
            mask = 0
            for at in range(2):
                low = v @ w[f"{gate}.down.weight"].chunk(2)[at].T
                mask = mask + choice[:, [at]] * 2 / (1 + (-low @ w[f"{gate}.up"][at].T).exp())
            return [expert(w, f"{name}.expert.{i}", v * mask, activation) for i in range(count)]

        def mixed(scores, experts):
            weights = softmax(scores)
            return sum(weights[:, [i]] * each for i, each in enumerate(experts))

        def own(name, v, experts):
            scores = v @ w[f"{name}.weight"].T
            if len(experts) == 1:
                return experts[0] / (1 + (-scores).exp())
            return mixed(scores, experts)

        e = {c: group(f"meta.category.{c}", of_category, x) for c in names}
        shared = group("meta.shared", of_shared, x)
        z = {
            c: mixed(x @ w[f"meta.gate.{c}.weight"].T, e[c] + shared)
            + own(f"meta.own.{c}", x, e[c])
            for c in names
        }
        rows = [w[f"meta.shared_gate.task.{c}.weight"] for c in names]
        rows = torch.cat([*rows, w["meta.shared_gate.shared.weight"]])
        everyone = [each for c in names for each in e[c]] + shared
        z_s = mixed(x @ rows.T, everyone) + own("meta.shared_own", x, shared)
        common = group("task.shared", of_shared, z_s)
        middle = {c: group(f"task.category.{c}", of_category, z[c]) for c in names}
        h = {}
        for k, c in category.items():
            mine = group(f"task.task.{k}", of_task, z[c])
            u = torch.cat([z[c], z_s], dim=1)
            scores = u @ w[f"task.gate.{k}.weight"].T
            h[k] = mixed(scores, mine + middle[c] + common) + own(f"task.own.{k}", u, mine)
        return h

    return plain


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 1, 3), (2, 2, 1)])
@pytest.mark.parametrize("categories", [None, {"click": ["click", "shared"], "act": ["buy"]}])
@pytest.mark.parametrize("hidden", [(4,), (5, 3)])
def test_it_is_its_equations(counts, categories, hidden):
    own, middle, shared = counts
    spec = HoME(
        task_experts=own, category_experts=middle, shared_experts=shared, hidden=hidden, rank=2,
        categories=categories,
    )  # fmt: skip
    category = {"click": "click", "buy": "click", "shared": "shared"}
    if categories:
        category = {"click": "click", "buy": "act", "shared": "click"}
    # Batch norm's statistics are constants in evaluation mode, off their start.
    trunk = built(spec, FUNNELS).eval()
    for name, each in trunk.named_buffers():
        if name.endswith("running_mean"):
            each.normal_()
        elif name.endswith("running_var"):
            each.uniform_(0.5, 2)
    compared(trunk, reference(category, counts), 1000 * (WIDTH + 5))


def test_experts_have_batch_norm_and_swish_unless_the_trunk_says_otherwise():
    names = list(built(HoME(), FUNNELS).state_dict())
    assert any(".norm.0.running_mean" in name for name in names)
    plain = built(HoME(norm="none", activation="relu"), FUNNELS)
    assert not any(".norm." in name for name in plain.state_dict())
    compared(
        plain,
        reference({"click": "click", "buy": "click", "shared": "shared"}, (1, 1, 1), "relu"),
        1000 * WIDTH,
    )


def test_gates_see_the_shared_their_category_and_their_own():
    meta, task = built(HoME(task_experts=2), FUNNELS).mixing(torch.randn(5, WIDTH).double())
    assert (meta.level, task.level) == ("meta", "task")
    assert meta.choice("click") == ("click 0", "shared group 0")
    assert meta.choice("shared group") == ("click 0", "shared 0", "shared group 0")
    assert task.choice("buy") == ("buy 0", "buy 1", "category click 0", "shared group 0")
    assert task.choice("shared") == ("shared 0", "shared 1", "category shared 0", "shared group 0")


def test_categories_of_several_tasks_are_shared():
    trunk = built(HoME(), FUNNELS)
    shared = {id(each) for each in trunk.shared_parameters()}
    names = [name for name, each in trunk.named_parameters() if id(each) in shared]
    assert len(names) == len(trunk.shared_parameters())
    parts = {".".join(name.replace(":", "").split(".")[:3]) for name in names}
    assert {each for each in parts if "category" in each or ".gate" in each or ".own" in each} == {
        "meta.category.click", "meta.gate.click", "meta.own.click", "task.category.click",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ({"a": ["clik", "buy", "shared"]}, "category 'a': unknown task 'clik'; did you mean 'cli"),
        ({"a": ["click", "buy"]}, "task 'shared' is in no category: name it in one of 'a'"),
        (
            {"a": ["click", "buy"], "b": ["buy", "shared"]},
            "task 'buy' is in the categories 'a' and 'b': name it in one",
        ),
        ({"a": "click"}, "category 'a' must be a list of at least one task, got 'click'"),
        ({"a": []}, r"category 'a' must be a list of at least one task, got \[\]"),
        (["click"], r"categories must give the tasks of each category.*got \('click',\)"),
        ({}, "categories must give the tasks of each category"),
    ],
)
def test_categories_that_do_not_fit_the_tasks_are_refused(categories, message):
    with pytest.raises(ConfigError, match=f"HoME: {message}"):
        built(HoME(categories=categories), FUNNELS)


@pytest.mark.parametrize("field", ["shared_experts", "category_experts", "task_experts", "rank"])
def test_sizes_are_checked(field):
    with pytest.raises(
        ConfigError, match=f"HoME: {field} must be a whole number of at least 1, got 0"
    ):
        HoME(**{field: 0})


def test_its_table_reads_back():
    model = pr.Model(trunk=HoME(categories={"all": ["click", "buy"]}, norm="none"))
    table = model.to_table()
    assert table["trunk"]["categories"] == {"all": ["click", "buy"]}
    assert pr.Model.from_table(table) == model
