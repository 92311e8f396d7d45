"""Numbers with which no optimiser works."""

from __future__ import annotations

from math import inf
from typing import Any

from polyrank.errors import ConfigError


def check_numbers(spec: Any, decay: str) -> None:
    """Refuse step sizes, decays, betas and eps with which no optimiser works."""
    name = type(spec).__name__
    if spec.lr is not None and not 0 < spec.lr < inf:
        raise ConfigError(f"{name}: lr must be above 0, however: {spec.lr}")
    value = getattr(spec, decay)
    if value is not None and not 0 <= value < inf:
        raise ConfigError(f"{name}: {decay} must be at least 0, however: {value}")
    betas = getattr(spec, "betas", (0, 0))
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"{name}: betas are two numbers from 0 to below 1, however: {betas}")
    if not getattr(spec, "eps", 0) >= 0:
        raise ConfigError(f"{name}: eps must be at least 0, however: {spec.eps}")
