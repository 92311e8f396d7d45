"""What every registered trunk keeps: a new one is tested by existing."""

import numpy as np
import polars as pl
import pytest
import torch
from tests.numerics import assert_close

import polyrank as pr
from polyrank.balance import BALANCES
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.models.model import TRUNKS
from polyrank.models.outputs import Tensors, logits_of
from polyrank.nn.experts import mixture
from polyrank.serve.export.write import export

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
# A trunk between x and the heads, and nothing else; test_first_stages.py has the rest.
PLAIN = {"wide": False, "trees": False, "interaction": False, "field_dropout": 0.0}
trunks = pytest.mark.parametrize("kind", TRUNKS)
LAYER = ("linear.0.weight", "linear.0.bias", "norm.0.weight", "norm.0.bias",
         "norm.0.running_mean", "norm.0.running_var", "norm.0.num_batches_tracked")  # fmt: skip
# Names that a module has for itself.
AWKWARD = (
    "forward",
    "train",
    "training",
    "modules",
    "state_dict",
    "children",
    "update",
    "__class__",
)


def built(kind, rows, tasks=TASKS, seed=0, features=FEATURES, **model):
    schema = pr.Schema(features, tasks)
    frame = read(rows)
    vocab = Vocab.fit(frame, schema)
    spec = pr.Model(trunk=TRUNKS[kind](), tower=[5], embed_dim=4, **PLAIN | model)
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
def test_no_trunk_reads_a_feature_that_has_a_tower_of_its_own(kind, rows):
    own = pr.SparseFeature("user", tower=[3])
    ranker, table = built(kind, rows, features=[own, *FEATURES[1:]], interaction=pr.Cross())
    ranker.eval()
    x = first_batch(ranker, table)[0].detach().requires_grad_()
    columns = ranker.layout.slices["user"]
    hidden = sum(each.square().sum() for each in ranker.hidden(x).values())
    (gradient,) = torch.autograd.grad(hidden, x)
    assert gradient.any()
    assert not gradient[:, columns].any()
    for logits in ranker(x).logits.values():
        (gradient,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
        assert gradient[:, columns].any()


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
def test_weights_have_their_lasting_names_in_order(kind, rows):
    """Bundles are compared with `diff`: by table, and by task, whatever the packing in memory."""
    ranker, _ = built(kind, rows, norm="batch")
    names = list(ranker.named_weights())
    tables = ["embed.user", "embed.item"]
    trunk = [name for name in names if name.startswith("trunk.")]
    tower = [f"tower.{name}" for name in LAYER]
    heads = [
        f"head.{task.name}.{name}"
        for task in TASKS
        for name in (*tower, "output.weight", "output.bias")
    ]
    assert names == [*tables, *trunk, *heads]
    assert [name for name in trunk if ":" in name or "packed" in name] == []
    assert list(ranker.state_dict())[-len(trunk + heads) :] == trunk + heads


@trunks
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_heads_that_read_one_tensor_give_what_each_gives_alone(kind, rows, norm):
    ranker, table = built(kind, rows, norm=norm)
    ranker.double().eval()
    x = first_batch(ranker, table)[0].detach().double()
    hidden, logits = ranker.trunk(x), ranker(x).logits
    for name in ranker.head:
        assert_close(logits[name], ranker.head[name](hidden[name]), hidden[name].shape[1] + 5)


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
        if parts[0] == "embed" and ranker.layout.sets > 1:  # a set a task, in their order
            sets = weight.chunk(ranker.layout.sets, dim=1)
            weight = torch.cat([sets[at] for at in (2, 1, 0, 3)], dim=1)
        weights[".".join(renamed)] = weight
    other.load_named_weights(weights)
    expected, found = logits_of(ranker, table), logits_of(other, other_table)
    for old, new in names.items():
        # A sum over all tasks, such as that of PLE's shared gate, is of another order.
        assert_close(found[new], expected[old], ranker.layout.width + 8 * len(TASKS))


@trunks
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_mixing_that_a_trunk_reports_is_what_it_does(kind, rows, norm):
    ranker, table = built(kind, rows, norm=norm)
    ranker.double().eval()
    x = first_batch(ranker, table)[0].detach().double()
    levels, trunk = ranker.mixing(x), ranker.trunk
    if kind == "pepnet":  # which has layers behind the trunk that mixes
        x, trunk = trunk.gated(x), trunk.trunk
    assert len({level.level for level in levels}) == len(levels)
    for level in levels:
        assert len(set(level.experts)) == len(level.experts)
        assert level.outputs.shape[:2] == (len(x), len(level.experts))
        for name, weights in level.gates.items():
            assert_close(weights.sum(dim=1), torch.ones(len(x)).double(), len(level.experts))
            unseen = [each not in level.choice(name) for each in level.experts]
            assert (weights[:, unseen] == 0).all()
            assert (weights[:, [not each for each in unseen]] > 0).all()
    for name, hidden in trunk(x).items() if levels else ():
        mixed = mixture(levels[-1].gates[name], levels[-1].outputs)
        mixed = mixed + levels[-1].residuals.get(name, 0)
        assert_close(mixed, hidden, 10 * x.shape[1])


@trunks
def test_same_seed_same_weights(kind, rows):
    one, _ = built(kind, rows, seed=3)
    two, _ = built(kind, rows, seed=3)
    other, _ = built(kind, rows, seed=4)
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


@pytest.mark.slow
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
    model = pr.Model(trunk=TRUNKS[kind](dropout=0.2, norm="batch", activation="swish"))
    assert pr.Model.from_table(model.to_table()) == model
    assert model.to_table()["trunk"]["kind"] == kind


@pytest.mark.slow
@trunks
@pytest.mark.parametrize("space", ["all", "click", ("all", "click")])
@pytest.mark.parametrize(
    "balance", [pr.Sum(normalize=False), *(each() for each in BALANCES.values())]
)
def test_every_trunk_space_and_balance_trains_saves_and_loads(kind, rows, space, balance, tmp_path):
    schema = pr.Schema(FEATURES, [TASKS[0], pr.Task("buy", given="click", space=space), TASKS[2]])
    model = pr.Model(trunk=TRUNKS[kind](), tower=[5], embed_dim=4, norm="batch", **PLAIN)
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


@pytest.mark.slow
@trunks
def test_a_task_may_have_any_name(kind, rows, tmp_path):
    """Names that people give are no attributes: trained, saved, loaded, exported, with parity."""
    log = pl.DataFrame({"item": rows["item"]} | dict.fromkeys(AWKWARD, rows["click"]))
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task(name) for name in AWKWARD])
    model = pr.Model(trunk=TRUNKS[kind](), tower=[5], embed_dim=4, norm="batch", **PLAIN)
    bundle = pr.fit(schema, model, train=log, epochs=1, batch_size=64)
    folder = tmp_path / "bundle"
    bundle.save(folder)
    assert pr.load(folder).predict(log).equals(bundle.predict(log))
    assert {name.split(".")[1] for name in bundle.ranker.named_weights() if "head" in name} == {
        *AWKWARD
    }
    found = export(bundle, folder, [log], vocabulary=True)
    assert [each.rows for each in found.values()] == [log.height] * 2
