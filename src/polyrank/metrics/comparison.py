"""Differences between runs that scored the same rows, with what chance alone could make of them.

Two things vary: the test rows, which a bootstrap resamples alike for every run; and the seed, in
which runs of one name differ. Each has an interval of its own.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
import polars as pl

from polyrank.errors import ConfigError
from polyrank.labels import LabelKind
from polyrank.metrics.bootstrap import Z, bootstrap, too_few
from polyrank.metrics.inputs import key_codes
from polyrank.metrics.metric import Rows
from polyrank.metrics.registry import Kind, direction, metrics_of
from polyrank.metrics.undefined import Undefined
from polyrank.text import aligned, counted, html_table

REPLICATES = 200
FORMAT = 1


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
    outputs: np.ndarray | None = None  # (N, outputs), of a head that has several


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
    within: np.ndarray | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[list[Group], list[Difference], dict[str, str]]:
    """Compare runs on the rows of one score; the name of the first is the baseline.

    The interval over rows is ± 1.96 standard deviations of the replicates' differences: all runs
    share the draws, so what the rows have in common cancels. That over seeds is Student's t of the
    differences seed by seed where both have the same seeds, else Welch's. Two samples of one name
    and one seed are refused.

    Returned are the groups, the differences, and the reasons of metrics that cannot be compared.

    Reference:
        Welch, Biometrika 1947: degrees of freedom of means with unequal variances.
    """
    by_name = _by_name(samples)
    compared = metrics_of(kind, "compared")
    spec = kind if isinstance(kind, LabelKind) else None
    codes = {} if user is None else {"user": key_codes("user", user)}
    codes |= {} if within is None else {"group": within}
    try:
        rows = {
            name: [Rows.of(label, run.prediction, weight, codes, run.outputs, spec) for run in runs]
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
            bootstrap(
                label,
                each.prediction,
                user,
                weight,
                drawn,
                group=within,
                outputs=each.outputs,
                kind=spec,
                replicates=replicates,
                seed=seed,
            )
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


@dataclass(frozen=True)
class Disagreement:
    """One row of a score on which two groups of runs are far apart.

    Args:
        score: whose prediction it is.
        baseline: the first group.
        name: the other one.
        row: its number among the rows that are compared, from 0.
        label: that was observed.
        before: the baseline's prediction, the mean over its seeds.
        after: the other's.
        keys: of the row.
        features: its raw values, without lists.
    """

    score: str
    baseline: str
    name: str
    row: int
    label: float
    before: float
    after: float
    keys: Mapping[str, Any]
    features: Mapping[str, Any]

    def told(self, values: Mapping[str, Any]) -> str:
        """Return keys or features in one line."""
        return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def furthest_apart(
    before: np.ndarray, after: np.ndarray, most: int, weight: np.ndarray | None = None
) -> np.ndarray:
    """Return the numbers of the rows whose predictions differ most, the largest gap first.

    Rows of weight 0 are none, nor are rows without a difference.

    Examples:
        >>> furthest_apart(np.array([0.1, 0.5, 0.2]), np.array([0.2, 0.1, 0.2]), 2).tolist()
        [1, 0]
    """
    gap = np.abs(after - before)
    if weight is not None:
        gap = np.where(weight > 0, gap, 0.0)
    order = np.argsort(-gap, kind="stable")[:most]
    return order[gap[order] > 0]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs on the same rows; prints as a table and writes JSON."""

    split: str
    rows: int
    runs: Mapping[str, Mapping[str, int]]  # paths and seeds by group, the baseline first
    kinds: Mapping[str, str]  # the name of the kind of label of each score that all runs share
    groups: tuple[Group, ...]  # by score and metric
    differences: tuple[Difference, ...]  # likewise
    absent: Mapping[str, Mapping[str, str]]  # by score and metric, why it is not compared
    notes: tuple[str, ...] = ()  # on how the runs were grouped
    disagreements: tuple[Disagreement, ...] = ()  # by score and group, where somebody asked

    @property
    def judged(self) -> tuple[Difference, ...]:
        """The differences that have an interval over rows."""
        return tuple(each for each in self.differences if each.rows is not None)

    @property
    def significant(self) -> tuple[Difference, ...]:
        """The differences that are more than chance."""
        return tuple(each for each in self.differences if each.significant)

    def verdict(self, difference: Difference) -> str:
        """Return "better" or "worse" of a significant difference, else what it is."""
        if difference.rows is None:
            return "too few rows"
        if not difference.significant:
            return "not significant"
        up = direction(self.kinds[difference.score], difference.metric)
        return "better" if (difference.value > 0) == up else "worse"

    @property
    def conclusion(self) -> str:
        """What the table says, in words."""
        if len(self.runs) < 2:
            return "all runs have one name: there is nothing to compare them with"
        if not self.judged:
            return (
                "the rows are too few for an interval, so no difference can be called significant"
            )
        count, found = len(self.judged), len(self.significant)
        chance = (
            f"{counted(count, 'comparison')} {'was' if count == 1 else 'were'} made, and where "
            f"nothing differs about 1 in 20 (here {count / 20:.2g}) looks significant by chance"
        )
        if not found:
            return f"no difference is significant at 95 %; {chance}"
        verb = "is" if found == 1 else "are"
        return f"{counted(found, 'difference')} {verb} significant at 95 %; {chance}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """How to read the intervals, and what is missing."""
        found = list(self.notes)
        if len(self.runs) > 1:
            found.append(
                "the interval over rows covers other test rows from the same source, by a "
                "bootstrap whose draws all runs share"
            )
            if any(each.seeds is not None for each in self.differences):
                found.append(
                    "the interval over seeds covers other trainings (Student's t, seed by seed "
                    "where both sides have the same seeds); significant means that both exclude 0"
                )
            if any(each.seeds is None for each in self.differences):
                found.append(
                    "where a side has one seed, nothing is known of what another training would "
                    "give: train several, with --seeds"
                )
        for score, reasons in self.absent.items():
            found += [f"{name} of {score}: {reason}" for name, reason in reasons.items()]
        few: dict[str, dict[str, None]] = {}
        for each in self.differences:
            if each.reason is not None:
                few.setdefault(each.reason, {})[each.score] = None
        found += [f"no interval over rows, {', '.join(few[reason])}: {reason}" for reason in few]
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {
            "format": FORMAT,
            "split": self.split,
            "rows": self.rows,
            "baseline": next(iter(self.runs)),
            "runs": [
                {"name": name, "run": path, "seed": seed}
                for name, group in self.runs.items()
                for path, seed in group.items()
            ],
            "groups": [
                {
                    "score": each.score, "metric": each.metric, "name": each.name,
                    "values": [
                        {"seed": seed, "value": value} for seed, value in each.values.items()
                    ],
                    "mean": each.mean, "sd": each.sd,
                }
                for each in self.groups
            ],
            "differences": [
                {
                    "score": each.score, "metric": each.metric, "name": each.name,
                    "value": each.value, "rows": each.rows and asdict(each.rows),
                    "seeds": each.seeds and asdict(each.seeds),
                    "significant": each.significant, "verdict": self.verdict(each),
                }
                for each in self.differences
            ],
            "absent": {score: dict(reasons) for score, reasons in self.absent.items() if reasons},
            "comparisons": len(self.judged),
            "significant": len(self.significant),
            "conclusion": self.conclusion,
            "remarks": list(self.remarks),
            "disagreements": [asdict(each) for each in self.disagreements],
        }  # fmt: skip

    @property
    def disagreed(self) -> dict[tuple[str, str], list[Disagreement]]:
        """The rows that are furthest apart, by score and group."""
        found: dict[tuple[str, str], list[Disagreement]] = {}
        for each in self.disagreements:
            found.setdefault((each.score, each.name), []).append(each)
        return found

    def __str__(self) -> str:
        table = aligned(*self._table, right=range(3, 7))
        remarks = (f"– {remark}" for remark in self.remarks)
        return "\n".join([self._rows, "", table, "", self.conclusion, *remarks, *self._disagreed])

    @property
    def _disagreed(self) -> list[str]:
        """The rows that are furthest apart, as lines."""
        lines = []
        for (score, name), rows in self.disagreed.items():
            baseline = rows[0].baseline
            header = ["row", "label", baseline, name, "difference", "keys", "features"]
            table = [
                [f"{each.row:,}", f"{each.label:g}", f"{each.before:.4f}", f"{each.after:.4f}",
                 f"{each.after - each.before:+z.4f}", _cut(each.told(each.keys)),
                 _cut(each.told(each.features))]
                for each in rows
            ]  # fmt: skip
            lines += ["", f"{score}: the rows on which {name} and {baseline} differ most", ""]
            lines.append(aligned(header, table, right=range(5)))
        return lines

    def _repr_html_(self) -> str:
        notes = [self.conclusion, *(f"– {remark}" for remark in self.remarks)]
        head = f"<p>{escape(self._rows)}</p>"
        return f"{head}{html_table(*self._table)}<p>{'<br>'.join(map(escape, notes))}</p>"

    @property
    def _rows(self) -> str:
        names = (f"{name} ({counted(len(runs), 'run')})" for name, runs in self.runs.items())
        return f"{self.rows:,} {self.split} rows; {'; '.join(names)}; the first is the baseline"

    @property
    def _table(self) -> tuple[list[str], list[list[str]]]:
        """The header, and a line per group of a metric of a score."""
        header = ["score", "metric", "runs", "value", "difference", "95 % over rows"]
        header += ["95 % over seeds", "verdict"]
        differences = {(each.score, each.metric, each.name): each for each in self.differences}
        lines, last = [], ("", "")
        for group in self.groups:
            place = (group.score, group.metric)
            shown = [
                "" if group.score == last[0] else group.score,
                "" if place == last else place[1],
            ]
            value = f"{group.mean:.4f}" + ("" if group.sd is None else f" ± {group.sd:.4f}")
            found = differences.get((*place, group.name))
            cells = ["", "", "", ""]
            if found is not None:
                cells = [f"{found.value:+z.4f}", *map(_interval, (found.rows, found.seeds))]
                cells.append(self.verdict(found))
            lines.append([*shown, group.name, value, *cells])
            last = place
        return header, lines


def _interval(spread: Spread | None) -> str:
    return "–" if spread is None else f"{spread.low:+z.4f} … {spread.high:+z.4f}"


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return "–" if value is None else text if len(text) <= 40 else f"{text[:39]}…"


def _cut(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
