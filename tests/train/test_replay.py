"""Replay: test, then train; nothing learned before it is scored; killed and resumed."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.config import Experiment, SharedLists
from polyrank.errors import ConfigError, DataError, TrainingError
from polyrank.files import locked
from polyrank.train.replay import Periods, Strategy, strategies, strategies_named

EXPERIMENT = """
name = "days"
[data]
train = "log.parquet"
[features]
sparse = ["user", "item"]
[keys]
time = "time"
[[task]]
name = "click"
[model]
trunk = { kind = "shared_bottom", hidden = [8] }
tower = [4]
embed_dim = 4
[train]
epochs = 2
batch_size = 64
"""
START = datetime(2026, 3, 1)


def log(days=4, rows=400):
    rng = np.random.default_rng(4)
    day = np.repeat(np.arange(days), rows)
    user, item = rng.integers(0, 50, len(day)), rng.integers(0, 12, len(day)) + 3 * day
    z = 2 * np.sin(user) + np.cos(item)
    return pl.DataFrame(
        {
            "user": user,
            "item": item,
            "day": day,
            "time": [START + timedelta(days=int(d), minutes=k % rows) for k, d in enumerate(day)],
            "seconds": 86_400 * day + np.tile(np.arange(rows), days),
            "click": (rng.random(len(day)) < 1 / (1 + np.exp(-z))).astype(int),
        }
    )


@pytest.fixture
def experiment(tmp_path):
    log().write_parquet(tmp_path / "log.parquet")
    return Experiment.from_text(EXPERIMENT, folder=tmp_path)


def without_times(found):
    return [
        {k: v for k, v in each.items() if k not in ("seconds", "resumed")}
        for each in found.to_json()["periods"]
    ]


@pytest.mark.slow
def test_each_day_is_scored_by_what_learned_the_days_before(experiment, tmp_path):
    found = experiment.replay("day", window=2, out=tmp_path / "out")
    assert found.periods == ("1", "2", "3")
    assert found.strategies == ("scratch", "warm", "forget")
    learned = found.frame().pivot("strategy", index="period", values="learned")
    assert learned.rows() == [("1", 720, 360, 360), ("2", 720, 360, 360), ("3", 720, 360, 360)]
    rows = {day: log().filter(pl.col("day") == day) for day in range(4)}
    for day, run in ((1, "before"), (2, "warm/1"), (3, "warm/2")):
        bundle = pr.load(tmp_path / "out" / run)
        last = max(each.last for each in bundle.learned)
        assert datetime.fromisoformat(last) < START + timedelta(days=day)
        (cell,) = (c for c in found.cells if (c.period, c.strategy) == (str(day), "warm"))
        assert cell.rows == 400
        assert cell.scorecard.value("click @ all", "auc") == bundle.evaluate(rows[day]).value(
            "click @ all", "auc"
        )
    assert pr.load(tmp_path / "out" / "forget" / "3").learned[-1].retained == 0.9
    record = json.loads((tmp_path / "out" / "replay.json").read_text())
    assert record["periods"] == found.to_json()["periods"]
    assert "click @ all, auc, each period by the model of the one before" in str(found)
    warm, scratch = (
        [each for each in str(found).splitlines() if each.startswith(name)][-1]
        for name in ("warm", "scratch")
    )
    seconds = {(each.period, each.strategy): each.seconds for each in found.cells}
    assert "seconds of the last  of scratch's" in str(found)
    assert warm.endswith(f"{100 * seconds['3', 'warm'] / seconds['3', 'scratch']:.0f} %")
    assert scratch.endswith("100 %")


def test_a_resumed_replay_keeps_what_is_finished_and_has_the_same_numbers(experiment, tmp_path):
    straight = experiment.replay("day", out=tmp_path / "straight", names=["warm"])

    class Stopped(Exception):
        pass

    events = []

    def stop(progress):
        events.append(progress.event)
        if events.count("epoch") == 5:  # in the middle of day 2
            raise Stopped

    with pytest.raises(Stopped):
        experiment.replay("day", out=tmp_path / "broken", names=["warm"], progress=stop)
    assert not (tmp_path / "broken" / "warm" / "2.json").exists()
    kept = (tmp_path / "broken" / "warm" / "1.json").read_bytes()
    with pytest.raises(ConfigError, match="go on with --resume"):
        experiment.replay("day", out=tmp_path / "broken", names=["warm"])
    with pytest.raises(ConfigError, match="a replay of another experiment, or with other options"):
        experiment.replay("day", out=tmp_path / "broken", names=["scratch"], resume=True)
    resumed = experiment.replay("day", out=tmp_path / "broken", names=["warm"], resume=True)
    assert (tmp_path / "broken" / "warm" / "1.json").read_bytes() == kept
    assert without_times(resumed) == without_times(straight)
    assert [each.resumed for each in resumed.cells] == [False, True, False]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(experiment, tmp_path):
    """`kill -9` some moments after another: every file that is there is whole."""
    (tmp_path / "e.toml").write_text(experiment.to_toml())
    command = [
        sys.executable, "-m", "polyrank", "replay", "e.toml", "--by", "day", "--strategy", "warm",
        "--out", "out",
    ]  # fmt: skip
    out = tmp_path / "out"
    for name in ("warm/1.json", "warm/2"):
        process = subprocess.Popen(
            [*command, *["--resume"] * out.exists()], cwd=tmp_path, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 120
        while not (out / name).exists() and process.poll() is None:
            assert time.monotonic() < end, "the replay never gets there"
        process.send_signal(signal.SIGKILL)
        process.wait()
        for file in out.rglob("*.json"):
            if not file.name.startswith("."):
                json.loads(file.read_text())
    found = experiment.replay("day", out=out, names=["warm"], resume=True)
    straight = experiment.replay("day", out=tmp_path / "straight", names=["warm"])
    assert without_times(found) == without_times(straight)


def test_periods_of_times_and_numbers():
    frame = log().lazy()
    cut = Periods.of(frame, "time", every="1d", first="2026-03-02", last="2026-03-03")
    assert cut.chosen == (START + timedelta(days=1), START + timedelta(days=2))
    assert cut.rows(cut.chosen[0]).collect()["day"].unique().to_list() == [1]
    seconds = Periods.of(frame, "seconds", every="86400")
    assert seconds.chosen == (86_400, 172_800, 259_200)
    assert seconds.rows(*seconds.known[:2]).collect()["day"].unique().to_list() == [0, 1]
    assert cut.rows(cut.known[0]).collect().columns == log().columns


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%.3fZ", "%Y-%m-%dT%H:%M+02:00", "%Y-%m-%d"]
)
def test_text_is_cut_as_its_times_are(form):
    frame = log().with_columns(pl.col("time").dt.strftime(form)).lazy()
    cut = Periods.of(frame, "time", every="1d", first="2026-03-02")
    whole = Periods.of(log().lazy(), "time", every="1d", first="2026-03-02")
    assert (cut.known, cut.chosen) == (whole.known, whole.chosen)
    rows = cut.rows(cut.chosen[0]).collect()
    assert rows["day"].unique().to_list() == [1]
    assert rows["time"].dtype == pl.String


def test_numbers_in_text_are_cut_as_numbers():
    frame = log().with_columns(pl.col("seconds").cast(pl.String)).lazy()
    assert Periods.of(frame, "seconds", every="86400").chosen == (86_400, 172_800, 259_200)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "dya"}, "column 'dya' is not in the data.* 'day'"),
        ({"by": "day", "first": "0"}, "no row before the first period, 0, to learn from: begin"),
        ({"by": "day", "first": "9"}, "no period of 'day' lies from 9 to 3: it has 0 to 3"),
        ({"by": "day", "first": "x"}, "from must be a period of 'day', such as 0, got 'x'"),
        ({"by": "time"}, "'time' has 1,600 values, too many for periods"),
        ({"by": "time", "every": "x"}, "every must be a duration such as '1d', got 'x'"),
        ({"by": "day", "every": "x"}, "a number above 0 of the unit of 'day', .* got 'x'"),
        ({"by": "day", "every": "9"}, "needs at least two periods of 'day', got 1"),
        (
            {"by": "word", "every": "1d"},
            "'word' must be numbers, dates, or ISO 8601 text .*got 'a'",
        ),
        ({"by": "yes", "every": "1d"}, "every cuts a time or a number, and 'yes' is a column of"),
        ({"by": "gap"}, "'gap' is null in some rows, which belong to no period: drop them"),
    ],
)
def test_what_cannot_be_cut_is_refused(options, message):
    frame = (
        log().with_columns(yes=pl.lit(True), word=pl.lit("a"), gap=pl.lit(None, pl.Int64)).lazy()
    )
    with pytest.raises((ConfigError, DataError), match=message):
        Periods.of(frame, **options)


def test_other_options_are_refused(experiment, tmp_path):
    with pytest.raises(ConfigError, match="unknown strategy 'warn'; did you mean 'warm'"):
        strategies_named(["warn"], strategies())
    assert strategies_named(["warm"], strategies()) == (Strategy(name="warm"),)
    with pytest.raises(ConfigError, match="retain must be a number above 0 and below 1, got 1"):
        strategies(retain=1)
    with pytest.raises(ConfigError, match="unknown score 'clik @ all'"):
        experiment.replay("day", score="clik @ all", out=tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists and holds no replay: choose another --out"):
        experiment.replay("day", out=tmp_path / "out", force=True)
    shared = SharedLists(file="lists.parquet", key="user")
    joined = replace(experiment, data=replace(experiment.data, shared=shared))
    with pytest.raises(ConfigError, match=r"a replay takes no \[data.shared\]: join the lists"):
        joined.replay("day", out=tmp_path / "new")
    with (
        locked(tmp_path / ".new.lock"),
        pytest.raises(ConfigError, match=r"another process is replaying into .*: wait for it"),
    ):
        experiment.replay("day", out=tmp_path / "new")
    with pytest.raises(ConfigError, match="resume continues a replay and force replaces it"):
        experiment.replay("day", out=tmp_path / "new", force=True, resume=True)


def test_a_damaged_period_is_named(experiment, tmp_path):
    experiment.replay("day", out=tmp_path / "out", names=["warm"], last=1)
    (tmp_path / "out" / "warm" / "1.json").write_text("{")
    with pytest.raises(TrainingError, match=r"1.json is damaged .*: remove it, and --resume"):
        experiment.replay("day", out=tmp_path / "out", names=["warm"], last=1, resume=True)
