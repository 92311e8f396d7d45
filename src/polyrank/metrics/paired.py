"""Differences between runs that scored the same rows, with what chance alone could make of them.

Two things vary: the test rows, which a bootstrap resamples alike for every run; and the seed, in
which runs of one name differ. Each has an interval of its own.

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
from polyrank.metrics.inputs import key_codes
from polyrank.metrics.intervals import Z, too_few
from polyrank.metrics.metric import Rows
from polyrank.metrics.registry import Kind, metrics_of
from polyrank.metrics.undefined import Undefined

REPLICATES = 200


@dataclass(frozen=True)
class Spread:
    """A 95 % interval of a difference, and where its width comes from."""

    low: float
    high: float
    source: Literal["rows", "paired seeds", "seeds"]  # of a bootstrap, or of Student's t

    @property
    def excludes_zero(self) -> bool:
        """Whether no difference lies outside it."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class Sample:
    """What one run predicted."""

    name: str  # runs of one name differ in their seed
    seed: int
    prediction: np.ndarray  # (N,), of the rows that are compared


@dataclass(frozen=True)
class Group:
    """One metric of the runs of one name."""

    score: str
    metric: str
    name: str  # of the runs
    values: Mapping[int, float]  # by seed

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
    """A group's mean less the baseline's."""

    score: str
    metric: str
    baseline: str  # what is subtracted
    name: str  # what it is subtracted from
    value: float
    rows: Spread | None  # over the sampling of the test rows; None where these are too few
    seeds: Spread | None  # over retraining; None without two seeds on either side
    reason: str | None = None  # why `rows` is None

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
    kind: Kind,
    label: np.ndarray,
    samples: Sequence[Sample],
    *,
    user: pl.Series | None = None,
    weight: np.ndarray | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[list[Group], list[Difference], dict[str, str]]:
    """Compare runs on the rows of one score; the name of the first is the baseline.

    The interval over rows is ± 1.96 standard deviations of the replicates' differences: all runs
    share the draws, so what the rows have in common cancels. That over seeds is Student's t of the
    differences seed by seed where both have the same seeds, else Welch's.

    Args:
        score: its name.
        kind: of its label, or its name; metrics with the role "compared" are compared.
        label: (N,), nothing is missing.
        samples: one a run; two of one name and one seed are refused.
        user: keys (N,); users are drawn whole, and grouped AUC is compared.
        weight: sample weights (N,).
        replicates: how many times the rows are drawn.
        seed: of the draws.

    Returns:
        The groups, the differences, and the metrics that cannot be compared with the reason.

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
    compared = metrics_of(kind, "compared")
    codes = {} if user is None else {"user": key_codes("user", user)}
    try:
        rows = {
            name: [Rows.of(label, run.prediction, weight, codes) for run in runs]
            for name, runs in by_name.items()
        }
    except Undefined as reason:
        return [], [], dict.fromkeys(compared, str(reason))
    groups, absent = {}, {}
    for name, each in compared.items():
        try:
            for group, runs in by_name.items():
                pairs = zip(runs, rows[group], strict=True)
                values = {run.seed: each.measure(seen) for run, seen in pairs}
                groups[name, group] = Group(score, name, group, values)
        except Undefined as reason:
            absent[name] = str(reason)
    known = {name: each for name, each in compared.items() if name not in absent}
    few, reasons = too_few(list(known.values()), label, samples[0].prediction, user, weight)
    drawn = [name for name in known if few is None and name not in reasons]
    replicated: dict[str, dict[str, np.ndarray]] = {}
    for group, runs in by_name.items() if drawn and len(by_name) > 1 else ():
        of_runs = [
            bootstrap(label, each.prediction, user, weight, drawn, replicates=replicates, seed=seed)
            for each in runs
        ]
        replicated[group] = {
            name: np.mean([each[name] for each in of_runs], axis=0) for name in drawn
        }
    baseline, *others = by_name
    differences = []
    for other in others:
        for name in known:
            base, group = groups[name, baseline], groups[name, other]
            value, spread, reason = group.mean - base.mean, None, few or reasons.get(name)
            if reason is None:
                spread, reason = _over_rows(
                    value, replicated[other][name] - replicated[baseline][name]
                )
            differences.append(
                Difference(
                    score, name, baseline, other, value, spread, over_seeds(base, group), reason
                )
            )
    kept = [each for (name, _), each in groups.items() if name in known]
    return kept, differences, absent


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
    The freedom ν is at least 1 and need not be whole.

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


def _over_rows(value: float, differences: np.ndarray) -> tuple[Spread | None, str | None]:
    lost = int(np.isnan(differences).sum())
    if lost:
        return None, f"{lost} of {len(differences)} replicates cannot be measured"
    reach = Z * float(differences.std(ddof=1))
    return Spread(value - reach, value + reach, "rows"), None
