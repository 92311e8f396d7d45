"""What every registered trunk keeps: a new one is tested by existing."""

import numpy as np
import pytest
import torch

import polyrank as pr
from polyrank.balance import BALANCES
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.models.model import TRUNKS
from polyrank.models.outputs import Tensors, logits_of
from polyrank.nn.experts import mixture

FEATURES = [
    pr.SparseFeature("user"),
    pr.SparseFeature("item"),
    pr.SequenceFeature("history", shared_with="item"),
    pr.DenseFeature("price", encoding="log"),
]
TASKS = (
    pr.Task("click"),
    pr.Task("buy", given="click"),
    pr.Task("spend", kind="regression", given="buy"),
)
trunks = pytest.mark.parametrize("kind", TRUNKS)
# PLE's shared gate sums over all tasks, and the rounding of a sum depends on its order.
ROUNDING = {"ple": 1e-6}


def built(kind, rows, tasks=TASKS, seed=0, **model):
    schema = pr.Schema(FEATURES, tasks)
    frame = read(rows)
    vocab = Vocab.fit(frame, schema)
    spec = pr.Model(trunk=TRUNKS[kind](), tower=[5], embed_dim=4, **model)
    torch.manual_seed(seed)
    ranker = spec.build(spec.layout(schema, vocab))
    return ranker, encode(frame, schema, vocab)


def first_batch(ranker, table, size=32):
    batch = next(table.batches(ranker.layout, size))
    ids, dense, bags, labels, *_ = Tensors.of(batch, "cpu")
    return ranker.embed(ids, dense, bags), labels


@trunks
@pytest.mark.parametrize("size", [1, 7, 64])
def test_shapes(kind, rows, size):
    ranker, table = built(kind, rows)
    x, _ = first_batch(ranker, table, size)
    hidden = ranker.trunk(x)
    assert list(hidden) == ["click", "buy", "spend"]
    assert all(each.ndim == 2 and len(each) == size for each in hidden.values())
    assert {name: tuple(z.shape) for name, z in ranker(x).logits.items()} == {
        "click": (size,), "buy": (size,), "spend": (size,)
    }  # fmt: skip


@trunks
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_every_parameter_gets_a_gradient(kind, rows, norm):
    ranker, table = built(kind, rows, norm=norm)
    x, _ = first_batch(ranker, table, 200)
    sum(z.square().sum() for z in ranker(x).logits.values()).backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    shared = ranker.shared_parameters()
    assert all(any(each is known for known in ranker.trunk.parameters()) for each in shared)


@trunks
def test_weights_have_their_lasting_names(kind, rows):
    ranker, _ = built(kind, rows)
    names = set(ranker.named_weights())
    assert {"embed.user", "embed.item", "head.click.output.weight"} <= names
    if kind == "mmoe":
        assert {"trunk.gate.click.weight", "trunk.expert.0.linear.0.weight"} <= names
    if kind == "ple":
        assert {
            "trunk.level.0.expert.click.0.linear.0.weight",
            "trunk.level.0.shared.0.linear.0.weight",
            "trunk.level.0.gate.click.weight",
            "trunk.level.0.shared_gate.task.click.weight",
            "trunk.level.0.shared_gate.shared.weight",
        } <= names
    if kind == "aitm":
        assert {
            "trunk.tower.click.linear.0.weight",
            "trunk.transfer.buy.linear.0.weight",
            "trunk.attention.buy.h1.weight",
        } <= names


EXPERT = ("linear.0.weight", "linear.0.bias", "norm.0.weight", "norm.0.bias",
          "norm.0.running_mean", "norm.0.running_var", "norm.0.num_batches_tracked")  # fmt: skip
GATES = [f"gate.{task.name}.weight" for task in TASKS]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("separate", []),
        ("mmoe", [*(f"expert.{i}.{name}" for i in range(8) for name in EXPERT), *GATES]),
        (
            "ple",
            [
                *(
                    f"level.{level}.{name}"
                    for level in (0, 1)
                    for name in [
                        *(
                            f"{bank}.{i}.{each}"
                            for bank in [*(f"expert.{task.name}" for task in TASKS), "shared"]
                            for i in range(2)
                            for each in EXPERT
                        ),
                        *GATES,
                        *(
                            [f"shared_gate.task.{task.name}.weight" for task in TASKS]
                            + ["shared_gate.shared.weight"]
                        )[: 4 * (1 - level)],
                    ]
                )
            ],
        ),
    ],
)
def test_the_state_dict_is_by_expert_and_task_whatever_the_packing(kind, expected, rows):
    """To the order: bundles are compared with `diff`."""
    ranker, _ = built(kind, rows, norm="batch")
    found = list(ranker.state_dict())
    assert [each[6:] for each in found if each.startswith("trunk.")] == expected
    assert [each for each in found if each.startswith("head.")] == [
        f"head.{task.name}.{name}"
        for task in TASKS
        for name in [*(f"tower.{each}" for each in EXPERT), "output.weight", "output.bias"]
    ]


@trunks
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_heads_that_read_one_tensor_say_what_each_says_alone(kind, rows, norm):
    ranker, table = built(kind, rows, norm=norm)
    ranker.double().eval()
    x = first_batch(ranker, table)[0].detach().double()
    hidden, logits = ranker.trunk(x), ranker(x).logits
    for name in ranker.head:
        torch.testing.assert_close(
            logits[name], ranker.head[name](hidden[name]), rtol=1e-12, atol=1e-12
        )


@trunks
def test_permuting_and_renaming_tasks_permutes_the_outputs(kind, rows):
    ranker, table = built(kind, rows)
    names = {"click": "tap", "buy": "order", "spend": "money"}
    tasks = (
        pr.Task("money", label="spend", kind="regression", given="order"),
        pr.Task("order", label="buy", given="tap"),
        pr.Task("tap", label="click"),
    )
    other, other_table = built(kind, rows, tasks, seed=1)
    weights = {}
    for name, weight in ranker.named_weights().items():
        parts = name.split(".")
        renamed = [names.get(part, part) if parts[0] != "embed" else part for part in parts]
        weights[".".join(renamed)] = weight
    other.load_named_weights(weights)
    expected, found = logits_of(ranker, table), logits_of(other, other_table)
    for old, new in names.items():
        tolerance = ROUNDING.get(kind, 0.0)
        torch.testing.assert_close(found[new], expected[old], rtol=tolerance, atol=tolerance)


MIXTURES = {"mmoe": 1, "ple": 2}  # levels; a new trunk that mixes experts has a line here


@trunks
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_what_a_trunk_tells_of_its_mixing_is_what_it_does(kind, rows, norm):
    ranker, table = built(kind, rows, norm=norm)
    ranker.double().eval()
    x = first_batch(ranker, table)[0].detach().double()
    levels = ranker.mixing(x)
    assert len(levels) == MIXTURES.get(kind, 0)
    assert len({level.level for level in levels}) == len(levels)
    for level in levels:
        assert len(set(level.experts)) == len(level.experts)
        assert level.outputs.shape[:2] == (len(x), len(level.experts))
        for name, weights in level.gates.items():
            torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(x)).double())
            unseen = [each not in level.choice(name) for each in level.experts]
            assert (weights[:, unseen] == 0).all()
            assert (weights[:, [not each for each in unseen]] > 0).all()
    for name, hidden in ranker.trunk(x).items() if levels else ():
        mixed = mixture(levels[-1].gates[name], levels[-1].outputs)
        torch.testing.assert_close(mixed, hidden, rtol=1e-12, atol=1e-12)


@trunks
def test_same_seed_same_weights(kind, rows):
    one, _ = built(kind, rows, seed=3)
    two, _ = built(kind, rows, seed=3)
    other, _ = built(kind, rows, seed=4)
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


@trunks
def test_no_graph_break(kind, rows):
    ranker, table = built(kind, rows)
    x = first_batch(ranker, table)[0].detach()

    def logits(x):
        return list(ranker(x).logits.values())

    explained = torch._dynamo.explain(logits)(x)
    assert explained.graph_break_count == 0
    assert explained.graph_count == 1


@trunks
def test_the_table_reads_back(kind):
    model = pr.Model(trunk=TRUNKS[kind](dropout=0.2))
    assert pr.Model.from_table(model.to_table()) == model
    assert model.to_table()["trunk"]["kind"] == kind


@trunks
@pytest.mark.parametrize("space", ["all", "click", ("all", "click")])
@pytest.mark.parametrize(
    "balance", [pr.Sum(normalize=False), *(each() for each in BALANCES.values())]
)
def test_every_trunk_space_and_balance_trains_saves_and_loads(kind, rows, space, balance, tmp_path):
    schema = pr.Schema(FEATURES, [TASKS[0], pr.Task("buy", given="click", space=space), TASKS[2]])
    model = pr.Model(trunk=TRUNKS[kind](), tower=[5], embed_dim=4, norm="batch")
    arguments = {
        "train": rows, "valid": rows, "epochs": 2, "batch_size": 64, "balance": balance, "seed": 5,
    }  # fmt: skip
    bundle = pr.fit(schema, model, **arguments)
    losses = [f"train {term.name} loss" for term in schema.objective]
    history = bundle.history.select(losses)
    assert history.height == 2
    assert all(np.isfinite(history.to_numpy()).ravel())
    bundle.save(tmp_path / "bundle")
    loaded = pr.load(tmp_path / "bundle")
    assert loaded.predict(rows).equals(bundle.predict(rows))
    again = pr.fit(schema, model, **arguments)
    assert again.history.select(losses).equals(history)
