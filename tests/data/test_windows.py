"""Epochs through a bounded window: every row once, whole, in an order of (seed, epoch) alone."""

import weakref
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.data import windows
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.layout import Layout
from polyrank.schema import DenseFeature, Keys, Schema, SequenceFeature, SparseFeature, Task

RUN = 8


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    monkeypatch.setattr(windows, "RUN_ROWS", RUN)


def a_table(rows):
    """Rows each of whose parts tells its number."""
    rng = np.random.default_rng(rows)
    number = np.arange(rows)
    log = pl.DataFrame(
        {
            "user": number // 5, "seen": [list(range(n % 4)) for n in number],
            "price": number.astype(float), "click": number % 2, "w": 1.0 + number % 3,
            "spent": rng.normal(size=rows),
        }
    )  # fmt: skip
    schema = Schema(
        [
            SparseFeature("user", vocab_size=rows), SequenceFeature("seen"),
            DenseFeature("price", encoding="none"),
        ],
        [Task("click"), Task("spent", kind="regression")],
        Keys(weight="w"),
    )  # fmt: skip
    vocab = Vocab.fit(log, schema)
    return encode(log, schema, vocab, numbers=True), Layout(schema, vocab, {"user": 2, "seen": 2})


def epoch_of(table, layout, size, **options):
    return list(table.batches(layout, size, shuffle=True, **({"seed": 3, "epoch": 1} | options)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 90), st.integers(1, 40))
def test_every_row_is_there_once_and_whole(rows, window, size):
    table, layout = a_table(rows)
    batches = epoch_of(replace(table, window=window), layout, size)
    assert [len(each) for each in batches[:-1]] == [size] * (len(batches) - 1)
    assert len(batches) == -(-rows // size)
    assert sorted(np.concatenate([each.rows for each in batches])) == list(range(rows))
    for batch in batches:
        at = batch.rows
        assert np.array_equal(batch.dense[:, 0], at)
        assert np.array_equal(batch.ids, table.ids[:, at] + layout.offsets[:, None])
        assert np.array_equal(batch.labels, table.labels[at])
        assert np.array_equal(batch.weight, table.weight[at])
        expected = table.bags[0].take(at)
        assert np.array_equal(batch.bags[0].offsets, expected.offsets)
        assert np.array_equal(batch.bags[0].ids, expected.ids + layout.bag_offsets[0])


def test_the_order_is_of_seed_and_epoch_alone():
    table, layout = a_table(150)
    table = replace(table, window=40)

    def order(**options):
        return np.concatenate([each.rows for each in epoch_of(table, layout, 7, **options)])

    assert np.array_equal(order(), order())
    assert not np.array_equal(order(), order(epoch=2))
    assert not np.array_equal(order(), order(seed=4))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 90), st.integers(1, 40), st.data())
def test_an_epoch_goes_on_from_any_batch(rows, window, size, data):
    table, layout = a_table(rows)
    for each in (replace(table, window=window), table):
        for shuffle in (True, False):
            options = {"shuffle": shuffle, "seed": 3, "epoch": 1, "unseen_rate": 0.2}
            whole = list(each.batches(layout, size, **options))
            start = data.draw(st.integers(0, len(whole)))
            rest = list(each.batches(layout, size, start=start, **options))
            assert len(rest) == len(whole) - start
            for one, other in zip(rest, whole[start:], strict=True):
                assert np.array_equal(one.rows, other.rows)
                assert np.array_equal(one.ids, other.ids)
                assert np.array_equal(one.labels, other.labels)


def test_windows_before_the_start_are_not_read(monkeypatch):
    table, _ = a_table(800)
    read = []
    plain = windows.part
    monkeypatch.setattr(windows, "part", lambda t, rows: read.append(rows) or plain(t, rows))
    (found,) = windows.windows(table, 200, 10, 0, 0, start=61)
    assert len(found[1]) == 800 - 610
    assert len(read) == 200 // RUN


def test_a_window_holds_no_more_rows_than_it_may_and_a_batch():
    table, _ = a_table(1000)
    sizes = [len(some) for some, _ in windows.windows(table, 64, 10, 0, 0)]
    assert max(sizes) < 64 + 10
    assert len(sizes) == -(-1000 // 64)


def test_one_window_is_in_memory_at_a_time(monkeypatch):
    table, layout = a_table(800)
    before, plain = [], windows.joined

    def joined(tables):
        assert not any(each() for each in before)
        found = plain(tables)
        before.append(weakref.ref(found))
        return found

    monkeypatch.setattr(windows, "joined", joined)
    for _ in replace(table, window=200).batches(layout, 30, shuffle=True):
        pass
    assert len(before) == 4


def test_rows_that_lie_far_apart_meet():
    table, layout = a_table(4000)
    batches = epoch_of(replace(table, window=800), layout, 100)
    # A hundred runs a window: a batch of 100 has rows of about 63 of them.
    assert np.mean([len(np.unique(each.rows // RUN)) for each in batches]) > 50
    assert np.mean([np.ptp(each.rows) for each in batches]) > 3000


def test_a_small_window_has_shorter_runs(monkeypatch):
    monkeypatch.setattr(windows, "SHORT_RUN", 2)
    monkeypatch.setattr(windows, "RUNS", 10)
    table, _ = a_table(400)
    for most, expected in ((40, 4), (10, 2), (80, 8), (200, 8)):
        (some, _), *_ = windows.windows(table, most, 5, 0, 0)
        steps = np.flatnonzero(np.diff(some.rows) != 1) + 1
        assert len(some) == most
        assert not (steps % expected).any()
        assert len(steps) >= most // expected // 2


def test_a_table_that_fits_keeps_its_permutation():
    table, layout = a_table(150)
    for window in (None, 150, 500):
        batches = epoch_of(replace(table, window=window), layout, 7)
        order = np.random.default_rng([3, 1]).permutation(150)
        assert np.array_equal(np.concatenate([each.rows for each in batches]), order)


def test_rows_in_order_need_no_window():
    table, layout = a_table(150)
    batches = list(replace(table, window=16).batches(layout, 32))
    assert np.array_equal(np.concatenate([each.rows for each in batches]), np.arange(150))


def test_id_dropout_is_that_of_the_batch():
    table, layout = a_table(600)
    one, other = (
        epoch_of(replace(table, window=64), layout, 50, unseen_rate=0.3) for _ in range(2)
    )
    for first, second in zip(one, other, strict=True):
        assert np.array_equal(first.ids, second.ids)
    dropped = [(each.ids == layout.offsets[0]).mean() for each in one]
    assert 0.2 < np.mean(dropped) < 0.4
    assert len(set(dropped)) > 1
