"""Conversions that come late: one method per file."""

from __future__ import annotations

from polyrank.delay.defer import DEFER
from polyrank.delay.dfm import DFM
from polyrank.delay.es_dfm import ESDFM
from polyrank.delay.fnw import FNW
from polyrank.delay.mask import DelayMask
from polyrank.delay.method import Delay, EarlyDelay
from polyrank.registry import Registry

DELAY: Registry[type[Delay]] = Registry(
    "delay", {each.name: each for each in (DelayMask, DFM, FNW, ESDFM, DEFER)}
)

__all__ = ["DEFER", "DELAY", "DFM", "ESDFM", "FNW", "Delay", "DelayMask", "EarlyDelay"]
