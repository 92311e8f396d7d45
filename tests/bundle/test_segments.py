"""Segments of a bundle: raw columns beside encoded rows, new and seen users, deciles."""

import logging

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.errors import ConfigError, DataError


def test_by_default_every_feature_of_few_values_new_users_and_deciles(bundle, rows):
    users = np.array(rows["user"])
    users[:100] = 77  # not in training
    found = bundle.segments({**rows, "user": users}, score="buy @ all")
    assert set(found["score"]) == {"buy @ all"}
    assert set(found["dimension"]) == {
        "user", "city", "slot", "home", "age", "price", "new or seen user", "score decile"
    }  # fmt: skip
    assert set(found.group_by("dimension").agg(pl.col("rows").sum())["rows"]) == {500}
    new = found.filter(dimension="new or seen user")
    assert set(new["value"]) == {"new, or in under 2 rows", "seen"}
    assert new.filter(value="new, or in under 2 rows")["rows"].item() >= 100
    assert found.filter(dimension="score decile").height == 10
    assert found.filter(dimension="age")["value"].null_count() == 1


def test_numbers_that_are_nearly_all_alike_cut_nothing(bundle, rows):
    price = np.zeros(500)
    price[:20] = np.arange(20)  # 20 values, and every decile is 0
    found = bundle.segments({**rows, "price": price}, score="buy @ all")
    assert "price" not in set(found["dimension"])
    assert bundle.segments({**rows, "price": price}, ["price"], score="buy @ all").height == 1


def test_any_column_of_the_data_and_every_binary_score(bundle, rows):
    found = bundle.segments({**rows, "shop": ["x", "y"] * 250}, ["shop"])
    assert found["score"].unique(maintain_order=True).to_list() == [
        "click @ all", "buy @ all", "buy|click @ click"
    ]  # fmt: skip
    card = bundle.evaluate(rows)
    for name in found["score"].unique():
        both = found.filter(score=name)
        assert both["rows"].sum() == card[name].rows
        assert both["positives"].sum() == card[name].positives


def test_orphans_that_are_dropped_leave_the_columns_in_step(bundle, rows):
    odd = {**rows, "click": np.array(rows["click"]), "shop": np.arange(500) // 250}
    odd["click"][np.flatnonzero(rows["buy"])[:5]] = 0
    found = bundle.segments(odd, ["shop"], score="click @ all", orphans="drop")
    assert found["rows"].sum() == 495


def test_the_ids_of_a_sparse_feature_are_names_and_no_numbers(bundle, rows):
    found = bundle.segments(rows, ["slot"], score="click @ all")
    assert set(found["value"]) == {"0", "1", "2", "3"}


def test_users_that_a_bundle_does_not_hold_are_no_dimension(rows, caplog):
    schema = pr.Schema([pr.DenseFeature("price")], [pr.Task("click")], pr.Keys(user="user"))
    small = pr.fit(schema, pr.Model(), train=rows, epochs=1)
    with caplog.at_level(logging.INFO, "polyrank.metrics.segments"):
        found = small.segments(rows)
    assert set(found["dimension"]) == {"price", "score decile"}
    assert "no segments of new and seen users: the bundle does not hold" in caplog.text


def test_an_unknown_column_is_refused_with_the_nearest(bundle, rows):
    with pytest.raises(
        DataError, match=r"by: column 'cty' is not in the data; did you mean 'city'"
    ):
        bundle.segments(rows, ["cty"])


def test_one_name_is_no_list(bundle, rows):
    with pytest.raises(ConfigError, match=r"by must be a list of columns, such as \['city'\], got"):
        bundle.segments(rows, by="city")


def test_an_unknown_score_is_refused_with_the_nearest(bundle, rows):
    with pytest.raises(ConfigError, match=r"unknown score 'buy@all'; did you mean 'buy @ all'"):
        bundle.segments(rows, ["city"], score="buy@all")


def test_the_score_of_a_regression_is_refused(bundle, rows):
    with pytest.raises(ConfigError, match="segments need the score of an event, got 'spend"):
        bundle.segments(rows, ["city"], score="spend|buy @ buy")
