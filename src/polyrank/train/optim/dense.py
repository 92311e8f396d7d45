"""Adam of the dense part, and what the trainer needs of any torch optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyrank.train.optim.limits import check_numbers


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
    """Take over what `optimizer_state` returned."""
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
