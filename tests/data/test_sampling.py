"""Down-sampled negatives: what is refused, and what a kept row stands for."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.data.sampling import Sampling
from polyrank.data.statistics import term_statistics
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError
from polyrank.schema import Keys, Schema, SparseFeature, Task

NAN = float("nan")
TASKS = [
    Task("click"),
    Task("buy", given="click", space=("all", "click")),
    Task("like"),
    Task("share", given="like", space=("all", "like")),
    Task("stars", kind="regression"),
]
SCHEMA = Schema([SparseFeature("item")], TASKS, Keys(weight="w"))
LOG = {
    "click": [1, 1, 0, 0, None],
    "buy": [1, 0, 0, None, 0],
    "like": [1, 0, 1, 0, 1],
    "share": [1, 0, 0, 0, 0],
    "stars": [5.0, 1.0, 3.0, None, 2.0],
    "w": [1.0, 2.0, 3.0, 1.0, 0.5],
}


def table_of(rows, schema=SCHEMA):
    frame = pl.DataFrame({"item": [1] * len(rows["click"]), **rows})
    return encode(frame, schema, Vocab.fit(frame, schema))


def repeated(rows, times):
    """The whole log of which a sample was taken: each row without a click so many times."""
    index = [i for i, y in enumerate(rows["click"]) for _ in range(times if y == 0 else 1)]
    return {name: [values[i] for i in index] for name, values in rows.items()}


@pytest.mark.parametrize("keep", [0, -0.1, 1.5, NAN, True, "0.1"])
def test_a_rate_out_of_range_is_refused(keep):
    with pytest.raises(ConfigError, match="a number above 0 and at most 1, got "):
        Sampling("click", keep)


@pytest.mark.parametrize("splits", ["train", (), 3])
def test_splits_are_a_list(splits):
    with pytest.raises(ConfigError, match="splits must be a list of some of 'train', 'valid'"):
        Sampling("click", 0.1, splits)


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="unknown split 'tran'; did you mean 'train'"):
        Sampling("click", 0.1, ["tran"])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("clik", "unknown task 'clik'; did you mean 'click'"),
        ("stars", "'stars' is a regression, which has no negatives"),
        ("buy", r"'buy' is given 'click', and only a root .* P\(buy\|click\) .* needs no correct"),
    ],
)
def test_only_a_binary_root_is_sampled(task, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(task, 0.1).check(SCHEMA)


def test_a_task_is_a_name():
    with pytest.raises(ConfigError, match="task must be the name of a binary root, got 3"):
        Sampling(3, 0.1)


def test_a_split_is_named_once():
    with pytest.raises(ConfigError, match=r"splits names a split twice: .'train', 'train'."):
        Sampling("click", 0.1, ["train", "train"])


def test_a_root_is_accepted_and_splits_are_a_tuple():
    sampling = Sampling("like", 1, ["train", "test"])
    sampling.check(SCHEMA)
    assert sampling == Sampling("like", 1.0, ("train", "test"))


@given(st.floats(-20, 20), st.floats(1e-4, 1))
def test_the_true_rate_is_that_of_the_logit_without_the_shift(z, keep):
    in_sample = 1 / (1 + np.exp(-(z - np.log(keep))))
    truth = 1 / (1 + np.exp(-z))
    assert Sampling("click", keep).true_rate(in_sample) == pytest.approx(truth, rel=1e-6, abs=1e-12)


def test_terms_that_descend_from_the_root():
    descends = {term.name: term.population.descends_from("click") for term in SCHEMA.objective}
    assert descends == {
        "click @ all": True,
        "buy @ all": True,
        "buy|click @ click": True,
        "like @ all": False,
        "share @ all": False,
        "share|like @ like": False,
        "stars @ all": False,
    }


def test_a_split_that_was_sampled_is_weighted():
    table = table_of(LOG)
    sampling = Sampling("click", 0.25, ("train", "test"))
    assert sampling.weighted(table, "test").weight.tolist() == [1, 2, 12, 4, 0.5]
    assert sampling.weighted(table, "valid") is table


def test_without_weights_of_its_own_a_row_weighs_what_it_stands_for():
    table = table_of(LOG, Schema([SparseFeature("item")], TASKS))
    assert Sampling("click", 0.1).weighted(table, "train").weight.tolist() == [1, 1, 10, 10, 1]


def test_statistics_of_other_terms_are_those_of_the_whole_log():
    sample, whole = table_of(LOG), table_of(repeated(LOG, 4))
    found = term_statistics(sample, Sampling("click", 0.25))
    plain, expected = term_statistics(sample), term_statistics(whole)
    for term in SCHEMA.objective:
        each = found[term.name]
        assert (each.rows, each.positives) == (plain[term.name].rows, plain[term.name].positives)
        if term.population.descends_from("click"):
            assert each == plain[term.name]
            continue
        wanted = expected[term.name]
        assert (each.weight, each.mean, each.sd) == pytest.approx(
            (wanted.weight, wanted.mean, wanted.sd)
        )
        assert each.weight_share == pytest.approx(wanted.weight / len(sample))
