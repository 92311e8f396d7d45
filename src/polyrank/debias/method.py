"""What a debiased loss is."""

from __future__ import annotations

from dataclasses import dataclass

from polyrank.loss_method import LossMethod


@dataclass(frozen=True, kw_only=True)
class Debias(LossMethod):
    """A method for a conditional event; it replaces the `space` of the task."""

    axis = "debias"
