"""The facts of a value that weights its event: what it is made of, and what is fitted."""

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.data.check import check
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError, SchemaError
from polyrank.labels import WeightedLogistic

NAN = np.nan


def test_options_are_refused_by_what_is_known():
    with pytest.raises(SchemaError, match=r"unknown negatives 'every'; did you mean 'every_row'"):
        WeightedLogistic(negatives="every")
    with pytest.raises(SchemaError, match="event must name a column, got ''"):
        WeightedLogistic(event="")


def test_the_value_counts_where_the_event_happened():
    kind = WeightedLogistic(event="click")
    label = np.array([5, 5, 5, NAN, NAN], np.float32)
    event = np.array([1, 0, NAN, 0, 1], np.float32)
    np.testing.assert_array_equal(kind.observed(label, {"click": event}), [5, 0, NAN, 0, NAN])
    np.testing.assert_array_equal(WeightedLogistic().observed(label, {}), label)


def logged(click):
    tasks = [pr.Task("play", kind=WeightedLogistic(event="click"))]
    log = pl.DataFrame({"item": [1, 2, 3], "play": [4.0, 5.0, 6.0], "click": click})
    schema = pr.Schema([pr.SparseFeature("item")], tasks)
    return log, schema, Vocab.fit(log, schema)


def test_the_event_is_read_with_labels_and_not_to_predict():
    log, schema, vocab = logged([1, 0, None])
    np.testing.assert_array_equal(encode(log, schema, vocab).labels[:, 0], [4, 0, NAN])
    assert len(encode(log.select("item"), schema, vocab, labels=False)) == 3
    assert schema.inputs == ("item",)


def test_an_event_that_is_no_event_is_refused_with_its_row():
    log, schema, vocab = logged([1, 2, 0])
    message = (
        r"train: 1 row of label 'play' \(task 'play'\) with an event 'click' that is neither 0 "
        "nor 1 nor null, the first in row 1"
    )
    with pytest.raises(DataError, match=message):
        encode(log, schema, vocab, split="train")


def test_an_event_cannot_be_a_feature():
    tasks = [pr.Task("play", kind=WeightedLogistic(event="click"))]
    with pytest.raises(SchemaError, match="'click' is both a feature and what a label is made of"):
        pr.Schema([pr.SparseFeature("click")], tasks)


def test_a_task_names_it_with_its_options_in_a_file():
    table = {"name": "play", "kind": {"kind": "weighted_logistic", "event": "click"}}
    task = pr.Task.from_table(table)
    assert task.label_kind == WeightedLogistic(event="click")
    assert pr.Task.from_table(task.to_table()) == task


def test_without_a_negative_the_published_form_is_refused():
    label = np.array([1.0, 2.0])
    with pytest.raises(DataError, match=r"no training row without the event.*'every_row'"):
        WeightedLogistic(negatives="no_event").fit(label, np.ones(2), {})
    assert WeightedLogistic().fit(label, np.ones(2), {})["scale"] == 1.5


def test_a_log_that_cannot_be_learned_is_refused_by_the_task():
    tasks = [pr.Task("play", kind=WeightedLogistic(negatives="no_event"))]
    schema = pr.Schema([pr.SparseFeature("item")], tasks)
    log = {"item": [1, 2], "play": [3.0, 4.0]}
    message = (
        "task 'play': kind 'weighted_logistic' with negatives = 'no_event' has no training row"
    )
    with pytest.raises(DataError, match=message):
        pr.fit(schema, pr.Model(), train=log, epochs=1)


def test_an_event_that_is_no_event_is_an_error_of_the_audit():
    log, schema, _ = logged([1, 2, 0])
    (error,) = check(schema, {"train": log}).of("error")
    assert (error.check, error.column, error.numbers["rows"]) == ("label-values", "click", 1)
    assert "neither 0 nor 1 nor null" in error.message


@pytest.mark.parametrize("negatives", ["every_row", "no_event"])
def test_the_constant_loss_is_that_of_the_best_constant(negatives):
    rng = np.random.default_rng(1)
    label = rng.exponential(20, 500) * (rng.random(500) < 0.6)
    weight = rng.uniform(0.5, 2, 500)
    fitted = WeightedLogistic(negatives=negatives).fit(label, weight, {})
    value, z = label / fitted["scale"], np.linspace(-6, 6, 20001)[:, None]
    own = np.where(value > 0, value * np.log1p(1 / np.where(value > 0, value, 1)), 0)
    if negatives == "every_row":
        losses = value * np.logaddexp(0, -z) + np.logaddexp(0, z) - own - np.log1p(value)
    else:
        losses = np.where(value > 0, value * np.logaddexp(0, -z), np.logaddexp(0, z))
    best = np.average(losses, axis=1, weights=weight).min()
    assert fitted["constant_loss"] == pytest.approx(best, abs=1e-6)


def test_labels_that_are_all_zero_cost_nothing():
    for negatives in ("every_row", "no_event"):
        fitted = WeightedLogistic(negatives=negatives).fit(np.zeros(3), np.ones(3), {})
        assert fitted == {"scale": 1.0, "constant_loss": 0.0}
