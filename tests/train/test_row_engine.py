"""Embedding engines: compiled kernels against torch, optimisers against torch's own."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.data.table import Table
from polyrank.features.bags import Bag
from polyrank.layout import Layout
from polyrank.nn import kernels
from polyrank.nn.embed import PackedEmbedder
from polyrank.schema import DenseFeature, Schema, SequenceFeature, SparseFeature, Task
from polyrank.train.optim import (
    EMBEDDINGS,
    SGD,
    Adagrad,
    DenseAdam,
    LazyAdam,
    RowwiseAdagrad,
    Visits,
)

ROWS = {"item": 7, "wide": 4, "tags": 3, "user": 9}
SCHEMA = Schema(
    [
        SparseFeature("item"),
        SparseFeature("user"),
        SparseFeature("again", shared_with="item"),
        SequenceFeature("mean", shared_with="item"),
        SequenceFeature("sum", shared_with="item", pooling="sum"),
        SequenceFeature("wide", pooling="last"),
        SequenceFeature("tags", pooling="last"),
        DenseFeature("number", encoding="standard"),
    ],
    [Task("click")],
)


def layout(width=4):
    widths = {"item": width, "user": width, "tags": width, "wide": 3}
    return Layout(SCHEMA, SimpleNamespace(rows=ROWS, columns={"number": 1}), widths)


def batch(where, size, seed):
    """Packed ids, dense columns, bags, and a gradient of x."""
    generator = np.random.default_rng(seed)
    rows = [ROWS[feature.table] for feature in SCHEMA.fields]
    ids = np.stack([generator.integers(count, size=size) for count in rows])
    bags = []
    for feature, offset in zip(SCHEMA.bags, where.bag_offsets, strict=True):
        lengths = generator.integers(4, size=size)
        found = generator.integers(ROWS[feature.table], size=lengths.sum()) + offset
        offsets = np.concatenate([[0], lengths.cumsum()])
        bags.append((torch.from_numpy(found).int(), torch.from_numpy(offsets)))
    gradient = generator.standard_normal((size, where.width), dtype=np.float32)
    packed = torch.from_numpy(ids + where.offsets[:, None]).int()
    return packed, torch.ones(size, 1), bags, torch.from_numpy(gradient)


def embedder(where):
    torch.manual_seed(0)
    embed = PackedEmbedder(where)
    with torch.no_grad():
        for pack in embed.pack:
            pack.normal_()
    return embed


def in_torch(kind, **options):
    """The same optimiser without its compiled rule."""
    return type(f"{kind}_in_torch", (EMBEDDINGS[kind],), {"rule": None})(**options)


def visits(where, rows=200, size=40, unseen_rate=0.0):
    """An epoch of few rows: a batch's share of a row's look-ups reaches 1 and would pass it."""
    ids, _, bags, _ = batch(where, rows, 99)
    table = Table(
        schema=SCHEMA,
        ids=ids.numpy() - where.offsets[:, None],
        dense=np.ones((rows, 1), np.float32),
        labels=np.zeros((rows, 1), np.float32),
        weight=None,
        keys=pl.DataFrame(),
        truth={},
        unseen={},
        nulls={},
        bags=tuple(
            Bag(each.numpy() - offset, offsets.numpy())
            for (each, offsets), offset in zip(bags, where.bag_offsets, strict=True)
        ),
    )
    return Visits(table, where, size, unseen_rate)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 70), st.integers(0, 1000), st.sampled_from([4, 5]))
def test_the_look_up_is_torchs(size, seed, width):
    where = layout(width)
    embed = embedder(where)
    ids, dense, bags, _ = batch(where, size, seed)
    torch.testing.assert_close(embed.look_up(ids, dense, bags), embed(ids, dense, bags).detach())


def test_the_look_up_writes_into_an_earlier_answer_of_the_same_shape():
    where = layout()
    embed = embedder(where)
    first, second, shorter = (batch(where, size, size) for size in (8, 8, 3))
    kept = embed.look_up(*first[:3])
    again = embed.look_up(*second[:3], kept.requires_grad_())
    assert again.data_ptr() == kept.data_ptr()
    assert not again.requires_grad
    assert torch.equal(again, embed.look_up(*second[:3]))
    assert embed.look_up(*shorter[:3], kept).shape == (3, where.width)


PAID = {"prior": 3.0, "decay": 2.0}
FREE = {"prior": 0.0, "decay": 0.0}


@pytest.mark.parametrize(("l2", "paid"), [(0.0, FREE), (0.1, FREE), (0.1, PAID)])
@pytest.mark.parametrize("width", [4, 5])
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_kernels_step_as_torch_does(kind, width, l2, paid):
    where = layout(width)
    compiled, plain = embedder(where), embedder(where)
    one = EMBEDDINGS[kind](**paid).build(compiled, l2, visits(where))
    two = in_torch(kind, **paid).build(plain, l2, visits(where))
    assert one.compiled
    assert not two.compiled
    for step in range(8):  # of growing and shrinking batches, with look-ups ahead of the row
        ids, _, bags, gradient = batch(where, (5, 90, 1, 60)[step % 4], step)
        one.step(ids, gradient, 0.01, bags)
        two.step(ids, gradient, 0.01, bags)
    for mine, expected in zip(compiled.pack, plain.pack, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
    for name, expected in two.state().items():
        torch.testing.assert_close(one.state()[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "theirs"),
    [
        (DenseAdam(betas=(0.8, 0.99)), lambda p, l2: torch.optim.Adam(
            p, lr=0.01, weight_decay=l2, betas=(0.8, 0.99))),
        (Adagrad(), lambda p, l2: torch.optim.Adagrad(p, lr=0.01, weight_decay=l2)),
        (SGD(), lambda p, l2: torch.optim.SGD(p, lr=0.01, weight_decay=l2)),
    ],
)  # fmt: skip
def test_200_steps_are_those_of_torch_optim(spec, theirs):
    where = layout()
    mine, reference = embedder(where), embedder(where)
    # Where every row is stepped, or none decays, torch's optimiser is the same on all rows.
    l2 = 1e-3 if spec.every_row else 0.0
    engine, optimizer = spec.build(mine, l2), theirs(reference.parameters(), l2)
    for step in range(200):
        ids, dense, bags, gradient = batch(where, 3, step)
        engine.step(ids, gradient, 0.01, bags)
        optimizer.zero_grad()
        (reference(ids, dense, bags) * gradient).sum().backward()
        optimizer.step()
    for pack, expected in zip(mine.pack, reference.pack, strict=True):
        torch.testing.assert_close(pack, expected, rtol=1e-5, atol=1e-5)


def test_rowwise_adagrad_is_its_formula():
    where = layout()
    embed = embedder(where)
    weight = embed.pack[0].detach().double().clone()
    total = torch.zeros(len(weight), dtype=torch.double)
    engine = RowwiseAdagrad(eps=1e-3).build(embed, 0.1)
    for step in range(5):
        ids, _, bags, gradient = batch(where, 6, step)
        rows, each = next(embed.row_gradients(ids, gradient, bags))
        engine.step(ids, gradient, 0.05, bags)
        for row in set(rows.tolist()):
            g = each[rows == row].double().sum(0) + 0.1 * weight[row]
            total[row] += g.square().mean()
            weight[row] -= 0.05 * g / (sqrt(total[row]) + 1e-3)
    torch.testing.assert_close(embed.pack[0].double(), weight, rtol=1e-5, atol=1e-6)
    assert engine.packs[0][0].shape == (len(weight), 1)


def test_prior_and_decay_are_paid_by_count():
    """Against a plain loop in float64, bags of every pooling included."""
    where, lr, l2, size = layout(), 0.05, 0.1, 30
    embed, epoch = embedder(where), visits(layout())
    weights = [pack.detach().double().numpy().copy() for pack in embed.pack]
    engine = SGD(**PAID).build(embed, l2, epoch)
    counts = [np.zeros(len(weight)) for weight in weights]
    whole = batch(where, 200, 99)
    pairs = embed.row_gradients(whole[0], whole[3], whole[2])
    for count, (rows, _) in zip(counts, pairs, strict=True):
        np.add.at(count, rows.numpy(), 1)
    steps = 5  # of an epoch: 200 rows by 40
    for step in range(200):
        ids, _, bags, gradient = batch(where, size, step)
        pairs = embed.row_gradients(ids, gradient, bags)
        for weight, count, (rows, each) in zip(weights, counts, pairs, strict=True):
            for row in set(rows.tolist()):
                touches = int((rows == row).sum())
                share = min(1, touches / max(count[row], 1))
                weight[row] *= np.exp(-lr * 2.0 * steps * share)
                pull = (l2 + 3.0 * share / size) * weight[row]
                weight[row] -= lr * (each[rows == row].double().sum(0).numpy() + pull)
        engine.step(ids, gradient, lr, bags)
    for mine, expected in zip(embed.pack, weights, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_share_is_at_most_1():
    """A batch may touch a row more often than an epoch is expected to."""
    where = layout()
    embed, epoch = embedder(where), visits(layout(), rows=1, size=1)
    before = embed.pack[0].detach().clone()
    ids, _, bags, gradient = batch(where, 500, 0)
    SGD(decay=1.0).build(embed, 0.0, epoch).step(ids, 0 * gradient, 0.1, bags)
    torch.testing.assert_close(embed.pack[0].detach(), before * np.exp(-0.1))


def test_an_epoch_decays_each_row_as_adamw_does():
    """Whatever its count: as many steps as the epoch has, of 1 − lr · decay each."""
    where, epoch = layout(), visits(layout(), rows=4_000, size=50)
    embed = embedder(where)
    before = [pack.detach().clone() for pack in embed.pack]
    engine = SGD(decay=0.5).build(embed, 0.0, epoch)
    for each in epoch.train.batches(where, 50, shuffle=True):
        bags = [(torch.from_numpy(bag.ids), torch.from_numpy(bag.offsets)) for bag in each.bags]
        engine.step(torch.from_numpy(each.ids), torch.zeros(50, where.width), 0.01, bags)
    for pack, old in zip(embed.pack, before, strict=True):
        torch.testing.assert_close(pack.detach(), old * (1 - 0.01 * 0.5) ** 80, rtol=2e-3, atol=0)


@pytest.mark.parametrize("paid", [{"prior": 1.0}, {"decay": 1.0}])
def test_what_is_paid_by_count_needs_the_counts(paid):
    with pytest.raises(ValueError, match="build needs the visits"):
        LazyAdam(**paid).build(embedder(layout()), 0.0)


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_the_number_of_threads_changes_no_bit(kind):
    where, found = layout(), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            embed = embedder(where)
            engine = EMBEDDINGS[kind](**PAID).build(embed, 0.01, visits(where))
            with kernels.threads(threads):
                for step in range(3):
                    ids, dense, bags, gradient = batch(where, 80, step)
                    x = embed.look_up(ids, dense, bags)
                    engine.step(ids, gradient * x, 0.01, bags)
            found.append(torch.cat([pack.detach().flatten() for pack in embed.pack]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_engines_go_on_from_their_state(kind):
    where = layout()
    straight, broken = embedder(where), embedder(where)
    one, two = (EMBEDDINGS[kind](**FREE).build(each, 0.01) for each in (straight, broken))
    for step in range(6):
        ids, _, bags, gradient = batch(where, 5, step)
        if step == 3:
            state = {name: tensor.clone() for name, tensor in two.state().items()}
            two = EMBEDDINGS[kind](**FREE).build(broken, 0.01)
            two.load(state)
        one.step(ids, gradient, 0.01, bags)
        two.step(ids, gradient, 0.01, bags)
    for mine, other in zip(straight.pack, broken.pack, strict=True):
        assert torch.equal(mine, other)


def test_a_rule_without_a_kernel_says_that_it_runs_in_torch(caplog):
    EMBEDDINGS["sgd"]().build(embedder(layout()), 0.0)
    assert caplog.text == ""
    in_torch("sgd").build(embedder(layout()), 0.0)
    assert "row optimiser sgd_in_torch has no compiled rule: it runs in torch" in caplog.text


def test_an_id_that_is_no_row_is_refused():
    where = layout()
    embed = embedder(where)
    ids, dense, bags, _ = batch(where, 3, 0)
    for wrong in (-1, 10_000):
        ids[0, 1] = wrong
        with pytest.raises(IndexError, match="1 ids of the batch are outside their tables"):
            embed.look_up(ids, dense, bags)


def test_engines_of_several_threads_at_once():
    where = layout()

    def weights(seed, embed):
        engine = LazyAdam(**FREE).build(embed, 0.0)
        for step in range(50):
            ids, dense, bags, gradient = batch(where, 20, seed * 1000 + step)
            engine.step(ids, gradient + embed.look_up(ids, dense, bags), 0.01, bags)
        return embed.pack[0].detach()

    alone = [weights(seed, embedder(where)) for seed in range(4)]
    embeds = [embedder(where) for _ in range(4)]  # drawn here: torch's generator is everyone's
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(weights, range(4), embeds))
    assert all(torch.equal(one, two) for one, two in zip(alone, together, strict=True))


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_a_device_without_kernels_takes_torchs_path(kind):
    embed = embedder(layout()).to("meta")
    engine = EMBEDDINGS[kind](**PAID).build(embed, 0.0, visits(layout()))
    assert not engine.compiled
    assert all(each.device.type == "meta" for state in engine.packs for each in state)


@pytest.mark.slow
def test_without_a_writable_cache_kernels_compile_in_memory():
    code = """
import logging, numba.core.caching as caching
logging.basicConfig(format="%(message)s")
caching.CacheImpl._locator_classes = []
from polyrank.nn import kernels
assert len(kernels._UNCACHED) > 5
import numpy as np
assert kernels.look_up(
    np.zeros((1, 2), np.int32), np.zeros(0, np.int32), np.zeros((0, 1), np.int64),
    np.zeros(0, np.float32), np.zeros((1, 3), np.int64), np.ones((1, 2), np.float32),
    out := np.zeros((2, 2), np.float32), 1, 2,
) == 0
assert out.all()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no folder for compiled kernels can be written") == 1
