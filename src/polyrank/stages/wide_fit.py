"""The estimation of wide rows: passes over the training rows before the network's first step.

Letters: B rows, K slots with wide rows, Q tables (the folds, then the full one), T outputs of
heads, P ≥ Q·T, R rows of all slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, starmap
from math import log
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyrank.data.folds import folds, parted
from polyrank.data.statistics import look_ups, term_labels
from polyrank.data.table import Batch
from polyrank.nn import kernels, wide_kernels
from polyrank.nn.embed import POOLINGS, Bags, TensorBag
from polyrank.nn.held import Found, dealt
from polyrank.objective.likelihood import named_extras, targets_of
from polyrank.ranks import ALONE
from polyrank.schema import Task
from polyrank.stages.curves import Curves
from polyrank.stages.priors import FIRST_PRIOR, Moments, variances
from polyrank.stages.stage import StageRun
from polyrank.terms import own_population

if TYPE_CHECKING:
    from polyrank.stages.wide import WideRows

PASSES = 4  # over the training rows; a fifth moved an AUC by .0001
SCALE = 3.0  # of what the network reads, so that effects are about as large as its other inputs
LINKS = {
    "logistic": wide_kernels.LOGISTIC,
    "gaussian": wide_kernels.GAUSSIAN,
    "poisson": wide_kernels.POISSON,
    "softmax": wide_kernels.SOFTMAX,
}
MEASURED = (wide_kernels.GAUSSIAN, wide_kernels.POISSON)  # whose φ is measured
CHUNK_ROWS = 2**18
LEAST_CURVATURE = 1e-6  # of an id that tells anything


class Tables(NamedTuple):
    """All tables as training reads them."""

    effect: Tensor  # (R, Q·T)
    bias: Tensor  # (Q·T,)


def padded(outputs: int, tables: int) -> int:
    """Return the weights of a row, filled up to whole vectors."""
    return -(-outputs * tables // 4) * 4


def columns(outputs: int, tables: int, spread: bool) -> int:
    """Return how many numbers of an id are kept while it learns; `spread` as J is."""
    return 3 * padded(outputs, tables) + (3 if spread else 2) * outputs


def slots_of(rows: WideRows) -> np.ndarray:
    """Return the slots as the kernels take them: int64 (K, 3)."""
    slots = [rows.layout.schema.bags[index] for index in rows.bags]
    bags = [POOLINGS[slot.weighted][slot.pooling] for slot in slots]
    sources = [*((field, kernels.ONE) for field in rows.fields), *enumerate(bags)]
    found = [[*source, shift] for source, shift in zip(sources, rows.shifts, strict=True)]
    return np.array(found, dtype=np.int64).reshape(len(rows.slots), 3)


class Past(NamedTuple):
    """What earlier rows told, as the posterior of their model has it.

    Of an effect w it is the log-likelihood −½·information·w² + score·w.
    """

    information: Tensor  # (R, T)
    score: Tensor  # (R, T)
    prior: Tensor  # (K, T)
    bias: Tensor  # (T,)
    bias_information: Tensor  # (T,)


class Lookups(NamedTuple):
    """All look-ups of a batch in torch, the ids that a list holds twice as one: each (n,)."""

    row: Tensor
    batch: Tensor  # the row of the batch
    slot: Tensor
    x: Tensor  # the coefficient
    size: Tensor  # the sum of its parts' absolute values
    touches: Tensor  # how many ids they stand for


class WideFit:
    """The K + 1 tables while they learn: one step a batch, a prior and an average a pass."""

    def __init__(self, rows: WideRows, run: StageRun, total_passes: int = PASSES) -> None:
        self.rows, self.run, self.total_passes = rows, run, total_passes
        schema = run.train.schema
        self.tables, self.outputs = rows.folds + 1, len(rows.margins)
        self.padded = padded(self.outputs, self.tables)
        self.tasks = [schema.by_name[name] for name in rows.heads]
        self.links = np.array([LINKS[m.curvature] for m in rows.margins], dtype=np.int64)
        # Whether J, the variance of a score, is another number than its H.
        self.spread = run.train.weight is not None or run.sampling is not None
        self.spread |= bool((self.links == wide_kernels.SOFTMAX).any())
        device, held = rows.effect.device, rows.layout.held
        total, width = len(rows.effect), self.tables * self.outputs
        # The processes that hold the rows between them, and add up what they say of all.
        self.holders = ALONE if held.ranks is None else held.ranks
        # Counts are those of id dropout too: row 0 would pay its prior too often otherwise.
        counts = np.maximum(self._counted(run.unseen_rate), 1).astype(np.float32)
        self.count = torch.from_numpy(np.ascontiguousarray(held.of(counts))).to(device)
        self.seen = held.of(self._counted(0.0) > 0)
        labels = [task.name for task in schema.tasks]
        chains = [
            [labels.index(name) for name in schema.ancestors(each.task.name)]
            for each in rows.margins
        ]
        deepest = max(map(len, chains), default=0)
        self.chains = np.array(
            [[*chain, *[-1] * (deepest - len(chain))] for chain in chains], dtype=np.int64
        ).reshape(self.outputs, deepest)
        self.ends = np.zeros(self.outputs, dtype=np.int64)  # of each softmax, at its first output
        for t in np.flatnonzero(self.links == wide_kernels.SOFTMAX).tolist():
            self.ends[t - rows.margins[t].output] = t + 1
        self.sampled = -1 if run.sampling is None else labels.index(run.sampling.task)
        self.curves = Curves(
            [slot.ordered for slot in rows.slots], counts, rows.first_rows, wide_kernels.NOWHERE,
            rows.own_rows,
        )  # fmt: skip
        self.past = rows.past
        numbers = [each for task in self.tasks for each in self._numbers(task)]
        self.numbers = np.array(numbers, dtype=np.float32).reshape(self.outputs, 5)
        self.slots = rows.numbered
        start = [
            log(run.rates[task.name] / (1 - run.rates[task.name]))
            if task.name in run.rates
            else 0.0
            for task, _, _ in rows.margins
        ]
        bias = torch.zeros(3, self.padded)  # its value, and the curvature of both passes
        bias[0, :width] = torch.tensor(start).repeat(self.tables)
        self.tensors = {
            "state": torch.zeros(total, columns(self.outputs, self.tables, self.spread)),
            "bias": bias,
            "prior": torch.full((len(rows.slots), self.outputs), FIRST_PRIOR),
            "centre": torch.zeros(self.curves.rows, width),  # what a prior pulls to, if not to 0
            # φ of each output that is no event.
            "noise": torch.tensor([run.likelihoods[m.task.name].noise for m in rows.margins]),
            "residuals": torch.zeros(2, self.outputs, dtype=torch.float64),  # Σ v·φ̂, Σ v
        }
        self.tensors = {name: each.to(device) for name, each in self.tensors.items()}
        self.steps, self.passes = 0, 0
        none = torch.empty(0, self.outputs)
        self.carried = none if self.past is None else self.past.information.to(device)
        self.pulled = none if self.past is None else self.past.score.to(device)
        if self.past is not None:
            self._start_from(self.past)
        self.mean = torch.zeros(total, width, device=device)
        self.precisions = torch.zeros(self.curves.rows, self.outputs, device=device)  # as `centre`
        self._scratch = _Scratch(rows, self.padded, self.outputs) if device.type == "cpu" else None

    def _start_from(self, past: Past) -> None:
        """Take the posterior of earlier rows as the prior, in all tables: none saw today's rows."""
        state, bias = self.tensors["state"], self.tensors["bias"]
        width = self.tables * self.outputs
        self.tensors["prior"].copy_(past.prior)
        for k, own in enumerate(self._slices()):
            mean = self.pulled[own] / (self.carried[own] + self.tensors["prior"][k])
            state[own, :width] = mean.repeat(1, self.tables)
        bias[0, :width] = past.bias.repeat(self.tables)
        self._carry()

    def _carry(self) -> None:
        """Count what earlier rows told to the curvatures of the pass that begins."""
        assert self.past is not None
        p, width = self.padded, self.tables * self.outputs
        self.tensors["state"][:, 2 * p : 2 * p + width] = self.carried.repeat(1, self.tables)
        told = self.past.bias_information.to(self.tensors["bias"].device)
        self.tensors["bias"][2, :width] = told.repeat(self.tables)

    def _counted(self, unseen_rate: float) -> np.ndarray:
        """Return how often a pass looks up each row: float64 (R,)."""
        found = look_ups(self.run.train, self.rows.layout.vocab.rows, unseen_rate)
        return np.concatenate([np.empty(0), *(found[slot.name] for slot in self.rows.slots)])

    def _numbers(self, task: Task) -> list[tuple[float, ...]]:
        """What the kernel needs of a head's outputs: see `polyrank.nn.wide_kernels.read`."""
        run, schema = self.run, self.run.train.schema
        likelihood = run.likelihoods[task.name]
        where = own_population(schema, task)
        weight = run.train.weight
        sampled, outside = 0.0, 1.0
        if run.sampling is not None:
            weight = run.sampling.term_weight(run.train, where)
            if run.sampling.task == task.name:
                sampled = -log(run.sampling.keep)
            elif not where.descends_from(run.sampling.task):
                outside = 1 / run.sampling.keep
        known = [at for at, each in enumerate(task.label_kind.curvatures) if each is not None]
        scales = np.ones(len(known))
        if weight is not None:  # as many rows as the weighted ones are worth
            of_rows = term_labels(run.train, where)
            sums = np.zeros((2, len(known)))
            for start in range(0, len(weight), CHUNK_ROWS):
                part = slice(start, start + CHUNK_ROWS)
                label = torch.from_numpy(of_rows[part].astype(np.float32))
                extras = torch.from_numpy(run.train.extras[part])
                found = likelihood.targets(label, named_extras(schema, extras)).numpy()
                own, teaches = weight[part].astype(np.float64), ~np.isnan(found)
                sums += own @ teaches, own**2 @ teaches
            scales = np.divide(*sums, out=scales, where=sums[1] > 0)
        return [
            (1.0, scale, likelihood.offsets[at] + sampled, outside, likelihood.dispersion)
            for at, scale in zip(known, scales.tolist(), strict=True)
        ]

    def step(self, batch: Batch, x: Tensor, column: int) -> Tensor:
        """Learn from a batch; return what its rows' own folds said before.

        Args:
            batch: of the training rows, after id dropout.
            x: where each slot's own effects are written, times `SCALE`, from `column` on.
            column: the first one.

        Shape:
            x: (B, W) → margins (B, T)
        """
        schema, likelihoods = self.run.train.schema, self.run.likelihoods
        targets = targets_of(schema, self.tasks, likelihoods, batch.labels, batch.extras)
        assert batch.rows is not None
        own = folds(parted(batch.rows, batch.requests), self.rows.folds, self.run.seed)
        first, decay = self._pace()
        step = self._step if self._scratch is not None else self._step_in_torch
        margin = step(batch, targets, own, x, column, first, decay)
        self.steps += 1
        return margin

    def _pace(self) -> tuple[bool, float]:
        """Return whether this is the first pass, and the size of a step."""
        if self.passes == 0:
            return True, 1.0
        done = self.run.steps
        return False, 1 - (self.steps - done) / (done * (self.total_passes - 1))

    def _step(
        self, batch: Batch, targets: np.ndarray, own: np.ndarray, x: Tensor, column: int,
        first: bool, decay: float,
    ) -> Tensor:  # fmt: skip
        scratch = self._scratch
        assert scratch is not None
        size, width = len(batch), self.tables * self.outputs
        whole = self.tensors["state"]
        batch, read, numbered = self.rows.batch_of(batch, whole[:, :width])
        if numbered is None:
            read = whole  # no copy
        some = Bags.of([TensorBag.of(bag) for bag in batch.bags], self.rows.bags)
        ids = np.ascontiguousarray(batch.ids)
        weight = _NO_WEIGHT if batch.weight is None else batch.weight
        found = scratch.of(size, some)
        margin = torch.empty(size, self.outputs)
        state, bias = whole.numpy(), self.tensors["bias"].numpy()
        numbers = self.numbers.copy()
        numbers[:, 0] = 1 / self.tensors["noise"].numpy()
        with kernels.ONE_AT_A_TIME:
            wide_kernels.read(
                ids, some.ids, some.starts, some.weights, self.slots, read.numpy(), bias[0, :width],
                self.tables, batch.labels, targets, weight, own, self.chains, self.links,
                self.ends, numbers, self.sampled, x.detach().numpy(), column, np.float32(SCALE),
                margin.numpy(), *found.of_rows, torch.get_num_threads(),
            )  # fmt: skip
        of_bias = [torch.from_numpy(each.sum(0)) for each in found.of_rows[:3]]
        looked_up = ids, some.ids, some.starts, some.weights, self.slots, scratch.order
        shape = self.tables, self.outputs, self.padded
        said = self.ends, own, *found.of_rows
        step = (
            state, self.count.numpy(), self.tensors["prior"].numpy(),
            self.tensors["centre"].numpy(), self.curves.shift, self.carried.numpy(),
            self.pulled.numpy(), self.spread, first,
            np.float32(decay), scratch.slot,
        )  # fmt: skip
        if self.run.ranks.several:
            sizes = [size if k < len(self.rows.fields) else 0 for k in range(len(self.slots))]
            sizes[len(self.rows.fields) :] = (some.starts[:, -1] - some.starts[:, 0]).tolist()
            said = (*looked_up, *shape, *said, read.numpy())
            self._step_together(said, step, sizes, of_bias, numbered)
        else:
            with kernels.ONE_AT_A_TIME:
                wide_kernels.update(*looked_up, *shape, *said, *step, *found.of_threads)
        self._step_bias(of_bias, first, decay)
        self._measure(torch.from_numpy(found.of_rows[3]))
        return margin

    def _step_together(
        self, batch: tuple[Any, ...], step: tuple[Any, ...], sizes: Sequence[int],
        of_bias: list[Tensor], numbered: Found | None,
    ) -> None:  # fmt: skip
        """Step by what the batches of all processes say, and add up `of_bias` over them.

        Args:
            batch: what the kernel `sum_rows` takes of the batch, with the state that it reads.
            step: what `step_rows` takes from the state on, but for its scratch.
            sizes: of each slot, how many look-ups the batch of this process makes at most.
            of_bias: the sums by which the bias is stepped.
            numbered: the batch's rows, where processes hold them between them.
        """
        scratch = self._scratch
        assert scratch is not None
        places = np.cumsum([0, *sizes])
        touched, sums, merged = scratch.of_lines(int(places[-1]))
        lines = np.zeros(len(sizes), dtype=np.int64)
        with kernels.ONE_AT_A_TIME:
            wide_kernels.sum_rows(
                *batch, scratch.slot if numbered is None else scratch.of_numbers(int(places[-1])),
                places, touched, sums, merged, lines,
            )  # fmt: skip
        parts = [slice(at, at + count) for at, count in zip(places, lines, strict=False)]
        own = [np.concatenate([each[part] for part in parts]) for each in (touched, sums)]
        blocks = [torch.from_numpy(each) for each in (lines.astype(np.int32), *own)]
        found = self._exchanged(torch.stack(of_bias), blocks, numbered)
        of_all, of_slots, rows, numbers = map(torch.cat, zip(*found, strict=True))
        for each, total in zip(of_bias, of_all.view(len(found), 3, -1).sum(0), strict=True):
            each.copy_(total)
        counts = of_slots.view(len(found), -1).numpy()
        before = np.cumsum([0, *counts.sum(1)])[:-1, None]
        begins = before + np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1, dtype=np.int64)
        room = scratch.of_lines(len(rows))
        with kernels.ONE_AT_A_TIME:
            wide_kernels.step_rows(
                rows.numpy(), numbers.numpy(), begins, np.cumsum([0, *counts.sum(0)]),
                scratch.order, self.tables, self.outputs, self.padded, *step, *room,
            )  # fmt: skip

    def _exchanged(
        self, of_bias: Tensor, blocks: Sequence[Tensor], numbered: Found | None
    ) -> list[list[Tensor]]:
        """Return what each process said: of the bias, and of the rows that are stepped here.

        `blocks` has the lines of each slot, the rows, and the sums of each.
        """
        if numbered is None:
            return self.run.ranks.joined([of_bias, *blocks])
        said = dealt(numbered, 0, *blocks[1:])
        lines = numbered.lines[0].to(of_bias.device)
        return self.holders.traded(
            [[of_bias, own, *each] for own, each in zip(lines, said, strict=True)]
        )

    def _step_bias(self, sums: Iterable[Tensor], first: bool, decay: float) -> None:
        """Step the bias of each table and head by sums over the batch.

        It has no prior but what earlier rows told, of which each step of a pass pays as much.
        """
        g, h, least = sums
        value, past, now = self.tensors["bias"]
        if self.past is not None and not first:
            width = self.tables * self.outputs
            told, mean = (
                each.to(value.device).repeat(self.tables)
                for each in (self.past.bias_information, self.past.bias)
            )
            g = g.clone()
            g[:width] -= told / self.run.steps * (value[:width] - mean)
        now += h
        down = torch.maximum(now if first else past, least).clamp(min=1.0)
        value += decay * g / down

    def _measure(self, own: Tensor) -> None:
        """Add up squared residuals of outputs that are no events, of rows' own folds: own (B, 4T).

        Of a count they are divided by its variance (Pearson), so that φ is what it is spread more
        than its likelihood has it, as in a quasi-likelihood (Wedderburn, Biometrika 1974).
        """
        for t in np.flatnonzero(np.isin(self.links, MEASURED)):
            teaches = own[:, self.outputs + t] > 0
            steep = own[teaches, self.outputs + t].double()  # v·h ÷ φ, with h = 1 or a count's
            squares = own[teaches, t].double() ** 2 / steep  # v·r² ÷ (h·φ)
            weight = own[teaches, 3 * self.outputs + t].double() / steep  # v
            said = torch.stack([self.tensors["noise"][t] * squares.sum(), weight.sum()])
            self.tensors["residuals"][:, t] += said

    @torch.no_grad()
    def _step_in_torch(
        self, batch: Batch, targets: np.ndarray, own: np.ndarray, x: Tensor, column: int,
        first: bool, decay: float,
    ) -> Tensor:  # fmt: skip
        """Take the same step on any device."""
        device, size = x.device, len(batch)
        q, t, p = self.tables, self.outputs, self.padded
        width, fold = q * t, torch.from_numpy(own).long().to(device)
        state, bias = self.tensors["state"], self.tensors["bias"]
        batch, read, numbered = self.rows.batch_of(batch, state[:, :width])
        ups = self._look_ups(batch, device)
        weights = read[ups.row] * ups.x[:, None]
        z = bias[0, :width] + torch.zeros(size, width, device=device).index_add_(
            0, ups.batch, weights
        )
        of_fold = weights.view(-1, q, t)[torch.arange(len(ups.row), device=device), fold[ups.batch]]
        reads = torch.zeros(size * len(self.rows.slots), t, device=device)
        reads.index_add_(0, ups.batch * len(self.rows.slots) + ups.slot, of_fold)
        x[:, column : column + reads.numel() // size] = SCALE * reads.view(size, -1)
        reach = 1 + torch.zeros(size, device=device).index_add_(0, ups.batch, ups.size)
        v = self._taught(batch, targets, device)
        y = torch.where(v > 0, torch.from_numpy(targets).to(device), 0.0)
        z = z.view(size, q, t)
        at = torch.arange(size, device=device), fold
        margin = z[at].clone()
        mean, curve, noise = self._expected(z)
        rest = (y[:, None] - mean) / noise
        g, h = v[:, None] * rest, v[:, None] * curve
        mine = self._own(v, g[at], h[at], mean[at])
        g[at], h[at] = 0, 0
        g, h = g.view(size, width), h.view(size, width)
        damping = h * reach[:, None]
        one, two = ups.x[:, None], ups.x[:, None] ** 2
        score, pull, steep, spread = mine[ups.batch].split(t, dim=1)
        weight_of_fold = read[ups.row].view(-1, q, t)[
            torch.arange(len(ups.row), device=device), fold[ups.batch]
        ]
        for some in self._softmaxes():  # what all its outputs have in common says nothing
            each = pull[:, some]
            of_all = (each * weight_of_fold[:, some]).sum(1, keepdim=True)
            weight_of_fold[:, some] -= of_all / each.sum(1, keepdim=True).clamp(min=1e-30)
        moments = [one * score + two * pull * weight_of_fold, two * steep]
        if self.spread:
            moments.append(two * spread)
        said = [one * g[ups.batch], two * h[ups.batch], one.abs() * damping[ups.batch]]
        said += [*moments, ups.touches[:, None]]
        touched, sums = _summed(ups.row, torch.cat(said, dim=1))
        fill = torch.zeros(size, p - width, device=device)
        of_bias = torch.stack([torch.cat([each, fill], 1).sum(0) for each in (g, h, damping)])
        if self.run.ranks.several:
            none = torch.empty(0, dtype=torch.int32, device=device)
            found = self._exchanged(of_bias, [none, touched.int(), sums], numbered)
            of_all, _, rows, numbers = map(torch.cat, zip(*found, strict=True))
            of_bias = of_all.view(len(found), 3, -1).sum(0)
            touched, sums = _summed(rows.long(), numbers)
        up, more, least = sums[:, : 3 * width].split(width, dim=1)
        share = (sums[:, -1:] / self.count[touched][:, None]).clamp(max=1)
        begins = torch.from_numpy(self.rows.own_rows).to(device)
        slot = torch.searchsorted(begins, touched, right=True) - 1
        prior = self.tensors["prior"][slot].repeat(1, q)
        rows = state[touched]
        rows[:, 2 * p : 2 * p + width] += more
        if first:
            down = prior + rows[:, 2 * p : 2 * p + width]
        else:
            away = rows[:, :width] - self._centres(touched, slot)
            up = up - prior * share * away
            if self.past is not None:
                told = self.carried[touched].repeat(1, q) * rows[:, :width]
                up = up - share * (told - self.pulled[touched].repeat(1, q))
            down = prior + rows[:, p : p + width]
        rows[:, :width] += decay * up / torch.maximum(down, least)
        rows[:, 3 * p :] += sums[:, 3 * width : -1]
        state[touched] = rows
        self._step_bias(of_bias, first, decay)
        self._measure(mine)
        return margin

    def _taught(self, batch: Batch, targets: np.ndarray, device: torch.device) -> Tensor:
        """Return how much each row teaches each output: (B, T)."""
        labels = torch.from_numpy(batch.labels).to(device)
        numbers = torch.from_numpy(self.numbers).to(device)
        v = (~torch.from_numpy(targets).to(device).isnan()).float()
        for t, chain in enumerate(self.chains):
            for ancestor in chain[chain >= 0]:
                v[:, t] *= labels[:, ancestor] == 1
        v *= numbers[:, 1]
        if batch.weight is not None:
            v *= torch.from_numpy(batch.weight).to(device)[:, None]
        if self.sampled >= 0:
            v = torch.where(labels[:, self.sampled, None] == 0, v * numbers[:, 3], v)
        return v

    def _expected(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what margins (B, Q, T) expect, the curvatures, and what scores are divided by."""
        numbers = torch.from_numpy(self.numbers).to(z.device)
        links = torch.from_numpy(self.links).to(z.device)
        event, counted = links == wide_kernels.LOGISTIC, links == wide_kernels.POISSON
        z = z + numbers[:, 2]
        mean = torch.where(event, torch.sigmoid(z), z)
        mean = torch.where(counted, z.clamp(max=float(wide_kernels.WIDEST)).exp(), mean)
        for some in self._softmaxes():
            mean[:, :, some] = torch.softmax(z[:, :, some], dim=2)
        several = links == wide_kernels.SOFTMAX
        noise = torch.where(event | several, 1.0, self.tensors["noise"])
        noise = torch.where(counted, noise * (1 + numbers[:, 4] * mean), noise)
        curve = torch.where(event, mean * (1 - mean), torch.where(counted | several, mean, 1.0))
        return mean, curve / noise, noise

    def _own(self, v: Tensor, g: Tensor, h: Tensor, p: Tensor) -> Tensor:
        """Return what rows say of the prior: see `wide_kernels.read`; (B, T) each → (B, 4T)."""
        steep, spread = h.clone(), v * h
        for some in self._softmaxes():
            each = p[:, some]
            apart = 1 - 2 * each + each.square().sum(1, keepdim=True)
            steep[:, some] *= apart.clamp(min=0).sqrt()
            spread[:, some] *= 1 - each
        return torch.cat([g, h, steep, spread], dim=1)

    def _softmaxes(self) -> Iterator[slice]:
        """Return the outputs of each softmax."""
        return (slice(t, int(self.ends[t])) for t in np.flatnonzero(self.ends).tolist())

    def _look_ups(self, batch: Batch, device: torch.device) -> Lookups:
        parts = []
        size, schema = len(batch), self.rows.layout.schema
        for k, (source, pooling, shift) in enumerate(self.slots.tolist()):
            if pooling == kernels.ONE:
                row = torch.from_numpy(batch.ids[source]).to(device).long() + shift
                ones = torch.ones(size, device=device)
                at = torch.arange(size, device=device)
                parts.append(Lookups(row, at, torch.full_like(row, k), ones, ones, ones))
                continue
            bag = batch.bags[self.rows.bags[source]]
            lengths, ids, weights = np.diff(bag.offsets), bag.ids, bag.weights
            at = np.repeat(np.arange(size), lengths)
            if schema.bags[self.rows.bags[source]].pooling == "last":
                last = bag.offsets[1:][lengths > 0] - 1
                ids, at = ids[last], at[last]
                weights = None if weights is None else weights[last]
            pairs, place, times = np.unique(
                np.stack([at, ids]), axis=1, return_inverse=True, return_counts=True
            )
            if weights is None:
                of_row = np.ones(size) if pooling != kernels.MEAN else 1 / np.maximum(lengths, 1)
                x = absolute = (times * of_row[pairs[0]]).astype(np.float32)
            else:
                each = weights.astype(np.float64)
                if pooling == kernels.WEIGHTED_MEAN:
                    total = np.bincount(at, np.abs(each), minlength=size)
                    each = each / np.where(total > 0, total, 1)[at]
                x, absolute = (
                    np.bincount(place.ravel(), part, minlength=len(times)).astype(np.float32)
                    for part in (each, np.abs(each))
                )
            row = torch.from_numpy(pairs[1]).to(device).long() + shift
            numbers = (x, absolute, times.astype(np.float32))
            found = (pairs[0].astype(np.int64), np.full(len(x), k), *numbers)
            parts.append(Lookups(row, *(torch.from_numpy(each).to(device) for each in found)))
        if not parts:
            empty = torch.empty(0, dtype=torch.long, device=device)
            return Lookups(empty, empty, empty, *[empty.float()] * 3)
        return Lookups(*map(torch.cat, zip(*parts, strict=True)))

    def end_pass(self) -> None:
        """Estimate the priors, and average the tables over the passes from the second on."""
        self.passes += 1
        self.run.ranks.total([self.tensors["residuals"]])
        p = self.padded
        state, bias = self.tensors["state"], self.tensors["bias"]
        width = self.tables * self.outputs
        if self.past is None:  # else the variances are those that the posterior had
            self._estimate_priors()
        state[:, p : 2 * p] = state[:, 2 * p : 3 * p]
        state[:, 2 * p :] = 0
        bias[1], bias[2] = bias[2].clone(), 0
        self._settle_curves()
        self._settle_softmaxes()
        if self.past is None:
            self._centre()
        else:  # what earlier rows told holds the means where they are
            self._carry()
        sums, weights = self.tensors["residuals"]
        noise = self.tensors["noise"]
        noise.copy_(torch.where(weights > 0, sums / weights.clamp(min=1e-30), noise.double()))
        noise.clamp_(min=1e-6)
        self.tensors["residuals"].zero_()
        if self.passes <= 2:  # the first pass is still far from where it goes
            self.mean.copy_(state[:, :width])
        else:
            self.mean.lerp_(state[:, :width], 1 / (self.passes - 1))
        for own in map(self._rows_of, self.curves.of_slot):  # whose steps were already settled
            self.mean[own] = state[own, :width]

    def finish(self) -> Tables:
        """Bring what serves up to date; return what training reads."""
        rows, t, p = self.rows, self.outputs, self.padded
        width = self.tables * t
        rows.effect.copy_(self.mean[:, width - t :])
        rows.bias.copy_(self.tensors["bias"][0, width - t : width])
        rows.prior.copy_(self.tensors["prior"])
        rows.bias_curvature.copy_(self.tensors["bias"][1, width - t : width])
        curvature = self.tensors["state"][:, p + width - t : p + width]
        for k, own in enumerate(self._slices()):
            rows.precision[own] = curvature[own] + rows.prior[k]
        for k in self.curves.of_slot:
            rows.precision[self._rows_of(k)] = self.precisions[self._centred(k)]
        rows.past = None
        return Tables(self.mean, self.tensors["bias"][0, :width].clone())

    def _settle_curves(self) -> None:
        """Give rows in order their posterior, which steps by single rows would reach slowly."""
        state, prior, t = self.tensors["state"], self.tensors["prior"], self.outputs
        curved = slice(self.padded, self.padded + self.tables * t)
        held = self.rows.layout.held
        for k, curve in self.curves.of_slot.items():
            own, centre = self._rows_of(k), self._centre_of(k)
            here = slice((held.rank - self.rows.first_rows[k]) % held.count, None, held.count)
            parts = state[own, : self.tables * t], state[own, curved], centre
            effect, h, old = (
                each.cpu().numpy().astype(np.float64) for each in self._of_slot(k, *parts)
            )
            h[h <= LEAST_CURVATURE] = 0
            for output in range(t):
                mine = slice(output, None, t)
                level = float(prior[k, output])
                found = curve.settled(effect[:, mine], old[:, mine], h[:, mine], level)
                effect[:, mine], old[:, mine] = found.effect, found.centre
                prior[k, output] = found.level
                precision = torch.from_numpy(found.precision[here])
                self.precisions[self._centred(k), output] = precision.float()
                self.rows.curvature[self.rows.curved[k], output] = torch.from_numpy(
                    h[:, -t + output]
                )
                self.rows.said[self.rows.curved[k], output] = torch.from_numpy(found.said)
            state[own, : self.tables * t] = torch.from_numpy(effect[here]).float()
            centre.copy_(torch.from_numpy(old[here]))

    def _settle_softmaxes(self) -> None:
        """Move what the effects of an id on all outputs of a softmax have in common to its optimum.

        It changes no probability, so that only the prior and earlier rows tell it, and steps by
        single outputs would reach it slowly.
        """
        width, prior = self.tables * self.outputs, self.tensors["prior"]
        for some in self._softmaxes():
            for k, own in enumerate(self._slices()):
                if k in self.curves.of_slot:  # whose prior has no such direction of one row
                    continue
                whole = self.tensors["state"][own, :width]
                effects = whole.unflatten(1, (self.tables, self.outputs))[:, :, some]
                precision, score = prior[k, some], torch.zeros((), device=prior.device)
                if self.past is not None:
                    precision = precision + self.carried[own, None, some]
                    score = self.pulled[own, None, some]
                off = (precision * effects - score).sum(2) / precision.sum(-1)
                effects -= off[:, :, None]

    def _of_slot(self, k: int, *own: Tensor) -> list[Tensor]:
        """Return what all processes have of the rows of a slot, given what this one has."""
        held = self.rows.layout.held
        start, end = self.rows.first_rows[k : k + 2].tolist()
        whole = [each.new_empty(end - start, *each.shape[1:]) for each in own]
        for rank, found in enumerate(self.holders.joined(own)):
            for each, part in zip(whole, found, strict=True):
                each[(rank - start) % held.count :: held.count] = part
        return whole

    def _rows_of(self, k: int) -> slice:
        return slice(*self.rows.own_rows[k : k + 2].tolist())

    def _centre_of(self, k: int) -> Tensor:
        """Return what the prior pulls the rows of a slot with a curve to: a view (rows, Q·T)."""
        return self.tensors["centre"][self._centred(k)]

    def _centred(self, k: int) -> slice:
        own, shift = self._rows_of(k), int(self.curves.shift[k])
        return slice(own.start + shift, own.stop + shift)

    def _centres(self, rows: Tensor, slot: Tensor) -> Tensor:
        """Return what the prior pulls rows of the state to, given their slots: (n, Q·T)."""
        found = torch.zeros(len(rows), self.tables * self.outputs, device=rows.device)
        shift = torch.from_numpy(self.curves.shift).to(rows.device)[slot]
        here = shift != wide_kernels.NOWHERE
        found[here] = self.tensors["centre"][rows[here] + shift[here]]
        return found

    def _centre(self) -> None:
        """Move the mean effect of each field into the bias, where no prior pulls at it.

        Every row has one id of a field, so what is known stays as it was. At the optimum the means
        are 0; steps along this direction, which the prior alone tells from others, are slow, and an
        id that was never seen would get the base rate of none.
        """
        width = self.tables * self.outputs
        state, bias = self.tensors["state"], self.tensors["bias"]
        fields = list(self._slices())[: len(self.rows.fields)]
        known = [state[own, self.padded : self.padded + width] > 0 for own in fields]
        sums = [state[own, :width].sum(0) for own in fields]
        counts = [each.sum(0).double() for each in known]
        self.holders.total([*sums, *counts])
        for k, own in enumerate(fields):
            mean = sums[k] / counts[k].to(state.dtype).clamp(min=1)
            state[own, :width] -= mean * known[k]
            if k in self.curves.of_slot:
                self._centre_of(k).sub_(mean * known[k])
            bias[0, :width] += mean

    def _estimate_priors(self) -> None:
        """Set each field's prior from what its ids said in this pass."""
        t, start = self.outputs, 3 * self.padded
        found = self.tensors["state"][:, start:].cpu().numpy()
        prior = self.tensors["prior"].cpu().numpy()
        slots = [k for k in range(len(self.rows.slots)) if k not in self.curves.of_slot]
        told: list[list[Moments]] = []
        for output in range(t):
            fields = []
            for own in map(self._rows_of, slots):
                tells = (found[own, t + output] > LEAST_CURVATURE) & self.seen[own]
                score, curvature = found[own, output][tells], found[own, t + output][tells]
                spread = found[own, 2 * t + output][tells] if self.spread else curvature
                fields.append(Moments(score, curvature, spread))
            told.append(fields)
        # A logit and a label's deviation are no common measure.
        for link in set(self.links.tolist()):
            outputs = np.flatnonzero(self.links == link)
            at = np.ix_(np.array(slots, dtype=np.int64), outputs)
            before = 1 / prior[at].astype(np.float64)
            found_of = variances([told[each] for each in outputs], before, self.holders)
            prior[at] = 1 / found_of
        self.tensors["prior"].copy_(torch.from_numpy(prior))

    def _slices(self) -> Iterator[slice]:
        return starmap(slice, pairwise(self.rows.own_rows.tolist()))


_NO_WEIGHT = np.empty(0, dtype=np.float32)


def _summed(rows: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return distinct rows, and the sums of what is said of each: (n,), (n, C)."""
    touched, place = torch.unique(rows, return_inverse=True)
    sums = torch.zeros(len(touched), numbers.shape[1], device=numbers.device)
    return touched, sums.index_add_(0, place, numbers)


class _Work(NamedTuple):
    of_rows: tuple[np.ndarray, ...]  # gradient, curvature, damping (B, P) and own (B, 4T)
    of_threads: tuple[np.ndarray, ...]  # slot's touched, sums, merged


class _Scratch:
    """What the kernels need beside their arguments, kept from step to step."""

    def __init__(self, rows: WideRows, padded: int, outputs: int) -> None:
        self.padded, self.outputs = padded, outputs
        self.order = slots_by_thread(len(rows.slots), torch.get_num_threads())
        self.slot = np.full(len(rows.effect), -1, dtype=np.int32)
        self._rows: tuple[np.ndarray, ...] = ()
        self._threads: tuple[np.ndarray, ...] = ()
        self._lines: tuple[np.ndarray, ...] = ()
        self._numbers = np.empty(0, dtype=np.int32)

    def of_numbers(self, most: int) -> np.ndarray:
        """Return `slot` for rows that a batch has numbered from 0, up to so many."""
        if most > len(self._numbers):
            self._numbers = np.full(most, -1, dtype=np.int32)
        return self._numbers

    def of_lines(self, most: int) -> tuple[np.ndarray, ...]:
        """Return `touched`, `sums` and `merged` with room for so many lines, of all slots."""
        if not self._lines or len(self._lines[0]) < most:
            numbers = 3 * self.padded + 3 * self.outputs + 2
            self._lines = (
                np.empty(most, dtype=np.int32),
                np.empty((most, numbers), dtype=np.float32),
                np.zeros(most, dtype=np.int32),
            )
        return self._lines

    def of(self, size: int, bags: Bags) -> _Work:
        if not self._rows or len(self._rows[0]) != size:
            shapes = [(size, self.padded)] * 3 + [(size, 4 * self.outputs)]
            self._rows = tuple(np.zeros(shape, dtype=np.float32) for shape in shapes)
        lengths = bags.starts[:, -1] - bags.starts[:, 0]
        most = max([size, *lengths.tolist()])
        if not self._threads or self._threads[0].shape[1] < most:
            threads = len(self.order)
            columns = 3 * self.padded + 3 * self.outputs + 2
            self._threads = (
                np.empty((threads, most), dtype=np.int32),
                np.empty((threads, most, columns), dtype=np.float32),
                np.zeros((threads, most), dtype=np.int32),
            )
        return _Work(self._rows, self._threads)


def slots_by_thread(slots: int, threads: int) -> np.ndarray:
    """Deal out slots to threads, in turn, each thread's ended by −1: int64 (threads, N)."""
    order = np.full((threads, slots // threads + 2), -1, dtype=np.int64)
    for k in range(slots):
        order[k % threads, k // threads] = k
    return order
