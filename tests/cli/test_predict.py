"""`polyrank predict`: with which engine, into which files."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.calibration import Platt
from polyrank.calibration.fitting import Calibrator
from polyrank.serve import batch
from polyrank.serve.export.write import export

COLUMNS = ["p_click", "p_buy_given_click", "p_buy"]
DEVIATIONS = ["p_click_sd", "p_buy_given_click_sd"]


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(2)
    size = 300
    click = generator.integers(0, 2, size)
    return pl.DataFrame(
        {
            "price": generator.lognormal(size=size),
            "item": generator.choice(["a", "b", "c", None], size),
            "user": generator.integers(0, 30, size, dtype=np.int16),
            "click": click,
            "buy": click * generator.integers(0, 2, size),
        }
    )


@pytest.fixture(scope="module")
def runs(rows, tmp_path_factory):
    """A run that was exported and one that was not, both calibrated."""
    folder = tmp_path_factory.mktemp("runs")
    schema = pr.Schema(
        [pr.SparseFeature("user"), pr.SparseFeature("item"), pr.DenseFeature("price")],
        [pr.Task("click"), pr.Task("buy", given="click")],
        pr.Keys(user="user"),
    )
    bundle = pr.fit(schema, pr.Model(embed_dim=4, tower=[4]), train=rows, epochs=1, threads=2)
    platt = Calibrator(Platt(2.0, -1.0), 100, 40, {"none": 0.6, "platt": 0.5})
    bundle = replace(bundle, calibrators={"click": platt})
    for name in ("plain", "exported"):
        bundle.save(folder / name / "bundle")
    export(bundle, folder / "exported" / "bundle", [rows])
    rows.drop("click", "buy").write_parquet(folder / "rows.parquet")
    return folder


@pytest.fixture
def here(runs, tmp_path, monkeypatch):
    for path in runs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without(monkeypatch):
    """Say of some libraries that they are not installed."""
    find = importlib.util.find_spec

    def call(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in names else find(n))

    return call


@pytest.mark.usefixtures("here")
def test_the_engine_scores_what_was_exported_and_torch_the_rest(command, rows):
    code, out, err = command("predict", "exported", "rows.parquet", "-o", "a.parquet")
    assert (code, out) == (0, "300 rows scored into a.parquet\n")
    assert err.startswith("engine: onnxruntime\n")
    code, out, err = command("predict", "plain", "rows.parquet", "-o", "b.parquet")
    assert (code, out) == (0, "300 rows scored into b.parquet\n")
    assert err.startswith("engine: torch (plain was not exported)\n")
    a, b = pl.read_parquet("a.parquet"), pl.read_parquet("b.parquet")
    assert a.columns == b.columns == ["user", *COLUMNS]
    assert a["user"].equals(b["user"])
    assert a["user"].equals(rows["user"])
    expected = pr.load("plain").predict(rows)
    assert b.select(COLUMNS).equals(expected)
    for name in COLUMNS:
        assert (a[name] - expected[name]).abs().max() <= 1e-6


@pytest.mark.usefixtures("here")
def test_raw_needs_torch(command, without, rows):
    _, found, err = command("predict", "exported", "rows.parquet", "-o", "a.csv", "--raw", "--json")
    assert found["engine"] == "torch"
    assert err == "engine: torch (--raw was given)\n"
    scored = pl.read_csv("a.csv").select(COLUMNS)
    assert scored.equals(pr.load("plain").predict(rows, raw=True))
    without("torch")
    code, _, err = command("predict", "exported", "rows.parquet", "-o", "a.csv", "--raw")
    assert code == 1
    assert err == "error: --raw needs torch: an exported bundle is calibrated\n"


@pytest.mark.usefixtures("here")
def test_uncertainty_adds_columns_to_files_parts_and_shards(command, without, rows):
    names = [*COLUMNS, *DEVIATIONS]
    expected = pr.load("plain").predict(rows, uncertainty=True)
    scored = []
    for out, options in (("a.parquet", ()), ("parts", ()), ("shards", ("--shard", "1/1"))):
        line = ("predict", "plain", "rows.parquet", "-o", out, "--uncertainty", *options)
        code, _, err = command(*line)
        assert code == 0
        assert err.startswith("engine: torch (plain was not exported)\n")
        path = Path(out)
        scored.append(pl.read_parquet(path if path.is_file() else path / "*.parquet"))
    for each in scored:
        assert each.columns == ["user", *names]
        assert each.select(names).equals(expected)
    code, _, err = command("predict", "plain", "rows.parquet", "-o", "parts", "--resume")
    assert code == 1
    assert "another columns (p_click_sd was 'Float64', is missing)" in err
    line = ("predict", "exported", "rows.parquet", "-o", "b.parquet", "--uncertainty")
    code, _, err = command(*line)
    assert code == 0
    assert err.startswith("engine: torch (exported was exported without --uncertainty)\n")
    assert pl.read_parquet("b.parquet").select(names).equals(expected)
    without("torch")
    code, _, err = command(*line)
    assert code == 1
    assert err == (
        "error: exported was exported without --uncertainty, and torch is not installed: run "
        "`polyrank export exported --uncertainty`\n"
    )


@pytest.mark.slow
def test_uncertainty_of_an_exported_bundle_needs_no_torch(command, runs, rows, tmp_path, without):
    bundle = pr.load(runs / "plain")
    bundle.save(tmp_path / "sure" / "bundle")
    export(bundle, tmp_path / "sure" / "bundle", [rows], uncertainty=True)
    without("torch")
    data, out = str(runs / "rows.parquet"), tmp_path / "a.parquet"
    for options, names in ((("--uncertainty",), [*COLUMNS, *DEVIATIONS]), ((), COLUMNS)):
        code, _, err = command("predict", str(tmp_path / "sure"), data, "-o", str(out), *options)
        assert code == 0
        assert err.startswith("engine: onnxruntime\n")
        scored = pl.read_parquet(out)
        assert scored.columns == ["user", *names]
        expected = bundle.predict(rows, uncertainty=True)
        for name in names:
            assert (scored[name] - expected[name]).abs().max() <= 1e-5


@pytest.mark.usefixtures("here")
def test_json_has_the_engine_and_the_counts(command):
    _, found, _ = command("predict", "exported", "rows.parquet", "-o", "out", "--json")
    nulls = pl.read_parquet("rows.parquet")["item"].null_count()
    assert found == {
        "out": "out",
        "engine": "onnxruntime",
        "rows": 300,
        "unseen": {"user": 0, "item": 0},
        "nulls": {"user": 0, "item": nulls, "price": 0},
        "resumed": 0,
    }


@pytest.mark.usefixtures("here")
def test_what_is_not_installed_is_said_with_the_remedy(command, without):
    arguments = ("predict", "exported", "rows.parquet", "-o", "a.csv")
    without("onnxruntime")
    code, _, err = command(*arguments)
    assert code == 0
    assert err.startswith("engine: torch (onnxruntime is not installed)\n")
    without("onnxruntime", "torch")
    code, _, err = command(*arguments)
    assert code == 1
    assert err == (
        "error: neither onnxruntime nor torch is installed: pip install 'polyrank[serve]'\n"
    )
    without("torch")
    code, _, err = command("predict", "plain", "rows.parquet", "-o", "a.csv")
    assert code == 1
    assert err == (
        "error: plain was not exported, and torch is not installed: run `polyrank export plain` "
        "where it is\n"
    )


def test_an_exported_run_is_scored_without_torch(here, command):
    blocked = "import sys\nsys.modules['torch'] = sys.modules['numba'] = None\n"
    code = blocked + "from polyrank.cli import main\nmain()"
    arguments = ["predict", "exported", "rows.parquet", "-o", "without", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "engine: onnxruntime\n")
    assert json.loads(done.stdout)["rows"] == 300
    command("predict", "exported", "rows.parquet", "-o", "with")
    for name in ("part-00000.parquet", "parts.json"):
        assert (here / "without" / name).read_bytes() == (here / "with" / name).read_bytes()


@pytest.fixture
def interruptible():
    """Ctrl-C raises: a job that a shell runs in the background is born ignoring it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("here", "interruptible")
@pytest.mark.parametrize("run", ["exported", "plain"])
def test_an_interrupted_folder_is_resumed(command, monkeypatch, run):
    monkeypatch.setattr(batch, "CHUNK_ROWS", 50)
    monkeypatch.setattr(batch, "PART_CHUNKS", 2)
    command("predict", run, "rows.parquet", "-o", "whole")
    with monkeypatch.context() as patch:
        add = batch.PartsFolder.add

        def interrupted(self, *counts):
            add(self, *counts)
            os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(batch.PartsFolder, "add", interrupted)
        code, _, err = command("predict", run, "rows.parquet", "-o", "out")
    assert code == 130
    assert "the finished parts are in out; continue with --resume\ninterrupted\n" in err
    code, _, err = command("predict", run, "rows.parquet", "-o", "out")
    assert code == 1
    assert "out already has parts: continue with --resume, replace" in err
    code, out, _ = command("predict", run, "rows.parquet", "-o", "out", "--resume")
    assert (code, out) == (0, "300 rows scored into out, 100 of them in an earlier run\n")
    for name in ("part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "parts.json"):
        assert Path(f"out/{name}").read_bytes() == Path(f"whole/{name}").read_bytes()
    code, out, _ = command("predict", run, "rows.parquet", "-o", "out", "--force")
    assert (code, out) == (0, "300 rows scored into out\n")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("run", ["exported", "plain"])
def test_shards_joined_by_name_are_the_file(command, monkeypatch, run):
    monkeypatch.setattr(batch, "CHUNK_ROWS", 50)
    command("predict", run, "rows.parquet", "-o", "whole.parquet")
    code, out, _ = command("predict", run, "rows.parquet", "-o", "out", "--shard", "2/4")
    assert (code, out) == (0, "100 rows scored into out/part-00002-of-00004.parquet\n")
    for number in (1, 3, 4):
        _, found, _ = command(
            "predict", run, "rows.parquet", "-o", "out", "--shard", f"{number}/4", "--json"
        )
        assert found["out"] == f"out/part-0000{number}-of-00004.parquet"
    assert pl.read_parquet("out/*.parquet").equals(pl.read_parquet("whole.parquet"))
    arguments = ("predict", run, "rows.parquet", "-o", "out", "--shard", "2/4")
    code, _, err = command(*arguments)
    assert code == 1
    assert "part-00002-of-00004.parquet already exists: keep it with --resume" in err
    code, out, _ = command(*arguments, "--resume")
    assert code == 0
    assert out.endswith("of-00004.parquet, 100 of them in an earlier run\n")
    assert command(*arguments, "--force")[0] == 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_bit(command, monkeypatch, threads):
    monkeypatch.setattr(batch, "CHUNK_ROWS", 20)
    arguments = ("predict", "exported", "rows.parquet", "--threads", threads)
    command(*arguments, "-o", "a.parquet")
    command("predict", "exported", "rows.parquet", "-o", "b.parquet")
    assert Path("a.parquet").read_bytes() == Path("b.parquet").read_bytes()


@pytest.mark.parametrize(("run", "asked"), [("exported", 2), ("plain", 1)])
@pytest.mark.usefixtures("here")
def test_the_threads_of_the_run_are_the_default(command, monkeypatch, run, asked):
    found = []

    def keeps(predictor, *_):
        import torch

        found.append((predictor.threads, torch.get_num_threads()))
        return batch.Counts(0, {}, {})

    monkeypatch.setattr(batch, "predict_file", keeps)
    command("predict", run, "rows.parquet", "-o", "a.csv")
    assert found[0][0] == asked
    if run == "plain":
        assert found[0][1] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "a.csv", "--resume"], "--resume works only with a folder of parts, and a.csv is a "
         "file: give a name without an extension, or leave the option out"),
        (["-o", "a.parquet", "--force"], "--force works only with a folder of parts, and a."),
        (["-o", "a.parquet", "--shard", "1/2"], "--shard works only with a folder of parts, and "),
        (["-o", "out", "--shard", "3/2"], "a shard must be K/N, the K-th of N parts with K from 1 "
         "to N, such as 2/8, got '3/2'"),
        (["-o", "a.xlsx"], "unknown extension '.xlsx'"),
        (["-o", "out", "--resume", "--force"], "resume continues after existing parts and"),
        (["-o", "out", "--threads", "0"], "--threads must be a whole number of at least 1, got 0"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("here")
def test_refusals(command, arguments, message):
    code, _, err = command("predict", "exported", "rows.parquet", *arguments)
    assert code == 1
    assert message in err


@pytest.mark.parametrize("run", ["exported", "plain"])
@pytest.mark.parametrize(("content", "what"), [(None, "is missing"), ("[[", "is not the file")])
def test_a_damaged_configuration_is_told_as_any_other_file(here, command, run, content, what):
    shutil.copytree(here / run, here / "damaged")
    config = here / "damaged" / "bundle" / "config.toml"
    config.unlink()
    if content:
        config.write_text(content)
    code, _, err = command("predict", "damaged", "rows.parquet", "-o", "a.csv")
    assert code == 1
    assert err.startswith(f"error: the bundle damaged/bundle is damaged: config.toml {what}")
