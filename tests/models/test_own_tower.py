"""A feature with a tower of its own: what it says is added, and meets no other feature."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.data.table import encode
from polyrank.errors import ConfigError, SchemaError
from polyrank.models.outputs import inputs
from polyrank.serve.export.write import export

ROWS = 600
ITEMS, PLACES = 8, 4


def log(seed=5):
    """Clicks that low places lose: P(click) = σ(item's logit) ÷ position."""
    generator = np.random.default_rng(seed)
    item, place = generator.integers(1, ITEMS + 1, ROWS), generator.integers(1, PLACES + 1, ROWS)
    click = generator.random(ROWS) < 1 / (1 + np.exp(4.5 - item)) / place
    return pl.DataFrame(
        {
            "item": item, "ad.position": place, "price": generator.random(ROWS),
            "seen": [[int(each), int(each) % 3 + 1] for each in generator.integers(1, 9, ROWS)],
            "click": click.astype(int), "buy": (click & (generator.random(ROWS) < 0.4)).astype(int),
        }
    )  # fmt: skip


def schema(own, *more):
    features = [pr.SparseFeature("item"), pr.DenseFeature("price"), *more, own]
    return pr.Schema(features, [pr.Task("click"), pr.Task("buy", given="click")])


LIST = pr.SequenceFeature("seen", pooling=pr.Target(query="item", hidden=[4]), max_length=2)
MODELS = {
    "the default": (pr.Model(), ()),
    "cross and attention": (
        pr.Model(interaction=pr.DCNv2(layers=2), trunk=pr.MMoE(experts=2, hidden=[8])), (LIST,),
    ),
    "sets": (pr.Model(trunk=pr.STEM(hidden=[8])), (pr.SequenceFeature("seen"),)),
    "trees": (pr.Model(trees=pr.Trees(rounds=5, folds=2)), ()),
    "nothing below": (pr.Model(wide=False, interaction=False, trunk=pr.HoME(hidden=[8])), ()),
}  # fmt: skip
FEATURES = {
    "sparse": pr.SparseFeature("ad.position", tower=[8, 4]),
    "linear": pr.SparseFeature("ad.position", tower=[]),
    "dense": pr.DenseFeature("ad.position", tower=[8]),
}


def fitted(feature, name="the default", **options):
    model, more = MODELS[name]
    settings = {"train": log(), "epochs": 3, "batch_size": 64, "lr": 0.01, "seed": 1, **options}
    return pr.fit(schema(feature, *more), model, **settings)


def grid():
    """Each item at each place, the places of an item side by side."""
    one = log()[:1].drop("click", "buy")
    items = pl.DataFrame({"item": range(1, ITEMS + 1)})
    places = pl.DataFrame({"ad.position": range(1, PLACES + 1)})
    others = one.drop("item", "ad.position")
    return items.join(places, how="cross").join(others, how="cross")


def effects(bundle, head):
    """The logit of each item at each place, less that at the first one."""
    table = encode(grid(), bundle.schema, bundle.vocab, numbers=bundle.model.numbers, labels=False)
    logits = bundle.logits(table)[head].reshape(ITEMS, PLACES).astype(np.float64)
    return logits - logits[:, :1]


@pytest.mark.parametrize(
    ("name", "feature"),
    [*((name, "sparse") for name in MODELS), *(("the default", each) for each in FEATURES)],
)
def test_its_effect_is_the_same_whatever_the_others_are(name, feature):
    bundle = fitted(FEATURES[feature], name)
    for head in ("click", "buy"):
        found = effects(bundle, head)
        np.testing.assert_allclose(found, np.tile(found[:1], (ITEMS, 1)), atol=2e-5)
        assert np.abs(found[:, 1:]).max() > 1e-3


def test_without_one_it_meets_the_others():
    found = effects(fitted(pr.SparseFeature("ad.position")), "click")
    assert np.ptp(found, axis=0).max() > 1e-2


def probed(bundle):
    """A ranker in float64, and the x and the margins of the grid."""
    table = encode(grid(), bundle.schema, bundle.vocab, labels=False)
    batch = next(table.batches(bundle.ranker.layout, len(table)))
    x, margin = inputs(bundle.ranker, batch, "cpu")
    return deepcopy(bundle.ranker).double(), x.double(), margin.double()


def test_what_it_adds_and_its_gradient_are_those_of_the_formula():
    """Δ = w · f(A' f(A e + b) + b'), f(x) = x · σ(x), in numpy; the rest is the trunk's."""

    def f(x):
        return x / (1 + np.exp(-x))

    def slope(x):
        p = 1 / (1 + np.exp(-x))
        return p + x * p * (1 - p)

    bundle = fitted(FEATURES["sparse"])
    ranker, x, margin = probed(bundle)
    head = ranker.head["click"]
    weights = {key: each.numpy() for key, each in bundle.ranker.named_weights().items()}
    prefix = "head.click.own.ad.position"
    a, b, a2, b2, w = (
        weights[f"{prefix}.{key}"].astype(np.float64)
        for key in (
            "tower.linear.0.weight", "tower.linear.0.bias", "tower.linear.1.weight",
            "tower.linear.1.bias", "output.weight",
        )
    )  # fmt: skip
    columns = bundle.ranker.layout.slices["ad.position"]
    x = x.detach()
    e = x[:, columns].numpy()
    assert np.abs(b).max() > 0
    first = e @ a.T + b
    second = f(first) @ a2.T + b2
    added = f(second) @ w[0]
    gradient = ((w * slope(second)) @ a2 * slope(first)) @ a
    ranker.eval()
    x.requires_grad_()
    margin = margin.detach()
    logit = ranker(x, margin).logits["click"]
    (found,) = torch.autograd.grad(logit.sum(), x)
    with torch.no_grad():
        head.own["ad.position"].output.weight.zero_()
        plain = ranker(x, margin).logits["click"]
    share = float(ranker.first.share[0])
    np.testing.assert_allclose((logit - plain).detach().numpy(), share * added, rtol=1e-9)
    np.testing.assert_allclose(found[:, columns].numpy(), share * gradient, rtol=1e-9, atol=1e-15)


def test_the_trunk_reads_no_column_of_it():
    bundle = fitted(FEATURES["dense"], "cross and attention")
    layout = bundle.ranker.layout
    own = [*layout.slices["ad.position"].indices(layout.width)][:2]
    assert not any(name.startswith("ad.position") for name in layout.read.slices)
    slots = [slot.name for slot in bundle.schema.features[-1].slots]
    hidden = sum(layout.slices[slot].stop - layout.slices[slot].start for slot in slots)
    places = layout.slices["seen"].stop - layout.slices["seen"].start
    wide = len(layout.apart["wide"])
    assert wide == 2  # of its bins, a column for each task
    assert layout.read.width == layout.width - hidden - places - wide
    ranker, x, _ = probed(bundle)
    ranker.eval()
    columns = [at for slot in slots for at in range(*layout.slices[slot].indices(layout.width))]
    columns += [layout.slices["#wide"].start + at for at in layout.apart["wide"]]
    x.requires_grad_()
    hidden_state = torch.cat([*ranker.hidden(x).values()], dim=1)
    (gradient,) = torch.autograd.grad(hidden_state.sum(), x)
    assert own
    assert gradient[:, columns].abs().max() == 0
    others = [at for at in range(layout.width) if at not in columns]
    assert (gradient[:, others].abs().max(dim=0).values > 0).float().mean() > 0.5


@pytest.mark.parametrize("feature", ["sparse", "linear"])
def test_it_starts_near_nothing_and_learns(feature):
    start, end = (fitted(FEATURES[feature], epochs=1, lr=lr) for lr in (1e-30, 0.02))
    for head in ("click", "buy"):
        before, after = (np.abs(added(each, head)).max() for each in (start, end))
        assert before < 0.02
        assert after > 2 * before


def added(bundle, head):
    """What the tower adds to a head's logit, at each place."""
    ranker, x, _ = probed(bundle)
    with torch.no_grad():
        own = ranker.head[head].own["ad.position"]
        return own(x[:, ranker.layout.slices["ad.position"]]).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["the default", "cross and attention"])
def test_it_is_saved_exported_and_resumed(name, tmp_path):
    feature = replace(FEATURES["sparse"], serving=1)
    out = tmp_path / "run"
    bundle = fitted(feature, name, out=out)
    rows = log().drop("click", "buy", "ad.position")
    expected = bundle.predict(rows)
    loaded = pr.load(out)
    assert loaded.schema == bundle.schema
    assert loaded.predict(rows).equals(expected)
    export(loaded, out / "bundle", [rows], vocabulary=True)
    served = pr.Engine(out / "bundle").predict(rows)
    for column in expected.columns:
        assert np.abs(served[column].to_numpy() - expected[column].to_numpy()).max() < 1e-6
    place = bundle.predict(rows.with_columns(pl.lit(4).alias("ad.position")))
    assert place.equals(expected)


def test_a_run_goes_on_to_the_same_bits(tmp_path):
    class Stopped(Exception):
        pass

    def stop(event):
        if getattr(event, "epoch", 0) == 2:
            raise Stopped

    options = {"valid": log(6), "cache": False}
    straight = fitted(FEATURES["sparse"], out=tmp_path / "straight", **options)
    with pytest.raises(Stopped):
        fitted(FEATURES["sparse"], out=tmp_path / "run", progress=stop, **options)
    resumed = fitted(FEATURES["sparse"], out=tmp_path / "run", resume=True, **options)
    for key, weight in straight.ranker.named_weights().items():
        assert torch.equal(weight, resumed.ranker.named_weights()[key]), key


@pytest.mark.parametrize("training", [True, False])
def test_no_graph_break(training):
    bundle = fitted(FEATURES["sparse"], "cross and attention", epochs=1)
    table = encode(grid(), bundle.schema, bundle.vocab, labels=False)
    batch = next(table.batches(bundle.ranker.layout, len(table)))
    with torch.no_grad():
        x, margin = inputs(bundle.ranker, batch, "cpu")
    ranker = deepcopy(bundle.ranker).train(training)
    found = torch._dynamo.explain(ranker)(x, margin)
    assert found.graph_break_count == 0


@pytest.mark.slow
def test_a_file_says_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log().drop("seen").write_parquet("log.parquet")
    (tmp_path / "e.toml").write_text(
        """
        name = "pal"
        [data]
        train = "log.parquet"
        valid = "log.parquet"
        [features]
        sparse = ["item", "ad.position"]
        [features."ad.position"]
        serving = 1
        tower = [8]
        [[task]]
        name = "click"
        [train]
        epochs = 1
        """
    )
    for line in ("check e.toml", "explain e.toml", "train e.toml", "export runs/pal",
                 "evaluate runs/pal log.parquet", "report runs/pal",
                 "predict runs/pal log.parquet -o scored.parquet"):  # fmt: skip
        assert run(line.split()) == 0, line
    shown = capsys.readouterr().out
    assert "tower of its own: ad.position [8]" in shown
    assert run(["explain", "e.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["own_towers"] == {"ad.position": [8]}
    feature = Experiment.load("runs/pal/config.toml").schema.features[-1]
    assert feature == pr.SparseFeature("ad.position", serving=1, tower=[8])


def test_a_warm_start_goes_on_with_it_and_needs_it(tmp_path):
    fitted(FEATURES["sparse"], out=tmp_path / "run")
    again = fitted(FEATURES["sparse"], train=log(9), epochs=1, start=tmp_path / "run")
    assert again.ranker.head["click"].own["ad.position"].output.weight.any()
    with pytest.raises(SchemaError, match=r"feature 'ad.position' was .*tower"):
        fitted(FEATURES["linear"], train=log(9), start=tmp_path / "run")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pr.SparseFeature("p", tower=8), "must be a list of layer widths, .*got 8"),
        (lambda: pr.DenseFeature("p", tower=[0]), "a layer of its tower must be a whole number"),
        (
            lambda: pr.Schema(
                [pr.SparseFeature("item", tower=[4]), LIST], [pr.Task("click")]
            ),
            "feature 'seen': the query 'item' of its pooling has a tower of its own",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_refused(make, message):
    with pytest.raises(SchemaError, match=message):
        make()


def test_a_trunk_needs_something_to_read_and_a_gate_what_it_reads():
    alone = pr.Schema([FEATURES["sparse"]], [pr.Task("click")])
    with pytest.raises(ConfigError, match=r"every feature has a tower of its own"):
        pr.fit(alone, pr.Model(), train=log(), epochs=1)
    gated = pr.Model(trunk=pr.PEPNet(gates=["ad.position"]))
    with pytest.raises(ConfigError, match=r"gates: feature 'ad.position' has a tower of its own"):
        pr.fit(schema(FEATURES["sparse"]), gated, train=log(), epochs=1)
