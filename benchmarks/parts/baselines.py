"""What a multi-task model has to beat: a logistic regression or boosted trees for each score."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np

from parts.trials import METRICS, Log, one_hot
from polyrank.data.statistics import term_labels
from polyrank.metrics.registry import metrics_of
from polyrank.metrics.undefined import Undefined
from polyrank.terms import Population, populations

# Inverse strengths of the L2 penalty, for a loss that is summed over rows; and the ridge's.
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RIDGE = (3.0, 10.0, 30.0, 100.0)
TREES = {
    "learning_rate": 0.05, "num_leaves": 63, "min_data_per_group": 50, "cat_smooth": 20,
    "feature_fraction": 0.9, "bagging_fraction": 0.9, "bagging_freq": 1,
    "num_threads": 1, "verbose": -1,
}  # fmt: skip
ROUNDS, PATIENCE = 400, 30

# (label, inputs, kind) of the training and the validation rows → predictions of any inputs
Learner = Callable[[str, "Rows", "Rows", int], Callable[[Any], np.ndarray]]
Rows = tuple[Any, np.ndarray]


def logistic(kind: str, train: Rows, valid: Rows, _: int) -> Callable[[Any], np.ndarray]:
    """Return a logistic (or ridge) regression, with its penalty chosen on validation rows."""
    from sklearn.linear_model import LogisticRegression, Ridge

    found = []
    if kind == "regression":
        for strength in RIDGE:
            model = Ridge(alpha=strength, solver="lsqr").fit(*train)
            found.append((float(np.mean((model.predict(valid[0]) - valid[1]) ** 2)), model))
        return min(found, key=lambda each: each[0])[1].predict
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, solver="lbfgs", max_iter=200, tol=1e-5)
        model.fit(*train)
        p = np.clip(model.predict_proba(valid[0])[:, 1], 1e-12, 1 - 1e-12)
        loss = -np.mean(np.where(valid[1] == 1, np.log(p), np.log1p(-p)))
        found.append((float(loss), model))
        if len(found) > 1 and found[-1][0] > found[-2][0]:
            break  # the loss is convex in the penalty but for noise
    best = min(found, key=lambda each: each[0])[1]
    return lambda inputs: best.predict_proba(inputs)[:, 1]


def lightgbm(kind: str, train: Rows, valid: Rows, seed: int) -> Callable[[Any], np.ndarray]:
    """Return boosted trees, with their number chosen on validation rows."""
    import lightgbm as gbm

    objective = "binary" if kind == "binary" else "regression"
    categories = train[0].categories
    rows = gbm.Dataset(train[0].values, train[1], categorical_feature=categories)
    held_out = gbm.Dataset(valid[0].values, valid[1], reference=rows)
    stop = gbm.early_stopping(PATIENCE, verbose=False)
    model = gbm.train(
        {**TREES, "objective": objective, "seed": seed}, rows, ROUNDS, [held_out], callbacks=[stop]
    )
    return lambda inputs: np.asarray(model.predict(inputs.values))


class Columns:
    """Ids as categories, and dense columns unchanged: (rows, F + D)."""

    def __init__(self, values: np.ndarray, categories: list[int]) -> None:
        self.values, self.categories = values, categories

    def __getitem__(self, rows: Any) -> Columns:
        return Columns(self.values[rows], self.categories)


def baseline(log: Log, learner: Learner, seed: int) -> dict[str, Any]:
    """Learn each score separately; return its figures as `trials.trial` does."""
    started = perf_counter()
    if learner is logistic:
        inputs = {split: one_hot(table, log.vocab) for split, table in log.tables.items()}
    else:
        inputs = {
            split: Columns(
                np.concatenate([table.ids.T.astype(np.float32), table.dense], axis=1),
                list(range(len(table.ids))),
            )
            for split, table in log.tables.items()
        }
    found: dict[str, Any] = {}
    for where in populations(log.schema):
        labels = {split: term_labels(table, where) for split, table in log.tables.items()}
        seen = {split: np.flatnonzero(~np.isnan(label)) for split, label in labels.items()}
        rows = {split: (inputs[split][seen[split]], labels[split][seen[split]]) for split in seen}
        predict = learner(where.kind, rows["train"], rows["valid"], seed)
        for split in ("valid", "test"):
            found |= {
                f"{split} {where.name} {name}": value
                for name, value in _measured(where, rows[split][1], predict(rows[split][0]))
            }
    return found | {"seconds": round(perf_counter() - started, 2)}


def _measured(
    where: Population, label: np.ndarray, prediction: np.ndarray
) -> Iterable[tuple[str, float]]:
    for name, metric in metrics_of(where.label_kind).items():
        with suppress(Undefined):
            if name in METRICS:
                yield name, metric(label, prediction)
