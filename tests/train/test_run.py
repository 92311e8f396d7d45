"""Run folders: readable at every moment, resumed to the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, Event
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open

import polyrank as pr
from polyrank.balance import Balance, BalanceModule
from polyrank.errors import ConfigError, TrainingError
from polyrank.registry import register, unregister
from polyrank.train import checkpoint as module
from polyrank.train.optim import RowOptimizer

MODEL = pr.Model(trunk=pr.MMoE(experts=2, hidden=[8]), tower=[4], embed_dim=4, dropout=0.2)


def run(funnel, out, **options):
    train, valid, schema = funnel
    arguments = {
        "train": train, "valid": valid, "epochs": 5, "lr": 0.02, "batch_size": 64, "seed": 9,
        "balance": pr.Uncertainty(), "schedule": pr.Cosine(),
    }  # fmt: skip
    return pr.fit(schema, MODEL, out=out, **{**arguments, **options})


class Interrupt(Exception):
    pass


def interrupt_at(epoch, event="epoch"):
    def observe(progress):
        if progress.epoch == epoch and progress.event == event:
            raise Interrupt

    return observe


def position(path):
    """Where a run's checkpoint is, read as an ordinary file."""
    with safe_open(path / "checkpoint" / "state.safetensors", framework="np") as file:
        return SimpleNamespace(**json.loads(file.metadata()["position"]))


def untimed(path):
    lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "rows_per_second")}
        for line in lines
    ]


def assert_same_run(folder, straight, resumed):
    """The runs "straight" and "broken" have the same weights, history and log."""
    weights = [folder / name / "bundle" / "weights.safetensors" for name in ("straight", "broken")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    timings = ["seconds", "rows_per_second"]
    assert resumed.history.drop(timings).equals(straight.history.drop(timings))
    assert untimed(folder / "broken") == untimed(folder / "straight")


def test_a_run_folder_has_what_was_promised(funnel, tmp_path):
    bundle = run(funnel, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.toml", "log.jsonl", "checkpoint", "bundle", "scorecard.json"}
    card = json.loads((tmp_path / "run" / "scorecard.json").read_text())
    assert pr.Scorecard.from_json(card) == bundle.scorecard
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["train"]["schedule"] == {"kind": "cosine", "warmup": 0.0}
    assert config["features"]["item"] == {"min_count": 1, "wide": True}
    assert [line["epoch"] for line in untimed(tmp_path / "run")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interrupted_run_goes_on_to_the_same_bits(funnel, tmp_path, epoch):
    straight = run(funnel, tmp_path / "straight")
    with pytest.raises(Interrupt):
        run(funnel, tmp_path / "broken", progress=interrupt_at(epoch))
    resumed = run(funnel, tmp_path / "broken", resume=True)
    assert resumed.predict(funnel[1]).equals(straight.predict(funnel[1]))
    assert resumed.scorecard == straight.scorecard
    assert_same_run(tmp_path, straight, resumed)


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "nth"), [(1, 1), (2, 3), (5, 2)])
@pytest.mark.parametrize("balance", [pr.Uncertainty(), pr.GradNorm()])
def test_a_run_goes_on_from_within_an_epoch_to_the_same_bits(funnel, tmp_path, epoch, nth, balance):
    options = {"checkpoint": pr.Checkpoint(steps=4), "balance": balance, "batch_size": 32}
    straight = run(funnel, tmp_path / "straight", **options)
    seen = []

    def observe(progress):
        if progress.epoch == epoch and progress.event == "checkpoint":
            seen.append(progress.step)
            if len(seen) == nth:
                raise Interrupt

    with pytest.raises(Interrupt):
        run(funnel, tmp_path / "broken", progress=observe, **options)
    where = position(tmp_path / "broken")
    assert (where.epoch, where.step, where.rows) == (epoch - 1, 4 * nth, 128 * nth)
    resumed = run(funnel, tmp_path / "broken", resume=True, **options)
    assert_same_run(tmp_path, straight, resumed)


@pytest.mark.slow
def test_checkpoints_change_no_bit(funnel, tmp_path):
    plain = run(funnel, tmp_path / "plain")
    often = run(funnel, tmp_path / "often", checkpoint=pr.Checkpoint(steps=1))
    timed = run(funnel, tmp_path / "timed", checkpoint=pr.Checkpoint(minutes=1e-6))
    timings = ["seconds", "rows_per_second"]
    for each in (often, timed):
        assert each.predict(funnel[1]).equals(plain.predict(funnel[1]))
        assert each.history.drop(timings).equals(plain.history.drop(timings))
    events = [line["event"] for line in untimed(tmp_path / "often")]
    assert events.count("checkpoint") == 5 * 14  # of 15 steps the last ends the epoch
    assert untimed(tmp_path / "timed") == untimed(tmp_path / "often")


def test_a_checkpoint_is_written_while_training_goes_on(funnel, tmp_path, monkeypatch):
    """A slow disk stops nothing but the next checkpoint, and what it holds is not trained on."""
    real, begun, may_end = module.save_file, Event(), Event()

    def slow(*arguments, **options):
        if not begun.is_set():
            begun.set()
            assert may_end.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(module, "save_file", slow)
    steps = []

    def observe(progress):
        if progress.event == "checkpoint":
            steps.append(progress.step)
            if len(steps) == 1:
                assert begun.wait(60)
            may_end.set()

    straight = run(funnel, tmp_path / "straight", checkpoint=pr.Checkpoint(steps=5),
                   progress=observe)  # fmt: skip
    assert steps[:2] == [5, 10]
    monkeypatch.undo()
    again = run(funnel, tmp_path / "again", checkpoint=pr.Checkpoint(steps=5))
    assert again.predict(funnel[1]).equals(straight.predict(funnel[1]))


def test_a_full_disk_within_an_epoch_is_told_and_keeps_what_was(funnel, tmp_path, monkeypatch):
    real, calls = module.save_file, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "save_file", full)
    out, options = tmp_path / "run", {"checkpoint": pr.Checkpoint(steps=5)}
    with pytest.raises(TrainingError, match=r"could not be written.*No space left.*--resume"):
        run(funnel, out, **options)
    where = position(out)
    assert (where.epoch, where.step) == (1, 5)
    monkeypatch.undo()
    straight = run(funnel, tmp_path / "straight", **options)
    resumed = run(funnel, out, resume=True, **options)
    assert resumed.predict(funnel[1]).equals(straight.predict(funnel[1]))


def test_a_checkpoint_that_fails_while_training_is_stopped_is_told(
    funnel, tmp_path, monkeypatch, caplog
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    stop = interrupt_at(1, "checkpoint")
    with pytest.raises(Interrupt):
        run(funnel, tmp_path / "run", progress=stop, checkpoint=pr.Checkpoint(steps=5))
    assert "could not be written" in caplog.text
    assert not (tmp_path / "run" / "checkpoint" / "state.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"embeddings": pr.DenseAdam(l2=1e-4), "dense": pr.Adam(weight_decay=1e-3)},
        {"stop": pr.Stop(score="click @ all", metric="gauc", patience=9)},
        {"balance": pr.Sum(normalize=True), "schedule": pr.Cosine(warmup=0.5)},
        {
            "schedule": pr.Plateau(),
            "dense": pr.AdamW(),
            "embeddings": pr.LazyAdam(prior=30.0, decay=1.0),
        },
    ],
)
def test_every_state_is_in_the_checkpoint(funnel, tmp_path, options):
    """Batch norm's buffers, sample weights, a regression's scale, optimisers, schedule, stop."""
    train, valid, schema = funnel
    schema = pr.Schema(
        schema.features,
        [*schema.tasks, pr.Task("spend", kind="regression", given="buy")],
        pr.Keys(user="user", weight="w"),
    )
    extra = [
        {**rows, "w": np.linspace(0.5, 2, len(rows["click"])), "spend": 9.0 + rows["price"]}
        for rows in (train, valid)
    ]
    model = pr.Model(trunk=pr.MMoE(experts=2, hidden=[8]), norm="batch", dropout=0.2, embed_dim=4)
    arguments = {
        "train": extra[0], "valid": extra[1], "epochs": 4, "lr": 0.01, "batch_size": 64, **options,
    }  # fmt: skip
    straight = pr.fit(schema, model, out=tmp_path / "straight", **arguments)
    with pytest.raises(Interrupt):
        pr.fit(schema, model, out=tmp_path / "broken", progress=interrupt_at(2), **arguments)
    resumed = pr.fit(schema, model, out=tmp_path / "broken", resume=True, **arguments)
    names = [tmp_path / each / "bundle" / "weights.safetensors" for each in ("straight", "broken")]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert resumed.scorecard == straight.scorecard


@dataclass(frozen=True, kw_only=True)
class Momentum(RowOptimizer):
    """A rule of somebody else's: no kernel, three states, two of them of own widths."""

    beta: float = 0.9

    state_columns: ClassVar = {"velocity": None, "visits": 1, "signs": 2}

    def numbers(self, lr, steps):
        return lr, 1 + 1 / steps

    def step(self, weight, gradient, state, numbers):
        lr, warm = numbers
        velocity, visits, signs = state
        velocity.mul_(self.beta).add_(gradient)
        visits.add_(1)
        signs.copy_(gradient[:, :2].sign())
        weight.addcdiv_(velocity, (visits + signs.sum(1, keepdim=True).abs()), value=-lr * warm)


@dataclass(frozen=True, kw_only=True)
class Newest(Balance):
    """A balance of somebody else's, which remembers the last losses."""

    share: float = 0.5

    def build(self, terms):
        return NewestModule(terms, self.share)


class NewestModule(BalanceModule):
    def __init__(self, terms, share):
        super().__init__()
        self.share = share
        self.register_buffer("last", torch.ones(len(terms)))

    def backward(self, losses, shared):
        found = torch.stack(list(losses.values()))
        self.last = self.share * self.last + (1 - self.share) * found.detach()
        total = (found * self.last).sum()
        total.backward()
        return total.detach()


@pytest.fixture
def plugged():
    register("row_optimizer", "momentum", Momentum)
    register("balance", "newest", Newest)
    yield
    unregister("row_optimizer", "momentum")
    unregister("balance", "newest")


@pytest.mark.usefixtures("plugged")
def test_a_rule_and_a_balance_from_outside_resume_to_the_same_bits(funnel, tmp_path, caplog):
    table = {"embeddings": {"kind": "momentum", "beta": 0.8}, "balance": {"kind": "newest"}}
    chosen = pr.Training.from_table(table)
    options = {"embeddings": chosen.embeddings, "balance": chosen.balance}
    straight = run(funnel, tmp_path / "straight", **options)
    with pytest.raises(Interrupt):
        run(funnel, tmp_path / "broken", progress=interrupt_at(2), **options)
    resumed = run(funnel, tmp_path / "broken", resume=True, **options)
    names = [tmp_path / each / "bundle" / "weights.safetensors" for each in ("straight", "broken")]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert resumed.scorecard == straight.scorecard
    config = pr.load(tmp_path / "broken").config["train"]
    assert config["embeddings"]["kind"] == "momentum"
    assert config["balance"] == {"kind": "newest", "share": 0.5}
    assert "row optimiser Momentum has no compiled rule: it runs in torch" in caplog.text


def test_a_checkpoint_of_other_rows_is_refused(funnel, tmp_path):
    train, _, _ = funnel
    with pytest.raises(Interrupt):
        run(funnel, tmp_path / "run", progress=interrupt_at(2))
    fewer = {name: values[:800] for name, values in train.items()}
    with pytest.raises(
        TrainingError,
        match=r"of a run on other rows .*train 900 rows.*; now .*train 800 rows.*--force",
    ):
        run(funnel, tmp_path / "run", train=fewer, resume=True)
    other = {**train, "click": 1 - np.array(train["click"]), "buy": np.array(train["buy"]) * 0}
    other["buy"] = other["click"]
    with pytest.raises(TrainingError, match="of a run on other rows"):
        run(funnel, tmp_path / "run", train=other, resume=True)


def test_a_checkpoint_of_another_format_is_refused(funnel, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FORMAT", 7)
    with pytest.raises(Interrupt):
        run(funnel, tmp_path / "run", progress=interrupt_at(2))
    monkeypatch.undo()
    message = f"has format 7, and this polyrank resumes format {module.FORMAT}"
    with pytest.raises(TrainingError, match=message):
        run(funnel, tmp_path / "run", resume=True)


def test_tied_weights_are_checkpointed(funnel, tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.one = torch.nn.Linear(width, 4)
            self.two = torch.nn.Linear(width, 4)
            self.two.weight = self.one.weight

        def forward(self, x):
            return {"click": self.one(x), "buy": self.two(x)}

    class Spec:
        def build(self, layout, tasks):
            return Tied(layout.width)

    train, valid, schema = funnel
    options = {"train": train, "valid": valid, "epochs": 3}
    model = pr.Model(trunk=Spec(), embed_dim=4)
    straight = pr.fit(schema, model, **options)
    with pytest.raises(Interrupt):
        pr.fit(schema, model, out=tmp_path / "run", progress=interrupt_at(2), **options)
    resumed = pr.fit(schema, model, out=tmp_path / "run", resume=True, **options)
    assert resumed.predict(valid).equals(straight.predict(valid))


def test_the_log_is_cut_at_the_checkpoint(funnel, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupt):
        run(funnel, out, progress=interrupt_at(2))
    with (out / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "epoch": 3, "step": 50}\n{"event": "st')
    run(funnel, out, resume=True)
    assert [line["epoch"] for line in untimed(out)] == [1, 2, 3, 4, 5]


def test_resuming_a_finished_run_gives_it_again(funnel, tmp_path):
    first = run(funnel, tmp_path / "run")
    again = run(funnel, tmp_path / "run", resume=True)
    assert again.predict(funnel[1]).equals(first.predict(funnel[1]))
    assert again.history.equals(first.history)


def test_early_stopping_survives_an_interruption(funnel, tmp_path):
    options = {
        "epochs": 40, "lr": 0.05, "stop": pr.Stop(score="click @ all", patience=2),
    }  # fmt: skip
    straight = run(funnel, tmp_path / "straight", **options)
    epochs = straight.history.height
    with pytest.raises(Interrupt):
        run(funnel, tmp_path / "broken", progress=interrupt_at(epochs - 1), **options)
    resumed = run(funnel, tmp_path / "broken", resume=True, **options)
    assert resumed.history.height == epochs
    assert resumed.predict(funnel[1]).equals(straight.predict(funnel[1]))


def test_an_existing_run_is_refused_resumed_or_replaced(funnel, tmp_path):
    out = tmp_path / "run"
    run(funnel, out, epochs=1)
    with pytest.raises(
        ConfigError, match="exists: resume it with --resume, replace it with --forc"
    ):
        run(funnel, out, epochs=1)
    with pytest.raises(ConfigError, match=r"another configuration \(seed was 9 and is 10\)"):
        run(funnel, out, epochs=1, seed=10, resume=True)
    with pytest.raises(ConfigError, match="give one of them"):
        run(funnel, out, resume=True, force=True)
    assert run(funnel, out, epochs=1, seed=10, force=True).config["seed"] == 10


def test_two_that_start_at_once_do_not_both_run(funnel, tmp_path):
    pytest.importorskip("fcntl")
    out, together = tmp_path / "run", Barrier(2)

    def one(seed):
        together.wait()
        try:
            return run(funnel, out, seed=seed, epochs=2).config["seed"]
        except ConfigError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        found = sorted(pool.map(one, (1, 2)), key=lambda each: isinstance(each, str))
    assert tomllib.loads((out / "config.toml").read_text())["seed"] == found[0]
    assert "another process is training in" in found[1] or "exists: resume it" in found[1]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}])
def test_a_run_that_is_trained_is_left_to_its_process(funnel, tmp_path, options):
    pytest.importorskip("fcntl")
    out = tmp_path / "run"

    def again(_):
        with pytest.raises(ConfigError, match=r"another process is training in .*run: wait for"):
            run(funnel, out, **options)

    run(funnel, out, epochs=1, progress=again)
    assert pr.load(out).kept_epoch == 1


def test_a_folder_that_is_no_run_is_never_removed(funnel, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(
        ConfigError, match=r"is no run folder \(no config.toml\): it is not replaced"
    ):
        run(funnel, tmp_path / "precious", force=True)
    with pytest.raises(ConfigError, match="holds no run that can be resumed"):
        run(funnel, tmp_path / "precious", resume=True)
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_a_refused_run_leaves_no_folder(funnel, tmp_path):
    with pytest.raises(ConfigError):
        run(funnel, tmp_path / "run", stop=pr.Stop(score="nothing"))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_refused_by_name(funnel, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupt):
        run(funnel, out, progress=interrupt_at(2))
    checkpoint = out / "checkpoint" / "state.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(
        TrainingError, match=r"state.safetensors is damaged .*start again with --for"
    ):
        run(funnel, out, resume=True)


def test_a_full_disk_keeps_the_checkpoint_before(funnel, tmp_path, monkeypatch):
    out = tmp_path / "run"
    real, calls = module.save_file, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            Path(arguments[1]).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(TrainingError, match=r"could not be written.*No space left.*--resume"):
        run(funnel, out)
    assert position(out).epoch == 2
    assert [path.name for path in (out / "checkpoint").iterdir()] == ["state.safetensors"]
    monkeypatch.undo()
    straight = run(funnel, tmp_path / "straight")
    assert run(funnel, out, resume=True).predict(funnel[1]).equals(straight.predict(funnel[1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trees", "checkpoint"),
    [("false", ""), ("{ folds = 2, rounds = 5 }", ""), ("false", "checkpoint = { steps = 7 }")],
    ids=["wide", "trees", "within an epoch"],
)
def test_a_process_that_is_killed_is_resumed_to_the_same_bits(funnel, tmp_path, trees, checkpoint):
    """kill -9 in the middle of an epoch, then --resume, from the command line."""
    train, valid, _ = funnel
    pl.DataFrame(train).write_parquet(tmp_path / "train.parquet")
    pl.DataFrame(valid).write_parquet(tmp_path / "valid.parquet")
    (tmp_path / "exp.toml").write_text(
        f"""
        name = "killed"
        seed = 4
        [data]
        train = "train.parquet"
        valid = "valid.parquet"
        [features]
        sparse = ["user", "item"]
        dense = ["price"]
        [[task]]
        name = "click"
        [[task]]
        name = "buy"
        given = "click"
        [model]
        wide = {{ folds = 3 }}
        trees = {trees}
        [train]
        epochs = 4
        batch_size = 4
        {checkpoint}
        """
    )
    command = [sys.executable, "-m", "polyrank", "train", "exp.toml", "--json"]
    straight = subprocess.run(
        [*command, "--out", "straight"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    process = subprocess.Popen(
        [*command, "--out", "killed"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    log = tmp_path / "killed" / "log.jsonl"
    end = time.monotonic() + 120  # so that a run that never logs fails instead of hanging
    while process.poll() is None and time.monotonic() < end:
        if log.is_file() and any(
            '"epoch": 2,' in line and '"event": "step"' in line
            for line in log.read_text().splitlines()
        ):
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it must die in the middle of an epoch"
    tomllib.loads((tmp_path / "killed" / "config.toml").read_text())
    where = position(tmp_path / "killed")
    assert where.epoch == 1
    assert bool(where.step) == bool(checkpoint)
    resumed = subprocess.run(
        [*command, "--out", "killed", "--resume"], cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    cards = [json.loads(each.stdout)["scorecard"] for each in (straight, resumed)]
    assert cards[0] == cards[1]
    folders = [tmp_path / name / "bundle" for name in ("straight", "killed")]
    kept = [folder.joinpath("weights.safetensors").read_bytes() for folder in folders]
    assert kept[0] == kept[1]
    texts = [[file.read_text() for file in sorted(folder.rglob("*.txt"))] for folder in folders]
    assert texts[0] == texts[1]
    assert len(texts[0]) == (0 if trees == "false" else 2)
