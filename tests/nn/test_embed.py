"""The packed embedder against one nn.Embedding a feature."""

from types import SimpleNamespace

import pytest
import torch

from polyrank.errors import DataError
from polyrank.layout import Layout
from polyrank.nn.embed import LocalEmbedder, PackedEmbedder
from polyrank.schema import DenseFeature, Schema, SparseFeature, Task


@pytest.fixture
def layout():
    schema = Schema(
        [
            SparseFeature("a"),
            SparseFeature("wide", embed_dim=3),
            DenseFeature("number", encoding="standard"),
            SparseFeature("b"),
            SparseFeature("a_again", shared_with="a"),
        ],
        [Task("click")],
    )
    vocab = SimpleNamespace(rows={"a": 5, "wide": 4, "b": 3}, columns={"number": 2})
    return Layout(schema, vocab, {"a": 2, "wide": 3, "b": 2})


@pytest.fixture
def ids():
    generator = torch.Generator().manual_seed(0)
    sizes = [5, 4, 3, 5]
    return torch.stack([torch.randint(size, (7,), generator=generator) for size in sizes]).int()


def packed(layout, ids):
    return ids + torch.from_numpy(layout.offsets).int()[:, None]


def test_shared_tables_lie_once(layout):
    assert [(pack.width, pack.rows) for pack in layout.packs] == [(2, 8), (3, 4)]
    assert layout.offsets.tolist() == [0, 0, 5, 0]
    assert layout.width == 2 * 3 + 3 + 2


def test_slices_hold_each_features_embedding(layout, ids):
    embed = PackedEmbedder(layout)
    dense = torch.arange(14.0).view(7, 2)
    x = embed(packed(layout, ids), dense)
    tables = embed.tables()
    names = [feature.name for feature in layout.schema.fields]
    for index, name in enumerate(names):
        table = layout.schema.fields[index].table
        assert torch.equal(x[:, layout.slices[name]], tables[table][ids[index]])
    assert torch.equal(x[:, layout.slices["number"]], dense)


def test_the_twin_gives_the_same_bits(layout, ids):
    embed = PackedEmbedder(layout)
    twin = LocalEmbedder(embed)
    dense = torch.randn(7, 2)
    assert torch.equal(twin(ids, dense), embed(packed(layout, ids), dense))


def test_row_gradients_are_autograds(layout, ids):
    embed = PackedEmbedder(layout)
    gradient = torch.randn(7, layout.width)
    (embed(packed(layout, ids), torch.zeros(7, 2)) * gradient).sum().backward()
    pairs = embed.row_gradients(packed(layout, ids), gradient)
    for pack, (rows, each) in zip(embed.pack, pairs, strict=True):
        summed = torch.zeros_like(pack).index_add_(0, rows, each)
        torch.testing.assert_close(summed, pack.grad)


def test_a_pack_beyond_int32_is_refused():
    schema = Schema([SparseFeature("a"), SparseFeature("b")], [Task("click")])
    vocab = SimpleNamespace(rows={"a": 2**30, "b": 2**30}, columns={})
    with pytest.raises(DataError, match=r"width 16 hold 2,147,483,648 rows.*raise min_count"):
        Layout(schema, vocab, {"a": 16, "b": 16})
