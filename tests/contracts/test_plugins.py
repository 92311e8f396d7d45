"""One module of a user adds to every axis: by a call, and by an entry point for files and verbs.

`plugin/` is such a package: a torch-free half, a torch half, and the metadata of its entry point.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

PLUGIN = Path(__file__).parent / "plugin"
ROWS = 1_500
TOML = """
name = "acme"
seed = 3
[data]
train = "train.parquet"
valid = "valid.parquet"
[features]
sparse = ["item"]
cyclic = ["hour"]
[features.hour]
period = 24.0
[[task]]
name = "click"
[[task]]
name = "buy"
given = "click"
debias = { kind = "weighted", largest = 4.0 }
[[task]]
name = "seconds"
kind = { kind = "watched", length = "length" }
given = "click"
[model]
trunk = { kind = "projection", columns = 8 }
tower = [8]
embed_dim = 4
[train]
epochs = 3
batch_size = 64
balance = { kind = "largest" }
embeddings = { kind = "momentum", lr = 0.05 }
stop = { score = "click @ all", metric = "brier" }
"""
COLUMNS = [
    "p_click", "p_buy_given_click", "p_buy", "seconds_given_click", "seconds",
    "seconds_sd_given_click", "seconds_sd",
]  # fmt: skip


def log(seed):
    rng = np.random.default_rng(seed)
    item, hour = rng.integers(0, 12, ROWS), rng.uniform(0, 24, ROWS)
    length = rng.uniform(5, 60, ROWS)
    length[::50] = np.nan
    click = rng.random(ROWS) < 1 / (1 + np.exp(-(0.3 * item - 2 + np.sin(hour * np.pi / 12))))
    watched = np.nan_to_num(length, nan=1.0) * rng.uniform(0.2, 1.1, ROWS)
    return pl.DataFrame(
        {
            "item": item,
            "hour": hour,
            "length": length,
            "click": click.astype(int),
            "buy": (click & (rng.random(ROWS) < 0.35)).astype(int),
            "seconds": np.where(click, watched, np.nan),
        }
    )


def polyrank(folder, *arguments, plugged=True):
    """Run a verb in a process of its own, where the plugin is installed or not."""
    paths = [str(PLUGIN)] if plugged else []
    paths += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return subprocess.run(
        [sys.executable, "-m", "polyrank", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("acme")
    log(1).write_parquet(folder / "train.parquet")
    log(2).write_parquet(folder / "valid.parquet")
    (folder / "acme.toml").write_text(TOML)
    done = polyrank(folder, "train", "acme.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_file_and_every_verb_know_the_plugin(run):
    scored = {}
    for arguments in (
        ["explain", "acme.toml"],
        ["check", "acme.toml"],
        ["evaluate", "runs/acme", "valid.parquet", "--json"],
        ["predict", "runs/acme", "valid.parquet", "-o", "before.parquet"],
        ["report", "runs/acme"],
        ["export", "runs/acme"],
        ["predict", "runs/acme", "valid.parquet", "-o", "after.parquet"],
    ):
        done = polyrank(run, *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        scored[arguments[0]] = done.stdout
    card = json.loads(scored["evaluate"])
    scores = {score["name"]: score for score in card["scores"]}
    brier = scores["click @ all"]["metrics"]["brier"]
    assert brier["low"] < brier["value"] < brier["high"]
    assert scores["seconds|click @ click"]["kind"] == "watched"
    assert {"rmse", "mae"} <= scores["seconds|click @ click"]["metrics"].keys()
    assert "buy|click @ click [weighted]" in scored["explain"]
    page = (run / "runs/acme/report.html").read_text()
    assert "Brier score" in page
    before, after = (pl.read_parquet(run / f"{name}.parquet") for name in ("before", "after"))
    for name in COLUMNS:
        np.testing.assert_allclose(after[name], before[name], rtol=2e-5, atol=1e-6)
    assert "twin" not in " ".join(before.columns)


def test_what_was_learned_is_not_noise(run):
    scores = json.loads((run / "runs/acme/scorecard.json").read_text())["scores"]
    metrics = {score["name"]: score["metrics"] for score in scores}
    assert metrics["click @ all"]["auc"]["value"] > 0.7
    seconds = log(2).filter(pl.col("click") == 1)["seconds"]
    assert metrics["seconds|click @ click"]["rmse"]["value"] < 0.75 * seconds.std()
    manifest = json.loads((run / "runs/acme/bundle/bundle.json").read_text())
    assert manifest["targets"]["seconds"].keys() == {"share", "unit"}


def test_a_bundle_without_its_plugin_is_refused_by_name_and_imports_nothing(run):
    done = polyrank(run, "predict", "runs/acme", "valid.parquet", "-o", "x.parquet", plugged=False)
    assert done.returncode == 1
    assert "cyclic" in done.stderr
    assert "plugin" in done.stderr
    assert "Traceback" not in done.stderr
    saved = "".join(path.read_text() for path in (run / "runs/acme/bundle").glob("*.json"))
    assert "acme_" not in saved  # kinds are named, modules never


def test_the_entry_point_is_read_without_torch():
    code = (
        "import sys, polyrank as pr; from polyrank.features import FEATURES; "
        "print('cyclic' in FEATURES, 'torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(
        [str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])])}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout.split() == ["True", "False"]


def test_an_outside_row_rule_runs_in_torch_and_says_so_once(run):
    done = polyrank(run, "train", "acme.toml", "--out", "again", "--set", "train.epochs=1")
    assert done.returncode == 0, done.stderr
    told = [line for line in (done.stdout + done.stderr).splitlines() if "Momentum" in line]
    assert len(told) <= 1


def test_resumed_training_with_plugins_has_the_bits_of_a_whole_run(run):
    one = polyrank(run, "train", "acme.toml", "--out", "whole")
    assert one.returncode == 0, one.stderr
    half = polyrank(run, "train", "acme.toml", "--out", "whole2")
    assert half.returncode == 0, half.stderr
    first, second = (
        (run / name / "bundle" / "weights.safetensors").read_bytes() for name in ("whole", "whole2")
    )
    assert first == second
