"""What is guessed of made-up logs of unlike shapes, and what is refused."""

import re

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.errors import DataError
from polyrank.proposal import propose
from polyrank.proposal.files import sources
from polyrank.proposal.propose import infer

ROWS = 600


def funnel(rows=ROWS):
    random = np.random.default_rng(1)
    click = (random.random(rows) < 0.3).astype(int)
    return pl.DataFrame(
        {
            "impression_id": np.arange(rows),
            "request_id": np.arange(rows) // 6,
            "user_id": random.integers(0, 40, rows),
            "item_code": random.choice(["a", "b", "c"], rows),
            "price": random.lognormal(size=rows).round(2),
            "position": np.arange(rows) % 6,
            "country": ["x"] * rows,
            "stated": np.where(click, "yes", "no"),
            "click": click,
            "buy": click * (random.random(rows) < 0.4),
            "true_p_click": random.random(rows),
            "event_time": 1_700_000_000 + np.arange(rows),
        }
    )


def stars(rows=ROWS):
    random = np.random.default_rng(2)
    return pl.DataFrame(
        {
            "userId": random.integers(1, 40, rows),
            "movieId": random.integers(1, 200, rows),
            "rating": random.integers(1, 6, rows),
            "timestamp": 900_000_000 + np.arange(rows),
            "seen": [[1, 2], [3]] * (rows // 2),
        }
    )


def amounts(rows=ROWS):
    """Every kind of outcome that is no event."""
    random = np.random.default_rng(4)
    click = random.random(rows) < 0.5
    buy = click & (random.random(rows) < 0.5)
    length = random.integers(5, 60, rows)
    return pl.DataFrame(
        {
            "item_id": random.integers(0, 30, rows),
            "length_s": length,
            "past_spend": random.lognormal(size=rows),
            "click": click.astype(int),
            "buy": buy.astype(int),
            "pieces": buy * random.poisson(2.0, rows),
            "revenue": np.where(buy, random.lognormal(size=rows), 0.0),
            "refund": np.where(click, random.normal(size=rows), 0.0),
            "watched_s": (length * random.random(rows)).round(1),
            "dwell_time": random.lognormal(size=rows),
        }
    )


def messy(rows=ROWS):
    random = np.random.default_rng(3)
    return pl.DataFrame(
        {
            "用户编号": random.integers(0, 30, rows),
            "title, with comma": random.choice(['say "hi", you', "plain"], rows),
            "价格": [None if each < 0.1 else float(each) for each in random.random(rows)],
            "mixed": random.choice(["1", "2", "N/A"], rows),
            "日期": [f"2024-05-{1 + place * 28 // rows:02d}" for place in range(rows)],
            "copy": ["k", "l", "m"] * (rows // 3),
            "copy again": ["k", "l", "m"] * (rows // 3),
            "nothing": [None] * rows,
            "是否点击": (random.random(rows) < 0.4).astype(int),
        },
        strict=False,
    )


def kinds(found):
    return {feature.name: feature.kind for feature in found.schema.features}


def test_how_long_an_outcome_took_is_no_feature_and_no_label():
    log = funnel()
    buy = log["buy"].to_numpy() == 1
    took = np.random.default_rng(3).exponential(100, log.height)
    log = log.with_columns(
        buy_delay_s=pl.Series(np.where(buy, took.round(), np.nan)).fill_nan(None),
        elapsed_s=pl.Series(took),
        avg_delay=pl.Series(took),  # of the past
    )
    found = infer(log)
    assert "avg_delay" in kinds(found)
    assert not {"buy_delay_s", "elapsed_s"} & {*kinds(found), *(t.name for t in found.schema.tasks)}
    assert found.left_out["buy_delay_s"] == "dense"
    assert "its name says 'delay': how long" in found.reasons["buy_delay_s"]
    assert "its name says 'elapsed'" in found.reasons["elapsed_s"]


def test_a_funnel():
    found = infer(funnel())
    assert kinds(found) == {"user_id": "sparse", "item_code": "sparse", "price": "dense"}
    assert [(task.name, task.given) for task in found.schema.tasks] == [
        ("click", None),
        ("buy", "click"),
    ]
    keys = found.schema.keys
    assert (keys.user, keys.request, keys.time) == ("user_id", "request_id", "event_time")
    assert found.by == "time"
    assert "not known when rows are ranked" in found.reasons["position"]
    assert "known truth" in found.reasons["true_p_click"]
    assert "one value" in found.reasons["country"]
    assert "distinct ids" in found.reasons["impression_id"]
    assert "may state the label" in found.reasons["stated"]


def test_a_column_named_user_is_the_user_and_a_device_is_not():
    log = funnel().rename({"user_id": "Customer"}).with_columns(device=pl.col("item_code"))
    found = infer(log)
    assert found.schema.keys.user == "Customer"
    few = log.with_columns(Customer=pl.col("Customer") % 3)
    assert infer(few).schema.keys.user is None


def test_a_key_that_no_column_looks_like_is_named_with_what_needs_it():
    text = infer(funnel().drop("user_id", "event_time")).to_toml({"source": "log.csv"}, "e")
    assert "[keys]\nrequest" in text
    assert '\n# user = "COLUMN"  # no column looks like one; gauc, and intervals' in text
    assert '\n# time = "COLUMN"  # no column looks like one; a split by time' in text
    bare = infer(funnel().drop("user_id", "event_time", "request_id"))
    assert '\n# [keys]\n# user = "COLUMN"' in bare.to_toml({"source": "log.csv"}, "e")


def test_a_parent_that_a_few_orphans_contradict_is_named(tmp_path):
    log = funnel().drop("stated")
    bought = log["buy"].arg_max()
    click = log["click"].to_list()
    click[bought] = 0
    log = log.with_columns(click=pl.Series(click))
    log.write_csv(tmp_path / "log.csv")
    text = infer(log).to_toml({"source": str(tmp_path / "log.csv")}, "e")
    line = next(each for each in text.splitlines() if each.startswith('# given = "click"'))
    assert re.search(r"# in (\d+) of (\d+) rows with it 'click' is 1; for the others say", line)
    edited = text.replace(line, line[2:]).replace("[data]", '[data]\norphans = "drop"', 1)
    assert Experiment.from_text(edited).schema.by_name["buy"].given == "click"
    assert "nearly" not in str(infer(log))


def test_numbers_in_text_say_what_keeps_them_from_being_numbers():
    log = funnel()
    price = log["price"].cast(pl.String)
    missing = pl.Series(["NA", *price[1:]])
    comma = price.str.replace(".", ",", literal=True)
    found = infer(log.with_columns(price=missing, cost=comma, word=pl.lit("1,x")))
    assert kinds(found)["price"] == kinds(found)["cost"] == "sparse"
    assert found.reasons["price"].endswith(
        "; numbers but for 'NA': if it is one, leave these fields empty"
    )
    assert re.search(
        r"; numbers but for commas, as in '\d+,\d+': if it is one, write 1234\.5$",
        found.reasons["cost"],
    )
    assert "numbers" not in found.reasons["item_code"]


def test_ratings_are_levels_and_lists_are_sequences():
    found = infer(stars())
    assert [(task.name, task.kind) for task in found.schema.tasks] == [("rating", "ordinal")]
    assert kinds(found) == {"userId": "sparse", "movieId": "sparse", "seen": "sequence"}
    assert (found.schema.keys.user, found.by) == ("userId", "time")


def test_a_messy_log():
    found = infer(messy())
    assert [task.name for task in found.schema.tasks] == ["是否点击"]
    assert kinds(found) == {
        "用户编号": "sparse",
        "title, with comma": "sparse",
        "mixed": "sparse",
        "copy": "sparse",
        "价格": "dense",
    }
    assert found.reasons["copy again"] == "equals 'copy' in all rows"
    assert found.reasons["nothing"] == "no value in any row"
    assert found.schema.keys.time == "日期"


def test_what_is_never_there_without_an_event_is_its_outcome():
    frame = (
        funnel()
        .rename({"buy": "x7"})
        .with_columns(spent=pl.when(pl.col("click") == 1).then(pl.col("price")).otherwise(0))
    )
    found = infer(frame)
    assert [(task.name, task.given) for task in found.schema.tasks][1] == ("x7", "click")
    assert found.schema.tasks[2] == pr.Task("spent", kind="lognormal", given="click")
    assert "without 'click'" in found.reasons["spent"]


def test_numbers_that_are_outcomes_have_a_kind():
    found = infer(amounts())
    assert found.schema.tasks[2:] == (
        pr.Task("watched_s", kind=pr.WatchTime(duration="length_s")),
        pr.Task("dwell_time", kind=pr.Regression(transform="log1p")),
        pr.Task("pieces", kind="count", given="buy"),
        pr.Task("revenue", kind="lognormal", given="buy"),
    )
    assert kinds(found) == {"item_id": "sparse", "length_s": "dense", "past_spend": "dense"}
    assert "an outcome" in found.reasons["refund"]  # below 0 too: no kind is sure of it


def test_a_watch_time_needs_a_column_that_bounds_it():
    found = infer(amounts().with_columns(length_s=pl.col("length_s") / 100))
    assert "watched_s" in kinds(found)


def test_a_task_has_an_identifier_and_its_column_is_the_label():
    found = infer(funnel().rename({"click": "is click?", "buy": "bought"}))
    assert [(task.name, task.label) for task in found.schema.tasks] == [
        ("is_click_", "is click?"),
        ("bought", "bought"),
    ]


def test_a_large_log_is_looked_at_in_blocks(monkeypatch):
    monkeypatch.setattr(propose, "SAMPLE_ROWS", 300)
    monkeypatch.setattr(propose, "BLOCKS", 3)
    found = infer(funnel())
    assert (found.rows, found.of) == (300, 600)
    assert found == infer(funnel())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("log", "suffix"),
    [(funnel, "csv"), (messy, "csv"), (stars, "parquet"), (amounts, "parquet")],
)
def test_from_a_file_to_a_report_without_an_edit(log, suffix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = f"log.{suffix}"
    (log().write_csv if suffix == "csv" else log().write_parquet)(path)
    assert run(["init", path, "--out", "e.toml"]) == 0
    assert "next:    polyrank train e.toml" in capsys.readouterr().out
    written, found = Experiment.load("e.toml").schema, pr.infer(path).schema
    assert (written.features, written.keys) == (found.features, found.keys)
    read, proposed = (
        [(each.name, each.label, each.label_kind, each.given) for each in schema.tasks]
        for schema in (written, found)
    )
    assert read == proposed
    for verb in (["check", "e.toml"], ["train", "e.toml", "--set", "train.epochs=1"]):
        assert run(verb) == 0, capsys.readouterr().err
    assert run(["report", "runs/e"]) == 0, capsys.readouterr().err
    assert run(["init", path, "--out", "e.toml"]) == 1
    assert "e.toml exists" in capsys.readouterr().err


def test_files_are_splits_by_their_names(tmp_path):
    for name in ("train", "valid", "test"):
        funnel().write_parquet(tmp_path / f"{name}.parquet")
    assert list(sources([str(tmp_path)])) == ["train", "valid", "test"]
    (tmp_path / "test.parquet").rename(tmp_path / "more.parquet")
    assert sources([str(tmp_path)]) == {"source": str(tmp_path / "*.parquet")}


@pytest.mark.parametrize(
    ("frame", "labels", "message"),
    [
        ({"item": [], "click": []}, (), "the log has no rows"),
        ({"item": ["a", "b"], "sex": [0, 1]}, (), r"0/1 columns are 'sex'.*--label sex"),
        ({"item": ["a", "b"]}, (), "no column could be a label: none holds 0 and 1"),
        ({"item": ["a", "b"], "click": [0, 0]}, (), "'click': one class only, in 2 rows"),
        ({"item": ["a", "b"]}, ("itme",), "label 'itme' is no column .* did you mean 'item'"),
        ({"item": ["a", "b"]}, ("item",), "label 'item' must hold both 0 and 1, got 'a', 'b'"),
        ({"one": [1, 1], "click": [0, 1]}, (), "no column is left as a feature: 'one'"),
        (
            {"item": ["a", "b"], "clicked": ["no", "Yes"], "bought": ["no", "Yes"]},
            (),
            r"no column holds 0 and 1, as a label does; 'clicked', 'bought' could be labels: write "
            r"'Yes' as 1 .*\(polars.col\('clicked', 'bought'\) == 'Yes'\).cast\(int\)",
        ),
        (
            {"item": ["a", "b"], "x": ["f", "t"]},
            ("x",),
            r"got 'f', 't': write 't' as 1 and the oth",
        ),
        (
            {"item": ["a", "b"], "click": [1, None]},
            (),
            r"'click': one value or null, in 2 rows; .* write 0 where it did not happen, such as .*"
            r"polars.col\('click'\).fill_null\(0\)",
        ),
    ],
)
def test_what_cannot_be_guessed_is_said(frame, labels, message):
    with pytest.raises(DataError, match=message):
        infer(frame, labels=labels)


def test_outcomes_and_times_in_other_words_are_no_features():
    rows = funnel()
    happened = pl.when(pl.col("buy") == 1)
    written = rows.with_columns(
        pl.from_epoch("event_time").dt.strftime("%d.%m.%Y %H:%M:%S"),
        happened.then(pl.lit("yes")).otherwise(pl.lit("no")).alias("buy"),
        happened.then(pl.lit("sent")).alias("delivery"),
        happened.then(1).alias("purchase"),
    )
    found = infer(written)
    assert [task.name for task in found.schema.tasks] == ["click"]
    assert not {"buy", "event_time", "delivery", "purchase"} & {*kinds(found)}
    assert found.by == "random"
    assert "write 'yes' as 1" in found.reasons["buy"]
    assert "not ISO 8601, such as 2026-05-31 09:30" in found.reasons["event_time"]
    assert "one value or null" in found.reasons["delivery"]
    assert "write 0 where it did not happen" in found.reasons["purchase"]


def test_what_is_no_log_is_said(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        sources([str(tmp_path / "no.csv")])
    with pytest.raises(DataError, match=r"is a folder without a \.parquet"):
        sources([str(tmp_path)])
    (tmp_path / "a.csv").touch()
    with pytest.raises(DataError, match="is empty"):
        sources([str(tmp_path / "a.csv")])
    for name in ("a.csv", "b.csv"):
        funnel().write_csv(tmp_path / name)
    with pytest.raises(DataError, match=r"2 logs, got .*: give one folder or glob"):
        sources([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])
    stars().write_parquet(tmp_path / "c.parquet")
    with pytest.raises(DataError, match="several kinds of log"):
        sources([str(tmp_path)])


def test_init_without_a_log_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["init"]) == 1
    assert "init needs a log: polyrank init LOG" in capsys.readouterr().err


def test_a_proposal_shows_what_each_column_is_and_why():
    found = infer(funnel())
    lines = [re.split(r"  +", line, maxsplit=2) for line in str(found).splitlines()]
    shown = {line[0]: line[1:] for line in lines if len(line) == 3}
    assert shown["user_id"] == ["sparse, user", found.reasons["user_id"]]
    assert shown["buy"] == ["binary task given click", found.reasons["buy"]]
    assert shown["true_p_click"] == ["left out", found.reasons["true_p_click"]]
    assert str(found.schema.objective) in str(found)
    assert "rows have it" in found.reasons["click"]
    html = found._repr_html_()
    assert "<td>left out</td>" in html
    assert found.schema.objective._repr_html_() in html


def test_what_is_left_out_is_one_edit_away():
    text = infer(funnel()).to_toml({"source": 'a "b".csv'}, "x")
    back = Experiment.from_text(text.replace('# "position"', '"position"'))
    assert "position" in {feature.name for feature in back.schema.features}
    assert back.data.source.endswith('a "b".csv')
