"""Logs encoded as a setting asks, trials of it, and the figures by which all are compared."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import polyrank as pr
from parts.logs import LOGS, SPLITS, Raw, raw_log
from parts.ours import trainer_of
from parts.settings import AS_IT_IS, Setting, changed
from polyrank.data.statistics import term_labels
from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.metrics.binary import auc, soft_auc
from polyrank.metrics.predicted import predicted, true_probability
from polyrank.metrics.undefined import Undefined
from polyrank.models.outputs import logits_of, outputs
from polyrank.schema import Schema
from polyrank.terms import Population, own_population, populations
from polyrank.train.fit import isolated
from polyrank.train.sources import Sources, encoded
from polyrank.train.training import Training

LEAST_P = 1e-12  # so that a baseline's 0 does not make a loss infinite


@dataclass(frozen=True)
class Log:
    """Encoded rows of one data set.

    Args:
        name: of the data set.
        schema: features and tasks.
        vocab: fitted on the training rows.
        tables: train, valid and test.
        raw: the same rows before encoding, in the same order.
    """

    name: str
    schema: Schema
    vocab: Vocab
    tables: Mapping[str, Table]
    raw: Raw


# A few logs stay in memory: a worker's next run is mostly on one of them.
@lru_cache(maxsize=2)
def _raw(name: str, seed: int, rows: int | None, path: Path | None) -> Raw:
    return raw_log(name, seed, rows, path)


@lru_cache(maxsize=4)
def _encoded(name: str, seed: int, rows: int | None, path: Path | None, key: str) -> Log:
    raw = _raw(name, seed, rows, path)
    schema = changed(raw.schema, Setting.from_key(key))
    # Raw numbers too, which trees read.
    sources = Sources(*(raw.frames[split] for split in SPLITS), numbers=True)
    return Log(name, schema, *encoded(schema, sources), raw)


def log_of(
    name: str,
    seed: int,
    rows: int | None = None,
    setting: Setting = AS_IT_IS,
    path: Path | None = None,
) -> Log:
    """Return a log under a setting's changes to its schema.

    Generated logs depend on `seed` and, if it is given, on `rows` of training; others do not.
    """
    if not LOGS[name].generated:
        seed, rows = 0, None
    return _encoded(name, seed, rows, path, setting.schema_key)


def trial(log: Log, model: pr.Model, training: Training, seed: int) -> dict[str, Any]:
    """Train once; return the kept epoch, its validation loss, and the figures of both splits."""
    started = perf_counter()
    trainer = trainer_of(model, log.vocab, log.tables, training, seed)
    with isolated(seed, training):
        for _ in trainer.run():
            pass
        trained = perf_counter() - started
        trainer.keep_best()
        found = {split: measured(log, split, _predictions(trainer, log.tables[split]))
                 for split in ("valid", "test")}  # fmt: skip
    history = trainer.position.history
    kept = history[trainer.position.best_epoch - 1]
    cosines: dict[str, list[float]] = {}  # of each two terms' gradients, by epoch
    for name, value in ((n, v) for record in history for n, v in record.items()):
        if name.startswith("cosine "):
            cosines.setdefault(name.removeprefix("cosine "), []).append(value)
    return {
        "epoch": trainer.position.best_epoch,
        "heads": [own_population(log.schema, task).name for task in log.schema.tasks],
        "valid loss": kept["valid total loss"],
        "cosines": {pair: float(np.mean(each)) for pair, each in cosines.items()},
        **found,
        "seconds": round(trained, 2),
    }


def _predictions(trainer: Any, table: Table) -> dict[str, np.ndarray]:
    logits = {name: each.double() for name, each in logits_of(trainer.ranker, table).items()}
    found = outputs(table.schema, logits, trainer.supervision.likelihoods, {})
    columns = {name: each.numpy() for name, each in found.items()}
    every = populations(table.schema)
    return {where.name: predicted(table.schema, columns, where) for where in every}


def measured(
    log: Log, split: str, predictions: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return AUC, normalised log loss and PCOC of each score (RMSE of a regression's).

    Where the true probabilities are known they stand in for labels: the expected AUC, and so on,
    free of the noise of a few hundred purchases. A loss is divided by that of the constant that
    predicts the rate (the mean) of the training rows.

    Args:
        log: with labels.
        split: whose rows.
        predictions: by the population's name, of all rows of the split.
    """
    table, found = log.tables[split], {}
    for where in populations(log.schema):
        kept, label, weight = target(table, where)
        prediction = predictions[where.name][kept]
        trained = term_labels(log.tables["train"], where)
        trained = trained[~np.isnan(trained)]
        if where.label_kind.is_event:
            found[where.name] = _of_event(label, prediction, weight, float(trained.mean()))
            continue
        squares = float(np.mean((label - prediction) ** 2))
        found[where.name] = {"rmse": squares**0.5, "loss": squares / float(trained.var())}
    return found


def oracle(log: Log, split: str) -> dict[str, dict[str, float]]:
    """Return the figures of the true probabilities; nothing where they are not known."""
    table = log.tables[split]
    known = {
        where.name: true_probability(log.schema, table.truth, where)
        for where in populations(log.schema)
    }
    if any(each is None for each in known.values()):
        return {}
    return measured(log, split, known)  # pyrefly: ignore  (none is None here)


def target(table: Table, where: Population) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the rows of a score, what to predict there, and their weights.

    Of known truth these are all rows: the probability, and how probable it is that the row counts.
    """
    schema = table.schema
    truth = true_probability(schema, table.truth, where)
    if truth is None:
        label = term_labels(table, where)
        kept = ~np.isnan(label)
        return kept, label[kept], None
    weight = None
    if where.given is not None:
        counts = next(
            each for each in populations(schema) if each.task == where.given and not each.given
        )
        weight = true_probability(schema, table.truth, counts)
    return np.ones(len(table), dtype=bool), truth, weight


def _of_event(
    label: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None, rate: float
) -> dict[str, float]:
    p = np.clip(prediction, LEAST_P, 1 - LEAST_P)
    losses = -(label * np.log(p) + (1 - label) * np.log1p(-p))
    constant = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    found = {
        "loss": float(np.average(losses, weights=weight) / constant),
        "pcoc": float(
            np.average(prediction, weights=weight)
            / max(float(np.average(label, weights=weight)), LEAST_P)
        ),
    }
    with suppress(Undefined):  # a rare event may not have happened among validation rows
        whole = np.isin(label, (0.0, 1.0)).all()
        found["auc"] = auc(label, prediction) if whole else soft_auc(label, prediction, weight)
    return found
