"""Verbs as a newcomer runs them: output, JSON, refusals, exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import polyrank as pr
from polyrank import report
from polyrank.calibration import Platt
from polyrank.calibration.fitting import Calibrator
from polyrank.cli import app, demo
from polyrank.config import Experiment
from polyrank.datasets.ali_ccp import write_tutorial


def test_train_evaluate_predict(folder, command):
    code, out, err = command("train", "exp.toml")
    assert code == 0
    assert "scores of the test split" in out
    heads = pr.load("runs/tiny").without_network
    alone = rf"the network adds nothing to {', '.join(heads)}: .*first stage.*\n" if heads else ""
    assert re.search(rf"\nepoch [12] of 2 is kept\n{alone}run: runs/tiny\n$", out)
    assert "tiny epoch 2 of 2: validation total loss " in err

    code, card, _ = command("evaluate", "runs/tiny", "test.parquet", "--json")
    assert code == 0
    assert card == json.loads((folder / "runs/tiny/scorecard.json").read_text())
    assert [score["name"] for score in card["scores"]] == [
        "click @ all", "buy @ all", "buy|click @ click"
    ]  # fmt: skip
    assert "gauc" in card["scores"][0]["metrics"]
    for split, file in (("valid", "valid.csv"), ("train", "train.parquet")):
        assert f"scores of the {split} split" in command("evaluate", "runs/tiny", file)[1]

    code, out, _ = command("predict", "runs/tiny/bundle", "test.parquet", "-o", "out.csv")
    assert code == 0
    assert "100 rows scored into out.csv" in out
    scored = pl.read_csv("out.csv")
    assert scored.columns == ["user", "p_click", "p_buy_given_click", "p_buy"]
    assert scored["user"].to_list() == pl.read_parquet("test.parquet")["user"].to_list()


def test_evaluate_says_that_rows_of_the_source_were_learned_from(folder, command, caplog):
    text = (folder / "exp.toml").read_text()
    files = 'train = "train.parquet"\nvalid = "valid.csv"\ntest = "test.parquet"'
    assert files in text
    (folder / "one.toml").write_text(text.replace(files, 'source = "train.parquet"'))
    assert command("train", "one.toml")[0] == 0
    told = "train.parquet is the run's source: rows that it learned from are scored too"
    command("evaluate", "runs/tiny", "test.parquet")
    assert told not in caplog.text
    command("evaluate", "runs/tiny", "train.parquet")
    assert told in caplog.text


@pytest.mark.usefixtures("folder")
def test_train_says_to_which_heads_the_network_adds_nothing(command):
    out = command("train", "exp.toml")[1]
    first = pr.load("runs/tiny").ranker.first
    alone = [head for head, share in zip(first.heads, first.share, strict=True) if share == 0]
    assert alone
    assert f"the network adds nothing to {', '.join(alone)}: on the validation rows" in out
    out = command("train", "exp.toml", "--force", "--set", "model.wide=false")[1]
    assert "the network adds nothing" not in out


@pytest.mark.parametrize("verb", ["check", "explain", "train", "tune"])
def test_an_option_that_is_a_key_is_told_of_set(verb, command):
    code, _, err = command(verb, "exp.toml", "--epochs", "2")
    assert code == 2
    assert "changed by --set, such as --set train.epochs=3" in err
    assert "--set train" not in command("evaluate", "runs/tiny", "test.parquet", "--epochs", "2")[2]


@pytest.mark.usefixtures("folder")
def test_evaluate_shows_segments(command):
    command("train", "exp.toml")
    arguments = ["evaluate", "runs/tiny", "test.parquet", "--by", "item", "--by", "score decile"]
    code, out, _ = command(*arguments)
    assert code == 0
    assert "segments of click @ all, the worst first" in out
    assert "item = a" in out
    _, found, _ = command(*arguments, "--json")
    assert {line["dimension"] for line in found["segments"]} == {"item", "score decile"}
    assert {line["score"] for line in found["segments"]} == {
        score["name"] for score in found["scores"]
    }
    one = ["--by", "item", "--score", "buy @ all"]
    _, found, _ = command("evaluate", "runs/tiny", "test.parquet", *one, "--json")
    assert {(line["score"], line["dimension"]) for line in found["segments"]} == {
        ("buy @ all", "item")
    }
    code, out, _ = command("evaluate", "runs/tiny", "test.parquet", *one)
    assert code == 0
    assert out.count("segments of ") == out.count("segments of buy @ all, the worst first") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "itme"], "did you mean 'item'"),
        (["--by", "item", "--score", "buy"], "unknown score 'buy'; did you mean 'buy @ all'"),
        (["--score", "buy @ all"], "--score chooses segments: name their column by --by"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_segments_that_cannot_be_are_refused(command, options, message):
    command("train", "exp.toml", "--set", "train.epochs=1")
    code, _, err = command("evaluate", "runs/tiny", "test.parquet", *options)
    assert code == 1
    assert message in err


def test_predict_raw_leaves_the_maps_out(folder, command):
    assert command("train", "exp.toml")[0] == 0
    line = Calibrator(Platt(0.5, -1.0), 100, 50, {"none": 0.6, "platt": 0.5})
    bundle = replace(pr.load("runs/tiny"), calibrators={"click": line})
    bundle.save(folder / "calibrated")
    for options, raw in (([], False), (["--raw"], True)):
        code, _, _ = command("predict", "calibrated", "test.parquet", "-o", "o.parquet", *options)
        assert code == 0
        expected = bundle.predict("test.parquet", raw=raw)
        assert pl.read_parquet("o.parquet").drop("user").equals(expected)


def test_train_prints_json_and_takes_changes(folder, command):
    code, found, _ = command(
        "train", "exp.toml", "--out", "elsewhere", "--set", "train.epochs=1",
        "--set", "task.buy.space=click", "--json",
    )  # fmt: skip
    assert code == 0
    assert found["run"] == "elsewhere"
    assert found["scorecard"]["split"] == "test"
    saved = Experiment.load(folder / "elsewhere" / "config.toml")
    assert saved.training.epochs == 1
    assert saved.schema.tasks[1].space == "click"
    assert saved.data.valid == str(folder / "valid.csv")


@pytest.mark.slow
def test_train_starts_from_a_run_and_exports_what_grew(folder, command):
    command("train", "exp.toml")
    rows = pl.read_parquet(folder / "train.parquet").with_columns(pl.col("item") + "2")
    rows.write_parquet(folder / "new.parquet")
    new = ("--set", "data.train=new.parquet")
    code, out, _ = command("explain", "exp.toml", *new, "--set", "start.run=runs/tiny")
    assert code == 0
    code, out, _ = command(
        "train", "exp.toml", *new, "--start", "runs/tiny", "--out", "runs/next", "--json"
    )
    assert code == 0
    assert out["run"] == "runs/next"
    old, grown = (
        pl.read_parquet(folder / "runs" / name / "bundle" / "vocab" / "item.parquet")
        for name in ("tiny", "next")
    )
    assert grown["value"][: old.height].equals(old["value"])
    assert grown.height > old.height
    code, _, _ = command("export", "runs/next")  # which compares the graph with the bundle
    assert code == 0
    code, _, errors = command("train", "exp.toml", "--start", "runs/next", "--out", "runs/again")
    assert code == 1
    assert "1 of 1 files or frames of training rows were learned" in errors


@pytest.mark.slow
def test_replay_shows_each_day_and_writes_a_page(folder, command):
    rows = pl.read_parquet(folder / "train.parquet").with_row_index("row")
    rows.with_columns(day=pl.col("row") // 150).write_parquet(folder / "train.parquet")
    arguments = ("replay", "exp.toml", "--by", "day", "--set", "data.orphans=zero")
    code, out, _ = command(*arguments, "--strategy", "scratch", "--strategy", "warm")
    assert code == 0
    assert "click @ all, auc, each period by the model of the one before" in out
    assert out.splitlines()[1].split() == ["period", "rows", "scratch", "warm"]
    page = (folder / "runs" / "tiny-replay" / "replay.html").read_text(encoding="utf-8")
    assert "Seconds to learn a period" in page
    code, out, _ = command(
        *arguments, "--strategy", "warm", "--from", "1", "--to", "1", "--out", "one", "--json"
    )
    (cell,) = out["periods"]
    assert (cell["period"], cell["rows"], cell["strategy"]) == ("1", 150, "warm")
    code, _, errors = command(*arguments, "--strategy", "warm")
    assert code == 1
    assert "exists: go on with --resume" in errors


def test_train_shows_where_a_steps_time_goes_and_learns_the_same(folder, command):
    command("train", "exp.toml")
    code, found, _ = command("train", "exp.toml", "--out", "profiled", "--profile", "--json")
    assert code == 0
    weights = [folder / run / "bundle" / "weights.safetensors" for run in ("runs/tiny", "profiled")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    profile = found["profile"]
    assert [each["part"] for each in profile["parts"]] == [
        "load", "gather", "forward", "backward", "dense step", "embedding step"
    ]  # fmt: skip
    assert profile["steps"] == 14
    assert profile["rows_per_second"] > 0
    assert sum(each["share"] for each in profile["parts"]) == pytest.approx(1)
    code, out, _ = command("train", "exp.toml", "--force", "--profile")
    assert code == 0
    assert "embedding step" in out
    assert "14 steps, " in out


def test_train_sums_up_several_seeds(folder, command):
    options = ["train", "exp.toml", "--seeds", 2, "--set", "train.epochs=1"]
    code, out, err = command(*options)
    assert code == 0
    assert "test rows: mean ± standard deviation over 2 seeds (3, 4)\n" in out
    assert out.endswith("\nruns: runs/tiny/seed-3 runs/tiny/seed-4\n")
    assert "tiny (seed 3) epoch 1 of 1: " in err
    assert "tiny (seed 4) epoch 1 of 1: " in err

    code, found, err = command(*options, "--resume", "--json")
    assert code == 0
    assert "epoch" not in err
    runs = [folder / "runs" / "tiny" / f"seed-{seed}" for seed in (3, 4)]
    cards = [json.loads((run / "scorecard.json").read_text()) for run in runs]
    assert found["runs"] == [
        {"seed": seed, "run": f"runs/tiny/seed-{seed}", "scorecard": card}
        for seed, card in zip((3, 4), cards, strict=True)
    ]
    values = [card["scores"][0]["metrics"]["gauc"]["value"] for card in cards]
    assert found["scores"][0]["name"] == "click @ all"
    assert found["scores"][0]["metrics"]["gauc"] == {
        "mean": pytest.approx(sum(values) / 2),
        "deviation": pytest.approx(abs(values[0] - values[1]) / 2**0.5),
        "values": values,
    }
    written = json.loads((folder / "runs" / "tiny" / "seeds.json").read_text())
    assert written["scores"] == found["scores"]

    again = command(*options, "--force", "--set", "seed=8", "--json")[1]
    assert [run["seed"] for run in again["runs"]] == [8, 9]
    assert sorted(path.name for path in (folder / "runs" / "tiny").iterdir()) == [
        "seed-8", "seed-9", "seeds.json"
    ]  # fmt: skip


@pytest.mark.usefixtures("folder")
def test_seeds_and_a_single_run_do_not_mix(command):
    quick = ["train", "exp.toml", "--set", "train.epochs=1"]
    assert command(*quick, "--seeds", 1)[0] == 0
    for options in ([], ["--resume"], ["--force"]):
        code, _, err = command(*quick, *options)
        assert code == 1
        assert "runs/tiny holds a run of each of several seeds: give --seeds" in err
    code, _, err = command(*quick, "--seeds", 2, "--profile")
    assert code == 1
    assert "--profile is of a single run: leave out --seeds" in err
    code, _, err = command(*quick, "--seeds", 0)
    assert code == 1
    assert "seeds must be a whole number of at least 1, got 0" in err
    assert command(*quick, "--seeds", "two")[0] == 2


def test_a_saved_config_trains_again_to_the_same_scorecard(folder, command):
    command("train", "exp.toml")
    code, again, _ = command("train", "runs/tiny/config.toml", "--out", "again", "--json")
    assert code == 0
    assert again["scorecard"] == json.loads((folder / "runs/tiny/scorecard.json").read_text())


@pytest.mark.usefixtures("folder")
def test_explain_shows_what_was_sampled(command):
    options = ("--set", "data.sampling.task=click", "--set", "data.sampling.keep=0.5")
    code, out, _ = command("explain", "exp.toml", *options)
    assert code == 0
    assert "sampling: rows with click = 0 were kept at a rate of 0.5 in train" in out
    code, _, err = command("explain", "exp.toml", *options, "--set", "data.sampling.task=buy")
    assert code == 1
    assert "only a root can be sampled" in err


@pytest.mark.usefixtures("folder")
def test_explain_shows_the_plan(command):
    numbers = "features.price.encoding='bins'"  # one row of a table for each price
    entire = ("--set", "model.entire_space=true", "--set", "model.wide=false", "--set", numbers)
    code, out, _ = command("explain", "exp.toml", *entire)
    assert code == 0
    assert "P(click)·P(buy|click)" in out
    assert "rows: train 400, valid 100, test 100; 7 steps per epoch, 2 epochs" in out
    code, plan, _ = command("explain", "exp.toml", *entire, "--json")
    train = pl.read_parquet("train.parquet")
    assert plan["objective"][1]["usable_rows"] == 400
    assert plan["objective"][1]["positives"] == int((train["click"] * train["purchase"]).sum())
    bundle = Experiment.load("exp.toml", ["model.wide=false", numbers]).fit()
    sizes = {name: weight.numel() for name, weight in bundle.ranker.named_weights().items()}
    assert sum(plan["parameters"].values()) == sum(sizes.values())
    assert plan["parameters"]["embed.item"] == sizes["embed.item"] == 5 * 4
    assert plan["memory_bytes"]["train rows"] == 400 * 4 * (2 + 1 + 2) + 400 * 8


@pytest.mark.usefixtures("folder")
def test_unseen_ids_and_nulls_are_counted(command):
    command("train", "exp.toml")
    frame = pl.read_parquet("test.parquet").with_columns(
        item=pl.lit("new"), price=pl.lit(None, dtype=pl.Float64)
    )
    frame.write_parquet("odd.parquet")
    _, found, _ = command("predict", "runs/tiny", "odd.parquet", "-o", "o.parquet", "--json")
    assert found["rows"] == 100
    assert found["unseen"]["item"] == 100
    assert found["nulls"]["price"] == 100
    _, out, err = command("evaluate", "runs/tiny", "odd.parquet")
    assert "unseen or rare ids in 100 rows: item 100" in err
    assert "scores of the test split" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.toml"], "error: nowhere.toml cannot be read"),
        (["train", "exp.toml", "--set", "train.epoch=1"], "did you mean 'train.epochs'"),
        (["train", "exp.toml", "--set", "data.train=gone.csv"], "no such file"),
        (["explain", "exp.toml", "--set", "task.buy.given=clik"], "did you mean 'click'"),
        (
            ["explain", "exp.toml", "--set", "train.balance={kind='metabalance',target='buy'}"],
            "MetaBalance: unknown target 'buy'",
        ),
        (["evaluate", "nothing", "test.parquet"], "nothing does not exist"),
        (["predict", "nothing", "test.parquet", "-o", "x.csv"], "nothing does not exist"),
        (["data", "get", "synthetic"], "is generated: use `polyrank data make synthetic`"),
        (["data", "get", "synthetic", "--from", "x"], "use `polyrank data make synthetic`"),
        (["data", "get", "ali_ccp"], "make ali_ccp`; to read files of your own, name their"),
        (["data", "make", "ali_ccp", "--hidden", "1"], "'ali_ccp': unknown option 'hidden'"),
        (["data", "make", "census"], "is fetched: use `polyrank data get census`"),
        (["data", "make", "sinthetic"], "did you mean 'synthetic'"),
        (["data", "make", "synthetic", "--preset", "aditive"], "did you mean 'additive'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_refusals_end_with_1_and_no_traceback(command, arguments, message):
    code, _, err = command(*arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [["trian"], ["train"], ["train", "exp.toml", "--epochs", "3"], ["demo", "funnle"],
     ["predict", "runs/x", "y"], ["evaluate", "a", "b", "--orphans", "ignore"]],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_wrong_usage_ends_with_2(command, arguments):
    assert command(*arguments)[0] == 2


@pytest.mark.usefixtures("folder")
def test_an_existing_run_is_refused(command):
    command("train", "exp.toml")
    code, _, err = command("train", "exp.toml")
    assert code == 1
    assert "runs/tiny exists: resume it with --resume, replace it with --force" in err
    assert command("train", "exp.toml", "--force")[0] == 0
    assert command("train", "exp.toml", "--resume")[0] == 0


def test_data_make_writes_what_trains(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("data", "make", "synthetic", "--rows", 4000, "--seed", 3, "--out", "log")
    assert code == 0
    assert out == "written: log\nnext:    polyrank train log/experiment.toml\n"
    code, found, _ = command("train", "log/experiment.toml", "--set", "train.epochs=1", "--json")
    assert code == 0
    assert "truth" in found["scorecard"]["scores"][0]
    code, _, err = command("data", "make", "synthetic", "--rows", 4000, "--out", "log")
    assert code == 1
    assert "experiment.toml exists" in err


def test_data_list(command):
    code, out, _ = command("data", "list")
    assert code == 0
    assert "synthetic" in out
    assert "CC BY 4.0" in out
    _, found, _ = command("data", "list", "--json")
    assert {each["name"]: each["verb"] for each in found} == {
        "synthetic": "make",
        "census": "get",
        "ali_ccp": "make",
        "ali_ccp_raw": "make",
        "movielens_100k": "get",
    }


def test_data_from_files_that_are_already_here(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tutorial("files", rows=4000)
    code, found, _ = command("data", "get", "ali_ccp", "--from", "files", "--json")
    assert (code, found["experiment"]) == (0, "data/ali_ccp/experiment.toml")
    code, found, _ = command("train", found["experiment"], "--set", "train.epochs=1", "--json")
    assert code == 0
    assert found["scorecard"]["scores"][1]["name"] == "buy @ all"
    assert command("data", "make", "ali_ccp", "--rows", 500, "--out", "made")[0] == 0
    assert "true_p_buy" in pl.read_parquet_schema("made/test.parquet")


def test_version(command):
    code, out, _ = command("--version")
    assert code == 0
    assert out.strip() == pr.__version__


@pytest.mark.slow
def test_the_funnel_demo(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "FUNNEL_ROWS", 30_000)
    code, found, _ = command("demo", "--json")
    assert code == 0
    names = ["clicked-rows", "esmm", "mmoe-entire", "recommended"]
    assert [run["name"] for run in found["runs"]] == names
    for run in found["runs"]:
        assert set(run) == {"name", "seed", "seconds", "run", "scorecard"}
        scores = [score["name"] for score in run["scorecard"]["scores"]]
        assert scores == ["click @ all", "buy @ all", "buy|click @ click", "buy|click @ all"]
        assert all("truth" in score for score in run["scorecard"]["scores"])
    configs = [Experiment.load(f"{run['run']}/config.toml") for run in found["runs"]]
    *papers, recommended = configs
    assert [each.schema.tasks[1].space for each in papers] == ["click", "all", "all"]
    assert [each.name for each in configs] == names
    assert papers[0].model == papers[1].model
    assert papers[0].training == papers[1].training == papers[2].training
    assert (recommended.model, recommended.training) == (pr.Model(), pr.Training())
    assert recommended.schema.tasks[1].spaces == pr.Task("buy", given="click").spaces

    code, out, _ = command("demo")
    assert code == 0
    header = next(line for line in out.splitlines() if line.startswith("test rows"))
    assert header.split()[2:] == ["figure", "oracle", *names]
    assert "recommended, the defaults, is nearer" in out
    assert "buy|click @ all" in out
    *_, scored, compared, reported = out.splitlines()
    for line in (scored, compared):
        assert command(*line.removeprefix("next:").split()[1:])[0] == 0
    page = Path(reported.removeprefix("report: "))
    assert (
        page == max((tmp_path / "runs").iterdir()).relative_to(tmp_path) / "recommended/report.html"
    )
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(list((tmp_path / "runs").iterdir())) == 2

    monkeypatch.setattr(report, "installed", lambda: False)
    monkeypatch.setattr(demo, "FUNNEL_ROWS", 10_000)
    code, out, _ = command("demo")
    assert (code, out.splitlines()[-1]) == (0, report.HOW_TO_INSTALL)


def test_the_papers_of_the_demo_stay_when_a_default_moves(without_defaults):
    before = demo.papers(), demo.census_mixture()
    without_defaults(pr.Model, pr.Training, pr.Separate, pr.MMoE, pr.LazyAdam, pr.Adam, pr.Sum)
    assert (demo.papers(), demo.census_mixture()) == before


@pytest.mark.slow
def test_ctrl_c_leaves_a_readable_run_and_130(folder):
    """A real interrupt of a real process."""
    command = [
        sys.executable,
        "-m",
        "polyrank",
        "train",
        "exp.toml",
        "--set",
        "train.epochs=100000",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = folder / "runs" / "tiny" / "log.jsonl"
    end = time.monotonic() + 120
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n") > 3):
        assert time.monotonic() < end, "the run never logs"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "runs/tiny is readable; continue it with --resume" in err
    assert "Traceback" not in err
    assert Experiment.load(folder / "runs/tiny/config.toml").name == "tiny"
    assert not (folder / "runs" / "tiny" / "bundle").exists()


def test_a_closed_pipe_is_no_error():
    """The reader is gone before the first line is written."""
    command = [sys.executable, "-u", "-m", "polyrank", "data", "list"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_fault_of_ours_is_no_traceback(folder, command, monkeypatch):
    def fault(*_, **__):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("polyrank.config.Experiment.load", fault)
    code, _, err = command("explain", "exp.toml")
    assert code == 1
    assert err.startswith("internal error: ZeroDivisionError: by zero\nthis is a bug in polyrank")
    monkeypatch.setenv("POLYRANK_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        command("explain", str(folder / "exp.toml"))


def test_a_part_of_ours_that_is_missing_is_a_fault_of_ours(command, monkeypatch):
    def fault(*_, **__):
        raise ModuleNotFoundError("No module named 'polyrank.nn.lost'", name="polyrank.nn.lost")

    monkeypatch.setattr("polyrank.config.Experiment.load", fault)
    code, _, err = command("explain", "exp.toml")
    assert code == 1
    assert err.startswith("internal error: ModuleNotFoundError: No module named 'polyrank.nn.lost'")


def test_every_verb_has_its_file():
    from importlib import import_module

    for verb in app.VERBS:
        assert callable(getattr(import_module(f"polyrank.cli.{verb}"), verb))
