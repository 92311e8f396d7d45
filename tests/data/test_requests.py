"""Batches of whole requests: every row once, no request cut, the same from any batch on."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyrank as pr
from polyrank.data.folds import folds, parted
from polyrank.data.requests import shuffled, with_requests
from polyrank.data.shares import WHOLE, Share
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError


def made(rows, longest, seed=0, window=None):
    rng = np.random.default_rng(seed)
    request = np.repeat(np.arange(rows), rng.integers(1, longest + 1, rows))[:rows]
    frame = pl.DataFrame(
        {"item": rng.integers(0, 9, rows), "r": request, "click": rng.integers(0, 2, rows)}
    )
    tasks = [pr.Task("click", ranking="softmax")]
    schema = pr.Schema([pr.SparseFeature("item")], tasks, {"request": "r"})
    vocab = Vocab.fit(frame, schema)
    table = replace(encode(frame, schema, vocab), window=window)
    return with_requests(table, "train"), pr.Model(embed_dim=2).layout(schema, vocab)


def batches(table, layout, size, share=WHOLE, start=0, epoch=1):
    blocks = table.blocks(
        layout, size, shuffle=True, seed=3, epoch=epoch, unseen_rate=0.1, start=start, share=share,
        whole_requests=True,
    )  # fmt: skip
    return [batch for block in blocks for batch in block]


@given(
    rows=st.integers(1, 300),
    longest=st.integers(1, 40),
    size=st.integers(1, 60),
    streams=st.integers(1, 3),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_every_row_comes_once_and_no_request_is_cut(rows, longest, size, streams, seed):
    table, layout = made(rows, longest, seed)
    check(table, layout, size, streams)


@pytest.mark.parametrize("streams", [1, 2, 3])
@pytest.mark.parametrize(("rows", "window"), [(9_000, 2_500), (20_000, 6_000), (1_500, 1_100)])
def test_so_it_is_through_a_window(rows, window, streams):
    table, layout = made(rows, 30, window=window)
    assert table.parted
    check(table, layout, 64, streams)


def check(table, layout, size, streams):
    shares = [Share((stream,), streams) for stream in range(streams)]
    found = [batches(table, layout, size, share) for share in shares]
    steps = shares[0].steps(len(table), size)
    assert {len(each) for each in found} == {steps}
    seen = np.concatenate([batch.rows for each in found for batch in each])
    assert sorted(seen) == list(range(len(table)))
    where = {}
    for stream, each in enumerate(found):
        for number, batch in enumerate(each):
            np.testing.assert_array_equal(batch.requests, table.requests[batch.rows])
            for request in np.unique(batch.requests):
                assert where.setdefault(request, (stream, number)) == (stream, number)
    # One process that reads all streams has their batches joined.
    whole = batches(table, layout, size, Share(tuple(range(streams)), streams))
    for number, batch in enumerate(whole):
        rows = np.concatenate([each[number].rows for each in found])
        np.testing.assert_array_equal(batch.rows, rows)


@pytest.mark.parametrize("window", [None, 2_500])
@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("start", [1, 17, 60, 139])
def test_an_epoch_goes_on_where_it_stopped(window, streams, start):
    table, layout = made(9_000, 30, window=window)
    share = Share((0,), streams)
    whole, rest = batches(table, layout, 32, share), batches(table, layout, 32, share, start)
    assert len(rest) == len(whole) - start
    for one, two in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(one.rows, two.rows)
        np.testing.assert_array_equal(one.ids, two.ids)  # id dropout among them


def test_epochs_have_orders_of_their_own():
    table, layout = made(2_000, 10)
    one, two = (batches(table, layout, 64, epoch=epoch)[0].rows for epoch in (1, 2))
    assert set(one) != set(two)
    again = batches(table, layout, 64)[0].rows
    np.testing.assert_array_equal(one, again)


def test_a_batch_has_about_its_size():
    table, layout = made(20_000, 20)
    sizes = np.array([len(batch) for batch in batches(table, layout, 256)])
    assert np.abs(sizes[:-1] - 256).max() < 20


def test_rows_of_a_request_need_not_lie_together_in_memory():
    requests = np.array([2, 0, 2, 1, 0])
    order, first = shuffled(requests, np.random.default_rng(0))
    assert sorted(order) == [0, 1, 2, 3, 4]
    ends = [*first[1:], 5]
    for low, high in zip(first, ends, strict=True):
        assert len(set(requests[order[low:high]])) == 1


def test_a_window_needs_them_together():
    table, _ = made(3_000, 5, window=1_100)
    keys = table.keys.with_columns(pl.col("r").reverse().shuffle(seed=1))
    message = "train: the rows of a request lie apart.*sort it by 'r'"
    with pytest.raises(DataError, match=message):
        with_requests(replace(table, keys=keys), "train")


def test_a_request_has_one_fold():
    """Else what its rows share is read without the label of some of them, and not of others."""
    requests = np.repeat(np.arange(50, dtype=np.int32), 4)
    found = folds(parted(np.arange(200), requests), 4, seed=5).reshape(50, 4)
    assert (found == found[:, :1]).all()
    assert set(found[:, 0].tolist()) == {0, 1, 2, 3}
    assert parted(requests, None) is requests
