"""From several losses to one step: one method per file."""

from __future__ import annotations

from polyrank.balance.gradnorm import GradNorm
from polyrank.balance.metabalance import MetaBalance
from polyrank.balance.method import Balance, BalanceModule, BalanceTerm, ScalarBalance
from polyrank.balance.pcgrad import PCGrad
from polyrank.balance.sum import Sum
from polyrank.balance.uncertainty import Uncertainty
from polyrank.registry import Registry

BALANCES: Registry[type[Balance]] = Registry(
    "balance",
    {
        "sum": Sum,
        "uncertainty": Uncertainty,
        "gradnorm": GradNorm,
        "metabalance": MetaBalance,
        "pcgrad": PCGrad,
    },
)

__all__ = [
    "BALANCES",
    "Balance",
    "BalanceModule",
    "BalanceTerm",
    "GradNorm",
    "MetaBalance",
    "PCGrad",
    "ScalarBalance",
    "Sum",
    "Uncertainty",
]
