"""What a multi-task model has to beat, one model a score: penalised regression, factorisation
machines and boosted trees, each with its penalty or its number of trees chosen on validation rows.

A score below a conditional event is learned in two ways: directly, on its own rows, and as the
product of the heads on its path, each learned where its parent happened ("by product").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from parts.settings import FORMER
from parts.trials import Log, log_of, measured
from polyrank.data.statistics import term_labels
from polyrank.data.table import Table
from polyrank.features import DenseFeature
from polyrank.schema import Schema
from polyrank.terms import Population, own_population, populations

# Inverse strengths of the L2 penalty, for a loss that is summed over rows; and the ridge's.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RIDGE = (3.0, 10.0, 30.0, 100.0)
# Native categories, 63 leaves, a small step; on census level with the best of eleven settings.
TREES = {"learning_rate": 0.03, "num_leaves": 63, "num_threads": 1, "verbose": -1}
# A tree that sees half of the columns: .0004 more on census's test rows, at 1.8 times the seconds.
HALF = 0.5
ROUNDS, PATIENCE = 3000, 50
RANK = 12
PRIORS = ((10.0, 10.0), (10.0, 30.0), (30.0, 100.0), (100.0, 300.0))  # linear part, factors
MACHINE_EPOCHS, MACHINE_ROWS, MACHINE_STEPS = 5, 1024, 256  # least rows, most steps per epoch
LINEAR_LR, FACTOR_LR = 0.06, 0.01


class Inputs(NamedTuple):
    """Rows as a learner reads them; any of them may be indexed by rows.

    Args:
        one_hot: ids and bins of numbers as indicators, then standardised numbers: CSR (N, …).
        columns: ids as float32 codes, then raw numbers, NaN where missing: (N, F + D).
        categories: which columns are codes.
        ids: rows of one packed table, by field: int64 (N, F), with the numbers' bins.
        numbers: standardised: float32 (N, D).
    """

    one_hot: Any
    columns: np.ndarray
    categories: tuple[int, ...]
    ids: np.ndarray
    numbers: np.ndarray

    def rows(self, some: np.ndarray) -> Inputs:
        """Return some of the rows."""
        return Inputs(
            self.one_hot[some], self.columns[some], self.categories, self.ids[some],
            self.numbers[some],
        )  # fmt: skip


class Rows(NamedTuple):
    """Inputs and labels of the rows that one score is learned or chosen on."""

    inputs: Inputs
    label: np.ndarray


Predict = Callable[[Inputs], np.ndarray]
# (is an event, training rows, validation rows, seed) → predictions of any inputs
Learner = Callable[[bool, Rows, Rows, int], Predict]


def logistic(event: bool, train: Rows, valid: Rows, _: int) -> Predict:
    """Return a logistic (or ridge) regression, with its penalty chosen on validation rows."""
    from sklearn.linear_model import LogisticRegression, Ridge

    x, held_out = train.inputs.one_hot, valid.inputs.one_hot
    found: list[tuple[float, Predict]] = []
    if not event:
        for strength in RIDGE:
            ridge = Ridge(alpha=strength, solver="lsqr").fit(x, train.label)
            loss = _loss(event, valid.label, ridge.predict(held_out))
            found.append((loss, partial(_linear, ridge.coef_, float(ridge.intercept_))))
        return min(found, key=lambda each: each[0])[1]
    # Each penalty starts from the solution of the one before.
    model = LogisticRegression(solver="lbfgs", max_iter=300, tol=1e-5, warm_start=True)
    for strength in STRENGTHS:
        model.set_params(C=strength).fit(x, train.label)
        loss = _loss(event, valid.label, model.predict_proba(held_out)[:, 1])
        z = partial(_linear, model.coef_[0].copy(), float(model.intercept_[0]))
        found.append((loss, lambda inputs, z=z: 1 / (1 + np.exp(-z(inputs)))))
        if len(found) > 1 and found[-1][0] > found[-2][0]:
            break  # the loss is convex in the penalty but for noise
    return min(found, key=lambda each: each[0])[1]


def _linear(slopes: np.ndarray, intercept: float, inputs: Inputs) -> np.ndarray:
    return inputs.one_hot @ slopes + intercept


def lightgbm(event: bool, train: Rows, valid: Rows, seed: int, *, columns: float = 1.0) -> Predict:
    """Return boosted trees, with their number chosen on validation rows."""
    import lightgbm as gbm

    objective = "binary" if event else "regression"
    categories = list(train.inputs.categories)
    rows = gbm.Dataset(train.inputs.columns, train.label, categorical_feature=categories)
    held_out = gbm.Dataset(valid.inputs.columns, valid.label, reference=rows)
    stop = gbm.early_stopping(PATIENCE, verbose=False)
    model = gbm.train(
        {**TREES, "feature_fraction": columns, "objective": objective, "seed": seed},
        rows,
        ROUNDS,
        [held_out],
        callbacks=[stop],
    )
    return lambda inputs: np.asarray(model.predict(inputs.columns))


def machine(event: bool, train: Rows, valid: Rows, seed: int) -> Predict:
    """Return a factorisation machine, with its penalty and epoch chosen on validation rows."""
    found: list[tuple[float, Predict]] = []
    for priors in PRIORS:
        found.append(_machine(event, train, valid, seed, priors))
        if len(found) > 1 and found[-1][0] > found[-2][0]:
            break
    return min(found, key=lambda each: each[0])[1]


class Machine(nn.Module):
    """f(x) = b + Σ w x + ½ Σ_k ((Σ v x)² − Σ v² x²).

    Reference:
        Rendle, "Factorization Machines", ICDM 2010, eq. 1 and lemma 3.1.
    """

    def __init__(self, rows: int, numbers: int, start: float) -> None:
        super().__init__()
        self.linear = nn.Embedding(rows, 1, sparse=True)
        self.factors = nn.Embedding(rows, RANK, sparse=True)
        nn.init.zeros_(self.linear.weight)
        nn.init.normal_(self.factors.weight, std=0.01)
        self.slopes = nn.Parameter(torch.zeros(numbers))
        self.directions = nn.Parameter(torch.randn(numbers, RANK) * 0.01)
        self.bias = nn.Parameter(torch.tensor(start))

    def forward(self, ids: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return logits (B,), and the weights w (B, F) and v (B, F, k) of the ids."""
        w, v = self.linear(ids)[..., 0], self.factors(ids)
        total = v.sum(1) + numbers @ self.directions
        squares = (v**2).sum(1) + numbers**2 @ self.directions**2
        linear = self.bias + w.sum(1) + numbers @ self.slopes
        return linear + (total**2 - squares).sum(1) / 2, w, v


def _machine(
    event: bool,
    train: Rows,
    valid: Rows,
    seed: int,
    priors: tuple[float, float],
) -> tuple[float, Predict]:
    """Return the validation loss of the best epoch, and its predictions.

    A weight pays its prior by look-up, divided by how often an epoch looks it up: in an epoch each
    pays it once, however rare it is. Learning rates fall linearly to 0.
    """
    torch.manual_seed(seed)
    ids, numbers = (torch.from_numpy(each) for each in (train.inputs.ids, train.inputs.numbers))
    rate, scale = float(train.label.mean()), 1.0
    if not event:
        scale = float(train.label.std())
    label = torch.from_numpy(train.label if event else (train.label - rate) / scale).float()
    rows = 1 + max(int(each.inputs.ids.max()) for each in (train, valid))
    counts = torch.bincount(ids.flatten(), minlength=rows).clamp(min=1).float()
    model = Machine(max(rows, train.inputs.one_hot.shape[1]), numbers.shape[1],
                    float(np.log(rate / (1 - rate))) if event else 0.0)  # fmt: skip
    share = (1 / counts)[:, None]
    tables = torch.optim.SparseAdam(
        [{"params": [model.linear.weight], "lr": LINEAR_LR},
         {"params": [model.factors.weight], "lr": FACTOR_LR}]
    )  # fmt: skip
    others = torch.optim.Adam([model.slopes, model.directions, model.bias], lr=FACTOR_LR)
    size = max(MACHINE_ROWS, -(-len(ids) // MACHINE_STEPS))
    steps = MACHINE_EPOCHS * -(-len(ids) // size)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(each, lambda step: max(0.0, 1 - step / steps))
        for each in (tables, others)
    ]
    best, kept = np.inf, {}

    def predict(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            parts = [
                model(torch.from_numpy(some), torch.from_numpy(values))[0]
                for some, values in zip(
                    np.array_split(inputs.ids, 1 + len(inputs.ids) // 65_536),
                    np.array_split(inputs.numbers, 1 + len(inputs.ids) // 65_536),
                    strict=True,
                )
            ]
        z = torch.cat(parts).double().numpy()
        return 1 / (1 + np.exp(-z)) if event else rate + scale * z

    for _ in range(MACHINE_EPOCHS):
        for some in torch.randperm(len(ids)).split(size):
            at = ids[some]
            z, w, v = model(at, numbers[some])
            own = share[at]
            paid = priors[0] * (w**2 * own[..., 0]).sum() + priors[1] * (v**2 * own).sum()
            error = (nn.functional.softplus(z) - label[some] * z if event
                     else (z - label[some]) ** 2 / 2)  # fmt: skip
            loss = (error.sum() + paid / 2) / len(some)
            for each in (tables, others):
                each.zero_grad()
            loss.backward()
            for each in (tables, others):
                each.step()
            for each in schedules:
                each.step()
        found = _loss(event, valid.label, predict(valid.inputs))
        if found >= best:
            break
        best, kept = found, {name: each.clone() for name, each in model.state_dict().items()}
    model.load_state_dict(kept)
    return float(best), predict


def _loss(event: bool, label: np.ndarray, prediction: np.ndarray) -> float:
    if not event:
        return float(np.mean((prediction - label) ** 2))
    p = np.clip(prediction, 1e-12, 1 - 1e-12)
    return -float(np.mean(np.where(label == 1, np.log(p), np.log1p(-p))))


@dataclass(frozen=True)
class Baseline:
    """A learner of one score at a time.

    Args:
        learn: see `Learner`.
        random: whether a fit depends on the seed; else one fit serves every seed of a fixed log.
    """

    learn: Learner
    random: bool = True


BASELINES: Mapping[str, Baseline] = {
    "logistic regression": Baseline(logistic, random=False),
    "factorisation machine": Baseline(machine),
    "LightGBM": Baseline(lightgbm, random=False),
    "LightGBM, half the columns": Baseline(partial(lightgbm, columns=HALF)),
}
BY_PRODUCT = ", by product"


def baseline_log(name: str, seed: int, rows: int | None, path: Any) -> Log:
    """Return a log as baselines read it: numbers in 32 bins, whatever the default encoding is."""
    return log_of(name, seed, rows, FORMER, path)


def baseline(log: Log, learner: Learner, seed: int) -> dict[str, Any]:
    """Learn each score; return its figures as `trial` does, and those by product."""
    started = perf_counter()
    inputs = inputs_of(log)
    found: dict[str, dict[str, np.ndarray]] = {"valid": {}, "test": {}}
    for where in populations(log.schema):
        rows = [_rows(inputs[split], log.tables[split], where) for split in ("train", "valid")]
        predict = learner(where.label_kind.is_event, rows[0], rows[1], seed)
        for split, each in found.items():
            each[where.name] = predict(inputs[split])
    seconds = round(perf_counter() - started, 2)
    figures = {split: measured(log, split, each) for split, each in found.items()}
    products = {split: _by_product(log.schema, each) for split, each in found.items()}
    by_product = {
        split: measured(log, split, {**found[split], **each}) for split, each in products.items()
    }
    result: dict[str, Any] = {**figures, "seconds": seconds}
    return result | ({"by product": by_product} if products["test"] else {})


def _rows(inputs: Inputs, table: Table, where: Population) -> Rows:
    label = term_labels(table, where)
    kept = np.flatnonzero(~np.isnan(label))
    return Rows(inputs.rows(kept), label[kept])


def _by_product(schema: Schema, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the scores that are products of several heads, from each head's own predictions."""
    heads = {task.name: found[own_population(schema, task).name] for task in schema.tasks}
    return {
        where.name: np.prod([heads[head] for head in where.heads], axis=0)
        for where in populations(schema)
        if len(where.heads) > 1
    }


def inputs_of(log: Log) -> dict[str, Inputs]:
    """Return the rows of each split as the learners read them."""
    numbers = [each.name for each in log.schema.features if isinstance(each, DenseFeature)]
    raw = {
        split: frame.select(numbers).to_numpy().astype(np.float32).reshape(len(frame), -1)
        for split, frame in log.raw.frames.items()
    }
    scaled = {split: np.sign(each) * np.log1p(np.abs(each)) for split, each in raw.items()}
    mean, sd = (np.zeros(len(numbers)), np.ones(len(numbers)))
    if numbers:
        mean, sd = np.nanmean(scaled["train"], axis=0), np.nanstd(scaled["train"], axis=0)
    offsets = np.cumsum([0, *(log.vocab.rows[slot.table] for slot in log.schema.fields)])
    codes = [index for index, slot in enumerate(log.schema.fields) if slot.name not in numbers]
    found = {}
    for split, table in log.tables.items():
        standard = np.nan_to_num((scaled[split] - mean) / np.where(sd > 0, sd, 1)).astype(
            np.float32
        )
        ids = table.ids.T.astype(np.int64)
        columns = np.concatenate([ids[:, codes].astype(np.float32), raw[split]], axis=1)
        found[split] = Inputs(
            _one_hot(ids + offsets[:-1], int(offsets[-1]), standard), columns,
            tuple(range(len(codes))), ids + offsets[:-1], standard,
        )  # fmt: skip
    return found


def _one_hot(ids: np.ndarray, size: int, numbers: np.ndarray) -> Any:
    from scipy.sparse import csr_matrix, hstack

    rows, fields = ids.shape
    starts = np.arange(0, rows * fields + 1, fields)
    ones = csr_matrix((np.ones(rows * fields), ids.reshape(-1), starts), shape=(rows, size))
    return hstack([ones, csr_matrix(numbers.astype(np.float64))], format="csr")
