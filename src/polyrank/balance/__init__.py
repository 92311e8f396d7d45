"""From several losses to one step: one method a file."""

from __future__ import annotations

from polyrank.balance.gradnorm import GradNorm
from polyrank.balance.metabalance import MetaBalance
from polyrank.balance.method import Balance, BalanceModule, BalanceTerm, ScalarBalance
from polyrank.balance.sum import Sum
from polyrank.balance.uncertainty import Uncertainty

BALANCES: dict[str, type[Balance]] = {
    "sum": Sum,
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "metabalance": MetaBalance,
}

__all__ = [
    "BALANCES",
    "Balance",
    "BalanceModule",
    "BalanceTerm",
    "GradNorm",
    "MetaBalance",
    "ScalarBalance",
    "Sum",
    "Uncertainty",
]
