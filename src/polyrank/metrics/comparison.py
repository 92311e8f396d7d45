"""What a comparison of runs found: frozen numbers that print as a table and write JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from polyrank.metrics.paired import Difference, Group, Spread
from polyrank.metrics.registry import direction
from polyrank.text import aligned, counted, html_table

FORMAT = 1


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
                    "give: train several seeds of one name"
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
                    "value": each.value, "rows": _spread(each.rows), "seeds": _spread(each.seeds),
                    "significant": each.significant, "verdict": self.verdict(each),
                }
                for each in self.differences
            ],
            "absent": {score: dict(reasons) for score, reasons in self.absent.items() if reasons},
            "comparisons": len(self.judged),
            "significant": len(self.significant),
            "conclusion": self.conclusion,
            "remarks": list(self.remarks),
        }  # fmt: skip

    def __str__(self) -> str:
        table = aligned(*self._table, right=range(3, 7))
        remarks = (f"– {remark}" for remark in self.remarks)
        return "\n".join([self._rows, "", table, "", self.conclusion, *remarks])

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


def _spread(spread: Spread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    return {"low": spread.low, "high": spread.high, "source": spread.source}
