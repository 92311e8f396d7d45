"""Batches are cut from blocks: which block a batch came from cannot be seen."""

import numpy as np
import pytest

import polyrank as pr
from polyrank.data import table as module
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab


@pytest.fixture(scope="module")
def table():
    generator = np.random.default_rng(0)
    rows = {
        "item": generator.integers(0, 30, 1000),
        "history": [generator.integers(0, 30, size) for size in generator.integers(0, 4, 1000)],
        "price": generator.lognormal(size=1000),
        "click": generator.integers(0, 2, 1000),
        "w": generator.random(1000),
    }
    schema = pr.Schema(
        [
            pr.SparseFeature("item"),
            pr.SequenceFeature("history", shared_with="item"),
            pr.DenseFeature("price", encoding="log"),
        ],
        [pr.Task("click")],
        pr.Keys(weight="w"),
    )
    frame = read(rows)
    vocab = Vocab.fit(frame, schema)
    return encode(frame, schema, vocab), pr.Model().layout(schema, vocab)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 7, 64, 1000, 2000])
def test_batches_do_not_depend_on_the_block(table, monkeypatch, size, shuffle):
    encoded, layout = table
    found = []
    for rows in (1, 100, 10_000):
        monkeypatch.setattr(module, "BLOCK_ROWS", rows)
        found.append(
            list(
                encoded.batches(layout, size, shuffle=shuffle, seed=2**40, epoch=3, unseen_rate=0.1)
            )
        )
    for each in zip(*found, strict=True):
        for other in each[1:]:
            for name in ("ids", "dense", "labels", "weight"):
                assert np.array_equal(getattr(each[0], name), getattr(other, name))
            assert np.array_equal(each[0].bags[0].ids, other.bags[0].ids)
            assert np.array_equal(each[0].bags[0].offsets, other.bags[0].offsets)
        assert all(batch.ids.flags.c_contiguous for batch in each)
