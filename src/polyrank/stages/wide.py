"""Wide rows: one number an id, feature and head, estimated as a Bayesian effect beside the network.

Each of K + 1 tables is a regression on ids alone, logistic or of another likelihood: K that never
learn from one fold, and one that learns from all rows. Main effects of ids with few rows are thus
shrunk by a prior whose variance is estimated, which shared layers cannot do. The maths is in
docs/wide.md, the compiled loops in `polyrank.nn.wide_kernels`.

Letters: B rows, F fields of ids, K slots with wide rows, Q tables (the folds, then the full one),
T outputs of heads, R rows of all slots.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, starmap
from time import perf_counter
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from polyrank import spec
from polyrank.data.folds import folds, parted
from polyrank.data.shares import Share
from polyrank.data.table import Batch, Table
from polyrank.data.vocab import Vocab
from polyrank.features import Slot
from polyrank.layout import Layout
from polyrank.nn import kernels, wide_kernels
from polyrank.nn.embed import (
    Bags,
    Padded,
    TensorBag,
    coefficients,
    padded_coefficients,
    pooled,
    pooled_padded,
)
from polyrank.nn.held import Found, HeldMatrix, fetched, find
from polyrank.schema import Schema
from polyrank.stages.curves import is_curved
from polyrank.stages.effects import FieldEffects
from polyrank.stages.priors import FIRST_PRIOR
from polyrank.stages.stage import (
    Margin,
    ReadRows,
    Stage,
    StageLearner,
    StageModule,
    StageRun,
    margins_of_tasks,
)
from polyrank.stages.wide_fit import (
    PASSES,
    SCALE,
    Past,
    Tables,
    WideFit,
    columns,
    slots_by_thread,
    slots_of,
)

logger = logging.getLogger(__name__)

CHUNK_ROWS = 16384


@dataclass(frozen=True, kw_only=True)
class Wide(Stage):
    """Wide rows, with priors of their own; equals `[model] wide`.

    Every id feature has them but those with `wide = false`, for every output whose likelihood has
    a curvature. For T outputs, while they are fitted they take about 4·T·(folds + 1) + 3·T numbers
    an id; in training T·(folds + 1), and when serving T.

    Args:
        folds: parts of the training rows; a row's own effect never learned from its part.
        outputs: most outputs of a head that has wide rows, such as categories; a head of more has
            none, since each is a number of every id in every table.

    Raises:
        ConfigError: fewer than 2 folds: without another part, no effect is free of its own label;
            or fewer than 1 output.

    Examples:
        >>> Wide().folds
        4
    """

    name: ClassVar[str] = "wide"
    by_ranks = True

    folds: int = 4
    outputs: int = 16

    def __post_init__(self) -> None:
        spec.whole("wide: folds", self.folds, least=2, most=64)
        spec.whole("wide: outputs", self.outputs)

    def reads(self, schema: Schema) -> int:
        return len(wide_slots(schema)) * len(self.margins(schema))

    def reads_of(self, schema: Schema, features: Collection[str]) -> Sequence[int]:
        own = {
            slot.name for each in schema.features if each.name in features for slot in each.slots
        }
        heads = len(self.margins(schema))
        return [
            place * heads + head
            for place, slot in enumerate(wide_slots(schema))
            if slot.name in own
            for head in range(heads)
        ]

    def build(self, layout: Layout) -> WideRows:
        return WideRows(layout, self.folds, self.margins(layout.schema))

    def read_rows(self, schema: Schema) -> ReadRows:
        return ReadRows(wide_slots(schema), (self.folds + 1) * len(self.margins(schema)))

    def memory(self, schema: Schema, rows: Mapping[str, int]) -> int:
        outputs, total = len(self.margins(schema)), sum(rows[s.table] for s in wide_slots(schema))
        tables = self.folds + 1
        fitting = columns(outputs, tables, spread=True) + tables * outputs
        return 4 * total * (fitting + 2 * outputs + 2)

    def margins(self, schema: Schema) -> tuple[Margin, ...]:
        """Return the outputs of heads that have wide rows."""
        return margins_of_tasks(schema, self.outputs)


def wide_slots(schema: Schema) -> tuple[Slot, ...]:
    """Return the slots whose ids have wide rows: those of fields, then those of bags."""
    return tuple(slot for slot in schema.lookups if slot.wide)


class WideRows(StageModule):
    """Effects as they serve: of the full table, averaged over passes; and their precision.

    An effect's posterior is about normal, with variance 1 ÷ precision.
    """

    effect: Tensor  # (R, T)
    precision: Tensor  # (R, T)
    bias: Tensor  # (T,)
    prior: Tensor  # (K, T): the precision of each field's effects before any row is seen
    bias_curvature: Tensor  # (T,): how precisely the bias is known
    curvature: Tensor  # (C, T): of slots with a curve, how much their rows' own labels tell
    said: Tensor  # (C, T): and what they say; other slots' posterior tells it by itself
    packed: Tensor  # (K, 1): what takes an id of the packs to a row of `effect`
    first: Tensor  # (K, 1): where each slot begins
    rows: Tensor  # (K, 1): rows of each slot

    def __init__(self, layout: Layout, count: int, margins: Sequence[Margin]) -> None:
        super().__init__()
        schema = layout.schema
        self.layout, self.folds, self.margins = layout, count, tuple(margins)
        self.heads = tuple(dict.fromkeys(each.task.name for each in margins))
        self.slots = wide_slots(schema)
        rows = np.array([layout.vocab.rows[slot.table] for slot in self.slots], dtype=np.int64)
        self.first_rows = np.cumsum([0, *rows.tolist()], dtype=np.int64)
        self.own_rows = layout.held.first(self.first_rows)  # among those that are held here
        self.fields = [i for i, slot in enumerate(schema.fields) if slot.wide]
        self.bags = [i for i, slot in enumerate(schema.bags) if slot.wide]
        in_packs = np.concatenate(
            [layout.offsets[self.fields], layout.bag_offsets[self.bags]]
        ).astype(np.int64)
        self.shifts = self.first_rows[:-1] - in_packs
        total, outputs = int(self.own_rows[-1]), len(self.margins)
        self.past: Past | None = None  # what is to be learned on from
        self.curved: dict[int, slice] = {}  # rows of `curvature` and `said`, by slot
        end = 0
        for k, slot in enumerate(self.slots):
            if is_curved(slot.ordered, int(rows[k])):
                self.curved[k] = slice(end, end + int(rows[k]))
                end += int(rows[k])
        for name, each in (
            ("effect", torch.zeros(total, outputs)),
            ("precision", torch.full((total, outputs), FIRST_PRIOR)),
            ("bias", torch.zeros(outputs)),
            ("bias_curvature", torch.zeros(outputs)),
            ("curvature", torch.zeros(end, outputs)),
            ("said", torch.zeros(end, outputs)),
            ("prior", torch.full((len(self.slots), outputs), FIRST_PRIOR)),
        ):
            self.register_buffer(name, each)
        for name, each in (
            ("packed", self.shifts), ("first", self.first_rows[:-1]), ("rows", rows)
        ):  # fmt: skip
            self.register_buffer(name, torch.from_numpy(each)[:, None].clone(), persistent=False)

    @property
    def outputs(self) -> tuple[tuple[str, int], ...]:
        return tuple((each.task.name, each.output) for each in self.margins)

    @property
    def matrix(self) -> HeldMatrix:
        """How batches look up rows of `effect`."""
        count = len(self.slots)
        return HeldMatrix(
            int(self.first_rows[-1]), slots_of(self), np.arange(count + 1), tuple(self.bags),
            slots_by_thread(count, torch.get_num_threads()),
        )  # fmt: skip

    def forward(
        self, ids: Tensor, bags: Sequence[TensorBag], given: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        shifts, effect, held = self.packed, self.effect, self.layout.held
        if held.ranks is not None:
            batch = find([self.matrix], ids, bags, held)
            ids, bags, shifts = batch.ids, batch.bags, torch.zeros_like(shifts)
            (effect,) = fetched(held.ranks, batch, [effect])
        found = []
        count = len(self.fields)
        if count:
            rows = ids[self.fields] + shifts[:count]
            found.append(embedding(rows.T, effect))  # (B, fields, T)
        for index, shift in zip(self.bags, shifts[count:, 0], strict=True):
            own = TensorBag(*bags[index])
            moved = own._replace(ids=own.ids + shift)
            pooling = self.layout.schema.bags[index].pooling
            found.append(pooled(moved, pooling, effect)[:, None])
        return self._read(found, ids.shape[1])

    @property
    def no_variance(self) -> str | None:
        """Why there is none: a bias alone says nothing of a row."""
        return None if self.slots else "no feature has wide rows, each being `wide = false`"

    def variance(self, ids: Tensor, bags: Sequence[TensorBag]) -> Tensor:
        """Return the posterior variance of the margins of rows of the packs: float64 (B, T).

        It is Σ x² ÷ precision over the ids of a row, each given all other effects; x is 1 for a
        plain id, and for an id of a list the sum of what pooling multiplies its look-ups by. An
        unseen id has the prior's variance, however well row 0 is known: that row is the mean of
        many ids, and this is one of them. Several unseen ids of a list count as different ones.

        Covariances of effects, the uncertainty of the bias and of the priors are not in it.
        """
        batch, total = ids.shape[1], int(self.first_rows[-1])
        found = torch.zeros(batch, len(self.margins), dtype=torch.float64)
        count = len(self.fields)
        for k, own in enumerate(ids[self.fields] + self.packed[:count]):
            found += 1 / self._precision_of(k, own)
        for k, index in enumerate(self.bags, start=count):
            bag = TensorBag(*bags[index])
            local, place, x = coefficients(bag, self.layout.schema.bags[index].pooling)
            own = local.long() + self.packed[k]
            # One number a row and id; an unseen id is never the same as another one.
            keys = place * total + own
            if self.slots[k].unseen:
                unseen = (own == self.first[k]).nonzero()[:, 0]
                keys[unseen] = batch * total + total * unseen + own[unseen]
            keys, merged = keys.unique(return_inverse=True)
            sums = torch.zeros(len(keys), dtype=torch.float64).index_add_(0, merged, x)
            rows = torch.zeros_like(keys).index_copy_(0, merged, place)
            each = sums[:, None] ** 2 / self._precision_of(k, keys % total)
            found.index_add_(0, rows, each)
        return found

    def variance_graph(self) -> WideVariance:
        return WideVariance(self)

    def _precision_of(self, k: int, rows: Tensor) -> Tensor:
        """Return how precisely the effects of a slot's ids are known: float64 (n, T)."""
        found = self.precision[rows].double()
        if self.slots[k].unseen:
            found[rows == self.first[k]] = self.prior[k].double()
        return found

    def batch_of(self, batch: Batch, matrix: Tensor) -> tuple[Batch, Tensor, Found | None]:
        """Return a batch for the slots `numbered`, what it looks up in a matrix, and how.

        The matrix has a row an id, as `effect`; where all of it is here, both stay as they are.
        """
        held = self.layout.held
        if held.ranks is None:
            return batch, matrix, None
        bags = [TensorBag.of(bag) for bag in batch.bags]
        found = find([self.matrix], torch.from_numpy(batch.ids), bags, held)
        (rows,) = fetched(held.ranks, found, [matrix])
        numbered = tuple(
            replace(bag, ids=own.ids.numpy())
            for bag, own in zip(batch.bags, found.bags, strict=True)
        )
        return replace(batch, ids=found.ids.numpy(), bags=numbered), rows, found

    @property
    def numbered(self) -> np.ndarray:
        """The slots of `batch_of`: int64 (K, 3)."""
        slots = slots_of(self)
        if self.layout.held.ranks is not None:
            slots[:, 2] = 0  # ids are numbers of rows already
        return slots

    def held_rows(self) -> dict[str, int]:
        return dict.fromkeys(("effect", "precision"), int(self.first_rows[-1]))

    def make_whole(self, layout: Layout, gathered: Callable[[Tensor, int], Tensor]) -> None:
        for name, total in self.held_rows().items():
            setattr(self, name, gathered(getattr(self, name), total))
        self.layout, self.own_rows = layout, self.first_rows

    def in_graph(
        self, ids: Tensor, sequences: Sequence[Padded], given: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        # An id that is no row of its own table is looked up behind the last row, and refused there.
        found = []
        count = len(self.fields)
        if count:
            own = ids if count == len(self.layout.schema.fields) else ids[self.fields]
            found.append(embedding(self.inside(own, slice(count)).T, self.effect))
        for place, index in enumerate(self.bags, start=count):
            own, weights = sequences[index]
            rows = torch.where(own < 0, -1, self.inside(own, slice(place, place + 1)))
            pooling = self.layout.schema.bags[index].pooling
            found.append(pooled_padded(Padded(rows, weights), pooling, self.effect)[:, None])
        return self._read(found, ids.shape[1])

    def inside(self, ids: Tensor, places: slice) -> Tensor:
        """Return the rows of local ids of slots; behind the last one where an id is no row."""
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
        """Return the bias, and of each slot its effects, their precision and their prior."""
        found = {"bias": self.bias, "bias_curvature": self.bias_curvature}
        ends = pairwise(self.first_rows.tolist())
        for k, (slot, own) in enumerate(zip(self.slots, starmap(slice, ends), strict=True)):
            found[f"effect.{slot.name}"] = self.effect[own]
            found[f"precision.{slot.name}"] = self.precision[own]
            found[f"prior.{slot.name}"] = self.prior[k]
            if k in self.curved:
                found[f"curvature.{slot.name}"] = self.curvature[self.curved[k]]
                found[f"said.{slot.name}"] = self.said[self.curved[k]]
        return found

    @torch.no_grad()
    def start_from(
        self, before: Mapping[str, Tensor], restarted: Collection[str], retained: float
    ) -> None:
        information, score = torch.zeros_like(self.effect), torch.zeros_like(self.effect)
        ends = pairwise(self.first_rows.tolist())
        for k, (slot, own) in enumerate(zip(self.slots, starmap(slice, ends), strict=True)):
            self.prior[k] = before[f"prior.{slot.name}"]
            self.precision[own] = self.prior[k]
            if slot.name in restarted:
                continue
            effect, precision = (before[f"{each}.{slot.name}"] for each in ("effect", "precision"))
            known = slice(own.start, own.start + len(effect))
            self.effect[known], self.precision[known] = effect, precision
            if k in self.curved:
                told = before[f"curvature.{slot.name}"]
                information[known], score[known] = told, told * before[f"said.{slot.name}"]
                self.curvature[self.curved[k]] = told
                self.said[self.curved[k]] = before[f"said.{slot.name}"]
            else:
                information[known] = (precision - self.prior[k]).clamp(min=0)
                score[known] = precision * effect
        self.bias.copy_(before["bias"])
        self.bias_curvature.copy_(before["bias_curvature"])
        self.past = Past(
            retained * information, retained * score, self.prior.clone(), self.bias.clone(),
            retained * self.bias_curvature,
        )  # fmt: skip

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
            for t, margin in enumerate(self.margins):
                each = effect[:, t], precision[:, t], prior[t]
                found.append(FieldEffects.of(slot.name, margin.name, *each, names=names, most=most))
        return tuple(found)


class WideVariance(nn.Module):
    """The variance of margins as an exported graph has it: for local ids, and lists in matrices.

    Up to rounding it is `WideRows.variance`, made of sorting, sums and look-ups.
    """

    variance: Tensor  # (R, T), of the effects of rows

    def __init__(self, rows: WideRows) -> None:
        super().__init__()
        self.rows = rows
        variance = 1 / rows.precision.double()
        for k, slot in enumerate(rows.slots):
            if slot.unseen:
                variance[rows.first[k]] = 1 / rows.prior[k].double()
        self.register_buffer("variance", variance.float())

    def forward(self, ids: Tensor, sequences: Sequence[Padded]) -> Tensor:
        rows, count, found = self.rows, len(self.rows.fields), []
        if count:
            own = rows.inside(ids[rows.fields], slice(count))
            found.append(embedding(own.T, self.variance).double().sum(1))
        for k, index in enumerate(rows.bags, start=count):
            bag = Padded(*sequences[index])
            x = padded_coefficients(bag, rows.layout.schema.bags[index].pooling)
            own, order = bag.ids.sort(dim=1)
            x = x.gather(1, order)
            # The same ids of a row are side by side: one group, which unseen ids do not make.
            begins = own != pad(own, (1, 0), value=-2)[:, :-1]
            if rows.slots[k].unseen:
                begins = begins | (own == 0)
            group = begins.long().cumsum(1) - 1
            sums = torch.zeros_like(x).scatter_add(1, group, x).gather(1, group)
            squares = torch.where(begins, sums * sums, 0.0)
            places = rows.inside(own.clamp(min=0), slice(k, k + 1))
            found.append((embedding(places, self.variance).double() * squares[:, :, None]).sum(1))
        return torch.stack(found).sum(0)


class WideLearner(StageLearner):
    """Fits the tables before the first step; then each training row reads those of its fold.

    The tables depend on no network, so they are known before it starts: it meets the same effects
    in all epochs, and which epoch is kept does not matter to them.
    """

    def __init__(self, rows: WideRows, run: StageRun) -> None:
        self.rows, self.run = rows, run
        self._tables: Tables | None = None
        schema = rows.layout.schema
        self._slots = rows.numbered
        self._pooled = [schema.bags[index].pooling for index in rows.bags]

    def start(self) -> None:
        begun = perf_counter()
        for task in self.rows.layout.schema.tasks:
            if any(task.label_kind.curvatures) and task.name not in self.rows.heads:
                logger.info(
                    "wide rows: task %r has none, since its head has %d outputs: "
                    "[model] wide.outputs says how many may be", task.name, task.label_kind.outputs,
                )  # fmt: skip
        fit, run, layout = WideFit(self.rows, self.run), self.run, self.rows.layout
        x = torch.empty(run.batch_size, layout.width, device=self.rows.effect.device)
        share = Share.of(run.ranks.rank, run.ranks.count, run.ranks.count)
        for number in range(PASSES):
            for batch in run.train.batches(
                layout, run.batch_size, shuffle=True, seed=run.seed, epoch=number,
                unseen_rate=run.unseen_rate, share=share,
            ):  # fmt: skip
                fit.step(batch, x[: len(batch)], layout.own_width)
            fit.end_pass()
        self._tables = fit.finish()
        spreads = (1 / self.rows.prior.mean(0).sqrt()).tolist()
        shown = ", ".join(
            f"{margin.name} {each:.3g}"
            for margin, each in zip(self.rows.margins, spreads, strict=True)
        )
        logger.info(
            "wide rows: %s of %d features fitted in %.1f s; usual deviation of an effect: %s",
            f"{self.rows.first_rows[-1]:,}", len(self.rows.slots), perf_counter() - begun, shown,
        )  # fmt: skip

    def alone(self, valid: Table) -> Tensor:
        device = self.rows.effect.device
        found = []
        for batch in valid.batches(self.rows.layout, CHUNK_ROWS):
            bags = [TensorBag.of(bag, device) for bag in batch.bags]
            found.append(self.rows(torch.from_numpy(batch.ids).to(device), bags)[0].cpu())
        return torch.cat(found)

    def step(self, batch: Batch, x: Tensor, column: int) -> Tensor:
        assert self._tables is not None
        assert batch.rows is not None
        own = folds(parted(batch.rows, batch.requests), self.rows.folds, self.run.seed)
        effect, bias = self._tables
        batch, effect, _ = self.rows.batch_of(batch, effect)
        if x.device.type != "cpu":
            return self._step_in_torch(batch, own, effect, x, column)
        margin = torch.empty(len(batch), len(self.rows.margins))
        some = Bags.of([TensorBag.of(bag) for bag in batch.bags], self.rows.bags)
        with kernels.ONE_AT_A_TIME:
            wide_kernels.read_own(
                np.ascontiguousarray(batch.ids), some.ids, some.starts, some.weights, self._slots,
                effect.numpy(), bias.numpy(), own, x.detach().numpy(), column, np.float32(SCALE),
                margin.numpy(), torch.get_num_threads(),
            )  # fmt: skip
        return margin

    def _step_in_torch(
        self, batch: Batch, own: np.ndarray, effect: Tensor, x: Tensor, column: int
    ) -> Tensor:
        """Read the same on any device."""
        assert self._tables is not None
        bias = self._tables.bias
        rows, device, outputs = self.rows, x.device, len(self.rows.margins)
        fold = torch.from_numpy(own).to(device).long()
        ids = torch.from_numpy(batch.ids).to(device)
        bags = [TensorBag.of(bag, device) for bag in batch.bags]
        shifts = self._slots[:, 2]
        each = [effect[ids[f] + shift] for f, shift in zip(rows.fields, shifts, strict=False)]
        shifts = shifts[len(rows.fields) :]
        for index, shift, pooling in zip(rows.bags, shifts, self._pooled, strict=True):
            moved = bags[index]._replace(ids=bags[index].ids + int(shift))
            each.append(pooled(moved, pooling, effect))
        columns = fold[:, None] * outputs + torch.arange(outputs, device=device)
        found = [part.gather(1, columns) for part in each]
        margin = bias[columns]
        for part in found:
            margin = margin + part
        if found:
            x[:, column : column + len(found) * outputs] = SCALE * torch.cat(found, dim=1)
        return margin

    def end_epoch(self) -> None:
        pass  # all is fitted

    def held_rows(self) -> dict[str, int]:
        return {"effect": int(self.rows.first_rows[-1])}

    def state(self) -> dict[str, Tensor]:
        assert self._tables is not None
        return self._tables._asdict()

    def load(self, state: Mapping[str, Tensor]) -> None:
        device = self.rows.effect.device
        self._tables = Tables(**{name: tensor.to(device) for name, tensor in state.items()})
