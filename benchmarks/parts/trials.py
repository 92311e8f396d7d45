"""Data sets, encoded once, on which models and baselines are tried with one budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

import polyrank as pr
from parts.ours import trainer_of
from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.datasets import load
from polyrank.datasets.synthetic import synthetic
from polyrank.metrics.scorecard import Scorecard, scorecard
from polyrank.models.outputs import logits_of, outputs
from polyrank.schema import Schema, SparseFeature
from polyrank.train.fit import isolated
from polyrank.train.sources import Sources, encoded
from polyrank.train.training import Training

METRICS = ("auc", "ne", "pcoc", "rmse")


@dataclass(frozen=True)
class Log:
    """Encoded rows of one data set.

    Args:
        name: of the data set.
        schema: features and tasks.
        vocab: fitted on the training rows.
        tables: train, valid and test.
    """

    name: str
    schema: Schema
    vocab: Vocab
    tables: Mapping[str, Table]

    def supervised(self, space: str) -> Log:
        """Return the same rows with every conditional binary task learned on one space."""
        tasks = [
            replace(task, space=space) if task.given and task.kind == "binary" else task
            for task in self.schema.tasks
        ]
        schema = replace(self.schema, tasks=tasks)
        tables = {split: replace(each, schema=schema) for split, each in self.tables.items()}
        return replace(self, schema=schema, tables=tables)


def log_of(name: str, seed: int, rows: int) -> Log:
    """Return a data set; generated logs depend on `seed` and `rows`."""
    if name in ("synthetic", "ids", "fields"):
        preset = "additive" if name == "fields" else "latent"
        train, valid, test, schema = synthetic(rows, seed=seed, preset=preset)
        if name == "ids":
            ids = [each for each in schema.features if isinstance(each, SparseFeature)]
            schema = replace(schema, features=ids)
    else:
        train, valid, test, schema = load(name)
    return Log(name, schema, *encoded(schema, Sources(train, valid, test)))


def trial(log: Log, model: pr.Model, training: Training, seed: int) -> dict[str, Any]:
    """Train once; return the kept epoch, its validation loss, and the figures of both splits."""
    started = perf_counter()
    trainer = trainer_of(model, log.vocab, log.tables, training, seed)
    with isolated(seed, training):
        for _ in trainer.run():
            pass
        trainer.keep_best()
        cards = {split: _card(trainer, log.tables[split], split) for split in ("valid", "test")}
    kept = trainer.position.history[trainer.position.best_epoch - 1]
    return {
        "epoch": trainer.position.best_epoch,
        "valid loss": kept["valid total loss"],
        **{f"{split} {name}": value for split, card in cards.items()
           for name, value in figures(card).items()},
        "seconds": round(perf_counter() - started, 2),
    }  # fmt: skip


def figures(card: Scorecard) -> dict[str, float]:
    """Return the main metrics of each score."""
    return {
        f"{score.name} {metric}": score.metrics[metric]["value"]
        for score in card
        for metric in METRICS
        if metric in score.metrics
    }


def _card(trainer: Any, table: Table, split: str) -> Scorecard:
    schema = table.schema
    logits = {name: each.double() for name, each in logits_of(trainer.ranker, table).items()}
    found = outputs(schema, logits, trainer.supervision.likelihoods, {})
    columns = {name: each.numpy() for name, each in found.items()}
    truth = {f"true_{output}": values for output, values in table.truth.items()}
    return scorecard(
        schema, columns, table.labels_by_task, split=split, weight=table.weight, truth=truth,
        only=METRICS,
    )  # fmt: skip


def one_hot(table: Table, vocab: Vocab) -> Any:
    """Return ids as indicator columns, followed by dense columns: a scipy CSR matrix (rows, …)."""
    from scipy.sparse import csr_matrix, hstack

    schema, blocks = table.schema, []
    for field, feature in enumerate(schema.fields):
        rows = vocab.rows[feature.table]
        ids = table.ids[field]
        ones = np.ones(len(table), dtype=np.float64)
        starts = np.arange(len(table) + 1)
        blocks.append(csr_matrix((ones, ids, starts), shape=(len(table), rows)))
    blocks.append(csr_matrix(table.dense.astype(np.float64)))
    return hstack(blocks, format="csr")
