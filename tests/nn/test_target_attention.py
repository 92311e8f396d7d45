"""Target attention against a plain loop in float64, and the whole way of a bundle."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from tests.numerics import assert_close

import polyrank as pr
from polyrank.config import Experiment
from polyrank.data.cache import key_of
from polyrank.data.read import Joined, read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, SchemaError
from polyrank.models.outputs import Tensors
from polyrank.nn.target_attention import TargetAttention
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.export.write import export
from polyrank.train import step
from polyrank.train.explain import explain
from polyrank.train.sources import Sources

LONGEST = 4
TARGET = pr.Target(query="item", hidden=[5])
FEATURES = [
    pr.SparseFeature("user", embed_dim=2),
    pr.SparseFeature("item"),
    pr.SequenceFeature("seen", shared_with="item", pooling=TARGET, max_length=LONGEST),
    pr.SequenceFeature("tags", embed_dim=2),
    pr.DenseFeature("price", encoding="standard"),
]
TASKS = [pr.Task("click"), pr.Task("buy", given="click")]


def attended(weights, name, places, query):
    """Σ_j a(e_j, q) · e_j of one row, place by place."""
    found = torch.zeros_like(query)
    for e in places:
        z = torch.cat([e, query, e * query])
        layer = 0
        while f"{name}.unit.linear.{layer}.weight" in weights:
            at = f"{name}.unit.linear.{layer}"
            z = weights[f"{at}.weight"] @ z + weights[f"{at}.bias"]
            z, layer = z / (1 + (-z).exp()), layer + 1
        a = weights[f"{name}.output.weight"] @ z + weights[f"{name}.output.bias"]
        found = found + a * e
    return found


@pytest.mark.parametrize("hidden", [(), (5,), (4, 3)])
def test_it_is_a_plain_loop_with_its_gradients(hidden):
    """Zhou et al., KDD 2018, eq. 3."""
    torch.manual_seed(0)
    unit = TargetAttention(3, hidden).double()
    weights = {f"a.{name}": each.detach().clone().requires_grad_()
               for name, each in unit.named_parameters()}  # fmt: skip
    e = torch.randn(6, LONGEST, 3, dtype=torch.float64, requires_grad=True)
    q = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    found = unit(e, q)
    expected = torch.stack([attended(weights, "a", *row) for row in zip(e, q, strict=True)])
    assert_close(found, expected, 200)
    pull = torch.randn_like(found)
    got = torch.autograd.grad((found * pull).sum(), [e, q, *unit.parameters()])
    wanted = torch.autograd.grad((expected * pull).sum(), [e, q, *weights.values()])
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other, 2000)


@pytest.fixture(scope="module")
def log():
    generator = np.random.default_rng(0)
    size = 257
    click = generator.integers(0, 2, size)
    lengths = generator.integers(0, 7, size)
    return pl.DataFrame(
        {
            "user": generator.integers(0, 9, size),
            "item": generator.integers(0, 20, size),
            "seen": [generator.integers(0, 25, n).tolist() if n else None for n in lengths],
            "tags": [generator.integers(0, 5, n).tolist() for n in lengths],
            "price": generator.normal(size=size),
            "click": click,
            "buy": click * generator.integers(0, 2, size),
        }
    )


def built(log, features=FEATURES, **model):
    schema, frame = pr.Schema(features, TASKS), read(log)
    vocab = Vocab.fit(frame, schema)
    spec = pr.Model(embed_dim=3, wide=False, **model)
    torch.manual_seed(0)
    ranker = spec.build(spec.layout(schema, vocab))
    return ranker, encode(frame, schema, vocab)


def test_the_network_reads_one_vector_of_the_last_ids_of_a_list(log):
    ranker, table = built(log)
    layout, read_by = ranker.layout, ranker.layout.read
    assert layout.width == 2 + 3 + LONGEST * 3 + 2 + 1
    assert read_by.width == 2 + 3 + 3 + 2 + 1
    assert "seen#1" in layout.slices
    assert set(read_by.slices) == {"user", "item", "seen", "tags", "price"}
    batch = next(table.batches(layout, 64))
    ids, dense, bags, *_ = Tensors.of(batch, "cpu")
    x = ranker.embed(ids, dense, bags).detach()
    found = ranker.pooling(x)
    embedding = ranker.embed.tables()["item"]
    weights = dict(ranker.pooling.attention.state_dict())
    lists = [(each or [])[-LONGEST:] for each in log["seen"].head(64).to_list()]
    own = {slot: layout.slices[slot] for slot in ("user", "item", "tags", "price")}
    for name, at in own.items():
        assert torch.equal(found[:, read_by.slices[name]], x[:, at])
    known = Vocab.fit(read(log), layout.schema).codecs["seen"]
    for row, each in enumerate(lists):
        of_row = known.vocabulary.encode(pl.Series(each, dtype=pl.Int64))[0]
        places = embedding[of_row.tolist()]
        expected = attended(weights, "seen", places, x[row, own["item"]])
        assert_close(found[row, read_by.slices["seen"]], expected, 100)


def test_rows_of_the_list_and_of_the_query_get_their_gradients(log):
    """What is added to rows behind the cut is what autograd finds through the whole network."""
    ranker, table = built(log, dropout=0.0, field_dropout=0.0)
    batch = next(table.batches(ranker.layout, 64))
    ids, dense, bags, *_ = Tensors.of(batch, "cpu")
    whole = ranker.embed(ids, dense, bags)
    x = whole.detach().requires_grad_()
    for each in (whole, x):
        sum(z.square().sum() for z in ranker(each).logits.values()).backward()
    found = [torch.zeros_like(each) for each in ranker.embed.pack]
    for own, (rows, gradient) in zip(
        found, ranker.embed.row_gradients(ids, x.grad, bags), strict=True
    ):
        own.index_add_(0, rows.long(), gradient)
    for own, pack in zip(found, ranker.embed.pack, strict=True):
        assert_close(own, pack.grad, 10_000)
        assert own.any()


def test_its_weights_are_dense_and_shared(log):
    ranker, _ = built(log)
    own = {id(each) for each in ranker.pooling.parameters()}
    assert own
    assert own <= {id(each) for each in ranker.dense_parameters()}
    assert own <= {id(each) for each in ranker.shared_parameters()}
    names = [name for name in ranker.named_weights() if name.startswith("pooling.")]
    assert names == [f"pooling.attention.seen.{each}" for each in (
        "unit.linear.0.weight", "unit.linear.0.bias", "output.weight", "output.bias")]  # fmt: skip
    plan = explain(
        pr.Schema(FEATURES, TASKS), pr.Model(embed_dim=3, wide=False), pr.Training(),
        Sources(read(log)),
    )  # fmt: skip
    assert plan.parameters["pooling"] == sum(each.numel() for each in ranker.pooling.parameters())


class Interrupt(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("wide", [pr.Wide(folds=2), False])
def test_it_trains_resumes_saves_exports_and_is_served(log, wide, tmp_path):
    def run(folder, **options):
        return pr.fit(
            pr.Schema(FEATURES, TASKS), pr.Model(embed_dim=3, wide=wide), train=log, valid=log,
            epochs=2, batch_size=64, lr=0.02, seed=5, out=tmp_path / folder, **options,
        )  # fmt: skip

    def interrupt(progress):
        if progress.event == "epoch":
            raise Interrupt

    bundle = run("whole")
    weights = bundle.ranker.named_weights()
    with pytest.raises(Interrupt):
        run("broken", progress=interrupt)
    resumed = run("broken", resume=True).ranker.named_weights()
    assert all(torch.equal(each, resumed[name]) for name, each in weights.items())
    folder = tmp_path / "whole" / "bundle"
    loaded = pr.load(folder)
    assert loaded.schema == bundle.schema
    assert loaded.predict(log).equals(bundle.predict(log))
    odd = log.with_columns(seen=pl.Series([[99, 1, 2, None, 4, 5, 6, 7]] * len(log)))
    export(bundle, folder, [log, odd, log.head(1)], vocabulary=True)
    engine = pr.Engine(folder)
    for rows in (log, odd):
        expected = bundle.predict(rows)["p_buy"].to_numpy()
        np.testing.assert_allclose(engine.predict(rows)["p_buy"].to_numpy(), expected, atol=2e-6)
    lists = {name: log[name].to_list() for name in engine.inputs}
    found = engine.predict_columns(lists).outputs["p_click"]
    np.testing.assert_allclose(found, bundle.predict(log)["p_click"].to_numpy(), atol=2e-6)
    body = {"context": {"user": 1, "seen": [1, 2, 3], "tags": [1], "price": 0.5},
            "candidates": [{"item": 1}, {"item": 2}]}  # fmt: skip
    assert Scorer(engine, 10)(json.dumps(body).encode()).rows == 2


def test_a_compiled_step_learns_it_too(log, monkeypatch):
    monkeypatch.setattr(step, "compiled", lambda graph: graph)  # as it was traced
    found = []
    for compile in (False, True):
        bundle = pr.fit(
            pr.Schema(FEATURES, TASKS), pr.Model(embed_dim=3, wide=False, dropout=0.0,
            field_dropout=0.0, tower=[3], trunk=pr.Separate()), train=log, epochs=2,
            batch_size=64, seed=5, compile=compile,
        )  # fmt: skip
        found.append(bundle.ranker.named_weights())
    for name, each in found[0].items():
        torch.testing.assert_close(found[1][name], each, rtol=1e-3, atol=1e-4)


def test_lists_that_rows_share_are_attended_to(log):
    """Joined lists give the same rows of x as lists that are written out."""
    features = [pr.SparseFeature("item"), FEATURES[2]]
    schema = pr.Schema(features, TASKS)
    keyed = log.with_columns(key=pl.int_range(len(log)) % 11)
    shared = keyed.unique("key", maintain_order=True).select("key", "seen")
    rows = keyed.drop("seen")
    joined = rows.join(shared, on="key", how="left", maintain_order="left")
    one = pr.fit(schema, pr.Model(), train=joined, epochs=1, batch_size=64, seed=2)
    two = pr.fit(schema, pr.Model(), train=Joined(rows, shared, "key"), epochs=1, batch_size=64,
                 seed=2)  # fmt: skip
    assert one.predict(joined).equals(two.predict(joined))


def test_an_experiments_file_has_it_as_a_table(log, tmp_path):
    log.write_parquet(tmp_path / "log.parquet")
    text = """
    [data]
    train = "log.parquet"
    [features]
    sparse = ["item"]
    sequence = ["seen"]
    [features.seen]
    shared_with = "item"
    max_length = 4
    pooling = { kind = "target", query = "item", hidden = [5] }
    [[task]]
    name = "click"
    [train]
    epochs = 1
    """
    experiment = Experiment.from_text(text, folder=tmp_path)
    assert experiment.schema.features[1] == FEATURES[2]
    assert experiment.to_table()["features"]["seen"]["pooling"] == {
        "kind": "target", "query": "item", "hidden": [5],
    }  # fmt: skip
    assert Experiment.from_text(experiment.to_toml()) == experiment
    first = experiment.fit(out=tmp_path / "run")
    again = experiment.fit(out=tmp_path / "run", force=True)  # from the cache
    assert again.predict(log).equals(first.predict(log))
    with pytest.raises(ConfigError, match=r"pooling: unknown kind 'targt'; did you mean 'target'"):
        Experiment.from_text(text.replace('"target"', '"targt"'))
    with pytest.raises(ConfigError, match=r"pooling: unknown key 'qery'; did you mean 'query'"):
        Experiment.from_text(text.replace("query", "qery"))
    plain = text.replace('{ kind = "target", query = "item", hidden = [5] }', '"sum"')
    assert Experiment.from_text(plain).schema.features[1].pooling == "sum"


def test_a_cache_tells_it_from_pooled_lists():
    def key(**options):
        seen = pr.SequenceFeature("seen", shared_with="item", max_length=4, **options)
        return key_of(pr.Schema([pr.SparseFeature("item"), seen], TASKS), [])

    assert key() == key(pooling="sum")
    assert key() != key(pooling=TARGET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": pr.Target(query="itm"), "max_length": 3},
         "the query 'itm' of its pooling is no sparse feature; did you mean 'item'"),
        ({"pooling": pr.Target(query="price"), "max_length": 3},
         r"the query 'price' of its pooling is no sparse feature.*: declare one"),
        ({"pooling": pr.Target(query="seen"), "max_length": 3}, "the query 'seen' of its pooling"),
        ({"pooling": TARGET}, "reads each place of a list, so it needs max_length"),
        ({"pooling": TARGET, "max_length": 3, "weights": "w"}, "weighs the ids itself: leave weig"),
        ({"pooling": "targets"}, "unknown pooling 'targets'"),
    ],
)  # fmt: skip
def test_what_cannot_be_attended_to_is_refused(options, message):
    with pytest.raises(SchemaError, match=f"feature 'seen': .*{message}"):
        pr.Schema(
            [pr.SparseFeature("item"), pr.SequenceFeature("seen", **options),
             pr.DenseFeature("price")],
            TASKS,
        )  # fmt: skip


def test_a_query_of_another_width_is_refused(log):
    seen = pr.SequenceFeature("seen", embed_dim=2, pooling=TARGET, max_length=3)
    with pytest.raises(
        ConfigError, match="'seen' is attended to by 'item', whose embeddings have 3 columns where"
    ):
        built(log, [pr.SparseFeature("item"), seen])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": ""}, "query must be the name of a feature, got ''"),
        ({"query": "item", "hidden": 3}, "hidden must be a list of widths, got 3"),
        ({"query": "item", "hidden": [0]}, "hidden must be a whole number of at least 1, got 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(SchemaError, match=message):
        pr.Target(**options)
