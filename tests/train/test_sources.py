"""From sources to tables, by way of the cache beside a run."""

import logging
import os
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.config import Data, Experiment, Split
from polyrank.data import cache
from polyrank.data import split as splitting
from polyrank.data.table_files import ArrayFile
from polyrank.train import sources as module
from polyrank.train.sources import Sources, encoded

HIT, KEPT = "encoded rows of an earlier run are used", "are cached for the next run"
SCHEMA = pr.Schema(
    [pr.SparseFeature("item"), pr.DenseFeature("price")],
    [pr.Task("click"), pr.Task("buy", given="click", space="all")],
)


@pytest.fixture(autouse=True)
def info(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "data" / "log.parquet"
    path.parent.mkdir()
    frame().write_parquet(path)
    return path


def frame(seed=0):
    random = np.random.default_rng(seed)
    click = random.integers(0, 2, 400)
    return pl.DataFrame(
        {
            "item": random.integers(0, 30, 400),
            "price": random.random(400),
            "click": click,
            "buy": click * random.integers(0, 2, 400),
        }
    )


def outcome(caplog, *arguments, **options):
    """Encode; return the tables, and whether the cache had them."""
    caplog.clear()
    tables = encoded(*arguments, **options)[1]
    return tables, HIT in caplog.text


def test_the_second_time_is_from_the_cache(log, tmp_path, caplog):
    first, hit = outcome(caplog, SCHEMA, Sources(log, valid=str(log)), beside=tmp_path / "runs")
    assert not hit
    assert KEPT in caplog.text
    second, hit = outcome(caplog, SCHEMA, Sources(log, valid=str(log)), beside=tmp_path / "runs")
    assert hit
    for split in ("train", "valid"):
        assert np.array_equal(first[split].ids, second[split].ids)
        assert np.array_equal(first[split].labels, second[split].labels)


def test_the_same_content_in_another_place_is_the_same(log, tmp_path, caplog):
    outcome(caplog, SCHEMA, Sources(log), beside=tmp_path / "runs")
    moved = log.rename(tmp_path / "moved.parquet")
    assert outcome(caplog, SCHEMA, Sources(moved), beside=tmp_path / "runs")[1]
    os.utime(moved)
    assert outcome(caplog, SCHEMA, Sources(moved), beside=tmp_path / "runs")[1]


def test_other_content_of_equal_size_and_time_is_noticed(tmp_path, caplog):
    path = tmp_path / "log.csv"
    frame().write_csv(path)
    times, size = path.stat(), path.stat().st_size
    before, _ = outcome(caplog, SCHEMA, Sources(path), beside=tmp_path / "runs")
    text = path.read_text()
    head, rest = text.split("\n", 1)
    path.write_text("\n".join([head, *reversed(rest.rstrip("\n").split("\n"))]) + "\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (size, times.st_mtime_ns)
    after, hit = outcome(caplog, SCHEMA, Sources(path), beside=tmp_path / "runs")
    assert not hit
    assert np.array_equal(before["train"].labels[::-1], after["train"].labels)


@pytest.mark.parametrize(
    ("schema", "options"),
    [
        (pr.Schema([pr.SparseFeature("item", min_count=3)], SCHEMA.tasks), {}),
        (SCHEMA, {"orphans": "drop"}),
        (SCHEMA, {"valid": True}),
    ],
)
def test_other_options_are_another_entry(log, tmp_path, caplog, schema, options):
    outcome(caplog, SCHEMA, Sources(log), beside=tmp_path)
    options = {name: log if value is True else value for name, value in options.items()}
    assert not outcome(caplog, schema, Sources(log, **options), beside=tmp_path)[1]
    assert outcome(caplog, schema, Sources(log, **options), beside=tmp_path)[1]


def test_files_are_told_apart_by_split_and_order(log, tmp_path, caplog):
    other = log.with_name("other.parquet")
    frame(1).write_parquet(other)
    for train, valid in ((log, other), (other, log), (log.with_name("*.parquet"), log)):
        assert not outcome(caplog, SCHEMA, Sources(train, valid), beside=tmp_path)[1]


def test_warnings_and_counts_come_with_a_warm_start(tmp_path, caplog):
    path = tmp_path / "log.parquet"
    rows = frame().with_columns(pl.lit(None, pl.Float64).alias("price"))
    rows = rows.with_columns(pl.lit(1).alias("buy"))
    rows.write_parquet(path)
    frame(1).with_columns(item=pl.col("item") + 20).write_parquet(tmp_path / "valid.parquet")
    sources = Sources(path, tmp_path / "valid.parquet", orphans="zero")
    lines = []
    for expected in (False, True):
        _, hit = outcome(caplog, SCHEMA, sources, beside=tmp_path / "runs")
        assert hit is expected
        lines.append({r.getMessage() for r in caplog.records if r.name != module.__name__})
    assert lines[0] == lines[1]
    shown = "\n".join(lines[1])
    for part in ("'buy' set to 0", "has no value in training", "unseen or rare", "nulls"):
        assert part in shown


def test_orphans_of_all_splits_are_one_warning(tmp_path, caplog):
    schema = pr.Schema(
        [pr.SparseFeature("item")], [pr.Task("click"), pr.Task("buy", given="click", space="all")]
    )
    rows = {"item": [1, 2, 3], "click": [0, 1, 1], "buy": [1, 0, 1]}
    pl.DataFrame(rows).write_parquet(path := tmp_path / "rows.parquet")
    for _ in range(2):  # encoded, and from the cache
        caplog.clear()
        encoded(schema, Sources(str(path), str(path), rows, orphans="drop"))
        encoded(schema, Sources(str(path), str(path), orphans="drop"), beside=tmp_path)
        found = [each.getMessage() for each in caplog.records if "'buy' = 1" in each.getMessage()]
        assert [text.count("'buy' = 1 where 'click' = 0: dropped") for text in found] == [3, 2]
        assert [line.split(":")[0] for line in found[0].split("\n")] == [
            "train",
            "  valid",
            "  test",
        ]


def test_frames_are_not_kept(tmp_path, caplog):
    for source in (frame(), frame().lazy(), frame().to_dict(as_series=False)):
        encoded(SCHEMA, Sources(source), beside=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert KEPT not in caplog.text


def test_raw_numbers_are_another_entry_of_the_cache(log, tmp_path, caplog):
    without, _ = outcome(caplog, SCHEMA, Sources(log), beside=tmp_path / "runs")
    sources = Sources(log, numbers=True)
    first, hit = outcome(caplog, SCHEMA, sources, beside=tmp_path / "runs")
    assert not hit
    second, hit = outcome(caplog, SCHEMA, sources, beside=tmp_path / "runs")
    assert hit
    expected = frame()["price"].cast(pl.Float32).to_numpy()[:, None]
    for each in (first, second):
        np.testing.assert_array_equal(each["train"].numbers, expected, strict=True)
    assert without["train"].numbers.shape == (400, 0)
    other = first["train"].numbers + np.float32(1)
    changed = {"train": replace(first["train"], numbers=other)}
    vocab = encoded(SCHEMA, sources)[0]
    assert module.fingerprint(vocab, changed) != module.fingerprint(vocab, first)


def test_fewer_splits_of_one_source_are_another_entry_of_the_cache(log, tmp_path, caplog):
    parts = splitting.split(frame(), "random", seed=1)
    whole = Sources(*parts, origin=(str(log), ["random", 1]))
    for sources in (whole, replace(whole, test=None)):
        for expected in (False, True):
            tables, hit = outcome(caplog, SCHEMA, sources, beside=tmp_path / "runs")
            assert hit is expected
            assert list(tables) == list(sources.splits)


def test_nothing_is_kept_where_the_cache_is_off(log, tmp_path):
    encoded(SCHEMA, Sources(log, cache=False), beside=tmp_path / "runs")
    encoded(SCHEMA, Sources(log))
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_a_warning(log, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    tables, _ = outcome(caplog, SCHEMA, Sources(log), beside=tmp_path / "file")
    assert len(tables["train"]) == 400
    assert "are not cached for the next run" in caplog.text


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_a_warning(log, tmp_path, caplog):
    (tmp_path / "runs").mkdir(mode=0o500)
    tables, _ = outcome(caplog, SCHEMA, Sources(log), beside=tmp_path / "runs")
    assert len(tables["train"]) == 400
    assert "are not cached for the next run" in caplog.text


def test_a_full_disk_is_a_warning(log, tmp_path, caplog, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ArrayFile, "append", full)
    tables, _ = outcome(caplog, SCHEMA, Sources(log), beside=tmp_path / "runs")
    assert len(tables["train"]) == 400
    assert "are not cached for the next run: [Errno 28]" in caplog.text
    names = {path.name for path in (tmp_path / "runs" / cache.NAME).iterdir()}
    assert names == {".gitignore", "files.json"}


def test_damage_is_repaired(log, tmp_path, caplog):
    outcome(caplog, SCHEMA, Sources(log), beside=tmp_path)
    (file,) = (tmp_path / cache.NAME).glob("*/train.labels.npy")
    file.write_bytes(file.read_bytes()[:-4])
    assert not outcome(caplog, SCHEMA, Sources(log), beside=tmp_path)[1]
    assert "is damaged (train.labels.npy is not what was written)" in caplog.text
    assert outcome(caplog, SCHEMA, Sources(log), beside=tmp_path)[1]


def test_rows_that_change_while_they_are_read_are_not_kept(log, tmp_path, caplog, monkeypatch):
    original = module.check_leaks

    def touching(*arguments):
        original(*arguments)
        os.utime(log)

    monkeypatch.setattr(module, "check_leaks", touching)
    outcome(caplog, SCHEMA, Sources(log), beside=tmp_path)
    assert KEPT not in caplog.text


@pytest.mark.parametrize("name", ["log.parquet", "log.csv"])
def test_a_split_source_is_kept_and_told_by_its_split(tmp_path, caplog, name):
    rows = frame()
    (rows.write_parquet if name.endswith("parquet") else rows.write_csv)(tmp_path / name)
    first = Data(source=str(tmp_path / name), split=Split(fractions=(0.8, 0.2, 0.0)))
    tables, hit = outcome(caplog, SCHEMA, first.sources(SCHEMA, 0), beside=tmp_path)
    again, warm = outcome(caplog, SCHEMA, first.sources(SCHEMA, 0), beside=tmp_path)
    assert (hit, warm) == (False, True)
    assert np.array_equal(tables["valid"].ids, again["valid"].ids)
    assert not outcome(caplog, SCHEMA, first.sources(SCHEMA, 1), beside=tmp_path)[1]
    other = Data(source=str(tmp_path / name), split=Split(fractions=(0.5, 0.5, 0.0)))
    assert not outcome(caplog, SCHEMA, other.sources(SCHEMA, 0), beside=tmp_path)[1]


def test_training_from_the_cache_gives_the_same_bits(log, tmp_path, caplog):
    valid = log.with_name("valid.parquet")
    frame(1).write_parquet(valid)

    def train(out, **options):
        caplog.clear()
        return pr.fit(
            SCHEMA, pr.ESMM(tower=[4]), train=log, valid=valid, epochs=2, batch_size=64,
            out=out, **options,
        )  # fmt: skip

    cold = train(tmp_path / "runs" / "cold")
    assert KEPT in caplog.text
    warm = train(tmp_path / "runs" / "warm")
    assert HIT in caplog.text
    off = train(tmp_path / "runs" / "off", cache=False)
    assert HIT not in caplog.text
    for bundle in (warm, off):
        assert bundle.scorecard == cold.scorecard
        assert bundle.predict(valid).equals(cold.predict(valid))
    again = train(tmp_path / "runs" / "warm", resume=True)
    assert HIT in caplog.text
    assert again.predict(valid).equals(cold.predict(valid))


def test_an_experiment_may_do_without(tmp_path, log):
    text = f"""
        [data]
        train = "{log.as_posix()}"
        cache = false
        [features]
        sparse = ["item"]
        [[task]]
        name = "click"
        [train]
        epochs = 1
    """
    experiment = Experiment.from_text(text)
    assert Experiment.from_text(experiment.to_toml()) == experiment
    experiment.fit(out=tmp_path / "runs" / "one")
    assert not (tmp_path / "runs" / cache.NAME).exists()
