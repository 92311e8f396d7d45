"""The [tune] table: what it takes, what it refuses, and back."""

import pytest

from polyrank.config import Experiment
from polyrank.errors import ConfigError
from polyrank.tune.spec import Choices, Range, Tune, key_of, path_of

SMALL = """
[data]
train = "t.csv"
[features]
sparse = ["item"]
[[task]]
name = "click"
"""


def test_dotted_and_nested_keys_are_the_same():
    nested = {"space": {"model": {"dropout": {"low": 0, "high": 0.5}}, "train": {"lr": False}}}
    dotted = {"space": {"model.dropout": {"low": 0, "high": 0.5}, "train.lr": False}}
    found = Tune.from_table(nested)
    assert found == Tune.from_table(dotted)
    assert found.space == {"model.dropout": Range(low=0, high=0.5), "train.lr": False}


def test_a_name_with_a_dot_is_quoted():
    assert path_of('features."my.price".bins') == ("features", "my.price", "bins")
    assert key_of(["features", 'a "b"', "bins"]) == r'features."a \"b\"".bins'
    found = Tune.from_table({"space": {"features": {"my.price": {"bins": [8, 16]}}}})
    assert found.space == {'features."my.price".bins': Choices((8, 16))}


def test_the_table_of_an_experiment_reads_back():
    text = (
        SMALL
        + '[tune]\ntrials = 9\n[tune.space]\nmodel.trunk = [{ kind = "mmoe" }, { kind = "ple" }]\n'
    )
    text += "train.lr = { low = 1e-3, high = 1e-2, log = true }\nmodel.embed_dim = false\n"
    found = Experiment.from_text(text)
    assert found.tuning is not None
    assert found.tuning.trials == 9
    assert Experiment.from_text(found.to_toml()) == found
    assert Experiment.from_text(SMALL, overrides=["tune.trials=7"]).tuning == Tune(trials=7)
    assert "tune" not in Experiment.from_text(SMALL).to_table()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"trails": 3}, "tune: unknown key 'trails'; did you mean 'trials'"),
        ({"trials": 1}, "^tune: trials must be a whole number of at least 2, got 1"),
        ({"trials": "many"}, "tune.trials: .*valid integer, got 'many'"),
        ({"finalists": 0}, "finalists must be a whole number of at least 1, got 0"),
        ({"seeds": 2}, "seeds must be a whole number of at least 3, got 2"),
        ({"metric": "auc"}, "metric 'auc' is of a score: give score as well"),
        ({"space": []}, r"tune.space: expected a table, got \[\]"),
        ({"space": {"train.lr": [1e-3]}}, r"train.lr: .*needs at least two, got \[0.001\]"),
        ({"space": {"train.lr": 1e-3}}, "train.lr: expected a list of values, a range .*got 0.001"),
        ({"space": {"train.lr": True}}, "train.lr: expected .*or false, got True"),
        ({"space": {"train.lr": {"low": 1}}}, "train.lr: the key 'high' is missing"),
        ({"space": {"train.lr": {"low": 2, "high": 1}}}, "low must be below high, got 2 and 1"),
        (
            {"space": {"train.lr": {"low": 0, "high": 1, "log": True}}},
            "low of a logarithmic range must be a number above 0, got 0",
        ),
        (
            {"space": {"train.lr": {"low": 0, "high": 1, "step": 2}}},
            "train.lr: unknown key 'step'",
        ),
        (
            {"space": {"data.train": ["a", "b"]}},
            "data.train: only what is learned, and how, may be searched.*'model', 'train'",
        ),
        ({"space": {"modle.dropout": [0, 1]}}, "did you mean 'model'"),
        ({"space": {"train": [1, 2]}}, "train: name a key in it, such as train.lr"),
        ({"space": {"features.price": [1, 2]}}, "such as features.price.bins"),
        (
            {"space": {"task.buy.label": ["a", "b"]}},
            "task.buy.label: a search must not change what the outcome is",
        ),
        ({"space": {"a.": [1, 2]}}, "'a.' is no key such as train.lr"),
    ],
)
def test_what_is_wrong_is_said(table, message):
    with pytest.raises(ConfigError, match=message):
        Tune.from_table(table)
