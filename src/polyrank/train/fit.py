"""One run, from what a user calls to a Bundle: `fit`, and `train_model`, which TOML files share."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from polyrank import spec
from polyrank.balance import Balance, Sum
from polyrank.bundle.model import Bundle
from polyrank.data.check.one_feature import suspicions
from polyrank.data.labels import Orphans, closed
from polyrank.data.learned import Learned, learned_of, refuse_learned, share_of_last
from polyrank.data.memory import AUTO as AUTO_MEMORY
from polyrank.data.memory import bytes_of, resolved
from polyrank.data.sampling import Sampling
from polyrank.data.statistics import label_groups, term_labels, term_statistics
from polyrank.data.table import Table, as_served
from polyrank.errors import ConfigError, DataError, LeakageWarning, did_you_mean
from polyrank.features import names_by_kind
from polyrank.metrics.fusion import Fusion
from polyrank.metrics.registry import direction, metric
from polyrank.metrics.undefined import Undefined
from polyrank.models.model import Model
from polyrank.nn import kernels
from polyrank.objective.losses import Supervision
from polyrank.paths import absolute
from polyrank.ranks import joined_ranks, of_host, restarted
from polyrank.schema import Schema
from polyrank.terms import own_terms, populations
from polyrank.train.checkpoint import kept_checkpoints, restore
from polyrank.train.heads import calibrators, start
from polyrank.train.held import check_shared, held, make_whole
from polyrank.train.loop import Trainer
from polyrank.train.optim import Adam, EmbeddingOptimizer, LazyAdam, Linear, Schedule
from polyrank.train.profiled import profiled
from polyrank.train.progress import Observer, Profile, progress_bar
from polyrank.train.run import RunFolder, run_folder
from polyrank.train.sources import Sources, encoded, fingerprint
from polyrank.train.start import Origin, Start
from polyrank.train.track import TRACKERS, Tracked, Tracker, check_tracker, tracked
from polyrank.train.training import AUTO, Checkpoint, Stop, Training

logger = logging.getLogger(__name__)

MARGIN = 1.1  # a loss less above a constant's is no sign of anything


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
    epochs: int | Literal["auto"] = AUTO,
    batch_size: int | Literal["auto"] = AUTO,
    lr: float = 3e-3,
    embeddings: EmbeddingOptimizer = LazyAdam(),  # noqa: B008 (frozen)
    dense: Adam = Adam(),  # noqa: B008 (frozen)
    balance: Balance = Sum(),  # noqa: B008 (frozen)
    stop: Stop | None = None,
    schedule: Schedule = Linear(),  # noqa: B008 (frozen)
    threads: int = 1,
    device: str = "cpu",
    unseen_rate: float = 0.001,
    checkpoint: Checkpoint | None = None,
    compile: bool = False,
    tables: Literal["auto", "replicated", "sharded"] = AUTO,
    fusion: Fusion | None = None,
    start: Start | Bundle | str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    cache: bool = True,
    memory: str | int = AUTO_MEMORY,
    progress: Observer | bool | None = None,
    track: Tracker | None = None,
) -> Bundle:
    """Train a model on a log and return it, fitted.

    Args:
        schema: features, tasks and keys.
        model: the network's spec.
        train: a path or glob (CSV, Parquet), a polars or pandas frame, a pyarrow table, a dict of
            arrays, or a `Joined` of rows and of lists that they share.
        valid: likewise; chooses the epoch that is kept, and calibrates its heads. Without it, the
            last epoch is kept, uncalibrated.
        test: likewise; scored once, after training.
        orphans: what happens to a child label without its parent: "error" refuses, "drop" leaves
            the row out, "zero" sets the child to 0.
        sampling: how negatives were down-sampled before this log was written; predictions are
            probabilities in the whole log.
        seed: of weights, shuffling and dropout; torch's own generator is left as it was.
        epochs: see `Training` for this and the next ten.
        batch_size: rows per step.
        lr: step size.
        embeddings: optimiser of embedding rows.
        dense: optimiser of all other parameters.
        balance: how several losses become one step.
        stop: early stopping.
        schedule: of the learning rate.
        threads: of torch, while training.
        device: a torch device.
        unseen_rate: probability with which a training id is replaced by row 0.
        checkpoint: also within an epoch, in `out`.
        compile: whether the dense part of a step is compiled into one graph.
        tables: of several processes, whether each has all rows of the tables or they hold them
            between them; by default the latter where one has no room for all.
        fusion: weights of a fused score, which the scorecard then measures as well.
        start: a run folder, a bundle, or a `Start` that says more: training goes on from its
            weights, on new rows alone; see docs/warm_start.md.
        out: a run folder to write: log, checkpoints and the bundle.
        resume: continue the run in `out`.
        force: replace the run in `out`.
        cache: keep the encoded rows of files beside `out`, so that the next run over the same files
            starts at once.
        memory: that encoded rows may take, such as "2GiB"; by default half of what is free. Of a
            larger log, an epoch holds a window of rows at a time.
        progress: called with each `Progress`; True draws a bar on stderr, False shows nothing. By
            default there is a bar where stderr is a terminal.
        track: where the run is shown as well, `TensorBoard()` or `MLflow()`; see docs/track.md.

    Warns:
        LeakageWarning: a feature that may state a label: alone it ranks that label with an
            out-of-fold AUC above .95. `polyrank check` finds more.

    Raises:
        ConfigError: options that contradict each other or the schema.
        DataError: rows that contradict the schema.
        TrainingError: a loss that is not finite, or a full disk.

    Examples:
        >>> from polyrank.models.model import ESMM
        >>> from polyrank.schema import SparseFeature, Task
        >>> schema = Schema([SparseFeature("item")], [Task("click"), Task("buy", given="click")])
        >>> rows = {"item": [1, 2] * 8, "click": [1, 0, 1, 1] * 4, "buy": [1, 0, 0, 0] * 4}
        >>> bundle = fit(schema, ESMM(), train=rows, epochs=1)
        >>> bundle.predict({"item": [2]}).columns
        ['p_click', 'p_buy_given_click', 'p_buy']
    """
    for name, given, wanted, form in (
        ("schema", schema, Schema, "a Schema(features, tasks)"),
        ("model", model, Model, "ESMM(…) or Model(trunk=MMoE(…))"),
        ("fusion", fusion, Fusion | None, "a Fusion(weights)"),
    ):
        if not isinstance(given, wanted):
            raise ConfigError(f"{name} must be {form}, got {type(given).__name__}")
    schema = model.supervised(schema)
    if sampling is not None:
        if not isinstance(sampling, Sampling):
            raise ConfigError(f"sampling must be a Sampling(task, keep), got {sampling!r}")
        sampling.check(schema)
    training = Training(
        epochs=epochs, batch_size=batch_size, lr=lr, embeddings=embeddings, dense=dense,
        balance=balance, stop=stop, schedule=schedule, threads=threads, device=device,
        unseen_rate=unseen_rate, checkpoint=checkpoint, compile=compile, tables=tables,
    )  # fmt: skip
    sources = Sources(train, valid, test, orphans, cache=cache, sampling=sampling, memory=memory)
    bytes_of(memory)
    paths = {
        split: absolute(source)
        for split, source in sources.splits.items()
        if isinstance(source, str | Path)
    }
    data = {**paths, "orphans": orphans, "cache": cache, "sampling": sampling, "memory": memory}
    begun = None if start is None else Start.of(start)
    config = config_tables(
        "fit", seed, spec.to_table(data), schema, model, training, fusion, begun, track
    )
    if fusion is not None:
        sources = sources.carrying(fusion, schema)
    return train_model(
        schema, model, training, sources, seed=seed, config=config, fusion=fusion,
        begun=begun, out=out, resume=resume, force=force, progress=progress, track=track,
    )  # fmt: skip


def config_tables(
    name: str,
    seed: int,
    data: Mapping[str, Any],
    schema: Schema,
    model: Model,
    training: Training,
    fusion: Fusion | None = None,
    start: Start | None = None,
    track: Tracker | None = None,
) -> dict[str, Any]:
    """Return an experiment as the plain tables of its TOML file, every default shown."""
    features: dict[str, Any] = {**names_by_kind(schema.features)}
    for feature in schema.features:
        features[feature.name] = spec.to_table(feature)
        del features[feature.name]["name"]
    tables = {
        "name": name,
        "seed": spec.to_table(seed),
        "data": dict(data),
        "features": features,
        "keys": spec.to_table(schema.keys),
        "task": [task.to_table() for task in schema.tasks],
        "model": model.to_table(),
        "train": training.to_table(),
    }
    optional = {"fusion": fusion, "start": start}
    tables |= {name: each.to_table() for name, each in optional.items() if each is not None}
    return tables if track is None else tables | {"track": spec.chosen(TRACKERS, track)}


def train_model(
    schema: Schema,
    model: Model,
    training: Training,
    sources: Sources,
    *,
    seed: int,
    config: Mapping[str, Any],
    fusion: Fusion | None = None,
    begun: Start | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Observer | bool | None = None,
    profile: Profile | None = None,
    title: str | None = None,
    beside: Path | None = None,
    track: Tracker | None = None,
) -> Bundle:
    """Train a model as `fit` does; `config` is the experiment as plain tables, for the bundle.

    The run starts from what has `begun`. `title` is the bar's instead of the experiment's name. The
    cache of encoded rows lies in the folder `beside`: by default that of the run folder.
    """
    sources = replace(sources, numbers=model.numbers)
    given = model.supervised(schema)
    origin = None if begun is None else begun.opened()
    schema = closed(given if origin is None else origin.closed(given), sources.train)
    if schema != given:
        config = {**config, "task": [task.to_table() for task in schema.tasks]}
    check_run(schema, model, training, sources, seed)
    check_tracker(track)
    if origin is not None:
        origin.check(schema, model)
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks(training.device))
        if ranks.several:
            check_ranks(model, training, begun)
            training = replace(training, device=ranks.own(training.device))
        run = None
        if out is not None and ranks.first:
            if restarted() and Path(out).exists():  # torchrun goes on by itself
                resume, force = True, False
            folder = run_folder(out, config, resume=resume, force=force)
            run = stack.enter_context(folder)
            config = run.config
        config = ranks.of_first(config)
        bar = progress is True or (progress is None and sys.stderr.isatty())
        bar = bar and ranks.first
        name = title or config["name"]
        observer = None if isinstance(progress, bool) else progress
        observe = stack.enter_context(progress_bar(name) if bar else nullcontext(observer))
        if beside is None and out is not None:
            beside = Path(out).parent
        # What is free differs from time to time, and what a window holds decides the bits.
        limit = resolved(config["data"].get("memory", AUTO_MEMORY), of_host())
        limit = ranks.of_first(limit)
        sources = replace(sources, memory=AUTO_MEMORY if limit is None else limit)
        with ranks.first_before_others():  # so that the cache is written once
            learned = learned_by(schema, sources, origin)
            if origin is not None and not learned[-1].rows:
                return _unchanged(origin, config, learned, run)
            before = None if origin is None else origin.before
            vocab, tables = encoded(schema, sources, beside=beside, before=before)
        if tables["train"].window is not None:
            config = {**config, "data": {**config["data"], "memory": limit}}
        train, valid = tables["train"], tables.get("valid")
        if origin is not None:
            training = origin.training(training, len(train), learned)
        split = "test" if "test" in tables else "valid"
        scored = tables.get(split)
        if fusion is not None and scored is not None:  # before hours of training, not after
            fusion.check_values(schema, scored.carried.to_dict())
        sampling = sources.train_sampling
        fitted = None if origin is None else origin.bundle.targets
        supervision = Supervision.of(train, sampling, fitted)
        if valid is not None:
            check_valid(training.stop, valid, supervision.fitted)
        _announce(schema, training.pace(len(train)).epochs, valid)
        for found in suspicions(train, vocab) if ranks.first else ():
            advice = "if it is written after the outcome, remove it from the features"
            warnings.warn(f"{found}; {advice}", LeakageWarning, stacklevel=2)
        whole = model.layout(schema, vocab)
        layout = replace(whole, held=held(training, whole, model, ranks))
        shared = layout.held.ranks is not None
        with isolated(seed, training):
            ranker = model.build(layout).to(training.device)
            if origin is None:
                start(ranker, train, training.device, sampling)
            else:
                origin.begin(ranker, vocab)
            trainer = Trainer(
                ranker, training, supervision, train=train, valid=valid, seed=seed,
                profile=profile, ranks=ranks, new=share_of_last(learned),
            )  # fmt: skip
            data = fingerprint(vocab, tables)
            if origin is not None:
                origin.go_on(trainer)
                data = f"{data}, start {origin.version}"
            if len(set(ranks.by_all(data))) > 1:
                raise DataError(
                    "the processes of this run read other rows: give all of them the same files"
                )
            if run is not None:
                run.config = config
                run.open()
            kept = None
            if out is not None and (ranks.first or shared):
                kept = stack.enter_context(kept_checkpoints(Path(out), data, ranks))
                if shared:
                    check_shared(Path(out), ranks)
            restore(trainer, kept)
            if run is not None:
                run.cut(trainer.position)
            named = f"{config['name']} (seed {seed})"
            folder = None if run is None else run.path
            shown = Tracked(name=named, folder=folder, config=config)
            follower = stack.enter_context(tracked(track if ranks.first else None, shown))
            for each in trainer.run():
                if run is not None:
                    run.record(each)
                follower.follow(each)
                if kept is not None:
                    kept.follow(each, trainer)
                if each.event == "epoch":
                    logger.info("%s", each)
                if observe is not None:
                    observe(each)
            if kept is not None:
                kept.settle()
            trainer.keep_best()
        position = trainer.position
        own = ", ".join(f"{head} {epoch}" for head, epoch in position.own_best_epochs.items())
        logger.info(
            "epoch %d is kept%s", position.best_epoch, own and f" (each head's own best: {own})"
        )
        ranker = ranker.cpu().eval()
        if shared:
            make_whole(ranker, whole, ranks, None if out is None else Path(out))
        bundle = Bundle(
            schema, model, vocab, supervision.fitted, ranker, config,
            pl.DataFrame(list(trainer.position.history), infer_schema_length=None), None,
            learned=learned,
        )  # fmt: skip
        if valid is not None and ranks.first:
            _warn_of_divergence(trainer, valid)
            bundle = replace(bundle, calibrators=calibrators(bundle, valid, seed=seed))
        if scored is not None and ranks.first:
            bundle = replace(
                bundle, scorecard=bundle.score_labelled(as_served(scored, vocab), split)
            )
        if ranks.first:
            bundle = replace(bundle, profile=profiled(bundle, sources))
        if run is not None:
            run.finish(bundle)
        follower.finish(bundle, None if run is None else run.path)
        # No process returns before the bundle is written.
        calibrated, card, seen = ranks.of_first(
            (bundle.calibrators, bundle.scorecard, bundle.profile)
        )
        return replace(bundle, calibrators=calibrated, scorecard=card, profile=seen)


def learned_by(schema: Schema, sources: Sources, origin: Origin | None) -> tuple[Learned, ...]:
    """Return what the run and those before it learn; refuse rows that they have learned."""
    new = learned_of(sources.train, schema)
    if origin is None:
        return (new,)
    before = origin.bundle.learned
    if new.rows:
        refuse_learned(new, before)
    new = replace(new, start=origin.version, retained=float(origin.start.retain))
    return (*before, new)


def _unchanged(
    origin: Origin, config: Mapping[str, Any], learned: tuple[Learned, ...], run: RunFolder | None
) -> Bundle:
    """Return the bundle that a run starts from, where there is no row to learn."""
    logger.warning("there are no new training rows: the model stays as it was")
    bundle = replace(origin.bundle, config=config, learned=learned)
    if run is not None:
        run.config = config
        run.open()
        run.finish(bundle)
    return bundle


def _warn_of_divergence(trainer: Trainer, valid: Table) -> None:
    """Name the terms that the kept epoch predicts worse than the best constant does."""
    likelihoods, epoch = trainer.supervision.likelihoods, trainer.position.best_epoch
    kept = trainer.position.history[epoch - 1]
    found, worse = term_statistics(valid), []
    for term in valid.schema.objective:
        rows = found[term.name]
        if term.method is not None or not rows.telling:
            continue
        loss = kept[f"valid {term.name} loss"]
        constant = likelihoods[term.population.task].constant_loss(term, rows)
        if loss > MARGIN * constant:
            worse.append(f"{term.name!r} {loss:.4g} (constant {constant:.4g})")
    if worse:
        logger.warning(
            "training diverged or learned nothing: in the kept epoch, %d, the validation loss is "
            "above that of a constant prediction for %s; lower lr (now %g), train "
            "longer, or regularise",
            epoch, ", ".join(worse), trainer.training.lr,
        )  # fmt: skip


def _announce(schema: Schema, epochs: int, valid: Table | None) -> None:
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
            epochs,
        )


def check_run(
    schema: Schema, model: Model, training: Training, sources: Sources, seed: int
) -> None:
    """Refuse options that contradict each other, before a row is read."""
    model.check(schema)
    for stage in model.first_stages:
        stage.require()
    spec.whole("seed", seed, least=0, most=2**63 - 1)
    cores = os.cpu_count() or 1
    if training.threads > cores:
        raise ConfigError(f"threads must be at most {cores} here, got {training.threads}")
    try:
        torch.empty(0, device=training.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {training.device!r} cannot be used here: {str(error).splitlines()[0]}. "
            "Use 'cpu', or install a torch that has it"
        ) from None
    stop = training.stop
    if training.schedule.watches_validation and sources.valid is None:
        name = type(training.schedule).__name__
        raise ConfigError(f"schedule {name} watches validation rows: valid is missing")
    if stop is None:
        return
    if sources.valid is None:
        raise ConfigError(f"stop watches {stop.score!r} on validation rows: valid is missing")
    kinds = {each.name: each.kind for each in populations(schema)}
    if stop.score not in kinds:
        raise ConfigError(f"stop: unknown score {stop.score!r}{did_you_mean(stop.score, kinds)}")
    direction(kinds[stop.score], stop.metric)  # refuses an unknown metric, or one without any


def check_valid(
    stop: Stop | None, valid: Table, fitted: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> None:
    """Refuse validation rows that cannot choose an epoch, judged by predictions that all differ.

    `fitted` is what kinds of label fitted on the training rows, by task.
    """
    found = term_statistics(valid)
    blind = [name for name, each in found.items() if not each.weight > 0]
    if len(blind) == len(found):
        raise DataError("valid has no row with an observed label, so it cannot choose an epoch")
    if blind:
        logger.warning("valid has no row of %s: its loss leaves it out", ", ".join(blind))
    if stop is None:
        own = term_statistics(valid, terms=own_terms(valid.schema))
        unseen = [name for name, each in own.items() if not each.weight > 0 and name not in blind]
        if unseen:
            logger.warning(
                "valid has no row of %s: that head has no say in which epoch is kept",
                ", ".join(unseen),
            )
        return
    where = next(each for each in populations(valid.schema) if each.name == stop.score)
    label = term_labels(valid, where)
    seen = ~np.isnan(label)
    watched = metric(where.kind, stop.metric)
    key = None
    if watched.key is not None:
        groups = label_groups(valid, fitted).get(where.task)
        group = None if groups is None else pl.Series(groups.codes)
        key = {"user": valid.user, "request": valid.request, "group": group}[watched.key]
        if key is None:
            raise ConfigError(
                f"stop watches {stop.metric!r}, and valid has no {watched.key} key: "
                f"declare {watched.key} in [keys], or watch another metric"
            )
        key = key.filter(seen)
    weight = None if valid.weight is None else valid.weight[seen]
    try:
        watched(label[seen], np.linspace(0.25, 0.75, int(seen.sum())), weight, key=key)
    except Undefined as reason:
        counts = f"{int(seen.sum()):,} rows"
        if where.label_kind.is_event:
            counts += f" and {int((label == 1).sum()):,} positives"
        raise ConfigError(
            f"stop watches {stop.metric!r} of {stop.score!r}, and valid has {counts} for it "
            f"({reason}): enlarge valid, or watch another score"
        ) from None


def check_ranks(model: Model, training: Training, begun: Start | None = None) -> None:
    """Refuse what several processes cannot train together."""
    if begun is not None:
        raise ConfigError("start is of a single process: train in one process, or leave it out")
    if training.compile:
        raise ConfigError(
            "compile = true makes one graph of a whole step, in which several processes cannot "
            "exchange gradients: leave it out, or train in one process"
        )
    for what, each in [
        ("the row optimiser", training.embeddings),
        *(("the first stage", stage) for stage in model.first_stages),
    ]:
        if not each.by_ranks:
            raise ConfigError(
                f"{what} {type(each).__name__} is of a single process: choose another, or train in "
                "one process"
            )


@contextmanager
def isolated(seed: int, training: Training) -> Generator[None]:
    """Seed torch and set its threads, type and gradients inside; leave all as they were."""
    threads, device = torch.get_num_threads(), torch.device(training.device)
    others, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
    dtype = torch.get_default_dtype()
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
