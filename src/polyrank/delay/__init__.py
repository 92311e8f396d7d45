"""Conversions that come late: one method per file."""

from __future__ import annotations

from polyrank.delay.mask import DelayMask
from polyrank.delay.method import Delay, EarlyDelay
from polyrank.registry import Registry

DELAY: Registry[type[Delay]] = Registry("delay", {each.name: each for each in (DelayMask,)})

__all__ = ["DELAY", "Delay", "DelayMask", "EarlyDelay"]
