"""The audit: each planted fault is found at its severity, and clean logs have none."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import polyrank as pr
from polyrank.data.check import Audit, Finding, check, drawn
from polyrank.data.check.audit import RULES
from polyrank.data.check.columns import coding, stability_index
from polyrank.data.check.one_feature import one_feature_auc
from polyrank.data.read import read
from polyrank.data.stream import LEAST_CHUNK_ROWS
from polyrank.datasets import load
from polyrank.errors import DataError
from polyrank.labels import Ordinal, WatchTime
from polyrank.schema import DenseFeature, Keys, Schema, SequenceFeature, SparseFeature, Task

FEATURES = [
    SparseFeature("user"),
    SparseFeature("item"),
    SparseFeature("shop", hash=50),
    SparseFeature("page", vocab_size=9),
    SparseFeature("last_item", shared_with="item"),
    SequenceFeature("history", shared_with="item"),
    DenseFeature("price"),
    DenseFeature("age", encoding="standard"),
]
TASKS = [
    Task("click"),
    Task("buy", label="purchase", given="click"),
    Task("spend", kind="regression", given="buy"),
]
SCHEMA = Schema(FEATURES, TASKS, Keys(user="user", time="time", weight="w"))
SIZES = {"train": 3000, "valid": 1000, "test": 1000}


def clean(seed=0, sizes=SIZES):
    """A log without a fault: splits that follow each other in time."""
    rng = np.random.default_rng(seed)
    frames, start = {}, 0
    for split, size in sizes.items():
        click = rng.random(size) < 0.3
        buy = click & (rng.random(size) < 0.4)
        history = [rng.integers(0, 40, rng.integers(0, 4)).tolist() for _ in range(size)]
        frames[split] = pl.DataFrame(
            {
                "user": rng.integers(0, 60, size),
                "item": rng.integers(0, 40, size),
                "shop": [f"shop {n}" for n in rng.integers(0, 90, size)],
                "page": rng.integers(0, 9, size),
                "last_item": rng.integers(0, 40, size),
                "history": pl.Series(history, dtype=pl.List(pl.Int64)),
                "price": rng.lognormal(size=size),
                "age": rng.normal(size=size),
                "time": start + np.arange(size),
                "w": rng.random(size),
                "click": click.astype(np.int8),
                "purchase": buy.astype(np.int8),
                "spend": np.where(buy, rng.lognormal(size=size), np.nan),
            }
        )
        start += size
    return frames


def with_feature(feature, change):
    """A fault: one more feature, made of a split's columns."""

    def plant(frames):
        changed = {
            name: frame.with_columns(change(frame).alias(feature.name))
            for name, frame in frames.items()
        }
        return Schema([*FEATURES, feature], TASKS, SCHEMA.keys), changed

    return plant


def with_columns(split, **columns):
    """A fault: columns of one split replaced."""

    def plant(frames):
        frame = frames[split]
        made = {name: make(frame) if callable(make) else make for name, make in columns.items()}
        return SCHEMA, frames | {split: frame.with_columns(**made)}

    return plant


def flipped(column, *, chance=0.01):
    """A column in other words, wrong in a few rows."""

    def change(frame):
        wrong = np.random.default_rng(9).random(frame.height) < chance
        truth = frame[column].to_numpy().astype(bool)
        return pl.Series(np.where(truth ^ wrong, "paid", "open"))

    return change


def told_by_lists(frame):
    return pl.Series([[7, 8] if happened else [8] for happened in frame["click"]])


def duplicated(frames):
    repeated = pl.concat([frames["train"].head(1), frames["test"].slice(1)])
    return SCHEMA, frames | {"test": repeated}


def with_other_times(frames):
    texts = [frame.with_columns(time=pl.lit("31/05/2024 09:30")) for frame in frames.values()]
    return SCHEMA, dict(zip(frames, texts, strict=True))


def reversed_in_time(frames):
    return SCHEMA, frames | {"test": frames["test"].with_columns(pl.col("time") - 10_000)}


def without_row(frames):
    return SCHEMA, frames | {"valid": frames["valid"].clear()}


def without_key(frames):
    return SCHEMA, frames | {"valid": frames["valid"].drop("time")}


FAULTS = {
    "a feature equal to a label": (
        with_feature(SparseFeature("x"), lambda frame: frame["click"].cast(pl.String)),
        ("error", "label-equal", "x", "train"),
    ),
    "a feature equal to a joint label": (
        with_feature(DenseFeature("x"), lambda frame: frame["click"] * frame["purchase"]),
        ("error", "label-equal", "x", "train"),
    ),
    "a feature that is the opposite of a label": (
        with_feature(DenseFeature("x"), lambda frame: 1 - frame["click"]),
        ("error", "label-opposite", "x", "train"),
    ),
    "an id that as good as states a label": (
        with_feature(SparseFeature("x"), flipped("purchase")),
        ("warning", "may-state-label", "x", "train"),
    ),
    "a number that as good as states a label": (
        with_feature(DenseFeature("x"), lambda frame: 5 * frame["click"] + frame["age"]),
        ("warning", "may-state-label", "x", "train"),
    ),
    "a missing number that states a label": (
        with_feature(
            DenseFeature("x"),
            lambda frame: frame["age"].set(frame["click"] == 0, None),
        ),
        ("warning", "may-state-label", "x", "train"),
    ),
    "a sequence that states a label": (
        with_feature(SequenceFeature("x"), told_by_lists),
        ("warning", "may-state-label", "x", "train"),
    ),
    "a child without its parent": (
        with_columns(
            "valid",
            click=lambda frame: frame["click"].scatter(0, 0),
            purchase=lambda frame: frame["purchase"].scatter(0, 1),
        ),
        ("error", "orphans", "purchase", "valid"),
    ),
    "no positives": (
        with_columns("test", purchase=pl.lit(0), spend=pl.lit(None, pl.Float64)),
        ("error", "no-positives", "purchase", "test"),
    ),
    "no negatives": (
        with_columns("valid", click=pl.lit(1)),
        ("error", "no-negatives", "click", "valid"),
    ),
    "no observed labels": (
        with_columns("valid", spend=pl.lit(float("nan"))),
        ("error", "no-labels", "spend", "valid"),
    ),
    "a label of other values": (
        with_columns("valid", purchase=lambda frame: frame["purchase"] * 2),
        ("error", "label-values", "purchase", "valid"),
    ),
    "an infinite number": (
        with_columns("test", price=lambda frame: frame["price"].scatter(3, float("inf"))),
        ("error", "values", "price", "test"),
    ),
    "a text where training has numbers": (
        with_columns("test", price=lambda frame: frame["price"].cast(pl.String)),
        ("error", "values", "price", "test"),
    ),
    "a negative weight": (
        with_columns("train", w=lambda frame: frame["w"].scatter(0, -1)),
        ("error", "values", "w", "train"),
    ),
    "a repeated row": (duplicated, ("warning", "duplicates", None, "test")),
    "splits in the wrong order": (
        reversed_in_time,
        ("error", "time-reversed", "time", "test"),
    ),
    "times whose order is not known": (
        with_other_times,
        ("warning", "time-format", "time", None),
    ),
    "splits that lie among each other": (
        with_columns("test", time=lambda frame: frame["time"] - 2500),
        ("info", "time-interleaved", "time", "test"),
    ),
    "a split without rows": (without_row, ("error", "no-rows", None, "valid")),
    "a key that one split lacks": (without_key, ("warning", "missing-key", "time", "valid")),
    "a constant column": (
        with_feature(SparseFeature("x"), lambda frame: pl.Series(["a"] * frame.height)),
        ("info", "constant", "x", "train"),
    ),
    "a column of nulls": (
        with_feature(DenseFeature("x"), lambda frame: pl.Series([None] * frame.height)),
        ("info", "constant", "x", "train"),
    ),
    "a nearly unique id": (
        with_feature(SparseFeature("x"), lambda frame: pl.Series(range(frame.height))),
        ("info", "nearly-unique", "x", "train"),
    ),
    "drift of a number": (
        with_columns("test", age=lambda frame: frame["age"] + 1),
        ("warning", "drift", "age", "test"),
    ),
    "drift of an id": (
        with_columns("valid", shop=pl.lit("shop 1")),
        ("warning", "drift", "shop", "valid"),
    ),
    "drift of a sequence": (
        with_columns("test", history=lambda frame: pl.Series([[99]] * frame.height)),
        ("warning", "drift", "history", "test"),
    ),
    "nulls": (
        with_columns("train", age=lambda frame: frame["age"].scatter(range(9), None)),
        ("info", "nulls", "age", None),
    ),
}
ALWAYS = {"user-overlap", "loss-scale"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_at_its_severity_and_nothing_else(fault):
    plant, expected = FAULTS[fault]
    schema, frames = plant(clean())
    audit = check(schema, frames)
    found = [(each.severity, each.check, each.column, each.split) for each in audit.findings]
    assert found.count(expected) >= 1, str(audit)
    # Nothing at a higher level than the fault's own, and no other error or warning.
    others = {each for each in found if each[0] != "info"} - {expected}
    assert not others, str(audit)
    assert audit.failed == (expected[0] == "error")


def test_a_clean_log_has_notes_only():
    audit = check(SCHEMA, clean())
    assert {each.check for each in audit.findings} <= ALWAYS
    assert audit.rows == SIZES


@pytest.mark.parametrize("seed", range(20))
def test_synthetic_logs_have_no_error(seed):
    train, valid, test, schema = load("synthetic", rows=20_000, seed=seed)
    audit = check(schema, {"train": train, "valid": valid, "test": test})
    assert not audit.failed, str(audit)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(*[st.integers(60, 400)] * 3),
    splits=st.sampled_from([("train",), ("train", "valid"), ("train", "valid", "test")]),
)
def test_clean_logs_have_no_error(seed, sizes, splits):
    frames = clean(seed, dict(zip(splits, sizes, strict=False)))
    # Rows that cannot miss a class, in any split.
    frames = {
        name: frame.with_columns(
            click=frame["click"].scatter([0, 1, 2], [1, 1, 0]),
            purchase=frame["purchase"].scatter([0, 1, 2], [1, 0, 0]),
            spend=frame["spend"].scatter([0], [2.0]),
        )
        for name, frame in frames.items()
    }
    audit = check(SCHEMA, frames)
    assert not audit.failed, str(audit)


def test_all_faults_are_told_at_once():
    frames = clean()
    plant, _ = FAULTS["no positives"]
    _, frames = plant(frames)
    _, frames = reversed_in_time(frames)
    _, frames = FAULTS["an infinite number"][0](frames)
    checks = {each.check for each in check(SCHEMA, frames).of("error")}
    assert checks == {"no-positives", "time-reversed", "values"}


@pytest.mark.parametrize("orphans", ["drop", "zero", "error"])
def test_the_rule_for_orphans_decides(orphans):
    log = {"x": [1, 2, 3, 4], "click": [0, 1, 1, 0], "purchase": [1, 0, 0, 0]}
    schema = Schema([SparseFeature("x")], TASKS[:2])
    audit = check(schema, {"train": pl.DataFrame(log)}, orphans=orphans)
    found = next(each for each in audit.findings if each.check == "orphans")
    assert found.severity == ("error" if orphans == "error" else "info")
    assert found.numbers["rows"] == 1
    without = next(each for each in audit.findings if each.check == "no-positives")
    assert without.numbers == {"rows": 3 if orphans == "drop" else 4, "positives": 0}


def watched(over):
    rng = np.random.default_rng(4)
    click = (rng.random(400) < 0.6).astype(np.float64)
    duration = rng.uniform(5, 60, 400)
    frame = pl.DataFrame(
        {
            "item": rng.integers(0, 40, 400),
            "click": click,
            "play": np.where(click == 1, rng.uniform(0, 1, 400) * duration, np.nan),
            "duration": duration,
        }
    )
    at = np.flatnonzero(click == 1)
    play, length = frame["play"].to_numpy().copy(), duration.copy()
    play[at[:7]] += length[at[:7]]
    length[at[7:10]], length[at[10:12]] = 0, np.nan
    length[np.flatnonzero(click == 0)] = 0  # no watch time, so nothing to say
    kind = WatchTime(over=over)
    tasks = [Task("click"), Task("play", kind=kind, given="click")]
    frame = frame.with_columns(play=play, duration=length)
    return check(Schema([SparseFeature("item")], tasks), {"train": frame})


@pytest.mark.parametrize(("over", "severity"), [("clip", "info"), ("error", "error")])
def test_watch_time_above_its_duration_and_unknown_durations_are_counted(over, severity):
    found = {each.check: each for each in watched(over).findings}
    above, unknown = found["above-duration"], found["unknown-duration"]
    assert (above.severity, above.numbers["rows"], above.column) == (severity, 7, "duration")
    assert (unknown.severity, unknown.numbers["rows"]) == ("info", 5)
    assert "7 rows of label 'play' (task 'play') with a watch time above the duration" in str(above)
    becomes = "they count as watched to the end, once (over = 'clip')"
    assert (becomes in str(above)) == (over == "clip")


def test_the_scale_of_a_loss_that_the_label_alone_does_not_tell_is_not_guessed():
    found = {each.check: each for each in watched("clip").findings}
    assert "loss-scale" not in found  # the click's is the only one known


def test_levels_that_never_occur_in_training_are_named():
    stars = [1.0, 7.0, 3.0, 9.0] * 20
    log = pl.DataFrame({"item": [1, 2] * 40, "click": [1, 0] * 40, "stars": stars})
    task = Task("stars", kind=Ordinal(values=[1, 2, 3, 5]), given="click")
    schema = Schema([SparseFeature("item")], [Task("click"), task])
    (found,) = check(schema, {"train": log}).of("warning")
    assert (found.severity, found.numbers) == ("warning", {"values": 2, "rows": 40})
    assert "no row of label 'stars' (task 'stars') is 2, 5" in str(found)
    whole = replace(schema, tasks=(schema.tasks[0], replace(task, kind="ordinal")))
    assert not [each for each in check(whole, {"train": log}).findings if "absent" in each.check]


def test_a_duration_that_is_no_number_is_a_finding():
    log = pl.DataFrame({"item": [2, 2], "play": [1.0, 2.0], "duration": ["a", "b"]})
    schema = Schema([SparseFeature("item")], [Task("play", kind="watch_time")])
    (error,) = check(schema, {"train": log}).of("error")
    assert "column 'duration' must hold numbers, got String" in error.message


def test_duplicates_by_coincidence_are_a_note():
    rng = np.random.default_rng(1)
    frames = {
        split: pl.DataFrame({"x": rng.integers(0, 5, size), "click": rng.integers(0, 2, size)})
        for split, size in SIZES.items()
    }
    schema = Schema([SparseFeature("x")], [Task("click")])
    found = [each for each in check(schema, frames).findings if each.check == "duplicates"]
    assert [(each.severity, each.numbers["share"]) for each in found] == [("info", 1.0)] * 2


def twins(frame, *features):
    """The reference: rows whose features, and whose features and labels, occur more than once."""
    labels = [each.column for each in TASKS if each.column in frame.columns]
    texts = frame.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
    names = [each.name for each in features]
    return tuple(int(texts.select(of).is_duplicated().sum()) for of in (names, names + labels))


@pytest.mark.parametrize("seed", range(3))
def test_twins_and_those_that_agree_in_their_labels_are_counted(seed):
    rng = np.random.default_rng(seed)
    size = 2000
    click = rng.integers(0, 2, size)
    frame = pl.DataFrame(
        {
            "item": pl.Series(rng.choice(["a", "b", None], size).tolist(), dtype=pl.String),
            "shop": rng.integers(0, 15, size),
            "history": [rng.integers(0, 2, rng.integers(0, 3)).tolist() for _ in range(size)],
            "age": rng.choice([0.5, 1.5, 2.5, np.nan, 1e6], size),
            "user": rng.integers(0, 9, size),  # a key alone tells no rows apart for a model
            "click": click,
            "purchase": np.where(click == 1, rng.integers(0, 2, size), np.nan),
        }
    )
    features = [
        SparseFeature("item"), SparseFeature("shop"), SequenceFeature("history"),
        DenseFeature("age"),
    ]  # fmt: skip
    schema = Schema(features, TASKS[:2], Keys(user="user"))
    found = next(each for each in check(schema, {"train": frame}).findings if each.check == "twins")
    rows, agreeing = twins(frame, *features)
    assert 0 < agreeing < rows < size
    assert found.numbers == {"rows": rows, "share": rows / size, "agreeing": agreeing}
    assert (found.severity, found.split) == ("info", "train")
    assert f"{rows:,} of 2,000 training rows ({rows / size:.2%}) have a twin" in found.message


@pytest.mark.parametrize(("copies", "told"), [(14, False), (15, True)])
def test_few_twins_are_not_worth_a_note(copies, told):
    frames = clean()
    train = frames["train"].head(3000 - copies)
    frames["train"] = pl.concat([train, train.head(copies)])
    found = [each for each in check(SCHEMA, frames).findings if each.check == "twins"]
    assert [each.numbers["agreeing"] for each in found] == [2 * copies] * told


def test_rows_that_differ_in_an_unreadable_feature_are_no_twins():
    frame = pl.DataFrame({"x": [1] * 50, "y": ["?"] * 50, "click": [0, 1] * 25})
    schema = Schema([SparseFeature("x"), DenseFeature("y")], [Task("click")])
    assert {each.check for each in check(schema, {"train": frame}).findings} == {
        "values", "constant"
    }  # fmt: skip


def test_duplicates_are_found_though_a_later_split_lacks_a_key():
    frames = clean()
    frames["test"] = pl.concat([frames["test"], frames["train"].head(100)]).drop("time")
    found = {finding.check: finding for finding in check(SCHEMA, frames).of("warning")}
    assert found.keys() == {"missing-key", "duplicates"}
    assert found["duplicates"].numbers["rows"] == 100


def test_a_missing_user_is_no_user_whom_training_has_seen():
    frames = clean()
    for split in ("train", "test"):
        nobody = pl.when(pl.int_range(pl.len()) % 2 == 0).then("user")
        frames[split] = frames[split].with_columns(user=nobody)
    frames["test"] = frames["test"].with_columns(
        user=pl.when(pl.int_range(pl.len()) < 10).then(frames["train"]["user"][0])
    )
    found = [each for each in check(SCHEMA, frames).findings if each.check == "user-overlap"]
    numbers = {each.split: each.numbers for each in found}["test"]
    assert numbers == {"rows": 10, "share": 0.01, "users": 1}


def test_rows_of_weight_0_are_no_positives():
    frames = clean()
    frames["train"] = frames["train"].with_columns(w=1 - pl.col("click"))
    found = check(SCHEMA, frames).of("error")
    assert [finding.check for finding in found] == ["no-positives"]
    assert str(found[0].message).startswith(
        "train: 'click @ all' has no positives of weight above 0 (0 positives in "
    )


def test_later_csv_rows_are_compared_with_parquet_rows(tmp_path):
    frames = {name: frame.drop("history") for name, frame in clean().items()}
    _, frames = FAULTS["a repeated row"][0](frames)
    frames["train"].write_parquet(tmp_path / "train.parquet")
    frames["test"].write_csv(tmp_path / "test.csv")
    schema = Schema([each for each in FEATURES if each.name != "history"], TASKS, SCHEMA.keys)
    read_again = {
        "train": read(tmp_path / "train.parquet", schema),
        "test": read(tmp_path / "test.csv", schema),
    }
    audit = check(schema, read_again)
    assert [(each.check, each.numbers["rows"]) for each in audit.of("warning")] == [
        ("duplicates", 1)
    ]
    assert not audit.failed


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({"train": pl.DataFrame({"click": [0, 1]})}, "column 'x' is not in the data"),
        ({"valid": pl.DataFrame({"x": [1]})}, "an audit compares with the training rows"),
        ({"trian": pl.DataFrame({"x": [1]})}, "unknown split 'trian'; did you mean 'train'"),
    ],
)
def test_what_cannot_be_read_is_refused(frames, message):
    with pytest.raises(DataError, match=message):
        check(Schema([SparseFeature("x")], [Task("click")]), frames)


def test_an_unknown_rule_for_orphans_is_refused():
    with pytest.raises(DataError, match="unknown value of orphans: 'zeros'; did you mean 'zero'"):
        check(SCHEMA, clean(), orphans="zeros")


def test_a_log_beyond_the_memory_is_audited_on_rows_drawn_from_it(tmp_path):
    paths = {}
    for split, frame in clean().items():
        paths[split] = tmp_path / f"{split}.parquet"
        frame.write_parquet(paths[split])
    frames = {split: read(path, SCHEMA) for split, path in paths.items()}
    whole = check(SCHEMA, frames)
    assert check(SCHEMA, frames, memory=1 << 30).to_json() == whole.to_json()
    # 5,000 rows of 192 bytes are too many, and 12 columns of 24 bytes come with what is drawn.
    few = check(SCHEMA, frames, memory=480 * 1000)
    assert few.rows["train"] == pytest.approx(600, abs=100)
    assert few.rows["valid"] == pytest.approx(200, abs=60)
    assert check(SCHEMA, frames, memory=480 * 1000).to_json() == few.to_json()
    notes = [each for each in few.findings if each.check == "drawn"]
    assert [each.split for each in notes] == ["train", "valid", "test"]
    assert notes[0].numbers == {"rows": few.rows["train"], "of": 3000}
    rows = few.rows["train"]
    assert notes[0].message.startswith(f"train: {rows} of 3,000 rows were drawn at random")


def test_few_rows_of_text_files_are_in_memory_while_some_are_drawn(tmp_path, monkeypatch):
    frames, held = {}, []
    for split, frame in clean(sizes={"train": 50_000, "valid": 20_000}).items():
        frame.drop("history").write_csv(tmp_path / f"{split}.csv")
        frames[split] = tmp_path / f"{split}.csv"
    schema = Schema([each for each in FEATURES if each.name != "history"], TASKS, SCHEMA.keys)
    plain = drawn.collect_chunks

    def chunks(frame, columns, size):
        for part in plain(frame, columns, size):
            held.append(part.height)
            yield part

    monkeypatch.setattr(drawn, "collect_chunks", chunks)
    audit = check(schema, {k: read(path, schema) for k, path in frames.items()}, memory=1 << 21)
    assert max(held) == LEAST_CHUNK_ROWS
    assert sum(held) == 70_000
    assert sum(audit.rows.values()) * 192 < 1 << 21
    assert not audit.failed


def test_an_audit_without_training_rows_ends_there():
    frames = clean()
    audit = check(SCHEMA, frames | {"train": frames["train"].clear()})
    assert [each.check for each in audit.findings] == ["no-rows"]


def test_json():
    audit = Audit(
        (Finding("info", "a", "b"), Finding("error", "c", "d", "x", "test")), {"train": 1}
    )
    assert json.loads(json.dumps(audit.to_json())) == {
        "findings": [
            {
                "severity": "error", "check": "c", "column": "x", "split": "test", "message": "d",
                "numbers": {}, "remedy": "",
            },
            {
                "severity": "info", "check": "a", "column": None, "split": None, "message": "b",
                "numbers": {}, "remedy": "",
            },
        ],
        "rows": {"train": 1},
    }  # fmt: skip


# ------------------------------------------------------------------------------------ measurements


def scores_out_of_fold(codes, label):
    """The same in plain loops."""
    folds = np.random.default_rng(5).integers(0, 5, len(label), dtype=np.uint8)
    scores = np.empty(len(label))
    for row, code in enumerate(codes):
        same = (codes == code) & (folds != folds[row])
        scores[row] = (label[same].sum() + label.mean()) / (same.sum() + 1)
    return scores


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_one_feature_auc_is_that_of_plain_loops(seed, values):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, values, 200).astype(np.int32)
    label = rng.random(200) < rng.random(values)[codes]
    label[:2] = [True, False]
    expected = roc_auc_score(label, np.round(scores_out_of_fold(codes, label), 10))
    assert one_feature_auc(codes, label) == pytest.approx(expected, abs=1e-9)
    # lists of one element are the same feature
    as_lists = one_feature_auc(codes, label, np.arange(201))
    assert as_lists == pytest.approx(expected, abs=1e-9)


def test_empty_lists_know_nothing():
    label = np.array([True, False] * 50)
    assert one_feature_auc(np.empty(0, np.int32), label, np.zeros(101, np.int64)) == 0.5


def test_the_stability_index_of_one_distribution_is_noise():
    rng = np.random.default_rng(3)
    share = rng.dirichlet(np.full(11, 5.0))
    pairs = [
        stability_index(rng.multinomial(4000, share), rng.multinomial(500, share))
        for _ in range(2000)
    ]
    index, noise = np.array(pairs).T
    free = 10
    assert index.mean() == pytest.approx((1 / 4000 + 1 / 500) * free, rel=0.1)
    assert (index > noise).mean() < 0.02


def test_the_stability_index_sums_over_bins_with_half_a_row_added():
    index, noise = stability_index(np.array([500, 500]), np.array([800, 200]))
    q = 800.5 / 1001
    assert index == pytest.approx((q - 0.5) * np.log(q / 0.5) + (0.5 - q) * np.log((1 - q) / 0.5))
    assert noise == pytest.approx(2 / 1000 * (1 + 3 * np.sqrt(2)))
    assert stability_index(np.array([1, 1]), np.zeros(2)) == (0, 0)


def test_drift_is_measured_in_coarse_bins():
    ids = coding(SparseFeature("x"), pl.Series("x", range(30)))
    (counts,) = ids.bins(np.array([3, *[2] * 30]))
    assert counts.tolist() == [*[2] * 20, 3 + 2 * 10]
    numbers = coding(DenseFeature("x"), pl.Series("x", [float(each) for each in range(20)]))
    fine, later = np.array([7, *[1] * 20]), np.array([0, *[0] * 18, 4, 5])
    train_counts, later_counts = numbers.bins(fine, later)
    assert train_counts.tolist() == [7, *[2] * 10]
    assert later_counts.tolist() == [*[0] * 10, 9]


def test_the_page_lists_every_rule_with_its_severity():
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    listed = {
        check: severity
        for checks, severity in re.findall(r"^\| (`.+?`) \| (\w+) \|", page, re.M)
        for check in re.findall(r"`([\w-]+)`", checks)
    }
    assert listed == {check: severity for check, (severity, _) in RULES.items()}


def in_time(rows=4_000, *, late_s=0.0, trend=0.0, seed=0):
    """Thirty days of clicks and purchases, of which those not yet here are missing."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(0, 30 * 86_400, rows))
    click = rng.random(rows) < 0.6
    rate = 0.4 * (1 + trend * (time / time[-1] - 0.5))
    buy = click & (rng.random(rows) < rate) & (time + rng.exponential(1, rows) * late_s <= time[-1])
    return pl.DataFrame(
        {"item": rng.integers(0, 5, rows), "time": time, "click": click.astype(int),
         "buy": buy.astype(int), "buy_time": np.where(buy, time, np.nan)}
    )  # fmt: skip


def cold(frame, **task):
    tasks = [pr.Task("click"), pr.Task("buy", given="click", **task)]
    own = pr.Schema([pr.SparseFeature("item")], tasks, pr.Keys(time="time"))
    found = check(own, {"train": frame}).findings
    return [each for each in found if each.check == "cold-end"]


def test_a_log_whose_newest_rows_are_too_cold_is_warned_of():
    (found,) = cold(in_time(late_s=3 * 86_400))
    assert found.severity == "warning"
    assert found.column == "buy"
    assert found.numbers["rate"] < 0.25 < 0.35 < found.numbers["earlier"]
    assert "the last tenth of the rows in time has 'buy|click' in 0." in found.message
    assert "give its task a delay" in found.remedy
    late = pr.DelayMask(time="buy_time", window="7d")
    assert cold(in_time(late_s=3 * 86_400), delay=late) == []
    text = in_time(late_s=3 * 86_400).with_columns(pl.lit("noon").alias("time"))
    assert cold(text) == []  # `time-format` says so


@pytest.mark.parametrize("trend", [-0.4, 0.0, 0.4])
def test_a_log_that_only_drifts_is_not_cold(trend):
    found = [cold(in_time(trend=trend, seed=seed)) for seed in range(10)]
    assert sum(map(bool, found)) == 0
    assert cold(in_time(60, late_s=3 * 86_400)) == []


@pytest.mark.parametrize("dtype", [pl.Int64, pl.String])
def test_a_position_that_is_not_served_is_told(dtype):
    rng = np.random.default_rng(3)
    position = rng.integers(1, 6, 4000)
    frame = pl.DataFrame(
        {
            "item": rng.integers(0, 40, 4000),
            "position": pl.Series(position).cast(dtype),
            "slot": rng.integers(1, 6, 4000),  # goes with nothing
            "rank": rng.random(4000) / position,  # is no whole number
            "click": (rng.random(4000) < 0.4 / position).astype(int),
        }
    )

    def found(*features):
        schema = Schema([SparseFeature("item"), *features], [Task("click")])
        findings = check(schema, {"train": frame}).findings
        return [each for each in findings if each.check.startswith("position")]

    (one,) = found()
    assert (one.check, one.severity, one.column) == ("position-no-feature", "warning", "position")
    expected = np.corrcoef(position, frame["click"])[0, 1]
    assert one.numbers["correlation"] == pytest.approx(expected, rel=1e-12)
    assert "column 'position' looks like a position, goes with 'click'" in one.message
    assert "serving = 1" in one.remedy
    (two,) = found(SparseFeature("position"))
    assert two.check == "position-not-served"
    assert not found(SparseFeature("position", serving=1))
