"""Experiment: TOML to objects and back."""

import numpy as np
import polars as pl
import pytest

import polyrank as pr
import polyrank.tasks
from polyrank.config import Data, Experiment, Split
from polyrank.errors import ConfigError, SchemaError

FULL = """
name = "ali-ccp-esmm"
seed = 2022
[data]
train = "train.csv"
valid = "valid.csv"
test = "/data/test.csv"
orphans = "drop"
[features]
sparse = ["101", "121"]
dense = ["D109_14"]
[features."101"]
embed_dim = 8
min_count = 10
[features."D109_14"]
encoding = "bins"
[keys]
user = "101"
[[task]]
name = "click"
[[task]]
name = "buy"
label = "purchase"
given = "click"
space = ["all", "click"]
positive_weight = 2
[model]
trunk = { kind = "mmoe", experts = 8, hidden = [16] }
tower = [8]
embed_dim = 16
norm = "batch"
[train]
epochs = 10
batch_size = 1024
lr = 1e-3
embeddings = { kind = "lazy_adam" }
dense = { kind = "adam", weight_decay = 0 }
balance = { kind = "uncertainty" }
stop = { score = "buy @ all", metric = "auc", patience = 3 }
threads = 2
"""
SMALL = """
[data]
train = "t.csv"
[features]
sparse = ["item"]
[[task]]
name = "click"
"""


def test_a_full_file_becomes_objects(tmp_path):
    (tmp_path / "exp.toml").write_text(FULL)
    found = Experiment.load(tmp_path / "exp.toml")
    assert found.name == "ali-ccp-esmm"
    assert found.seed == 2022
    assert found.data.train == str(tmp_path / "train.csv")
    assert found.data.test == "/data/test.csv"
    assert found.schema.features[0] == pr.SparseFeature("101", embed_dim=8, min_count=10)
    assert found.schema.tasks[1].spaces == ("all", "click")
    assert found.model == pr.Model(
        trunk=pr.MMoE(experts=8, hidden=[16]), tower=[8], embed_dim=16, norm="batch"
    )
    assert found.training.stop == pr.Stop(score="buy @ all", metric="auc", patience=3)
    assert found.training.balance == pr.Uncertainty()


@pytest.mark.parametrize("text", [FULL, SMALL])
def test_the_resolved_file_reads_back(text):
    found = Experiment.from_text(text)
    assert Experiment.from_text(found.to_toml()) == found


def test_a_number_may_have_several_encodings():
    text = SMALL.replace('sparse = ["item"]', 'dense = ["age"]\n[features.age]\nbins = "auto"\n'
                         'encoding = ["piecewise_linear", "values"]\nmin_count = 3')  # fmt: skip
    found = Experiment.from_text(text)
    kinds = ("piecewise_linear", "values")
    assert found.schema.features[0] == pr.DenseFeature("age", kinds, bins="auto", min_count=3)
    assert found.to_table()["features"]["age"] == {
        "encoding": list(kinds), "bins": "auto", "min_count": 3, "wide": True
    }  # fmt: skip
    assert Experiment.from_text(found.to_toml()) == found
    for old, new, message in (
        ('"values"', '"valeus"', r"age.encoding: \[1\] .* 'values', .*, got 'valeus'"),
        ('"values"', '"values", "values"', "features.age: .*encoding names 'values' twice"),
        ('"auto"', '"atuo"', "features.age.bins: .*a valid integer or 'auto', got 'atuo'"),
        ('"auto"', "0", "features.age: .*unless it is 'auto', bins must be a whole number"),
    ):
        with pytest.raises(pr.PolyrankError, match=message):
            Experiment.from_text(text.replace(old, new))


def test_every_default_is_visible():
    table = Experiment.from_text(SMALL).to_table()
    assert table["seed"] == 0
    assert table["data"]["orphans"] == "error"
    assert table["features"]["item"] == {"min_count": 1, "wide": True}
    assert table["task"] == [
        {"name": "click", "label": "click", "kind": "binary", "space": "all", "weight": 1.0,
         "positive_weight": 1.0, "hold_ancestors": False}
    ]  # fmt: skip
    assert table["model"] == {
        "trunk": {"kind": "shared_bottom", "hidden": [128]}, "tower": [64], "embed_dim": 16,
        "interaction": {"kind": "cross", "rank": 32, "layers": 1}, "norm": "none",
        "dropout": 0.2, "field_dropout": 0.2, "wide": {"folds": 4, "outputs": 16},
        "trees": False, "stages": [],
        "entire_space": False,
    }  # fmt: skip
    train = table["train"]
    assert (train["epochs"], train["batch_size"], train["lr"]) == ("auto", "auto", 0.003)
    assert train["embeddings"] == {
        "kind": "lazy_adam", "lr": 0.004, "l2": 0.0, "prior": 3.0, "decay": 2.0,
        "betas": [0.9, 0.999], "eps": 1e-8,
    }  # fmt: skip
    assert train["balance"] == {"kind": "sum", "normalize": "rows"}
    assert train["schedule"] == {"kind": "linear", "warmup": 0.0}
    assert train["unseen_rate"] == 0.001


@pytest.mark.parametrize("entire", [False, True])
def test_a_space_that_is_left_out_is_the_models(entire, monkeypatch):
    monkeypatch.setattr(polyrank.tasks, "DEFAULT_SPACE", "parent")
    model = f"[model]\nentire_space = {str(entire).lower()}\n"
    text = f'{SMALL}[[task]]\nname = "buy"\ngiven = "click"\n{model}'
    found = Experiment.from_text(text)
    assert [task.space for task in found.schema.tasks] == ["all", "all" if entire else "click"]
    assert [task["space"] for task in found.to_table()["task"]] == [
        task.space for task in found.schema.tasks
    ]
    assert Experiment.from_text(found.to_toml()) == found
    if entire:
        with pytest.raises(ConfigError, match=r"ESMM supervises every event .* space 'click'"):
            pr.ESMM().check(Experiment.from_text(text, overrides=["task.buy.space=click"]).schema)


def test_a_file_may_hold_ancestors():
    text = f'{SMALL}[[task]]\nname = "buy"\ngiven = "click"\nhold_ancestors = true\n'
    found = Experiment.from_text(text)
    assert found.schema.tasks[1] == pr.Task("buy", given="click", space="all", hold_ancestors=True)
    assert found.to_table()["task"][1]["hold_ancestors"] is True
    assert Experiment.from_text(found.to_toml()) == found
    with pytest.raises(ConfigError, match=r"task.hold_ancestors: .*boolean"):
        Experiment.from_text(text, overrides=["task.buy.hold_ancestors=1"])
    with pytest.raises(SchemaError, match="task: task 'click': hold_ancestors needs an event"):
        Experiment.from_text(text, overrides=["task.click.hold_ancestors=true"])


def test_sequences_and_hashes_are_options_of_the_file():
    text = SMALL.replace(
        "[[task]]",
        """
        sequence = ["hist"]
        [features.item]
        hash = 100
        [features."hist"]
        pooling = "last"
        shared_with = "item"
        padding_idx = 0
        [[task]]
        """,
    )
    found = Experiment.from_text(text)
    assert found.schema.features == (
        pr.SparseFeature("item", hash=100),
        pr.SequenceFeature("hist", shared_with="item", pooling="last", padding_idx=0),
    )
    assert Experiment.from_text(found.to_toml()) == found
    assert "sequence" not in Experiment.from_text(SMALL).to_table()["features"]


def test_set_changes_a_key():
    overrides = [
        "train.epochs=3", "name=other", "model.trunk.experts=2", "task.buy.space=click",
        'features."101".min_count=5', "train.device=cpu",
    ]  # fmt: skip
    found = Experiment.from_text(FULL, overrides=overrides)
    assert found.training.epochs == 3
    assert found.name == "other"
    assert found.model.trunk == pr.MMoE(experts=2, hidden=[16])
    assert found.schema.tasks[1].space == "click"
    assert found.schema.features[0].min_count == 5


def test_set_of_another_kind_starts_from_its_defaults():
    kinds = {
        "model.trunk": (pr.Separate(), "separate"),
        "train.balance": (pr.Sum(), "sum"),
        "train.embeddings": (pr.RowwiseAdagrad(), "rowwise_adagrad"),
        "train.schedule": (pr.Constant(), "constant"),
    }
    text = FULL.replace("threads = 2", 'schedule = { kind = "cosine", warmup = 0.1 }')
    text = text.replace('{ kind = "uncertainty" }', '{ kind = "gradnorm", alpha = 1.0 }')
    text = text.replace('{ kind = "lazy_adam" }', '{ kind = "lazy_adam", betas = [0.8, 0.9] }')
    found = Experiment.from_text(text, overrides=[f"{k}.kind={v}" for k, (_, v) in kinds.items()])
    parts = {"model": found.model, "train": found.training}
    for key, (expected, _) in kinds.items():
        section, name = key.split(".")
        assert type(getattr(parts[section], name)) is type(expected)
    same = Experiment.from_text(FULL, overrides=["model.trunk.kind=mmoe"])
    assert same.model.trunk == pr.MMoE(experts=8, hidden=[16])


@pytest.mark.parametrize("order", [1, -1])
def test_set_of_another_kind_and_its_options_come_in_any_order(order):
    overrides = ["model.trunk.kind=ple", "model.trunk.levels=3"][::order]
    assert Experiment.from_text(FULL, overrides=overrides).model.trunk == pr.PLE(levels=3)


def test_a_tasks_kind_is_changed_in_place():
    changes = ["kind=regression", "space=click", "positive_weight=1"]
    found = Experiment.from_text(FULL, overrides=[f"task.buy.{each}" for each in changes])
    assert (found.schema.tasks[1].label, found.schema.tasks[1].kind) == ("purchase", "regression")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.epoch=3", "--set train.epoch: unknown key; did you mean 'train.epochs'"),
        ("epochs=3", "--set epochs: unknown key; did you mean 'train.epochs'"),
        ("Seed=3", "--set Seed: unknown key; did you mean 'seed'"),
        ("experts=3", "--set experts: unknown key; did you mean 'model.trunk.experts'"),
        ("monitor.ps=1", "--set monitor.ps: unknown key; did you mean 'monitor.psi'"),
        ("train.experts=3", "--set train.experts: unknown key; did you mean 'model.trunk.experts'"),
        ("train.stop.scor='x'", "train.stop: unknown key 'scor'; did you mean 'score'"),
        ("task.buy=2", "--set task.buy: name a key of it, such as task.buy.weight=2"),
        ("model.trunk.kind=MMOE", "model.trunk: unknown kind 'MMOE'; did you mean 'mmoe'"),
        ("epochs", "--set needs KEY=VALUE such as train.epochs=3, got 'epochs'"),
        ("task.by.space=click", "--set task.by: unknown name; did you mean 'buy'"),
        ("a b=1", "is no TOML assignment"),
        ("seed=-1", "seed must be a whole number of at least 0, got -1"),
        ("seed=one", "seed must be a whole number of at least 0, got 'one'"),
        ("name='a/b'", r"name must be one folder name \(runs/NAME\), got 'a/b'"),
        ("name='..'", r"name must be one folder name \(runs/NAME\), got '..'"),
        ("name=3", r"name must be one folder name \(runs/NAME\), got 3"),
    ],
)
def test_a_wrong_set_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Experiment.from_text(FULL, overrides=[change])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[data]", "[dta]", "configuration: unknown key 'dta'; did you mean 'data'"),
        ('[data]\ntrain = "t.csv"', "", r"configuration: \[data\] is missing"),
        ("train =", "trian =", "data: unknown key 'trian'; did you mean 'train'"),
        ('train = "t.csv"', "", "give either train .* or source"),
        ('train = "t.csv"', 'train = "t"\nsource = "s"', "give either train .* or source"),
        ('train = "t.csv"', 'source = "s"\nvalid = "v"', "source is split into train, valid and"),
        ("[features]", "[data.split]\nby = 'time'\n[features]", r"\[data.split\] needs source"),
        ("[features]", "orphans = 'ignore'\n[features]", "data.orphans: .*'error', 'drop' or 'z"),
        (
            "sparse =",
            "sprse =",
            "features.sprse: unknown kind of feature 'sprse'; did you mean 'sparse'",
        ),
        ('["item"]', '"item"', "features.sparse: expected a list of columns"),
        ('["item"]', '[["item"]]', "features.sparse: expected a list of columns"),
        ('["item"]', '["item"]\nsequence = "h"', "features.sequence: expected a list of col"),
        (
            "[[task]]",
            "[features.item]\npooling='sum'\n[[task]]",
            "features.item: unknown key 'pooling'",
        ),
        ("[[task]]", "[task]", r"write a task as \[\[task\]\], with two brackets"),
        (
            "[[task]]",
            "[features.itm]\nmin_count=2\n[[task]]",
            "in none of the lists .*did you mean 'item'",
        ),
        ("[[task]]", "[features.item]\nmincount=2\n[[task]]", "features.item: unknown key 'minco"),
        (
            "[[task]]",
            "[keys]\nusr='item'\n[[task]]",
            "keys: unknown key 'usr'; did you mean 'user'",
        ),
        ('"click"', '"click"\ngivn="x"', "task: unknown key 'givn'; did you mean 'given'"),
        ("[data]", "[data", "is not TOML"),
    ],
)
def test_wrong_files_are_refused_with_the_nearest(old, new, message):
    assert old in SMALL
    with pytest.raises(ConfigError, match=message):
        Experiment.from_text(SMALL.replace(old, new))


@pytest.mark.parametrize("features", [3, ["item"]])
def test_features_are_a_table(features):
    table = {"data": {"train": "t.csv"}, "features": features, "task": [{"name": "click"}]}
    with pytest.raises(ConfigError, match="features: expected a table, got "):
        Experiment.from_table(table)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"log.CSV is a log.*`polyrank init log.CSV` proposes"):
        Experiment.load("log.CSV")
    with pytest.raises(ConfigError, match=r"nowhere.toml cannot be read"):
        Experiment.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("by", ["random", "time", "user"])
def test_a_source_is_split(tmp_path, by):
    generator = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "item": generator.integers(0, 9, 400),
            "user": generator.integers(0, 60, 400),
            "t": generator.permutation(400),
            "click": generator.integers(0, 2, 400),
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    text = SMALL.replace('train = "t.csv"', f"""source = "log.parquet"
        [data.split]
        by = "{by}"
        fractions = [0.5, 0.25, 0.25]
        [keys]
        user = "user"
        time = "t"
        """)  # fmt: skip
    experiment = Experiment.from_text(text, folder=tmp_path, overrides=["train.epochs=1"])
    sources = experiment.sources()
    parts = [each.collect() for each in (sources.train, sources.valid, sources.test)]
    assert sum(part.height for part in parts) == 400
    if by == "user":
        assert not set(parts[0]["user"]) & set(parts[2]["user"])
    if by == "time":
        assert parts[0]["t"].max() < parts[1]["t"].min()
    bundle = experiment.fit(out=tmp_path / "run")
    assert bundle.scorecard.split == "test"
    assert bundle.config["data"]["split"]["fractions"] == [0.5, 0.25, 0.25]


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_a_source_is_split_by_a_date(tmp_path, name):
    days = pl.date_range(pl.date(2023, 12, 1), pl.date(2024, 1, 9), eager=True).alias("day")
    log = pl.DataFrame({"day": days, "click": [0, 1] * 20, "item": range(40)}).reverse()
    (log.write_csv if name.endswith("csv") else log.write_parquet)(tmp_path / name)
    source = f'source = "{name}"\nsplit = {{ by = "time", column = "day" }}'
    experiment = Experiment.from_text(SMALL.replace('train = "t.csv"', source), folder=tmp_path)
    parts = {split: rows.collect() for split, rows in experiment.sources().splits.items()}
    assert {split: part.height for split, part in parts.items()} == {
        "train": 32, "valid": 4, "test": 4
    }  # fmt: skip
    ends = [str(part["day"].max()) for part in parts.values()]
    assert ends == ["2024-01-01", "2024-01-05", "2024-01-09"]


@pytest.mark.parametrize("by", ["random", "user"])
def test_a_sampled_source_is_sampled_in_every_split(by):
    sampling = pr.Sampling("click", 0.1)
    with pytest.raises(ConfigError, match=r"splits leaves out 'valid', 'test', but a source"):
        Data(source="log.csv", split=Split(by=by), sampling=sampling)
    Data(source="log.csv", split=Split(by=by, fractions=(1.0, 0.0, 0.0)), sampling=sampling)
    Data(source="log.csv", split=Split(by="time"), sampling=sampling)
    everywhere = pr.Sampling("click", 0.1, ["train", "valid", "test"])
    assert Data(source="log.csv", split=Split(by=by), sampling=everywhere).sampling == everywhere


def test_without_a_test_share_there_is_no_test_split():
    data = Data(source="s", split=None)
    assert data.split.fractions == (0.8, 0.1, 0.1)
    experiment = Experiment.from_text(
        SMALL.replace('train = "t.csv"', 'source = "s.csv"\nsplit = { fractions = [0.9, 0.1, 0] }')
    )
    assert experiment.data.split.fractions == (0.9, 0.1, 0.0)


def test_a_split_may_have_a_seed_of_its_own(tmp_path):
    pl.DataFrame({"x": range(200), "click": [0, 1] * 100}).write_csv(tmp_path / "log.csv")

    def rows(seed, split):
        table = {
            "seed": seed,
            "data": {"source": "log.csv", "split": split},
            "features": {"sparse": ["x"]},
            "task": [{"name": "click"}],
        }
        experiment = Experiment.from_table(table, folder=tmp_path)
        assert Experiment.from_text(experiment.to_toml()) == experiment
        return experiment.sources().train.collect()["x"].to_list()

    assert rows(1, {}) != rows(2, {})
    assert rows(1, {"seed": 7}) == rows(2, {"seed": 7}) == rows(7, {})
    with pytest.raises(
        ConfigError, match=r"data\.split: seed must be a whole number of at least 0"
    ):
        rows(1, {"seed": -1})


def test_a_run_that_training_goes_on_from(tmp_path):
    text = """
        start = { run = "runs/monday", retain = 0.9 }
        [data]
        train = "log.csv"
        [features]
        sparse = ["item"]
        [[task]]
        name = "click"
    """
    found = Experiment.from_text(text, folder=tmp_path)
    assert found.start == pr.Start(run=str(tmp_path / "runs" / "monday"), retain=0.9)
    assert Experiment.from_text(found.to_toml()) == found
    changed = Experiment.from_text(text, folder=tmp_path, overrides=["start.run=/b"])
    assert changed.start == pr.Start(run="/b", retain=0.9)
    with pytest.raises(ConfigError, match="start: run is missing: name the run folder"):
        Experiment.from_text(text.replace('run = "runs/monday", ', ""))
    with pytest.raises(ConfigError, match="start: unknown key 'keep'"):
        Experiment.from_text(text.replace("retain", "keep"))
