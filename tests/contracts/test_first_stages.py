"""What first stages keep under every trunk, space, balance and kind of id feature."""

import dataclasses
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from tests.numerics import assert_close

import polyrank as pr
from polyrank.balance import BALANCES
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError
from polyrank.models.model import TRUNKS
from polyrank.models.outputs import Tensors, inputs, logits_of, margins_of
from polyrank.objective.losses import Supervision
from polyrank.serve.export.write import export
from polyrank.train.checkpoint import CHECKPOINT
from polyrank.train.heads import base_rates
from polyrank.train.loop import balance_terms

ROWS, BATCH = 600, 64  # the last batch is a ragged one
FEATURES = [
    pr.SparseFeature("user", min_count=5),
    pr.SparseFeature("item"),
    pr.SparseFeature("page", hash=12),
    pr.SparseFeature("slot", vocab_size=6),
    pr.SequenceFeature("history", shared_with="item"),
    pr.SequenceFeature("recent", shared_with="user", pooling="last"),
    pr.SequenceFeature("tags", pooling="sum"),
    pr.DenseFeature("price", encoding=["standard", "bins"], bins=4),
]
IN_GRAPHS = [each for each in FEATURES if each.name != "page"]  # a graph cannot hash ids
CLICK, BUY, STARS = (
    pr.Task("click"),
    pr.Task("buy", given="click", space="all"),
    pr.Task("stars", kind="regression", given="click"),
)
TASKS = (CLICK, BUY, STARS)
SEVERAL = (
    CLICK,
    pr.Task("level", kind=pr.Ordinal(values=[1, 2, 3]), given="click"),
    pr.Task("button", kind=pr.Categorical(values=[2, 5], others="other")),
    pr.Task("spend", kind="lognormal", given="click"),
)  # heads of several outputs
WIDE, TREES = pr.Wide(folds=3), pr.Trees(folds=2, rounds=5, leaves=4, lr=0.3)
NONE = {"wide": False, "trees": False, "interaction": False, "field_dropout": 0.0}
STAGES = {
    "wide": NONE | {"wide": WIDE},
    "wide and trees": NONE | {"wide": WIDE, "trees": TREES},
    "wide, cross, field dropout": NONE
    | {"wide": WIDE, "interaction": pr.Cross(rank=2), "field_dropout": 0.2},
}
ALONE = {"trees": NONE | {"trees": TREES}}
OTHERS = [each() for each in BALANCES.values()]
trunks = pytest.mark.parametrize("kind", TRUNKS)
# No step of the network is large enough to be seen: what is predicted is the first stages'.
FROZEN = {"dense": pr.Adam(lr=1e-30)}


class Interrupt(Exception):
    pass


@pytest.fixture(scope="module")
def log():
    """A funnel with a rating: effects of ids, labels that are missing, weights."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 60, ROWS), rng.integers(0, 20, ROWS)
    effect = rng.normal(size=60)[user] + rng.normal(size=20)[item]
    click = (rng.random(ROWS) < 1 / (1 + np.exp(-effect))).astype(float)
    buy = np.where(click == 1, (rng.random(ROWS) < 0.4).astype(float), 0.0)
    click[rng.random(ROWS) < 0.05] = np.nan
    buy[np.isnan(click) | (rng.random(ROWS) < 0.05)] = np.nan

    def lists(most, longest):
        return [rng.integers(0, most, rng.integers(0, longest)).tolist() for _ in range(ROWS)]

    return pl.DataFrame(
        {
            "user": user, "item": item, "page": rng.choice([*"abcdefgh"], ROWS),
            "slot": rng.integers(0, 6, ROWS), "history": lists(20, 5), "recent": lists(60, 3),
            "tags": lists(9, 4), "price": np.where(rng.random(ROWS) < 0.1, np.nan, effect**2),
            "click": click, "buy": buy,
            "stars": np.where(click == 1, 3 + effect + rng.normal(size=ROWS), np.nan),
            "level": np.where(click == 1, 2 + np.sign(effect) * (np.abs(effect) > 0.5), np.nan),
            "button": np.where(item % 3 == 0, 2, np.where(user % 2, 5, 7)),
            "spend": np.where(click == 1, np.exp(effect), 0.0),
            # Of another mean than the rows for every label.
            "w": 1 + (click == 1) + 2.0 * (buy == 1) + (effect > 0),
        },
        nan_to_null=True,
    )  # fmt: skip


def fitted(
    log,
    *,
    kind="shared_bottom",
    stages="wide",
    tasks=TASKS,
    keys=None,
    features=FEATURES,
    **options,
):
    model = pr.Model(trunk=TRUNKS[kind](), tower=[5], embed_dim=4, dropout=0.2,
                     **(STAGES | ALONE)[stages])  # fmt: skip
    schema = pr.Schema(features, tasks, keys or pr.Keys())
    return pr.fit(
        schema, model, train=log,
        **{"epochs": 2, "batch_size": BATCH, "seed": 5, "progress": False, **options},
    )  # fmt: skip


def built(log, *, kind="shared_bottom", stages="wide", tasks=TASKS, seed=0):
    """A ranker as it starts, and its training rows."""
    schema = pr.Schema(FEATURES, tasks)
    vocab = Vocab.fit(log.lazy(), schema)
    table = encode(log.lazy(), schema, vocab, numbers=True)
    model = pr.Model(trunk=TRUNKS[kind](), tower=[5], embed_dim=4, dropout=0, **STAGES[stages])
    torch.manual_seed(seed)
    ranker = model.build(model.layout(schema, vocab))
    ranker.start_at(base_rates(table))
    return ranker, table


def moved(ranker, seed=0):
    """Put random numbers into the first stages, and the last layers off zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, each in ranker.named_weights().items():
            if name.startswith(("wide.", "first.")) or ".output." in name:
                each.normal_(std=0.3, generator=generator)


def own(bundle):
    """What the first stages of a bundle learned: weights and texts."""
    weights = bundle.ranker.named_weights()
    kept = {name: each for name, each in weights.items() if name.startswith(("wide.", "first."))}
    return kept, bundle.ranker.first.to_files()


def assert_same_stages(one, other):
    (one, texts), (other, others) = own(one), own(other)
    assert one.keys() == other.keys()
    assert "wide.prior.tags" in one
    for name, each in one.items():
        assert torch.equal(each, other[name]), name
    assert texts == others


@pytest.mark.slow
@trunks
@pytest.mark.parametrize("stages", STAGES)
def test_it_trains_resumes_saves_loads_exports_and_serves(kind, stages, log, tmp_path):
    run = partial(fitted, log, kind=kind, stages=stages, features=IN_GRAPHS, valid=log.head(300))

    def interrupt(progress):
        if progress.event == "epoch":
            raise Interrupt

    bundle = run(out=tmp_path / "whole")
    losses = bundle.history.select(r"^(train|valid) .* loss$")
    assert losses.width >= 2 * len(TASKS)
    assert np.isfinite(losses.to_numpy()).all()
    for name in bundle.ranker.head:  # the network has learned something above the margins
        assert bundle.ranker.head[name].output.weight.any()

    with pytest.raises(Interrupt):
        run(out=tmp_path / "broken", progress=interrupt)
    run(out=tmp_path / "broken", resume=True)
    folders = tmp_path / "whole", tmp_path / "broken"
    manifests = [pl.read_json(each / "bundle" / "bundle.json")["files"] for each in folders]
    assert manifests[0].struct.fields == manifests[1].struct.fields
    for name in manifests[0].struct.fields:
        if name.startswith(("stages/", "weights")):
            assert manifests[0].struct.field(name).equals(manifests[1].struct.field(name)), name
    # Every tensor behind them too: all tables of folds, moments, margins out of fold.
    states = [load_file(each / CHECKPOINT) for each in folders]
    assert states[0].keys() == states[1].keys()
    assert any(name.startswith("first.wide.") for name in states[0])
    for name, each in states[0].items():
        assert torch.equal(each, states[1][name]), name

    assert_served(bundle, tmp_path / "whole" / "bundle", log, vocabulary=True)


@pytest.mark.slow
def test_a_hashed_table_has_wide_rows_in_the_graph_of_encoded_rows(log, tmp_path):
    bundle = fitted(log)
    bundle.save(tmp_path / "bundle")
    assert bundle.ranker.named_weights()["wide.effect.page"].any()
    assert_served(bundle, tmp_path / "bundle", log, vocabulary=False)


def assert_served(bundle, folder, log, *, vocabulary):
    """Load a bundle, export it with parity, and serve it."""
    rows = unlabelled(log)
    expected = bundle.predict(rows)
    loaded = pr.load(folder)
    assert loaded.predict(rows).equals(expected)
    first = bundle.ranker.first
    sure = [
        task
        for task in ("click", "buy")
        if task in first.heads and first.stage[first.adding(task)].no_variance is None
    ]
    found = loaded.predict(rows, uncertainty=sure)
    assert found.equals(bundle.predict(rows, uncertainty=sure))
    assert found.width == expected.width + len(sure)
    assert all((found[name] > 0).all() for name in found.columns if name.endswith("_sd"))
    parity = export(loaded, folder, [rows], vocabulary=vocabulary, uncertainty=sure)
    assert [each.rows for each in parity.values()] == [rows.height] * (1 + vocabulary)
    served = pr.Engine(folder).predict(rows)
    assert served.columns == found.columns
    for column in served:
        np.testing.assert_allclose(column, found[column.name], rtol=1e-5, atol=1e-6)


def unlabelled(log):
    """Rows of the log, then ones of ids and numbers that training never saw, and of nulls."""
    rows = log.select(feature.name for feature in FEATURES).head(200)
    unseen = rows.head(9).with_columns(
        pl.col("user", "item") + 1000, page=pl.lit("unheard"), price=pl.col("price") * 1e3,
        history=pl.lit([500, 3, 3]), tags=pl.lit([1, 1, 700]),
    )  # fmt: skip
    ids = pl.selectors.by_dtype(pl.List).cast(rows.schema["history"])
    nulls = rows.clear(3)
    return pl.concat([rows, unseen.with_columns(ids), nulls])


def interrupted(progress):
    if progress.event == "epoch" and progress.epoch == 1:
        raise Interrupt


@pytest.mark.slow
@pytest.mark.parametrize("stages", ["wide", "wide and trees"])
def test_heads_of_several_outputs_resume_are_saved_and_served(stages, log, tmp_path):
    options = {"tasks": SEVERAL, "features": IN_GRAPHS, "stages": stages, "valid": log.head(300)}
    bundle = fitted(log, out=tmp_path / "whole", **options)
    first = bundle.ranker.first
    # The network alone says how far money of one row is spread.
    outputs = [("click", 0), ("level", 0), ("level", 1), *(("button", k) for k in range(3))]
    assert first.outputs == (*outputs, ("spend", 0))
    with pytest.raises(Interrupt):
        fitted(log, out=tmp_path / "cut", progress=interrupted, **options)
    resumed = fitted(log, out=tmp_path / "cut", resume=True, **options)
    assert_same_stages(resumed, bundle)
    assert resumed.predict(log).equals(bundle.predict(log))
    assert_served(bundle, tmp_path / "whole" / "bundle", log, vocabulary=True)
    with pytest.raises(ConfigError, match="task 'level' has no standard deviation: its kind is"):
        bundle.predict(log, uncertainty=["level"])


def test_outputs_start_at_their_margins_and_others_at_the_network(log):
    ranker, table = built(log, tasks=SEVERAL)
    moved_wide = [each for name, each in ranker.named_weights().items() if name[:5] == "wide."]
    generator = torch.Generator().manual_seed(4)
    for each in moved_wide:
        each.normal_(std=0.3, generator=generator)
    logits, margins = logits_of(ranker, table), margins_of(ranker, table)
    assert margins.keys() == {"click", "level", "button", "spend"}
    for head, each in margins.items():
        known = ~each.isnan()
        assert known.all() or head == "spend"
        assert torch.equal(logits[head][known], each[known])
    assert margins["spend"].isnan().all(0).tolist() == [False, True]
    assert logits["spend"][:, 1].std() > 0  # with a layer that was drawn, as without wide rows
    assert margins["button"].std(0).min() > 0.1
    ranker.first.share[:] = 0
    alone = logits_of(moved_network(ranker), table)
    for head, each in margins.items():
        known = ~each.isnan()
        assert torch.equal(alone[head][known], each[known])
    assert alone["spend"][:, 1].std() > 0


def moved_network(ranker):
    """Put random numbers into the last layers."""
    for head in ranker.head:
        torch.nn.init.normal_(ranker.head[head].output.weight, std=0.3)
    return ranker


def test_a_head_of_too_many_outputs_has_no_wide_rows(log, caplog):
    schema = pr.Schema(FEATURES, SEVERAL)
    wide = pr.Wide(folds=3, outputs=2)
    assert [each.task.name for each in wide.margins(schema)] == ["click", "level", "level", "spend"]
    caplog.set_level("INFO")
    bundle = pr.fit(
        schema, pr.Model(trunk=pr.SharedBottom(hidden=[4]), tower=[4], embed_dim=2, wide=wide),
        train=log, epochs=1, batch_size=100,
    )  # fmt: skip
    assert bundle.ranker.first.heads == ("click", "level", "spend")
    assert "wide rows: task 'button' has none, since its head has 3 outputs" in caplog.text
    assert "'level' has none" not in caplog.text


@trunks
def test_permuting_and_renaming_tasks_permutes_the_outputs(kind, log):
    names = {"click": "tap", "buy": "order", "stars": "rating"}
    tasks = (
        pr.Task("rating", label="stars", kind="regression", given="tap"),
        pr.Task("order", label="buy", given="tap", space="all"),
        pr.Task("tap", label="click"),
    )
    ranker, table = built(log, kind=kind)
    other, other_table = built(log, kind=kind, tasks=tasks, seed=1)
    moved(ranker)
    heads, others = ranker.first.heads, other.first.heads
    assert heads == ("click", "buy", "stars")
    columns = [heads.index(name) for new in others for name in names if names[name] == new]
    weights = {}
    for name, weight in ranker.named_weights().items():
        parts = name.split(".")
        if parts[0] in ("wide", "first"):
            weights[name] = weight[..., columns]
            continue
        if parts[0] == "embed" and ranker.layout.sets > 1:  # a set a task, in their order
            sets = weight.chunk(ranker.layout.sets, dim=1)
            weight = torch.cat([sets[at] for at in (2, 1, 0, 3)], dim=1)
        renamed = [names.get(part, part) if parts[0] != "embed" else part for part in parts]
        weights[".".join(renamed)] = weight
    # The first layers of the trunk read the effects of each slot by head.
    expected = scores(ranker, table, read_in=None)
    own_width, slots = ranker.layout.own_width, len(ranker.first.stage["wide"].slots)
    places = np.arange(slots * 3).reshape(slots, 3)[:, np.argsort(columns)].ravel()
    order = torch.from_numpy(np.concatenate([np.arange(own_width), own_width + places]))
    other.load_named_weights(weights)
    found = scores(other, other_table, read_in=order)
    for old, new in names.items():
        assert_close(found[new], expected[old], ranker.layout.width + 8 * len(TASKS))


def scores(ranker, table, *, read_in):
    """The logits of some rows, the columns of x in another order."""
    ranker.eval()
    with torch.no_grad():
        x, margin = inputs(ranker, next(table.batches(ranker.layout, 128)), "cpu")
        return ranker(x if read_in is None else x[:, read_in], margin).logits


@pytest.mark.parametrize("stages", ["wide", "wide and trees"])
def test_the_order_of_tasks_changes_no_fitted_margin(stages, log):
    options = {"valid": log.head(300), "stages": stages, **FROZEN}
    one = fitted(log, **options)
    other = fitted(log, tasks=(BUY, STARS, CLICK), **options)
    check_permuted(one, other, log)


def check_permuted(one, other, log):
    rows = log.head(200)
    expected = one.predict(rows)
    assert expected["p_click"].std() > 0.02
    for column in other.predict(rows):
        np.testing.assert_allclose(column, expected[column.name], rtol=2e-3, atol=1e-4)


def test_the_order_of_heads_of_several_outputs_changes_no_fitted_margin(log):
    options = {"valid": log.head(300), **FROZEN}
    tasks = SEVERAL[:-1]  # how far money is spread is an answer of the network
    one = fitted(log, tasks=tasks, **options)
    check_permuted(one, fitted(log, tasks=tasks[::-1], **options), log)


@pytest.mark.parametrize(
    "balance", [pr.Sum(normalize=False), pr.Sum(normalize=True), *OTHERS], ids=repr
)
def test_each_balance_steps_from_heads_that_start_at_zero(balance, log):
    """Behind a head that is 0 no layer has a gradient, and a balance must not divide by it."""
    ranker, table = built(log)
    supervision = Supervision.of(table)
    module = balance.build(balance_terms(supervision))
    batch = next(table.batches(ranker.layout, 256))
    labels = Tensors.of(batch, "cpu").labels

    def backward():
        ranker.zero_grad()
        x, margin = inputs(ranker, batch, "cpu")
        x = x.detach().requires_grad_()
        scores = ranker(x, margin)
        losses, _ = supervision.losses(scores.logits, labels, None)
        total = module.backward(losses, [x, *ranker.shared_parameters()])
        assert total.isfinite()
        assert x.grad.isfinite().all()
        return x.grad, {name: each.grad for name, each in ranker.named_parameters()
                        if not name.startswith("embed.")}  # fmt: skip

    of_x, gradients = backward()
    assert not of_x.any()
    for name, each in gradients.items():
        assert (each is not None and bool(each.any())) == (".output." in name), name
    moved(ranker)
    of_x, gradients = backward()
    assert of_x.any()
    for name, each in gradients.items():
        assert each.isfinite().all(), name
        assert each.any(), name


@pytest.fixture(scope="module")
def plain(log):
    return fitted(log, stages="wide and trees")


def tasks(**buy):
    return {"tasks": (CLICK, dataclasses.replace(BUY, **buy), STARS)}


CHANGES = {
    **{kind: {"kind": kind} for kind in TRUNKS if kind != "shared_bottom"},
    # DWA weighs as the sum does until the third epoch.
    **{repr(each): {"balance": each} for each in OTHERS if each not in (pr.Sum(), pr.DWA())},
    "on clicked rows": tasks(space="click"),
    "in both spaces": tasks(space=("all", "click")),
    "with held ancestors": tasks(hold_ancestors=True),
    "with larger steps": {"lr": 0.05, "schedule": pr.Constant()},
}


@pytest.mark.parametrize("options", CHANGES.values(), ids=CHANGES)
def test_no_gradient_of_the_network_reaches_a_first_stage(options, plain, log):
    """Trunk, balance, space and step size change the network alone, whatever they are."""
    other = fitted(log, stages="wide and trees", **options)
    assert_same_stages(other, plain)
    assert not other.predict(log).equals(plain.predict(log))
    for each in other.predict(log):
        assert each.is_finite().all()


@pytest.mark.parametrize("stages", ["wide", "trees"])
@pytest.mark.parametrize("rows", ["weighted", "sampled", "weighted and sampled"])
def test_margins_are_those_of_the_whole_weighted_log(rows, stages, log):
    """Without a network, the mean prediction is the rate that weights and sampling say."""
    rng = np.random.default_rng(1)
    keys = pr.Keys(weight="w") if "weighted" in rows else None
    sampling, some = None, log
    if "sampled" in rows:
        sampling = pr.Sampling("click", keep=0.5)
        kept = (log["click"].fill_null(1) != 0).to_numpy() | (rng.random(ROWS) < sampling.keep)
        some = log.filter(kept)
    bundle = fitted(
        some,
        stages=stages,
        keys=keys,
        sampling=sampling,
        epochs=4,
        unseen_rate=0.0,
        **FROZEN,
    )
    click = some["click"].to_numpy()
    w = np.ones(len(click)) if keys is None else some["w"].to_numpy()
    if sampling is not None:
        w = w * sampling.weight(click)
    found = bundle.predict(some)
    for column, name, happened in (
        ("p_click", "click", np.full(len(click), True)),
        ("p_buy_given_click", "buy", click == 1),
        ("stars_given_click", "stars", click == 1),
    ):
        label = some[name].to_numpy()
        teaches = ~np.isnan(label) & happened
        rate, mean = (
            np.average(each[teaches], weights=w[teaches])
            for each in (label, found[column].to_numpy())
        )
        assert mean == pytest.approx(rate, abs=0.05 if name == "stars" else 0.03)
        if keys is not None or name == "click":  # the rows as they lie say something else
            assert abs(label[teaches].mean() - rate) > 0.06
