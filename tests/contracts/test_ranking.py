"""Every loss over a request, through all doors: file, plan, audit, resume, bundle, export."""

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

import polyrank as pr
from polyrank.data.check import check
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.datasets.write import as_toml, experiment_table
from polyrank.errors import ConfigError, DataError, SchemaError
from polyrank.labels import LABELS
from polyrank.objective.losses import Supervision
from polyrank.ranking import RANKING, Ranking
from polyrank.schema import Schema
from polyrank.serve.export.write import export
from polyrank.train.explain import explain
from polyrank.train.loop import balance_terms
from polyrank.train.sources import Sources, encoded

REQUESTS, LONGEST = 90, 9
SMALL = {"tower": [4], "embed_dim": 4, "wide": False, "interaction": False}

HEAD = """
[data]
train = "train.parquet"
valid = "valid.parquet"
[features]
sparse = ["item", "user"]
[keys]
request = "request"
[[task]]
name = "click"
"""


@pytest.fixture(params=list(RANKING))
def kind(request):
    return request.param


def log(seed=0):
    rng = np.random.default_rng(seed)
    request = np.repeat(np.arange(REQUESTS), rng.integers(1, LONGEST + 1, REQUESTS))
    item, user = rng.integers(0, 12, len(request)), rng.integers(0, 9, REQUESTS)[request]
    click = rng.random(len(request)) < 1 / (1 + np.exp(1 - np.sin(item) - user / 9))
    buy = click & (rng.random(len(request)) < 0.4)
    return pl.DataFrame(
        {
            "item": item,
            "user": user,
            "request": request,
            "click": click.astype(int),
            "buy": buy.astype(int),
        }
    )


def schema(kind, **options):
    tasks = [pr.Task("click", ranking=kind, **options), pr.Task("buy", given="click")]
    features = [pr.SparseFeature("item"), pr.SparseFeature("user")]
    return pr.Schema(features, tasks, {"request": "request"})


def fitted(kind, **options):
    fit = {"train": log(), "valid": log(1), "epochs": 3, "batch_size": 32, "seed": 4}
    return pr.fit(schema(kind), pr.Model(**SMALL), **fit | {"progress": False} | options)


GRADED = [
    (kind, label)
    for kind in RANKING
    for label in LABELS
    if not LABELS[label].is_event and RANKING[kind]().compares(LABELS[label])
]


def graded_log(seed=0):
    """Of clicked rows a grade, which is a level, a count, an amount and a number at once."""
    frame = log(seed)
    level = 1 + np.random.default_rng(seed).poisson(1 + frame["item"].to_numpy() / 6).clip(max=3)
    return frame.with_columns(
        grade=pl.when(pl.col("click") == 1).then(pl.Series(level, dtype=pl.Int64))
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "label"), GRADED)
def test_graded_labels_go_through_all_doors(kind, label, tmp_path):
    """File, plan, audit, training that goes on, bundle, export: of rows where a parent happened."""
    for split, seed in (("train", 0), ("valid", 1)):
        graded_log(seed).write_parquet(tmp_path / f"{split}.parquet")
    (tmp_path / "exp.toml").write_text(
        HEAD
        + f"""[[task]]
name = "grade"
given = "click"
kind = "{label}"
ranking = {{ kind = "{kind}", share = 0.3 }}
"""
    )
    experiment = pr.Experiment.load(tmp_path / "exp.toml")
    found = experiment.schema
    assert found.by_name["grade"].ranking == RANKING[kind](share=0.3)
    assert pr.Experiment.from_text(experiment.to_toml()).schema == found
    term = f"grade|click @ click [{kind}]"
    assert {each.name: each.weight for each in found.objective} == {
        "click @ all": 1.0, "grade|click @ click": 0.7, term: 0.3
    }  # fmt: skip
    seen = graded_log().filter(pl.col("click") == 1)
    groups = seen.group_by("request").agg(pl.col("grade").n_unique(), pl.len())
    mixed = groups.filter(pl.col("grade") > 1)
    plan = explain(found, experiment.model, experiment.training, experiment.sources())
    (line,) = [
        line
        for line in str(plan).split("term over requests")[1].splitlines()
        if f"[{kind}]" in line
    ]
    counts = [f"{groups.height}", f"{mixed.height}", f"{mixed['len'].sum()}"]
    assert line.split()[-3:] == counts
    audit = check(found, {"train": graded_log(), "valid": graded_log(1)})
    (counted,) = [each for each in audit.findings if each.check == "requests"]
    idle = groups.height - mixed.height
    assert f"{idle} of {groups.height} requests have one label only" in counted.message

    def run(out, **options):
        fit = {"train": graded_log(), "valid": graded_log(1), "epochs": 2, "batch_size": 64}
        fit |= {"checkpoint": pr.Checkpoint(steps=2), "progress": False, "seed": 4}
        return pr.fit(found, pr.Model(**SMALL), **fit | options, out=tmp_path / out)

    def stop(progress):
        if progress.event == "checkpoint" and progress.epoch == 2:
            raise Interrupt

    bundle = run("straight")
    with pytest.raises(Interrupt):
        run("broken", progress=stop)
    assert run("broken", resume=True).predict(log(2)).equals(bundle.predict(log(2)))
    assert np.isfinite(bundle.history[f"valid {term} loss"].to_numpy()).all()
    again = pr.load(tmp_path / "straight")
    assert again.predict(log(2)).equals(bundle.predict(log(2)))
    assert "grade" in {score.task for score in again.evaluate(graded_log(2))}
    export(again, tmp_path / "straight" / "bundle", [log(2)])  # refuses without parity
    assert list(pr.Engine(tmp_path / "straight").outputs) == bundle.predict(log(2)).columns


def test_a_loss_beside_a_squared_error_is_balanced_as_a_log_likelihood():
    """Uncertainty weighting halves the exponent of a squared error alone."""
    tasks = [pr.Task("grade", kind="regression", ranking="pairwise")]
    found = pr.Schema([pr.SparseFeature("item")], tasks, {"request": "request"})
    table = encode(graded_log(), found, Vocab.fit(graded_log(), found))
    assert [each.exponent for each in balance_terms(Supervision.of(table))] == [0.5, 1.0]


@pytest.mark.parametrize(("kind", "label"), GRADED)
def test_graded_labels_that_are_all_equal_in_requests_are_refused(kind, label):
    tasks = [pr.Task("grade", kind=label, ranking=kind)]
    found = pr.Schema([pr.SparseFeature("item")], tasks, {"request": "request"})
    rows = graded_log().with_columns(grade=1 + pl.col("request") % 3)
    message = r"'grade @ all' has no request with two different labels in train \(90 requests\)"
    with pytest.raises(DataError, match=message):
        pr.fit(found, pr.Model(**SMALL), train=rows, epochs=1, progress=False)
    (finding,) = [
        each for each in check(found, {"train": rows}).findings if each.check == "nothing-to-rank"
    ]
    assert f"{REQUESTS} of {REQUESTS} requests" in finding.message


def test_it_is_a_term_of_its_own_name_and_weight(kind):
    found = schema(RANKING[kind](share=0.25), weight=2)
    terms = {term.name: term.weight for term in found.objective}
    assert terms == {"click @ all": 1.5, f"click @ all [{kind}]": 0.5, "buy|click @ click": 1.0}
    assert found.to_table()["tasks"][0]["ranking"] == {"kind": kind, "share": 0.25}
    assert Schema.from_json(found.to_json()) == found
    assert isinstance(RANKING[kind](), Ranking)


@pytest.mark.slow
def test_a_bundle_is_trained_saved_exported_and_predicts(kind, tmp_path):
    bundle = fitted(kind, out=tmp_path / "run")
    columns = ["p_click", "p_buy_given_click", "p_buy"]
    assert bundle.predict(log(2)).columns == columns
    assert f"valid click @ all [{kind}] loss" in bundle.history.columns
    assert f"train click @ all [{kind}] loss" in bundle.history.columns
    again = pr.load(tmp_path / "run")
    assert again.predict(log(2)).equals(bundle.predict(log(2)))
    assert {score.task for score in again.evaluate(log(2))} == {"click", "buy"}
    export(again, tmp_path / "run" / "bundle", [log(2)])  # refuses without parity
    assert list(pr.Engine(tmp_path / "run").outputs) == columns
    assert 0 < bundle.evaluate(log(2)).value("click @ all", "ndcg@10") <= 1


class Interrupt(Exception):
    """Stops a run from outside."""


@pytest.mark.slow
def test_a_run_goes_on_from_within_an_epoch_to_the_same_bits(kind, tmp_path):
    options = {"checkpoint": pr.Checkpoint(steps=3), "out": tmp_path / "broken"}
    straight = fitted(kind, checkpoint=pr.Checkpoint(steps=3), out=tmp_path / "straight")

    def stop(progress):
        if progress.epoch == 2 and progress.event == "checkpoint" and progress.step >= 6:
            raise Interrupt

    with pytest.raises(Interrupt):
        fitted(kind, **options | {"progress": stop})
    resumed = fitted(kind, resume=True, **options)
    assert resumed.predict(log(2)).equals(straight.predict(log(2)))
    one, two = (
        load_file(tmp_path / each / "bundle" / "weights.safetensors")
        for each in ("straight", "broken")
    )
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(two[name], tensor, err_msg=name)


def test_a_file_says_it_and_its_plan_and_audit_count(kind, tmp_path):
    for split, seed in (("train", 0), ("valid", 1)):
        log(seed).write_parquet(tmp_path / f"{split}.parquet")
    (tmp_path / "exp.toml").write_text(
        HEAD
        + f"""ranking = {{ kind = "{kind}", share = 0.3 }}
[model]
tower = [4]
[train]
epochs = 1
batch_size = 64
"""
    )
    experiment = pr.Experiment.load(tmp_path / "exp.toml")
    assert experiment.schema.tasks[0].ranking == RANKING[kind](share=0.3)
    assert pr.Experiment.from_text(experiment.to_toml()).schema == experiment.schema
    table = as_toml(experiment_table(experiment.schema, name="written"))
    assert pr.Experiment.from_text(table).schema == experiment.schema
    groups = log().group_by("request").agg(pl.col("click").n_unique(), pl.len())
    mixed = groups.filter(pl.col("click") == 2)
    plan = explain(experiment.schema, experiment.model, experiment.training, experiment.sources())
    counts = [f"{REQUESTS}", f"{mixed.height}", f"{mixed['len'].sum()}"]
    lines = str(plan).split("term over requests")[1].splitlines()
    line = next(line for line in lines if f"[{kind}]" in line)
    assert line.split()[-3:] == counts
    entry = plan.to_json()["objective"][1]["requests"]
    assert (entry["requests"], entry["mixed"]) == (REQUESTS, mixed.height)
    audit = check(experiment.schema, {"train": log(), "valid": log(1)})
    (found,) = [each for each in audit.findings if each.check == "requests"]
    assert found.severity == "info"
    idle = REQUESTS - mixed.height
    assert f"{idle} of {REQUESTS} requests have one label only" in found.message
    assert not audit.failed


def test_an_audit_finds_what_training_refuses(kind):
    alone = log().with_columns(request=pl.int_range(pl.len()))
    for rows, part in ((alone, "give nothing"), (log().drop("request"), "needs the key column")):
        audit = check(schema(kind), {"train": rows})
        (found,) = [each for each in audit.findings if each.check == "nothing-to-rank"]
        assert part in found.message
        assert audit.failed


def test_the_network_keeps_its_share_beside_wide_rows(kind):
    """The likelihood on validation rows would choose how much of a ranking network is heard."""
    fit = {"train": log(), "valid": log(1), "epochs": 2, "batch_size": 32, "progress": False}
    bundle = pr.fit(schema(kind), pr.Model(**SMALL | {"wide": pr.Wide()}), **fit)
    stages = bundle.ranker.first
    assert float(stages.share[list(stages.heads).index("click")]) == 1.0


def test_where_no_task_ranks_nothing_changes():
    """A request key alone groups metrics, and no batch."""
    keyed, plain = (
        pr.Schema([pr.SparseFeature("item")], [pr.Task("click")], keys)
        for keys in ({"request": "request"}, {})
    )
    fit = {"train": log(), "epochs": 2, "batch_size": 32, "progress": False}
    one, two = (pr.fit(each, pr.Model(**SMALL), **fit) for each in (keyed, plain))
    assert one.predict(log(2)).equals(two.predict(log(2)))


@pytest.mark.parametrize("name", ["pairwise", "softmax"])
def test_alone_it_leaves_the_likelihood_out(name):
    tasks = [pr.Task("click", ranking=RANKING[name](share=1))]
    found = pr.Schema([pr.SparseFeature("item")], tasks, {"request": "request"})
    assert [term.name for term in found.objective] == [f"click @ all [{name}]"]
    bundle = pr.fit(found, pr.Model(**SMALL), train=log(), epochs=1, progress=False)
    assert np.isfinite(bundle.predict(log(2)).to_numpy()).all()


def test_the_level_of_jrc_is_trained_and_predicts_nothing():
    bundle = fitted("jrc")
    weights = bundle.ranker.named_weights()
    assert "head.click#level.output.weight" in weights
    start = fitted("jrc", lr=1e-12).ranker.named_weights()["head.click#level.output.weight"]
    assert not torch.equal(weights["head.click#level.output.weight"], start)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pr.Task("a", ranking="pairwse"), "ranking: unknown kind 'pairwse'; did you mean"),
        (
            lambda: pr.Task("a", kind="ordinal", ranking="jrc"),
            "task 'a': ranking 'jrc' compares labels of kind 'binary', got 'ordinal': use "
            "'pairwise' or 'softmax', or leave ranking out",
        ),
        (
            lambda: pr.Task("a", kind="regression", ranking="softmax"),
            "compares labels of kind 'binary', .*'ordinal'.*, got 'regression': use 'pairwise', or",
        ),
        (
            lambda: pr.Task("a", kind="categorical", ranking="pairwise"),
            "'pairwise' compares labels of kind .*, got 'categorical': leave it out",
        ),
        (lambda: pr.Task("a", ranking=3), "ranking must be a name or a Ranking, got 3"),
        (lambda: pr.Pairwise(share=0), "'pairwise': share must be a number above 0 and at most 1"),
        (lambda: pr.JRC(share=1), "'jrc': share must be a number above 0 and below 1, got 1"),
        (
            lambda: pr.Schema([pr.SparseFeature("i")], [pr.Task("a", ranking="jrc")]),
            "task 'a': ranking compares the rows of a request: name its column in keys, request",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(make, message):
    with pytest.raises(SchemaError, match=message):
        make()


def test_compiled_steps_and_requests_longer_than_a_batch_are_refused():
    with pytest.raises(ConfigError, match="compile = true needs batches of one size"):
        fitted("softmax", compile=True)
    message = f"the longest request has {LONGEST} rows, and a batch 4.*raise batch_size"
    with pytest.raises(ConfigError, match=message):
        fitted("softmax", batch_size=4)


def test_a_log_larger_than_memory_is_streamed_with_whole_requests(kind, tmp_path):
    """Training rows keep their request key in the cache, and windows cut no request."""
    rng = np.random.default_rng(0)
    for split, rows in (("train", 60_000), ("valid", 2_000)):
        frame = pl.DataFrame(
            {
                "item": rng.integers(0, 50, rows),
                "user": rng.integers(0, 50, rows),
                "request": np.arange(rows) // 7,
                "click": rng.integers(0, 2, rows),
                "buy": rng.integers(0, 2, rows),
            }
        ).with_columns(buy=pl.col("click") * pl.col("buy"))
        frame.write_parquet(tmp_path / f"{split}.parquet", row_group_size=10_000)
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "valid")}
    sources = Sources(**files, memory="1MiB")
    assert encoded(schema(kind), sources, beside=tmp_path)[1]["train"].parted
    options = {"epochs": 1, "batch_size": 4096, "memory": "1MiB", "progress": False}
    bundle = pr.fit(schema(kind), pr.Model(**SMALL), **files, **options, out=tmp_path / "run")
    assert bundle.history["rows"].to_list() == [60_000]
    assert np.isfinite(bundle.history[f"train click @ all [{kind}] loss"][0])
