"""`polyrank export` as it is used, and misused."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.bundle import format
from polyrank.serve import extra


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A bundle that had its rows in memory, and a file of rows like them."""
    generator = np.random.default_rng(4)
    size = 200
    rows = pl.DataFrame(
        {
            "item": generator.choice(["a", "b", "c"], size),
            "price": generator.lognormal(size=size),
            "click": generator.integers(0, 2, size),
        }
    )
    schema = pr.Schema(
        [pr.SparseFeature("item"), pr.DenseFeature("price", encoding="log")], [pr.Task("click")]
    )
    folder = tmp_path_factory.mktemp("export")
    bundle = pr.fit(schema, pr.Model(tower=[4]), train=rows, epochs=1, seed=1)
    bundle.save(folder / "memory" / "bundle")
    rows.write_parquet(folder / "rows.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_a_run_is_exported_on_its_own_test_rows(command):
    command("train", "exp.toml")
    code, out, _ = command("export", "runs/tiny", "--with-vocabulary")
    assert code == 0
    assert out.splitlines()[:2] == [
        "runs/tiny/bundle/model.onnx: equals the bundle on 100 test rows",
        "runs/tiny/bundle/model-with-vocabulary.onnx: equals the bundle on 100 test rows",
    ]
    header, *lines = [line.split() for line in out.splitlines()[2:]]
    assert header == [
        "largest",
        "difference",
        "model.onnx",
        "model-with-vocabulary.onnx",
        "allowed",
    ]
    assert [line[0] for line in lines] == ["p_click", "p_buy_given_click", "p_buy"]
    assert all(float(cell) <= float(line[-1]) for line in lines for cell in line[1:])
    Path("test.parquet").unlink()
    code, _, err = command("export", "runs/tiny")
    assert code == 1
    assert "the run's own rows cannot be read: no such file: " in err
    assert "test.parquet" in err
    assert err.endswith("give other rows with --data\n")
    # and what was exported before is still there
    assert (Path("runs/tiny/bundle") / "model-with-vocabulary.onnx").is_file()
    assert command("train", "exp.toml", "--force")[0] == 1  # its test rows are gone
    assert command("export", "runs/tiny", "--data", "valid.csv")[0] == 0
    assert not (Path("runs/tiny/bundle") / "model-with-vocabulary.onnx").exists()


def test_rows_in_memory_are_named_with_data(trained, command):
    code, _, err = command("export", trained / "memory")
    assert code == 1
    assert "the run had its rows in memory and knows no file of them: give rows" in err
    assert "--data" in err
    code, found, _ = command(
        "export", trained / "memory", "--data", trained / "rows.parquet", "--json"
    )
    assert code == 0
    ((path, parity),) = found["files"].items()
    assert path == str(trained / "memory" / "bundle" / "model.onnx")
    assert (parity["split"], parity["rows"], parity["allowed"]) == ("given", 200, {"p_click": 1e-6})
    assert parity["differences"]["p_click"] <= 1e-6
    manifest = json.loads((trained / "memory" / "bundle" / format.MANIFEST).read_text())
    assert manifest["onnx"]["model.onnx"]["differences"] == parity["differences"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"item": ["a"]}), "column 'price' is not in the data"),
        (pl.DataFrame({"item": ["a"], "price": ["dear"]}), "column 'price' must hold numbers, got"),
        (pl.DataFrame({"item": ["a"], "price": [1e39]}), "column 'price' has 1 infinite value"),
        (pl.DataFrame({"item": [], "price": []}, schema={"item": pl.String, "price": pl.Float64}),
         "there were no rows to compare"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_scored_are_refused(trained, command, tmp_path, frame, message):
    frame.write_parquet(tmp_path / "odd.parquet")
    before = (trained / "memory" / "bundle" / format.MANIFEST).read_bytes()
    code, _, err = command("export", trained / "memory", "--data", tmp_path / "odd.parquet")
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert (trained / "memory" / "bundle" / format.MANIFEST).read_bytes() == before


def test_what_is_missing_and_how_to_install_it_is_said_first(trained, command, monkeypatch):
    missing = ("onnx", "onnxscript")
    monkeypatch.setattr(
        extra, "find_spec", lambda name: None if name in missing else find_spec(name)
    )
    code, _, err = command("export", trained / "memory")
    assert code == 1
    assert "export needs onnx, onnxscript: pip install 'polyrank[serve]'" in err


def test_no_bundle_is_refused(command, tmp_path):
    code, _, err = command("export", tmp_path / "nowhere")
    assert code == 1
    assert "nowhere does not exist" in err


@pytest.mark.slow
def test_uncertainty_is_an_output_that_is_compared_too(command, trained, tmp_path):
    pr.load(trained / "memory").save(tmp_path / "run" / "bundle")
    line = ("export", str(tmp_path / "run"), "--data", str(trained / "rows.parquet"))
    code, out, _ = command(*line, "--uncertainty")
    assert code == 0
    assert [each.split()[0] for each in out.splitlines()[2:]] == ["p_click", "p_click_sd"]
    assert out.splitlines()[-1].split()[-1] == "1.0e-05"


def test_uncertainty_of_a_model_without_wide_rows_is_refused(command, tmp_path):
    rows = pl.DataFrame({"item": [1, 2] * 20, "click": [0, 1, 1, 0] * 10})
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    bundle = pr.fit(schema, pr.Model(wide=False, tower=[2]), train=rows, epochs=1)
    bundle.save(tmp_path / "run" / "bundle")
    rows.write_parquet(tmp_path / "rows.parquet")
    line = ("export", str(tmp_path / "run"), "--data", str(tmp_path / "rows.parquet"))
    code, _, err = command(*line, "--uncertainty")
    assert code == 1
    assert err == (
        "error: uncertainty: no task has a standard deviation: task 'click': no first stage is "
        "added to its logit: wide rows are, without `wide = false`\n"
    )
