"""Adam of the dense part, the state of any torch optimiser, and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor, nn

from polyrank import spec
from polyrank.train.optim.engine import check_numbers


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam of the dense part, with coupled weight decay as in `torch.optim.Adam`.

    Args:
        lr: step size; None takes the run's.
        weight_decay: added to the gradient as weight_decay · parameter.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.

    Reference:
        Kingma and Ba, ICLR 2015, algorithm 1.
    """

    lr: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_numbers(self, "weight_decay")

    def build(self, groups: Sequence[dict], lr: float) -> torch.optim.Optimizer:
        """Return the optimiser of parameter groups."""
        return torch.optim.Adam(groups, lr=lr, betas=self.betas, eps=self.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return a torch optimiser's state as named tensors: {"3.exp_avg": …}."""
    return {
        f"{index}.{name}": tensor
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_state` returned."""
    nested: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        index, name = key.split(".", 1)
        nested.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": nested, "param_groups": groups})


def parameter_groups(
    dense: Sequence[nn.Parameter], balance: Sequence[nn.Parameter], weight_decay: float
) -> list[dict]:
    """Return the groups of the dense optimiser: the balance's own parameters are not decayed."""
    groups = [{"params": list(dense), "weight_decay": weight_decay}]
    if balance:
        groups.append({"params": list(balance), "weight_decay": 0.0})
    return groups


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The learning rate stays."""

    def factor(self, step: int, steps: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """The learning rate falls to 0 along half a cosine, after a linear warm-up.

    Args:
        warmup: share of the steps that rise linearly from 0.

    Example:
        >>> [round(Cosine().factor(step, 4), 2) for step in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]

    Reference:
        Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts.
    """

    warmup: float = 0.0

    def __post_init__(self) -> None:
        spec.number("Cosine: warmup", self.warmup, least=0, most=1)

    def factor(self, step: int, steps: int) -> float:
        """Return what the learning rate is multiplied by at one of `steps` steps."""
        rising = self.warmup * steps
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + cos(pi * (step - rising) / max(steps - rising, 1))) / 2
