"""What a search found: its trials, its finalists with several seeds, and test scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from polyrank.metrics.comparison import student_t
from polyrank.metrics.seeds import SeedScores
from polyrank.metrics.undefined import Undefined
from polyrank.text import aligned, counted
from polyrank.train.seeds import SeedRuns
from polyrank.tune.space import Searched, label

FORMAT = 1
AS_GIVEN = "as-given"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A finished trial.

    Args:
        number: in the study.
        changes: {key of the file: value}.
        value: of the objective on validation rows, that of its best epoch; None where it failed.
        state: "complete", "pruned" before its last epoch, or "failed".
        epochs: the objective after each epoch.
        seconds: of its training.
        reason: why it failed.
    """

    number: int
    changes: Mapping[str, Any]
    value: float | None
    state: Literal["complete", "pruned", "failed"]
    epochs: tuple[float, ...]
    seconds: float
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {**vars(self), "changes": dict(self.changes), "epochs": list(self.epochs)}

    def __str__(self) -> str:
        value = self.reason if self.value is None else f"{self.value:.4f}"
        ended = f" · pruned after epoch {len(self.epochs)}" if self.state == "pruned" else ""
        return f"trial {self.number}: {value}{ended}"


@dataclass(frozen=True)
class Finalist:
    """Settings that were trained with several seeds.

    Args:
        name: "as-given", or that of the trial.
        changes: {key of the file: value}, where it differs from the file.
        runs: a run folder a seed.
        values: of the objective on validation rows, by seed.
    """

    name: str
    changes: Mapping[str, Any]
    runs: SeedRuns
    values: Mapping[int, float]


@dataclass(frozen=True)
class Difference:
    """Of two means over the same seeds, with the half of its 95 % interval (Student's t)."""

    value: float
    half: float  # infinite of a single pair

    @classmethod
    def of(cls, one: Mapping[int, float], other: Mapping[int, float]) -> Difference:
        """Return other − one, seed by seed.

        Examples:
            >>> found = Difference.of({0: 0.5, 1: 0.75}, {0: 0.75, 1: 1.0})
            >>> found.value, found.half
            (0.25, 0.0)
        """
        each = [other[seed] - value for seed, value in one.items() if seed in other]
        if len(each) < 2:
            return cls(mean(each), inf)
        return cls(mean(each), student_t(len(each) - 1) * stdev(each) / len(each) ** 0.5)

    @property
    def excludes_zero(self) -> bool:
        """Whether no difference lies outside the interval."""
        return abs(self.value) > self.half

    def __str__(self) -> str:
        star = " *" if self.excludes_zero else ""
        return f"{self.value:+.4f} ± {self.half:.4f}{star}"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A finished search; prints the finalists and what the test rows say.

    Args:
        folder: which holds it.
        objective: by which settings were judged on validation rows, such as `buy @ all auc`.
        higher: whether a higher value of it is better.
        space: where was looked.
        trials: in order.
        importance: share of each key in what tells good settings from others.
        finalists: of which the file as it is is the first.
        winner: the finalist with the best mean.
        scores: of test rows, of the file as it is and of the winner; empty where there are none.
    """

    folder: Path
    objective: str
    higher: bool
    space: tuple[Searched, ...]
    trials: tuple[Trial, ...]
    importance: Mapping[str, float]
    finalists: tuple[Finalist, ...]
    winner: Finalist
    scores: Mapping[str, SeedScores]

    @property
    def toml(self) -> Path:
        """The winning experiment, which `polyrank train` takes."""
        return self.folder / "winner.toml"

    @property
    def tests(self) -> tuple[tuple[str, str, Difference], ...]:
        """Score, metric, and the winner's mean less the file's on test rows; none if it won."""
        if self.winner.name not in self.scores or self.winner.name == AS_GIVEN:
            return ()
        before, after = self.scores[AS_GIVEN], self.scores[self.winner.name]
        found = []
        for score in next(iter(before.cards.values())):
            for metric in score.metrics:
                try:
                    pair = [each.value(score.name, metric).values for each in (before, after)]
                except Undefined:
                    continue
                found.append((score.name, metric, Difference.of(*pair)))
        return tuple(found)

    def against(self, finalist: Finalist) -> Difference | None:
        """Return a finalist's mean less that of the file as it is; None of the file itself."""
        first = self.finalists[0]
        return None if finalist is first else Difference.of(first.values, finalist.values)

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {
            "format": FORMAT,
            "folder": str(self.folder),
            "objective": {"name": self.objective, "higher_is_better": self.higher},
            "space": {each.key: each.where.to_table() for each in self.space},
            "trials": [each.to_json() for each in self.trials],
            "importance": dict(self.importance),
            "finalists": [
                {
                    "name": each.name,
                    "changes": dict(each.changes),
                    "runs": [str(run) for run in each.runs.runs.values()],
                    "values": list(each.values.values()),
                    "mean": mean(each.values.values()),
                }
                for each in self.finalists
            ],
            "winner": self.winner.name,
            "toml": str(self.toml),
            "test": {name: each.to_json()["scores"] for name, each in self.scores.items()},
            "differences": [
                {"score": score, "metric": metric, "value": each.value, "half": each.half}
                for score, metric, each in self.tests
            ],
        }

    def __str__(self) -> str:
        states = [each.state for each in self.trials]
        ended = [
            f"{states.count(state)} {state}"
            for state in ("complete", "pruned", "failed")
            if state in states
        ]
        better = "higher" if self.higher else "lower"
        parts = [
            f"{counted(len(self.trials), 'trial')} ({', '.join(ended)}), judged by "
            f"{self.objective} on validation rows; {better} is better",
            self._finalists(),
            f"winner: {self.winner.name}{self._changes(self.winner)}",
        ]
        if not self.scores:
            parts.append("there are no test rows: nothing says how much of this is luck")
        elif self.winner.name == AS_GIVEN:
            parts.append(f"the file as it is holds\n{self.scores[AS_GIVEN]}")
        else:
            parts.append(self._tests())
        return "\n\n".join(parts)

    def _finalists(self) -> str:
        lines = []
        for each in self.finalists:
            found = self.against(each)
            values = list(each.values.values())
            shown = f"{mean(values):.4f} ± {stdev(values):.4f}"
            lines.append([each.name, shown, "" if found is None else str(found)])
        seeds = ", ".join(map(str, self.finalists[0].values))
        header = ["finalist", f"mean ± sd of seeds {seeds}", "less the file as it is"]
        return aligned(header, lines)

    def _changes(self, finalist: Finalist) -> str:
        return "".join(f"\n  {key} = {label(each)}" for key, each in finalist.changes.items())

    def _tests(self) -> str:
        both = self.scores[AS_GIVEN], self.scores[self.winner.name]
        lines = [
            [score, metric, *(f"{each.value(score, metric).mean:.4f}" for each in both), str(found)]
            for score, metric, found in self.tests
        ]
        header = ["test rows", "metric", AS_GIVEN, self.winner.name, "difference"]
        return (
            f"{aligned(header, lines)}\n* the 95 % interval over seeds excludes 0; "
            "`polyrank compare` has that over rows as well"
        )
