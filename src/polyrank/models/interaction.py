"""What an interaction is: a frozen spec that builds the module between x and the trunk.

Letters: B rows, W columns of x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from polyrank.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Interaction(ABC):
    """Base of the interactions that a configuration can name.

    An interaction lets the columns of x meet before tasks part: all trunks, heads and tasks read
    its output, so its parameters are shared by every task.
    """

    @abstractmethod
    def build(self, layout: Layout) -> nn.Module:
        """Return a module: (B, layout.width) → (B, layout.width).

        It keeps the width and the places of the slots, since trunks read `layout.slices`.
        """
