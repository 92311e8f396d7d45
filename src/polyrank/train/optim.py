"""Optimisers of embedding rows and of the dense part, and learning-rate schedules.

An embedding optimiser stands behind the cut at x: it takes the ids of a batch and x's gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, inf, pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from polyrank.errors import ConfigError
from polyrank.nn.embed import PackedEmbedder, TensorBag


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


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptimizer(ABC):
    """Base of the optimisers of embedding rows.

    Args:
        lr: step size; None takes the dense part's.
        l2: added to the gradient as l2 · row; None takes the dense part's weight decay.
    """

    lr: float | None = None
    l2: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "l2")

    @abstractmethod
    def build(self, embed: PackedEmbedder, l2: float) -> EmbeddingEngine:
        """Return the engine that updates an embedder."""


class EmbeddingEngine(ABC):
    """Updates an embedder from x's gradient; its state goes into checkpoints."""

    @abstractmethod
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        """Update the rows of one batch: ids (F, B), gradient (B, W) of x, the sequences' bags."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the state as named tensors."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""


@dataclass(frozen=True, kw_only=True)
class LazyAdam(EmbeddingOptimizer):
    """Adam on the rows that a batch touches; the others keep weight and moments.

    The bias correction counts the steps of the run, not those of the row. l2 acts on touched rows
    only. It is not dense Adam: a row that a batch does not touch neither moves nor decays.

    Args:
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.

    Reference:
        Kingma and Ba, ICLR 2015, algorithm 1, applied to the rows of the batch.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def build(self, embed: PackedEmbedder, l2: float) -> LazyAdamEngine:
        """Return the engine."""
        return LazyAdamEngine(self, embed, l2)


class LazyAdamEngine(EmbeddingEngine):
    """Two moments as large as the packs, and the number of steps."""

    def __init__(self, spec: LazyAdam, embed: PackedEmbedder, l2: float) -> None:
        self.spec, self.embed, self.l2 = spec, embed, l2
        self.first = [torch.zeros_like(pack) for pack in embed.pack]
        self.second = [torch.zeros_like(pack) for pack in embed.pack]
        self.steps = 0

    @torch.no_grad()
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        """Update the rows of one batch."""
        self.steps += 1
        beta1, beta2 = self.spec.betas
        size = lr / (1 - beta1**self.steps)
        correction = sqrt(1 - beta2**self.steps)
        pairs = self.embed.row_gradients(ids, gradient, bags)
        for pack, m, v, (rows, each) in zip(
            self.embed.pack, self.first, self.second, pairs, strict=True
        ):
            touched, inverse = torch.unique(rows, return_inverse=True)
            g = torch.zeros(len(touched), each.shape[1], device=each.device)
            g.index_add_(0, inverse, each)
            weight = pack[touched]
            if self.l2:
                g.add_(weight, alpha=self.l2)
            m_rows = m[touched].lerp_(g, 1 - beta1)
            v_rows = v[touched].mul_(beta2).addcmul_(g, g, value=1 - beta2)
            m[touched], v[touched] = m_rows, v_rows
            denominator = v_rows.sqrt_().div_(correction).add_(self.spec.eps)
            pack[touched] = weight.addcdiv_(m_rows, denominator, value=-size)

    def state(self) -> dict[str, Tensor]:
        """Return both moments of each pack and the step count."""
        named = {"steps": torch.tensor(self.steps)}
        for index, (m, v) in enumerate(zip(self.first, self.second, strict=True)):
            named |= {f"{index}.first": m, f"{index}.second": v}
        return named

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.steps = int(state["steps"])
        for index, (m, v) in enumerate(zip(self.first, self.second, strict=True)):
            m.copy_(state[f"{index}.first"])
            v.copy_(state[f"{index}.second"])


@dataclass(frozen=True, kw_only=True)
class DenseAdam(EmbeddingOptimizer):
    """Adam on every row at every step, exactly `torch.optim.Adam`: slow on large tables.

    l2 is coupled, so that a row that no batch touches shrinks at every step.

    Args:
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.

    Reference:
        Kingma and Ba, ICLR 2015, algorithm 1.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def build(self, embed: PackedEmbedder, l2: float) -> DenseAdamEngine:
        """Return the engine."""
        return DenseAdamEngine(self, embed, l2)


class DenseAdamEngine(EmbeddingEngine):
    """torch's Adam over the packs."""

    def __init__(self, spec: DenseAdam, embed: PackedEmbedder, l2: float) -> None:
        self.embed = embed
        self.adam = (
            torch.optim.Adam(
                embed.pack, betas=spec.betas, eps=spec.eps, weight_decay=l2, fused=True
            )
            if len(embed.pack)
            else None
        )

    @torch.no_grad()
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        """Update every row."""
        if self.adam is None:
            return
        pairs = self.embed.row_gradients(ids, gradient, bags)
        for pack, (rows, each) in zip(self.embed.pack, pairs, strict=True):
            pack.grad = torch.zeros_like(pack).index_add_(0, rows, each)
        set_lr(self.adam, lr)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return torch's state of each pack."""
        return {} if self.adam is None else optimizer_state(self.adam)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        if self.adam is not None:
            load_optimizer_state(self.adam, state)


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
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"Cosine: warmup is a share of the steps, however: {self.warmup}")

    def factor(self, step: int, steps: int) -> float:
        """Return what the learning rate is multiplied by at one of `steps` steps."""
        rising = self.warmup * steps
        if step < rising:
            return (step + 1) / (rising + 1)
        return (1 + cos(pi * (step - rising) / max(steps - rising, 1))) / 2


DENSE: dict[str, type[Adam]] = {"adam": Adam}
EMBEDDINGS: dict[str, type[EmbeddingOptimizer]] = {"lazy_adam": LazyAdam, "adam": DenseAdam}
SCHEDULES: dict[str, type[Constant] | type[Cosine]] = {"constant": Constant, "cosine": Cosine}


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
