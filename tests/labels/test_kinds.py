"""The facts of counts, levels, categories, money and quantiles."""

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.data.labels import check_labels, closed
from polyrank.errors import DataError, SchemaError
from polyrank.labels.values import said
from polyrank.terms import output_columns

SMALL = pr.Model(trunk=pr.SharedBottom(hidden=[4]), tower=[4], embed_dim=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pr.Count(distribution="poison"), "unknown distribution 'poison'; did you mean"),
        (lambda: pr.Quantile(levels=[0.9, 0.1]), r"from the lowest to the highest, got \[0.9, 0.1"),
        (lambda: pr.Quantile(levels=[]), "levels must lie between 0 and 1"),
        (lambda: pr.Quantile(levels=[0.5, 1.0]), "levels must lie between 0 and 1"),
        (lambda: pr.Quantile(levels="0.5"), "levels must be a list of numbers, got '0.5'"),
        (lambda: pr.Ordinal(values=[3]), "values must be 2 to 1,000, got 1"),
        (lambda: pr.Ordinal(values=[1, 1]), r"values must be finite and distinct, got \[1, 1\]"),
        (lambda: pr.Ordinal(values=["a", "b"]), "values must be numbers"),
        (lambda: pr.Ordinal(values=5), "values must be a list of numbers, got 5"),
        (lambda: pr.Categorical(others="rest"), "unknown others 'rest'"),
        (lambda: pr.Regression(loss="hubber"), "unknown loss 'hubber'; did you mean 'huber'"),
        (lambda: pr.Regression(transform="log"), "unknown transform 'log'"),
        (lambda: pr.Regression(loss="huber", delta=0), "delta must be above 0|delta"),
    ],
)
def test_an_option_that_there_is_none_of_is_refused(make, message):
    with pytest.raises(SchemaError, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "bad", "words"),
    [
        (pr.Count(), [1.5, -1], "whole numbers from 0"),
        (pr.LogNormal(), [0, -3], "numbers above 0"),
        (pr.Ordinal(values=[1, 2]), [3], "one of the values 1, 2, or null"),
        (pr.Categorical(values=[1, 2]), [0.5], "one of the values 1, 2, or null"),
        (pr.Regression(transform="log1p"), [-0.5], "finite numbers of at least 0"),
    ],
)
def test_a_bad_label_is_named_with_what_is_allowed(kind, bad, words):
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("y", kind=kind)])
    log = pl.DataFrame({"item": [1] * (len(bad) + 1), "y": [*map(float, bad), 2.0]})
    with pytest.raises(DataError) as caught:
        check_labels(log, schema, "train")
    assert f"'y' must hold {words}" in str(caught.value)
    assert f"in {len(bad)} row" in str(caught.value)


def funnel(kind):
    tasks = [pr.Task("buy"), pr.Task("spend", kind=kind, given="buy")]
    return pr.Schema([pr.SparseFeature("item")], tasks)


def test_a_label_where_its_parent_did_not_happen_is_not_read():
    log = pl.DataFrame({"item": [1, 2, 3], "buy": [0, 1, None], "spend": [0.0, 3.0, 0.0]})
    check_labels(log, funnel("lognormal"))
    with pytest.raises(DataError, match="got 0 in 1 row"):
        check_labels(log.with_columns(buy=1).head(1), funnel("lognormal"))


def test_values_are_those_of_training_rows_where_the_parent_happened():
    log = pl.DataFrame({"item": [1] * 4, "buy": [0, 1, 1, 1], "spend": [0, 4, 2, None]})
    found = closed(funnel("ordinal"), log)
    assert found.tasks[1].kind == pr.Ordinal(values=[2, 4])
    assert output_columns(found.tasks[1]) == (
        "spend_given_buy", "spend", "p_spend_at_least_4_given_buy", "p_spend_at_least_4",
    )  # fmt: skip
    schema = funnel("count")
    assert closed(schema, log) is schema


def test_too_few_or_too_many_values_are_refused_by_the_task():
    log = pl.DataFrame({"item": [1, 1], "buy": [1, 1], "spend": [4, 4]})
    with pytest.raises(DataError, match="task 'spend': kind 'ordinal' takes 2 to 1,000 values"):
        closed(funnel("ordinal"), log)
    with pytest.raises(DataError, match="'spend' of task 'spend' is a column of String"):
        closed(funnel("ordinal"), log.with_columns(spend=pl.lit("x")))


def test_a_value_that_training_rows_do_not_have_is_refused_or_is_the_other():
    log = pl.DataFrame({"item": [1, 2] * 40, "y": [1.0, 2.0, 5.0, 1.0] * 20})
    later = log.with_columns(y=pl.lit(9.0))
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("y", kind="categorical")])
    bundle = pr.fit(schema, SMALL, train=log, epochs=1)
    assert bundle.schema.outputs == ("p_y_1", "p_y_2", "p_y_5")
    with pytest.raises(DataError, match=r"one of the values 1, 2, 5, or null .*got 9 in 80 rows"):
        bundle.evaluate(later)
    kind = pr.Categorical(values=[1, 2], others="other")
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("y", kind=kind)])
    bundle = pr.fit(schema, SMALL, train=log, epochs=1)
    assert bundle.schema.outputs == ("p_y_1", "p_y_2", "p_y_other")
    assert bundle.evaluate(later).value("y @ all", "accuracy@3") == 1
    np.testing.assert_array_equal(kind.places(np.array([1, 9, 2.0])), [0, 2, 1])


def test_places_find_values_that_float32_rounds():
    kind = pr.Ordinal(values=[0.1, 0.2, -0.3])
    np.testing.assert_array_equal(kind.places(np.array([0.1, 0.2, -0.3])), [1, 2, 0])
    exact = np.array(kind.values)
    np.testing.assert_array_equal(kind.places(exact), [0, 1, 2])
    assert kind.allows(np.array([0.1, 0.15])).tolist() == [True, False]
    assert [said(each) for each in (1, 0.5, -2)] == ["1", "0_5", "minus_2"]


def test_shares_count_weights_and_leave_none_at_0():
    kind = pr.Ordinal(values=[1, 2, 3])
    found = kind.shares(np.array([1.0, 1, 2]), np.array([1.0, 1, 2]))
    np.testing.assert_allclose(found, [(0.5 * 3 + 1 / 3) / 4, (1.5 + 1 / 3) / 4, (1 / 3) / 4])
    assert sum(found) == pytest.approx(1)


def test_a_quantile_has_no_joint():
    schema = funnel(pr.Quantile(levels=[0.1, 0.5]))
    assert schema.outputs == ("p_buy", "spend_q10_given_buy", "spend_q50_given_buy")


def test_quantiles_of_training_rows_are_weighted():
    kind = pr.Quantile(levels=[0.5])
    label, weight = np.array([1.0, 2, 3, 9]), np.array([1.0, 1, 1, 10])
    assert kind.fit(label, weight, {})["quantiles"] == [9]
    assert kind.fit(label, np.ones(4), {})["quantiles"] == [2]


def test_kinds_are_read_from_tables_and_written_back():
    for kind in (
        pr.Count(distribution="negative_binomial"), pr.Quantile(levels=[0.2, 0.8]),
        pr.Ordinal(values=[1, 2, 5]), pr.Categorical(values=[1, 2], others="other"),
        pr.Regression(loss="huber", delta=2.0), pr.LogNormal(),
    ):  # fmt: skip
        task = pr.Task("y", kind=kind)
        assert pr.Task.from_table(task.to_table()) == task


DIVIDING = {
    "uncertainty": pr.Uncertainty(),
    "gradnorm": pr.GradNorm(),
    "with normalize": pr.Sum(normalize=True),
    "dwa": pr.DWA(),
    "stch": pr.STCH(),
}


@pytest.mark.parametrize("balance", DIVIDING)
def test_a_density_is_no_loss_to_divide_by(balance):
    log = pl.DataFrame({"item": [1, 2] * 40, "buy": [0, 1, 1, 1] * 20, "spend": [1.0, 2.5] * 40})
    with pytest.raises(pr.ConfigError, match=f"balance {balance}.* that of 'spend"):
        pr.fit(funnel("lognormal"), SMALL, train=log, epochs=1, balance=DIVIDING[balance])
