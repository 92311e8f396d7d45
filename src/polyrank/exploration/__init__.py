"""How sure a logit is, and ranking by more than its mean: one way of exploring per file."""

from __future__ import annotations

from polyrank.exploration.method import Exploration, Sure
from polyrank.exploration.thompson import Thompson
from polyrank.exploration.ucb import UCB
from polyrank.registry import Registry

EXPLORATIONS: Registry[type[Exploration]] = Registry(
    "exploration", {"thompson": Thompson, "ucb": UCB}
)

__all__ = ["EXPLORATIONS", "UCB", "Exploration", "Sure", "Thompson"]
