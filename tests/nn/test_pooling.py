"""Pooled look-ups and their gradients against nn.EmbeddingBag, a bag a feature."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from polyrank.layout import Layout
from polyrank.nn.embed import (
    LocalEmbedder,
    PackedEmbedder,
    Padded,
    TensorBag,
    pooled,
    pooled_padded,
)
from polyrank.schema import DenseFeature, Schema, SequenceFeature, SparseFeature, Task
from polyrank.train.optim import SGD, DenseAdam, LazyAdam

ROWS = {"item": 5, "wide": 4, "tags": 3}
SCHEMA = Schema(
    [
        SparseFeature("item"),
        SequenceFeature("mean", shared_with="item"),
        SequenceFeature("sum", shared_with="item", pooling="sum"),
        SequenceFeature("wide", pooling="last"),
        SequenceFeature("tags", pooling="last"),
        DenseFeature("number", encoding="standard"),
    ],
    [Task("click")],
)
LAYOUT = Layout(
    SCHEMA, SimpleNamespace(rows=ROWS, columns={"number": 1}), {"item": 2, "wide": 3, "tags": 2}
)


def bag_of(lists):
    ids = torch.tensor([each for row in lists for each in row], dtype=torch.int32)
    lengths = torch.tensor([0, *(len(row) for row in lists)])
    return TensorBag(ids, lengths.cumsum(0))


@st.composite
def batches(draw):
    """The item of each row, and each sequence's lists, of local ids."""
    size = draw(st.integers(1, 6))

    def lists(table):
        ids = st.lists(st.integers(0, ROWS[table] - 1), max_size=4)
        return draw(st.lists(ids, min_size=size, max_size=size))

    items = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    return items, [lists(each.table) for each in SCHEMA.bags]


def inputs(items, lists):
    """Packed ids, dense columns and bags, and the local ones."""
    local = torch.tensor([items], dtype=torch.int32)
    ids = local + torch.from_numpy(LAYOUT.offsets).int()[:, None]
    dense = torch.ones(len(items), 1)
    local_bags = [bag_of(each) for each in lists]
    bags = [
        (ids + int(offset), offsets)  # a pair is a bag without weights
        for (ids, offsets, _), offset in zip(local_bags, LAYOUT.bag_offsets, strict=True)
    ]
    return (ids, dense, bags), (local, dense, [Padded(matrix_of(each)) for each in lists])


def matrix_of(lists):
    """Lists as rows of a matrix, with a −1 before each id and to the right of the last."""
    found = torch.full((len(lists), 2 * max(map(len, lists)) + 1), -1)
    for row, each in enumerate(lists):
        found[row, 1 : 2 * len(each) : 2] = torch.tensor(each)
    return found


def plain(tables, items, lists):
    """The same x from nn.Embedding and nn.EmbeddingBag, with the parameters behind it."""
    weights = {name: nn.Parameter(each.clone()) for name, each in tables.items()}
    x = {"item": nn.functional.embedding(torch.tensor(items), weights["item"])}
    for feature, rows in zip(SCHEMA.bags, lists, strict=True):
        last = feature.pooling == "last"
        ids, offsets, _ = bag_of([row[-1:] for row in rows] if last else rows)
        bag = nn.EmbeddingBag(
            *weights[feature.table].shape, mode="sum" if last else feature.pooling,
            include_last_offset=True,
        )  # fmt: skip
        bag.weight = weights[feature.table]
        x[feature.name] = bag(ids.long(), offsets)
    order = sorted(x, key=lambda name: LAYOUT.slices[name].start)
    return torch.cat([x[name] for name in order], dim=1), weights


@given(batches())
def test_x_and_row_gradients_are_those_of_embedding_bag(batch):
    torch.manual_seed(0)
    embed = PackedEmbedder(LAYOUT)
    packed, _ = inputs(*batch)
    x = embed(*packed)
    expected, weights = plain(embed.tables(), *batch)
    assert torch.equal(x[:, :-1], expected)
    gradient = torch.randn(x.shape)
    (expected * gradient[:, :-1]).sum().backward()
    ids, _, bags = packed
    pairs = embed.row_gradients(ids, gradient, bags)
    for pack, found, (rows, each) in zip(LAYOUT.packs, embed.pack, pairs, strict=True):
        summed = torch.zeros_like(found).index_add_(0, rows, each)
        for table, offset in pack.offsets.items():
            autograd = weights[table].grad
            autograd = torch.zeros_like(weights[table]) if autograd is None else autograd
            torch.testing.assert_close(summed[offset : offset + ROWS[table]], autograd)


@given(batches())
def test_the_twin_pools_matrices_to_the_same_x(batch):
    embed = PackedEmbedder(LAYOUT)
    packed, local = inputs(*batch)
    twin = LocalEmbedder(embed)
    torch.testing.assert_close(twin(*local), embed(*packed), rtol=1e-6, atol=1e-8)


def test_a_weight_that_is_not_finite_stays_out_of_other_rows():
    weight = torch.tensor([[torch.inf], [1.0]])
    assert pooled_padded(Padded(torch.tensor([[1, -1]])), "sum", weight).tolist() == [[1.0]]


@given(batches())
def test_dense_adam_is_torchs_and_lazy_adam_moves_what_was_looked_up(batch):
    packed, _ = inputs(*batch)
    ids, _, bags = packed
    gradient = torch.randn(len(batch[0]), LAYOUT.width)
    embed, reference = PackedEmbedder(LAYOUT), PackedEmbedder(LAYOUT)
    reference.load_state_dict(embed.state_dict())
    lazy = PackedEmbedder(LAYOUT)
    lazy.load_state_dict(embed.state_dict())
    before = embed.tables()["item"].clone()
    DenseAdam().build(embed, 0.0).step(ids, gradient, 0.01, bags)
    LazyAdam(prior=0, decay=0).build(lazy, 0.0).step(ids, gradient, 0.01, bags)
    adam = torch.optim.Adam(reference.parameters(), lr=0.01)
    (reference(*packed) * gradient).sum().backward()
    adam.step()
    for ours, also, theirs in zip(embed.pack, lazy.pack, reference.pack, strict=True):
        # A sum that cancels to rounding noise has no direction that two orders of it agree on.
        firm = theirs.grad.abs() > 1e-5
        torch.testing.assert_close(ours[firm], theirs[firm])
        torch.testing.assert_close(also[firm], theirs[firm])
    touched = {*batch[0], *(i for lists in batch[1][:2] for row in lists for i in row)}
    still = [row for row in range(5) if row not in touched]
    assert torch.equal(lazy.tables()["item"][still], before[still])


@pytest.mark.parametrize("pooling", ["mean", "sum", "last"])
def test_a_row_of_nothing_is_zeros(pooling):
    weight = torch.randn(3, 2)
    assert torch.equal(pooled(bag_of([[], []]), pooling, weight), torch.zeros(2, 2))
    assert torch.equal(pooled(bag_of([[], [2], []]), pooling, weight)[1], weight[2])


def test_another_number_of_bags_is_refused():
    packed, _ = inputs([0], [[[]]] * 4)
    with pytest.raises(ValueError, match="expected 4 bags, one for each sequence, got 0"):
        PackedEmbedder(LAYOUT)(*packed[:2])


# ----------------------------------------------------------------------------------------- weights

WEIGHTED = Schema(
    [
        SparseFeature("item"),
        *(
            SequenceFeature(name, shared_with="item", pooling=name, weights=f"{name} weights")
            for name in ("mean", "sum", "last")
        ),
        SequenceFeature("plain", shared_with="item"),
    ],
    [Task("click")],
)
KERNELS = [
    Layout(WEIGHTED, SimpleNamespace(rows={"item": 5}, columns={}), {"item": w}) for w in (4, 3)
]
numbers = st.floats(-8, 8, width=16)


@st.composite
def weighted_batches(draw):
    """The item of each row, and for each sequence the lists of pairs of an id and its weight."""
    size = draw(st.integers(1, 6))
    pairs = st.lists(st.tuples(st.integers(0, 4), numbers), max_size=4)
    items = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    return items, [draw(st.lists(pairs, min_size=size, max_size=size)) for _ in WEIGHTED.bags]


def weighted_bag(lists, weighted):
    bag = bag_of([[each for each, _ in row] for row in lists])
    weights = torch.tensor([weight for row in lists for _, weight in row], dtype=torch.float32)
    return bag._replace(weights=weights) if weighted else bag


def in_float64(rows, pooling):
    """The coefficient of each element of each list."""
    found = []
    for row in rows:
        weights = [float(weight) for _, weight in row]
        if pooling == "plain":
            found.append([1 / max(len(row), 1)] * len(row))
        elif pooling == "mean":
            total = sum(map(abs, weights))
            found.append([weight / total if total else 0.0 for weight in weights])
        elif pooling == "last":
            found.append([0.0] * (len(row) - 1) + weights[-1:])
        else:
            found.append(weights)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layout", KERNELS, ids=["vectors", "odd"])
@given(weighted_batches())
def test_weighted_sums_and_their_gradients_are_those_of_float64(layout, batch):
    items, lists = batch
    embed = PackedEmbedder(layout)
    (weight,) = embed.pack
    torch.nn.init.normal_(weight)
    bags = [
        weighted_bag(each, slot.weighted) for each, slot in zip(lists, WEIGHTED.bags, strict=True)
    ]
    ids, dense = torch.tensor([items], dtype=torch.int32), torch.empty(len(items), 0)
    width, table = weight.shape[1], weight.detach().double()
    gradient = torch.randn(len(items), layout.width)
    expected, slope = torch.zeros(len(items), layout.width).double(), torch.zeros_like(table)
    expected[:, :width] = table[items]
    slope.index_add_(0, torch.tensor(items), gradient[:, :width].double())
    for at, (rows, slot) in enumerate(zip(lists, WEIGHTED.bags, strict=True), start=1):
        own = slice(at * width, (at + 1) * width)
        for row, (pairs, each) in enumerate(zip(rows, in_float64(rows, slot.name), strict=True)):
            for (item, _), coefficient in zip(pairs, each, strict=True):
                expected[row, own] += coefficient * table[item]
                slope[item] += coefficient * gradient[row, own].double()
    close = {"rtol": 1e-5, "atol": 1e-5}
    for found in (embed(ids, dense, bags), embed.look_up(ids, dense, bags)):
        torch.testing.assert_close(found.detach().double(), expected, **close)
    ((rows, each),) = embed.row_gradients(ids, gradient, bags)
    summed = torch.zeros_like(weight).index_add_(0, rows, each)
    torch.testing.assert_close(summed.double(), slope, rtol=1e-4, atol=1e-4)
    before = weight.detach().clone()
    SGD().build(embed, 0.0).step(ids, gradient, 1.0, bags)
    torch.testing.assert_close((before - weight.detach()).double(), slope, rtol=1e-4, atol=1e-4)


@given(weighted_batches())
def test_the_twin_weighs_matrices_to_the_same_x(batch):
    items, lists = batch
    embed = PackedEmbedder(KERNELS[0])
    bags = [
        weighted_bag(each, slot.weighted) for each, slot in zip(lists, WEIGHTED.bags, strict=True)
    ]
    ids, dense = torch.tensor([items], dtype=torch.int32), torch.empty(len(items), 0)
    padded = []
    for rows, slot in zip(lists, WEIGHTED.bags, strict=True):
        matrix = matrix_of([[each for each, _ in row] for row in rows])
        weights = torch.zeros(matrix.shape)
        weights[matrix >= 0] = weighted_bag(rows, weighted=True).weights
        padded.append(Padded(matrix, weights if slot.weighted else None))
    twin = LocalEmbedder(embed)
    torch.testing.assert_close(
        twin(ids, dense, padded), embed(ids, dense, bags), rtol=1e-5, atol=1e-7
    )


def test_a_bag_without_the_weights_of_its_feature_is_refused():
    bags = [bag_of([[1]])] * 4
    with pytest.raises(ValueError, match="the bag of 'mean' must have weights: True"):
        PackedEmbedder(KERNELS[0])(torch.zeros(1, 1, dtype=torch.int32), torch.empty(1, 0), bags)
