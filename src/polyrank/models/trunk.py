"""What a trunk is: a frozen spec that builds the module in which tasks share parameters.

Letters: B rows, W columns of x, H columns of a task's representation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, get_args

from torch import Tensor, nn

from polyrank.errors import ConfigError, did_you_mean
from polyrank.layout import Layout
from polyrank.nn.mlp import Norm
from polyrank.schema import Task


@dataclass(frozen=True, kw_only=True)
class Trunk(ABC):
    """Base of the trunks that a configuration can name.

    Any other object with such a `build` works as a trunk too, unregistered.

    Args:
        norm: of its layers; None takes the model's.
        dropout: of its layers; None takes the model's.
    """

    norm: Norm | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        name = type(self).__name__
        check_layers(name, self.norm, self.dropout)
        types = {each.name: str(each.type) for each in fields(self)}
        for each in self.sizes:
            value = getattr(self, each)
            if types[each].startswith("Sequence") and not isinstance(value, tuple):
                raise ConfigError(f"{name}: {each} is a list of columns, however: {value!r}")
            check_sizes(f"{name}: {each}", value)

    @abstractmethod
    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> nn.Module:
        """Return a module: (B, layout.width) → {task: (B, H)}."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """The fields that are widths or counts: all of its own, where it does not say."""
        return tuple(each.name for each in fields(self) if each.name not in ("norm", "dropout"))

    @property
    def layers(self) -> dict[str, Any]:
        """The norm and dropout of its layers, for `MLP` and `ExpertBank`."""
        return {"norm": self.norm or "none", "dropout": self.dropout or 0.0}


class TrunkModule(nn.Module):
    """Base of the modules that trunks build; the defaults are those of a plain module."""

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that several tasks share, for balances that read gradients."""
        return []

    def penalties(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return named scalars that are added to the loss after the balance."""
        return {}


def check_layers(where: str, norm: str | None, dropout: float | None) -> None:
    """Refuse a norm or a dropout that no layer has."""
    if norm is not None and norm not in get_args(Norm):
        raise ConfigError(f"{where}: unknown norm {norm!r}{did_you_mean(norm, get_args(Norm))}")
    if dropout is not None and not 0 <= dropout < 1:
        raise ConfigError(f"{where}: dropout is at least 0 and below 1, however: {dropout}")


def check_sizes(where: str, value: object) -> None:
    """Refuse a width or a count that is no whole number of at least 1, alone or in a tuple."""
    for size in value if isinstance(value, tuple) else (value,):
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise ConfigError(
                f"{where}: whole numbers of at least 1 are expected, however: {value!r}"
            )
