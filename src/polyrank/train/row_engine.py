"""The engine behind the cut at x: from the ids of a batch and x's gradient to updated rows.

On the CPU a compiled rule of `nn.kernels` does the work; on other devices, or without one, the
spec's `step` in torch. Several processes exchange the summed gradients of the rows that each looked
up: where they have the same tables, all take the same step by all of them; where they hold the
tables between them, each process gets those of its own rows.

Letters: F id features, B rows of the batch, W columns of x, R rows of a pack, w columns of the
pack, U tables of the pack, n lines: a row of the pack and the sum of its gradients each.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyrank.data.statistics import look_ups
from polyrank.data.table import Table
from polyrank.layout import Layout
from polyrank.nn import kernels
from polyrank.nn.embed import Bags, PackedEmbedder, TensorBag
from polyrank.nn.held import Found, HeldEmbedder, dealt
from polyrank.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from polyrank.train.optim import RowOptimizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Visits:
    """How often an epoch of training looks up each row of the packs: read where one is paid for.

    Args:
        train: the training rows.
        layout: where they are looked up.
        batch_size: rows per step, of each process.
        unseen_rate: of id dropout.
        ranks: the processes that train together.
    """

    train: Table
    layout: Layout
    batch_size: int
    unseen_rate: float = 0.0
    ranks: Ranks = ALONE

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return ceil(len(self.train) / (self.batch_size * self.ranks.count))

    def counts(self) -> tuple[np.ndarray, ...]:
        """Return the look-ups of each row held, expected and at least 1: float32 (R,) a pack."""
        schema, rows = self.train.schema, self.layout.vocab.rows
        found = look_ups(self.train, rows, self.unseen_rate)
        packs = []
        for pack in self.layout.packs:
            total = np.zeros(pack.rows)
            for slot in schema.lookups:
                if slot.table in pack.offsets:
                    first = pack.offsets[slot.table]
                    total[first : first + rows[slot.table]] += found[slot.name]
            packs.append(np.maximum(self.layout.held.of(total), 1).astype(np.float32))
        return tuple(packs)


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

    def held_rows(self) -> dict[str, int]:
        """Return what of the state has a row an id: how many rows of each tensor all have."""
        return {}


class Sums(NamedTuple):
    """The rows of a pack that a batch looked up, those of a table together.

    Shape:
        of_tables: int32 (U,), or (1,) where tables do not matter · rows, times: int32 (n,) · sums:
        float32 (n, w)
    """

    of_tables: Tensor  # how many lines each table has
    rows: Tensor
    times: Tensor  # how often each was looked up
    sums: Tensor  # of the gradients

    @classmethod
    def joined(cls, parts: Sequence[Sums]) -> Sums:
        """Return the lines of several processes, one after the other."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))


class RowEngine(EmbeddingEngine):
    """The packs' state; tables are dealt out to the threads that torch has when it is built."""

    def __init__(
        self,
        optimizer: RowOptimizer,
        embed: PackedEmbedder,
        l2: float,
        visits: Visits | None = None,
    ) -> None:
        self.spec, self.embed, self.l2 = optimizer, embed, l2
        self.ranks = ALONE if visits is None else visits.ranks
        self.steps = 0
        self._counts: list[Tensor] | None = None
        if optimizer.prior or optimizer.decay:
            if visits is None:
                raise ValueError("prior and decay are paid by count: build needs the visits")
            self._steps_of_epoch = visits.steps
            self._counts = [
                torch.from_numpy(each).to(pack.device)
                for each, pack in zip(visits.counts(), embed.pack, strict=True)
            ]
        self.packs = [
            [
                torch.zeros(len(pack), columns or pack.shape[1], device=pack.device)
                for columns in optimizer.state_columns.values()
            ]
            for pack in embed.pack
        ]
        self._named = {
            f"{index}.{name}": tensor
            for index, state in enumerate(self.packs)
            for name, tensor in zip(optimizer.state_columns, state, strict=True)
        }
        on_cpu = all(pack.device.type == "cpu" for pack in embed.pack)
        self.compiled = on_cpu and optimizer.rule is not None
        if on_cpu and not self.compiled:
            name = type(optimizer).__name__
            logger.warning("row optimiser %s has no compiled rule: it runs in torch", name)
        self._scratch = [_Scratch(embed, i) for i in range(len(embed.pack)) if self.compiled]

    @torch.no_grad()
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        self.steps += 1
        if self.ranks.several:
            self._step_together(ids, gradient, lr, bags)
        elif self.compiled:
            self._step_compiled(ids, gradient, lr, bags)
        else:
            rule = self._rule(lr, len(gradient))
            pairs = self.embed.row_gradients(ids, gradient, bags)
            for index, (rows, each) in enumerate(pairs):
                self._step_in_torch(index, rule, rows, each)

    def _step_compiled(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag]
    ) -> None:
        rule = self._rule(lr, len(gradient))
        fields, x_gradient = ids.contiguous().numpy(), gradient.contiguous().numpy()
        for index, scratch in enumerate(self._scratch):
            plan = scratch.plan
            some = Bags.of(bags, plan.sequences)
            room = scratch.of_threads(plan.most(len(gradient), some))
            with kernels.ONE_AT_A_TIME:
                kernels.update(
                    fields, some.ids, some.starts, some.weights, plan.lookups, plan.starts,
                    scratch.order, plan.first_rows, x_gradient, scratch.slot, *room,
                    *self._arguments(index, rule),
                )  # fmt: skip

    def _step_together(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag]
    ) -> None:
        """Step by the joined batch of all processes."""
        # As many lines, without a number in them, as the batch has rows.
        size = torch.empty(len(gradient), 0, dtype=torch.int32, device=gradient.device)
        if isinstance(self.embed, HeldEmbedder):
            batch = self.embed.found(ids, bags)
            own = self._sums(batch.ids, gradient, batch.bags)
            packs = [_dealt(batch, index, sums) for index, sums in enumerate(own)]
            found = self.ranks.traded(
                [[size, *(t for sums in each for t in sums)] for each in zip(*packs, strict=True)]
            )
        else:
            own = self._sums(ids, gradient, bags)
            found = self.ranks.joined([size, *(each for sums in own for each in sums)])
        rule = self._rule(lr, sum(len(each[0]) for each in found))
        per = len(Sums._fields)
        for index in range(len(self.packs)):
            given = [Sums(*each[1 + per * index : 1 + per * (index + 1)]) for each in found]
            together = Sums.joined(given)
            if not self.compiled:
                rows, times, sums = together[1:]
                self._step_in_torch(index, rule, rows, sums, times.float())
                continue
            scratch = self._scratch[index]
            lines = together.of_tables.view(len(given), -1).numpy()
            before = np.cumsum([0, *lines.sum(1)])[:-1, None]
            begins = before + np.cumsum(np.pad(lines, ((0, 0), (1, 0))), axis=1, dtype=np.int64)
            room = scratch.of_lines(len(together.rows))
            with kernels.ONE_AT_A_TIME:
                kernels.step_rows(
                    *(each.numpy() for each in together[1:]), begins, scratch.order,
                    np.cumsum([0, *lines.sum(0)]), scratch.plan.first_rows, scratch.slot, *room,
                    *self._arguments(index, rule),
                )  # fmt: skip

    def _sums(self, ids: Tensor, gradient: Tensor, bags: Sequence[TensorBag]) -> list[Sums]:
        """Return what this process found, by pack; of held ones the rows are their numbers."""
        if not self.compiled:
            return [_summed(*each) for each in self.embed.row_gradients(ids, gradient, bags)]
        fields, x_gradient = ids.contiguous().numpy(), gradient.contiguous().numpy()
        packs = []
        for scratch in self._scratch:
            plan = scratch.plan
            some = Bags.of(bags, plan.sequences)
            places = np.cumsum([0, *plan.of_tables(len(gradient), some)])
            room = scratch.of_lines(int(places[-1]))
            found = np.zeros(len(places) - 1, dtype=np.int64)
            slot = scratch.slot
            if isinstance(self.embed, HeldEmbedder):
                slot = scratch.of_numbers(int(places[-1]))
            with kernels.ONE_AT_A_TIME:
                kernels.sum_rows(
                    fields, some.ids, some.starts, some.weights, plan.lookups, plan.starts,
                    scratch.order, places, x_gradient, slot, *room, found,
                    kernels.constant(scratch.width),
                )  # fmt: skip
            parts = [slice(at, at + count) for at, count in zip(places, found, strict=False)]
            kept = [np.concatenate([each[part] for part in parts]) for each in room]
            packs.append(Sums(*map(torch.from_numpy, [found.astype(np.int32), *kept])))
        return packs

    def _rule(self, lr: float, rows: int) -> _Rule:
        """Return what the rule needs at this step, of a batch of so many rows."""
        numbers = tuple(self.spec.numbers(lr, self.steps))
        if self._counts is None:
            return _Rule(numbers, 0.0, 0.0)
        decay = lr * self.spec.decay * self._steps_of_epoch
        return _Rule(numbers, self.spec.prior / rows, decay)

    def _arguments(self, index: int, rule: _Rule) -> tuple[Any, ...]:
        """Return what kernels take of a pack and of the rule."""
        weight = self.embed.pack[index].detach().numpy()
        first, second = [*(each.numpy() for each in self.packs[index]), _NONE, _NONE][:2]
        counts = _NO_COUNTS if self._counts is None else self._counts[index].numpy()
        return (
            weight, first, second, self.spec.rule,
            np.array([self.l2, *rule.numbers], dtype=np.float32), self.spec.every_row, counts,
            np.float32(rule.prior), np.float32(rule.decay), kernels.constant(weight.shape[1]),
        )  # fmt: skip

    def _step_in_torch(
        self, index: int, rule: _Rule, rows: Tensor, each: Tensor, often: Tensor | None = None
    ) -> None:
        """Step a pack by gradients of some rows, with repeats; `often` is 1 where it is None."""
        pack, state = self.embed.pack[index], self.packs[index]
        touched, inverse = slice(None), rows
        if not self.spec.every_row:
            touched, inverse = torch.unique(rows, return_inverse=True)
        weight, some = pack[touched], [whole[touched] for whole in state]
        g = torch.zeros_like(weight).index_add_(0, inverse, each)
        if self._counts is not None:
            times = torch.zeros(len(g), device=g.device)
            if often is None:
                often = torch.ones_like(times[:1]).expand(len(inverse))
            times.index_add_(0, inverse, often)
            share = (times / self._counts[index][touched]).clamp_(max=1)[:, None]
            weight.mul_(torch.exp(-rule.decay * share))
            g.addcmul_(share, weight, value=rule.prior)
        self.spec.step(weight, g.add_(weight, alpha=self.l2), some, rule.numbers)
        if not self.spec.every_row:
            for whole, part in zip([pack, *state], [weight, *some], strict=True):
                whole[touched] = part

    def state(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.steps), **self._named}

    def held_rows(self) -> dict[str, int]:
        rows = [pack.rows for pack in self.embed.layout.packs]
        return {name: rows[int(name.split(".")[0])] for name in self._named}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["steps"])
        for name, tensor in self._named.items():
            tensor.copy_(state[name])


class _Rule(NamedTuple):
    numbers: tuple[float, ...]  # of the spec
    prior: float  # its pull on a whole share
    decay: float  # −log of what is left of a whole share


def _summed(rows: Tensor, gradient: Tensor) -> Sums:
    """Add up the gradients of each row: rows (n,) with repeats, gradient (n, w)."""
    touched, place, times = torch.unique(rows, return_inverse=True, return_counts=True)
    sums = gradient.new_zeros(len(touched), gradient.shape[1]).index_add_(0, place, gradient)
    lines = torch.tensor([len(touched)], dtype=torch.int32, device=rows.device)
    return Sums(lines, touched.int(), times.int(), sums)


def _dealt(batch: Found, index: int, sums: Sums) -> list[Sums]:
    """Return the lines that are for each process that holds rows of a pack."""
    parts = dealt(batch, index, sums.rows, sums.times, sums.sums)
    return [Sums(lines, *each) for lines, each in zip(batch.lines[index], parts, strict=True)]


_NONE = np.zeros((1, 1), dtype=np.float32)  # in the place of a state that the rule does not have
_NO_COUNTS = np.zeros(0, dtype=np.float32)


class _Scratch:
    """What a pack's kernels need beside their arguments, kept from step to step."""

    def __init__(self, embed: PackedEmbedder, index: int) -> None:
        self.plan = embed.lookups[index]
        self.order = self.plan.order(torch.get_num_threads())
        self.slot = np.full(len(embed.pack[index]), -1, dtype=np.int32)
        self.width = embed.pack[index].shape[1]
        self._threads = _room((0,), 0, self.width)
        self._lines = _room((), 0, self.width)
        self._numbers = np.empty(0, dtype=np.int32)

    def of_numbers(self, most: int) -> np.ndarray:
        """Return `slot` for rows that a batch has numbered from 0, up to so many."""
        if most > len(self._numbers):
            self._numbers = np.full(most, -1, dtype=np.int32)
        return self._numbers

    def of_threads(self, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `touched`, `touches` and `sums` of each thread, with room for one table's rows."""
        touched = self._threads[0]
        if most > touched.shape[1] or not len(touched):
            self._threads = _room((len(self.order),), most, self.width)
        return self._threads

    def of_lines(self, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the same with room for so many lines, of all tables one after the other."""
        if most > len(self._lines[0]):
            self._lines = _room((), most, self.width)
        return self._lines


def _room(
    outer: tuple[int, ...], most: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return room for rows, for how often they were looked up, and for sums, the last of zeros."""
    sums = np.empty((*outer, most + 1, width), dtype=np.float32)
    sums[..., -1, :] = 0
    return np.empty((*outer, most), np.int32), np.empty((*outer, most), np.int32), sums
