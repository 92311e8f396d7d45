"""Wide rows: the compiled and the torch step against plain float64, folds, and what they reach."""

from __future__ import annotations

from math import log

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.data.folds import folds
from polyrank.data.sampling import Sampling
from polyrank.data.table import Table
from polyrank.objective.losses import Supervision
from polyrank.stages.priors import Moments, variances
from polyrank.stages.stage import StageRun
from polyrank.stages.wide import Wide, WideLearner
from polyrank.train.heads import base_rates
from polyrank.train.sources import Sources, encoded

ROWS, BATCH = 1600, 16


def a_log(seed: int, *, weight: bool) -> tuple[pr.Schema, pl.DataFrame]:
    """A funnel with a rating, missing labels, ids, bags with repeats, and weights."""
    rng = np.random.default_rng(seed)
    n = ROWS
    user, item = rng.integers(0, 40, n), rng.integers(0, 25, n)
    effect = rng.normal(size=40)[user] + rng.normal(size=25)[item]
    click = (rng.random(n) < 1 / (1 + np.exp(-effect))).astype(float)
    buy = np.where(click == 1, rng.random(n) < 0.4, 0).astype(float)
    click[rng.random(n) < 0.02] = np.nan
    buy[np.isnan(click)] = np.nan
    history = [rng.integers(0, 25, rng.integers(0, 6)).tolist() for _ in range(n)]
    recent = [rng.integers(0, 9, rng.integers(0, 4)).tolist() for _ in range(n)]
    frame = pl.DataFrame(
        {
            "user": user, "item": item, "history": history, "recent": recent, "tags": recent[::-1],
            "price": rng.normal(size=n), "click": click, "buy": buy,
            "stars": np.where(click == 1, 3 + effect + rng.normal(size=n), np.nan),
            "share": rng.integers(0, 2, n).astype(float), "w": rng.integers(1, 4, n).astype(float),
        }
    )  # fmt: skip
    schema = pr.Schema(
        [
            pr.SparseFeature("user", min_count=20), pr.SparseFeature("item"),
            pr.SequenceFeature("history", shared_with="item"),
            pr.SequenceFeature("recent", pooling="last"), pr.SequenceFeature("tags", pooling="sum"),
            pr.DenseFeature("price", encoding="bins", bins=4),
        ],
        [
            pr.Task("click"), pr.Task("buy", given="click", space="click"),
            pr.Task("stars", kind="regression", given="click"), pr.Task("share"),
        ],
        keys={"weight": "w"} if weight else {},
    )  # fmt: skip
    return schema, frame


def learner_of(
    schema: pr.Schema, frame: pl.DataFrame, sampling: Sampling | None, epochs: int
) -> tuple[Table, WideLearner]:
    vocab, tables = encoded(schema, Sources(frame, None, None))
    train = tables["train"]
    model = pr.Model(wide=Wide(folds=3))
    rows = Wide(folds=3).build(model.layout(schema, vocab))
    run = StageRun(
        train=train, likelihoods=Supervision.of(train, sampling).likelihoods,
        rates=base_rates(train, sampling), sampling=sampling, seed=5, steps=len(train) // BATCH,
        epochs=epochs, unseen_rate=0.01,
    )  # fmt: skip
    return train, rows.learner(run)


class Plain:
    """The rule of docs/wide.md, look-up by look-up, in float64."""

    def __init__(self, learner: WideLearner, sampling: Sampling | None) -> None:
        self.learner, self.run, self.sampling = learner, learner.run, sampling
        rows = learner.rows
        schema = self.schema = learner.run.train.schema
        self.tasks = [schema.by_name[name] for name in rows.heads]
        q, t, n = rows.folds + 1, len(rows.heads), len(rows.effect)
        self.w, self.past, self.now = (np.zeros((n, q, t)) for _ in range(3))
        self.score, self.curve, self.spread = (np.zeros((n, t)) for _ in range(3))
        start = [log(self.run.rates[x] / (1 - self.run.rates[x])) if x in self.run.rates else 0
                 for x in rows.heads]  # fmt: skip
        self.bias = np.tile(np.array(start, dtype=float), (q, 1))
        self.bias_past, self.bias_now = np.zeros((q, t)), np.zeros((q, t))
        self.prior = np.full((len(rows.slots), t), 10.0)
        self.noise, self.squares = np.ones(t), np.zeros((2, t))
        self.effect = np.zeros((n, t))
        self.field = np.repeat(np.arange(len(rows.slots)), np.diff(rows.first_rows))
        self.epoch = self.steps = 0
        self.count, self.seen = self._counts()
        self.scale = {task.name: self._scale(task) for task in self.tasks}

    def _counts(self):
        table, rows = self.run.train, self.learner.rows
        count = np.zeros(len(rows.effect))
        extra = np.zeros(len(rows.effect))
        for k, slot in enumerate(rows.slots):
            first = rows.first_rows[k]
            if slot.place == "ids":
                ids = table.ids[[s.name for s in self.schema.fields].index(slot.name)]
            else:
                bag = table.bags[[s.name for s in self.schema.bags].index(slot.name)]
                lists = [bag.ids[a:b] for a, b in zip(bag.offsets, bag.offsets[1:], strict=False)]
                lists = [each[-1:] if slot.pooling == "last" else each for each in lists]
                ids = np.concatenate(lists)
            np.add.at(count, first + ids, 1)
            extra[first] += self.run.unseen_rate * len(ids) * slot.unseen
        return np.maximum(count + extra, 1), count > 0

    def look_ups(self, batch, i):
        """Return {row: [coefficient, ids]} of a row of the batch."""
        rows, found = self.learner.rows, {}
        place = dict(zip([s.name for s in rows.slots], rows.shifts, strict=True))
        for k, slot in enumerate(self.schema.fields):
            row = batch.ids[k, i] + place[slot.name]
            found[row] = [1.0, 1]
        for k, slot in enumerate(self.schema.bags):
            bag = batch.bags[k]
            ids = bag.ids[bag.offsets[i] : bag.offsets[i + 1]]
            ids = ids[-1:] if slot.pooling == "last" else ids
            x = 1 / len(ids) if slot.pooling == "mean" and len(ids) else 1.0
            for each in ids:
                own = found.setdefault(each + place[slot.name], [0.0, 0])
                own[0] += x
                own[1] += 1
        return found

    def weight(self, batch, i, task):
        """How much a row teaches a head."""
        labels = dict(zip((t.name for t in self.schema.tasks), batch.labels[i], strict=True))
        if np.isnan(labels[task.name]) or any(
            labels[a] != 1 for a in self.schema.ancestors(task.name)
        ):
            return 0.0, 0.0
        v = (1.0 if batch.weight is None else batch.weight[i]) * self._outside(
            task, labels["click"]
        )
        return v * self.scale[task.name], labels[task.name]

    def _scale(self, task):
        """Sum of weights ÷ sum of their squares, over the rows that teach a head."""
        table, labels = self.run.train, self.run.train.labels_by_task
        happened = ~np.isnan(labels[task.name])
        for a in self.schema.ancestors(task.name):
            happened &= labels[a] == 1
        own = np.ones(len(table)) if table.weight is None else table.weight
        v = np.array(
            [w * self._outside(task, y) for w, y in zip(own, labels["click"], strict=True)]
        )
        return v[happened].sum() / (v[happened] ** 2).sum()

    def _outside(self, task, root):
        outside = self.sampling is not None and task.name == "share"
        return 1 / self.sampling.keep if outside and root == 0 else 1.0

    def step(self, batch):
        q, t = self.bias.shape
        first = self.epoch == 0
        total, done = self.run.steps * self.run.epochs, self.run.steps
        decay = 1.0 if first else 1 - (self.steps - done) / (total - done)
        fold = folds(batch.rows, q - 1, self.run.seed)
        g, h, least = (np.zeros_like(self.w) for _ in range(3))
        gb, hb, lb = (np.zeros((q, t)) for _ in range(3))
        touches = np.zeros(len(self.w))
        margins, reads = [], []
        for i in range(len(batch)):
            ups = self.look_ups(batch, i)
            z = self.bias + sum((x * self.w[row] for row, (x, _) in ups.items()), np.zeros((q, t)))
            reach = 1 + sum(x for x, _ in ups.values())
            margins.append(z[fold[i]])
            read = np.zeros((len(self.prior), t))
            for row, (x, times) in ups.items():
                touches[row] += times
                read[self.field[row]] += 3 * x * self.w[row, fold[i]]
            reads.append(read.ravel())
            for j, task in enumerate(self.tasks):
                v, y = self.weight(batch, i, task)
                if v == 0:
                    continue
                if task.kind == "regression":
                    likelihood = self.run.likelihoods[task.name]
                    y = (y - likelihood.origin) / likelihood.unit
                    rest, steep = (y - z[:, j]) / self.noise[j], np.full(q, 1 / self.noise[j])
                    self.squares[:, j] += v * (y - z[fold[i], j]) ** 2, v
                else:
                    shift = log(self.sampling.keep) if self.sampling and task.name == "click" else 0
                    p = 1 / (1 + np.exp(-(z[:, j] - shift)))
                    rest, steep = y - p, p * (1 - p)
                own = v * rest[fold[i]], v * steep[fold[i]]
                uses = np.arange(q) != fold[i]
                gb[:, j] += uses * v * rest
                hb[:, j] += uses * v * steep
                lb[:, j] += uses * v * steep * reach
                for row, (x, _) in ups.items():
                    g[row, :, j] += uses * v * rest * x
                    h[row, :, j] += uses * v * steep * x * x
                    least[row, :, j] += uses * v * steep * x * reach
                    w = self.w[row, fold[i], j]
                    self.score[row, j] += x * own[0] + x * x * own[1] * w
                    self.curve[row, j] += x * x * own[1]
                    self.spread[row, j] += x * x * v * own[1]
        some = touches > 0
        self.now[some] += h[some]
        prior = self.prior[self.field][:, None]
        share = np.minimum(1, touches / self.count)[:, None, None]
        if first:
            change = g / np.maximum(prior + self.now, least)
        else:
            change = (g - prior * share * self.w) / np.maximum(prior + self.past, least)
        self.w[some] += decay * change[some]
        self.bias_now += hb
        known = self.bias_now if first else self.bias_past
        self.bias += decay * gb / np.maximum(np.maximum(known, lb), 1)
        self.steps += 1
        return np.array(margins), np.array(reads)

    def end_epoch(self):
        self.epoch += 1
        for j in range(self.prior.shape[1]):
            fields = []
            for k in range(len(self.prior)):
                tells = (self.field == k) & self.seen & (self.curve[:, j] > 1e-6)
                each = (self.score[tells, j], self.curve[tells, j], self.spread[tells, j])
                fields.append(Moments(*each))
            self.prior[:, j] = 1 / variances(fields, 1 / self.prior[:, j])
        for each in (self.score, self.curve, self.spread):
            each[:] = 0
        self.past, self.now = self.now, np.zeros_like(self.now)
        self.bias_past, self.bias_now = self.bias_now, np.zeros_like(self.bias_now)
        told = self.squares[1] > 0
        self.noise[told] = self.squares[0, told] / self.squares[1, told]
        self.squares[:] = 0
        full = self.w[:, -1]
        n = max(self.epoch - 1, 1)
        self.effect += (full - self.effect) / n


@pytest.mark.parametrize("in_torch", [False, True], ids=["compiled", "torch"])
@pytest.mark.parametrize("case", ["plain", "weighted", "sampled"])
def test_two_hundred_steps_are_those_of_plain_float64(case, in_torch):
    sampling = Sampling("click", keep=0.5) if case == "sampled" else None
    schema, frame = a_log(1, weight=case == "weighted")
    train, learner = learner_of(schema, frame, sampling, epochs=2)
    if in_torch:
        learner._scratch = None
    plain = Plain(learner, sampling)
    layout = learner.rows.layout
    x = torch.zeros(BATCH, layout.width)
    column = layout.slices["#wide"].start
    for epoch in range(2):
        for batch in train.batches(
            layout, BATCH, shuffle=True, seed=5, epoch=epoch, unseen_rate=0.01
        ):
            margin = learner.step(batch, x, column)
            wanted = plain.step(batch)
            np.testing.assert_allclose(margin.numpy(), wanted[0], rtol=2e-3, atol=2e-3)
            np.testing.assert_allclose(x[:, column:].numpy(), wanted[1], rtol=5e-3, atol=5e-3)
        learner.end_epoch()
        plain.end_epoch()
    rows = learner.rows
    np.testing.assert_allclose(rows.effect.numpy(), plain.effect, rtol=5e-3, atol=1e-3)
    np.testing.assert_allclose(rows.prior.numpy(), plain.prior, rtol=2e-2)
    precision = plain.prior[plain.field] + plain.past[:, -1]
    np.testing.assert_allclose(rows.precision.numpy(), precision, rtol=2e-2)
    np.testing.assert_allclose(learner.tensors["noise"].numpy(), plain.noise, rtol=1e-3)
    assert np.abs(plain.effect).max() > 0.2
