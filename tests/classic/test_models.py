"""The classic models are the native ones: the same weights give the same bits."""

import io

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
import polyrank.tasks
from polyrank.classic import (
    AITM,
    ESMM,
    MMOE,
    PLE,
    DenseFeature,
    SequenceFeature,
    SharedBottom,
    SparseFeature,
)
from polyrank.classic.data import Rows
from polyrank.errors import ConfigError, DataError, SchemaError
from polyrank.train.training import Training

FEATURES = [
    DenseFeature("price"),
    SparseFeature("user", np.int64(9), embed_dim=4),
    SparseFeature("item", 5, embed_dim=6),
    SparseFeature("seen", shared_with="item"),
]
TWO = ["classification", "regression"]
TOWERS = [{"dims": [4]}, {"dims": [3, 2]}]


def rows(count=50, seed=0):
    generator = np.random.default_rng(seed)
    return Rows.of(
        {
            "user": generator.integers(0, 9, count),
            "item": generator.integers(0, 5, count),
            "seen": generator.integers(0, 5, count),
            "price": generator.random(count),
        }
    )


def tensors(columns):
    return {name: torch.from_numpy(column) for name, column in columns.x.items()}


def models():
    return {
        "esmm": ESMM(FEATURES[:2], FEATURES[2:], TOWERS[0], TOWERS[1]),
        "mmoe": MMOE(FEATURES, TWO, 3, {"dims": [8], "dropout": 0.1}, TOWERS),
        "shared_bottom": SharedBottom(FEATURES, TWO, {"dims": [8]}, TOWERS),
        "ple": PLE(FEATURES, TWO, 2, 2, 1, {"dims": [8]}, TOWERS),
        "aitm": AITM(FEATURES, 2, {"dims": [8]}, TOWERS),
    }


@pytest.mark.parametrize("name", ["esmm", "mmoe", "shared_bottom", "ple", "aitm"])
def test_the_same_weights_give_the_same_bits_through_both_doors(name, tmp_path):
    model = models()[name].eval()
    bundle = model.bundle(Training(), 0, pl.DataFrame({"epoch": [1]}), None)
    bundle.save(tmp_path / "bundle")
    native = pr.load(tmp_path / "bundle").predict(dict(rows().x))
    assert np.array_equal(model.predictions(rows()), native[list(model.columns)].to_numpy())
    with torch.no_grad():
        forward = model(tensors(rows()))
    np.testing.assert_allclose(forward.numpy(), model.predictions(rows()), rtol=1e-7)


def test_a_native_number_is_taken_as_it_is_and_that_is_said(caplog):
    two = ["classification"] * 2
    features = [*FEATURES[:1], pr.DenseFeature("n")]
    MMOE(features, two, 2, {"dims": [4]}, [{"dims": [4]}] * 2)
    assert "the numbers of feature 'n' are taken as they are" in caplog.text


def test_experts_and_towers_carry_batch_norm_and_gates_do_not():
    model = models()["mmoe"]
    normed = {name.rsplit(".norm", 1)[0] for name in model.state_dict() if "running_mean" in name}
    assert normed == {
        *(f"ranker.trunk.expert.{index}" for index in range(3)),
        *(f"ranker.head.task_{index}.tower" for index in range(2)),
    }


def test_esmm_gives_cvr_ctr_and_their_product_and_reads_dense_features():
    model = models()["esmm"].eval()
    found = model.predictions(rows())
    assert np.array_equal(found[:, 2], found[:, 0] * found[:, 1])
    moved = rows()
    moved.x["price"][:] += 5
    assert not np.array_equal(model.predictions(moved), found)


def test_every_parameter_gets_a_gradient_and_one_row_is_a_batch():
    for model in models().values():
        model(tensors(rows())).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        one = {name: column[:1] for name, column in tensors(rows()).items()}
        assert model(one).isfinite().all()


def test_an_unseen_id_reads_row_0_in_both_doors():
    model = models()["mmoe"].eval()
    odd, zero = rows(3), rows(3)
    odd.x["user"][:] = [-1, 9, 2**40]
    zero.x["user"][:] = 0
    with torch.no_grad():
        assert torch.equal(model(tensors(odd)), model(tensors(zero)))
    table = model.encode(odd, "test", labels=False)
    assert table.unseen["user"] == 3
    assert np.array_equal(model.predictions(odd), model.predictions(zero))


def test_a_width_that_is_not_given_follows_the_vocabulary():
    model = SharedBottom([SparseFeature("item", 16)], TWO, {"dims": [4]}, TOWERS)
    assert model.layout.width == 12


def test_a_model_is_saved_whole_and_as_plain_weights():
    model = models()["mmoe"].eval()
    whole, plain = io.BytesIO(), io.BytesIO()
    torch.save(model, whole)
    torch.save(model.state_dict(), plain)
    whole.seek(0)
    plain.seek(0)
    again = torch.load(whole, weights_only=False)
    assert np.array_equal(again.predictions(rows()), model.predictions(rows()))
    other = models()["mmoe"].eval()
    other.load_state_dict(torch.load(plain, weights_only=True))
    assert np.array_equal(other.predictions(rows()), model.predictions(rows()))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: SharedBottom([SparseFeature("item")], TWO, {"dims": [4]}, TOWERS),
            SchemaError,
            "'item' needs vocab_size, since",
        ),
        (
            lambda: SharedBottom([pr.DenseFeature("p", "log")], TWO, {"dims": [4]}, TOWERS),
            SchemaError,
            "has the encoding 'log', which is fitted",
        ),
        (
            lambda: SharedBottom([DenseFeature("p", embed_dim=3)], TWO, {"dims": [4]}, TOWERS),
            SchemaError,
            "'p' has 3 numbers",
        ),
        (
            lambda: SharedBottom(["item"], TWO, {"dims": [4]}, TOWERS),
            SchemaError,
            "features must be SparseFeature, SequenceFeature or DenseFeature, got 'item'",
        ),
        (
            lambda: SharedBottom(FEATURES, ["clasification"], {"dims": [4]}, TOWERS),
            ConfigError,
            "did you mean 'classification'",
        ),
        (lambda: SharedBottom(FEATURES, [], {}, []), ConfigError, "task_types is empty"),
        (
            lambda: SharedBottom(FEATURES, TWO, {"dims": [4], "activation": "dice"}, TOWERS),
            ConfigError,
            "activation 'dice' is not supported",
        ),
        (
            lambda: SharedBottom(FEATURES, TWO, {"dim": [4]}, TOWERS),
            ConfigError,
            "bottom_params: unknown key 'dim'; did you mean 'dims'",
        ),
        (
            lambda: SharedBottom(FEATURES, TWO, {"dims": [4]}, TOWERS[:1]),
            ConfigError,
            "1 towers for 2 tasks",
        ),
        (
            lambda: SharedBottom(
                FEATURES, TWO, {"dims": [4]}, [{"dims": [4]}, {"dims": [4], "dropout": 0.5}]
            ),
            ConfigError,
            "different dropouts",
        ),
        (
            lambda: models()["mmoe"]({"user": torch.tensor([1])}),
            DataError,
            "x has no column 'price'",
        ),
        (
            lambda: models()["mmoe"].encode(
                Rows.of({"user": [1], "items": [1], "seen": [0], "price": [0.0]}),
                "train",
                labels=False,
            ),
            DataError,
            "no column 'item'; did you mean 'items'",
        ),
    ],
)
def test_models_that_cannot_be_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("default", ["all", "parent"])
def test_esmm_is_entire_space_whatever_the_default(default, monkeypatch):
    monkeypatch.setattr(polyrank.tasks, "DEFAULT_SPACE", default)
    schema = models()["esmm"].schema
    assert [task.space for task in schema.tasks] == ["all", "all"]


SPECS = [
    pr.Model, pr.Separate, pr.SharedBottom, pr.MMoE, pr.PLE, pr.AITM, pr.Task, pr.SparseFeature,
    pr.SequenceFeature, pr.DenseFeature,
]  # fmt: skip


def test_every_option_is_pinned(without_defaults):
    """No native default reaches a classic model: it stays what it was when one moves."""
    seen = SequenceFeature("liked", 5, 3)
    features = [*FEATURES, seen, SparseFeature("padded", 5, 3, padding_idx=0)]

    def built():
        specs = (SharedBottom(features, TWO, {"dims": [8]}, TOWERS), *models().values())
        return [(each.spec, each.schema) for each in specs]

    before = built()
    without_defaults(*SPECS)
    assert built() == before


def test_what_is_pinned_are_the_papers():
    for name, model in models().items():
        spec = model.spec
        assert (spec.wide, spec.trees, spec.interaction, spec.field_dropout) == (
            False, False, False, 0,
        )  # fmt: skip
        assert spec.norm == "batch"
        assert spec.entire_space == (name == "esmm")
        assert {task.space for task in model.schema.tasks} == {"all"}
        assert not any(task.hold_ancestors for task in model.schema.tasks)
        assert [f.encoding for f in model.schema.features if f.numeric] == ["none"]
