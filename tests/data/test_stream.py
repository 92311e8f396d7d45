"""A log encoded by chunks is the log encoded whole."""

import logging
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyrank as pr
from polyrank.data import cache, stream
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError
from polyrank.schema import DenseFeature, Keys, Schema, SequenceFeature, SparseFeature, Task
from polyrank.train import sources as sources_module
from polyrank.train.sources import Sources, encoded

SCHEMA = Schema(
    [
        SparseFeature("user", min_count=2), SparseFeature("shop", hash=7),
        SparseFeature("last", shared_with="item"), SparseFeature("item"),
        SequenceFeature("seen", shared_with="item"), SequenceFeature("tags"),
        DenseFeature("price"), DenseFeature("age", encoding="standard"),
    ],
    [Task("click"), Task("buy", given="click"), Task("spent", kind="regression", given="buy")],
    Keys(user="user", time="day", weight="w"),
)  # fmt: skip


def a_log(rows, seed=0, *, orphans=0):
    rng = np.random.default_rng(seed)
    click = rng.integers(0, 2, rows)
    buy = np.where(click == 1, rng.integers(0, 2, rows), 0)
    buy[rng.choice(rows, orphans, replace=False)] = 1
    click[buy == 1] = 1
    if orphans:
        click[rng.choice(np.flatnonzero(buy == 1), orphans, replace=False)] = 0
    missing = rng.random(rows) < 0.1
    return pl.DataFrame(
        {
            "user": pl.Series(rng.integers(0, rows // 3 + 1, rows)).cast(pl.String)
            .set(pl.Series(missing), None),
            "shop": rng.integers(0, 20, rows), "item": rng.integers(0, 30, rows),
            "last": rng.integers(20, 50, rows),
            "seen": [rng.integers(0, 60, n).tolist() for n in rng.integers(0, 5, rows)],
            "tags": [list("abcdef"[:n]) for n in rng.integers(0, 5, rows)],
            "price": np.where(missing, np.nan, rng.normal(size=rows)),
            "age": rng.integers(18, 90, rows), "click": click, "buy": buy,
            "spent": np.where(buy == 1, rng.normal(size=rows), np.nan),
            "w": rng.integers(1, 4, rows).astype(float), "day": np.arange(rows),
            "true_p_click": rng.random(rows),
        }
    )  # fmt: skip


def streamed(folder, frame, chunk, *, orphans="error", numbers=True, keyed=True):
    """Return the vocabulary, and the table as the cache has it."""
    plan = stream.planned(frame, SCHEMA, orphans, "train", chunk)
    vocab = stream.fitted(frame, SCHEMA, plan)

    def write(to):
        return {"train": stream.write_table(
            to, "train", frame, SCHEMA, vocab, plan, orphans=orphans, carried=("day",),
            numbers=numbers, keyed=keyed,
        )}  # fmt: skip

    key = "0" * 32
    cache.store_written(folder, key, vocab, write, [])
    found = cache.load(folder, key, SCHEMA)
    return found.vocab, found.tables["train"]


def assert_equal(one, other):
    for name in ("ids", "dense", "labels", "weight", "extras", "numbers"):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True), name
        assert getattr(one, name).dtype == getattr(other, name).dtype
    for first, second in zip(one.bags, other.bags, strict=True):
        assert np.array_equal(first.ids, second.ids)
        assert np.array_equal(first.offsets, second.offsets)
    assert one.keys.equals(other.keys)
    assert one.carried.equals(other.carried)
    assert {k: v.tolist() for k, v in one.truth.items()} == {
        k: v.tolist() for k, v in other.truth.items()
    }
    assert (one.unseen, one.nulls, one.slices) == (other.unseen, other.nulls, other.slices)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_by_chunks_as_whole(tmp_path, chunk):
    frame = a_log(100 if chunk > 1 else 12)
    vocab, table = streamed(tmp_path, frame, chunk)
    expected = Vocab.fit(frame, SCHEMA)
    assert vocab.states == expected.states
    for name, each in expected.tables.items():
        assert vocab.tables[name].values.equals(each.values)
        assert vocab.tables[name].counts.equals(each.counts)
    assert_equal(table, encode(frame, SCHEMA, expected, carried=("day",), numbers=True))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(20, 90), st.integers(1, 40), st.sampled_from(["drop", "zero"]), st.integers(1, 4)
)
def test_orphans_follow_the_rule_across_chunks(tmp_path_factory, rows, chunk, rule, count):
    frame = a_log(rows, rows, orphans=count)
    _, table = streamed(tmp_path_factory.mktemp("cache"), frame, chunk, orphans=rule)
    expected = Vocab.fit(frame, SCHEMA)
    assert_equal(
        table,
        encode(frame, SCHEMA, expected, orphans=rule, carried=("day",), numbers=True),
    )


def test_orphans_are_told_once_with_the_rows_of_the_log(tmp_path, caplog):
    frame = a_log(90, 3, orphans=4)
    first = int(np.flatnonzero((frame["buy"] == 1) & (frame["click"] == 0))[0])
    with pytest.raises(DataError, match=rf"4 rows with 'buy' = 1 .*: row {first},"):
        stream.planned(frame, SCHEMA, "error", "train", 8)
    with caplog.at_level(logging.WARNING):
        streamed(tmp_path, frame, 8, orphans="drop")
    (record,) = (each for each in caplog.records if "'buy' = 1" in each.getMessage())
    assert "4 rows" in record.getMessage()
    assert f"row {first}," in record.getMessage()


def test_numbers_are_fitted_on_a_sample_of_a_long_log(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "SAMPLE_ROWS", 4_000)
    frame = a_log(20_000)
    vocab, _ = streamed(tmp_path, frame, 3_000)
    mean = vocab.states["age"].parts[0].mean
    whole = float(frame["age"].mean())
    assert mean != whole
    assert abs(mean - whole) < 5 * float(frame["age"].std()) / 4_000**0.5
    again, _ = streamed(tmp_path, frame, 3_000)
    assert again.states == vocab.states


def test_many_distinct_ids_are_added_up_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "DISTINCT", 20)
    frame = a_log(300)
    vocab, _ = streamed(tmp_path, frame, 10)
    expected = Vocab.fit(frame, SCHEMA)
    for name, each in expected.tables.items():
        assert vocab.tables[name].counts.equals(each.counts)
        assert vocab.tables[name].values.equals(each.values)


def test_a_bad_value_is_named_with_where_its_chunk_begins(tmp_path):
    frame = a_log(50).with_columns(
        pl.when(pl.int_range(50) == 33).then(7).otherwise("click").alias("click")
    )
    with pytest.raises(DataError, match=r"click.*must hold.*got 7.*row 0 is here row 32"):
        streamed(tmp_path, frame, 8)


def test_no_rows(tmp_path):
    with pytest.raises(DataError, match="no rows in train"):
        streamed(tmp_path, a_log(10).clear(), 8)


@pytest.fixture
def files(tmp_path):
    for name, seed, rows in (("train", 0, 12_000), ("valid", 1, 1_000), ("test", 2, 1_000)):
        a_log(rows, seed).write_parquet(tmp_path / f"{name}.parquet")
    return {name: tmp_path / f"{name}.parquet" for name in ("train", "valid", "test")}


def test_a_log_that_exceeds_the_memory_is_streamed_and_windowed(
    files, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(stream, "LEAST_CHUNK_ROWS", 700)
    whole, expected = encoded(SCHEMA, Sources(**files), beside=tmp_path / "a")
    with caplog.at_level(logging.INFO):
        sources = Sources(**files, memory="1MiB")
        vocab, tables = encoded(SCHEMA, sources, beside=tmp_path / "b")
    said = " ".join(each.getMessage() for each in caplog.records)
    assert "encoded by chunks" in said
    assert vocab.states == whole.states
    for split in ("valid", "test"):
        assert_equal(tables[split], expected[split])
    assert np.array_equal(tables["train"].ids, expected["train"].ids)

    caplog.clear()
    with caplog.at_level(logging.INFO):
        encoded(SCHEMA, sources, beside=tmp_path / "b")
    assert any("of an earlier run are used" in each.getMessage() for each in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.INFO):  # what a sample was fitted on is not of a log that fits
        encoded(SCHEMA, Sources(**files), beside=tmp_path / "b")
    assert not any("of an earlier run" in each.getMessage() for each in caplog.records)


def test_the_window_is_saved_and_resumed(files, tmp_path, monkeypatch):
    """What is free when a run goes on may be something else than at its start."""
    from polyrank.data import memory

    options = {
        "train": files["train"], "valid": files["valid"], "epochs": 2, "batch_size": 512,
        "orphans": "error", "progress": False,
    }  # fmt: skip
    model = pr.Model(tower=[4], embed_dim=4)
    monkeypatch.setattr(memory, "free", lambda: 2 << 20)
    whole = pr.fit(SCHEMA, model, out=tmp_path / "whole", **options)
    assert "memory = 1048576" in (tmp_path / "whole" / "config.toml").read_text()

    def stop(progress):
        if progress.event == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pr.fit(SCHEMA, model, out=tmp_path / "cut", **{**options, "progress": stop})
    monkeypatch.setattr(memory, "free", lambda: 1 << 40)
    resumed = pr.fit(SCHEMA, model, out=tmp_path / "cut", resume=True, **options)
    rows = pl.read_parquet(files["test"])
    assert resumed.predict(rows).equals(whole.predict(rows))
    other = pr.fit(SCHEMA, model, out=tmp_path / "other", **options)
    assert not other.predict(rows).equals(whole.predict(rows))


def test_rows_that_no_cache_holds_are_said_to_be_in_memory(files, tmp_path, caplog):
    told = "in memory all the same"
    with caplog.at_level(logging.WARNING):
        encoded(SCHEMA, Sources(**files, memory="1MiB"), beside=tmp_path / "a")
    assert told not in caplog.text
    for sources, beside in (
        (Sources(**files, memory="1MiB", cache=False), tmp_path / "b"),
        (Sources(**files, memory="1MiB"), None),
        (Sources(pl.read_parquet(files["train"]), memory="1MiB"), tmp_path / "c"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            encoded(SCHEMA, sources, beside=beside)
        assert caplog.text.count(told) == 1


def test_scores_that_exceed_the_memory_are_told_before_training(files, tmp_path, caplog):
    a_log(4_000, 3).write_parquet(files["test"])
    with caplog.at_level(logging.WARNING):
        encoded(SCHEMA, Sources(**files, memory="1MiB"), beside=tmp_path / "a")
    (told,) = (each for each in caplog.messages if "scores and calibration" in each)
    assert told.startswith("test has 4,000 rows, whose scores and calibration take about 1 MB")


def test_rows_of_a_short_text_file_are_not_counted(tmp_path, monkeypatch):
    """Counting them reads the file once more."""
    counted = []
    count = sources_module.count_rows

    def count_rows(frame):
        counted.append(count(frame))
        return counted[-1]

    monkeypatch.setattr(sources_module, "count_rows", count_rows)
    frame = a_log(6_000).drop("seen", "tags", "true_p_click")
    schema = Schema([each for each in SCHEMA.features if not each.lists], SCHEMA.tasks)
    frame.write_csv(tmp_path / "train.csv")
    sources = Sources(str(tmp_path / "train.csv"), memory="100MiB")
    encoded(schema, sources, beside=tmp_path / "a")
    assert not counted
    encoded(schema, replace(sources, memory="1MiB"), beside=tmp_path / "b")
    assert counted == [6_000]
