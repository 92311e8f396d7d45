"""A study of Optuna in a folder: which settings are tried next, shared by processes that may die.

OUT/
  study.jsonl   Optuna's journal, one line an event
  running/N     locked by the process that trains trial N

Whoever is killed holds no lock, so its trial is found and tried again. What is proposed depends on
the seed and on the trials that are finished, never on a generator that a killed process takes away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from polyrank.files import is_locked, locked
from polyrank.tune.space import Searched
from polyrank.tune.spec import Choices
from polyrank.tune.tuned import Trial

JOURNAL = "study.jsonl"
RUNNING = "running"
NAME = "tune"
STARTUP_TRIALS = 8  # at random, before what is known guides
DIGITS = 3  # of a number that is tried
LEAST_OTHERS = 4  # finished trials before one is pruned by their median
LEAST_EPOCHS = 2  # of every trial
AGAIN, SECONDS, REASON = "again", "seconds", "reason"
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Running:
    """A trial that this process trains; `end` must be called, however it ends."""

    study: Study
    number: int
    changes: Mapping[str, Any]
    _trial: optuna.Trial
    _held: ExitStack
    _values: list[float] = field(default_factory=list)

    def report(self, epoch: int, value: float) -> bool:
        """Tell the objective after an epoch; return whether to end the trial here."""
        self._values.append(value)
        self._trial.report(value, epoch)
        return self.study.prune and self._trial.should_prune()

    def end(
        self, state: Literal["complete", "pruned", "failed"], seconds: float, reason: str = ""
    ) -> None:
        """Record how it ended."""
        self._trial.set_user_attr(SECONDS, seconds)
        if reason:
            self._trial.set_user_attr(REASON, reason)
        study = self.study.optuna
        if state == "complete":
            study.tell(self._trial, self.study.best_of(self._values))
        else:
            study.tell(self._trial, state=TrialState.PRUNED)
        self._held.close()

    def abandon(self) -> None:
        """Let go of it, as a killed process does: it is tried again."""
        self._held.close()


class Study:
    """The trials of a folder, which exists.

    Args:
        folder: of the journal.
        space: where to look.
        higher: whether a higher value is better.
        seed: of what is proposed.
        prune: whether a trial may end before its last epoch.
    """

    def __init__(
        self, folder: Path, space: Sequence[Searched], *, higher: bool, seed: int, prune: bool
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.space, self.seed, self.prune = folder, tuple(space), seed, prune
        self.best_of = max if higher else min
        self._running = folder / RUNNING
        self._running.mkdir(exist_ok=True)
        journal = str(folder / JOURNAL)
        storage = JournalStorage(JournalFileBackend(journal, lock_obj=_Lock(folder / JOURNAL)))
        with locked(self.folder):
            self.optuna = optuna.create_study(
                storage=storage, study_name=NAME, load_if_exists=True,
                direction="maximize" if higher else "minimize",
                pruner=optuna.pruners.MedianPruner(LEAST_OTHERS, LEAST_EPOCHS),
            )  # fmt: skip
            if not self.optuna.get_trials(deepcopy=False):
                own = [each for each in self.space if each.has_own]
                self.optuna.enqueue_trial({each.key: stored(each, each.own) for each in own})

    def begin(self, trials: int) -> Running | None:
        """Return the next trial, or None where so many are finished or in work."""
        with locked(self.folder):
            self._take_back()
            found = self.optuna.get_trials(deepcopy=False)
            in_work = [*_COUNTED, TrialState.RUNNING]
            count = sum(each.state in in_work for each in found)
            if count >= trials:
                return None
            words = np.random.SeedSequence([self.seed, count]).generate_state(1)
            self.optuna.sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP_TRIALS, seed=int(words[0])
            )
            trial = self.optuna.ask({each.key: distribution(each) for each in self.space})
            held = ExitStack()
            held.enter_context(locked(self._running / str(trial.number)))
        return Running(self, trial.number, self._changes(trial.params), trial, held)

    def wait(self) -> bool:
        """Wait until a trial of another process ends, or it dies; return whether there was one."""
        for each in self.optuna.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            with locked(self._running / str(each.number)):
                return True
        return False

    def finished(self) -> tuple[Trial, ...]:
        """Return the finished trials, in order."""
        found = self.optuna.get_trials(deepcopy=False, states=_COUNTED)
        return tuple(self._finished(each) for each in found)

    def finished_as(self, number: int) -> Trial:
        """Return a finished trial."""
        return next(each for each in self.finished() if each.number == number)

    def importance(self) -> dict[str, float]:
        """Return the share of each key in what tells good settings from others.

        PED-ANOVA of complete trials; empty where these are too few or all alike.

        Reference:
            Watanabe et al., IJCAI 2023.
        """
        values = [each.value for each in self.finished() if each.state == "complete"]
        if len(values) < STARTUP_TRIALS or len(set(values)) < 2:
            return {}
        return dict(optuna.importance.get_param_importances(self.optuna))

    def _take_back(self) -> None:
        """Try again what a dead process left."""
        for each in self.optuna.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if not is_locked(self._running / str(each.number)):
                # In this order a kill in between tries it twice, and never not at all.
                self.optuna.enqueue_trial(each.params, user_attrs={AGAIN: each.number})
                self.optuna.tell(each.number, state=TrialState.FAIL)

    def _changes(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {each.key: given(each, params[each.key]) for each in self.space}

    def _finished(self, trial: FrozenTrial) -> Trial:
        values = tuple(value for _, value in sorted(trial.intermediate_values.items()))
        reason = trial.user_attrs.get(REASON, "")
        complete = trial.state == TrialState.COMPLETE
        return Trial(
            number=trial.number,
            changes=self._changes(trial.params),
            value=None if reason or not values else self.best_of(values),
            state="failed" if reason else "complete" if complete else "pruned",
            epochs=values,
            seconds=trial.user_attrs.get(SECONDS, 0.0),
            reason=reason,
        )


def stored(searched: Searched, value: Any) -> Any:
    """Return a value as Optuna holds it: a choice by its place, for it may be a table."""
    where = searched.where
    return where.values.index(value) if isinstance(where, Choices) else value


def given(searched: Searched, held: Any) -> Any:
    """Return the value of the file for what Optuna holds: a number has few digits, but its own."""
    where = searched.where
    if isinstance(where, Choices):
        return where.values[held]
    if where.whole or held == searched.own:
        return held
    return min(max(float(f"{held:.{DIGITS}g}"), float(where.low)), float(where.high))


def distribution(searched: Searched) -> BaseDistribution:
    """Return what Optuna draws a key from."""
    where = searched.where
    if isinstance(where, Choices):
        return CategoricalDistribution(tuple(range(len(where.values))))
    if where.whole:
        return IntDistribution(int(where.low), int(where.high), log=where.log)
    return FloatDistribution(float(where.low), float(where.high), log=where.log)


class _Lock(JournalFileOpenLock):
    """The system's lock, which a killed process does not keep; it takes away a torn last line."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._held: ExitStack | None = None

    def acquire(self) -> bool:
        held = ExitStack()
        held.enter_context(locked(self._journal.with_name(f".{self._journal.name}.lock")))
        whole(self._journal)
        self._held = held
        return True

    def release(self) -> None:
        assert self._held is not None
        self._held.close()


def whole(path: Path) -> None:
    """Cut off the end of a file that a killed writer left without the end of its line."""
    with path.open("rb+") as file:
        text = file.read()
        kept = text.rfind(b"\n") + 1
        if kept < len(text):
            file.truncate(kept)
