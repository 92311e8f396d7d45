"""What a trunk is: a frozen spec that builds the module in which tasks share parameters.

Letters: B rows, W columns of x, E experts, H columns of a task's representation or of an expert.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

from torch import Tensor, nn

from polyrank import spec
from polyrank.errors import ConfigError, did_you_mean
from polyrank.layout import Layout
from polyrank.nn.mlp import Activation, Norm
from polyrank.schema import Task


@dataclass(frozen=True, kw_only=True)
class Trunk(ABC):
    """Base of the trunks that a configuration can name.

    Any other object with such a `build` works too, unregistered.

    Args:
        norm: of its layers; None takes the model's.
        dropout: of its layers; None takes the model's.
        activation: of its layers, "relu" or "swish"; None takes ReLU, which towers have.
    """

    norm: Norm | None = None
    dropout: float | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        name = type(self).__name__
        check_layers(name, self.norm, self.dropout)
        if self.activation is not None and self.activation not in get_args(Activation):
            hint = did_you_mean(str(self.activation), get_args(Activation))
            raise ConfigError(f"{name}: unknown activation {self.activation!r}{hint}")
        types = {each.name: str(each.type) for each in fields(self)}
        for each in self.sizes:
            value = getattr(self, each)
            if types[each].startswith("Sequence") and not isinstance(value, tuple):
                raise ConfigError(f"{name}: {each} must be a list of widths, got {value!r}")
            check_sizes(f"{name}: {each}", value)

    @abstractmethod
    def build(self, layout: Layout, tasks: tuple[Task, ...]) -> nn.Module:
        """Return a module: (B, layout.width) → {task: (B, H)}."""

    def sets(self, tasks: Sequence[Task]) -> int:
        """Return how many sets of embeddings, each of the model's width, a table holds for it."""
        return 1

    @property
    def sizes(self) -> tuple[str, ...]:
        """The fields that are widths or counts; by default, all that `Trunk` does not have."""
        own = [each.name for each in fields(Trunk)]
        return tuple(each.name for each in fields(self) if each.name not in own)

    @property
    def layers(self) -> dict[str, Any]:
        """The norm, dropout and activation of its layers, for `MLP` and `ExpertBank`."""
        return {
            "norm": self.norm or "none",
            "dropout": self.dropout or 0.0,
            "activation": self.activation or "relu",
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Mixing:
    """What the gates of one level do with its experts on some rows.

    Args:
        experts: their names, in the order of the columns below.
        outputs: of each expert on each row.
        gates: each gate's weight of each expert, by the task or group for which it mixes; a row
            sums to 1, and an expert that the gate does not see has 0.
        sees: the experts that a gate chooses from; a gate that is left out sees all.
        level: its name if the trunk has several, else "".
        residuals: what is added to a mixture, (B, H), by its gate; nothing for a gate left out.

    Raises:
        ConfigError: no gate, shapes that disagree, or a name in `sees` that is no expert.

    Shape:
        outputs: (B, E, H) · each gate: (B, E)

    Examples:
        >>> import torch
        >>> outputs, gates = torch.zeros(3, 2, 4), {"click": torch.full((3, 2), 0.5)}
        >>> Mixing(experts=("0", "1"), outputs=outputs, gates=gates).choice("click")
        ('0', '1')
    """

    experts: tuple[str, ...]
    outputs: Tensor
    gates: Mapping[str, Tensor]
    sees: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    level: str = ""
    residuals: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.gates:
            raise ConfigError("mixing: needs at least one gate; a trunk without gates returns ()")
        shape = tuple(self.outputs.shape)
        if len(shape) != 3 or shape[1] != len(self.experts):
            raise ConfigError(
                "mixing: outputs must have the shape (B, experts, H) with experts = "
                f"{len(self.experts)}, got {shape}"
            )
        for name, weights in self.gates.items():
            if tuple(weights.shape) != shape[:2]:
                raise ConfigError(
                    f"mixing: gate {name!r} must have the shape {shape[:2]}, "
                    f"got {tuple(weights.shape)}"
                )
        for name, seen in self.sees.items():
            for each in seen:
                if each not in self.experts:
                    raise ConfigError(
                        f"mixing: gate {name!r} sees {each!r}, which is no expert"
                        f"{did_you_mean(each, self.experts)}"
                    )

    def choice(self, gate: str) -> tuple[str, ...]:
        """Return the experts that a gate chooses from."""
        return self.sees.get(gate, self.experts)


class TrunkModule(nn.Module):
    """Base of the modules that trunks build; the defaults are those of a plain module."""

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that several tasks share, for balances that read gradients."""
        return []

    def penalties(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return named scalars that are added to the loss after the balance."""
        return {}

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        """Return what its gates do with its experts on x, level by level; () without gates.

        Training never calls it; all diagnostics of experts rest on it.
        """
        return ()


def with_defaults(trunk: Any, norm: Norm | None, dropout: float | None) -> Any:
    """Return a trunk whose layers have this norm and dropout where it does not say.

    What is no `Trunk` has its own.
    """
    if not isinstance(trunk, Trunk):
        return trunk
    norm = norm if trunk.norm is None else trunk.norm
    dropout = dropout if trunk.dropout is None else trunk.dropout
    return replace(trunk, norm=norm, dropout=dropout)


def check_layers(where: str, norm: str | None, dropout: float | None) -> None:
    """Refuse an unknown norm, and a dropout that is no probability below 1."""
    if norm is not None and norm not in get_args(Norm):
        raise ConfigError(f"{where}: unknown norm {norm!r}{did_you_mean(norm, get_args(Norm))}")
    if dropout is not None:
        spec.number(f"{where}: dropout", dropout, least=0, below=1)


def check_sizes(where: str, value: object) -> None:
    """Refuse a width or a count, alone or in a tuple, that is no whole number of at least 1."""
    for size in value if isinstance(value, tuple) else (value,):
        spec.whole(where, size)
