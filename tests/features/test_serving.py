"""A value that is set at prediction: used in training, and then the same in every row and door."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.config import Experiment
from polyrank.data.table import as_served, encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, DataError, SchemaError
from polyrank.serve.batch import Predictor, predict_file
from polyrank.serve.export.write import export
from polyrank.train.explain import explain

ROWS = 1200
FEATURES = [
    pr.SparseFeature("position", serving=1),
    pr.DenseFeature("position", serving=1),
    pr.DenseFeature("position", serving="mean"),
    pr.SparseFeature("position", serving=1, tower=[4]),
    pr.DenseFeature("position", serving="mean", tower=[]),
]
KINDS = ["sparse", "dense", "mean", "sparse with a tower", "mean with a tower"]


def log() -> dict[str, np.ndarray]:
    """Clicks that low places lose: P(click) = σ(item's logit) ÷ position."""
    generator = np.random.default_rng(5)
    item, position = generator.integers(1, 9, ROWS), generator.integers(1, 5, ROWS)
    p = 1 / (1 + np.exp(4.5 - item)) / position
    return {
        "item": item, "position": position, "price": generator.random(ROWS),
        "click": (generator.random(ROWS) < p).astype(np.int64),
    }  # fmt: skip


def schema(feature: Any) -> pr.Schema:
    return pr.Schema(
        [pr.SparseFeature("item"), pr.DenseFeature("price"), feature], [pr.Task("click")]
    )


@pytest.fixture(scope="module", params=[*FEATURES, "trees"], ids=[*KINDS, "trees"])
def bundle(request: pytest.FixtureRequest) -> pr.Bundle:
    rows, trees = log(), request.param == "trees"
    feature = FEATURES[1] if trees else request.param
    model = pr.Model(trees=pr.Trees()) if trees else pr.Model()
    return pr.fit(schema(feature), model, train=rows, valid=rows, epochs=1)


def without(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: each for name, each in rows.items() if name != "position"}


def test_prediction_needs_no_column_and_reads_none(bundle: pr.Bundle) -> None:
    assert bundle.schema.inputs == ("item", "price")
    rows = log()
    found = bundle.predict(without(rows))
    assert bundle.predict(rows).equals(found)
    assert bundle.predict({**rows, "position": ["no number"] * ROWS}).equals(found)


def test_prediction_is_that_of_rows_which_hold_the_value(bundle: pr.Bundle) -> None:
    (feature,) = bundle.schema.served
    value = bundle.vocab.codecs["position"].serving
    if feature.serving == "mean":
        assert value == np.float32(log()["position"].mean())
    else:
        assert value == 1
    # The same model, of a schema in which the column is read.
    read = replace(feature, serving=None)
    features = [read if each is feature else each for each in bundle.schema.features]
    plain = replace(bundle.schema, features=features)
    vocab = Vocab(plain.features, bundle.vocab.tables, bundle.vocab.states)
    reading = replace(bundle, schema=plain, vocab=vocab)
    rows = log()
    expected = reading.predict({**rows, "position": np.full(ROWS, value)})
    assert bundle.predict(rows).equals(expected)
    # Training has used what was logged.
    logged = reading.predict(rows)["p_click"].to_numpy()
    assert np.abs(logged - expected["p_click"].to_numpy()).max() > 0.01


def test_the_scorecard_is_of_the_served_value(bundle: pr.Bundle) -> None:
    rows = log()
    again = bundle.evaluate(without(rows), split="valid")
    assert bundle.scorecard is not None
    assert again.to_json() == bundle.scorecard.to_json()
    table = pl.DataFrame(rows)
    assert bundle.evaluate(table.lazy(), split="valid").to_json() == again.to_json()


def test_as_served_is_what_encode_reads_with_the_value(bundle: pr.Bundle) -> None:
    frame, schema = pl.DataFrame(log()), bundle.schema
    logged = encode(frame, schema, bundle.vocab, numbers=True)
    expected = encode(frame.drop("position"), schema, bundle.vocab, numbers=True, served=True)
    found = as_served(logged, bundle.vocab)
    for name in ("ids", "dense", "numbers"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert not np.array_equal(found.ids, logged.ids) or not np.array_equal(
        found.dense, logged.dense
    )
    assert found.unseen == expected.unseen
    assert found.nulls == expected.nulls


@pytest.mark.slow
def test_every_door_serves_it(bundle: pr.Bundle, tmp_path: Path) -> None:
    rows = pl.DataFrame(without(log())).drop("click")
    expected = bundle.predict(rows)["p_click"].to_numpy()
    assert "set at prediction" in repr(bundle)
    bundle.save(tmp_path / "bundle")
    loaded = pr.load(tmp_path)
    assert loaded.predict(rows)["p_click"].to_numpy().tobytes() == expected.tobytes()
    parity = export(loaded, tmp_path / "bundle", [rows], vocabulary=True)
    assert len(parity) == 2
    engine = pr.Engine(tmp_path)
    assert engine.inputs == ("item", "price")
    np.testing.assert_allclose(engine.predict(rows)["p_click"].to_numpy(), expected, atol=1e-6)
    one = engine.predict_columns({"item": [3], "price": [0.5]}, None)
    two = engine.predict_columns({"item": [3], "price": [0.5], "position": [4]}, None)
    assert one.outputs["p_click"] == two.outputs["p_click"]
    rows.write_parquet(tmp_path / "rows.parquet")
    predict_file(
        Predictor(loaded.schema, loaded.predict_frame), tmp_path / "rows.parquet",
        tmp_path / "out.parquet",
    )  # fmt: skip
    written = pl.read_parquet(tmp_path / "out.parquet")["p_click"].to_numpy()
    np.testing.assert_array_equal(written, expected)


def test_a_file_says_it(tmp_path: Path) -> None:
    text = """
        [data]
        train = "log.csv"
        [features]
        sparse = ["item", "position"]
        dense = ["age"]
        [features.position]
        serving = 1
        [features.age]
        serving = "mean"
        [[task]]
        name = "click"
    """
    experiment = Experiment.from_text(text, folder=tmp_path)
    assert [each.name for each in experiment.schema.served] == ["position", "age"]
    assert Experiment.from_text(experiment.to_toml(), folder=tmp_path) == experiment
    assert pr.Schema.from_json(experiment.schema.to_json()) == experiment.schema
    with pytest.raises(ConfigError, match=r"features\.age\.serving: .*, got 'most'"):
        Experiment.from_text(text.replace('"mean"', '"most"'), folder=tmp_path)


def test_a_plan_says_it(tmp_path: Path) -> None:
    pl.DataFrame(log()).write_csv(tmp_path / "log.csv")
    table = {
        "data": {"train": "log.csv", "cache": False},
        "features": {"sparse": ["item", "position"], "position": {"serving": 1}},
        "task": [{"name": "click"}],
    }
    experiment = Experiment.from_table(table, folder=tmp_path)
    plan = explain(experiment.schema, experiment.model, experiment.training, experiment.sources())
    assert "set at prediction: position = 1" in str(plan)
    assert plan.to_json()["served"] == {"position": 1}


def test_an_unseen_id_is_refused_before_training() -> None:
    rows = log()
    with pytest.raises(DataError, match="serving = 9 is to stand in every row at prediction"):
        pr.fit(schema(pr.SparseFeature("position", serving=9)), pr.Model(), train=rows, epochs=1)


def test_a_mean_of_nothing_is_refused() -> None:
    rows = {**log(), "position": np.full(ROWS, np.nan)}
    message = "'position' has no value in training, so serving = 'mean' has none either"
    with pytest.raises(DataError, match=message):
        pr.DenseFeature("position", serving="mean").fit(pl.Series("position", rows["position"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pr.SparseFeature("p", serving=[1]), r"serving must be an id, .* got \[1\]"),
        (
            lambda: pr.DenseFeature("p", serving="most"),
            "unless it is 'mean', serving must be a finite number, got 'most'",
        ),
        (
            lambda: pr.Schema([pr.SparseFeature("p", serving=1)], [pr.Task("click")]),
            "every feature has a value for serving",
        ),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        make()
