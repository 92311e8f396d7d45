"""Personalised gates against their equations, with gradients and what stops them, in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.models.plain import WIDTH, built, compared, expert, softmax

import polyrank as pr
from polyrank.config import Experiment
from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.models.pepnet import PEPNet
from polyrank.schema import Task

NAMES = ("click", "task")


def wide(spec, names=NAMES):
    """The trunk of a log with three features, of 2, 1 and 3 columns."""
    tasks = tuple(Task(name) for name in names)
    features = [pr.SparseFeature("user"), pr.DenseFeature("age", encoding="none"),
                pr.SparseFeature("item", embed_dim=3)]  # fmt: skip
    vocab = SimpleNamespace(rows={"user": 4, "item": 4}, columns={"age": 1})
    layout = Layout(pr.Schema(features, tasks), vocab, {"user": 2, "item": 3})
    assert layout.width == WIDTH
    torch.manual_seed(0)
    return spec.build(layout, tasks).double(), layout.slices


def reference(slices, *, embedding, hidden, activation="relu"):
    """MMoE of two experts between the gates; `slices` are those of the gate features."""

    def plain(w, x):
        u = torch.cat([x[:, each] for each in slices] + [x.detach()], dim=1)

        def gate(name):
            inner = (u @ w[f"{name}.hidden.weight"].T + w[f"{name}.hidden.bias"]).clamp(min=0)
            return 2 / (
                1 + (-inner @ w[f"{name}.output.weight"].T - w[f"{name}.output.bias"]).exp()
            )

        read = x * gate("embedding_gate") if embedding else x
        found = {}
        for k in NAMES:
            g = softmax(read @ w[f"trunk.gate.{k}.weight"].T)
            z = sum(g[:, [i]] * expert(w, f"trunk.expert.{i}", read) for i in range(2))
            for layer in range(hidden):
                at = f"task.{k}"
                z = expert(w, f"{at}.layer.{layer}", z, activation) * gate(f"{at}.gate.{layer}")
            found[k] = z
        return found

    return plain


@pytest.mark.parametrize("gates", [(), ("user",), ("item", "age")])
@pytest.mark.parametrize(
    ("embedding", "hidden"), [(True, ()), (False, (3,)), (True, (4,)), (True, (5, 3))]
)
@pytest.mark.parametrize("gate_hidden", [None, 2])
def test_it_is_its_equations(gates, embedding, hidden, gate_hidden):
    spec = PEPNet(
        trunk=pr.MMoE(experts=2, hidden=[4]), gates=gates, embedding=embedding, hidden=hidden,
        gate_hidden=gate_hidden,
    )  # fmt: skip
    trunk, slices = wide(spec)
    of_gates = [slices[name] for name in gates]
    expected = reference(of_gates, embedding=embedding, hidden=len(hidden))
    compared(trunk, expected, 500 * WIDTH)


def test_a_gate_moves_the_embeddings_of_its_features_alone():
    """PPNet of a trunk that is constant: what x learns comes through the gates' input."""
    trunk, slices = wide(PEPNet(gates=["item"], embedding=False, hidden=[4]))
    x = torch.randn(9, WIDTH, dtype=torch.float64, requires_grad=True)
    u = trunk.gate_input(x)
    sum(each(torch.ones(9, 64).double(), u).sum() for _, each in trunk.task.items()).backward()
    moved = x.grad.abs().sum(0) > 0
    expected = torch.zeros(WIDTH, dtype=torch.bool)
    expected[slices["item"]] = True
    assert torch.equal(moved, expected)


def test_gates_lie_between_0_and_2_and_begin_near_1():
    trunk, _ = wide(PEPNet(gates=["user"]))
    found = trunk.embedding_gate(trunk.gate_input(torch.randn(200, WIDTH).double()))
    assert 0 < found.min() < found.max() < 2
    assert 0.8 < found.mean() < 1.2


def test_shared_are_the_embedding_gate_and_the_inner_trunks():
    trunk, _ = wide(PEPNet(trunk=pr.MMoE(experts=2)))
    shared = {id(each) for each in trunk.shared_parameters()}
    names = {name.split(".")[0] for name, each in trunk.named_parameters() if id(each) in shared}
    assert names == {"embedding_gate", "trunk"}
    own = {id(each) for each in trunk.trunk.shared_parameters()}
    assert own < shared


def test_the_inner_trunk_keeps_its_penalty_and_its_mixing():
    aitm = pr.AITM(chain=["click", "task"], hidden=[4])
    trunk = built(PEPNet(trunk=aitm), NAMES)
    assert list(trunk.penalties(dict.fromkeys(NAMES, torch.zeros(3)))) == ["task above click"]
    mixture = built(PEPNet(trunk=pr.MMoE(experts=3)), NAMES)
    (level,) = mixture.mixing(torch.randn(4, WIDTH).double())
    assert level.experts == ("0", "1", "2")


def test_the_inner_trunk_takes_the_models_norm_and_dropout():
    spec = pr.Model(trunk=PEPNet(trunk=pr.MMoE(dropout=0.0)), norm="batch", dropout=0.5)
    rows = {"item": np.arange(40) % 7, "click": np.arange(40) % 2}
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    trunk = pr.fit(schema, spec, train=rows, epochs=1).ranker.trunk
    assert type(trunk.trunk.expert[0].norm[0]).__name__ == "BatchNorm"
    assert type(trunk.trunk.expert[0].dropout).__name__ == "Identity"
    assert trunk.task["click"].layer[0].dropout.p == 0.5


@pytest.mark.parametrize("gates", [["usr"], ["usre", "item"]])
def test_a_gate_feature_that_is_not_there_is_refused(gates):
    message = f"PEPNet: gates: unknown feature '{gates[0]}'; did you mean 'user'"
    with pytest.raises(ConfigError, match=message):
        wide(PEPNet(gates=gates))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gates": "user"}, "gates must be a list of features, got 'user'"),
        ({"gates": [1]}, r"gates must be a list of features, got \(1,\)"),
        ({"trunk": "mmoe"}, r"trunk must be of a registered kind, such as MMoE\(\), got 'mmoe'"),
        ({"embedding": 1}, "embedding must be true or false, got 1"),
        ({"embedding": False, "hidden": []}, "it has no gate: use the inner trunk itself"),
        ({"hidden": [0]}, "hidden must be a whole number of at least 1, got 0"),
        ({"gate_hidden": 0}, "gate_hidden must be a whole number of at least 1, got 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=f"PEPNet: .*{message}"):
        PEPNet(**options)


def test_its_table_has_the_inner_trunks_kind_and_reads_back():
    model = pr.Model(trunk=PEPNet(trunk=pr.PLE(levels=1, dropout=0.1), gates=["user"]))
    table = model.to_table()
    assert table["trunk"]["kind"] == "pepnet"
    assert table["trunk"]["trunk"]["kind"] == "ple"
    assert pr.Model.from_table(table) == model
    for inner, message in (
        ({"kind": "mmo"}, r"model\.trunk\.trunk: unknown kind 'mmo'; did you mean 'mmoe'"),
        ({"kind": "mmoe", "expert": 2}, r"model\.trunk\.trunk: unknown key 'expert'"),
        ("mmoe", r"model\.trunk\.trunk: expected a table with a kind, got 'mmoe'"),
    ):
        with pytest.raises(ConfigError, match=message):
            pr.Model.from_table({"trunk": {"kind": "pepnet", "trunk": inner}})


def test_an_experiments_file_holds_both_trunks():
    text = """
    [data]
    train = "log.parquet"
    [features]
    sparse = ["user", "item"]
    [[task]]
    name = "click"
    [model]
    trunk = { kind = "pepnet", trunk = { kind = "mmoe", experts = 4 }, gates = ["user"] }
    """
    experiment = Experiment.from_text(text)
    assert experiment.model.trunk == PEPNet(trunk=pr.MMoE(experts=4), gates=["user"])
    assert Experiment.from_text(experiment.to_toml()) == experiment


def test_a_list_that_is_attended_to_may_be_a_gate_feature():
    rows = {"item": np.arange(40) % 7, "seen": [[1, 2, 3]] * 40, "click": np.arange(40) % 2}
    seen = pr.SequenceFeature(
        "seen", shared_with="item", max_length=2, pooling=pr.Target(query="item")
    )
    schema = pr.Schema([pr.SparseFeature("item"), seen], [pr.Task("click")])
    model = pr.Model(trunk=PEPNet(gates=["seen"]), embed_dim=4, wide=False)
    trunk = pr.fit(schema, model, train=rows, epochs=1).ranker.trunk
    assert trunk.columns == [slice(4, 8)]
    assert trunk.embedding_gate.hidden.in_features == 4 + 8
