"""An epoch's rows, dealt out to processes: each row once, whoever reads them."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyrank as pr
from polyrank.data import windows
from polyrank.data.shares import WHOLE, Share
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.layout import Layout

RUN = 8  # rows of a run, here


@pytest.fixture(scope="module")
def encoded():
    """A table of 100 rows, of which each has its number as its id."""
    schema = pr.Schema([pr.SparseFeature("row"), pr.SequenceFeature("list")], [pr.Task("click")])
    frame = pl.LazyFrame({
        "row": range(100), "list": [[each] * (each % 3) for each in range(100)],
        "click": [0, 1] * 50,
    })  # fmt: skip
    vocab = Vocab.fit(frame, schema)
    return encode(frame, schema, vocab), Layout(schema, vocab, {"row": 4, "list": 4})


def read(encoded, *, window, size, streams, ranks, start=0, shuffle=True):
    """Return the rows of each step of each process: [rank][step]."""
    table, layout = encoded
    table = replace(table, window=window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "RUN_ROWS", RUN)
        return [
            [
                batch.rows
                for batch in table.batches(
                    layout, size, shuffle=shuffle, seed=1, epoch=2, start=start,
                    share=Share.of(rank, ranks, streams),
                )
            ]
            for rank in range(ranks)
        ]  # fmt: skip


@given(
    window=st.sampled_from([None, 16, 40]), size=st.integers(1, 12), streams=st.integers(1, 5),
    ranks=st.integers(1, 5), data=st.data(),
)  # fmt: skip
def test_no_row_is_met_twice_and_none_is_left_out(encoded, window, size, streams, ranks, data):
    """Where some processes began an epoch and others end it, too."""
    share = Share.of(0, streams, streams)
    steps = share.steps(100, size)
    start = data.draw(st.integers(0, steps))
    options = {"window": window, "size": size, "streams": streams}
    begun = read(encoded, ranks=streams, **options)
    ended = read(encoded, ranks=ranks, start=start, **options)
    assert {len(each) for each in begun} == {steps}
    assert {len(each) for each in ended} == {steps - start}
    rows = [*chain.from_iterable(each[:start] for each in begun), *chain.from_iterable(ended)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(100))


@given(
    window=st.sampled_from([None, 16]), size=st.integers(1, 30), streams=st.integers(1, 5),
    ranks=st.integers(1, 5),
)  # fmt: skip
def test_a_joined_batch_is_the_same_whoever_reads_it(encoded, window, size, streams, ranks):
    options = {"window": window, "size": size, "streams": streams}
    steps = zip(*read(encoded, ranks=streams, **options), strict=True)
    others = zip(*read(encoded, ranks=ranks, **options), strict=True)
    share = Share.of(0, ranks, streams)
    for step, (one, other) in enumerate(zip(steps, others, strict=True)):
        assert sorted(np.concatenate(one)) == sorted(np.concatenate(other))
        known = share.rows(step, 100, size, parted=window is not None)
        assert sum(map(len, one)) == known


@pytest.mark.parametrize("shuffle", [True, False])
def test_joined_batches_of_a_table_in_memory_are_those_of_one_process(encoded, shuffle):
    options = {"window": None, "shuffle": shuffle}
    (alone,) = read(encoded, size=12, streams=1, ranks=1, **options)
    for one, *parts in zip(
        alone, *read(encoded, size=4, streams=3, ranks=3, **options), strict=True
    ):
        assert one.tolist() == np.concatenate(parts).tolist()


def test_streams_of_a_window_read_rows_of_their_own(encoded):
    """So that no process reads the whole file."""
    first, second = read(encoded, window=16, size=4, streams=2, ranks=2)
    runs = [set((np.concatenate(each) // RUN).tolist()) for each in (first, second)]
    assert len(runs[0] & runs[1]) <= 1  # the run that is cut
    assert min(map(len, runs)) > 5


def test_a_batch_without_rows_has_all_that_others_have(encoded):
    table, layout = encoded
    batches = list(table.batches(layout, 60, share=Share((1,), 2)))
    full, none = batches[0], batches[0].none()
    assert (len(full), len(none)) == (40, 0)
    assert none.ids.shape == (1, 0)
    assert [len(bag) for bag in none.bags] == [0]
    assert none.labels.shape == (0, 1)


def test_one_process_reads_everything():
    assert Share.of(0, 1, 1) == WHOLE
