"""From several losses to one step: one method per file."""

from __future__ import annotations

from polyrank.balance.aligned import Aligned
from polyrank.balance.cagrad import CAGrad
from polyrank.balance.dwa import DWA
from polyrank.balance.gradnorm import GradNorm
from polyrank.balance.imtl_g import IMTLG
from polyrank.balance.metabalance import MetaBalance
from polyrank.balance.method import Balance, BalanceModule, BalanceTerm, ScalarBalance
from polyrank.balance.mgda import MGDA
from polyrank.balance.nash import Nash
from polyrank.balance.pcgrad import PCGrad
from polyrank.balance.stch import STCH
from polyrank.balance.sum import Sum
from polyrank.balance.uncertainty import Uncertainty
from polyrank.balance.upgrad import UPGrad
from polyrank.registry import Registry

BALANCES: Registry[type[Balance]] = Registry(
    "balance",
    {
        "sum": Sum,
        "uncertainty": Uncertainty,
        "gradnorm": GradNorm,
        "metabalance": MetaBalance,
        "mgda": MGDA,
        "pcgrad": PCGrad,
        "cagrad": CAGrad,
        "imtl_g": IMTLG,
        "nash": Nash,
        "aligned": Aligned,
        "upgrad": UPGrad,
        "dwa": DWA,
        "stch": STCH,
    },
)

__all__ = [
    "BALANCES",
    "DWA",
    "IMTLG",
    "MGDA",
    "STCH",
    "Aligned",
    "Balance",
    "BalanceModule",
    "BalanceTerm",
    "CAGrad",
    "GradNorm",
    "MetaBalance",
    "Nash",
    "PCGrad",
    "ScalarBalance",
    "Sum",
    "UPGrad",
    "Uncertainty",
]
