import json
from html import escape

import numpy as np
import polars as pl
import pytest
import tomli_w

import polyrank as pr
from polyrank import report
from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.errors import ConfigError, DataError
from polyrank.monitor.bounds import Bounds
from polyrank.report.monitoring import monitor

SCHEMA = pr.Schema(
    [pr.SparseFeature("item"), pr.SequenceFeature("seen"), pr.DenseFeature("price")],
    [pr.Task("click")],
)


def rows(count, seed, *, shift=0.0, first=0):
    generator = np.random.default_rng(seed)
    item = generator.integers(0, 5, count)
    return pl.DataFrame(
        {
            "row": np.arange(first, first + count),
            "item": item,
            "seen": [list(range(each)) for each in generator.integers(0, 4, count)],
            "price": generator.normal(size=count) + shift,
            "click": (generator.random(count) < 0.1 + 0.15 * item).astype(int),
        }
    )


@pytest.fixture(scope="module")
def bundle():
    return pr.fit(
        SCHEMA, pr.Model(), train=rows(4000, 1), valid=rows(2000, 2), epochs=1, progress=False
    )


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("monitor") / "bundle"
    bundle.save(path)
    return path


def test_clean_rows_cross_nothing(bundle):
    found = monitor(bundle, rows(1000, 3).drop("click"))
    assert found.rows == 1000
    assert found.crossed == ()
    assert "no bound is crossed" in str(found)


def test_a_shifted_number_is_named_with_what_moved(bundle):
    found = monitor(bundle, rows(1000, 4, shift=1.0))
    (sentence,) = (each for each in found.crossed if each.startswith("price"))
    assert "price has drifted: PSI" in sentence
    assert found.by_psi[0].facet.title == "price"


def test_a_bound_of_psi_that_is_higher_is_not_crossed(bundle):
    found = monitor(bundle, rows(1000, 4, shift=1.0), bounds=Bounds(psi=50))
    assert any(each.found for each in found.drifts)
    assert found.crossed == ()


def test_files_give_what_frames_give(bundle, tmp_path):
    rows(1000, 3).write_parquet(tmp_path / "rows.parquet")
    one, two = monitor(bundle, rows(1000, 3)), monitor(bundle, tmp_path / "rows.parquet")
    assert one.to_json() == two.to_json()


def test_labels_that_come_later_are_joined_by_the_key(bundle):
    later = rows(1000, 3)
    labels = later.select("row", "click").sample(fraction=0.5, seed=1, shuffle=True)
    found = monitor(bundle, later.drop("click"), labels=labels, key=["row"])
    expected = bundle.evaluate(later.join(labels.select("row"), on="row"), split="monitored")
    assert found.scorecard.to_json() == expected.to_json()
    assert {"low", "high"} <= found.scorecard["click @ all"].metrics["auc"].keys()


def test_probabilities_that_are_off_cross_the_bound_of_pcoc(bundle):
    later = rows(2000, 3)
    labels = later.select("row", click=pl.col("click") * (pl.col("row") % 2))
    found = monitor(bundle, later, labels=labels, key=["row"])
    (sentence,) = found.crossed
    assert sentence.startswith("click @ all is not calibrated: PCOC ")


def test_an_auc_below_its_bound_is_crossed(bundle):
    later = rows(2000, 3)
    bounds = Bounds(auc=0.95)
    found = monitor(bundle, later, labels=later, key=["row"], bounds=bounds)
    (sentence,) = found.crossed
    assert sentence.startswith("click @ all ranks badly: AUC ")


def test_what_cannot_be_joined_is_refused(bundle):
    later = rows(100, 3)
    labels = later.select("row", "click")
    with pytest.raises(
        ConfigError,
        match=r"without a key: name both, .* \(--labels\)",
    ):
        monitor(bundle, later, labels=labels)
    with pytest.raises(ConfigError, match="got a key without labels"):
        monitor(bundle, later, key=["row"])
    with pytest.raises(DataError, match="the labels have no column 'rows' of the key"):
        monitor(bundle, later.with_columns(rows=1), labels=labels, key=["rows"])
    with pytest.raises(DataError, match=r"2 of 101 rows of the labels share their row"):
        monitor(bundle, later, labels=pl.concat([labels, labels[:1]]), key=["row"])
    with pytest.raises(DataError, match=r"no row has a label: .* share no row"):
        monitor(bundle, later, labels=rows(10, 3, first=900).select("row", "click"), key=["row"])


def test_no_rows_and_no_profile_are_refused(bundle):
    with pytest.raises(DataError, match="no rows"):
        monitor(bundle, rows(100, 3)[:0])
    sampled = pr.fit(
        SCHEMA, pr.Model(), train=rows(400, 1), valid=rows(200, 2), epochs=1, progress=False,
        sampling=pr.Sampling("click", 0.5),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="this bundle has no profile of its rows"):
        monitor(sampled, rows(100, 3))


def test_bounds_outside_their_range_are_refused():
    with pytest.raises(ConfigError, match=r"monitor.psi must be a number of at least 0, got -1"):
        Bounds(psi=-1)
    with pytest.raises(
        ConfigError, match=r"monitor.auc must be a number of at least 0 and at most 1, got 2"
    ):
        Bounds(auc=2)


def test_bounds_are_a_table_of_the_experiment():
    table = {
        "data": {"train": "a.csv"}, "features": {"sparse": ["item"]}, "task": [{"name": "click"}],
        "monitor": {"psi": 0.3, "auc": 0.6},
    }  # fmt: skip
    experiment = Experiment.from_text(tomli_w.dumps(table))
    assert experiment.monitor == Bounds(psi=0.3, auc=0.6)
    assert Experiment.from_text(experiment.to_toml()) == experiment
    with pytest.raises(ConfigError, match="psj"):
        Experiment.from_table({**table, "monitor": {"psj": 1}})


def test_the_verb_exits_with_3_beyond_a_bound(saved, tmp_path, capsys):
    rows(1000, 3).write_parquet(tmp_path / "clean.parquet")
    rows(1000, 4, shift=1.0).write_parquet(tmp_path / "shifted.parquet")
    assert run(["monitor", str(saved), str(tmp_path / "clean.parquet"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["crossed"] == []
    assert run(["monitor", str(saved), str(tmp_path / "shifted.parquet"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["drifts"][3]["found"]
    arguments = ["monitor", str(saved), str(tmp_path / "shifted.parquet"), "--psi", "50"]
    assert run(arguments) == 0


def test_the_page_names_what_is_crossed_and_escapes(bundle, tmp_path):
    later = rows(1000, 4, shift=1.0)
    found = monitor(bundle, later, labels=later, key=["row"])
    text = report.write_monitored(found, tmp_path / "page.html").read_text()
    for sentence in found.crossed:
        assert escape(sentence) in text
    assert "<h3>price</h3>" in text
    assert escape(found.by_psi[0].moved) in text
    assert "AUC" in text


def test_a_feature_that_is_set_at_prediction_need_not_be_there():
    features = [pr.SparseFeature("item", serving=1), pr.DenseFeature("price")]
    schema = pr.Schema(features, [pr.Task("click")])
    fitted = pr.fit(schema, pr.Model(), train=rows(1000, 1), epochs=1, progress=False)
    found = monitor(fitted, rows(500, 2).select("price"))
    assert [each.facet.title for each in found.drifts] == ["price", "p_click"]


@pytest.mark.parametrize("kind", [pl.String, pl.Float64, pl.Int32])
def test_a_key_of_numbers_is_that_of_text(bundle, kind):
    later = rows(500, 3, first=2**40 if kind != pl.Int32 else 0)
    labels = later.select("row", "click")
    one = monitor(bundle, later.drop("click"), labels=labels, key=["row"])
    logged = later.drop("click").with_columns(pl.col("row").cast(kind))
    assert monitor(bundle, logged, labels=labels, key=["row"]).to_json() == one.to_json()


def test_text_that_is_no_number_stays_text_and_a_key_that_is_missing_has_no_label(bundle):
    later = rows(500, 3).with_columns(
        pl.when(pl.col("row") < 100)
        .then(None)
        .when(pl.col("row") < 200)
        .then(pl.format("0{}", "row"))
        .otherwise(pl.col("row").cast(pl.String))
        .alias("row")
    )
    found = monitor(
        bundle, later.drop("click"), labels=rows(500, 3).select("row", "click"), key=["row"]
    )
    assert found.rows == 500
    assert found.scorecard["click @ all"].rows == 300


def test_a_key_of_two_types_is_refused(bundle):
    later = rows(500, 3)
    labels = later.select(pl.col("row").cast(pl.Date), "click")
    with pytest.raises(DataError, match="'row' is a column of Int64 in the rows and of Date in"):
        monitor(bundle, later.drop("click"), labels=labels, key=["row"])
