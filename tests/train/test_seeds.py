"""Runs of several seeds in one folder: on equal rows, resumed as one, never half replaced."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.config import Experiment
from polyrank.errors import ConfigError, DataError, TrainingError
from polyrank.files import locked

EXPERIMENT = """
name = "tiny"
seed = 3
[data]
source = "log.csv"
split = { fractions = [0.5, 0.25, 0.25] }
[features]
sparse = ["item"]
[[task]]
name = "click"
[model]
trunk = { kind = "shared_bottom" }
tower = [4]
embed_dim = 4
[train]
epochs = 2
batch_size = 64
"""


class Interrupt(Exception):
    pass


@pytest.fixture
def experiment(tmp_path):
    generator = np.random.default_rng(2)
    item = generator.integers(0, 20, 400)
    click = (generator.random(400) < 0.1 + 0.04 * item).astype(int)
    pl.DataFrame({"item": item, "click": click}).write_csv(tmp_path / "log.csv")
    return Experiment.from_text(EXPERIMENT, folder=tmp_path)


def weights(folder):
    return {
        path.parent.parent.name: path.read_bytes()
        for path in folder.glob("seed-*/bundle/weights.safetensors")
    }


def test_each_seed_is_a_whole_run_on_the_same_rows(experiment, tmp_path):
    found = experiment.fit_seeds(3, out=tmp_path / "runs" / "group", progress=False)
    folder = tmp_path / "runs" / "group"
    assert found.runs == {seed: folder / f"seed-{seed}" for seed in (3, 4, 5)}
    for seed, run in found.runs.items():
        config = Experiment.load(run / "config.toml")
        assert (config.seed, config.data.split.seed) == (seed, 3)
        assert pr.load(run).scorecard == found.cards[seed]
    assert len({*weights(folder).values()}) == 3
    # the first is what it is without the others, and the rows are encoded once
    alone = experiment.fit(out=tmp_path / "runs" / "alone")
    assert found.cards[3] == alone.scorecard
    entries = [path for path in (tmp_path / "runs" / ".polyrank-cache").iterdir() if path.is_dir()]
    assert len(entries) == 1

    table = json.loads((folder / "seeds.json").read_text())
    assert [(run["seed"], run["run"]) for run in table["runs"]] == [
        (3, "seed-3"), (4, "seed-4"), (5, "seed-5")
    ]  # fmt: skip
    assert table["runs"][1]["scorecard"] == json.loads(
        (folder / "seed-4/scorecard.json").read_text()
    )
    values = [card.value("click @ all", "auc") for card in found.cards.values()]
    assert table["scores"][0]["metrics"]["auc"] == {
        "mean": pytest.approx(np.mean(values)),
        "deviation": pytest.approx(np.std(values, ddof=1)),
        "values": values,
    }
    assert sorted(path.name for path in folder.iterdir()) == [
        "seed-3", "seed-4", "seed-5", "seeds.json"
    ]  # fmt: skip


def test_an_interrupted_group_goes_on_to_the_same_bits(experiment, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "group"
    experiment.fit_seeds(3, out=whole, progress=False)
    epochs = []

    def interrupt(progress):
        epochs.append(progress.epoch)
        if len(epochs) == 3:  # after the first epoch of the second seed
            raise Interrupt

    with pytest.raises(Interrupt):
        experiment.fit_seeds(3, out=out, progress=interrupt)
    assert [run["seed"] for run in json.loads((out / "seeds.json").read_text())["runs"]] == [3]
    before = (out / "seed-3" / "bundle" / "bundle.json").stat().st_mtime_ns

    epochs.clear()
    resumed = experiment.fit_seeds(
        3, out=out, resume=True, progress=lambda each: epochs.append(each.epoch)
    )
    assert epochs == [2, 1, 2]
    assert (out / "seed-3" / "bundle" / "bundle.json").stat().st_mtime_ns == before
    assert weights(out) == weights(whole)
    assert resumed.to_json()["scores"] == json.loads((whole / "seeds.json").read_text())["scores"]

    epochs.clear()
    more = experiment.fit_seeds(
        4, out=out, resume=True, progress=lambda each: epochs.append(each.epoch)
    )
    assert (list(more.cards), epochs) == ([3, 4, 5, 6], [1, 2])


def test_a_run_without_its_scorecard_has_not_finished(experiment, tmp_path):
    experiment.fit_seeds(1, out=tmp_path / "group", progress=False)
    card = tmp_path / "group" / "seed-3" / "scorecard.json"
    text = card.read_text()
    card.unlink()
    experiment.fit_seeds(1, out=tmp_path / "group", resume=True, progress=False)
    assert card.read_text() == text


def test_force_replaces_all_runs_once_a_new_one_begins(experiment, tmp_path):
    out = tmp_path / "group"
    experiment.fit_seeds(2, out=out, progress=False)
    old = weights(out)
    gone = replace(experiment, data=replace(experiment.data, source=str(tmp_path / "gone.csv")))
    with pytest.raises(DataError):
        gone.fit_seeds(2, out=out, force=True, progress=False)
    assert weights(out) == old

    def interrupt(_):
        raise Interrupt

    with pytest.raises(Interrupt):
        experiment.fit_seeds(2, out=out, force=True, progress=interrupt)
    assert [path.name for path in out.iterdir()] == ["seed-3"]  # no old run looks like a new one
    assert not weights(out)
    single = tmp_path / "single"
    experiment.fit(out=single)
    experiment.fit_seeds(1, out=single, force=True, progress=False)
    assert set(weights(single)) == {"seed-3"}
    assert not (single / "config.toml").exists()
    hidden = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert hidden == {".polyrank-cache"}


def test_what_is_in_the_way_is_refused(experiment, tmp_path):
    out = tmp_path / "group"
    experiment.fit_seeds(2, out=out, progress=False)

    def refused(message, **options):
        with pytest.raises(ConfigError, match=message):
            replace(experiment, seed=options.pop("seed", 3)).fit_seeds(
                options.pop("count", 2), **{"out": out, "progress": False, **options}
            )

    refused("group exists: resume its runs with --resume, replace them with --force")
    refused("give one of them", resume=True, force=True)
    refused(
        "holds the seeds 3, 4, and these are the seeds 3: .*--set seed=3 --seeds 2",
        resume=True,
        count=1,
    )
    refused("holds the seeds 3, 4, and these are the seeds 9, 10", resume=True, seed=9)
    refused("seeds must be a whole number of at least 1, got 0", count=0)
    refused("seeds must be a whole number of at least 1, got True", count=True)
    other = replace(experiment, model=replace(experiment.model, embed_dim=8))
    with pytest.raises(ConfigError, match="seed-3 holds a run of another configuration"):
        other.fit_seeds(2, out=out, resume=True, progress=False)
    refused("seed-3 is a single run: replace it with --force", out=out / "seed-3", resume=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("kept")
    refused(
        "notes holds no runs of seeds: choose another --out", out=tmp_path / "notes", force=True
    )
    with locked(tmp_path / ".group.lock"):
        refused("another process is training in .*group", resume=True)
    assert weights(out).keys() == {"seed-3", "seed-4"}


def test_a_refused_group_leaves_no_folder_and_an_empty_one_is_taken(experiment, tmp_path):
    gone = replace(experiment, data=replace(experiment.data, source=str(tmp_path / "gone.csv")))
    with pytest.raises(DataError):
        gone.fit_seeds(2, out=tmp_path / "group", progress=False)
    assert not (tmp_path / "group").exists()
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / ".mine").write_text("kept")  # as a killed run's lock, or a user's file
    experiment.fit_seeds(1, out=tmp_path / "group", progress=False)
    assert (tmp_path / "group" / ".mine").read_text() == "kept"


def test_rows_that_change_between_two_runs_are_noticed(experiment, tmp_path):
    out = tmp_path / "group"
    experiment.fit_seeds(1, out=out, progress=False)
    log = pl.read_csv(tmp_path / "log.csv")
    log.with_columns(click=1 - pl.col("click")).write_csv(tmp_path / "log.csv")
    with pytest.raises(TrainingError, match=r"seed-4 learned other rows .* than .*seed-3"):
        experiment.fit_seeds(2, out=out, resume=True, progress=False)
    shutil.rmtree(out / "seed-3" / "checkpoint")  # removed to save space: nothing is known then
    experiment.fit_seeds(2, out=out, resume=True, progress=False)


def test_without_rows_to_score_there_are_runs_and_no_scores(experiment, tmp_path):
    data = replace(experiment.data, source=None, split=None, train=str(tmp_path / "log.csv"))
    found = replace(experiment, data=data).fit_seeds(2, out=tmp_path / "group", progress=False)
    assert found.scores is None
    assert list(found.cards.values()) == [None, None]
    assert [run["scorecard"] for run in found.to_json()["runs"]] == [None, None]
    assert found.to_json()["scores"] == []
    assert str(found) == "nothing was scored: there are neither validation nor test rows"
    again = replace(experiment, data=data).fit_seeds(
        2, out=tmp_path / "group", resume=True, progress=pytest.fail
    )
    assert again.cards == found.cards


def test_a_verb_that_needs_one_run_names_one(experiment, tmp_path):
    experiment.fit_seeds(2, out=tmp_path / "group", progress=False)
    with pytest.raises(
        pr.BundleError, match=r"a run of each of several seeds: name one, such as .*seed-3"
    ):
        pr.load(tmp_path / "group")
