"""`polyrank report`: where the page goes, which rows it shows, what it refuses."""

import os
import shutil

import polars as pl
import pytest

import polyrank as pr
from polyrank.cli.app import run


@pytest.fixture
def trained(folder, command):
    code, _, _ = command("train", "exp.toml")
    assert code == 0
    return folder / "runs" / "tiny"


def page(path):
    return path.read_text(encoding="utf-8")


def test_the_page_lies_in_the_run_and_shows_its_test_rows(trained, command):
    code, out, err = command("report", "runs/tiny")
    assert (code, out, err) == (0, "runs/tiny/report.html\n", "")
    text = page(trained / "report.html")
    assert "<h1>tiny</h1>" in text
    assert "100 test rows" in text
    assert "<h2>Calibration</h2>" in text
    assert "Not on this page" not in text


def test_the_log_of_the_run_is_audited(trained, command):
    assert command("report", "runs/tiny")[0] == 0
    text = page(trained / "report.html")
    assert "train, 100 valid, 100 test rows" in text
    assert "was not audited" not in text


def test_a_log_that_is_gone_is_said_not_to_be_audited(trained, command):
    (trained.parent.parent / "train.parquet").unlink()
    assert command("report", "runs/tiny")[0] == 0
    text = page(trained / "report.html")
    assert "The log was not audited: it could not be read again (no such file:" in text
    assert "<h2>Segments</h2>" in text


def test_a_bundle_folder_and_another_file(trained, command):
    code, out, _ = command("report", "runs/tiny/bundle", "--out", "elsewhere/page.html", "--json")
    assert code == 0
    assert out == {"report": "elsewhere/page.html", "missing": None, "unaudited": None}
    assert "<h1>tiny</h1>" in page(trained.parent.parent / "elsewhere" / "page.html")


@pytest.mark.slow
def test_what_the_model_reads_is_inspected_where_asked(trained, command):
    code, out, err = command("report", "runs/tiny", "--inspect", "--json")
    assert (code, err) == (0, "")
    assert out["importance"]["rows"] == 100
    assert {each["feature"] for each in out["importance"]["drops"]} == {"user", "item", "price"}
    assert {each["output"] for each in out["dependence"]} >= {"p_click", "p_buy"}
    text = page(trained / "report.html")
    assert "<h2>Importance of features</h2>" in text
    assert "<h2>Dependence on numbers</h2>" in text
    assert command("report", "runs/tiny")[0] == 0
    assert "<h2>Importance of features</h2>" not in page(trained / "report.html")


@pytest.mark.slow
def test_charts_are_written_and_the_page_is_opened(trained, command, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: not opened.append(address))
    code, out, err = command("report", "runs/tiny", "--charts", "pictures", "--open", "--json")
    assert (code, err) == (0, "")
    assert opened == [(trained / "report.html").as_uri()]
    assert all(map(os.path.isfile, out["charts"]))
    assert "pictures/ranking-roc.svg" in out["charts"]
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    code, out, err = command("report", "runs/tiny", "--charts", "pictures", "--open")
    assert code == 0
    assert "files of charts: pictures" in out
    assert err == "no browser could be opened: open runs/tiny/report.html yourself\n"


def test_rows_that_are_gone_are_said_to_be(trained, command):
    (trained.parent.parent / "test.parquet").unlink()
    code, out, err = command("report", "runs/tiny")
    assert (code, out) == (0, "runs/tiny/report.html\n")
    assert "without the scored rows: they could not be read (no such file:" in err
    text = page(trained / "report.html")
    assert "Not on this page" in text
    assert "<h2>Scorecard</h2>" in text


def test_rows_can_be_named(trained, command):
    shutil.move("test.parquet", "moved.parquet")
    code, _, err = command("report", "runs/tiny", "--data", "moved.parquet")
    assert (code, err) == (0, "")
    assert "100 given rows" in page(trained / "report.html")


def test_named_rows_that_do_not_exist_are_refused(trained, command):
    code, _, err = command("report", "runs/tiny", "--data", "nowhere.parquet")
    assert code == 1
    assert "no such file: 'nowhere.parquet'" in err
    assert not (trained / "report.html").exists()


def test_the_test_part_of_a_source_is_found_again(folder, command):
    text = (folder / "exp.toml").read_text().split("[data]")
    source = 'source = "train.parquet"\nsplit = { by = "user", fractions = [0.6, 0.2, 0.2] }\n'
    rest = text[1].split("[features]", 1)[1]
    (folder / "exp.toml").write_text(f"{text[0]}[data]\n{source}[features]{rest}")
    assert command("train", "exp.toml")[0] == 0
    assert command("report", "runs/tiny")[::2] == (0, "")
    found = page(folder / "runs/tiny/report.html")
    assert "<h2>Calibration</h2>" in found
    assert "have changed" not in found


SCHEMA = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])


def test_a_run_of_fit_over_files_is_found_too(folder, command):
    options = {"epochs": 1, "out": folder / "by-hand"}
    pr.fit(SCHEMA, pr.Model(), train="train.parquet", valid="valid.csv", **options)
    assert command("report", "by-hand")[::2] == (0, "")
    assert "100 valid rows" in page(folder / "by-hand" / "report.html")


def test_rows_that_were_in_memory_are_said_to_be(folder, command):
    rows = pl.read_parquet("train.parquet")
    pr.fit(SCHEMA, pr.Model(), train=rows, valid=rows, epochs=1, out=folder / "by-hand")
    code, _, err = command("report", "by-hand", "--json")
    assert (code, err) == (0, "")
    text = page(folder / "by-hand" / "report.html")
    assert "the run had its valid rows in memory" in text
    assert "was not audited: the run had its training rows in memory, and no file of" in text


def test_a_run_that_scored_nothing_is_shown(folder, command):
    pr.fit(SCHEMA, pr.Model(), train="train.parquet", epochs=1, out=folder / "by-hand")
    code, _, err = command("report", "by-hand")
    assert code == 0
    assert "the run had neither test nor validation rows" in err
    assert command("report", "by-hand", "--data", "test.parquet")[::2] == (0, "")


@pytest.mark.usefixtures("folder")
def test_what_is_no_run_is_refused(command):
    code, _, err = command("report", ".")
    assert code == 1
    assert err == "error: . is no bundle: bundle.json is missing\n"


@pytest.mark.usefixtures("trained")
def test_without_the_extra_it_says_in_one_line_how_to_get_it(command, monkeypatch):
    monkeypatch.setattr("polyrank.report.installed", lambda: False)
    code, out, err = command("report", "runs/tiny")
    assert (code, out) == (1, "")
    assert err == "error: the report needs the extra [report]: pip install 'polyrank[report]'\n"


def test_a_verb_without_a_run_is_wrong_usage():
    assert run(["report"]) == 2
