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
import torch

import polyrank as pr
from polyrank import registry
from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.errors import ConfigError
from polyrank.registry import load_plugins, unregister

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
interaction = { kind = "gate", most = 3.0 }
stages = [{ kind = "popularity", column = "item", prior = 5.0 }]
tower = [8]
embed_dim = 4
[train]
epochs = 3
batch_size = 64
balance = { kind = "largest" }
embeddings = { kind = "momentum", lr = 0.05, prior = 1.0 }
schedule = { kind = "inverse", after = 500.0 }
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


def outside(folder, *arguments, plugged):
    """Run Python in a process of its own, where the plugin is installed or not."""
    paths = [str(PLUGIN)] if plugged else []
    paths += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was trained, reported, exported and scored before and after the export.

    The plugin is on the path with its entry point, as pip would have put it there.
    """
    folder = tmp_path_factory.mktemp("acme")
    log(1).write_parquet(folder / "train.parquet")
    log(2).write_parquet(folder / "valid.parquet")
    (folder / "acme.toml").write_text(TOML)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGIN))
        load_plugins.cache_clear()
        with pytest.MonkeyPatch.context() as here:
            here.chdir(folder)
            for line in (
                "explain acme.toml",
                "check acme.toml",
                "train acme.toml",
                "predict runs/acme valid.parquet -o before.parquet",
                "report runs/acme",
                "export runs/acme",
                "predict runs/acme valid.parquet -o after.parquet",
            ):
                assert run(line.split()) == 0, line
        yield folder
    for axis, name in sys.modules["acme_plugin"].NAMES:
        unregister(axis, name)
    for module in ("acme_plugin", "acme_torch"):
        sys.modules.pop(module, None)
    load_plugins.cache_clear()


def test_the_file_and_every_verb_know_the_plugin(folder):
    before, after = (pl.read_parquet(folder / f"{name}.parquet") for name in ("before", "after"))
    assert before.columns == COLUMNS  # the twin head is in none
    for name in COLUMNS:
        np.testing.assert_allclose(after[name], before[name], rtol=2e-5, atol=1e-6)
    page = (folder / "runs/acme/report.html").read_text()
    assert "Brier score" in page
    assert "buy|click @ click [weighted]" in page


def test_the_scorecard_has_the_kind_its_metrics_and_the_outside_metric(folder):
    found = pr.load(folder / "runs/acme").evaluate(folder / "valid.parquet")
    brier = found["click @ all"].metrics["brier"]
    assert brier["low"] < brier["value"] < brier["high"]
    seconds = found["seconds|click @ click"]
    assert seconds.kind == "watched"
    assert {"rmse", "mae"} <= seconds.metrics.keys()
    spread = log(2).filter(pl.col("click") == 1)["seconds"].std()
    assert seconds.value("rmse") < 0.75 * spread
    assert found.value("click @ all", "auc") > 0.62


def test_the_bundle_names_kinds_and_never_modules(folder):
    bundle = folder / "runs/acme/bundle"
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["model"]["interaction"] == {"kind": "gate", "most": 3.0}
    stage = {"kind": "popularity", "column": "item", "prior": 5.0, "folds": 4}
    assert manifest["model"]["stages"] == [stage]
    assert manifest["targets"]["seconds"].keys() == {"share", "unit"}
    assert "acme_" not in json.dumps(manifest) + (bundle / "config.toml").read_text()


def test_a_run_goes_on_to_the_same_bits(folder, monkeypatch):
    """The state of the outside optimiser of rows is in the checkpoint."""
    monkeypatch.chdir(folder)
    experiment = Experiment.load("acme.toml")

    def stop_after_one(progress):
        if progress.event == "epoch" and progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.fit(out="again", progress=stop_after_one)
    resumed = experiment.fit(out="again", resume=True)
    whole = pr.load("runs/acme")
    for name, weight in whole.ranker.named_weights().items():
        assert torch.equal(weight, resumed.ranker.named_weights()[name]), name


def test_a_name_that_is_taken_is_refused(caplog, monkeypatch):
    monkeypatch.setitem(registry._own, "delay", set(registry._own["delay"]))
    with pytest.raises(ConfigError, match=r"trunk 'mmoe' is polyrank's own: take another name"):
        pr.register("trunk", "mmoe", "acme_torch:Gate")
    pr.register("delay", "acme", "acme:One")
    with pytest.raises(ConfigError, match="delay 'acme' is already 'acme:One', got 'acme:Two'"):
        pr.register("delay", "acme", "acme:Two")
    registry.Registry("delay", {"acme": "builtins:sum"})  # its room is imported after the plugin
    assert "delay 'acme' is polyrank's own: what a plugin added is not used" in caplog.text


def test_a_bundle_without_its_plugin_is_refused_by_name(folder):
    verb = ["-m", "polyrank", "predict", "runs/acme", "valid.parquet", "-o", "x.parquet"]
    done = outside(folder, *verb, plugged=False)
    assert done.returncode == 1
    assert "'cyclic'" in done.stderr
    assert "plugin" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_entry_point_is_read_without_torch(folder):
    code = (
        "import sys; from polyrank.features import FEATURES; "
        "print('cyclic' in FEATURES, 'acme_torch' in sys.modules, 'torch' in sys.modules)"
    )
    done = outside(folder, "-c", code, plugged=True)
    assert done.stdout.split() == ["True", "False", "False"], done.stderr
