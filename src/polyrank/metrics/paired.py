"""Differences between runs that scored the same rows, with what chance alone could make of them.

Two things vary: the test rows, which a bootstrap draws anew, the same for every run; and the seed,
which runs of one name differ in. Either has an interval of its own.

Letters: N rows, R replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

import numpy as np
import polars as pl

from polyrank.errors import ConfigError
from polyrank.metrics.bootstrap import bootstrap
from polyrank.metrics.intervals import Z, too_few, too_few_mixed
from polyrank.metrics.registry import metric
from polyrank.metrics.undefined import Undefined

# Few, for every further one is a further chance of a difference that is none. They have directions.
COMPARED: Mapping[str, tuple[str, ...]] = {
    "binary": ("auc", "gauc", "pr_auc", "ne"),
    "regression": ("rmse",),
}
REPLICATES = 200


@dataclass(frozen=True)
class Spread:
    """A 95 % interval of a difference, and where its width comes from.

    Args:
        low: lower end.
        high: upper end.
        source: "rows", of a bootstrap; "paired seeds" or "seeds", of Student's t.
    """

    low: float
    high: float
    source: Literal["rows", "paired seeds", "seeds"]

    @property
    def excludes_zero(self) -> bool:
        """Whether no difference lies outside it."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class Sample:
    """What one run predicted.

    Args:
        name: of the run; runs of one name differ in their seed.
        seed: of the run.
        prediction: of the rows that are compared.

    Shape:
        prediction (N,)
    """

    name: str
    seed: int
    prediction: np.ndarray


@dataclass(frozen=True)
class Group:
    """One metric of the runs of one name.

    Args:
        score: whose.
        metric: its name.
        name: of the runs.
        values: by seed.
    """

    score: str
    metric: str
    name: str
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.values.values())

    @property
    def sd(self) -> float | None:
        """Over the seeds; None of a single one."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A group's mean less the baseline's.

    Args:
        score: whose.
        metric: its name.
        baseline: what is subtracted.
        name: what it is subtracted from.
        value: the difference.
        rows: over the sampling of the test rows; None where these are too few.
        seeds: over retraining; None without two seeds on either side.
        reason: why `rows` is None.
    """

    score: str
    metric: str
    baseline: str
    name: str
    value: float
    rows: Spread | None
    seeds: Spread | None
    reason: str | None = None

    @property
    def significant(self) -> bool:
        """Whether neither interval holds 0; never without one over rows.

        Seeds that agree on a few rows say nothing of others.
        """
        if self.rows is None or not self.rows.excludes_zero:
            return False
        return self.seeds is None or self.seeds.excludes_zero


def paired(
    score: str,
    kind: str,
    label: np.ndarray,
    samples: Sequence[Sample],
    *,
    user: pl.Series | None = None,
    weight: np.ndarray | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[list[Group], list[Difference], dict[str, str]]:
    """Compare runs on the rows of one score; the name of the first is the baseline.

    The interval over rows is ± 1.96 standard deviations of the replicates' differences: every
    run's replicates are of the same draws, so what the rows have in common cancels. That over
    seeds is Student's t of the differences seed by seed where both have the same seeds, else
    Welch's.

    Args:
        score: its name, for the answer.
        kind: of its label.
        label: nothing is missing.
        samples: one a run.
        user: keys; users are drawn whole, and grouped AUC is compared.
        weight: sample weights.
        replicates: how many times the rows are drawn.
        seed: of the draws.

    Returns:
        The groups, the differences, and the metrics that cannot be compared with the reason.

    Raises:
        ConfigError: two runs of one name and one seed.

    Shape:
        label, user, weight (N,)

    Example:
        >>> random = np.random.default_rng(0)
        >>> p = random.random(2_000)
        >>> label = (random.random(2_000) < p).astype(float)
        >>> runs = [Sample("noisy", 0, (p + random.random(2_000)) / 2), Sample("true", 0, p)]
        >>> _, differences, _ = paired("click @ all", "binary", label, runs)
        >>> differences[0].metric, differences[0].value > 0, differences[0].significant
        ('auc', True, True)

    Reference:
        Welch, Biometrika 1947: degrees of freedom of means with unequal variances.
    """
    by_name = _by_name(samples)
    groups: list[Group] = []
    absent: dict[str, str] = {}
    for name in COMPARED[kind]:
        try:
            found = _groups(score, kind, name, label, by_name, user, weight)
        except Undefined as reason:
            absent[name] = str(reason)
        else:
            groups += found
    measured = [name for name in COMPARED[kind] if name not in absent]
    reasons = _reasons(kind, measured, label, samples, user, weight)
    drawn = [name for name in measured if reasons[name] is None]
    replicated: dict[str, dict[str, np.ndarray]] = {}
    for name, runs in by_name.items() if drawn and len(by_name) > 1 else ():
        samples_of = [
            bootstrap(label, each.prediction, user, weight, drawn, replicates=replicates, seed=seed)
            for each in runs
        ]
        replicated[name] = {
            metric: np.mean([each[metric] for each in samples_of], axis=0) for metric in drawn
        }
    baseline = next(iter(by_name))
    by_group = {(each.metric, each.name): each for each in groups}
    differences = []
    for other in list(by_name)[1:]:
        for name in measured:
            base, group = by_group[name, baseline], by_group[name, other]
            value = group.mean - base.mean
            rows, reason = None, reasons[name]
            if reason is None:
                rows, reason = _over_rows(
                    value, replicated[other][name] - replicated[baseline][name]
                )
            differences.append(
                Difference(
                    score, name, baseline, other, value, rows, over_seeds(base, group), reason
                )
            )
    return groups, differences, absent


def over_seeds(baseline: Group, other: Group) -> Spread | None:
    """Return the interval of the difference of means over retraining, or None of single runs."""
    one, two = baseline.values, other.values
    if len(one) < 2 or len(two) < 2:
        return None
    value = other.mean - baseline.mean
    if one.keys() == two.keys():
        differences = [two[seed] - one[seed] for seed in one]
        freedom = len(differences) - 1.0
        error = stdev(differences) / len(differences) ** 0.5
        source: Literal["paired seeds", "seeds"] = "paired seeds"
    else:
        parts = [stdev(each.values()) ** 2 / len(each) for each in (one, two)]
        error, source = sum(parts) ** 0.5, "seeds"
        squares = [part**2 / (len(e) - 1) for part, e in zip(parts, (one, two), strict=True)]
        freedom = sum(parts) ** 2 / sum(squares) if error > 0 else 1.0
    reach = student_t(freedom) * error
    return Spread(value - reach, value + reach, source)


def student_t(freedom: float) -> float:
    """Return t such that Student's distribution lies within ±t with 95 %.

    With t = √ν·tan θ the density is proportional to cos θ to the power ν − 1, on a finite range.

    Args:
        freedom: ν, at least 1; need not be whole.

    Example:
        >>> [round(student_t(freedom), 3) for freedom in (1, 4, 30)]
        [12.706, 2.776, 2.042]
    """
    angle = np.linspace(0.0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.sqrt(freedom) * np.tan(np.interp(0.95, below / below[-1], angle)))


def _by_name(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for each in samples:
        runs = found.setdefault(each.name, [])
        if any(run.seed == each.seed for run in runs):
            raise ConfigError(f"two runs have the name {each.name!r} and the seed {each.seed}")
        runs.append(each)
    return found


def _groups(
    score: str,
    kind: str,
    name: str,
    label: np.ndarray,
    by_name: Mapping[str, Sequence[Sample]],
    user: pl.Series | None,
    weight: np.ndarray | None,
) -> list[Group]:
    wanted = metric(kind, name)
    if wanted.key == "user" and user is None:
        raise Undefined("no user key")
    keys = (user,) if wanted.key == "user" else ()
    return [
        Group(
            score,
            name,
            group,
            {run.seed: wanted.function(label, run.prediction, *keys, weight) for run in runs},
        )
        for group, runs in by_name.items()
    ]


def _reasons(
    kind: str,
    metrics: Sequence[str],
    label: np.ndarray,
    samples: Sequence[Sample],
    user: pl.Series | None,
    weight: np.ndarray | None,
) -> dict[str, str | None]:
    """Return why a metric has no interval over rows; the same for every run."""
    if not metrics:
        return {}
    few = too_few(label, samples[0].prediction, user, weight, binary=kind == "binary")
    reasons = dict.fromkeys(metrics, few)
    if "gauc" in reasons and few is None and user is not None:
        reasons["gauc"] = too_few_mixed(label, user, weight)
    return reasons


def _over_rows(value: float, differences: np.ndarray) -> tuple[Spread | None, str | None]:
    lost = int(np.isnan(differences).sum())
    if lost:
        return None, f"{lost} of {len(differences)} replicates cannot be measured"
    reach = Z * float(differences.std(ddof=1))
    return Spread(value - reach, value + reach, "rows"), None
