"""Wide rows: the compiled and the torch step against plain float64, folds, and what they reach."""

from __future__ import annotations

from functools import partial
from math import log

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import roc_auc_score

import polyrank as pr
from polyrank.data.folds import folds
from polyrank.data.sampling import Sampling
from polyrank.data.table import Table
from polyrank.data.vocab import Before
from polyrank.errors import ConfigError, SchemaError
from polyrank.objective.losses import Supervision
from polyrank.stages.priors import Moments, variances
from polyrank.stages.stage import StageRun
from polyrank.stages.wide import Wide
from polyrank.stages.wide_fit import WideFit
from polyrank.train.heads import base_rates
from polyrank.train.sources import Sources, encoded

ROWS, BATCH = 1600, 16
COUNTED = ("count", "weighted_logistic")
MEASURED = ("regression", "lognormal", *COUNTED)


def a_log(seed: int, *, weight: bool, lists: bool = False) -> tuple[pr.Schema, pl.DataFrame]:
    """A funnel with a rating, missing labels, ids, bags with repeats, weights of rows or lists."""
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
    counts = np.random.default_rng(seed + 2)  # of their own: the rest stays as it was
    items = counts.negative_binomial(2, 1 / (1 + np.exp(0.3 + 0.4 * effect)))
    frame = frame.with_columns(items=np.where(click == 1, items.astype(float), np.nan))
    names = {"history": None, "recent": None, "tags": None}
    if lists:
        names = {name: f"{name} weights" for name in names}
        drawn = np.random.default_rng(seed + 1)
        frame = frame.with_columns(
            pl.Series(own, [drawn.normal(0.5, 1, len(row)).tolist() for row in frame[name]])
            for name, own in names.items()
        )
    schema = pr.Schema(
        [
            pr.SparseFeature("user", min_count=20), pr.SparseFeature("item"),
            pr.SequenceFeature("history", shared_with="item", weights=names["history"]),
            pr.SequenceFeature("recent", pooling="last", weights=names["recent"]),
            pr.SequenceFeature("tags", pooling="sum", weights=names["tags"]),
            pr.DenseFeature("price", encoding="bins", bins=4),
        ],
        [
            pr.Task("click"), pr.Task("buy", given="click", space="click"),
            pr.Task("stars", kind="regression", given="click"), pr.Task("share"),
            pr.Task("items", kind="count", given="click"),
        ],
        keys={"weight": "w"} if weight else {},
    )  # fmt: skip
    return schema, frame


SEVERAL = [
    pr.Task("level", kind=pr.Ordinal(values=[1, 2, 3, 4]), given="click"),
    pr.Task("button", kind=pr.Categorical(values=[2, 5, 9])),
    pr.Task("spend", kind="lognormal", given="click"),
    pr.Task("views", kind=pr.Count(distribution="negative_binomial")),
    pr.Task("seconds", kind=pr.Regression(transform="log1p")),
    pr.Task("play", kind="weighted_logistic"),
]  # fmt: skip


def of_several_outputs(seed: int, *, weight: bool) -> tuple[pr.Schema, pl.DataFrame]:
    """The same log with heads of several outputs."""
    schema, frame = a_log(seed, weight=weight)
    rng, n = np.random.default_rng(seed + 3), ROWS
    u = rng.normal(size=(40, 3))[frame["user"]] + rng.normal(size=(25, 3))[frame["item"]]
    click = frame["click"].to_numpy()
    logits = u + np.log([0.6, 0.3, 0.1]) + rng.gumbel(size=(n, 3))
    missing = rng.random(n) < 0.05
    seen = {
        "level": np.where(click == 1, 1 + (u[:, :1] + rng.logistic(size=(n, 1))
                                           > np.array([-1, 0.5, 2])).sum(1), np.nan),
        "button": np.where(missing, np.nan, np.array([2, 5, 9])[logits.argmax(1)]),
        "spend": np.where(click == 1, np.exp(1 + 0.5 * u[:, 1] + 0.7 * rng.normal(size=n)), 0),
        "views": rng.negative_binomial(2, 1 / (1 + np.exp(0.4 * u[:, 0]))).astype(float),
        "seconds": np.exp(2 + 0.5 * u[:, 2] + rng.normal(size=n)),
        "play": np.where(rng.random(n) < 0.5, rng.exponential(np.exp(0.5 * u[:, 0])), 0),
    }  # fmt: skip
    tasks = [task for task in schema.tasks if task.name in ("click", "share")]
    schema = pr.Schema(schema.features, [*tasks, *SEVERAL], schema.keys)
    return schema, frame.with_columns(**seen)


def learner_of(
    schema: pr.Schema, frame: pl.DataFrame, sampling: Sampling | None, epochs: int
) -> tuple[Table, WideFit]:
    vocab, tables = encoded(schema, Sources(frame, None, None))
    train = tables["train"]
    model = pr.Model(wide=Wide(folds=3))
    rows = Wide(folds=3).build(model.layout(train.schema, vocab))
    run = StageRun(
        train=train, valid=None, likelihoods=Supervision.of(train, sampling).likelihoods,
        rates=base_rates(train, sampling), sampling=sampling, seed=5, steps=len(train) // BATCH,
        unseen_rate=0.01, batch_size=BATCH, threads=1,
    )  # fmt: skip
    return train, WideFit(rows, run, epochs)


class Plain:
    """The rule of docs/wide.md, look-up by look-up, in float64."""

    def __init__(self, learner: WideFit, sampling: Sampling | None) -> None:
        self.learner, self.run, self.sampling = learner, learner.run, sampling
        rows = learner.rows
        schema = self.schema = learner.run.train.schema
        self.tasks = [schema.by_name[name] for name, _ in rows.outputs]
        self.places = [place for _, place in rows.outputs]
        self.likelihoods = [self.run.likelihoods[task.name] for task in self.tasks]
        q, t, n = rows.folds + 1, len(self.tasks), len(rows.effect)
        self.w, self.past, self.now, self.centre = (np.zeros((n, q, t)) for _ in range(4))
        self.precision = np.zeros((n, t))
        self.score, self.curve, self.spread = (np.zeros((n, t)) for _ in range(3))
        start = [log(self.run.rates[x] / (1 - self.run.rates[x])) if x in self.run.rates else 0
                 for x, _ in rows.outputs]  # fmt: skip
        self.bias = np.tile(np.array(start, dtype=float), (q, 1))
        self.bias_past, self.bias_now = np.zeros((q, t)), np.zeros((q, t))
        self.prior = np.full((len(rows.slots), t), 10.0)
        self.noise, self.squares = np.ones(t), np.zeros((2, t))
        for j, task in enumerate(self.tasks):
            if task.label_kind.name == "count":
                self.noise[j] = 1 / self.run.likelihoods[task.name].fitted["mean"]
        self.effect = np.zeros((n, t))
        self.field = np.repeat(np.arange(len(rows.slots)), np.diff(rows.first_rows))
        self.epoch = self.steps = 0
        self.count, self.seen = self._counts()
        self.scale = [self._scale(j) for j in range(t)]

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
        keeps = np.array([1 - self.run.unseen_rate * slot.unseen for slot in rows.slots])
        return np.maximum(count * keeps[self.field] + extra, 1), count > 0

    def look_ups(self, batch, i):
        """Return {row: [coefficient, ids, sum of absolute coefficients]} of a row of the batch."""
        rows, found = self.learner.rows, {}
        place = dict(zip([s.name for s in rows.slots], rows.shifts, strict=True))
        for k, slot in enumerate(self.schema.fields):
            row = batch.ids[k, i] + place[slot.name]
            found[row] = [1.0, 1, 1.0]
        for k, slot in enumerate(self.schema.bags):
            bag = batch.bags[k]
            own = slice(bag.offsets[i], bag.offsets[i + 1])
            ids = bag.ids[own]
            weights = np.ones(len(ids)) if bag.weights is None else bag.weights[own].astype(float)
            if slot.pooling == "last":
                ids, weights = ids[-1:], weights[-1:]
            if slot.pooling == "mean" and len(ids):
                weights = weights / np.abs(weights).sum()
            for each, x in zip(ids, weights, strict=True):
                own = found.setdefault(each + place[slot.name], [0.0, 0, 0.0])
                own[0] += x
                own[1] += 1
                own[2] += abs(x)
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
        return v, labels[task.name]

    def asked(self, j, y):
        """Whether a label says something of an output, and what it is in its unit."""
        task, place, fitted = self.tasks[j], self.places[j], self.likelihoods[j].fitted
        if task.label_kind.name == "ordinal":
            levels = np.array(task.label_kind.known)
            return y >= levels[place], float(y >= levels[place + 1])
        if task.label_kind.name == "categorical":
            return True, float(y == task.label_kind.known[place])
        if task.label_kind.name in ("regression", "lognormal"):
            if task.label_kind.name == "lognormal":
                y = np.log(y)
            elif task.label_kind.transform == "log1p":
                y = np.log1p(y)
            return True, (y - fitted["mean"]) / fitted["deviation"]
        if task.label_kind.name in ("count", "weighted_logistic"):
            return True, y / fitted["mean" if task.label_kind.name == "count" else "scale"]
        return True, y

    def expected(self, j, z):
        """The mean of an output in each table, its curvature and its own variance: (Q,) each.

        `z` has all outputs, (Q, T).
        """
        task, place, fitted = self.tasks[j], self.places[j], self.likelihoods[j].fitted
        one = np.ones(len(z))
        if task.label_kind.name == "categorical":
            own = [k for k, each in enumerate(self.tasks) if each.name == task.name]
            odds = np.exp(z[:, own] + np.log(fitted["shares"]))
            p = odds / odds.sum(1, keepdims=True)
            each = p[:, place]
            return each, each, each * (1 - each), p
        if task.label_kind.name in ("regression", "lognormal"):
            return z[:, j], one / self.noise[j], one / self.noise[j], None
        if task.label_kind.name in ("count", "weighted_logistic"):
            mean, a = np.exp(z[:, j]), 0.0
            if task.label_kind.name == "weighted_logistic":
                a = 1.0
            elif task.label_kind.distribution == "negative_binomial":
                a = fitted["dispersion"] * fitted["mean"]
            h = mean / (1 + a * mean) / self.noise[j]
            return mean, h, h, None
        shift = log(self.sampling.keep) if self.sampling and task.name == "click" else 0
        if task.label_kind.name == "ordinal":
            reached = np.cumsum(fitted["shares"][::-1])[::-1]
            rate = reached[place + 1] / reached[place]
            shift = -log(rate / (1 - rate))
        p = 1 / (1 + np.exp(-(z[:, j] - shift)))
        return p, p * (1 - p), p * (1 - p), None

    def _scale(self, j):
        """Sum of weights ÷ sum of their squares, over the rows that teach an output."""
        task = self.tasks[j]
        table, labels = self.run.train, self.run.train.labels_by_task
        happened = ~np.isnan(labels[task.name])
        for a in self.schema.ancestors(task.name):
            happened &= labels[a] == 1
        own = np.ones(len(table)) if table.weight is None else table.weight
        v = np.array(
            [w * self._outside(task, y) for w, y in zip(own, labels["click"], strict=True)]
        )
        known = zip(labels[task.name], happened, strict=True)
        asked = np.array([taught and self.asked(j, y)[0] for y, taught in known])
        return v[asked].sum() / (v[asked] ** 2).sum()

    def _outside(self, task, root):
        outside = self.sampling is not None and "click" not in (task.name, task.given)
        return 1 / self.sampling.keep if outside and root == 0 else 1.0

    def step(self, batch):
        q, t = self.bias.shape
        first = self.epoch == 0
        total, done = self.run.steps * self.learner.total_passes, self.run.steps
        decay = 1.0 if first else 1 - (self.steps - done) / (total - done)
        fold = folds(batch.rows, q - 1, self.run.seed)
        g, h, least = (np.zeros_like(self.w) for _ in range(3))
        gb, hb, lb = (np.zeros((q, t)) for _ in range(3))
        touches = np.zeros(len(self.w))
        margins, reads = [], []
        for i in range(len(batch)):
            ups = self.look_ups(batch, i)
            z = self.bias + sum((x * self.w[row] for row, (x, *_) in ups.items()), np.zeros((q, t)))
            reach = 1 + sum(size for *_, size in ups.values())
            margins.append(z[fold[i]])
            read = np.zeros((len(self.prior), t))
            for row, (x, times, _) in ups.items():
                touches[row] += times
                read[self.field[row]] += 3 * x * self.w[row, fold[i]]
            reads.append(read.ravel())
            for j, task in enumerate(self.tasks):
                v, y = self.weight(batch, i, task)
                asked, y = self.asked(j, y) if v else (False, y)
                if not asked:
                    continue
                v *= self.scale[j]
                mean, steep, variance, p = self.expected(j, z)
                rest = y - mean
                if task.label_kind.name in MEASURED:
                    relative = steep[fold[i]] * self.noise[j]  # 1 ÷ variance of the likelihood
                    if task.label_kind.name in ("count", "weighted_logistic"):
                        relative = relative / mean[fold[i]] ** 2
                    self.squares[:, j] += v * rest[fold[i]] ** 2 * relative, v
                    rest = rest * steep / (mean if task.label_kind.name in COUNTED else 1)
                own = v * rest[fold[i]], v * steep[fold[i]]
                apart, middle = 1.0, None  # of a softmax: see below
                if p is not None:
                    of_row = p[fold[i]]
                    others = np.delete(of_row, self.places[j])
                    apart = np.sqrt((1 - of_row[self.places[j]]) ** 2 + (others**2).sum())
                    middle = [k for k, each in enumerate(self.tasks) if each.name == task.name]
                uses = np.arange(q) != fold[i]
                gb[:, j] += uses * v * rest
                hb[:, j] += uses * v * steep
                lb[:, j] += uses * v * steep * reach
                for row, (x, *_) in ups.items():
                    g[row, :, j] += uses * v * rest * x
                    h[row, :, j] += uses * v * steep * x * x
                    least[row, :, j] += uses * v * steep * abs(x) * reach
                    w = self.w[row, fold[i], j]
                    if p is not None:
                        w -= p[fold[i]] @ self.w[row, fold[i], middle]
                    self.score[row, j] += x * own[0] + x * x * own[1] * w
                    self.curve[row, j] += x * x * own[1] * apart
                    self.spread[row, j] += x * x * v * v * variance[fold[i]]
        some = touches > 0
        self.now[some] += h[some]
        prior = self.prior[self.field][:, None]
        share = np.minimum(1, touches / self.count)[:, None, None]
        if first:
            change = g / np.maximum(prior + self.now, least)
        else:
            change = (g - prior * share * (self.w - self.centre)) / np.maximum(
                prior + self.past, least
            )
        self.w[some] += decay * change[some]
        self.bias_now += hb
        known = self.bias_now if first else self.bias_past
        self.bias += decay * gb / np.maximum(np.maximum(known, lb), 1)
        self.steps += 1
        return np.array(margins), np.array(reads)

    def end_epoch(self):
        self.epoch += 1
        curved = [slot.ordered for slot in self.learner.rows.slots]
        plain = np.flatnonzero(~np.array(curved))
        told = []
        for j in range(self.prior.shape[1]):
            fields = []
            for k in plain:
                tells = (self.field == k) & self.seen & (self.curve[:, j] > 1e-6)
                each = (self.score[tells, j], self.curve[tells, j], self.spread[tells, j])
                fields.append(Moments(*each))
            told.append(fields)
        kinds = np.array([task.label_kind.name for task in self.tasks])
        for some in (("binary", "ordinal"), ("regression", "lognormal"), COUNTED, ("categorical",)):
            heads = np.flatnonzero(np.isin(kinds, some))
            at = np.ix_(plain, heads)
            self.prior[at] = 1 / variances([told[j] for j in heads], 1 / self.prior[at])
        for each in (self.score, self.curve, self.spread):
            each[:] = 0
        self.past, self.now = self.now, np.zeros_like(self.now)
        for k in np.flatnonzero(curved):
            for j in range(self.prior.shape[1]):
                self.settle(self.field == k, j)
        for name in {task.name for task in self.tasks if task.label_kind.name == "categorical"}:
            of_all = [j for j, task in enumerate(self.tasks) if task.name == name]
            for k in plain:
                own = np.ix_(self.field == k, range(self.w.shape[1]), of_all)
                level = self.prior[k, of_all]
                common = (level * self.w[own]).sum(2, keepdims=True) / level.sum()
                self.w[own] -= common
        self.bias_past, self.bias_now = self.bias_now, np.zeros_like(self.bias_now)
        told = self.squares[1] > 0
        self.noise[told] = self.squares[0, told] / self.squares[1, told]
        self.squares[:] = 0
        for k in range(len(self.schema.fields)):
            own = self.field == k
            for q in range(self.w.shape[1]):
                for j in range(self.w.shape[2]):
                    known = own & (self.past[:, q, j] > 0)
                    mean = self.w[known, q, j].mean() if known.any() else 0.0
                    self.w[known, q, j] -= mean
                    self.centre[known, q, j] -= mean * curved[k]
                    self.bias[q, j] += mean
        self.mean = self.w.reshape(len(self.w), -1).copy()  # of the last of two passes
        full = self.w[:, -1]
        n = max(self.epoch - 1, 1)
        self.effect += (full - self.effect) / n
        settled = np.array(curved)[self.field]
        self.effect[settled] = full[settled]

    def settle(self, own, j):
        """The posterior of a number's bins under the prior of docs/wide.md, by its inverse."""
        k = self.field[own][0]
        n, h, level = self.count[own], self.past[own, :, j], self.prior[k, j]
        pull = level * (self.w[own, :, j] - self.centre[own, :, j])
        said = self.w[own, :, j] + np.divide(pull, h, where=h > 0, out=np.zeros_like(h))
        middle = np.cumsum(n[1:]) - n[1:] / 2
        z = norm.ppf(middle / n[1:].sum())

        def covariance(line, smooth, stray):
            found = np.zeros((len(n), len(n)))
            found[0, 0] = 10
            found[1:, 1:] = 10 + line * np.outer(z, z) + max(stray, 1e-5) * np.eye(len(z))
            found[1:, 1:] += smooth * np.exp(-((z[:, None] - z) ** 2) / 2)
            return found

        def evidence(found):
            known = h[:, -1] > 0
            noisy = covariance(*found)[np.ix_(known, known)] + np.diag(1 / h[known, -1])
            prior = -2 * np.log1p(20 * np.array(found)).sum()
            return multivariate_normal(cov=noisy).logpdf(said[known, -1]) + prior

        found = [1.0, 0.01, 0.001]
        for _ in range(2):
            for at, least in enumerate((1e-4, 0.0, 0.0)):
                tried = [least, *(10.0**each for each in range(-4 + (at == 0), 1 + (at == 0)))]
                found[at] = max(
                    tried, key=lambda each, at=at: evidence([*found[:at], each, *found[at + 1 :]])
                )
        prior = np.linalg.inv(covariance(*found))
        self.prior[k, j] = 1 / (np.diag(covariance(*found))[1:].mean() - 10)
        for q in range(h.shape[1]):
            precision = prior + np.diag(h[:, q])
            self.w[own, q, j] = np.linalg.solve(precision, h[:, q] * said[:, q])
            self.precision[own, j] = 1 / np.diag(np.linalg.inv(precision))
        self.centre[own, :, j] = self.w[own, :, j] - prior @ self.w[own, :, j] / self.prior[k, j]


@pytest.mark.slow
@pytest.mark.parametrize("in_torch", [False, True], ids=["compiled", "torch"])
@pytest.mark.parametrize(
    "case",
    [
        "plain",
        "weighted",
        "sampled",
        "weighted lists",
        "several outputs",
        "several, weighted",
        "several, sampled",
    ],
)
def test_two_hundred_steps_are_those_of_plain_float64(case, in_torch):
    sampling = Sampling("click", keep=0.5) if "sampled" in case else None
    if "several" in case:
        schema, frame = of_several_outputs(1, weight="weighted" in case)
    else:
        schema, frame = a_log(1, weight=case == "weighted", lists=case == "weighted lists")
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
        learner.end_pass()
        plain.end_epoch()
    tables, rows = learner.finish(), learner.rows
    np.testing.assert_allclose(rows.effect.numpy(), plain.effect, rtol=5e-3, atol=1e-3)
    np.testing.assert_allclose(rows.prior.numpy(), plain.prior, rtol=2e-2)
    precision = plain.prior[plain.field] + plain.past[:, -1]
    curved = plain.precision > 0
    assert curved.any()
    precision[curved] = plain.precision[curved]
    np.testing.assert_allclose(rows.precision.numpy(), precision, rtol=2e-2)
    np.testing.assert_allclose(learner.tensors["noise"].numpy(), plain.noise, rtol=1e-3)
    np.testing.assert_allclose(tables.effect, plain.mean, rtol=5e-3, atol=1e-3)
    np.testing.assert_allclose(tables.bias, plain.bias.ravel(), rtol=5e-3, atol=1e-3)
    assert np.abs(plain.effect).max() > 0.2


def ids_log(rows: int, seed: int, *, users: int = 300, items: int = 200) -> pl.DataFrame:
    """Clicks of which main effects of users and items tell everything."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, users, rows), rng.integers(0, items, rows)
    z = -1 + rng.normal(0, 0.8, users)[user] + rng.normal(0, 0.8, items)[item]
    return pl.DataFrame(
        {"user": user, "item": item, "click": (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)}
    )


TWO_IDS = pr.Schema([pr.SparseFeature("user"), pr.SparseFeature("item")], [pr.Task("click")])


def run_alone(
    schema: pr.Schema, frame: pl.DataFrame, *, epochs: int, size: int = 256, folds: int = 4,
    before: dict | None = None, retained: float = 1.0, prepare=None, earlier: Before | None = None,
) -> WideFit:  # fmt: skip
    """Fit wide rows without a network."""
    vocab, tables = encoded(schema, Sources(frame, None, None), before=earlier)
    train = tables["train"]
    spec = Wide(folds=folds)
    rows = spec.build(pr.Model(wide=spec).layout(schema, vocab))
    run = StageRun(
        train=train, valid=None, likelihoods=Supervision.of(train).likelihoods,
        rates=base_rates(train), sampling=None, seed=1, steps=-(-len(train) // size),
        unseen_rate=0.0, batch_size=size, threads=1,
    )  # fmt: skip
    if before is not None:
        rows.start_from(before, set(), retained)
    learner = WideFit(rows, run, epochs)
    if prepare is not None:
        prepare(learner)
    x = torch.zeros(size, rows.layout.width)
    for epoch in range(epochs):
        for batch in train.batches(rows.layout, size, shuffle=True, seed=1, epoch=epoch):
            learner.step(batch, x[: len(batch)], 0)
        learner.end_pass()
    learner.finish()
    return learner


@pytest.mark.slow
def test_with_enough_rows_it_is_the_penalised_logistic_regression():
    frame = ids_log(60_000, 2, users=60, items=50)
    learner = run_alone(TWO_IDS, frame, epochs=12, size=128)
    rows = learner.rows
    one_hot = np.zeros((frame.height, len(rows.effect)))
    table = learner.run.train
    for k in range(2):
        one_hot[np.arange(frame.height), rows.first_rows[k] + table.ids[k]] = 1
    # The penalty is a matter of scale: each column times the root of its field's prior variance.
    scale = np.repeat(1 / np.sqrt(rows.prior.numpy()[:, 0]), np.diff(rows.first_rows))
    from sklearn.linear_model import LogisticRegression

    exact = LogisticRegression(C=1.0, tol=1e-8, max_iter=2000).fit(one_hot * scale, frame["click"])
    coefficients = exact.coef_[0] * scale
    ours = learner.tensors["state"][:, learner.outputs * rows.folds].numpy()
    error = np.linalg.norm(ours - coefficients) / np.linalg.norm(coefficients)
    assert error < 1e-2
    z = one_hot @ ours
    assert abs(roc_auc_score(frame["click"], z) - roc_auc_score(
        frame["click"], one_hot @ coefficients)) < 5e-4  # fmt: skip


def categories_log(
    rows: int, seed: int, *, users: int = 25, items: int = 15
) -> tuple[pr.Schema, pl.DataFrame]:
    """Categories of which main effects of users and items tell everything."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, users, rows), rng.integers(0, items, rows)
    effects = np.random.default_rng(99)  # the same ones whatever the seed
    z = effects.normal(0, 0.8, (users, 3))[user] + effects.normal(0, 0.8, (items, 3))[item]
    z += np.log([0.7, 0.2, 0.1])
    category = (z + rng.gumbel(size=z.shape)).argmax(1)
    schema = pr.Schema(
        [pr.SparseFeature("user"), pr.SparseFeature("item")],
        [pr.Task("category", kind=pr.Categorical(values=[0, 1, 2]))],
    )
    return schema, pl.DataFrame({"user": user, "item": item, "category": category})


def softmax_mode(
    x: np.ndarray, y: np.ndarray, precision: np.ndarray, centre: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """The posterior mode of a softmax regression by Newton's method, effects (columns, K).

    The prior of each effect is N(centre, 1 ÷ precision); its whole Hessian is used.
    """
    count, k = x.shape[1], y.shape[1]
    w = centre.copy()
    gradient = np.ones_like(w)
    while np.abs(gradient).max() > 1e-6:
        odds = np.exp(x @ w + offset)
        p = odds / odds.sum(1, keepdims=True)
        gradient = x.T @ (y - p) - precision * (w - centre)
        hessian = np.zeros((count, k, count, k))
        for a in range(k):
            for b in range(k):
                own = p[:, a] * ((a == b) - p[:, b])
                hessian[:, a, :, b] = (x.T * own) @ x
        flat = hessian.reshape(count * k, -1) + np.diag(precision.ravel())
        w += np.linalg.solve(flat, gradient.ravel()).reshape(count, k)
    return w


def design(rows, table: Table) -> np.ndarray:
    """One-hot ids and a bias."""
    x = np.zeros((len(table), len(rows.effect) + 1))
    x[:, -1] = 1
    for k in range(len(rows.slots)):
        x[np.arange(len(table)), rows.first_rows[k] + table.ids[k]] = 1
    return x


@pytest.mark.slow
@pytest.mark.parametrize("in_torch", [False, True], ids=["compiled", "torch"])
def test_with_enough_rows_it_is_the_penalised_softmax_regression(in_torch):
    """The diagonal steps reach the mode that the whole Hessian finds, and do not overshoot it."""
    schema, frame = categories_log(8_000, 2)

    def prepare(learner):
        learner._scratch = None if in_torch else learner._scratch

    learner = run_alone(schema, frame, epochs=12, size=128, prepare=prepare)
    rows = learner.rows
    x = design(rows, learner.run.train)
    y = np.eye(3)[frame["category"]]
    precision = np.repeat(rows.prior.double().numpy(), np.diff(rows.first_rows), axis=0)
    precision = np.vstack([precision, np.full((1, 3), 1e-6)])
    offset = np.log(learner.run.likelihoods["category"].fitted["shares"])
    exact = softmax_mode(x, y, precision, np.zeros_like(precision), offset)[:-1]
    ours = learner.tensors["state"][:, 3 * rows.folds : 3 * rows.folds + 3].double().numpy()
    assert np.linalg.norm(ours - exact) / np.linalg.norm(exact) < 2e-2


def test_the_prior_of_categories_is_as_far_apart_as_they_were_drawn():
    """To first order in the effects, as for events: .8 is found as about .7."""
    schema, frame = categories_log(30_000, 1, users=400, items=300)
    learner = run_alone(schema, frame, epochs=4)
    spread = 1 / np.sqrt(learner.rows.prior.numpy())
    assert spread.min() > 0.6
    assert spread.max() < 0.85


def test_the_posterior_of_categories_is_the_prior_of_later_rows():
    schema, frame = categories_log(4_000, 2)
    first = run_alone(schema, frame, epochs=6, size=128).rows
    later = categories_log(8_000, 3)[1]
    learner = run_alone(
        schema, later, epochs=12, size=128, before=first.named_weights(),
        earlier=Before(first.layout.vocab, False, "first"),
    )  # fmt: skip
    rows = learner.rows
    x = design(rows, learner.run.train)
    information = np.vstack([first.precision.double().numpy(),
                             first.bias_curvature.double().numpy()[None]])  # fmt: skip
    centre = np.vstack([first.effect.double().numpy(), first.bias.double().numpy()[None]])
    offset = np.log(learner.run.likelihoods["category"].fitted["shares"])
    y = np.eye(3)[later["category"]]
    exact = softmax_mode(x, y, information, centre, offset)[:-1]
    ours = learner.tensors["state"][:, 3 * rows.folds : 3 * rows.folds + 3].double().numpy()
    assert np.linalg.norm(ours - exact) / np.linalg.norm(exact) < 3e-2


@pytest.mark.slow
@pytest.mark.parametrize("in_torch", [False, True], ids=["compiled", "torch"])
@pytest.mark.parametrize("retained", [1.0, 0.5])
def test_a_posterior_is_the_prior_of_later_rows_as_in_plain_float64(retained, in_torch):
    """The posterior mode given the discounted Gaussian of earlier rows, by Newton's method."""
    first = run_alone(TWO_IDS, ids_log(8_000, 2, users=60, items=50), epochs=6, size=64).rows
    frame = ids_log(20_000, 3, users=60, items=50)
    before = first.named_weights()

    earlier = Before(first.layout.vocab, False, "first")

    def going_on(learner):
        learner._scratch = None if in_torch else learner._scratch

    learner = run_alone(
        TWO_IDS, frame, epochs=12, size=64, prepare=going_on, before=before, retained=retained,
        earlier=earlier,
    )  # fmt: skip
    rows, table = learner.rows, learner.run.train
    width = len(rows.effect)
    x = np.zeros((frame.height, width + 1))
    x[:, -1] = 1  # the bias
    for k in range(2):
        x[np.arange(frame.height), rows.first_rows[k] + table.ids[k]] = 1
    y = frame["click"].to_numpy()
    level = np.repeat(first.prior[:, 0].double().numpy(), np.diff(rows.first_rows))
    precision = first.precision[:, 0].double().numpy()
    information = np.append(
        level + retained * (precision - level), retained * float(first.bias_curvature[0])
    )
    score = np.append(
        retained * precision * first.effect[:, 0].double().numpy(),
        information[-1] * float(first.bias[0]),
    )
    w = score / information
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (y - p) + score - information * w
        w += np.linalg.solve((x.T * (p * (1 - p))) @ x + np.diag(information), gradient)
    assert np.abs(x.T @ (y - p) + score - information * w).max() < 1e-6
    ours = learner.tensors["state"][:, learner.outputs * rows.folds].numpy()
    assert np.linalg.norm(ours - w[:-1]) / np.linalg.norm(w[:-1]) < 2e-2
    assert float(rows.bias[0]) == pytest.approx(w[-1], abs=2e-2)
    exact = information[:-1] + (x.T**2 @ (p * (1 - p)))[:-1]
    np.testing.assert_allclose(rows.precision[:, 0].numpy(), exact, rtol=2e-2)
    assert float(rows.bias_curvature[0]) == pytest.approx(
        information[-1] + float((p * (1 - p)).sum()), rel=2e-2
    )
    assert torch.equal(rows.prior, first.prior)


def test_bins_go_on_from_what_earlier_rows_told_of_them():
    """A curve of few later rows stays near that of many earlier ones, and forgets by a factor."""

    def log_of(rows, seed):
        rng = np.random.default_rng(seed)
        price = rng.normal(size=rows)
        p = 1 / (1 + np.exp(-(np.sin(2 * price) - 0.5)))
        return pl.DataFrame({"price": price, "click": (rng.random(rows) < p).astype(int)})

    schema = pr.Schema([pr.DenseFeature("price", encoding="bins", bins=12)], [pr.Task("click")])
    first = run_alone(schema, log_of(20_000, 1), epochs=4)
    found = {}
    for retained in (1.0, 0.1):
        later = log_of(400, 2)
        learner = run_alone(
            schema, later, epochs=4, before=first.rows.named_weights(), retained=retained,
            earlier=Before(first.rows.layout.vocab, False, "first"),
        )  # fmt: skip
        rows = learner.rows
        old, new = (each.named_weights() for each in (first.rows, rows))
        of_later = new["curvature.price"] - retained * old["curvature.price"]
        assert float(of_later.min()) > -1e-2
        assert float(of_later.sum()) == pytest.approx(400 * 0.22, rel=0.15)
        found[retained] = float((rows.effect - first.rows.effect).abs().max())
    assert found[1.0] < 0.15
    assert found[1.0] < found[0.1]


def test_a_stage_that_cannot_go_on_says_so():
    rows = pr.Trees().build(pr.Model(trees=pr.Trees()).layout(TWO_IDS, encoded(
        TWO_IDS, Sources(ids_log(200, 1)))[0]))  # fmt: skip
    with pytest.raises(ConfigError, match="cannot learn on from earlier rows: train on all rows"):
        rows.start_from({}, set(), 1.0)


def test_a_row_is_never_read_by_what_learned_from_it():
    rng = np.random.default_rng(0)
    # A random label for each id: whoever has seen the id's row knows it, and nobody else can.
    label, item = rng.integers(0, 2, 20_000), rng.integers(0, 50, 20_000)
    frame = pl.DataFrame({"user": np.arange(20_000), "item": item, "click": label})
    learner = run_alone(TWO_IDS, frame, epochs=3)
    layout, table = learner.rows.layout, learner.run.train
    x = torch.zeros(4096, layout.width)
    margins, full = [], []
    for batch in table.batches(layout, 4096):
        full.append(learner.rows(torch.from_numpy(batch.ids), ())[0].numpy())
        margins.append(learner.step(batch, x[: len(batch)], 0).numpy())
    known, seen = np.concatenate(margins)[:, 0], np.concatenate(full)[:, 0]
    fold = folds(np.arange(20_000), 4, seed=1)
    # Fold by fold: a table's bias is lower where its own fold happens to have more positives.
    areas, errors = [], []
    for each in range(4):
        own = label[fold == each]
        positives, negatives = own.sum(), (1 - own).sum()
        areas.append(roc_auc_score(own, known[fold == each]))
        errors.append(np.sqrt((len(own) + 1) / (12 * positives * negatives)))
    assert abs(np.mean(areas) - 0.5) < 2 * np.mean(errors) / 2
    assert roc_auc_score(label, seen) > 0.6


def test_a_fold_depends_on_the_row_and_the_seed_alone():
    rows = np.arange(40_000)
    found = folds(rows, 4, seed=3)
    assert set(found) == {0, 1, 2, 3}
    assert np.abs(np.bincount(found) / len(rows) - 0.25).max() < 0.01
    assert (folds(rows[::-1], 4, seed=3)[::-1] == found).all()
    for other in (folds(rows, 4, seed=4), folds(rows, 4, seed=3, file=1)):
        assert 0.7 < np.mean(other != found) < 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "wide: folds must be a whole number of at least 2"),
        ({"folds": 2.5}, "whole number"),
        ({"outputs": 0}, "wide: outputs must be a whole number of at least 1"),
    ],
)
def test_too_few_folds_or_outputs_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        pr.Wide(**options)


def test_what_is_no_wide_is_refused():
    with pytest.raises(ConfigError, match="wide must be Wide"):
        pr.Model(wide=True)  # pyrefly: ignore
    with pytest.raises(ConfigError, match=r"model\.wide: unknown key 'fold'"):
        pr.Model.from_table({"wide": {"fold": 3}})
    with pytest.raises(SchemaError, match="wide must be true or false"):
        pr.SparseFeature("user", wide="no")


def test_a_feature_may_be_left_out():
    schema = pr.Schema(
        [pr.SparseFeature("user"), pr.SparseFeature("item", wide=False)], [pr.Task("click")]
    )
    bundle = pr.fit(schema, pr.Model(wide=pr.Wide()), train=ids_log(500, 1), epochs=1)
    names = [name for name in bundle.ranker.named_weights() if name.startswith("wide.effect")]
    assert names == ["wide.effect.user"]


@pytest.mark.parametrize("log", ["no ids", "one id", "one row an id"])
def test_logs_that_tell_wide_rows_little_are_learned(log):
    frame = ids_log(600, 1)
    features = {
        "no ids": [pr.DenseFeature("user", encoding="standard")],
        "one id": [pr.SparseFeature("same"), pr.SparseFeature("user")],
        "one row an id": [pr.SparseFeature("row")],
    }[log]
    frame = frame.with_columns(pl.lit(7).alias("same"), row=pl.int_range(600))
    schema = pr.Schema(features, [pr.Task("click")])
    bundle = pr.fit(schema, pr.Model(wide=pr.Wide()), train=frame, valid=frame.head(200), epochs=2)
    p = bundle.predict(frame)["p_click"]
    assert p.is_finite().all()
    assert abs(float(p.mean()) - float(frame["click"].mean())) < 0.05  # pyrefly: ignore


def test_a_head_of_which_no_label_is_known_has_no_effects_and_the_priors_of_others():
    """Such a head is refused by fit, but a debiased loss may leave one to others."""
    schema, frame = a_log(3, weight=False)
    _, learner = learner_of(schema, frame, None, epochs=2)
    at = learner.rows.heads.index("buy")
    x = torch.zeros(BATCH, learner.rows.layout.width)
    for epoch in range(2):
        for batch in learner.run.train.batches(learner.rows.layout, BATCH, epoch=epoch):
            batch.labels[:, 1] = np.nan
            learner.step(batch, x[: len(batch)], 0)
        learner.end_pass()
    learner.finish()
    rows = learner.rows
    assert not rows.effect[:, at].any()
    ids = [k for k, slot in enumerate(rows.slots) if not slot.ordered]
    others = rows.prior[ids][:, [rows.heads.index("click"), rows.heads.index("share")]]
    assert others.min() < rows.prior[ids[0], at] < others.max()
    assert (rows.prior[ids, at] == rows.prior[ids[0], at]).all()


def test_a_resumed_run_has_the_same_bits(tmp_path):
    schema, frame = a_log(2, weight=True)
    options = {
        "train": frame, "valid": frame.head(400), "epochs": 3, "batch_size": 64, "progress": False,
        "schedule": pr.Linear(),
    }  # fmt: skip
    model = pr.Model(wide=pr.Wide(folds=3))
    whole = pr.fit(schema, model, out=tmp_path / "whole", **options)

    def stop(progress):
        if progress.event == "epoch" and progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pr.fit(schema, model, out=tmp_path / "cut", **options | {"progress": stop})
    resumed = pr.fit(schema, model, out=tmp_path / "cut", resume=True, **options)
    ours, theirs = whole.ranker.named_weights(), resumed.ranker.named_weights()
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("wide.precision") for name in ours)
    for name, each in ours.items():
        assert torch.equal(each, theirs[name]), name


def test_tables_are_averaged_over_the_passes_from_the_second_on():
    schema, frame = TWO_IDS, ids_log(3000, 4)
    train, learner = learner_of(schema, frame, None, epochs=4)
    full = []
    for epoch in range(4):
        x = torch.zeros(BATCH, learner.rows.layout.width)
        for batch in train.batches(learner.rows.layout, BATCH, shuffle=True, seed=1, epoch=epoch):
            learner.step(batch, x[: len(batch)], 0)
        learner.end_pass()
        full.append(learner.tensors["state"][:, :4].clone())
    found = learner.finish()
    torch.testing.assert_close(found.effect, torch.stack(full[1:]).mean(0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found.effect, full[-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(learner.rows.effect, found.effect[:, 3:])


@pytest.mark.slow
@pytest.mark.parametrize("lists", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("in_torch", [False, True], ids=["compiled", "torch"])
def test_training_reads_the_tables_of_a_rows_own_fold(in_torch, lists):
    schema, frame = a_log(1, weight=False, lists=lists)
    train, fit = learner_of(schema, frame, None, epochs=4)
    learner = fit.rows.learner(fit.run)
    learner.start()
    tables, rows = learner.state(), fit.rows
    layout, plain = rows.layout, Plain(fit, None)
    x = torch.zeros(BATCH, layout.width)
    column = layout.slices["#wide"].start
    batch = next(train.batches(layout, BATCH, shuffle=True, seed=2))
    own = folds(batch.rows, rows.folds, fit.run.seed)
    step = (
        partial(learner._step_in_torch, batch, own, learner._tables.effect)
        if in_torch
        else partial(learner.step, batch)
    )
    margin = step(x, column)
    shape = rows.folds + 1, len(rows.heads)
    for i in range(BATCH):
        ups = plain.look_ups(batch, i)
        z = tables["bias"].reshape(shape)[own[i]].clone()
        reads = torch.zeros(len(rows.slots), shape[1])
        for row, (coefficient, *_) in ups.items():
            effect = coefficient * tables["effect"][row].reshape(shape)[own[i]]
            z += effect
            reads[plain.field[row]] += 3 * effect
        torch.testing.assert_close(margin[i], z, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x[i, column:], reads.ravel(), rtol=1e-5, atol=1e-5)
