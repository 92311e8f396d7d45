"""Balances against their formulas."""

import math

import pytest
import torch

import polyrank as pr
from polyrank.balance import (
    BALANCES,
    BalanceTerm,
    GradNorm,
    MetaBalance,
    Sum,
    Uncertainty,
)

TERMS = [
    BalanceTerm("click @ all", weight=2.0, constant_loss=0.2, exponent=1.0),
    BalanceTerm("spend|buy @ buy", weight=3.0, constant_loss=1.0, exponent=0.5),
]


def losses():
    return {
        "click @ all": torch.tensor(0.4, requires_grad=True),
        "spend|buy @ buy": torch.tensor(0.7, requires_grad=True),
    }


def test_sum_weighs_each_loss():
    found = losses()
    total = Sum(normalize=False).build(TERMS).backward(found, [])
    assert total.item() == pytest.approx(2 * 0.4 + 3 * 0.7)
    assert [each.grad.item() for each in found.values()] == pytest.approx([2, 3])


def test_normalize_divides_by_the_constant_predictors_loss():
    found = losses()
    Sum(normalize=True).build(TERMS).backward(found, [])
    assert [each.grad.item() for each in found.values()] == pytest.approx([2 / 0.2, 3])


def test_a_constant_target_is_left_as_it_is():
    term = BalanceTerm("t @ all", weight=1.0, constant_loss=0.0, exponent=0.5)
    loss = torch.tensor(0.5, requires_grad=True)
    assert Sum(normalize=True).build([term]).backward({"t @ all": loss}, []).item() == 0.5


def test_uncertainty_equals_its_formula():
    balance = Uncertainty().build(TERMS)
    with torch.no_grad():
        balance.log_variance.copy_(torch.tensor([0.5, -1.0]))
    found = losses()
    total = balance.backward(found, [])
    click = 2 * (math.exp(-0.5) * 0.4 + 0.25)
    spend = 3 * (0.5 * math.exp(1.0) * 0.7 - 0.5)
    assert total.item() == pytest.approx(click + spend, rel=1e-6)
    assert found["click @ all"].grad.item() == pytest.approx(2 * math.exp(-0.5), rel=1e-6)
    expected = [2 * (0.5 - math.exp(-0.5) * 0.4), 3 * (0.5 - 0.5 * math.exp(1.0) * 0.7)]
    assert balance.log_variance.grad.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_registry_names_every_balance():
    assert {
        "sum": Sum, "uncertainty": Uncertainty, "gradnorm": GradNorm, "metabalance": MetaBalance,
        "mgda": pr.MGDA, "pcgrad": pr.PCGrad, "cagrad": pr.CAGrad, "imtl_g": pr.IMTLG,
        "nash": pr.Nash, "aligned": pr.Aligned, "upgrad": pr.UPGrad,
        "dwa": pr.DWA, "stch": pr.STCH,
    } == BALANCES  # fmt: skip
