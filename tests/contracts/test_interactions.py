"""What every interaction keeps under every trunk: a new one of either is tested by existing."""

from dataclasses import fields

import pytest
import torch
from tests.contracts.test_trunks import FEATURES, PLAIN, TASKS, first_batch

import polyrank as pr
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.models.model import INTERACTIONS, TRUNKS
from polyrank.serve.export.parity import Exact
from polyrank.serve.export.write import export
from polyrank.train.explain import explain
from polyrank.train.sources import Sources

both = pytest.mark.parametrize(
    ("kind", "interaction"), [(kind, each) for each in INTERACTIONS for kind in TRUNKS]
)
# A run takes seconds: each trunk with the default interaction, and each interaction with one trunk.
runs = pytest.mark.parametrize(
    ("kind", "interaction"),
    [*((kind, "cross") for kind in TRUNKS), *(("mmoe", i) for i in INTERACTIONS if i != "cross")],
)
interactions = pytest.mark.parametrize("interaction", INTERACTIONS)


class Interrupt(Exception):
    pass


def spec(kind, interaction, **model):
    options = {"tower": [5], "embed_dim": 4, **PLAIN, "field_dropout": 0.2, **model}
    return pr.Model(trunk=TRUNKS[kind](), **options | {"interaction": INTERACTIONS[interaction]()})


def built(kind, interaction, rows, seed=0, **model):
    """A ranker whose interaction is off its start, where it may do nothing."""
    schema, frame = pr.Schema(FEATURES, TASKS), read(rows)
    vocab = Vocab.fit(frame, schema)
    each = spec(kind, interaction, **model)
    torch.manual_seed(seed)
    ranker = each.build(each.layout(schema, vocab))
    with torch.no_grad():
        for parameter in ranker.interaction.parameters():
            parameter.normal_(std=0.3)
    return ranker, encode(frame, schema, vocab)


@both
def test_trunk_heads_and_gates_read_the_interaction(kind, interaction, rows):
    ranker, table = built(kind, interaction, rows)
    ranker.eval()
    x = first_batch(ranker, table)[0].detach()
    crossed = ranker.interaction(x)
    assert crossed.shape == x.shape
    assert not torch.allclose(crossed, x)
    expected = ranker.trunk(crossed)
    for name, hidden in ranker.hidden(x).items():
        assert torch.equal(hidden, expected[name])
    for found, level in zip(ranker.mixing(x), ranker.trunk.mixing(crossed), strict=True):
        assert torch.equal(found.outputs, level.outputs)


@both
def test_every_parameter_gets_a_gradient(kind, interaction, rows):
    ranker, table = built(kind, interaction, rows, norm="batch", field_dropout=0.0)
    x, _ = first_batch(ranker, table, 200)
    sum(z.square().sum() for z in ranker(x).logits.values()).backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@both
def test_its_parameters_are_dense_and_shared_by_all_tasks(kind, interaction, rows):
    ranker, _ = built(kind, interaction, rows)
    own = {id(each) for each in ranker.interaction.parameters()}
    assert own
    assert own <= {id(each) for each in ranker.dense_parameters()}
    assert own <= {id(each) for each in ranker.shared_parameters()}
    dense = [id(each) for each in ranker.dense_parameters()]
    assert len(dense) == len(set(dense))
    names = list(ranker.named_weights())
    at = [index for index, name in enumerate(names) if name.startswith("interaction.")]
    assert len(at) == len(own)
    assert all(name.startswith("embed.") for name in names[: at[0]])
    assert names[at[-1] + 1].startswith(("trunk.", "head."))


@pytest.mark.slow
@both
@pytest.mark.parametrize("training", [False, True])
def test_no_graph_break(kind, interaction, training, rows):
    ranker, table = built(kind, interaction, rows)
    x = first_batch(ranker, table)[0].detach()
    ranker.train(training)

    def logits(x):
        return list(ranker(x).logits.values())

    explained = torch._dynamo.explain(logits)(x)
    assert explained.graph_break_count == 0
    assert explained.graph_count == 1


@interactions
def test_every_option_reads_back(interaction):
    model = spec("separate", interaction)
    table = model.to_table()
    names = [each.name for each in fields(model.interaction)]
    assert list(table["interaction"]) == ["kind", *names]
    assert table["interaction"]["kind"] == interaction
    assert pr.Model.from_table(table) == model


@interactions
def test_explain_counts_it(interaction, rows):
    plan = explain(
        pr.Schema(FEATURES, TASKS), spec("mmoe", interaction), pr.Training(), Sources(read(rows))
    )
    ranker, _ = built("mmoe", interaction, rows)
    expected = sum(each.numel() for each in ranker.interaction.parameters())
    assert plan.parameters["interaction"] == expected


@pytest.mark.slow
@runs
def test_it_trains_resumes_saves_loads_and_exports(kind, interaction, rows, tmp_path):
    def run(folder, **options):
        return pr.fit(
            pr.Schema(FEATURES, TASKS), spec(kind, interaction, norm="batch", dropout=0.2),
            train=rows, valid=rows, epochs=2, batch_size=64, lr=0.02, seed=5,
            out=tmp_path / folder, **options,
        )  # fmt: skip

    def interrupt(progress):
        if progress.event == "epoch":
            raise Interrupt

    bundle = run("whole")
    assert bundle.history["train click @ all loss"].is_finite().all()
    weights = bundle.ranker.named_weights()
    x = torch.randn(9, bundle.ranker.layout.width)
    assert not torch.allclose(bundle.ranker.interaction(x), x)  # it has learned something
    with pytest.raises(Interrupt):
        run("broken", progress=interrupt)
    resumed = run("broken", resume=True).ranker.named_weights()
    assert all(torch.equal(each, resumed[name]) for name, each in weights.items())
    folder = tmp_path / "whole" / "bundle"
    assert pr.load(folder).predict(rows).equals(bundle.predict(rows))
    found = export(bundle, folder, [read(rows).collect()])
    assert [each.rows for each in found.values()] == [len(rows["click"])]
    assert all(each.dtype == torch.float64 for each in Exact(bundle).ranker.dense_parameters())


@pytest.mark.parametrize("balance", [pr.GradNorm(), pr.MetaBalance(), pr.Uncertainty()])
@interactions
def test_every_balance_moves_it(interaction, balance, rows):
    model = spec("mmoe", interaction)
    bundle = pr.fit(
        pr.Schema(FEATURES, TASKS), model, train=rows, epochs=2, batch_size=64, balance=balance
    )
    x = torch.randn(9, bundle.ranker.layout.width)
    moved = bundle.ranker.interaction(x) - x
    assert moved.isfinite().all()
    assert moved.any()
