"""Rows that processes hold between them, found by a batch: without any process."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.nn.test_pooling import LAYOUT, batches, inputs

from polyrank.layout import Held
from polyrank.nn import embed
from polyrank.nn.embed import PackedEmbedder, TensorBag, drawn
from polyrank.nn.held import HeldMatrix, _find_in_torch, dealt, find

HOLDERS = st.integers(1, 4)


def matrices(layout):
    lookups = PackedEmbedder(layout).lookups
    return [
        HeldMatrix.of_pack(*each)
        for each in zip((p.rows for p in layout.packs), lookups, strict=True)
    ]


@pytest.mark.slow
@given(batches(), HOLDERS)
def test_what_is_fetched_by_number_is_what_is_looked_up_by_row(batch, holders):
    (ids, dense, bags), _ = inputs(*batch)
    layout = replace(LAYOUT, held=Held(0, holders))
    found = find(matrices(layout), ids, bags, layout.held)
    torch.manual_seed(1)
    whole = PackedEmbedder(LAYOUT)
    packs = []
    for index, weight in enumerate(whole.pack):
        parts = found.dealt[index].split(found.shares(index))
        held = [weight.detach()[rank::holders] for rank in range(holders)]
        packs.append(torch.cat([own[rows.long()] for own, rows in zip(held, parts, strict=True)]))
        assert len(packs[-1].unique(dim=0)) == len(packs[-1])  # each row once
    expected = whole(ids, dense, bags)
    assert torch.equal(whole._in_torch(found.ids, dense, found.bags, packs), expected)
    by_kernels = whole._by_kernels(found.ids, dense, found.bags, packs, None)
    torch.testing.assert_close(by_kernels, expected)


@given(batches(), HOLDERS)
def test_torch_finds_the_same_rows(batch, holders):
    (ids, _, pairs), _ = inputs(*batch)
    bags = [TensorBag(*pair) for pair in pairs]
    layout = replace(LAYOUT, held=Held(0, holders))
    for each, pack in zip(matrices(layout), layout.packs, strict=True):
        found = find([each], ids, bags, layout.held)
        numbered = torch.zeros_like(ids)
        of_bags, rows, lines = _find_in_torch(each, ids, numbered, bags, holders)
        assert lines.sum(1).tolist() == found.shares(0)
        for mine, theirs in zip(
            rows.split(lines.sum(1).tolist()), found.dealt[0].split(found.shares(0)), strict=True
        ):
            assert sorted(mine.tolist()) == sorted(theirs.tolist())
        # The row of each number, whoever numbered.
        row = [
            row * holders + r
            for r, own in enumerate(rows.split(lines.sum(1).tolist()))
            for row in own.tolist()
        ]
        for field in pack.fields:
            assert [row[n] for n in numbered[field].tolist()] == ids[field].tolist()
        for index, own in zip(each.sequences, of_bags, strict=True):
            bag = TensorBag(*bags[index])
            kept = range(len(bag.ids))
            if layout.schema.bags[index].pooling == "last":
                kept = (bag.offsets[1:][bag.offsets.diff() > 0] - 1).tolist()
            assert [row[own[i]] for i in kept] == [int(bag.ids[i]) for i in kept]


@pytest.mark.slow
@given(batches(), HOLDERS, st.randoms(use_true_random=False))
def test_what_is_said_of_a_row_reaches_who_holds_it(batch, holders, random):
    (ids, _, bags), _ = inputs(*batch)
    layout = replace(LAYOUT, held=Held(0, holders))
    found = find(matrices(layout), ids, bags, layout.held)
    for index, rows in enumerate(found.dealt):
        order = list(range(len(rows)))
        random.shuffle(order)
        numbers = torch.tensor(order, dtype=torch.int32)
        parts = dealt(found, index, numbers, numbers.float())
        assert [len(own) for own, _ in parts] == found.shares(index)
        assert torch.cat([said for _, said in parts]).tolist() == list(range(len(rows)))
    with pytest.raises(ValueError, match="of each row"):
        dealt(found, 0, torch.empty(len(found.dealt[0]) + 1))


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_that_is_no_row_is_refused(wrong):
    (ids, _, pairs), _ = inputs([1, 2], [[[0]] * 2] * 4)
    bags = [TensorBag(*pair) for pair in pairs]
    ids[0, 1] = wrong
    each = matrices(LAYOUT)[0]
    for search in (lambda: find([each], ids, bags, Held()),
                   lambda: _find_in_torch(each, ids, ids.clone(), bags, 1)):  # fmt: skip
        with pytest.raises(IndexError, match="outside their tables"):
            search()


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("rows", [0, 5, 63, 64, 127, 128, 129, 200])
def test_each_process_draws_its_rows_of_what_one_would_draw(monkeypatch, rows, width):
    monkeypatch.setattr(embed, "DRAWN_ROWS", 64)
    torch.manual_seed(2)
    whole, after = drawn(rows, width), torch.rand(1)
    for rank in range(3):
        torch.manual_seed(2)
        assert torch.equal(drawn(rows, width, Held(rank, 3)), whole[rank::3])
        assert torch.equal(torch.rand(1), after)


@given(st.integers(0, 50), st.integers(1, 7))
def test_each_row_is_held_once(rows, count):
    numbers = np.arange(rows)
    held = [Held(rank, count) for rank in range(count)]
    assert [each.rows(rows) for each in held] == [len(each.of(numbers)) for each in held]
    assert sorted(np.concatenate([each.of(numbers) for each in held])) == numbers.tolist()
    for each in held:
        before = [int((each.of(numbers) < row).sum()) for row in numbers]
        assert each.first(numbers).tolist() == before
