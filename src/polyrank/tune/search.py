"""The search: trials on validation rows, finalists with several seeds, and the test rows once.

OUT/
  config.toml            the experiment as it is, with every default and the space that is searched
  study.jsonl, running/  see `polyrank.tune.study`
  finalists/NAME/seed-N  whole run folders of the file as it is and of the best trials
  winner.toml            the experiment that won
  tune.json              what was found

Until all finalists are trained no test row is read: trials and finalists are given sources without
one. Then the winner and the file as it is are scored on them, once.
"""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import TYPE_CHECKING, Any

import polars as pl
import tomli_w

from polyrank.data import cache
from polyrank.data.labels import closed
from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, PolyrankError, TrainingError, did_you_mean
from polyrank.files import is_locked, locked, replacing, replacing_folder, writing
from polyrank.metrics.registry import direction
from polyrank.models.model import Model
from polyrank.objective.losses import Supervision
from polyrank.schema import Schema
from polyrank.terms import NORMALIZED, populations
from polyrank.train.fit import check_run, check_valid, isolated
from polyrank.train.heads import start
from polyrank.train.loop import Trainer
from polyrank.train.progress import Progress
from polyrank.train.run import CONFIG, differs
from polyrank.train.seeds import SeedRuns
from polyrank.train.sources import Sources, encoded
from polyrank.train.training import MOST_EPOCHS, Stop, Training
from polyrank.tune.space import Searched
from polyrank.tune.spec import Tune, path_of
from polyrank.tune.tuned import AS_GIVEN, Finalist, Trial, Tuned

if TYPE_CHECKING:
    from polyrank.tune.study import Running, Study

logger = logging.getLogger(__name__)

RECORD, WINNER, FINALISTS = "tune.json", "winner.toml", "finalists"
EXTRA = "polyrank tune needs optuna: pip install 'polyrank[tune]'"
# What a longer search may change of a study that is there.
GROWS = ("trials", "finalists", "seeds")


@dataclass(frozen=True)
class Objective:
    """What settings are judged by, on validation rows, in the epoch where it is best.

    Args:
        score: a scorecard row's name; None judges by the normalized validation loss.
        metric: of it.
        higher: whether a higher value is better.
    """

    score: str | None
    metric: str | None
    higher: bool

    @classmethod
    def of(cls, tune: Tune, training: Training, schema: Schema) -> Objective:
        """Return what `[tune]` names, else what `stop` watches, else the normalized loss."""
        score, metric = tune.score, tune.metric
        if score is None and training.stop is not None:
            score, metric = training.stop.score, training.stop.metric
        if score is None:
            return cls(None, None, higher=False)
        kinds = {each.name: each for each in populations(schema)}
        if score not in kinds:
            raise ConfigError(f"tune: unknown score {score!r}{did_you_mean(score, kinds)}")
        metric = metric or kinds[score].label_kind.default_metric
        return cls(score, metric, direction(kinds[score].kind, metric))

    def check(self, space: tuple[Searched, ...]) -> None:
        """Refuse a key that moves the objective itself, as weights do that of all tasks."""
        for each in space if self.score is None else ():
            path = path_of(each.key)
            if path[0] == "task" and path[2] == "weight":
                raise ConfigError(
                    f"tune.space: {each.key} changes what settings are judged by, a sum of losses "
                    'by these weights: name a score, such as tune.score="click @ all"'
                )

    @property
    def name(self) -> str:
        """As a line of the history has it, after "valid "."""
        return NORMALIZED if self.score is None else f"{self.score} {self.metric}"

    def watched(self, training: Training) -> Training:
        """Return the training that keeps the epoch where this is best, and measures it."""
        if self.score is None or self.metric is None:
            return training
        stop = training.stop
        if stop is not None and (stop.score, stop.metric) == (self.score, self.metric):
            return training
        epochs = training.epochs if isinstance(training.epochs, int) else MOST_EPOCHS
        return replace(training, stop=Stop(score=self.score, metric=self.metric, patience=epochs))

    def of_epoch(self, progress: Progress) -> float:
        """Return the value after an epoch."""
        return self.of_record({f"valid {name}": each for name, each in progress.valid.items()})

    def of_record(self, record: Mapping[str, Any]) -> float:
        """Return the value of a line of a run's history."""
        found = record.get(f"valid {self.name}")
        if found is None and self.score is None:
            found = record["valid total loss"]  # no head has a loss of its own
        if found is None:
            raise TrainingError(f"tune: the validation rows have no {self.name}")
        return float(found)

    def best(self, values: list[float]) -> float:
        """Return the best of some values."""
        return max(values) if self.higher else min(values)


@dataclass(frozen=True)
class Candidate:
    """An experiment with some changes, as a trial needs it; without test rows."""

    schema: Schema
    model: Model
    training: Training
    sources: Sources
    seed: int


@dataclass(frozen=True)
class Work:
    """What the search asks of an experiment; `changes` are {key of the file: value}.

    Args:
        candidate: of changes.
        toml: of changes, with every default.
        fit: with several seeds and without test rows, of changes, into a folder.
        score: those runs on the test rows; None where there are none.
    """

    candidate: Callable[[Mapping[str, Any]], Candidate]
    toml: Callable[[Mapping[str, Any]], str]
    fit: Callable[[Mapping[str, Any], Path], SeedRuns]
    score: Callable[[SeedRuns], SeedRuns] | None


Told = Callable[[Trial], None]


def need_extra() -> None:
    """Refuse to search where Optuna is not installed."""
    if find_spec("optuna") is None:
        raise PolyrankError(EXTRA)


def search(
    tune: Tune, space: tuple[Searched, ...], objective: Objective, work: Work, *,
    out: Path, seed: int, config: Mapping[str, Any], resume: bool = False, force: bool = False,
    told: Told | None = None,
) -> Tuned:  # fmt: skip
    """Search, choose and score; see `Experiment.tune`."""
    need_extra()
    from polyrank.tune.study import Study

    objective.check(space)
    check_trial(work.candidate({}), objective)
    opened(out, config, resume=resume, force=force)
    study = Study(out, space, higher=objective.higher, seed=seed, prune=tune.prune)
    tables = Encoded(out.parent)
    while True:
        while (running := study.begin(tune.trials)) is not None:
            try:
                _try(running, work, objective, tables)
            except BaseException:
                running.abandon()
                raise
            if told is not None:
                told(study.finished_as(running.number))
        if not study.wait():  # what another process was at may come back
            break
    with writing(out, TrainingError), locked(out / f".{RECORD}.lock"):
        found = _chosen(tune, space, objective, work, study, out)
        text = json.dumps(found.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
        with replacing(out / WINNER) as temporary:
            temporary.write_text(work.toml(found.winner.changes), encoding="utf-8")
        with replacing(out / RECORD) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
    return found


def check_trial(candidate: Candidate, objective: Objective) -> None:
    """Refuse an experiment that no search can judge, before a row is read."""
    if candidate.sources.valid is None:
        raise ConfigError("tune judges settings on validation rows: [data] valid is missing")
    training = objective.watched(candidate.training)
    check_run(candidate.schema, candidate.model, training, candidate.sources, candidate.seed)


def opened(out: Path, config: Mapping[str, Any], *, resume: bool, force: bool) -> None:
    """Create the folder of a search, or refuse the one that is there."""
    if resume and force:
        raise ConfigError("resume continues a search and force replaces it: give one of them")
    text = tomli_w.dumps(dict(config))
    with writing(out, TrainingError):
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.parent / f".{out.name}.lock"):
            if not out.exists():
                with replacing_folder(out) as temporary:
                    (temporary / CONFIG).write_text(text, encoding="utf-8")
                return
            _check_folder(out, resume=resume, force=force)
            if resume:
                _check_same(out, tomllib.loads(text))
                with replacing(out / CONFIG) as temporary:
                    temporary.write_text(text, encoding="utf-8")
                return
            with replacing_folder(out) as temporary:
                (temporary / CONFIG).write_text(text, encoding="utf-8")


def _check_folder(out: Path, *, resume: bool, force: bool) -> None:
    from polyrank.tune.study import JOURNAL, RUNNING

    begun = (out / CONFIG).is_file() and not (out / "bundle").exists()
    if not begun or not ((out / JOURNAL).is_file() or resume):
        raise ConfigError(f"{out} holds no search: choose another --out")
    if not resume and not force:
        raise ConfigError(
            f"{out} exists: go on with its search (or join the processes at work on it) with "
            "--resume, replace it with --force, or choose another --out"
        )
    if force and any(is_locked(each) for each in (out / RUNNING).glob("*")):
        raise ConfigError(
            f"another process is searching in {out}: wait for it, or choose another --out"
        )


def _check_same(out: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with the search of another experiment, but for a longer one."""
    try:
        found = tomllib.loads((out / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{out} holds no search that can be resumed: {error}") from error
    before, now = (
        {**each, "tune": {k: v for k, v in each.get("tune", {}).items() if k not in GROWS}}
        for each in (found, config)
    )
    difference = differs(before, now)
    if difference:
        raise ConfigError(
            f"{out} holds a search of another configuration ({difference}): --resume needs the "
            f"same one, but for {', '.join(f'tune.{each}' for each in GROWS)}; use --force or "
            "another --out"
        )


class Encoded:
    """Tables of this process's trials: encoded once for all that encode alike.

    On disk they are in the cache that `train` uses too.
    """

    KEPT = 2

    def __init__(self, beside: Path) -> None:
        self.beside = beside
        self._found: dict[str, tuple[Vocab, dict[str, Table]]] = {}

    def of(self, candidate: Candidate) -> tuple[Vocab, dict[str, Table]]:
        """Return the vocabulary and the tables, with this candidate's schema."""
        sources = replace(candidate.sources, numbers=candidate.model.numbers)
        key = cache.key_of(candidate.schema, [sources.numbers])
        if key not in self._found:
            while len(self._found) >= self.KEPT:
                del self._found[next(iter(self._found))]
            self._found[key] = encoded(candidate.schema, sources, beside=self.beside)
        vocab, tables = self._found[key]
        return vocab, {
            split: replace(each, schema=candidate.schema) for split, each in tables.items()
        }


def _try(running: Running, work: Work, objective: Objective, tables: Encoded) -> None:
    """Train a trial to its end, or until it is pruned or fails."""
    started = perf_counter()
    try:
        candidate = work.candidate(running.changes)
        check_trial(candidate, objective)
        candidate = replace(candidate, schema=closed(candidate.schema, candidate.sources.train))
        for progress in epochs(candidate, objective, tables):
            if running.report(progress.epoch, objective.of_epoch(progress)):
                running.end("pruned", perf_counter() - started)
                return
    except (ConfigError, TrainingError) as error:
        if not running.number:  # the file's own settings: the others would fail as well
            raise
        logger.warning("trial %d failed: %s", running.number, error)
        running.end("failed", perf_counter() - started, str(error))
        return
    running.end("complete", perf_counter() - started)


def epochs(candidate: Candidate, objective: Objective, tables: Encoded) -> Iterator[Progress]:
    """Train a candidate as `fit` does, and yield what each epoch gives on validation rows."""
    vocab, found = tables.of(candidate)
    train, valid = found["train"], found["valid"]
    training = objective.watched(candidate.training)
    sampling = candidate.sources.train_sampling
    supervision = Supervision.of(train, sampling)
    check_valid(training.stop, valid, supervision.fitted)
    with isolated(candidate.seed, training):
        layout = candidate.model.layout(candidate.schema, vocab)
        ranker = candidate.model.build(layout).to(training.device)
        start(ranker, train, training.device, sampling)
        trainer = Trainer(
            ranker, training, supervision, train=train, valid=valid, seed=candidate.seed
        )
        for progress in trainer.run():
            if progress.event == "epoch":
                yield progress


def _chosen(
    tune: Tune, space: tuple[Searched, ...], objective: Objective, work: Work, study: Study,
    out: Path,
) -> Tuned:  # fmt: skip
    """Train the finalists with all seeds, choose by their means, and read the test rows."""
    trials = study.finished()
    finalists = [
        _finalist(name, changes, objective, work, out)
        for name, changes in _of(trials, tune.finalists, space, objective).items()
    ]
    order = sorted(finalists, key=lambda each: mean(each.values.values()), reverse=objective.higher)
    # Python's sort is stable: of equals the file as it is, which is the first, stays in front.
    winner = order[0]
    scored = {}
    if work.score is not None:
        for each in dict.fromkeys((AS_GIVEN, winner.name)):
            own = next(one for one in finalists if one.name == each)
            scores = work.score(own.runs).scores
            if scores is not None:
                scored[each] = scores
    return Tuned(
        folder=out, objective=objective.name, higher=objective.higher, space=space, trials=trials,
        importance=study.importance(), finalists=tuple(finalists), winner=winner, scores=scored,
    )  # fmt: skip


def _of(
    trials: tuple[Trial, ...], count: int, space: tuple[Searched, ...], objective: Objective
) -> dict[str, Mapping[str, Any]]:
    """Return the file as it is, and the best complete trials that differ from it."""
    found: dict[str, Mapping[str, Any]] = {AS_GIVEN: {}}
    own = {each.key: each.own for each in space}
    seen: list[Mapping[str, Any]] = [own]
    complete = [each for each in trials if each.state == "complete"]
    sign = -1 if objective.higher else 1
    for trial in sorted(complete, key=lambda each: sign * (each.value or 0.0)):
        if len(found) <= count and trial.changes not in seen:
            seen.append(trial.changes)
            changes = {key: each for key, each in trial.changes.items() if each != own[key]}
            found[f"trial-{trial.number}"] = changes
    return found


def _finalist(
    name: str, changes: Mapping[str, Any], objective: Objective, work: Work, out: Path
) -> Finalist:
    runs = work.fit(changes, out / FINALISTS / name)
    values = {}
    for seed, run in runs.runs.items():
        history = pl.read_parquet(run / "bundle" / "history.parquet")
        values[seed] = objective.best(
            [objective.of_record(each) for each in history.iter_rows(named=True)]
        )
    return Finalist(name, changes, runs, values)
