"""One run from sources to a Bundle, which `fit` and the configuration file share."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from polyrank.bundle.model import Bundle
from polyrank.data.check.one_feature import suspicions
from polyrank.data.statistics import refuse_unusable, term_statistics
from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.errors import LeakageWarning
from polyrank.metrics.fusion import Fusion
from polyrank.models.model import Model
from polyrank.objective.losses import Supervision
from polyrank.schema import Schema
from polyrank.train.calibrate import calibrators
from polyrank.train.isolation import isolated
from polyrank.train.loop import Trainer
from polyrank.train.profile import Stopwatch
from polyrank.train.progress import Progress
from polyrank.train.refusals import check_run, check_valid
from polyrank.train.run import RunFolder
from polyrank.train.sources import Sources, encoded, fingerprint
from polyrank.train.start import start
from polyrank.train.training import Stop, Training

logger = logging.getLogger(__name__)

Observer = Callable[[Progress], None]


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
    statistics = term_statistics(train, sampling)
    refuse_unusable(statistics, schema, "train")
    if valid is not None:
        check_valid(training.stop, valid)
    _announce(schema, training, valid)
    _warn_of_leaks(train, vocab)
    supervision = Supervision(schema, statistics, sampling)
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
        schema, model, vocab, supervision.scales, ranker.cpu().eval(), config,
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
