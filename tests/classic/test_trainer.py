"""The trainer: what it is asked for, and each trap of the API that it speaks."""

import logging
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error, roc_auc_score
from tests.classic.conftest import DENSE, ITEM, SPARSE, labels
from torch.optim import lr_scheduler

import polyrank as pr
from polyrank.balance.gradnorm import GradNorm
from polyrank.balance.metabalance import MetaBalance
from polyrank.classic import MTLTrainer
from polyrank.classic.optimizers import ExactDense, ExactRows
from polyrank.errors import ConfigError, DataError, LeakageWarning
from polyrank.labels import Binary


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_fit_evaluate_and_predict(esmm, tmp_path):
    model, (train, valid, test), trainer = esmm(n_epoch=4)
    log = trainer.fit(train, valid, mode="esmm", seed=7)
    assert len(log) == 4
    assert [len(line) for line in log] == [5] * 4  # two terms, three label columns
    scores = trainer.evaluate(trainer.model, test)
    predicted = np.array(trainer.predict(trainer.model, test))
    truth = test.dataset.labels
    expected = [roc_auc_score(truth[:, i], predicted[:, i]) for i in range(3)]
    assert scores == pytest.approx(expected, abs=1e-12)
    assert trainer.scorecard.value("ctr @ all", "auc") == pytest.approx(scores[1])
    assert trainer.scorecard.value("cvr @ all", "auc") == pytest.approx(scores[2])
    assert "cvr|ctr @ ctr" in str(trainer.scorecard)
    saved = torch.load(tmp_path / "saved" / "model_esmm_7.pth", weights_only=True)
    assert saved.keys() == model.state_dict().keys()
    assert trainer.bundle.predict(dict(test.dataset.x))["p_ctr"].to_list() == [
        row[1] for row in trainer.predict(model, test)
    ]
    trainer.bundle.save(tmp_path / "bundle")
    assert pr.load(tmp_path / "bundle").history.height == 4


def test_predict_keeps_the_order_and_needs_no_labels(esmm):
    model, (_, _, test), trainer = esmm()
    whole = trainer.predict(model, test)
    without = [x for x, _ in test]
    assert trainer.predict(model, without) == whole
    assert trainer.predict(model, list(reversed(without))) != whole


def test_the_generator_of_torch_is_left_alone_and_a_seed_repeats(mmoe):
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        model, (train, valid, _), trainer = mmoe()
        before = torch.get_rng_state()
        trainer.fit(train, valid, seed=5)
        assert torch.equal(before, torch.get_rng_state())
        results.append(weights(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("optimizer_fn", [None, torch.optim.SGD])
def test_every_option_of_training_is_pinned(mmoe, without_defaults, optimizer_fn):
    """No native default reaches the trainer: a run stays what it was when one moves."""

    def trained():
        torch.manual_seed(3)
        options = {"optimizer_fn": optimizer_fn, "optimizer_params": {"lr": 0.01}, "n_epoch": 1}
        model, (train, valid, _), trainer = mmoe(**options)
        trainer.fit(train, valid, seed=5)
        return trainer.bundle.config["train"], weights(model)

    config, before = trained()
    without_defaults(pr.Training, pr.LazyAdam, pr.Adam, pr.Sum, ExactDense, ExactRows)
    assert config["balance"] == {"kind": "sum", "normalize": False}
    again, after = trained()
    assert again == config
    assert all(torch.equal(before[name], after[name]) for name in before)


# ------------------------------------------------------------------------------------ the traps


def test_a_leaked_label_is_warned_of_once_per_data_set_and_training_goes_on(data, tmp_path):
    x = {name: data[name] for name in SPARSE}
    x["ctcvr_label"] = data["purchase"]
    data = data | {"ctcvr_label": data["purchase"]}
    from polyrank.classic import ESMM, DataGenerator, SparseFeature

    def model():
        features = {name: SparseFeature(name, data[name].max() + 1, embed_dim=4) for name in x}
        return ESMM(
            [features[name] for name in x if name not in ITEM],
            [features[name] for name in x if name in ITEM],
            {"dims": [4]},
            {"dims": [4]},
        )

    y = labels(data, ["cvr", "ctr", "ctcvr"])
    train, valid, _ = DataGenerator(x, y).generate_dataloader(split_ratio=[0.6, 0.4], batch_size=64)
    types = ["classification"] * 3
    with pytest.warns(LeakageWarning, match="'ctcvr_label' equals label column 0") as told:
        MTLTrainer(model(), types, n_epoch=1, model_path=tmp_path).fit(train, valid)
    assert len(told) == 1
    assert not any(repr(name) in str(told[0].message) for name in SPARSE)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MTLTrainer(model(), types, n_epoch=1, model_path=tmp_path).fit(train, valid)


def test_a_joint_label_among_the_features_is_a_leak_too():
    from polyrank.classic.data import Rows
    from polyrank.classic.trainer import leaks

    first, second = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    rows = Rows.of({"both": first * second, "id": [3, 1, 2, 0]}, np.stack([first, second], axis=1))
    assert list(leaks(rows, rows.x, [Binary(), Binary()])) == [
        ("both", "the joint label of columns 0 and 1")
    ]


def test_two_task_types_of_esmm_train_ctcvr_all_the_same(esmm, caplog):
    model, (train, valid, test), trainer = esmm(task_types=["classification"] * 2)
    assert "CTR and CTCVR are trained all the same" in caplog.text
    before = weights(model)
    trainer.fit(train, valid)
    tower = [name for name in before if name.startswith("ranker.head.cvr.tower.linear")]
    assert tower
    assert all(not torch.equal(before[name], model.state_dict()[name]) for name in tower)
    assert len(trainer.evaluate(model, test)) == 3


def test_the_best_epoch_is_kept_though_patience_never_ends(mmoe):
    model, (train, valid, _), trainer = mmoe(
        n_epoch=8, optimizer_params={"lr": 0.1, "weight_decay": 0}, earlystop_taskid=1
    )
    log = trainer.fit(train, valid)
    assert len(log) == 8
    best = max(line[3] for line in log)
    assert log[-1][3] < best
    assert trainer.evaluate(model, valid)[1] == pytest.approx(best, abs=1e-12)


def test_patience_ends_training(mmoe):
    _, (train, valid, _), trainer = mmoe(
        n_epoch=30, earlystop_patience=2, optimizer_params={"lr": 0.1, "weight_decay": 0}
    )
    log = trainer.fit(train, valid)
    assert len(log) < 30
    scores = [line[2] for line in log]
    assert scores.index(max(scores)) == len(log) - 3


def test_a_regression_stops_at_its_lowest_error(mmoe, data):
    y = np.stack([data["D508"] * 10, data["click"]], axis=1)
    model, (train, valid, test), trainer = mmoe(
        ["regression", "classification"], y, n_epoch=6, earlystop_mode="max"
    )
    log = trainer.fit(train, valid)
    errors = [line[2] for line in log]
    assert errors[0] > min(errors)
    assert trainer.evaluate(model, valid)[0] == pytest.approx(min(errors), abs=1e-12)
    predicted = np.array(trainer.predict(model, test))
    expected = mean_squared_error(test.dataset.labels[:, 0], predicted[:, 0])
    assert trainer.evaluate(model, test)[0] == pytest.approx(expected)


def test_validation_rows_without_a_positive_leave_the_choice_to_the_loss(esmm):
    model, (train, valid, _), trainer = esmm()
    valid.dataset.y[:, [0, 2]] = 0
    with pytest.warns(UserWarning, match="label column 0 has no score .*validation loss decides"):
        log = trainer.fit(train, valid)
    assert log[0][2] is None
    with pytest.warns(UserWarning, match="label column [02] has no score") as told:
        scores = trainer.evaluate(model, valid)
    assert len(told) == 2
    assert scores[0] is scores[2] is None
    assert 0 < scores[1] < 1


def test_an_unseen_id_is_row_0_and_counted(mmoe, caplog):
    model, (train, valid, test), trainer = mmoe()
    test.dataset.x["101"][:] = 99
    valid.dataset.x["101"][:4] = -1
    with caplog.at_level(logging.INFO, "polyrank"):
        trainer.fit(train, valid)
    assert trainer.unseen["valid"]["101"] == 4
    assert "valid: unseen or rare ids of 120 rows: 101 4" in caplog.text
    assert None not in trainer.evaluate(model, test)


def test_mixed_losses_leave_the_classification_what_it_had(mmoe, data):
    alone = labels(data, ["ctr"])
    _, (train, valid, _), trainer = mmoe(["classification"], alone, n_epoch=8)
    single = max(line[1] for line in trainer.fit(train, valid))
    spend = 300_000 + 100_000 * data["D508"]
    torch.manual_seed(0)
    _, (train, valid, _), trainer = mmoe(
        ["classification", "regression"], np.column_stack([alone, spend]), n_epoch=8
    )
    mixed = max(line[2] for line in trainer.fit(train, valid))
    assert mixed >= 0.95 * single
    assert single > 0.7


def test_the_last_epoch_is_kept_without_validation_rows(mmoe, caplog):
    _, (train, _, _), trainer = mmoe()
    assert len(trainer.fit(train, None)) == 2
    assert "the last epoch is kept" in caplog.text


# ---------------------------------------------------------------- optimisers, schedules, balances

SCHEDULERS = [
    (lr_scheduler.StepLR, {"step_size": 1, "gamma": 0.5}),
    (lr_scheduler.MultiStepLR, {"milestones": [1, 2], "gamma": 0.1}),
    (lr_scheduler.ExponentialLR, {"gamma": 0.9}),
    (lr_scheduler.CosineAnnealingLR, {"T_max": 3}),
    (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 2}),
    (lr_scheduler.LambdaLR, {"lr_lambda": lambda epoch: 0.9**epoch}),
    (lr_scheduler.MultiplicativeLR, {"lr_lambda": lambda _: 0.9}),
    (lr_scheduler.LinearLR, {"total_iters": 3}),
    (lr_scheduler.ConstantLR, {"total_iters": 2}),
    (lr_scheduler.PolynomialLR, {"total_iters": 3}),
    (lr_scheduler.CyclicLR, {"base_lr": 1e-3, "max_lr": 1e-2, "step_size_up": 2}),
    (lr_scheduler.OneCycleLR, {"max_lr": 1e-2, "total_steps": 10}),
    (lr_scheduler.ReduceLROnPlateau, {"patience": 0}),
    (lr_scheduler.ReduceLROnPlateau, {"patience": 0, "mode": "max"}),
]


@pytest.mark.parametrize("optimizer", [None, torch.optim.Adam])
@pytest.mark.parametrize(("scheduler", "params"), SCHEDULERS)
def test_every_scheduler_is_stepped_once_an_epoch(mmoe, scheduler, params, optimizer, monkeypatch):
    from polyrank.classic import optimizers

    rates = []
    factor = optimizers.EpochSchedule.factor

    def noted(self, step, steps, improved=()):
        rates.append(factor(self, step, steps, improved) * self.lr)
        return rates[-1] / self.lr

    monkeypatch.setattr(optimizers.EpochSchedule, "factor", noted)
    _, (train, valid, _), trainer = mmoe(
        n_epoch=3, scheduler_fn=scheduler, scheduler_params=params, optimizer_fn=optimizer
    )
    trainer.fit(train, valid)
    if scheduler is lr_scheduler.ReduceLROnPlateau:
        return
    alone = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    reference, expected = scheduler(alone, **params), []
    for _ in range(3):
        expected.append(alone.param_groups[0]["lr"])
        alone.step()
        reference.step()
    assert rates[:: len(train)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("function", "params"),
    [
        (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
        (torch.optim.AdamW, {"lr": 0.01}),
        (torch.optim.Adagrad, {"lr": 0.01}),
        (torch.optim.Adam, {"lr": 0.01, "weight_decay": 1e-3, "amsgrad": True}),
    ],
)
def test_an_explicit_class_is_used_exactly_on_all_parameters(mmoe, function, params):
    from copy import deepcopy

    model, (train, valid, _), trainer = mmoe(
        optimizer_fn=function, optimizer_params=params, n_epoch=3
    )
    train.batch_size = len(train.dataset)  # a step an epoch, so that the order does not matter
    twin = deepcopy(model)
    trainer.fit(train, valid, seed=1)
    # The same steps by torch alone, from the heads' base rates.
    from polyrank.train.heads import base_rates

    twin.prepare({}, base_rates(twin.encode(train.dataset, "train")))
    reference = function(twin.parameters(), **params)
    x = {name: torch.from_numpy(column) for name, column in train.dataset.x.items()}
    y = torch.from_numpy(train.dataset.labels).float()
    best = int(np.argmax(trainer.history["valid task_0 @ all auc"].to_numpy())) + 1
    twin.train()
    for _ in range(best):
        reference.zero_grad()
        torch.nn.functional.binary_cross_entropy(twin(x), y).backward()
        reference.step()
    its = twin.state_dict()
    for name, found in model.state_dict().items():
        # Before a batch norm the gradient of a bias is 0 but for rounding, which Adam magnifies.
        if ".linear." not in name and ".norm." not in name:
            torch.testing.assert_close(found, its[name], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("params", "balance"),
    [
        ({"method": "uwl"}, pr.Uncertainty()),
        ({"method": "gradnorm"}, GradNorm()),
        ({"method": "gradnorm", "alpha": 1.5, "lr": 0.1}, GradNorm(alpha=1.5, lr=0.1)),
        ({"method": "metabalance"}, MetaBalance()),
        ({"method": "metabalance", "relax": 1.0}, MetaBalance(relax=1.0)),
    ],
)
@pytest.mark.parametrize("types", [("classification",) * 2, ("regression", "classification")])
def test_adaptive_methods_are_the_native_balances_and_learn(mmoe, data, types, params, balance):
    y = labels(data, ["ctr", "ctr"]) if types[0] != "regression" else None
    y = np.stack([data["D508"] * 1e5, data["click"]], axis=1) if y is None else y
    model, (train, valid, test), trainer = mmoe(types, y, n_epoch=8, adaptive_params=params)
    assert trainer.balance == balance
    before = weights(model)
    trainer.fit(train, valid)
    moved = [name for name, old in before.items() if not torch.equal(old, weights(model)[name])]
    assert {name.split(".")[1] for name in moved if name.startswith("ranker.")} == {
        "embed", "trunk", "head"
    }  # fmt: skip
    scores = trainer.evaluate(model, test)
    assert scores[1] > 0.6
    assert set(weights(model)) == set(before)  # a balance's weights are none of the model's


@pytest.mark.parametrize("method", ["uwl", "gradnorm", "metabalance"])
def test_adaptive_methods_train_every_model(esmm, method):
    model, (train, valid, test), trainer = esmm(adaptive_params={"method": method})
    trainer.fit(train, valid)
    assert None not in trainer.evaluate(model, test)


def test_regularisation_shrinks_what_it_names(mmoe):
    def norms(**params):
        torch.manual_seed(1)
        model, (train, valid, _), trainer = mmoe(regularization_params=params)
        trainer.fit(train, valid)
        table = float(model.ranker.embed.pack[0].detach().abs().sum())
        dense = [p for n, p in model.named_parameters() if "linear" in n]
        return table, float(sum(p.detach().abs().sum() for p in dense))

    table, dense = norms()
    assert norms(embedding_l2=1.0)[0] < 0.7 * table
    assert norms(embedding_l1=0.1)[0] < 0.7 * table
    assert norms(dense_l2=0.1)[1] < 0.95 * dense
    assert norms(dense_l1=0.01)[1] < 0.95 * dense


# --------------------------------------------------------------------------------- refused by name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": [0, 1]}, r"gpus=\[0, 1\]: several GPUs are not supported"),
        ({"model_logger": object()}, "model_logger is not supported: trainer.history"),
        (
            {"task_types": ["regression"] * 3},
            "ESMM has three classification tasks",
        ),
        (
            {"earlystop_taskid": 3},
            "earlystop_taskid must be a whole number .* at most 2, got 3",
        ),
        (
            {"earlystop_patience": 0},
            "earlystop_patience must be a whole .* 1, got 0",
        ),
        ({"adaptive_params": {"method": "uw"}}, "unknown method 'uw'; did you mean 'uwl'"),
        ({"optimizer_params": {"lr": 1, "amsgrad": True}}, "unknown key 'amsgrad'"),
        ({"optimizer_fn": torch.optim.LBFGS}, "LBFGS evaluates the loss several times"),
        ({"regularization_params": {"l2": 1}}, "unknown key 'l2'"),
        (
            {"regularization_params": {"dense_l2": -1}},
            "dense_l2 must be a number .* 0, got -1",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(esmm, options, message):
    with pytest.raises(ConfigError, match=message):
        esmm(**options)


def test_a_path_that_cannot_be_written_is_refused_before_training(esmm, tmp_path):
    (tmp_path / "file").write_text("")
    _, (train, valid, _), trainer = esmm(model_path=tmp_path / "file" / "x")
    with pytest.raises(ConfigError, match="the weights cannot be written to"):
        trainer.fit(train, valid)
    _, (train, valid, _), trainer = esmm(model_path=tmp_path)
    with pytest.raises(ConfigError, match="the weights cannot be written to"):
        trainer.fit(train, valid, mode="a/b")
    assert trainer.history.is_empty()


def test_a_one_shot_loader_and_a_list_of_batches_train(esmm):
    _, (train, valid, _), trainer = esmm()
    expected = trainer.fit(train, valid)
    for source in (list(train), iter(list(train))):
        _, _, again = esmm()
        assert len(again.fit(source, valid)) == len(expected)


def test_a_schedule_that_ends_with_the_last_epoch_trains(esmm):
    _, (train, valid, _), trainer = esmm(
        n_epoch=3,
        scheduler_fn=torch.optim.lr_scheduler.OneCycleLR,
        scheduler_params={"max_lr": 0.01, "total_steps": 3},
    )
    assert len(trainer.fit(train, valid)) == 3


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x"])
def test_a_device_that_is_not_here_is_refused(esmm, device):
    with pytest.raises(ConfigError, match="cannot be used here"):
        esmm(device=device)


def test_what_cannot_be_asked_is_refused(esmm, mmoe, data):
    y = labels(data, ["ctr", "cvr", "ctcvr"])
    _, (train, valid, _), trainer = esmm(y=y)
    with pytest.raises(DataError, match="the first two look swapped"):
        trainer.fit(train, valid)
    y[:, 2] = 1
    _, (train, valid, _), trainer = esmm(y=y)
    with pytest.raises(DataError, match="the third must be the product of the others"):
        trainer.fit(train, train)
    _, (train, valid, _), trainer = esmm(y=y[:, :2])
    with pytest.raises(DataError, match="ESMM has 3 tasks, but the labels have 2 columns"):
        trainer.fit(train, valid)
    with pytest.raises(ConfigError, match="there is no bundle yet: call fit first"):
        _ = trainer.bundle
    with pytest.raises(ConfigError, match="export_onnx is not supported"):
        trainer.export_onnx("model.onnx")
    model, _, _ = mmoe()
    with pytest.raises(ConfigError, match="the trainer's task_types are"):
        MTLTrainer(model, ["classification", "regression"])
    _, (train, _, _), trainer = mmoe(scheduler_fn=lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(ConfigError, match="needs validation rows"):
        trainer.fit(train, None)


def test_dense_columns_are_there(data):
    assert set(DENSE) < set(data)
