"""Wide rows: one number an id, feature and head, estimated as a Bayesian effect beside the network.

Each of K + 1 tables is a logistic regression on ids alone: K that never learn from one fold, and
one that learns from all rows. Main effects of ids with few rows are thus shrunk by a prior whose
variance is estimated, which shared layers cannot do. The maths is in docs/wide.md, the compiled
loops in `polyrank.nn.wide_kernels`.

Letters: B rows, F fields of ids, K slots with wide rows, Q tables (the folds, then the full one),
T heads, R rows of all slots, D columns of labels on a path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, starmap
from math import log
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from polyrank import spec
from polyrank.data.folds import folds
from polyrank.data.statistics import term_labels
from polyrank.data.table import Batch, Table
from polyrank.data.vocab import Vocab
from polyrank.features import Slot
from polyrank.features.bags import Bag
from polyrank.layout import Layout
from polyrank.nn import kernels, wide_kernels
from polyrank.nn.embed import POOLINGS, Bags, TensorBag, pooled, pooled_padded
from polyrank.schema import Schema, Task
from polyrank.stages.effects import FieldEffects
from polyrank.stages.priors import FIRST_PRIOR, Moments, variances
from polyrank.stages.stage import Stage, StageLearner, StageModule, StageRun, margin_tasks
from polyrank.terms import own_population

SCALE = 3.0  # of what the network reads, so that effects are about as large as its other inputs
LINKS = {"logistic": wide_kernels.LOGISTIC, "gaussian": wide_kernels.GAUSSIAN}
EPOCHS_ALONE, CHUNK_ROWS = 3, 16384  # of a fit that only tells how good wide rows are
LEAST_CURVATURE = 1e-6  # of an id that tells anything


@dataclass(frozen=True, kw_only=True)
class Wide(Stage):
    """Wide rows, with priors of their own; equals `[model] wide`.

    Every id feature has them but those with `wide = false`, for every head whose likelihood has a
    curvature. In training they take 3·T·(folds + 1) + 3·T numbers an id, when serving T.

    Args:
        folds: parts of the training rows; a row's own effect never learned from its part.

    Raises:
        ConfigError: fewer than 2 folds: without another part, no effect is free of its own label.

    Example:
        >>> Wide().folds
        4
    """

    name: ClassVar[str] = "wide"

    folds: int = 4

    def __post_init__(self) -> None:
        spec.whole("wide: folds", self.folds, least=2, most=64)

    def reads(self, schema: Schema) -> int:
        return len(wide_slots(schema)) * len(margin_tasks(schema))

    def build(self, layout: Layout) -> WideRows:
        return WideRows(layout, self.folds)

    def memory(self, schema: Schema, rows: Mapping[str, int]) -> int:
        heads, total = len(margin_tasks(schema)), sum(rows[s.table] for s in wide_slots(schema))
        return 4 * total * (_columns(heads, self.folds + 1, weighted=True) + 3 * heads + 2)


def wide_slots(schema: Schema) -> tuple[Slot, ...]:
    """Return the slots whose ids have wide rows: those of fields, then those of bags."""
    return tuple(slot for slot in schema.lookups if slot.wide)


def _padded(heads: int, tables: int) -> int:
    """Weights of a row, filled up to whole vectors."""
    return -(-heads * tables // 4) * 4


def _columns(heads: int, tables: int, weighted: bool) -> int:
    return 3 * _padded(heads, tables) + (3 if weighted else 2) * heads


class WideRows(StageModule):
    """Effects as they serve: of the full table, averaged over the epochs; and their precision.

    An effect's posterior is about normal, with variance 1 ÷ precision.
    """

    effect: Tensor  # (R, T)
    precision: Tensor  # (R, T)
    bias: Tensor  # (T,)
    prior: Tensor  # (K, T): the precision of each field's effects before any row is seen
    packed: Tensor  # (K, 1): what takes an id of the packs to a row of `effect`
    first: Tensor  # (K, 1): where each slot begins
    rows: Tensor  # (K, 1): rows of each slot

    def __init__(self, layout: Layout, count: int) -> None:
        super().__init__()
        schema = layout.schema
        self.layout, self.folds = layout, count
        self.heads = tuple(task.name for task in margin_tasks(schema))
        self.slots = wide_slots(schema)
        rows = np.array([layout.vocab.rows[slot.table] for slot in self.slots], dtype=np.int64)
        self.first_rows = np.cumsum([0, *rows.tolist()], dtype=np.int64)
        self.fields = [i for i, slot in enumerate(schema.fields) if slot.wide]
        self.bags = [i for i, slot in enumerate(schema.bags) if slot.wide]
        in_packs = np.concatenate(
            [layout.offsets[self.fields], layout.bag_offsets[self.bags]]
        ).astype(np.int64)
        self.shifts = self.first_rows[:-1] - in_packs
        total, heads = int(self.first_rows[-1]), len(self.heads)
        for name, each in (
            ("effect", torch.zeros(total, heads)),
            ("precision", torch.full((total, heads), FIRST_PRIOR)),
            ("bias", torch.zeros(heads)),
            ("prior", torch.full((len(self.slots), heads), FIRST_PRIOR)),
        ):
            self.register_buffer(name, each)
        for name, each in (
            ("packed", self.shifts), ("first", self.first_rows[:-1]), ("rows", rows)
        ):  # fmt: skip
            self.register_buffer(name, torch.from_numpy(each)[:, None].clone(), persistent=False)

    def forward(
        self, ids: Tensor, bags: Sequence[TensorBag], given: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        found = []
        count = len(self.fields)
        if count:
            rows = ids[self.fields] + self.packed[:count]
            found.append(embedding(rows.T, self.effect))  # (B, fields, T)
        for index, shift in zip(self.bags, self.packed[count:, 0], strict=True):
            own = bags[index]
            moved = (own[0] + shift, own[1])
            pooling = self.layout.schema.bags[index].pooling
            found.append(pooled(moved, pooling, self.effect)[:, None])
        return self._read(found, ids.shape[1])

    def in_graph(
        self, ids: Tensor, sequences: Sequence[Tensor], given: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        # An id that is no row of its own table is looked up behind the last row, and refused there.
        found = []
        count = len(self.fields)
        if count:
            own = ids if count == len(self.layout.schema.fields) else ids[self.fields]
            found.append(embedding(self._inside(own, slice(count)).T, self.effect))
        for place, index in enumerate(self.bags, start=count):
            own = sequences[index]
            rows = torch.where(own < 0, -1, self._inside(own, slice(place, place + 1)))
            pooling = self.layout.schema.bags[index].pooling
            found.append(pooled_padded(rows, pooling, self.effect)[:, None])
        return self._read(found, ids.shape[1])

    def _inside(self, ids: Tensor, places: slice) -> Tensor:
        inside = (ids >= 0) & (ids < self.rows[places])
        return torch.where(inside, ids + self.first[places], len(self.effect))

    def _read(self, found: list[Tensor], batch: int) -> tuple[Tensor, Tensor]:
        if not found:
            return self.bias.expand(batch, -1), torch.empty(batch, 0, device=self.bias.device)
        effects = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        return self.bias + effects.sum(1), SCALE * effects.flatten(1)

    def learner(self, run: StageRun) -> WideLearner:
        return WideLearner(self, run)

    def named_weights(self) -> dict[str, Tensor]:
        """Return `wide.bias`, and of each slot its effects, their precision and their prior."""
        found = {"bias": self.bias}
        ends = pairwise(self.first_rows.tolist())
        for k, (slot, own) in enumerate(zip(self.slots, starmap(slice, ends), strict=True)):
            found[f"effect.{slot.name}"] = self.effect[own]
            found[f"precision.{slot.name}"] = self.precision[own]
            found[f"prior.{slot.name}"] = self.prior[k]
        return found

    def effects(self, vocab: Vocab, most: int) -> tuple[FieldEffects, ...]:
        schema = self.layout.schema
        owners = {slot.name: feature.name for feature in schema.features for slot in feature.slots}
        found, weights = [], self.named_weights()
        for slot in self.slots:
            effect, precision, prior = (
                weights[f"{name}.{slot.name}"].cpu().numpy()
                for name in ("effect", "precision", "prior")
            )
            names = partial(vocab.codecs[owners[slot.name]].named, slot.name)
            for t, head in enumerate(self.heads):
                each = effect[:, t], precision[:, t], prior[t]
                found.append(FieldEffects.of(slot.name, head, *each, names=names, most=most))
        return tuple(found)


class Lookups(NamedTuple):
    """All look-ups of a batch in torch, the ids that a list holds twice as one: each (n,)."""

    row: Tensor
    batch: Tensor  # the row of the batch
    slot: Tensor
    x: Tensor  # the coefficient
    touches: Tensor  # how many ids they stand for


class WideLearner(StageLearner):
    """The K + 1 tables along a run: one step a batch, a prior and an average an epoch."""

    def __init__(self, rows: WideRows, run: StageRun) -> None:
        self.rows, self.run = rows, run
        schema = run.train.schema
        self.tables, self.heads = rows.folds + 1, len(rows.heads)
        self.padded = _padded(self.heads, self.tables)
        tasks = [schema.by_name[name] for name in rows.heads]
        self.weighted = run.train.weight is not None or run.sampling is not None
        device = rows.effect.device
        total, width = len(rows.effect), self.tables * self.heads
        self.counts = look_ups(run.train, rows, run.unseen_rate)
        self.count = torch.from_numpy(np.maximum(self.counts.steps, 1).astype(np.float32))
        self.count = self.count.to(device)
        columns = [task.name for task in schema.tasks]
        chains = [
            [columns.index(name) for name in (task.name, *schema.ancestors(task.name))]
            for task in tasks
        ]
        deepest = max(map(len, chains), default=1)
        self.chains = np.array(
            [[*chain, *[-1] * (deepest - len(chain))] for chain in chains], dtype=np.int64
        ).reshape(len(tasks), deepest)
        self.links = np.array([LINKS[t.label_kind.curvature or ""] for t in tasks], dtype=np.int64)
        self.sampled = -1 if run.sampling is None else columns.index(run.sampling.task)
        self.numbers = np.array([self._numbers(task) for task in tasks], dtype=np.float32)
        self.numbers = self.numbers.reshape(len(tasks), 6)
        self.slots = np.array(
            [
                *(
                    [field, kernels.ONE, s]
                    for field, s in zip(rows.fields, rows.shifts, strict=False)
                ),
                *(
                    [place, POOLINGS[schema.bags[index].pooling], shift]
                    for place, (index, shift) in enumerate(
                        zip(rows.bags, rows.shifts[len(rows.fields) :], strict=True)
                    )
                ),
            ],
            dtype=np.int64,
        ).reshape(len(rows.slots), 3)
        start = [
            log(run.rates[name] / (1 - run.rates[name])) if name in run.rates else 0.0
            for name in rows.heads
        ]
        bias = torch.zeros(3, self.padded)  # its value, and the curvature of both epochs
        bias[0, :width] = torch.tensor(start).repeat(self.tables)
        self.tensors = {
            "state": torch.zeros(total, _columns(self.heads, self.tables, self.weighted)),
            "bias": bias,
            "prior": torch.full((len(rows.slots), self.heads), FIRST_PRIOR),
            "noise": torch.ones(self.heads),  # φ of each Gaussian head
            "residuals": torch.zeros(2, self.heads, dtype=torch.float64),  # Σ v·r², Σ v
        }
        self.tensors = {name: each.to(device) for name, each in self.tensors.items()}
        self.steps, self.epochs = 0, 0
        rows.bias.copy_(self.tensors["bias"][0, width - self.heads : width])
        self._scratch = _Scratch(rows, self.padded, self.heads) if device.type == "cpu" else None

    def _numbers(self, task: Task) -> tuple[float, ...]:
        """What the kernel needs of a head: see `polyrank.nn.wide_kernels.read`."""
        run, schema = self.run, self.run.train.schema
        likelihood = run.likelihoods[task.name]
        where = own_population(schema, task)
        weight = run.train.weight
        offset, outside = 0.0, 1.0
        if run.sampling is not None:
            weight = run.sampling.term_weight(run.train, where)
            if run.sampling.task == task.name:
                offset = -log(run.sampling.keep)
            elif not where.descends_from(run.sampling.task):
                outside = 1 / run.sampling.keep
        scale = 1.0
        if weight is not None:  # as many rows as the weighted ones are worth
            own = weight[~np.isnan(term_labels(run.train, where))].astype(np.float64)
            squares = float(own @ own)
            scale = float(own.sum()) / squares if squares > 0 else 1.0
        return likelihood.origin, likelihood.unit, 1.0, scale, offset, outside

    def step(self, batch: Batch, x: Tensor, column: int) -> Tensor:
        assert batch.rows is not None
        own = folds(batch.rows, self.rows.folds, self.run.seed)
        first, decay = self._pace()
        step = self._step if self._scratch is not None else self._step_in_torch
        margin = step(batch, own, x, column, first, decay)
        self.steps += 1
        return margin

    def alone(self, valid: Table) -> Tensor:
        run = replace(self.run, epochs=EPOCHS_ALONE)
        fresh = WideLearner(WideRows(self.rows.layout, self.rows.folds), run)
        layout, rows = self.rows.layout, fresh.rows
        x = torch.empty(run.batch_size, layout.width)
        for epoch in range(EPOCHS_ALONE):
            for batch in run.train.batches(
                layout, run.batch_size, shuffle=True, seed=run.seed, epoch=epoch,
                unseen_rate=run.unseen_rate,
            ):  # fmt: skip
                fresh.step(batch, x[: len(batch)], layout.own_width)
            fresh.end_epoch()
        found = [
            rows(torch.from_numpy(batch.ids), tuple(_tensors(batch.bags)))[0]
            for batch in valid.batches(layout, CHUNK_ROWS)
        ]
        return torch.cat(found)

    def _pace(self) -> tuple[bool, float]:
        """Return whether this is the first epoch, and the size of a step."""
        done, total = self.run.steps, self.run.steps * self.run.epochs
        if self.epochs == 0:
            return True, 1.0
        return False, 1 - (self.steps - done) / max(total - done, 1)

    def _step(
        self, batch: Batch, own: np.ndarray, x: Tensor, column: int, first: bool, decay: float
    ) -> Tensor:
        scratch = self._scratch
        assert scratch is not None
        size, width = len(batch), self.tables * self.heads
        some = Bags.of(_tensors(batch.bags), tuple(self.rows.bags))
        ids = np.ascontiguousarray(batch.ids)
        weight = _NO_WEIGHT if batch.weight is None else batch.weight
        found = scratch.of(size, some)
        margin = torch.empty(size, self.heads)
        state, bias = self.tensors["state"].numpy(), self.tensors["bias"].numpy()
        numbers = self.numbers.copy()
        numbers[:, 2] = 1 / self.tensors["noise"].numpy()
        with kernels.ONE_AT_A_TIME:
            wide_kernels.read(
                ids, some.ids, some.starts, self.slots, state, bias[0, :width], self.tables,
                batch.labels, weight, own, self.chains, self.links, numbers, self.sampled,
                x.detach().numpy(), column, np.float32(SCALE), margin.numpy(), *found.of_rows,
                torch.get_num_threads(),
            )  # fmt: skip
            wide_kernels.update(
                ids, some.ids, some.starts, self.slots, scratch.order, state, self.count.numpy(),
                self.tensors["prior"].numpy(), self.tables, self.heads, self.padded, own,
                *found.of_rows, self.weighted, first, np.float32(decay), scratch.slot,
                *found.of_threads,
            )  # fmt: skip
        sums = [each.sum(0) for each in found.of_rows[:3]]
        self._step_bias([torch.from_numpy(each) for each in sums], first, decay)
        self._measure(torch.from_numpy(found.of_rows[3]))
        return margin

    def _step_bias(self, sums: Sequence[Tensor], first: bool, decay: float) -> None:
        """Step the bias of each table and head by sums over the batch; it has no prior."""
        g, h, least = sums
        value, past, now = self.tensors["bias"]
        now += h
        down = torch.maximum(now if first else past, least).clamp(min=1.0)
        value += decay * g / down

    def _measure(self, own: Tensor) -> None:
        """Add up squared residuals of the Gaussian heads, of rows' own folds: own (B, 3T)."""
        for t in np.flatnonzero(self.links == wide_kernels.GAUSSIAN):
            noise = self.tensors["noise"][t]
            teaches = own[:, self.heads + t] > 0
            precise = own[teaches, self.heads + t].double()  # v ÷ φ
            squares = own[teaches, t].double() ** 2 / precise  # v·r² ÷ φ
            self.tensors["residuals"][:, t] += noise * torch.stack([squares.sum(), precise.sum()])

    @torch.no_grad()
    def _step_in_torch(
        self, batch: Batch, own: np.ndarray, x: Tensor, column: int, first: bool, decay: float
    ) -> Tensor:
        """Take the same step on any device."""
        device, size = x.device, len(batch)
        q, t, p = self.tables, self.heads, self.padded
        width, fold = q * t, torch.from_numpy(own).long().to(device)
        ups = self._look_ups(batch, device)
        state, bias = self.tensors["state"], self.tensors["bias"]
        weights = state[ups.row, :width] * ups.x[:, None]
        z = bias[0, :width] + torch.zeros(size, width, device=device).index_add_(
            0, ups.batch, weights
        )
        of_fold = weights.view(-1, q, t)[torch.arange(len(ups.row), device=device), fold[ups.batch]]
        reads = torch.zeros(size * len(self.rows.slots), t, device=device)
        reads.index_add_(0, ups.batch * len(self.rows.slots) + ups.slot, of_fold)
        x[:, column : column + reads.numel() // size] = SCALE * reads.view(size, -1)
        reach = 1 + torch.zeros(size, device=device).index_add_(0, ups.batch, ups.x)
        y, v = self._targets(batch, device)
        numbers = torch.from_numpy(self.numbers).to(device)
        z = z.view(size, q, t)
        gaussian = torch.from_numpy(self.links == wide_kernels.GAUSSIAN).to(device)
        at = torch.arange(size, device=device), fold
        margin = z[at].clone()
        mean = torch.where(gaussian, z, torch.sigmoid(z + numbers[:, 4]))
        curve = torch.where(gaussian, 1 / self.tensors["noise"], mean * (1 - mean))
        rest = torch.where(gaussian, (y[:, None] - mean) / self.tensors["noise"], y[:, None] - mean)
        g, h = v[:, None] * rest, v[:, None] * curve
        mine = torch.cat([g[at], h[at], v * h[at]], dim=1)
        g, h = g.clone(), h.clone()
        g[at], h[at] = 0, 0
        g, h = g.view(size, width), h.view(size, width)
        damping = h * reach[:, None]
        touched, place = torch.unique(ups.row, return_inverse=True)

        def summed(each: Tensor) -> Tensor:
            found = torch.zeros(len(touched), each.shape[1], device=device)
            return found.index_add_(0, place, each)

        one, two = ups.x[:, None], ups.x[:, None] ** 2
        steep = two * mine[ups.batch, t : 2 * t]
        weight_of_fold = state[ups.row, :width].view(-1, q, t)[
            torch.arange(len(ups.row), device=device), fold[ups.batch]
        ]
        moments = [one * mine[ups.batch, :t] + steep * weight_of_fold, steep]
        if self.weighted:
            moments.append(two * mine[ups.batch, 2 * t :])
        share = (summed(ups.touches[:, None]) / self.count[touched][:, None]).clamp(max=1)
        slot = torch.zeros(len(touched), dtype=torch.long, device=device)
        slot[place] = ups.slot
        prior = self.tensors["prior"][slot].repeat(1, q)
        up, more = summed(one * g[ups.batch]), summed(two * h[ups.batch])
        least = summed(one * damping[ups.batch])
        rows = state[touched]
        rows[:, 2 * p : 2 * p + width] += more
        if first:
            down = prior + rows[:, 2 * p : 2 * p + width]
        else:
            up = up - prior * share * rows[:, :width]
            down = prior + rows[:, p : p + width]
        rows[:, :width] += decay * up / torch.maximum(down, least)
        rows[:, 3 * p :] += summed(torch.cat(moments, dim=1))
        state[touched] = rows
        fill = torch.zeros(size, p - width, device=device)
        sums = [torch.cat([each, fill], dim=1).sum(0) for each in (g, h, damping)]
        self._step_bias(sums, first, decay)
        self._measure(mine)
        return margin

    def _targets(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the labels of the heads in their unit, and how much each row teaches: (B, T)."""
        labels = torch.from_numpy(batch.labels).to(device)
        numbers = torch.from_numpy(self.numbers).to(device)
        y = labels[:, self.chains[:, 0]]
        v = (~y.isnan()).float()
        for t, chain in enumerate(self.chains):
            for ancestor in chain[1:][chain[1:] >= 0]:
                v[:, t] *= labels[:, ancestor] == 1
        v *= numbers[:, 3]
        if batch.weight is not None:
            v *= torch.from_numpy(batch.weight).to(device)[:, None]
        if self.sampled >= 0:
            v = torch.where(labels[:, self.sampled, None] == 0, v * numbers[:, 5], v)
        y = torch.where(v > 0, (y - numbers[:, 0]) / numbers[:, 1], 0.0)
        return y, v

    def _look_ups(self, batch: Batch, device: torch.device) -> Lookups:
        parts = []
        size, schema = len(batch), self.rows.layout.schema
        for k, (source, pooling, shift) in enumerate(self.slots.tolist()):
            if pooling == kernels.ONE:
                row = torch.from_numpy(batch.ids[source]).to(device).long() + shift
                ones = torch.ones(size, device=device)
                at = torch.arange(size, device=device)
                parts.append(Lookups(row, at, torch.full_like(row, k), ones, ones))
                continue
            bag = batch.bags[self.rows.bags[source]]
            lengths, ids = np.diff(bag.offsets), bag.ids
            at = np.repeat(np.arange(size), lengths)
            if schema.bags[self.rows.bags[source]].pooling == "last":
                last = bag.offsets[1:][lengths > 0] - 1
                ids, at = ids[last], at[last]
            of_row = np.ones(size) if pooling != kernels.MEAN else 1 / np.maximum(lengths, 1)
            pairs, times = np.unique(np.stack([at, ids]), axis=1, return_counts=True)
            x = (times * of_row[pairs[0]]).astype(np.float32)
            row = torch.from_numpy(pairs[1]).to(device).long() + shift
            found = (pairs[0].astype(np.int64), np.full(len(x), k), x, times.astype(np.float32))
            parts.append(Lookups(row, *(torch.from_numpy(each).to(device) for each in found)))
        if not parts:
            empty = torch.empty(0, dtype=torch.long, device=device)
            return Lookups(empty, empty, empty, empty.float(), empty.float())
        return Lookups(*map(torch.cat, zip(*parts, strict=True)))

    def end_epoch(self) -> None:
        self.epochs += 1
        q, t, p = self.tables, self.heads, self.padded
        state, bias, rows = self.tensors["state"], self.tensors["bias"], self.rows
        width = q * t
        self._estimate_priors()
        state[:, p : 2 * p] = state[:, 2 * p : 3 * p]
        state[:, 2 * p :] = 0
        bias[1], bias[2] = bias[2].clone(), 0
        self._centre()
        sums, weights = self.tensors["residuals"]
        noise = self.tensors["noise"]
        noise.copy_(torch.where(weights > 0, sums / weights.clamp(min=1e-30), noise.double()))
        noise.clamp_(min=1e-6)
        self.tensors["residuals"].zero_()
        full = slice(width - t, width)
        if self.epochs <= 2:  # the first epoch is still far from where it goes
            rows.effect.copy_(state[:, full])
        else:
            rows.effect.lerp_(state[:, full], 1 / (self.epochs - 1))
        rows.bias.copy_(bias[0, full])
        rows.prior.copy_(self.tensors["prior"])
        for k, own in enumerate(self._slices()):
            rows.precision[own] = state[own, p + width - t : p + width] + rows.prior[k]

    def _centre(self) -> None:
        """Move the mean effect of each field into the bias, where no prior pulls at it.

        Every row has one id of a field, so what is known stays as it was. At the optimum the means
        are 0; steps along this direction, which the prior alone tells from others, are slow, and an
        id that was never seen would get the base rate of none.
        """
        width = self.tables * self.heads
        state, bias = self.tensors["state"], self.tensors["bias"]
        for own in list(self._slices())[: len(self.rows.fields)]:
            known = state[own, self.padded : self.padded + width] > 0
            weights = state[own, :width]
            mean = weights.sum(0) / known.sum(0).clamp(min=1)
            weights -= mean * known
            bias[0, :width] += mean

    def _estimate_priors(self) -> None:
        """Set each field's prior from what its ids said in this epoch."""
        t, start = self.heads, 3 * self.padded
        found = self.tensors["state"][:, start:].cpu().numpy()
        prior = self.tensors["prior"].cpu().numpy()
        for head in range(t):
            fields = []
            for own in self._slices():
                tells = (found[own, t + head] > LEAST_CURVATURE) & self.counts.seen[own]
                score, curvature = found[own, head][tells], found[own, t + head][tells]
                spread = found[own, 2 * t + head][tells] if self.weighted else curvature
                fields.append(Moments(score, curvature, spread))
            prior[:, head] = 1 / variances(fields, 1 / prior[:, head].astype(np.float64))
        self.tensors["prior"].copy_(torch.from_numpy(prior))

    def _slices(self) -> Iterator[slice]:
        return starmap(slice, pairwise(self.rows.first_rows.tolist()))

    def state(self) -> dict[str, Tensor]:
        return {"progress": torch.tensor([self.steps, self.epochs]), **self.tensors}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.steps, self.epochs = state["progress"].tolist()
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])


_NO_WEIGHT = np.empty(0, dtype=np.float32)


class LookUps(NamedTuple):
    """How often an epoch of training looks up each row of the slots: (R,) each."""

    steps: np.ndarray  # float64, in expectation: with the ids that id dropout sends to row 0
    seen: np.ndarray  # whether any training row has it


def look_ups(table: Table, rows: WideRows, unseen_rate: float) -> LookUps:
    """Count the look-ups of wide rows in an epoch of training."""
    schema = table.schema
    counts = []
    places = [*((slot, i) for i, slot in enumerate(schema.fields)),
              *((slot, i) for i, slot in enumerate(schema.bags))]  # fmt: skip
    for slot, index in places:
        if not slot.wide:
            continue
        ids = table.ids[index]
        if slot.place == "bags":
            bag = table.bags[index]
            ids = bag.ids
            if slot.pooling == "last":
                ids = ids[bag.offsets[1:][np.diff(bag.offsets) > 0] - 1]
        own = np.bincount(ids, minlength=rows.layout.vocab.rows[slot.table]).astype(np.float64)
        counts.append((own, len(ids) * unseen_rate if slot.unseen else 0.0))
    if not counts:
        return LookUps(np.empty(0), np.empty(0, dtype=bool))
    seen = np.concatenate([own > 0 for own, _ in counts])
    for own, dropped in counts:
        own[0] += dropped
    return LookUps(np.concatenate([own for own, _ in counts]), seen)


def _tensors(bags: Sequence[Bag]) -> list[tuple[Tensor, Tensor]]:
    return [(torch.from_numpy(bag.ids), torch.from_numpy(bag.offsets)) for bag in bags]


class _Work(NamedTuple):
    of_rows: tuple[np.ndarray, ...]  # gradient, curvature, damping (B, P) and own (B, 3T)
    of_threads: tuple[np.ndarray, ...]  # slot's touched, sums, merged


class _Scratch:
    """What the kernels need beside their arguments, kept from step to step."""

    def __init__(self, rows: WideRows, padded: int, heads: int) -> None:
        self.padded, self.heads = padded, heads
        self.count = len(rows.fields)
        self.order = _order(len(rows.slots), torch.get_num_threads())
        self.slot = np.full(len(rows.effect), -1, dtype=np.int32)
        self._rows: tuple[np.ndarray, ...] = ()
        self._threads: tuple[np.ndarray, ...] = ()

    def of(self, size: int, bags: Bags) -> _Work:
        if not self._rows or len(self._rows[0]) != size:
            shapes = [(size, self.padded)] * 3 + [(size, 3 * self.heads)]
            self._rows = tuple(np.zeros(shape, dtype=np.float32) for shape in shapes)
        lengths = bags.starts[:, -1] - bags.starts[:, 0]
        most = max([size, *lengths.tolist()])
        if not self._threads or self._threads[0].shape[1] < most:
            threads = len(self.order)
            columns = 3 * self.padded + 3 * self.heads + 1
            self._threads = (
                np.empty((threads, most), dtype=np.int32),
                np.empty((threads, most, columns), dtype=np.float32),
                np.zeros((threads, most), dtype=np.int32),
            )
        return _Work(self._rows, self._threads)


def _order(slots: int, threads: int) -> np.ndarray:
    """Deal out slots to threads, in turn, each thread's ended by −1: int64 (threads, slots + 1)."""
    order = np.full((threads, slots // threads + 2), -1, dtype=np.int64)
    for k in range(slots):
        order[k % threads, k // threads] = k
    return order
