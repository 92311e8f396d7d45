"""Optimisers of embedding rows: frozen specs, and the engine that applies their rules to the packs.

They stand behind the cut at x: they take the ids of a batch and x's gradient. On the CPU a compiled
rule of `nn.kernels` does the work; on other devices, or without one, the spec's `step` in torch.

Letters: F id features, B rows of the batch, W columns of x, R rows of a pack or some of them, w
columns of the pack.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from polyrank import spec
from polyrank.errors import ConfigError
from polyrank.nn import kernels
from polyrank.nn.embed import Bags, PackedEmbedder, TensorBag

logger = logging.getLogger(__name__)


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
        """Restore what `state` returned."""


def check_numbers(optimizer: Any, decay: str) -> None:
    """Refuse step sizes, decays, betas and eps with which no optimiser works."""
    name = type(optimizer).__name__
    if optimizer.lr is not None:
        spec.number(f"{name}: lr", optimizer.lr, above=0)
    if (value := getattr(optimizer, decay)) is not None:
        spec.number(f"{name}: {decay}", value, least=0)
    betas = getattr(optimizer, "betas", (0, 0))
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"{name}: betas must be two numbers in [0, 1), got {betas}")
    spec.number(f"{name}: eps", getattr(optimizer, "eps", 0), least=0)


@dataclass(frozen=True, kw_only=True)
class RowOptimizer(EmbeddingOptimizer):
    """Base of the optimisers that step a row by the sum of its gradients in the batch.

    Attributes:
        rule: the number of its compiled rule in `nn.kernels`, or None: `step` runs on the CPU too.
        every_row: whether rows outside the batch are stepped too, by a gradient of 0.
        state_columns: of each state, by a name of your choice, the columns; None is those of the
            pack. A compiled rule has at most two.

    Example:
        >>> class SignSGD(RowOptimizer):
        ...     def numbers(self, lr, steps):
        ...         return (lr,)
        ...     def step(self, weight, gradient, state, numbers):
        ...         weight.sub_(gradient.sign(), alpha=numbers[0])
        >>> SignSGD(lr=0.1).numbers(0.1, steps=1)
        (0.1,)
    """

    rule: ClassVar[int | None] = None
    every_row: ClassVar[bool] = False
    state_columns: ClassVar[Mapping[str, int | None]] = {}

    def build(self, embed: PackedEmbedder, l2: float) -> RowEngine:
        """Return the engine."""
        return RowEngine(self, embed, l2)

    @abstractmethod
    def numbers(self, lr: float, steps: int) -> tuple[float, ...]:
        """Return what the rule needs beside l2, at a step of the run counted from 1."""

    @abstractmethod
    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        """Step rows in place, in torch.

        Args:
            weight: the rows.
            gradient: the sum of each one's gradients, with l2 · row.
            state: of the rows, in the order of `state_columns`.
            numbers: of `numbers`.

        Shape:
            weight, gradient: (R, w) · state: (R, columns) each
        """


class RowEngine(EmbeddingEngine):
    """The state of the packs, and the number of steps.

    The tables are dealt out to as many threads as torch has when the engine is built.

    Attributes:
        compiled: whether a rule of `nn.kernels` runs, and not torch.
    """

    def __init__(self, optimizer: RowOptimizer, embed: PackedEmbedder, l2: float) -> None:
        self.spec, self.embed, self.l2 = optimizer, embed, l2
        self.steps = 0
        self.packs = [
            [
                torch.zeros(len(pack), columns or pack.shape[1], device=pack.device)
                for columns in optimizer.state_columns.values()
            ]
            for pack in embed.pack
        ]
        on_cpu = all(pack.device.type == "cpu" for pack in embed.pack)
        self.compiled = on_cpu and optimizer.rule is not None
        if on_cpu and not self.compiled:
            name = type(optimizer).__name__
            logger.warning("row optimiser %s has no compiled rule: it runs in torch", name)
        packs = range(len(embed.pack)) if self.compiled else ()
        self._scratch = [_Scratch(embed, index) for index in packs]

    @torch.no_grad()
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        """Update the rows of one batch."""
        self.steps += 1
        numbers = self.spec.numbers(lr, self.steps)
        if not self.compiled:
            self._step_in_torch(ids, gradient, numbers, bags)
            return
        fields, x_gradient = ids.contiguous().numpy(), gradient.contiguous().numpy()
        of_rule = np.array([self.l2, *numbers], dtype=np.float32)
        for weight, state, scratch in zip(self.embed.pack, self.packs, self._scratch, strict=True):
            plan = scratch.plan
            some = Bags.of(bags, plan.sequences)
            touched, sums = scratch.of(plan.most(len(gradient), some))
            first, second = [*(each.numpy() for each in state), _NONE, _NONE][:2]
            with kernels.ONE_AT_A_TIME:
                kernels.update(
                    fields, some.ids, some.starts, plan.lookups, plan.starts, scratch.order,
                    plan.first_rows, x_gradient, scratch.slot, touched, sums,
                    weight.detach().numpy(), first, second, self.spec.rule, of_rule,
                    self.spec.every_row, kernels.constant(weight.shape[1]),
                )  # fmt: skip

    def _step_in_torch(
        self, ids: Tensor, gradient: Tensor, numbers: Sequence[float], bags: Sequence[TensorBag]
    ) -> None:
        pairs = self.embed.row_gradients(ids, gradient, bags)
        for pack, state, (rows, each) in zip(self.embed.pack, self.packs, pairs, strict=True):
            if self.spec.every_row:
                g = torch.zeros_like(pack).index_add_(0, rows, each).add_(pack, alpha=self.l2)
                self.spec.step(pack.detach(), g, state, numbers)
                continue
            touched, inverse = torch.unique(rows, return_inverse=True)
            g = torch.zeros(len(touched), each.shape[1], device=each.device)
            g.index_add_(0, inverse, each)
            weight, some = pack[touched], [whole[touched] for whole in state]
            self.spec.step(weight, g.add_(weight, alpha=self.l2), some, numbers)
            for whole, part in zip([pack, *state], [weight, *some], strict=True):
                whole[touched] = part

    def state(self) -> dict[str, Tensor]:
        """Return the state of each pack and the step count."""
        return {"steps": torch.tensor(self.steps)} | dict(self._named())

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.steps = int(state["steps"])
        for name, tensor in self._named():
            tensor.copy_(state[name])

    def _named(self) -> list[tuple[str, Tensor]]:
        return [
            (f"{index}.{name}", tensor)
            for index, state in enumerate(self.packs)
            for name, tensor in zip(self.spec.state_columns, state, strict=True)
        ]


_NONE = np.zeros((1, 1), dtype=np.float32)  # in the place of a state that the rule does not have


class _Scratch:
    """What a pack's kernel needs beside its arguments, kept from step to step."""

    def __init__(self, embed: PackedEmbedder, index: int) -> None:
        self.plan = embed.lookups[index]
        self.order = self.plan.order(torch.get_num_threads())
        self.slot = np.full(len(embed.pack[index]), -1, dtype=np.int32)
        self.width = embed.pack[index].shape[1]
        self._touched = np.empty((0, 0), dtype=np.int32)
        self._sums = np.empty((0, 0, self.width), dtype=np.float32)

    def of(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return room for the rows that one table may look up: `touched` and `sums`."""
        if most > self._touched.shape[1] or not len(self._touched):
            threads = len(self.order)
            self._touched = np.empty((threads, most), dtype=np.int32)
            self._sums = np.empty((threads, most + 1, self.width), dtype=np.float32)
            self._sums[:, -1] = 0
        return self._touched, self._sums
