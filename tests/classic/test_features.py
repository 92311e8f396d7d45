"""Features by the classic arguments, and padded sequences through every model."""

import inspect
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

import polyrank as pr
from polyrank.classic import (
    AITM,
    ESMM,
    MMOE,
    PLE,
    DataGenerator,
    DenseFeature,
    MTLTrainer,
    SequenceFeature,
    SharedBottom,
    SparseFeature,
)
from polyrank.classic.data import Rows
from polyrank.classic.features import raw
from polyrank.errors import DataError, SchemaError

TWO = ["classification", "classification"]
TOWERS = [{"dims": [4]}, {"dims": [4]}]
ITEMS, LENGTH = 12, 5
FEATURES = [
    SparseFeature("user", 9, 4),
    SparseFeature("item", ITEMS, 6),
    SequenceFeature("seen", ITEMS, 6, "mean", "item"),
    SequenceFeature("tags", 7, 6, pooling="sum"),
    DenseFeature("price"),
]


def made(count=300, seed=0):
    """Rows whose click hangs on whether id 3 is in `seen`, and a purchase on `tags`."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, LENGTH + 1, count)
    inside = np.arange(LENGTH) < lengths[:, None]
    x = {
        "user": generator.integers(0, 9, count),
        "item": generator.integers(0, ITEMS, count),
        "seen": np.where(inside, generator.integers(1, ITEMS, (count, LENGTH)), 0),
        "tags": generator.integers(0, 7, (count, 3)),
        "price": generator.random(count),
    }
    click = ((x["seen"] % 3 == 0) & (x["seen"] > 0)).any(axis=1)
    buy = click & (x["tags"] == 2).any(axis=1)
    y = np.stack([buy, click, buy & click], axis=1).astype(float)
    return x, y


def models():
    return {
        "esmm": ESMM(FEATURES[:1], FEATURES[1:], TOWERS[0], TOWERS[1]),
        "mmoe": MMOE(FEATURES, TWO, 3, {"dims": [8]}, TOWERS),
        "shared_bottom": SharedBottom(FEATURES, TWO, {"dims": [8]}, TOWERS),
        "ple": PLE(FEATURES, TWO, 2, 1, 1, {"dims": [8]}, TOWERS),
        "aitm": AITM(FEATURES, 2, {"dims": [8]}, TOWERS),
    }


def tensors(x):
    return {name: torch.from_numpy(column) for name, column in x.items()}


# ------------------------------------------------------------------------------- their arguments


def test_arguments_are_in_upstream_order():
    ids = ["name", "vocab_size", "embed_dim", "shared_with", "padding_idx", "initializer"]
    assert list(inspect.signature(SparseFeature).parameters) == ids
    assert list(inspect.signature(SequenceFeature).parameters) == [*ids[:3], "pooling", *ids[3:]]
    assert list(inspect.signature(DenseFeature).parameters) == ["name", "embed_dim"]


def test_features_are_the_native_ones():
    size = np.int64(16)
    sparse = SparseFeature("item", size)
    assert (sparse.vocab_size, sparse.embed_dim, type(sparse.vocab_size)) == (16, 12, int)
    assert raw([sparse])[0] == pr.SparseFeature("item", 16, 12)
    assert raw([SparseFeature("a", 9, 4, "item")])[0] == pr.SparseFeature(
        "a", embed_dim=4, shared_with="item"
    )
    found = raw([SequenceFeature("seen", 16, 8, "sum", "item")])[0]
    assert found == pr.SequenceFeature(
        "seen", embed_dim=8, shared_with="item", pooling="sum", padding_idx=0
    )
    assert raw([SequenceFeature("seen", 16, padding_idx=None)])[0].padding_idx is None
    price = pr.DenseFeature("price", encoding="none", bins=32)
    assert raw([DenseFeature("price", 1)])[0] == price
    assert sum(feature.embed_dim for feature in FEATURES) == 4 + 6 + 6 + 6 + 1
    assert isinstance(sparse, pr.SparseFeature)
    assert SparseFeature("item", 16) == sparse != SparseFeature("item", 16, padding_idx=0)
    assert deepcopy(FEATURES) == FEATURES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SparseFeature("a", 3, initializer=object()),
            "'a': an initializer is not",
        ),
        (lambda: SequenceFeature("a", 3, initializer=len), "into model.ranker.embed.tables"),
        (lambda: SequenceFeature("a", 3, pooling="concat"), "a SparseFeature per place"),
        (lambda: SequenceFeature("a", 3, pooling="max"), "unknown pooling 'max'"),
        (lambda: SequenceFeature("a", 3, padding_idx="0"), "padding_idx must be a whole number"),
        (lambda: SparseFeature("a", 0), "vocab_size must be a whole number of at least 1"),
        (lambda: DenseFeature("a", 3), "'a' has 3 numbers: give each its own"),
        (
            lambda: raw([pr.DenseFeature("a", ["bins", "values"])]),
            "the encoding .'bins', 'values'., ",
        ),
        (
            lambda: SharedBottom([SequenceFeature("a")], TWO, {}, TOWERS),
            "'a' needs vocab_size, since",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(make, message):
    with pytest.raises(SchemaError, match=message):
        make()


def test_weights_of_ones_own_go_into_the_table():
    model = models()["mmoe"]
    weights = torch.randn(ITEMS, 6)
    model.ranker.embed.tables()["item"].copy_(weights)
    x, _ = made(8)
    found = model.embed(tensors(x))[:, model.layout.slices["item"]]
    assert torch.equal(found, weights[torch.from_numpy(x["item"])])


# ------------------------------------------------------------------------------------- sequences


@pytest.mark.parametrize("name", models())
def test_a_sequence_has_the_same_bits_through_both_doors(name, tmp_path):
    x, y = made()
    model = models()[name]
    y = y if name == "esmm" else y[:, :2]
    train, valid, test = DataGenerator(x, y).generate_dataloader(
        split_ratio=[0.6, 0.2], batch_size=64
    )
    types = ["classification"] * y.shape[1]
    trainer = MTLTrainer(
        model, types, optimizer_params={"lr": 0.01}, n_epoch=2, model_path=tmp_path
    )
    trainer.fit(train, valid)
    predicted = model.predictions(test.dataset)
    assert len(trainer.evaluate(model, test)) == y.shape[1]
    assert np.array_equal(np.array(trainer.predict(model, test)), predicted)
    with torch.no_grad():
        forward = model(tensors(test.dataset.x)).numpy()
    np.testing.assert_allclose(forward, predicted, rtol=1e-6)
    trainer.bundle.save(tmp_path / "bundle")
    native = pr.load(tmp_path / "bundle").predict(dict(test.dataset.x))
    assert np.array_equal(native[list(model.columns)].to_numpy(), predicted)
    other = models()[name].eval()
    other.load_state_dict(torch.load(tmp_path / "model_base_0.pth", weights_only=True))
    assert np.array_equal(other.predictions(test.dataset), predicted)


def test_a_sequence_is_learned_from(tmp_path):
    x, y = made(2_000)
    train, valid, test = DataGenerator(x, y[:, :2]).generate_dataloader(
        split_ratio=[0.6, 0.2], batch_size=64
    )
    model = models()["mmoe"]
    trainer = MTLTrainer(model, TWO, optimizer_params={"lr": 0.01}, n_epoch=8, model_path=tmp_path)
    trainer.fit(train, valid)
    assert min(trainer.evaluate(model, test)) > 0.85


def test_padding_is_left_out_wherever_it_stands():
    model = models()["mmoe"].eval()
    x, _ = made(3)
    x["seen"] = np.array([[3, 4, 0, 0, 0], [0, 3, 0, 4, 0], [4, 0, 3, 0, 0]])
    found = model.embed(tensors(x))[:, model.layout.slices["seen"]]
    expected = model.ranker.embed.tables()["item"][[3, 4]].mean(0)
    torch.testing.assert_close(found, expected.expand(3, -1))
    x["seen"][:] = 0
    assert not model.embed(tensors(x))[:, model.layout.slices["seen"]].any()


def test_ids_out_of_range_are_row_0_and_counted():
    model = models()["mmoe"].eval()
    odd, _ = made(4)
    odd["seen"] = np.array([[3, ITEMS, 0, 0, 0], [-1, 0, 0, 0, 0], [1, 2, 3, 4, 5], [0] * 5])
    table = model.encode(Rows.of(odd), "test", labels=False)
    assert table.unseen["seen"] == 2
    found = model.embed(tensors(odd))[:, model.layout.slices["seen"]]
    rows = model.ranker.embed.tables()["item"]
    torch.testing.assert_close(found[0], rows[[3, 0]].mean(0))
    torch.testing.assert_close(found[1], rows[0])
    with torch.no_grad():
        np.testing.assert_allclose(
            model(tensors(odd)).numpy(), model.predictions(Rows.of(odd)), rtol=1e-6
        )


def test_a_sparse_padding_idx_is_zeros_that_are_not_learned(tmp_path):
    features = [SparseFeature("item", ITEMS, 6, padding_idx=0), DenseFeature("price")]
    model = SharedBottom(features, TWO, {"dims": [4]}, TOWERS)
    x, y = made()
    x = {name: x[name] for name in ("item", "price")}
    before = model.ranker.embed.tables()["item"].clone()
    embedded = model.embed(tensors(x))[:, :6]
    assert not embedded[torch.from_numpy(x["item"] == 0)].any()
    train, _, _ = DataGenerator(x, y[:, :2]).generate_dataloader(batch_size=64)
    trainer = MTLTrainer(
        model, TWO, optimizer_params={"lr": 0.01, "weight_decay": 0}, model_path=tmp_path
    )
    trainer.fit(train, None)
    same = (before == model.ranker.embed.tables()["item"]).all(dim=1)
    assert same.tolist() == [True] + [False] * (ITEMS - 1)
    assert np.shape(trainer.predict(model, train)) == (300, 2)


def test_pooling_is_upstream_arithmetic():
    class Reference(nn.Module):
        def forward(self, table, ids, pooling):
            mask = (ids != 0).float()
            total = (table[ids] * mask[:, :, None]).sum(1)
            return total if pooling == "sum" else total / (mask.sum(1, keepdim=True) + 1e-16)

    x, _ = made(40)
    for pooling in ("mean", "sum"):
        feature = SequenceFeature("seen", ITEMS, 6, pooling)
        model = SharedBottom([feature], TWO, {"dims": [4]}, TOWERS)
        ids = torch.from_numpy(x["seen"])
        expected = Reference()(model.ranker.embed.tables()["seen"], ids, pooling)
        torch.testing.assert_close(model.embed({"seen": ids}), expected)


def test_a_sequence_needs_its_column():
    model = models()["mmoe"]
    x, _ = made(4)
    with pytest.raises(DataError, match="no column 'seen'"):
        model(tensors({name: column for name, column in x.items() if name != "seen"}))
    x["user"] = x["seen"]
    with pytest.raises(DataError, match=r"'user' must have one value per row, got shape \(4, 5\)"):
        model.encode(Rows.of(x), "test", labels=False)


def test_lists_of_all_batches_have_one_length(tmp_path):
    x, y = made(8)
    wide = tensors(x | {"seen": np.zeros((8, LENGTH + 1), int)})
    batches = [(each, torch.from_numpy(y[:, :2])) for each in (tensors(x), wide)]
    trainer = MTLTrainer(models()["mmoe"], TWO, model_path=tmp_path)
    with pytest.raises(
        DataError, match=r"'seen' has batches of different lengths \[\(5,\), \(6,\)\]"
    ):
        trainer.fit(batches, None)


@pytest.mark.parametrize("options", [{"weights": "w"}, {"max_length": 3}])
def test_weights_and_a_longest_list_are_refused(options):
    feature = pr.SequenceFeature("seen", 9, 4, **options)
    message = f"'seen' has {next(iter(options))} .*, which the classic API does not know"
    with pytest.raises(SchemaError, match=message):
        ESMM([feature], [], {"dims": [4]}, {"dims": [4]})


@pytest.mark.parametrize("kind", [pr.SparseFeature, pr.DenseFeature])
def test_a_value_that_is_set_at_prediction_is_refused(kind):
    size = {"vocab_size": 9} if kind is pr.SparseFeature else {}
    message = "feature 'a' has serving 1.*, which the classic API does not know"
    with pytest.raises(SchemaError, match=message):
        ESMM([kind("a", serving=1, **size)], [], {"dims": [4]}, {"dims": [4]})
