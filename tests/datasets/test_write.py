import tomllib

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from polyrank.datasets import load
from polyrank.datasets.census import schema_of
from polyrank.datasets.write import as_toml, experiment_table, write
from polyrank.errors import ConfigError, DataError
from polyrank.schema import DenseFeature, Schema, SparseFeature, Task


def test_a_data_set_becomes_files_and_an_experiment(tmp_path):
    *frames, schema = load("synthetic", rows=1_000)
    path = write((*frames, schema), tmp_path / "new" / "log", name="first", seed=7)
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "experiment.toml",
        "test.parquet",
        "train.parquet",
        "valid.parquet",
    ]
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert (table["name"], table["seed"]) == ("first", 7)
    for split, frame in zip(("train", "valid", "test"), frames, strict=True):
        assert_frame_equal(pl.read_parquet(path.parent / table["data"][split]), frame.collect())
    assert [*table["features"]["sparse"], *table["features"]["dense"]] == [
        feature.name for feature in schema.features
    ]
    assert table["features"]["D508"] == {"encoding": "log"}
    assert table["keys"] == {"user": "101", "request": "request", "time": "time"}
    assert table["task"] == [{"name": "click"}, {"name": "buy", "given": "click"}]
    assert table["model"]["trunk"]["kind"] == "mmoe"


def test_what_differs_from_a_default_is_written_and_nothing_else():
    schema = Schema(
        features=[SparseFeature("shop id", min_count=5, embed_dim=4), DenseFeature("price")],
        tasks=[
            Task("click", label="clicked", weight=2.0),
            Task("buy", given="click", space="click"),
            Task("spend", kind="regression", given="buy"),
        ],
    )
    table = tomllib.loads(as_toml(experiment_table(schema, name="x")))
    assert table["features"] == {
        "sparse": ["shop id"],
        "dense": ["price"],
        "shop id": {"min_count": 5, "embed_dim": 4},
    }
    assert table["task"] == [
        {"name": "click", "label": "clicked", "weight": 2.0},
        {"name": "buy", "given": "click", "space": "click"},
        {"name": "spend", "kind": "regression", "given": "buy"},
    ]
    assert "keys" not in table


def test_a_data_set_may_say_how_it_is_trained():
    usual = experiment_table(schema_of(), name="x")["train"]
    changed = experiment_table(schema_of(), name="x", training={"epochs": 9})["train"]
    assert changed == usual | {"epochs": 9}


def test_a_value_of_another_type_is_refused_with_its_column(tmp_path):
    (tmp_path / "log.csv").write_text("a,click\n1,0\nx,1\n")
    log = pl.scan_csv(tmp_path / "log.csv", schema_overrides={"a": pl.Int64})
    schema = Schema(features=[SparseFeature("a")], tasks=[Task("click")])
    with pytest.raises(
        DataError, match=r"out cannot be written: could not parse `x` .* column 'a' .*\)$"
    ):
        write((log, log, log, schema), tmp_path / "out", name="x")
    assert not (tmp_path / "out").exists()


def test_each_task_has_a_heading():
    assert as_toml(experiment_table(schema_of(), name="census")).count("[[task]]") == 2


def test_an_experiment_is_not_replaced_unless_forced(tmp_path):
    frames = load("synthetic", rows=100, preset="additive")
    write(frames, tmp_path, name="one")
    with pytest.raises(ConfigError, match=r"experiment\.toml exists: name another"):
        write(frames, tmp_path, name="two")
    path = write(frames, tmp_path, name="two", force=True)
    assert 'name = "two"' in path.read_text(encoding="utf-8")


def broken(*_, **__):
    raise pl.exceptions.ComputeError("No space left on device (os error 28)")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_inside_a_file_is_refused(tmp_path):
    frames = load("synthetic", rows=100, preset="additive")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "x", tmp_path / "file"):
        with pytest.raises(DataError, match=rf"^{folder} cannot be written: "):
            write(frames, folder, name="one")
    assert contents(tmp_path) == {"file": b""}


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    frames = load("synthetic", rows=100, preset="additive")
    folder = tmp_path / "new" / "log"
    written = pl.LazyFrame.sink_parquet

    def full(frame, path):  # the second file meets the full disk, with half of it written
        path.write_text("half") if "valid" in path.name else written(frame, path)
        if "valid" in path.name:
            broken()

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    with pytest.raises(DataError, match=rf"^{folder} cannot be written: No space left on device"):
        write(frames, folder, name="one")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_data_set(tmp_path, monkeypatch):
    frames = load("synthetic", rows=100, preset="additive")
    write(frames, tmp_path, name="one")
    before = contents(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)  # the experiment, after all the rows
    with pytest.raises(DataError, match="No space left on device"):
        write(load("synthetic", rows=200, preset="additive"), tmp_path, name="two", force=True)
    assert contents(tmp_path) == before
