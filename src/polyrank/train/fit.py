"""One run, from what a user calls to a Bundle: `fit`, and `learn`, which the TOML file shares."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from polyrank import spec
from polyrank.balance import Balance, Sum
from polyrank.bundle.model import Bundle
from polyrank.data.check.one_feature import suspicions
from polyrank.data.labels import Orphans
from polyrank.data.sampling import Sampling
from polyrank.data.statistics import term_labels, term_statistics
from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, DataError, LeakageWarning, did_you_mean
from polyrank.features import names_by_kind
from polyrank.metrics.fusion import Fusion
from polyrank.metrics.registry import direction, metric
from polyrank.metrics.undefined import Undefined
from polyrank.models.model import Model
from polyrank.nn import kernels
from polyrank.objective.losses import Supervision
from polyrank.schema import Schema
from polyrank.terms import populations
from polyrank.train.heads import calibrators, start
from polyrank.train.loop import Trainer
from polyrank.train.optim import Adam, Constant, Cosine, EmbeddingOptimizer, LazyAdam
from polyrank.train.progress import Progress, Stopwatch
from polyrank.train.run import RunFolder
from polyrank.train.sources import Sources, encoded, fingerprint
from polyrank.train.training import Stop, Training

logger = logging.getLogger(__name__)

Observer = Callable[[Progress], None]


def fit(
    schema: Schema,
    model: Model,
    *,
    train: Any,
    valid: Any = None,
    test: Any = None,
    orphans: Orphans = "error",
    sampling: Sampling | None = None,
    seed: int = 0,
    epochs: int = 5,
    batch_size: int = 1024,
    lr: float = 3e-3,
    embeddings: EmbeddingOptimizer = LazyAdam(),  # noqa: B008 (frozen)
    dense: Adam = Adam(),  # noqa: B008 (frozen)
    balance: Balance = Sum(),  # noqa: B008 (frozen)
    stop: Stop | None = None,
    schedule: Constant | Cosine = Constant(),  # noqa: B008 (frozen)
    threads: int = 1,
    device: str = "cpu",
    unseen_rate: float = 0.001,
    compile: bool = False,
    fusion: Fusion | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    cache: bool = True,
    progress: Observer | None = None,
) -> Bundle:
    """Learn a model from a log and return it, fitted.

    Args:
        schema: features, tasks and keys.
        model: the network's spec.
        train: a path or glob (CSV, Parquet), a polars or pandas frame, a pyarrow table, or a dict
            of arrays.
        valid: likewise; chooses the epoch that is kept, and calibrates its heads. Without it, the
            last one is, as it was learnt.
        test: likewise; scored once, after training.
        orphans: "error", "drop" or "zero": what becomes of a child label without its parent.
        sampling: how negatives were down-sampled before this log was written; what is predicted
            is the probability in the whole log.
        seed: of weights, shuffling and dropout; torch's own generator is left as it was.
        epochs: see `Training`, as for all up to `compile`.
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
        compile: whether the dense part of a step is compiled into one graph.
        fusion: weights of a fused score, which the scorecard then measures as well.
        out: a run folder to write: log, checkpoints and the bundle.
        resume: go on with the run in `out`.
        force: replace the run in `out`.
        cache: keep the encoded rows of files beside `out`, so that the next run over the same files
            starts at once.
        progress: called with each `Progress`.

    Warns:
        LeakageWarning: a feature that may state a label: alone it ranks that label with an
            out-of-fold AUC above .95. `polyrank check` finds more.

    Raises:
        ConfigError: options that contradict each other or the schema.
        DataError: rows that contradict the schema.
        TrainingError: a loss that is not finite, or a full disk.

    Example:
        >>> from polyrank.models.model import ESMM
        >>> from polyrank.schema import SparseFeature, Task
        >>> schema = Schema([SparseFeature("item")], [Task("click"), Task("buy", given="click")])
        >>> rows = {"item": [1, 2] * 8, "click": [1, 0, 1, 1] * 4, "buy": [1, 0, 0, 0] * 4}
        >>> bundle = fit(schema, ESMM(), train=rows, epochs=1)
        >>> bundle.predict({"item": [2]}).columns
        ['p_click', 'p_buy_given_click', 'p_buy']
    """
    if not isinstance(schema, Schema):
        raise ConfigError(f"schema is a Schema(features, tasks), however: {type(schema).__name__}")
    if not isinstance(model, Model):
        raise ConfigError(
            f"model is a Model, ESMM(…) or Model(trunk=MMoE(…)), however: {type(model).__name__}"
        )
    if fusion is not None and not isinstance(fusion, Fusion):
        raise ConfigError(f"fusion is a Fusion(weights), however: {type(fusion).__name__}")
    training = Training(
        epochs=epochs, batch_size=batch_size, lr=lr, embeddings=embeddings, dense=dense,
        balance=balance, stop=stop, schedule=schedule, threads=threads, device=device,
        unseen_rate=unseen_rate, compile=compile,
    )  # fmt: skip
    sources = Sources(train, valid, test, orphans, cache=cache, sampling=sampling)
    paths = {
        name: str(Path(source).absolute())
        for name in ("train", "valid", "test")
        if isinstance(source := getattr(sources, name), str | Path)
    }
    data = {**paths, "orphans": orphans, "cache": cache, "sampling": sampling}
    config = config_tables("fit", seed, spec.to_table(data), schema, model, training, fusion)
    return learn(
        schema, model, training, sources, seed=seed, config=config, fusion=fusion,
        out=out, resume=resume, force=force, progress=progress,
    )  # fmt: skip


def config_tables(
    name: str,
    seed: int,
    data: Mapping[str, Any],
    schema: Schema,
    model: Model,
    training: Training,
    fusion: Fusion | None = None,
) -> dict[str, Any]:
    """Return an experiment as the plain tables of its TOML file, every default shown."""
    features: dict[str, Any] = {**names_by_kind(schema.features)}
    for feature in schema.features:
        options = spec.to_table(feature)
        del options["name"]
        features[feature.name] = options
    tables = {
        "name": name,
        "seed": spec.to_table(seed),
        "data": dict(data),
        "features": features,
        "keys": spec.to_table(schema.keys),
        "task": spec.to_table(schema.tasks),
        "model": model.to_table(),
        "train": training.to_table(),
    }
    return tables if fusion is None else {**tables, "fusion": fusion.to_table()}


def learn(
    schema: Schema,
    model: Model,
    training: Training,
    sources: Sources,
    *,
    seed: int,
    config: Mapping[str, Any],
    fusion: Fusion | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Observer | None = None,
    stopwatch: Stopwatch | None = None,
) -> Bundle:
    """Learn a model; `config` is the experiment as plain tables, kept in the bundle."""
    check_run(schema, model, training, sources, seed)
    if fusion is not None:
        sources = sources.carrying(fusion, schema)
    run = None if out is None else RunFolder(out, config, resume=resume, force=force)
    vocab, tables = encoded(schema, sources, beside=None if out is None else Path(out).parent)
    train, valid, test = tables["train"], tables.get("valid"), tables.get("test")
    scored = valid if test is None else test
    if fusion is not None and scored is not None:  # before hours of training, not after
        fusion.check_values(schema, scored.carried.to_dict())
    sampling = sources.train_sampling
    supervision = Supervision.of(train, sampling)
    if valid is not None:
        check_valid(training.stop, valid)
    _announce(schema, training, valid)
    _warn_of_leaks(train, vocab)
    with isolated(seed, training):
        ranker = model.build(model.layout(schema, vocab)).to(training.device)
        start(ranker, train, training.device, sampling)
        trainer = Trainer(
            ranker, training, supervision, train=train, valid=valid, seed=seed, stopwatch=stopwatch
        )
        if run is not None:
            run.open(fingerprint(vocab, tables))
            run.restore(trainer)
        for each in until(training.stop, trainer):
            _observe(each, trainer, run, progress)
        trainer.keep_best()
        for use in trainer.experts():
            for warning in use.warnings():
                logger.warning("%s", warning)
    bundle = Bundle(
        schema, model, vocab, supervision.fitted, ranker.cpu().eval(), config,
        pl.DataFrame(list(trainer.position.history), infer_schema_length=None), None,
    )  # fmt: skip
    if valid is not None:
        bundle = replace(bundle, calibrators=calibrators(bundle, valid, seed=seed))
    bundle = _scored(bundle, valid, test)
    if run is not None:
        run.finish(bundle)
    return bundle


def until(stop: Stop | None, trainer: Trainer) -> Iterator[Progress]:
    """Yield a trainer's progress until early stopping has run out of patience."""

    def exhausted() -> bool:
        return stop is not None and trainer.position.stale_epochs >= stop.patience

    if exhausted():  # a run that is resumed after it had stopped
        return
    for each in trainer.run():
        yield each
        if each.event == "epoch" and exhausted():
            return


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
                "task %r has positive_weight %g: its probabilities are inflated on purpose; %s",
                task.name, task.positive_weight,
                "without validation rows no calibration undoes that"
                if valid is None
                else "calibration on the validation rows, where they are enough, undoes that",
            )  # fmt: skip
    if valid is None:
        logger.warning(
            "no validation rows: the last of %d epochs is kept, and nothing is calibrated",
            training.epochs,
        )


def _warn_of_leaks(train: Table, vocab: Vocab) -> None:
    for found in suspicions(train, vocab):
        warnings.warn(
            f"{found}; if it is written after the outcome, remove it from the features",
            LeakageWarning,
            stacklevel=3,
        )


def _scored(bundle: Bundle, valid: Table | None, test: Table | None) -> Bundle:
    if test is not None:
        return replace(bundle, scorecard=bundle.score_labelled(test, "test"))
    if valid is not None:
        return replace(bundle, scorecard=bundle.score_labelled(valid, "valid"))
    return bundle


def check_run(
    schema: Schema, model: Model, training: Training, sources: Sources, seed: int
) -> None:
    """Refuse, before a row is read, what cannot be."""
    model.check(schema)
    if sources.sampling is not None:
        if not isinstance(sources.sampling, Sampling):
            raise ConfigError(f"sampling is a Sampling(task, keep), however: {sources.sampling!r}")
        sources.sampling.check(schema)
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed is a whole number of at least 0, however: {seed!r}")
    cores = os.cpu_count() or 1
    if training.threads > cores:
        raise ConfigError(f"threads = {training.threads}, and this machine has {cores} cores")
    try:
        torch.empty(0, device=training.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {training.device!r} cannot be used here: {str(error).splitlines()[0]}. "
            "Use 'cpu', or install a torch that has it"
        ) from None
    stop = training.stop
    if stop is None:
        return
    if sources.valid is None:
        raise ConfigError(f"stop watches {stop.score!r} on validation rows: give valid")
    kinds = {each.name: each.kind for each in populations(schema)}
    if stop.score not in kinds:
        raise ConfigError(f"stop: unknown score {stop.score!r}{did_you_mean(stop.score, kinds)}")
    direction(kinds[stop.score], stop.metric)  # refuses an unknown metric, or one without any


def check_valid(stop: Stop | None, valid: Table) -> None:
    """Refuse validation rows that cannot choose an epoch, by a prediction that knows nothing."""
    found = term_statistics(valid)
    blind = [name for name, each in found.items() if not each.weight > 0]
    if len(blind) == len(found):
        raise DataError("valid has no row with an observed label: it cannot choose an epoch")
    if blind:
        logger.warning("valid has no row of %s: left out of the validation loss", ", ".join(blind))
    if stop is None:
        return
    where = next(each for each in populations(valid.schema) if each.name == stop.score)
    label = term_labels(valid, where)
    seen = ~np.isnan(label)
    watched = metric(where.kind, stop.metric)
    keys = []
    if watched.key is not None:
        key = {"user": valid.user, "request": valid.request}[watched.key]
        if key is None:
            raise ConfigError(
                f"stop watches {stop.metric!r}, and there is no {watched.key} key in valid: "
                f"declare {watched.key} in [keys], or watch another metric"
            )
        keys = [key.filter(seen)]
    weight = None if valid.weight is None else valid.weight[seen]
    try:
        watched.function(label[seen], np.full(int(seen.sum()), 0.5), *keys, weight)
    except Undefined as reason:
        event = where.label_kind.is_event
        positives = f" and {int((label == 1).sum()):,} positives" if event else ""
        raise ConfigError(
            f"stop watches {stop.metric!r} of {stop.score!r}, but the validation rows have "
            f"{int(seen.sum()):,} rows{positives} of it ({reason}): enlarge valid, or watch "
            "another score"
        ) from None


@contextmanager
def isolated(seed: int, training: Training) -> Iterator[None]:
    """Seed torch and set its threads, type and gradients inside; leave all as they were."""
    threads, device = torch.get_num_threads(), torch.device(training.device)
    others = [] if device.type == "cpu" else [device]
    dtype, kind = torch.get_default_dtype(), "cuda" if device.type == "cpu" else device.type
    with (
        torch.random.fork_rng(devices=others, device_type=kind),
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        kernels.threads(training.threads),
    ):
        torch.manual_seed(seed)
        torch.set_num_threads(training.threads)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
