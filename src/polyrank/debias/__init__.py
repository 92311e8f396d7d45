"""Debiased losses of a conditional event: one method per file."""

from __future__ import annotations

from polyrank.debias.dcmt import DCMT
from polyrank.debias.ddpo import DDPO
from polyrank.debias.dr import DR
from polyrank.debias.escm2 import ESCM2DR, ESCM2IPS
from polyrank.debias.ips import IPS
from polyrank.debias.method import Debias
from polyrank.debias.nise import NISE
from polyrank.debias.propensity import PropensityUse, PropensityWeighted
from polyrank.debias.snips import SNIPS
from polyrank.registry import Registry

DEBIAS: Registry[type[Debias]] = Registry(
    "debias",
    {
        "ips": IPS,
        "snips": SNIPS,
        "dr": DR,
        "escm2_ips": ESCM2IPS,
        "escm2_dr": ESCM2DR,
        "dcmt": DCMT,
        "nise": NISE,
        "ddpo": DDPO,
    },
)

__all__ = [
    "DCMT",
    "DDPO",
    "DEBIAS",
    "DR",
    "ESCM2DR",
    "ESCM2IPS",
    "IPS",
    "NISE",
    "SNIPS",
    "Debias",
    "PropensityUse",
    "PropensityWeighted",
]
