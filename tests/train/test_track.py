"""Trackers: what others show of a run, read back by their own readers."""

import json
import sys
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.config import Experiment
from polyrank.errors import ConfigError
from polyrank.registry import unregister
from polyrank.train.track import TRACKERS, Tracked, tracker_of
from polyrank.train.track.mlflow import plain

SCHEMA = pr.Schema([pr.SparseFeature("item")], [pr.Task("click"), pr.Task("buy", given="click")])
MODEL = pr.Model(trunk=pr.SharedBottom(hidden=[4]), tower=[4], embed_dim=4, wide=False)


def rows(seed=1, size=400):
    generator = np.random.default_rng(seed)
    item, click = generator.integers(0, 9, size), generator.integers(0, 2, size)
    buy = click * generator.integers(0, 2, size)
    return pl.DataFrame({"item": item, "click": click, "buy": buy})


def fit(out, **options):
    options = {"epochs": 2, "batch_size": 64, "progress": False} | options
    return pr.fit(SCHEMA, MODEL, train=rows(), valid=rows(2), out=out, **options)


class Interrupt(Exception):
    pass


def after(epoch):
    def observe(progress):
        if progress.event == "epoch" and progress.epoch == epoch:
            raise Interrupt

    return observe


@pytest.fixture(scope="module")
def client_of():
    """MLflow's own client; what its libraries warn of at their first import is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
    return lambda uri: MlflowClient(tracking_uri=uri)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_name_and_a_table_are_the_same_and_read_back(name):
    text = f'track = "{name}"\n[data]\ntrain = "t.csv"\n[features]\nsparse = ["item"]\n'
    text += '[[task]]\nname = "click"\n'
    found = Experiment.from_text(text)
    assert found.track == TRACKERS[name]() == tracker_of({"kind": name})
    assert found.to_table()["track"]["kind"] == name
    assert Experiment.from_text(found.to_toml()) == found


@pytest.mark.parametrize("name", TRACKERS)
def test_without_its_library_it_says_what_to_install(name, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[TRACKERS[name].__module__], "find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match=rf"'{name}' needs {name}: pip install 'polyrank\[track\]'"
    ):
        fit(tmp_path / "run", track=TRACKERS[name]())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("tensorbord", "track: unknown kind 'tensorbord'; did you mean 'tensorboard'"),
        (3, "track: expected a table with a kind, got 3"),
        ({"kind": "mlflow", "url": "x"}, "track: unknown key 'url'; did you mean 'uri'"),
        ({"kind": "mlflow", "experiment": ""}, "experiment must be the name of an experiment"),
    ],
)
def test_what_is_wrong_is_said(found, message):
    with pytest.raises(ConfigError, match=message):
        tracker_of(found)


def test_what_is_no_tracker_is_refused():
    with pytest.raises(
        ConfigError, match=r"must be a tracker such as TensorBoard\(\), got 'mlflow'"
    ):
        fit(None, track="mlflow")


def test_the_configuration_is_one_line_a_key():
    config = {
        "name": "a", "task": [{"name": "buy", "space": ["all", "click"]}], "model": {"wide": False},
        "other": [{"kind": "x"}],
    }  # fmt: skip
    assert Tracked(name="a", folder=None, config=config).parameters == {
        "name": "a", "task.buy.name": "buy", "task.buy.space": "all, click", "model.wide": False,
        "other.0.kind": "x",
    }  # fmt: skip


def test_tensorboard_has_what_its_reader_reads(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    bundle = fit(tmp_path / "run", track=pr.TensorBoard())
    plain_run = fit(tmp_path / "plain")
    assert bundle.predict(rows(3)).equals(plain_run.predict(rows(3)))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    for name in ("train click @ all loss", "valid click @ all auc", "valid normalized loss"):
        told = [(each.step, each.value) for each in events.Scalars(name.replace(" ", "/", 1))]
        wanted = bundle.history[name].to_list()
        assert [step for step, _ in told] == [1, 2]
        assert [value for _, value in told] == pytest.approx(wanted, rel=1e-6)
    (ne,) = events.Scalars("final/valid click @ all ne")
    assert ne.value == pytest.approx(bundle.scorecard.value("click @ all", "ne"), rel=1e-6)
    assert "run/rows_per_second" in tags["scalars"]
    assert "config/text_summary" in tags["tensors"]
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert 'kind = "shared_bottom"' in text
    plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data
    assert plugin.plugin_name == "hparams"
    assert b"model.trunk.kind" in plugin.content


def test_tensorboard_needs_a_folder():
    with pytest.raises(ConfigError, match="writes into the run folder: give out as well"):
        fit(None, track=pr.TensorBoard())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow's libraries
def test_mlflow_has_what_its_client_reads(tmp_path, client_of):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = pr.MLflow(uri=uri, experiment="ranking")
    with pytest.raises(Interrupt):
        fit(tmp_path / "run", track=tracker, progress=after(1))
    client = client_of(uri)
    experiment = client.get_experiment_by_name("ranking").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FAILED"
    bundle = fit(tmp_path / "run", track=tracker, resume=True)
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "fit (seed 0)"
    assert run.data.params["model.trunk.kind"] == "shared_bottom"
    assert run.data.params["task.buy.given"] == "click"
    told = client.get_metric_history(run.info.run_id, "train/click in all loss")
    wanted = bundle.history["train click @ all loss"].to_list()
    assert {each.step: each.value for each in told} == dict(enumerate(wanted, start=1))
    ne = run.data.metrics["final/valid buy given click in click ne"]
    assert ne == bundle.scorecard.value("buy|click @ click", "ne")
    names = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert names == {"config.toml", "log.jsonl", "scorecard.json", "bundle"}
    path = client.download_artifacts(run.info.run_id, "bundle", str(tmp_path))
    assert pr.load(path).predict(rows(3)).equals(bundle.predict(rows(3)))
    assert (tmp_path / "mlartifacts").is_dir()


@pytest.mark.filterwarnings("ignore")  # of MLflow's libraries
def test_a_server_that_is_not_there_is_refused_before_training(tmp_path):
    uri = "sqlite:////dev/null/mlflow.db"
    with pytest.raises(
        ConfigError, match=r"track: MLflow at sqlite:////dev/null/.* cannot be used"
    ):
        fit(tmp_path / "run", track=pr.MLflow(uri=uri))
    assert not (tmp_path / "run" / "bundle").exists()


def test_names_have_the_letters_that_mlflow_knows():
    assert plain("valid/buy|click @ click auc") == "valid/buy given click in click auc"
    assert plain("cosine a · b") == "cosine a _ b"


@dataclass(frozen=True, kw_only=True)
class Failing(pr.Tracker):
    """Shows the first epoch, and cannot be reached after it."""

    def require(self):
        pass

    def open(self, run):
        return Told()


class Told(pr.Tracking):
    told: ClassVar = []

    def epoch(self, number, values):
        self.told.append((number, values["train/click @ all loss"]))
        if number == 2:
            raise OSError("the server is gone")

    def finish(self, values, folder):
        self.told.append("finish")

    def close(self, *, failed):
        self.told.append("close")


def test_a_tracker_of_ones_own_and_one_that_fails_ends_no_run(tmp_path, caplog):
    pr.register("tracker", "failing", Failing)
    try:
        Told.told.clear()
        bundle = fit(tmp_path / "run", epochs=3, track=tracker_of("failing"))
        losses = bundle.history["train click @ all loss"].to_list()
        assert Told.told == [(1, losses[0]), (2, losses[1])]
        assert "Told failed, and the run goes on without it: OSError" in caplog.text
        assert bundle.config["track"] == {"kind": "failing"}
    finally:
        unregister("tracker", "failing")


def test_every_seed_is_shown(tmp_path):
    rows().write_parquet(tmp_path / "t.parquet")
    table = {
        "track": "tensorboard", "data": {"train": "t.parquet", "valid": "t.parquet"},
        "features": {"sparse": ["item"]}, "task": [{"name": "click"}],
        "model": MODEL.to_table(), "train": {"epochs": 1},
    }  # fmt: skip
    found = Experiment.from_table(table, folder=tmp_path).fit_seeds(
        2, out=tmp_path / "runs", progress=False
    )
    for run in found.runs.values():
        assert [*(run / "tensorboard").glob("events*")]
    assert json.loads((tmp_path / "runs" / "seeds.json").read_text())["runs"][0]["run"] == "seed-0"
