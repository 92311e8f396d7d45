"""Debiased losses of a conditional event: one method per file."""

from __future__ import annotations

from polyrank.debias.method import Debias
from polyrank.registry import Registry

DEBIAS: Registry[type[Debias]] = Registry("debias", {})

__all__ = ["DEBIAS", "Debias"]
