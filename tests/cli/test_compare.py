"""`polyrank compare` on tiny runs: groups, intervals, the same rows, refusals."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

import polyrank as pr
from polyrank.config import Experiment
from polyrank.metrics.binary import auc
from polyrank.metrics.comparison import furthest_apart
from polyrank.report.compare import ComparedRun, _plain, compare

TRUNK = "model.trunk.experts=1"
EXPERIMENT = """
name = "base"
seed = 1
[data]
train = "train.parquet"
valid = "valid.csv"
test = "test.parquet"
[features]
sparse = ["user", "item"]
[keys]
user = "user"
[[task]]
name = "click"
[[task]]
name = "buy"
label = "purchase"
given = "click"
[model]
trunk = { kind = "mmoe", experts = 2, hidden = [8] }
tower = [4]
embed_dim = 4
wide = false
[train]
epochs = 1
"""


def _train(out, *changes, file="exp.toml"):
    Experiment.load(file, changes).fit(out=out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of one name, and two of another that differs in its trunk."""
    folder = tmp_path_factory.mktemp("compared")
    generator = np.random.default_rng(2)
    click = generator.integers(0, 2, 1300)
    frame = pl.DataFrame(
        {
            "user": generator.integers(0, 80, 1300),
            "item": generator.choice(["a", "b", "c", "d"], 1300),
            "click": click,
            "purchase": click * generator.integers(0, 2, 1300),
        }
    )
    frame.head(400).write_parquet(folder / "train.parquet")
    frame.slice(400, 100).write_csv(folder / "valid.csv")
    frame.tail(800).write_parquet(folder / "test.parquet")
    (folder / "exp.toml").write_text(EXPERIMENT)
    for seed in (1, 2):
        exp = folder / "exp.toml"
        _train(folder / f"a-{seed}", f"seed={seed}", file=exp)
        _train(folder / f"b-{seed}", f"seed={seed}", "name=other", TRUNK, file=exp)
    return folder


@pytest.fixture
def runs(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def test_runs_that_differ_in_their_sampling_are_not_seeds_of_one_experiment(trained):
    bundles = [pr.load(trained / f"a-{seed}") for seed in (1, 2)]
    sampled = {"task": "click", "keep": 0.5, "splits": ["train"]}
    config = bundles[1].config
    bundles[1] = replace(
        bundles[1], config={**config, "data": config["data"] | {"sampling": sampled}}
    )
    rows = pl.read_parquet(trained / "test.parquet")
    runs = [ComparedRun(f"a-{seed}", bundle, rows) for seed, bundle in enumerate(bundles, 1)]
    found = compare(runs)
    assert found.runs.keys() == {"a-1", "a-2"}
    assert "differ in more than their seed" in found.notes[0]


@pytest.mark.usefixtures("runs")
def test_groups_of_seeds_are_compared_with_both_intervals(command):
    names = ["a-1", "a-2", "b-1", "b-2"]
    code, found, err = command("compare", *names, "--json")
    assert code == 0, err
    assert found["baseline"] == "base"
    assert found["rows"] == 800
    assert found["split"] == "test"
    assert found["runs"] == [
        {"name": "base", "run": "a-1", "seed": 1},
        {"name": "base", "run": "a-2", "seed": 2},
        {"name": "other", "run": "b-1", "seed": 1},
        {"name": "other", "run": "b-2", "seed": 2},
    ]
    assert {each["score"] for each in found["differences"]} == {
        "click @ all", "buy @ all", "buy|click @ click"
    }  # fmt: skip
    assert {each["metric"] for each in found["differences"]} == {"auc", "gauc", "pr_auc", "ne"}
    first = found["differences"][0]
    assert (first["score"], first["metric"], first["name"]) == ("click @ all", "auc", "other")
    cards = [json.loads(Path(run, "scorecard.json").read_text()) for run in names]
    values = [card["scores"][0]["metrics"]["auc"]["value"] for card in cards]
    assert first["value"] == pytest.approx(sum(values[2:]) / 2 - sum(values[:2]) / 2)
    assert first["seeds"]["source"] == "paired seeds"
    assert found["comparisons"] == len(found["differences"]) == 12

    code, out, _ = command("compare", *names)
    assert "800 test rows; base (2 runs); other (2 runs); the first is the baseline" in out
    assert "95 % over rows" in out
    assert "about 1 in 20 (here 0.6) looks significant by chance" in out


@pytest.fixture(scope="module")
def folders(trained):
    """Folders of seeds: one name, another trunk; and other seeds."""
    exp = trained / "exp.toml"
    for out, count, changes in (
        ("one", 3, []), ("two", 3, [TRUNK]), ("late", 2, [TRUNK, "seed=7", "name=late"])
    ):  # fmt: skip
        Experiment.load(exp, changes).fit_seeds(count, out=trained / "groups" / out, progress=False)
    return trained


@pytest.mark.usefixtures("folders", "runs")
def test_folders_of_seeds_are_groups_paired_where_their_seeds_are_equal(command):
    code, found, err = command(
        "compare", *(f"groups/{name}" for name in ("one", "two", "late")), "--json"
    )
    assert code == 0, err
    assert found["baseline"] == "groups/one"  # two folders have runs of the name "base"
    assert [(each["name"], each["run"], each["seed"]) for each in found["runs"]] == [
        *(("groups/one", f"groups/one/seed-{seed}", seed) for seed in (1, 2, 3)),
        *(("groups/two", f"groups/two/seed-{seed}", seed) for seed in (1, 2, 3)),
        *(("late", f"groups/late/seed-{seed}", seed) for seed in (7, 8)),
    ]
    values = {}
    for name in ("one", "two", "late"):
        table = json.loads(Path("groups", name, "seeds.json").read_text())
        values[name] = table["scores"][0]["metrics"]["auc"]["values"]
    first, second = (
        each
        for each in found["differences"]
        if each["metric"] == "auc" and each["score"] == "click @ all"
    )
    differences = np.subtract(values["two"], values["one"])
    reach = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / 3**0.5
    assert first["value"] == pytest.approx(differences.mean())
    assert first["seeds"] == {
        "low": pytest.approx(differences.mean() - reach, rel=1e-4),
        "high": pytest.approx(differences.mean() + reach, rel=1e-4),
        "source": "paired seeds",
    }
    welch = stats.ttest_ind(values["late"], values["one"], equal_var=False).confidence_interval()
    assert second["seeds"] == {
        "low": pytest.approx(welch.low, rel=1e-4),
        "high": pytest.approx(welch.high, rel=1e-4),
        "source": "seeds",
    }
    assert found["remarks"][0].startswith("the interval over rows")  # every group is one


@pytest.mark.usefixtures("folders", "runs")
def test_a_folder_of_seeds_and_single_runs(command):
    code, out, err = command("compare", "groups/one", "b-1", "--out", "pages/seeds.html")
    assert code == 0, err
    assert "800 test rows; base (3 runs); other (1 run); the first is the baseline" in out
    page = Path("pages/seeds.html").read_text()
    assert "<h1>other against base</h1>" in page
    assert "base: 3 runs" in page
    # a single run of that name is not one of the folder's seeds
    _, out, _ = command("compare", "groups/one", "a-1", "a-2")
    assert "groups/one (3 runs); base (2 runs)" in out
    code, out, _ = command("compare", "groups/one")
    assert code == 0
    assert "all runs have one name: there is nothing to compare them with" in out
    code, _, err = command("compare", "groups/one", "groups/one/seed-2")
    assert code == 1
    assert "the run groups/one/seed-2 is given twice" in err


@pytest.mark.usefixtures("runs")
def test_a_folder_whose_runs_differ_in_more_is_no_group(command):
    _train("mixed/seed-1", "seed=1")
    _train("mixed/seed-2", "seed=2", TRUNK)
    _, found, _ = command("compare", "mixed", "--json")
    assert [each["name"] for each in found["runs"]] == ["mixed/seed-1", "mixed/seed-2"]
    assert found["remarks"][0].startswith("the runs in mixed differ in more than their seed")


@pytest.mark.usefixtures("runs")
def test_a_seed_that_has_not_finished_is_refused(command):
    _train("partly/seed-1", "seed=1")
    _train("partly/seed-2", "seed=2")
    shutil.rmtree("partly/seed-2/bundle")
    code, _, err = command("compare", "partly", "a-1")
    assert code == 1
    assert "partly/seed-2 is a run without a bundle: it has not finished" in err


@pytest.mark.usefixtures("runs")
def test_seeds_on_a_random_split_are_scored_on_the_same_rows(command):
    text = Path("exp.toml").read_text()
    old = 'train = "train.parquet"\nvalid = "valid.csv"\ntest = "test.parquet"\n'
    new = 'source = "test.parquet"\nsplit = { by = "random", fractions = [0.6, 0.2, 0.2] }\n'
    Path("split.toml").write_text(text.replace(old, new))
    Experiment.load("split.toml").fit_seeds(2, out="split-1", progress=False)
    Experiment.load("split.toml", [TRUNK]).fit_seeds(2, out="split-2", progress=False)
    code, found, err = command("compare", "split-1", "split-2", "--json")
    assert (code, err) == (0, "")
    assert {each["seeds"]["source"] for each in found["differences"]} == {"paired seeds"}


@pytest.mark.usefixtures("runs")
def test_a_page_is_written(command):
    code, found, err = command("compare", "a-1", "b-1", "--out", "pages/ab.html", "--json")
    assert code == 0, err
    assert found["page"] == "pages/ab.html"
    assert "<h1>other against base</h1>" in Path("pages/ab.html").read_text()
    _, out, _ = command("compare", "a-1", "b-1", "--out", "pages/ab.html")
    assert out.endswith("\npage: pages/ab.html\n")


def test_a_page_without_the_extra_is_refused_before_anything_is_read(command, monkeypatch):
    monkeypatch.setattr("polyrank.report.find_spec", lambda _: None)
    code, _, err = command("compare", "no", "run", "--out", "page.html")
    assert code == 1
    assert "pip install 'polyrank[report]'" in err


@pytest.mark.usefixtures("runs")
def test_a_run_and_its_copy_do_not_differ_at_all(command):
    code, found, _ = command("compare", "a-1", "a-1/bundle", "--json")
    assert code == 0
    for each in found["differences"]:
        assert each["value"] == 0
        assert each["rows"] is None or (each["rows"]["low"], each["rows"]["high"]) == (0, 0)
        assert each["verdict"] in {"not significant", "too few rows"}
    assert found["conclusion"].startswith("no difference is significant at 95 %")
    assert found["remarks"][0].startswith("the runs named 'base' share a seed, so each stands on")


@pytest.mark.usefixtures("runs")
def test_runs_of_one_name_that_differ_in_more_than_the_seed_are_no_group(command):
    _train("c", "seed=3", TRUNK)
    _, found, _ = command("compare", "a-1", "c", "--json")
    assert [each["name"] for each in found["runs"]] == ["a-1", "c"]
    assert "differ in more than their seed" in found["remarks"][0]


@pytest.mark.usefixtures("runs")
def test_seeds_of_one_name_have_their_spread_and_nothing_to_compare(command):
    code, out, _ = command("compare", "a-1", "a-2")
    assert code == 0
    assert "all runs have one name: there is nothing to compare them with" in out
    assert " ± " in out


@pytest.mark.usefixtures("runs")
def test_other_rows_may_be_named(command):
    code, found, _ = command("compare", "a-1", "b-1", "--data", "valid.csv", "--json")
    assert code == 0
    assert found["rows"] == 100
    assert any(remark.startswith("no interval over rows") for remark in found["remarks"])
    assert any("where a side has one seed" in remark for remark in found["remarks"])
    values = found["groups"][0]["values"]
    rows = pl.read_csv("valid.csv")
    predicted = pr.load("a-1").predict("valid.csv")["p_click"]
    assert values == [{"seed": 1, "value": pytest.approx(auc(rows["click"], predicted))}]


@pytest.mark.usefixtures("runs")
def test_runs_with_other_tasks_are_compared_on_what_they_share(command):
    text = Path("exp.toml").read_text()
    only = text.replace('[[task]]\nname = "buy"\nlabel = "purchase"\ngiven = "click"\n', "")
    Path("only.toml").write_text(only)
    _train("d", "name=only", file="only.toml")
    _, found, _ = command("compare", "a-1", "d", "--json")
    assert {each["score"] for each in found["groups"]} == {"click @ all"}


@pytest.mark.usefixtures("runs")
def test_refusals(command):
    _train("valid", "name=v", "data.test=valid.csv")
    code, _, err = command("compare", "a-1", "valid")
    assert code == 1
    assert "runs must be compared on the same rows, but a-1 has split test, file " in err
    assert "; --data names the rows to compare on" in err
    code, _, err = command("compare", "a-1")
    assert code == 1
    assert "compare needs at least two runs, got 1" in err
    code, _, err = command("compare", "a-1", "a-1")
    assert code == 1
    assert "the run a-1 is given twice" in err
    rows = pl.read_parquet("train.parquet")
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("purchase")])
    pr.fit(schema, pr.Model(), train=rows, epochs=1, out="memory")
    code, _, err = command("compare", "a-1", "memory")
    assert code == 1
    assert (
        "memory names no file of test or validation rows: it was trained on rows in memory" in err
    )
    code, _, err = command("compare", "a-1", "memory", "--data", "test.parquet")
    assert code == 1
    assert "the runs have no score in common: a-1 has click @ all, " in err


@pytest.mark.usefixtures("runs")
def test_a_source_is_split_as_it_was(command):
    text = Path("exp.toml").read_text()
    old = 'train = "train.parquet"\nvalid = "valid.csv"\ntest = "test.parquet"\n'
    new = 'source = "test.parquet"\nsplit = { by = "user", fractions = [0.6, 0.2, 0.2] }\n'
    Path("source.toml").write_text(text.replace(old, new))
    _train("s-1", file="source.toml")
    _train("s-2", "name=b", TRUNK, file="source.toml")
    _train("s-9", "seed=9", file="source.toml")
    code, found, _ = command("compare", "s-1", "s-2", "--json")
    card = json.loads(Path("s-1/scorecard.json").read_text())
    assert (code, found["rows"]) == (0, card["scores"][0]["rows"])
    code, _, err = command("compare", "s-1", "s-9")
    assert code == 1
    assert "seed 1" in err
    assert "seed 9" in err


@pytest.mark.usefixtures("runs")
def test_the_rows_on_which_runs_disagree_most_are_those_of_a_plain_loop(command):
    names = ["a-1", "a-2", "b-1", "b-2"]
    code, found, err = command("compare", *names, "--disagreements", "20", "--json")
    assert code == 0, err
    rows = pl.read_parquet("test.parquet")
    predicted = {name: pr.load(name).predict(rows)["p_buy"].to_numpy() for name in names}
    before = (predicted["a-1"] + predicted["a-2"]) / 2
    after = (predicted["b-1"] + predicted["b-2"]) / 2
    expected = sorted(range(800), key=lambda row: -abs(after[row] - before[row]))[:20]
    own = [each for each in found["disagreements"] if each["score"] == "buy @ all"]
    assert [each["row"] for each in own] == expected
    for each in own:
        row = rows.row(each["row"], named=True)
        assert each["label"] == row["click"] * row["purchase"]
        assert each["before"] == pytest.approx(before[each["row"]], abs=1e-6)
        assert each["after"] == pytest.approx(after[each["row"]], abs=1e-6)
        assert (each["baseline"], each["name"]) == ("base", "other")
        assert each["keys"] == {"user": row["user"]}
        assert each["features"] == {"user": str(row["user"]), "item": row["item"]} or each[
            "features"
        ] == {"user": row["user"], "item": row["item"]}
    clicked = [each for each in found["disagreements"] if each["score"] == "buy|click @ click"]
    assert all(rows["click"][each["row"]] == 1 for each in clicked)


@pytest.mark.usefixtures("runs")
def test_disagreements_are_shown_where_somebody_asks(command, tmp_path):
    pytest.importorskip("altair")
    out = tmp_path / "page.html"
    code, text, _ = command("compare", "a-1", "b-1", "--disagreements", "3", "--out", str(out))
    assert code == 0
    assert "click @ all: the rows on which other and base differ most" in text
    assert "item " in text
    page = out.read_text(encoding="utf-8")
    assert "<h2>Largest disagreements</h2>" in page
    assert "mind to whom you send this page" in page
    code, found, _ = command("compare", "a-1", "b-1", "--json")
    assert found["disagreements"] == []
    code, _, err = command("compare", "a-1", "b-1", "--disagreements", "-1")
    assert code == 1
    assert "disagreements must be a whole number of at least 0, got -1" in err


def test_rows_of_weight_0_and_without_a_difference_are_no_disagreements():
    before, after = np.array([0.1, 0.5, 0.2, 0.3]), np.array([0.9, 0.1, 0.2, 0.2])
    found = furthest_apart(before, after, 9, np.array([0.0, 1, 1, 1]))
    assert found.tolist() == [1, 3]


def test_values_that_json_has_no_type_for_are_text():
    frame = pl.DataFrame(
        {"day": [date(2026, 12, 2)], "price": [float("nan")], "n": [3], "s": [None]}
    )
    assert _plain(frame, 0) == {"day": "2026-12-02", "price": None, "n": 3, "s": None}
