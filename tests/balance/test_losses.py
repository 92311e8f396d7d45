"""Balances that are functions of the losses: equations, states, terms without rows."""

import numpy as np
import pytest
import torch

import polyrank as pr
from polyrank.balance import BalanceTerm
from polyrank.errors import ConfigError

NAMES = ["click @ all", "buy @ all", "spend|buy @ buy"]
TERMS = [
    BalanceTerm(name, weight, constant, 1.0, share)
    for name, weight, constant, share in zip(
        NAMES, [1.0, 2.0, 0.5], [0.3, 0.05, 2.0], [1.0, 1.0, 0.02], strict=True
    )
]


def losses_of(values):
    values = torch.tensor(values, dtype=torch.float64)
    return {name: v.requires_grad_() for name, v in zip(NAMES, values.unbind(), strict=True)}


def gradients(losses):
    return np.array([0.0 if each.grad is None else each.grad.item() for each in losses.values()])


# -- smooth Tchebycheff ------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.01, 0.1, 0.5, 1.0, 100.0])
def test_stch_is_its_equation(mu):
    values = np.array([0.25, 0.06, 1.7])
    losses = losses_of(values)
    total = pr.STCH(mu=mu).build(TERMS).backward(losses, [])
    factor = np.array([each.weight / each.constant_loss for each in TERMS])
    y = factor * values
    share = np.exp((y - y.max()) / mu)
    assert total.item() == pytest.approx(3 * (y.max() + mu * np.log(share.sum())), rel=1e-12)
    expected = 3 * factor * share / share.sum()
    np.testing.assert_allclose(gradients(losses), expected, rtol=1e-10)


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_stch_is_torchjds(mu):
    scalarization = pytest.importorskip("torchjd.scalarization")
    values = torch.tensor([0.25, 0.06, 1.7], dtype=torch.float64)
    factor = torch.tensor([e.weight / e.constant_loss for e in TERMS], dtype=torch.float64)
    theirs = values.clone().requires_grad_()
    expected = 3 * scalarization.STCH(mu, weights=factor)(theirs)
    expected.backward()
    losses = losses_of(values.tolist())
    total = pr.STCH(mu=mu).build(TERMS).backward(losses, [])
    assert total.item() == pytest.approx(expected.item(), rel=1e-10)
    np.testing.assert_allclose(gradients(losses), theirs.grad.numpy(), rtol=1e-10)


def test_stch_leaves_out_a_term_without_rows():
    whole = losses_of([0.25, 0.06, 0.0])
    pr.STCH().build(TERMS).backward(whole, [])
    share = np.exp(np.array([0.25 / 0.3, 2 * 0.06 / 0.05]) / 0.5)
    expected = 3 * np.array([1 / 0.3, 2 / 0.05]) * share / share.sum()
    np.testing.assert_allclose(gradients(whole), [*expected, 0], rtol=1e-9)
    none = losses_of([0.0, 0.0, 0.0])
    assert pr.STCH().build(TERMS).backward(none, []) == 0
    assert not gradients(none).any()


# -- dynamic weight average --------------------------------------------------------------------


def test_dwa_is_its_equation_over_epochs():
    balance = pr.DWA(temperature=0.7).build(TERMS).double()
    epochs = np.array([[0.3, 0.05, 2.0], [0.25, 0.04, 1.9], [0.24, 0.01, 1.95]])
    factor = np.array([each.weight * each.share for each in TERMS])
    for at in range(4):
        expected = np.ones(3)
        if at >= 2:
            share = np.exp(epochs[at - 1] / epochs[at - 2] / 0.7)
            expected = 3 * share / share.sum()
        losses = losses_of([0.2, 0.03, 1.0])
        total = balance.backward(losses, [])
        np.testing.assert_allclose(gradients(losses), factor * expected, rtol=1e-6)
        assert total.item() == pytest.approx((factor * expected * [0.2, 0.03, 1.0]).sum(), rel=1e-6)
        if at < 3:
            values = dict(zip(NAMES, epochs[at], strict=True))
            balance.end_epoch({**values, "penalty t": 1.0})


def test_dwa_waits_for_a_term_without_a_loss():
    balance = pr.DWA().build(TERMS)
    balance.end_epoch(dict.fromkeys(NAMES, 0.0))
    balance.end_epoch(dict.fromkeys(NAMES, 1.0))
    assert balance.weight.tolist() == [1, 1, 1]


# -- all ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [pr.DWA(), pr.STCH()], ids=repr)
def test_a_resumed_run_takes_the_same_steps(balance, tmp_path):
    generator = np.random.default_rng(0)
    click = generator.integers(0, 2, 300)
    rows = {"item": generator.integers(0, 9, 300), "click": click}
    rows["buy"] = click * generator.integers(0, 2, 300)
    schema = pr.Schema(
        [pr.SparseFeature("item")], [pr.Task("click"), pr.Task("buy", given="click")]
    )
    model = pr.Model(tower=[4], embed_dim=4)
    options = {"train": rows, "epochs": 5, "batch_size": 64, "balance": balance}
    straight = pr.fit(schema, model, **options)

    class Interrupted(Exception):
        pass

    def interrupt(progress):
        if progress.event == "epoch" and progress.epoch == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        pr.fit(schema, model, out=tmp_path / "run", progress=interrupt, **options)
    resumed = pr.fit(schema, model, out=tmp_path / "run", resume=True, **options)
    assert resumed.predict(rows).equals(straight.predict(rows))


@pytest.mark.parametrize("kind", [pr.DWA, pr.STCH])
def test_a_single_term_is_refused(kind):
    message = f"{kind.__name__} needs two terms or more to balance, got 'click @ all': use sum"
    with pytest.raises(ConfigError, match=message):
        kind().build(TERMS[:1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pr.STCH(mu=0), "STCH: mu must be a number above 0, got 0"),
        (lambda: pr.DWA(temperature=-1), "DWA: temperature must be a number above 0, got -1"),
        (lambda: pr.DWA(normalize="x"), "DWA: normalize must be true, false or \"rows\", got 'x'"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
