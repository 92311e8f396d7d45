"""`fit`: from sources to a Bundle; and `learn`, which the configuration file uses as well."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from polyrank import spec
from polyrank.balance import Balance, Sum
from polyrank.bundle.model import Bundle, log_counts
from polyrank.data.labels import Orphans, check_leaks
from polyrank.data.read import read
from polyrank.data.statistics import refuse_unusable, term_labels, term_statistics
from polyrank.data.table import Table, encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, did_you_mean
from polyrank.metrics.registry import direction
from polyrank.metrics.scorecard import Scorecard
from polyrank.models.model import Model
from polyrank.objective.losses import Supervision
from polyrank.schema import Schema, SparseFeature
from polyrank.terms import ALL, population, populations
from polyrank.train.loop import Progress, Trainer
from polyrank.train.optim import Adam, Constant, Cosine, EmbeddingOptimizer, LazyAdam
from polyrank.train.run import RunFolder
from polyrank.train.training import Stop, Training

logger = logging.getLogger(__name__)

Observer = Callable[[Progress], None]


@dataclass(frozen=True)
class Sources:
    """What `read` accepts, for each split.

    Args:
        train: learnt from; the only rows that vocabularies and encodings see.
        valid: chooses the epoch.
        test: scored once, after training.
        orphans: what becomes of a child label without its parent.
    """

    train: Any
    valid: Any = None
    test: Any = None
    orphans: Orphans = "error"


def fit(
    schema: Schema,
    model: Model,
    *,
    train: Any,
    valid: Any = None,
    test: Any = None,
    orphans: Orphans = "error",
    seed: int = 0,
    epochs: int = 5,
    batch_size: int = 1024,
    lr: float = 1e-3,
    embeddings: EmbeddingOptimizer = LazyAdam(),  # noqa: B008 (frozen)
    dense: Adam = Adam(),  # noqa: B008 (frozen)
    balance: Balance = Sum(),  # noqa: B008 (frozen)
    stop: Stop | None = None,
    schedule: Constant | Cosine = Constant(),  # noqa: B008 (frozen)
    threads: int = 1,
    device: str = "cpu",
    unseen_rate: float = 0.001,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Observer | None = None,
) -> Bundle:
    """Learn a model from a log and return it, fitted.

    Args:
        schema: features, tasks and keys.
        model: the network's spec.
        train: a path or glob (CSV, Parquet), a polars or pandas frame, a pyarrow table, or a dict
            of arrays.
        valid: likewise; chooses the epoch that is kept. Without it, the last one is.
        test: likewise; scored once, after training.
        orphans: "error", "drop" or "zero": what becomes of a child label without its parent.
        seed: of weights, shuffling and dropout; torch's own generator is left as it was.
        epochs: see `Training`, as for all up to `unseen_rate`.
        batch_size: rows of a step.
        lr: step size.
        embeddings: optimiser of embedding rows.
        dense: optimiser of all other parameters.
        balance: how several losses become one step.
        stop: early stopping.
        schedule: of the learning rate.
        threads: of torch, while training.
        device: a torch device.
        unseen_rate: probability with which a training id is replaced by row 0.
        out: a run folder to write: log, checkpoints and the bundle.
        resume: go on with the run in `out`.
        force: replace the run in `out`.
        progress: called with each `Progress`.

    Raises:
        ConfigError: options that contradict each other or the schema.
        DataError: rows that contradict the schema.
        TrainingError: a loss that is not finite, or a full disk.

    Example:
        >>> from polyrank.models.model import ESMM
        >>> from polyrank.schema import Task
        >>> schema = Schema([SparseFeature("item")], [Task("click"), Task("buy", given="click")])
        >>> rows = {"item": [1, 2] * 8, "click": [1, 0, 1, 1] * 4, "buy": [1, 0, 0, 0] * 4}
        >>> bundle = fit(schema, ESMM(), train=rows, epochs=1)
        >>> bundle.predict({"item": [2]}).columns
        ['p_click', 'p_buy_given_click', 'p_buy']
    """
    training = Training(
        epochs=epochs, batch_size=batch_size, lr=lr, embeddings=embeddings, dense=dense,
        balance=balance, stop=stop, schedule=schedule, threads=threads, device=device,
        unseen_rate=unseen_rate,
    )  # fmt: skip
    sources = Sources(train, valid, test, orphans)
    paths = {
        name: str(Path(source).absolute())
        for name in ("train", "valid", "test")
        if isinstance(source := getattr(sources, name), str | Path)
    }
    config = config_tables("fit", seed, {**paths, "orphans": orphans}, schema, model, training)
    return learn(
        schema, model, training, sources, seed=seed, config=config,
        out=out, resume=resume, force=force, progress=progress,
    )  # fmt: skip


def learn(
    schema: Schema,
    model: Model,
    training: Training,
    sources: Sources,
    *,
    seed: int,
    config: Mapping[str, Any],
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Observer | None = None,
) -> Bundle:
    """Learn a model; `config` is the experiment as plain tables, kept in the bundle."""
    model.check(schema)
    _check_stop(training.stop, schema, sources.valid is not None)
    run = None if out is None else RunFolder(out, config, resume=resume, force=force)
    vocab, tables = encoded(schema, sources)
    train, valid, test = tables["train"], tables.get("valid"), tables.get("test")
    statistics = term_statistics(train)
    refuse_unusable(statistics, schema, "train")
    if training.stop is not None and valid is not None:
        _check_stop_rows(training.stop, valid)
    _announce(schema, training, valid)
    supervision = Supervision(schema, statistics)
    with isolated(seed, training):
        ranker = model.build(model.layout(schema, vocab)).to(training.device)
        ranker.start_at(base_rates(train))
        trainer = Trainer(ranker, training, supervision, train=train, valid=valid, seed=seed)
        if run is not None:
            run.open()
            run.restore(trainer)
        for each in trainer.run():
            _observe(each, trainer, run, progress)
        trainer.keep_best()
    bundle = Bundle(
        schema, model, vocab, supervision.scales, ranker.cpu().eval(), config,
        pl.DataFrame(list(trainer.position.history), infer_schema_length=None), None,
    )  # fmt: skip
    bundle = _scored(bundle, valid, test)
    if run is not None:
        run.finish(bundle)
    return bundle


def config_tables(
    name: str,
    seed: int,
    data: Mapping[str, Any],
    schema: Schema,
    model: Model,
    training: Training,
) -> dict[str, Any]:
    """Return an experiment as the plain tables of its TOML file, every default shown."""
    features: dict[str, Any] = {
        "sparse": [f.name for f in schema.features if isinstance(f, SparseFeature)],
        "dense": [f.name for f in schema.features if not isinstance(f, SparseFeature)],
    }
    for feature in schema.features:
        options = spec.to_table(feature)
        del options["name"]
        features[feature.name] = options
    return {
        "name": name,
        "seed": seed,
        "data": dict(data),
        "features": features,
        "keys": spec.to_table(schema.keys),
        "task": spec.to_table(schema.tasks),
        "model": model.to_table(),
        "train": training.to_table(),
    }


def base_rates(table: Table) -> dict[str, float]:
    """Return the rate of each binary head on the rows where its parent happened, smoothed.

    (positives + 1) / (rows + 2), so that a head without rows starts at ½.
    """
    rates = {}
    for task in table.schema.tasks:
        if task.kind == "binary":
            label = term_labels(table, population(table.schema, task, task.given or ALL))
            mask = ~np.isnan(label)
            weight = np.ones(len(table)) if table.weight is None else table.weight
            positives = float(weight[label == 1].sum())
            rates[task.name] = (positives + 1) / (float(weight[mask].sum()) + 2)
    return rates


def encoded(schema: Schema, sources: Sources) -> tuple[Vocab, dict[str, Table]]:
    """Return the vocabulary of the training rows, and the tables of the splits that are given."""
    train = read(sources.train, schema)
    vocab = Vocab.fit(train, schema)
    check_leaks(train, schema)
    tables = {}
    for split, source in (("train", train), ("valid", sources.valid), ("test", sources.test)):
        if source is not None:
            rows = read(source, schema)
            tables[split] = encode(rows, schema, vocab, split=split, orphans=sources.orphans)
            log_counts(tables[split], split)
    return vocab, tables


@contextmanager
def isolated(seed: int, training: Training) -> Iterator[None]:
    """Seed torch and set its threads inside; leave both as they were."""
    threads = torch.get_num_threads()
    devices = [] if training.device == "cpu" else [torch.device(training.device)]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        torch.set_num_threads(training.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _observe(
    each: Progress, trainer: Trainer, run: RunFolder | None, progress: Observer | None
) -> None:
    if run is not None:
        run.log(each)
        if each.event == "epoch":
            run.checkpoint(trainer)
    if each.event == "epoch":
        shown = ", ".join(f"{name} {value:.4f}" for name, value in each.valid.items())
        logger.info("epoch %d of %d: %s", each.epoch, each.epochs, shown or "no validation rows")
    if progress is not None:
        progress(each)


def _announce(schema: Schema, training: Training, valid: Table | None) -> None:
    for task in schema.tasks:
        if task.positive_weight != 1:
            logger.warning(
                "task %r has positive_weight %g: its probabilities are inflated on purpose, and "
                "only a calibration undoes that", task.name, task.positive_weight,
            )  # fmt: skip
    if valid is None:
        logger.warning("no validation rows: the last of %d epochs is kept", training.epochs)


def _scored(bundle: Bundle, valid: Table | None, test: Table | None) -> Bundle:
    card: Scorecard | None = None
    if test is not None:
        card = bundle.score_labelled(test, "test")
    elif valid is not None:
        card = bundle.score_labelled(valid, "valid")
    return Bundle(
        bundle.schema, bundle.model, bundle.vocab, bundle.scales, bundle.ranker, bundle.config,
        bundle.history, card,
    )  # fmt: skip


def _check_stop(stop: Stop | None, schema: Schema, valid: bool) -> None:
    if stop is None:
        return
    if not valid:
        raise ConfigError(f"stop watches {stop.score!r} on validation rows: give valid")
    kinds = {each.name: each.kind for each in populations(schema)}
    if stop.score not in kinds:
        raise ConfigError(f"stop: unknown score {stop.score!r}{did_you_mean(stop.score, kinds)}")
    direction(kinds[stop.score], stop.metric)  # refuses an unknown metric, or one without any


def _check_stop_rows(stop: Stop, valid: Table) -> None:
    where = next(each for each in populations(valid.schema) if each.name == stop.score)
    label = term_labels(valid, where)
    rows, positives = int((~np.isnan(label)).sum()), int((label == 1).sum())
    if rows == 0 or (where.kind == "binary" and positives in (0, rows)):
        raise ConfigError(
            f"stop watches {stop.score!r}, but the validation rows have {rows:,} rows and "
            f"{positives:,} positives of it: enlarge valid, or watch another score"
        )
