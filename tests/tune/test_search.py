"""A whole search: honest, resumable, shared; what it finds and what it refuses."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open

import polyrank as pr
from polyrank import config
from polyrank.config import Experiment
from polyrank.errors import ConfigError, DataError, PolyrankError, TrainingError
from polyrank.files import locked
from polyrank.train import seeds
from polyrank.train.checkpoint import CHECKPOINT
from polyrank.train.seeds import rescored
from polyrank.tune import search
from polyrank.tune.search import Objective
from polyrank.tune.spec import Choices
from polyrank.tune.tuned import AS_GIVEN, Difference

KILL = """
import os, signal, sys
from polyrank.config import Experiment
from polyrank.tune.study import Running
report = Running.report
def dying(self, epoch, value):
    if (self.number, epoch) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return report(self, epoch, value)
Running.report = dying
Experiment.load(sys.argv[1]).tune(out=sys.argv[2], progress=False)
"""


def changes_of(found):
    return [(each.changes, each.value, each.state) for each in found.trials]


@pytest.fixture
def absent(folder, monkeypatch):
    """There are no test rows until they are scored; says how often they were."""
    path, scored = folder / "test.parquet", []
    kept = path.read_bytes()
    path.unlink()

    def score(found, rows, split):
        path.write_bytes(kept)
        scored.append(found.folder.name)
        return rescored(found, rows, split)

    monkeypatch.setattr(config, "rescored", score)
    return scored


@pytest.mark.slow
def test_a_search_reads_no_test_row_before_its_end(experiment, folder, absent):
    told = []
    out = folder / "runs" / "tiny-tune"
    found = experiment.tune(out=out, progress=False, told=told.append)
    assert [each.number for each in told] == [each.number for each in found.trials] == [*range(6)]
    assert found.trials[0].changes["train.lr"] == experiment.training.lr
    assert found.finalists[0].name == AS_GIVEN
    assert found.finalists[0].changes == {}
    assert len(found.finalists) == 2
    assert absent == list(dict.fromkeys([AS_GIVEN, found.winner.name]))
    for name, scores in found.scores.items():
        assert [card.split for card in scores.cards.values()] == ["test"] * 3
        for seed, card in scores.cards.items():
            run = out / "finalists" / name / f"seed-{seed}"
            assert pr.load(run / "bundle").scorecard == card
            assert json.loads((run / "scorecard.json").read_text()) == card.to_json()
    # a finalist that lost was never scored on them
    for each in found.finalists:
        if each.name not in found.scores:
            assert {card.split for card in each.runs.cards.values()} == {"valid"}
    # the trial and the first seed of its finalist are the same training
    best = found.finalists[1]
    trial = found.trials[int(best.name.removeprefix("trial-"))]
    assert best.values[3] == pytest.approx(trial.value, abs=1e-6)
    # the winner is the best mean, and its file trains to the same scores
    means = {each.name: np.mean(list(each.values.values())) for each in found.finalists}
    assert found.winner.name == min(means, key=means.get)
    again = Experiment.load(found.toml).fit(progress=False)
    assert again.scorecard == found.scores[found.winner.name].cards[3]
    # the encoded rows are those that `train` beside it uses
    assert len([*(folder / "runs" / ".polyrank-cache").glob("*/manifest.json")]) <= 2
    text = json.loads(json.dumps(found.to_json()))
    assert text == json.loads((out / "tune.json").read_text())
    assert text["winner"] == found.winner.name
    assert "winner: " in str(found)
    # once finished, it is only read again
    once = experiment.tune(out=out, progress=False, resume=True, told=told.append)
    assert len(told) == 6
    assert once.to_json() == found.to_json()


def test_poisoned_test_rows_of_a_source_stop_only_the_end(folder):
    rows = pl.concat(
        [pl.read_parquet(folder / f"{split}.parquet") for split in ("train", "valid", "test")]
    ).with_row_index("time")
    late = pl.col("time") >= 700
    rows.with_columns(click=pl.when(late).then(7).otherwise("click")).write_parquet(
        folder / "log.parquet"
    )
    text = (folder / "exp.toml").read_text()
    start, end = text.index("[data]"), text.index("[features]")
    split = '[data]\nsource = "log.parquet"\n[data.split]\nby = "time"\ncolumn = "time"\n'
    split += f"fractions = [{500 / 900}, {200 / 900}, {200 / 900}]\n"
    experiment = Experiment.from_text(text[:start] + split + text[end:], folder=folder)
    out = folder / "out"
    with pytest.raises(DataError, match=r"click.*7"):
        experiment.tune(out=out, progress=False)
    assert len([*out.glob("finalists/*/seed-*/bundle")]) == 6
    assert not (out / "tune.json").exists()


@pytest.mark.slow
def test_a_run_of_the_same_source_leaves_the_search_no_test_rows(folder):
    rows = [pl.read_parquet(folder / f"{split}.parquet") for split in ("train", "valid", "test")]
    pl.concat(rows).write_parquet(folder / "log.parquet")
    text = (folder / "exp.toml").read_text()
    start, end = text.index("[data]"), text.index("[features]")
    text = f'{text[:start]}[data]\nsource = "log.parquet"\n{text[end:]}'
    experiment = Experiment.from_text(text, folder=folder)
    experiment.fit(out=folder / "runs" / "trained", progress=False)
    found = experiment.tune(out=folder / "runs" / "tuned", progress=False)
    for each in found.finalists:
        if each.name not in found.scores:
            assert {card.split for card in each.runs.cards.values()} == {"valid"}
        for run in each.runs.runs.values():
            with safe_open(run / CHECKPOINT, framework="np") as file:
                assert "test" not in file.metadata()["data"]


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_trials(folder):
    (folder / "exp.toml").write_text(
        (folder / "exp.toml").read_text().replace("trials = 6", "trials = 4")
    )
    experiment = Experiment.load(folder / "exp.toml")
    straight = experiment.tune(out=folder / "straight", progress=False)
    out = folder / "broken"
    arguments = [sys.executable, "-c", KILL, str(folder / "exp.toml"), str(out)]
    process = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    with pytest.raises(ConfigError, match=r"broken exists: go on with its search .*--resume"):
        experiment.tune(out=out, progress=False)
    resumed = experiment.tune(out=out, progress=False, resume=True)
    assert changes_of(resumed) == changes_of(straight)
    assert [each.number for each in resumed.trials] == [0, 1, 3, 4]
    tests = [[*each.to_json()["test"].values()] for each in (resumed, straight)]
    assert tests[0] == tests[1]  # trials have other numbers
    assert [each.values for each in resumed.finalists] == [
        each.values for each in straight.finalists
    ]


def test_a_search_that_ends_while_it_scores_goes_on(experiment, folder, monkeypatch):
    short = replace(experiment, tuning=replace(experiment.tuning, trials=2))
    load, calls = seeds.load, []

    def dying(path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return load(path)

    monkeypatch.setattr(seeds, "load", dying)
    with pytest.raises(KeyboardInterrupt):
        short.tune(out=folder / "out", progress=False)
    found = short.tune(out=folder / "out", progress=False, resume=True)
    assert [card.split for card in found.scores[AS_GIVEN].cards.values()] == ["test"] * 3
    assert len(calls) == len(set(calls)) + 1  # the one that ended is read again
    more = replace(experiment, tuning=replace(short.tuning, seeds=4))
    again = more.tune(out=folder / "out", progress=False, resume=True)
    assert [card.split for card in again.scores[AS_GIVEN].cards.values()] == ["test"] * 4


def test_a_launcher_is_refused(experiment, folder, monkeypatch):
    monkeypatch.setattr(config, "launched", lambda: True)
    with pytest.raises(ConfigError, match="start each without a launcher, with --resume"):
        experiment.tune(out=folder / "out")


@pytest.mark.slow
def test_two_processes_share_a_search(folder):
    out = folder / "out"
    arguments = [
        sys.executable, "-m", "polyrank", "tune", str(folder / "exp.toml"), "--out", str(out),
        "--resume", "--json",
    ]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(arguments, **pipes) for _ in range(2)]
    answers = [each.communicate() for each in both]
    assert [each.returncode for each in both] == [0, 0], answers
    one, two = (json.loads(text) for text, _ in answers)
    assert one == two
    assert len(one["trials"]) == 6
    lines = [line for _, said in answers for line in said.splitlines()]
    assert sorted(line.split(":")[0] for line in lines if line.startswith("trial ")) == [
        f"trial {number}" for number in range(6)
    ]


@pytest.mark.slow
def test_a_longer_search_goes_on_and_another_is_refused(experiment, folder):
    out = folder / "out"
    short = replace(experiment, tuning=replace(experiment.tuning, trials=2))
    first = short.tune(out=out, progress=False)
    longer = replace(experiment, tuning=replace(experiment.tuning, trials=3))
    second = longer.tune(out=out, progress=False, resume=True)
    assert changes_of(second)[:2] == changes_of(first)
    assert len(second.trials) == 3
    other = experiment.changed({"model.embed_dim": 8})
    message = r"search of another configuration .model.embed_dim was 4 and is 8.*tune.trials"
    with pytest.raises(ConfigError, match=message):
        other.tune(out=out, progress=False, resume=True)
    with pytest.raises(ConfigError, match="give one of them"):
        other.tune(out=out, progress=False, resume=True, force=True)
    with (
        locked(out / "running" / "7"),
        pytest.raises(ConfigError, match="another process is searching in"),
    ):
        short.tune(out=out, progress=False, force=True)
    replaced = short.tune(out=out, progress=False, force=True)
    assert changes_of(replaced) == changes_of(first)


def test_a_trial_that_diverges_is_told_and_never_wins(experiment, folder, monkeypatch, caplog):
    epochs = search.epochs
    seen = []

    def diverging(candidate, *rest):
        seen.append(candidate)
        if len(seen) == 2:
            raise TrainingError("the loss of 'click @ all' is nan")
        yield from epochs(candidate, *rest)

    monkeypatch.setattr(search, "epochs", diverging)
    short = replace(experiment, tuning=replace(experiment.tuning, trials=3))
    found = short.tune(out=folder / "out", progress=False)
    assert [each.state for each in found.trials].count("failed") == 1
    assert "1 failed" in str(found)
    assert "trial 1 failed: the loss of 'click @ all' is nan" in caplog.text
    assert "trial-1" not in [each.name for each in found.finalists]


def test_tables_are_encoded_once_where_the_encoding_does_not_change(
    experiment, folder, monkeypatch
):
    encoded, made = search.encoded, []

    def counting(schema, *rest, **options):
        made.append(schema)
        return encoded(schema, *rest, **options)

    monkeypatch.setattr(search, "encoded", counting)
    space = {
        **experiment.tuning.space,
        "task.buy.space": Choices(("all", "click")),
        "features.price.bins": Choices((4, 8)),
    }
    tuning = replace(experiment.tuning, trials=6, space=space)
    found = replace(experiment, tuning=tuning).tune(out=folder / "out", progress=False)
    bins = {each.changes["features.price.bins"] for each in found.trials}
    spaces = {each.changes["task.buy.space"] for each in found.trials}
    assert (len(made), len(spaces)) == (len(bins), 2)


def test_a_named_score_decides_epoch_trial_and_winner(experiment, folder):
    tuning = replace(experiment.tuning, trials=3, score="click @ all", metric="log_loss")
    found = replace(experiment, tuning=tuning).tune(out=folder / "out", progress=False)
    assert (found.objective, found.higher) == ("click @ all log_loss", False)
    winner = Experiment.load(found.toml)
    assert winner.training.stop == pr.Stop(score="click @ all", metric="log_loss", patience=3)
    assert winner.tuning is None
    history = pl.read_parquet(
        next(iter(found.winner.runs.runs.values())) / "bundle" / "history.parquet"
    )
    kept = history.filter("best")["valid click @ all log_loss"][-1]
    assert found.winner.values[3] == kept == history["valid click @ all log_loss"].min()


def test_the_objective_is_that_of_the_file(experiment):
    plain = Objective.of(experiment.tuning, experiment.training, experiment.schema)
    assert (plain.name, plain.higher) == ("normalized loss", False)
    assert plain.watched(experiment.training) is experiment.training
    stop = pr.Stop(score="buy @ all", metric="auc", patience=1)
    training = replace(experiment.training, stop=stop)
    found = Objective.of(experiment.tuning, training, experiment.schema)
    assert (found.name, found.higher) == ("buy @ all auc", True)
    assert found.watched(training) is training
    auto = replace(experiment.training, epochs="auto")
    assert found.watched(auto).stop.patience == 20  # all of them run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tune": {"score": "bye @ all"}}, "tune: unknown score 'bye @ all'; did you mean 'buy"),
        ({"tune": {"score": "buy @ all", "metric": "pcoc"}}, "metric 'pcoc' is best near 1"),
        ({"tune": {"score": "buy @ all", "metric": "acu"}}, "no metric 'acu'; did you mean 'auc'"),
        ({"start": {"run": "runs/before"}}, r"tune trains from scratch: leave \[start\] out"),
        ({"data": {"train": "train.parquet"}}, r"on validation rows: \[data\] valid is missing"),
        ({"train": {"threads": 10**6}}, "threads must be at most"),
        (
            {"tune": {"space": {"task.buy.weight": [1.0, 2.0]}}},
            "task.buy.weight changes what settings are judged by.*name a score",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_before_a_folder_is_made(folder, change, message):
    table = {
        "data": {"train": "train.parquet", "valid": "valid.parquet"},
        "features": {"sparse": ["user", "item"]},
        "task": [{"name": "click"}, {"name": "buy", "given": "click"}],
        **change,
    }
    experiment = Experiment.from_table(table, folder=folder)
    with pytest.raises(ConfigError, match=message):
        experiment.tune(out=folder / "out")
    assert not (folder / "out").exists()


def test_without_test_rows_nothing_is_scored(folder):
    text = (folder / "exp.toml").read_text().replace('test = "test.parquet"\n', "")
    experiment = Experiment.from_text(text, folder=folder, overrides=["tune.trials=2"])
    found = experiment.tune(out=folder / "out", progress=False)
    assert found.scores == {}
    assert found.tests == ()
    assert "there are no test rows" in str(found)


def test_a_folder_of_something_else_is_left_alone(experiment, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "notes").write_text("keep")
    for options in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(ConfigError, match="mine holds no search: choose another --out"):
            experiment.tune(out=folder / "mine", **options)
    assert (folder / "mine" / "notes").read_text() == "keep"


def test_without_the_extra_it_says_what_to_install(experiment, folder, monkeypatch):
    monkeypatch.setattr(search, "find_spec", lambda _: None)
    with pytest.raises(PolyrankError, match=r"needs optuna: pip install 'polyrank\[tune\]'"):
        experiment.tune(out=folder / "out")
    assert not (folder / "out").exists()


def test_a_difference_is_paired_by_seed():
    found = Difference.of({0: 0.1, 1: 0.2, 2: 0.4}, {0: 0.2, 1: 0.4, 2: 0.5})
    assert found.value == pytest.approx(0.4 / 3)
    # Student's t with 2 degrees of freedom is 4.3027
    assert found.half == pytest.approx(4.3027 * np.std([0.1, 0.2, 0.1], ddof=1) / 3**0.5, rel=1e-4)
    assert not found.excludes_zero
    assert Difference.of({0: 1.0}, {0: 2.0}).half == np.inf


def test_the_verb_writes_a_page_and_says_where(folder, monkeypatch, capsys):
    from polyrank.cli.app import run

    monkeypatch.chdir(folder)
    assert run(["tune", "exp.toml", "--trials", "2"]) == 0
    out, err = capsys.readouterr()
    assert "search: runs/tiny-tune\nwinner: runs/tiny-tune/winner.toml\n" in out
    assert err.startswith("trial 0: ")
    assert (Path("runs") / "tiny-tune" / "tune.html").is_file()
    assert run(["tune", "exp.toml", "--trials", "2"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert run(["tune", "exp.toml", "--trials", "1"]) == 1
    assert "tune: trials must be a whole number of at least 2" in capsys.readouterr().err
