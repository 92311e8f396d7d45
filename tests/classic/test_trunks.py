"""PLE and AITM by upstream's arguments: named weights, training, and the native model's step."""

import inspect

import numpy as np
import pytest
import torch
from tests.classic.conftest import SPARSE, labels, sample
from torch.nn.functional import binary_cross_entropy_with_logits

import polyrank as pr
from polyrank.classic import AITM, PLE, DataGenerator, DenseFeature, MTLTrainer, SparseFeature
from polyrank.classic.features import raw, vocab_of
from polyrank.models import aitm, ple
from polyrank.models.outputs import Tensors
from polyrank.train.heads import base_rates

TWO = ["classification", "classification"]
TOWERS = [{"dims": [4]}, {"dims": [4]}]
USED = SPARSE[:4]
NAMED = {
    "ple": [
        "level.0.expert.task_0.1.linear.0.weight",
        "level.0.shared.0.norm.0.weight",
        "level.0.gate.task_1.weight",
        "level.0.shared_gate.task.task_0.weight",
        "level.0.shared_gate.shared.weight",
        "level.1.expert.task_1.0.linear.0.bias",
        "level.1.gate.task_0.weight",
    ],
    "aitm": [
        "tower.task_0.linear.0.weight",
        "tower.task_1.norm.0.weight",
        "transfer.task_1.linear.0.weight",
        "attention.task_1.h1.weight",
        "attention.task_1.h2.weight",
        "attention.task_1.h3.weight",
    ],
}
TRUNKS = {
    "ple": ple.PLE(levels=2, task_experts=2, shared_experts=1, hidden=[8], dropout=0.0),
    "aitm": aitm.AITM(hidden=[8], chain=["task_0", "task_1"], dropout=0.0),
}


@pytest.fixture(scope="module")
def data():
    return sample(3_000)


def features(data):
    ids = [SparseFeature(name, data[name].max() + 1, 4) for name in USED]
    return [*ids, DenseFeature("D508")]


def made(name, data):
    given = features(data)
    if name == "ple":
        return PLE(given, TWO, 2, 2, 1, {"dims": [8]}, TOWERS)
    return AITM(given, 2, {"dims": [8]}, TOWERS)


def native_spec(name):
    return pr.Model(
        trunk=TRUNKS[name], interaction=False, tower=[4], norm="batch", dropout=0, field_dropout=0,
        wide=False,
    )  # fmt: skip


def loaders(data, **options):
    x = {name: data[name] for name in [*USED, "D508"]}
    y = labels(data, ["ctr", "cvr"])
    return DataGenerator(x, y).generate_dataloader(**options)


def test_arguments_are_in_upstream_order():
    assert list(inspect.signature(PLE).parameters) == [
        "features", "task_types", "n_level", "n_expert_specific", "n_expert_shared",
        "expert_params", "tower_params_list",
    ]  # fmt: skip
    assert list(inspect.signature(AITM).parameters) == [
        "features", "n_task", "bottom_params", "tower_params_list"
    ]  # fmt: skip


@pytest.mark.parametrize("name", TRUNKS)
def test_weights_are_named_by_their_part_and_task(name, data):
    model = made(name, data)
    weights = model.state_dict()
    for each in NAMED[name]:
        assert f"ranker.trunk.{each}" in weights
    assert "ranker.head.task_1.output.weight" in weights
    assert model.spec.trunk == TRUNKS[name]
    gates = [key for key in weights if "gate" in key or "attention" in key]
    assert gates
    assert not [key for key in gates if "norm" in key]
    shared = [each for each in weights if ".level.0.shared." in each and "linear.0.weight" in each]
    assert len(shared) == (name == "ple")


@pytest.mark.parametrize("name", TRUNKS)
def test_it_trains_is_scored_saved_and_loaded(name, data, tmp_path):
    train, valid, test = loaders(data, split_ratio=[0.6, 0.2], batch_size=64)
    model = made(name, data)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = MTLTrainer(model, TWO, optimizer_params={"lr": 0.01}, n_epoch=6, model_path=tmp_path)
    log = trainer.fit(train, valid, mode=name, seed=3)
    assert len(log) == 6
    scores = trainer.evaluate(model, test)
    assert isinstance(scores, list)
    assert len(scores) == 2
    assert min(scores) > 0.6
    after = torch.load(tmp_path / f"model_{name}_3.pth", weights_only=True)
    assert after.keys() == before.keys()
    still = [key for key, value in before.items() if torch.equal(value, after[key])]
    assert still == ["target_mean", "target_deviation"]
    other = made(name, data).eval()
    other.load_state_dict(after)
    assert np.array_equal(trainer.predict(other, test), trainer.predict(model, test))
    trainer.bundle.save(tmp_path / "bundle")
    native = pr.load(tmp_path / "bundle")
    assert native.model == native_spec(name)
    found = native.predict(dict(test.dataset.x))[list(model.columns)].to_numpy()
    assert np.array_equal(found, np.array(trainer.predict(model, test)))


@pytest.mark.parametrize("name", TRUNKS)
def test_one_step_is_the_native_step_from_the_same_weights(name, data, tmp_path):
    train, _, _ = loaders(data, batch_size=len(data["D508"]))
    model = made(name, data)
    spec = native_spec(name)
    given = raw(features(data))
    schema = pr.Schema(given, [pr.Task(f"task_{index}", weight=0.5) for index in range(2)])
    ranker = spec.build(spec.layout(schema, vocab_of(given)))
    ranker.load_state_dict(model.ranker.state_dict())
    table = model.encode(train.dataset, "train")
    ranker.start_at(base_rates(table))
    # The engine's own order of rows: in another a ReLU at 0 may round to the other side.
    batch = next(table.batches(ranker.layout, len(table), shuffle=True, seed=0, epoch=1))
    ids, dense, bags, y, *_ = Tensors.of(batch, "cpu")
    scores = ranker.train()(ranker.embed(ids, dense, bags))
    losses = [
        binary_cross_entropy_with_logits(scores.logits[f"task_{i}"], y[:, i]) for i in range(2)
    ]
    assert bool(scores.penalties) == (name == "aitm")
    loss = sum(losses) / 2 + sum(scores.penalties.values())
    sgd = torch.optim.SGD(ranker.parameters(), lr=0.5)
    loss.backward()
    sgd.step()
    trainer = MTLTrainer(model, TWO, torch.optim.SGD, {"lr": 0.5}, n_epoch=1, model_path=tmp_path)
    trainer.fit(train, None, seed=0)
    for key, its in ranker.state_dict().items():
        torch.testing.assert_close(model.ranker.state_dict()[key], its, rtol=1e-5, atol=1e-6)


def test_aitm_has_classifications_only(data):
    with pytest.raises(pr.PolyrankError, match="the trainer's task_types are"):
        MTLTrainer(made("aitm", data), ["classification", "regression"])
