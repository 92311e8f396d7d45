"""Where a search looks: the default space, and one checked against an experiment."""

import pytest

import polyrank as pr
from polyrank.config import Experiment
from polyrank.errors import ConfigError
from polyrank.tune import space
from polyrank.tune.space import default_space, label, merged, searched
from polyrank.tune.spec import Choices, Range, Tune

TABLE = {
    "data": {"train": "t.csv"},
    "features": {"sparse": ["item"], "dense": ["price"]},
    "task": [{"name": "click"}, {"name": "buy", "given": "click"}],
}


def found_in(table, **tune):
    experiment = Experiment.from_table({**TABLE, **table})
    return {
        each.key: each
        for each in searched(
            Tune(**tune), experiment.schema, lambda changes: experiment.changed(changes).to_table()
        )
    }


def test_every_default_value_is_one_that_an_experiment_takes():
    found = found_in({})
    assert set(found) == set(default_space(Experiment.from_table(TABLE).schema))
    # what the library trains by default is where the search starts
    assert all(each.has_own for each in found.values())
    assert {"kind": "shared_bottom", "hidden": [128]} in found["model.trunk"].where.values


def test_one_task_shares_with_nobody():
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    trunk = default_space(schema)["model.trunk"]
    assert {each["kind"] for each in trunk.values} == {"shared_bottom"}


def test_trees_are_searched_where_there_are_numbers_and_a_library(monkeypatch):
    several = Experiment.from_table(TABLE).schema
    ids = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    assert "model.trees" in default_space(several)
    assert "model.trees" not in default_space(ids)
    monkeypatch.setattr(space, "find_spec", lambda _: None)
    assert "model.trees" not in default_space(several)


def test_a_file_adds_changes_and_leaves_out():
    given = {
        "train.lr": Range(low=1e-4, high=1e-3, log=True),
        "model.trunk": False,
        "features.price.bins": Choices((8, 16)),
    }
    found = found_in({}, space=given)
    assert found["train.lr"].where == given["train.lr"]
    assert not found["train.lr"].has_own  # 3e-3 lies above
    assert "model.trunk" not in found
    assert found["features.price.bins"].own == "auto"


def test_a_default_key_that_the_experiment_lacks_is_left_out(monkeypatch):
    lr = Range(low=1e-3, high=1e-2)
    both = {"train.lr": lr, "train.embeddings.momentum": lr}  # as of an optimiser without
    monkeypatch.setattr(space, "default_space", lambda _: both)
    assert [*found_in({})] == ["train.lr"]


def test_a_changed_step_size_is_inherited_and_one_of_its_own_stays():
    experiment = Experiment.from_table(TABLE)
    assert experiment.changed({"train.lr": 0.01}).training == pr.Training(lr=0.01)
    own = Experiment.from_table({**TABLE, "train": {"dense": {"kind": "adam", "lr": 0.5}}})
    assert own.changed({"train.lr": 0.01}).training.dense.lr == 0.5


def test_a_change_reaches_tasks_features_and_inner_tables():
    tables = Experiment.from_table(TABLE).to_table()
    changes = {
        "task.buy.space": "all", "features.price.bins": 8, "model.trunk.hidden": [9],
        "model.trunk": {"kind": "mmoe"}, "model.wide": {},
    }  # fmt: skip
    found = merged(tables, changes)
    assert found["task"][1]["space"] == "all"
    assert found["features"]["price"]["bins"] == 8
    assert found["model"]["trunk"] == {"kind": "mmoe", "hidden": [9]}
    assert tables["model"]["trunk"] == {"kind": "shared_bottom", "hidden": [128]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model.dropuot": Choices((0, 1))}, "model.dropuot = 0: .*did you mean 'dropout'"),
        ({"model.dropout": Range(low=0, high=2)}, "model.dropout = 2: .*dropout"),
        ({"model.trunk": Choices(({"kind": "mmoe"}, {"kind": "nome"}))}, "kind 'nome'.*'home'"),
        ({"task.by.space": Choices(("all", "click"))}, "there is no task 'by'; did you mean 'buy'"),
        ({"model.trees.rounds": Choices((1, 2))}, "model.trees is false, which has no 'rounds'"),
        (
            {"model.trunk": Choices(({"kind": "mmoe"}, {"kind": "mmoe", "experts": 8}))},
            "model.trunk: all values mean",
        ),
        (dict.fromkeys(default_space(Experiment.from_table(TABLE).schema), False), "nothing to"),
    ],
)  # fmt: skip
def test_what_the_experiment_refuses_is_said_before_a_row_is_read(given, message):
    with pytest.raises(ConfigError, match=message):
        found_in({}, space=given)


def test_labels_are_short():
    assert (
        label({"kind": "mmoe", "experts": 4, "hidden": [64, 32]}) == "mmoe experts 4 hidden 64-32"
    )
    assert [label(each) for each in (False, 3, 0.25, "all", {"folds": 4})] == [
        "false", "3", "0.25", "all", "folds 4",
    ]  # fmt: skip
