"""The cache on disk: an entry comes back whole, or not at all."""

import json
import logging
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.data import cache
from polyrank.data.table import Table, encode
from polyrank.data.table_files import ArrayFile
from polyrank.data.vocab import Vocab

KEY = "0" * 32
SCHEMA = pr.Schema(
    [
        pr.SparseFeature("item"),
        pr.SparseFeature("shop", hash=8),
        pr.SequenceFeature("seen", shared_with="item"),
        pr.DenseFeature("price"),
        pr.DenseFeature("age", encoding=["standard", "bins", "values"], min_count=50),
    ],
    [pr.Task("click"), pr.Task("buy", given="click")],
    pr.Keys(user="user", weight="weight"),
)
LOG = pl.DataFrame(
    {
        "item": ["a", "b", None, "a"] * 50,
        "shop": [1, 2, 3, 4] * 50,
        "seen": [["a"], [], ["b", "x"], None] * 50,
        "price": [1.5, None, 3.0, 2.0] * 50,
        "age": [30, 40, None, 20] * 50,
        "user": ["u", None, "v", "w"] * 50,
        "weight": [1.0, 2.0, 0.5, 1.0] * 50,
        "click": [1, 0, 1, None] * 50,
        "buy": [1, 0, 0, None] * 50,
        "true_p_click": [0.1, 0.2, 0.3, 0.4] * 50,
    }
)


def entry(rows=LOG, schema=SCHEMA):
    vocab = Vocab.fit(LOG, schema)
    train = encode(rows, schema, vocab, numbers=True)
    tables = {"train": train, "valid": encode(rows.head(1), schema, vocab)}
    return cache.Entry(vocab, tables, (("polyrank.data.labels", logging.WARNING, "an orphan"),))


def same(array, other):
    return array.dtype == other.dtype and np.array_equal(array, other, equal_nan=True)


def assert_equal_tables(table, other):
    for name in ("ids", "dense", "labels", "weight", "numbers"):
        assert same(getattr(table, name), getattr(other, name)), name
    for bag, others in zip(table.bags, other.bags, strict=True):
        assert same(bag.ids, others.ids)
        assert same(bag.offsets, others.offsets)
    assert table.keys.equals(other.keys)
    assert table.keys.schema == other.keys.schema
    assert {name: values.tolist() for name, values in table.truth.items()} == {
        name: values.tolist() for name, values in other.truth.items()
    }
    for name in ("unseen", "nulls", "slices", "schema"):
        assert getattr(table, name) == getattr(other, name), name


@pytest.fixture
def stored(tmp_path):
    cache.store(tmp_path, KEY, entry())
    return tmp_path


def test_an_entry_comes_back(stored):
    before, after = entry(), cache.load(stored, KEY, SCHEMA)
    assert list(after.tables) == ["train", "valid"]
    for split, table in before.tables.items():
        assert_equal_tables(after.tables[split], table)
    assert after.messages == before.messages
    assert after.vocab.states == before.vocab.states
    assert after.vocab.rows == before.vocab.rows
    assert after.vocab.tables["item"].to_frame().equals(before.vocab.tables["item"].to_frame())
    again = encode(LOG, SCHEMA, after.vocab, numbers=True)
    assert_equal_tables(again, before.tables["train"])


def test_large_arrays_are_mapped_and_writing_to_them_leaves_the_file(tmp_path):
    many = pl.concat([LOG] * 50)
    cache.store(tmp_path, KEY, entry(many))
    table = cache.load(tmp_path, KEY, SCHEMA).tables["train"]
    assert isinstance(table.ids.base, np.memmap)
    table.ids[:] = 0
    assert_equal_tables(
        cache.load(tmp_path, KEY, SCHEMA).tables["train"], entry(many).tables["train"]
    )


def test_each_field_and_each_number_lies_together_on_disk(tmp_path):
    found = entry(pl.concat([LOG] * 50))
    table = found.tables["train"]
    turned = Table(**{**vars(table), "ids": np.asfortranarray(table.ids)})
    cache.store(tmp_path, KEY, cache.Entry(found.vocab, {"train": turned}))
    loaded = cache.load(tmp_path, KEY, SCHEMA).tables["train"]
    assert loaded.ids.flags.c_contiguous
    assert loaded.numbers.flags.f_contiguous
    assert loaded.numbers.shape[1] > 1
    assert_equal_tables(loaded, table)


def test_nothing_is_loaded_where_there_is_nothing(tmp_path, caplog):
    assert cache.load(tmp_path, KEY, SCHEMA) is None
    assert not caplog.records


@pytest.mark.parametrize("name", ["train.ids.npy", "vocab.0.arrow", "manifest.json"])
@pytest.mark.parametrize("how", ["cut", "flipped", "removed", "empty"])
def test_damage_is_noticed(stored, caplog, name, how):
    file = stored / KEY / name
    content = bytearray(file.read_bytes())
    if how == "removed":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes({"cut": content[:-1], "flipped": content, "empty": b""}[how])
    assert cache.load(stored, KEY, SCHEMA) is None
    assert "is damaged" in caplog.text
    cache.store(stored, KEY, entry())  # takes the place of the damaged one
    assert cache.load(stored, KEY, SCHEMA) is not None


@pytest.mark.parametrize("text", ["[]", "{}", '{"body": {}, "checksum": 0}', "null"])
def test_a_foreign_manifest_is_noticed(stored, caplog, text):
    (stored / KEY / cache.MANIFEST).write_text(text)
    assert cache.load(stored, KEY, SCHEMA) is None
    assert "is damaged" in caplog.text


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ArrayFile, "append", full)
    with pytest.raises(OSError, match="No space"):
        cache.store(tmp_path, KEY, entry())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_polars_cannot_write_is_an_oserror(tmp_path, monkeypatch):
    def full(*_, **__):
        raise pl.exceptions.ComputeError("No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_ipc", full)
    with pytest.raises(OSError, match="No space"):
        cache.store(tmp_path, KEY, entry())
    assert list(tmp_path.iterdir()) == []


def test_the_entries_used_last_are_kept(tmp_path):
    keys = [f"{number:032x}" for number in range(cache.KEPT + 2)]
    for age, key in enumerate(keys[:-1]):
        cache.store(tmp_path, key, entry())
        if (tmp_path / key).exists():
            os.utime(tmp_path / key / cache.MANIFEST, (age, age))
    cache.load(tmp_path, keys[1], SCHEMA)  # used now
    cache.store(tmp_path, keys[-1], entry())
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == cache.KEPT
    assert {keys[1], keys[-1]} <= left


def test_what_a_killed_run_left_is_removed_after_a_day(tmp_path):
    old, new = (tmp_path / f".{KEY}.{end * 8}" for end in "ab")
    for folder in (old, new, tmp_path / "someone-elses"):
        folder.mkdir()
        os.utime(folder, (0, 0) if folder != new else None)
    cache.store(tmp_path, KEY, entry())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {KEY, new.name, "someone-elses"}


def write_often(folder, barrier):
    found = entry()
    barrier.wait()
    for _ in range(10):
        cache.store(folder, KEY, found)
        loaded = cache.load(folder, KEY, SCHEMA)
        # the other process may be replacing it at this moment
        assert loaded is None or np.array_equal(
            loaded.tables["train"].ids, found.tables["train"].ids
        )


def test_two_processes_may_write_the_same_entry(tmp_path, monkeypatch):
    # A new process imports this file by its name, for which `pytest` alone leaves no path.
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2]), *sys.path])
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=write_often, args=(tmp_path, barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert_equal_tables(cache.load(tmp_path, KEY, SCHEMA).tables["train"], entry().tables["train"])
    assert [path.name for path in tmp_path.iterdir()] == [KEY]


def changed(part, **options):
    table = json.loads(json.dumps(SCHEMA.to_table()))
    for each in (*table["features"], *table["tasks"]):
        if each["name"] == part:
            each.update(options)
    return pr.Schema.from_table(table)


@pytest.mark.parametrize(
    "other",
    [
        changed("item", min_count=2),
        changed("age", min_count=2),
        changed("buy", label="click2"),
        changed("buy", name="cart"),
        pr.Schema(SCHEMA.features[::-1], SCHEMA.tasks, SCHEMA.keys),
        pr.Schema(SCHEMA.features, SCHEMA.tasks[::-1], SCHEMA.keys),
        pr.Schema(SCHEMA.features, SCHEMA.tasks, pr.Keys(user="user")),
    ],
)
def test_what_decides_the_encoding_is_in_the_key(other):
    assert cache.key_of(other, []) != cache.key_of(SCHEMA, [])


@pytest.mark.parametrize(
    "other",
    [
        changed("item", embed_dim=8),
        changed("buy", weight=2.0),
        changed("buy", space="click"),
        changed("buy", hold_ancestors=True),
        changed("buy", positive_weight=2.0),
    ],
)
def test_what_only_a_model_reads_is_not_in_the_key(other):
    assert other != SCHEMA
    assert cache.key_of(other, []) == cache.key_of(SCHEMA, [])


def test_rows_and_versions_are_in_the_key(monkeypatch):
    keys = {cache.key_of(SCHEMA, rows) for rows in (["a"], ["b"], [["a"]], None)}
    assert len(keys) == 4
    before = cache.key_of(SCHEMA, [])
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert cache.key_of(SCHEMA, []) != before
