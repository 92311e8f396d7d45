"""Optimisers that step a row by the sum of its gradients in the batch, and the engine they share.

On the CPU a rule of `nn.kernels` does the work; on any other device the spec's `step` does, in
torch.

Letters: F id features, B rows of the batch, W columns of x, R rows of a pack or some of them, w
columns of the pack.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from polyrank.nn import kernels
from polyrank.nn.embed import PackedEmbedder, TensorBag
from polyrank.nn.lookups import Bags
from polyrank.train.optim.method import EmbeddingEngine, EmbeddingOptimizer


@dataclass(frozen=True, kw_only=True)
class RowOptimizer(EmbeddingOptimizer):
    """Base of the optimisers that step a row by the sum of its gradients in the batch.

    Attributes:
        rule: its number in `nn.kernels`.
        every_row: whether rows outside the batch are stepped too, by a gradient of 0.
        state_columns: the names of its state, at most two, and their columns; None is those of the
            pack.
    """

    rule: ClassVar[int]
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
            state: of the rows.
            numbers: of `numbers`.

        Shape:
            weight, gradient: (R, w) · state: (R, columns) each
        """


class RowEngine(EmbeddingEngine):
    """The state of the packs, and the number of steps.

    The tables are dealt out to as many threads as torch has when the engine is built.
    """

    def __init__(self, spec: RowOptimizer, embed: PackedEmbedder, l2: float) -> None:
        self.spec, self.embed, self.l2 = spec, embed, l2
        self.steps = 0
        self.packs = [
            [
                torch.zeros(len(pack), columns or pack.shape[1], device=pack.device)
                for columns in spec.state_columns.values()
            ]
            for pack in embed.pack
        ]
        self._scratch = (
            [_Scratch(embed, index) for index in range(len(embed.pack))]
            if all(pack.device.type == "cpu" for pack in embed.pack)
            else None
        )

    @torch.no_grad()
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        """Update the rows of one batch."""
        self.steps += 1
        numbers = self.spec.numbers(lr, self.steps)
        if self._scratch is None:
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
        """Take over what `state` returned."""
        self.steps = int(state["steps"])
        for name, tensor in self._named():
            tensor.copy_(state[name])

    def _named(self) -> list[tuple[str, Tensor]]:
        return [
            (f"{index}.{name}", tensor)
            for index, state in enumerate(self.packs)
            for name, tensor in zip(self.spec.state_columns, state, strict=True)
        ]


_NONE = np.zeros((1, 1), dtype=np.float32)  # in the place of a state that the rule has not


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
