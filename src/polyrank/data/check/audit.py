"""What an audit found: findings with their numbers and what to do, printable and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from polyrank.text import counted

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing that a log shows: its message, the numbers in it by name, and what to do.

    An `error` is what training refuses or what makes its scores worthless, a `warning` what may,
    and `info` is good to know.
    """

    severity: Severity
    check: str  # the name of the rule, such as `label-equal`
    message: str
    column: str | None = None
    split: str | None = None
    numbers: Mapping[str, float | int | str] = field(default_factory=dict)
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n{'':<8} → {self.remedy}" if self.remedy and self.severity != "info" else ""
        return f"{self.severity:<8} {self.check}: {self.message}{remedy}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


# What to do about what each check reports, by its severity; see docs/audit.md.
_REMEDIES: Mapping[Severity, Mapping[str, str]] = {
    "error": {
        "no-rows": "check the path and any filter of the rows, or leave the split out",
        "values": "convert the column, or declare it otherwise",
        "label-values": "convert the label: training refuses it as it is",
        "orphans": "fix the log, or set orphans = 'drop' (leave the rows out) or 'zero' (the child "
        "did not happen)",
        **dict.fromkeys(
            ("no-labels", "no-positives", "no-negatives"),
            "check the join that made the label, take more rows, or leave the task out",
        ),
        "above-duration": "fix the log, or set over = 'clip': a loop counts as watched to the end",
        "no-time": "fill the column in, or leave delay out: maturity is decided by time",
        "event-before-impression": "fix the clock or the join that made {column!r}",
        "label-equal": "remove {column!r} from the features",
        "label-opposite": "remove {column!r} from the features",
        "nothing-to-rank": "check the request key, take more rows, or leave ranking out",
        "time-reversed": "swap the files, or split by time: train on the past, {split} on what "
        "follows",
    },
    "warning": {
        "absent-values": "nothing is learned of them: take more rows, or leave them out",
        "cold-end": "if {column!r} comes late, give its task a delay; else find out what changed",
        "missing-key": "add the column, or leave the key out of [keys]",
        "may-state-label": "find out when {column!r} is written: if after the outcome, or from it, "
        "remove it from the features",
        "drift": "find out what changed; train on later rows, or remove the feature if it is a "
        "clock or a counter",
        "duplicates": "remove them from {split}: a model has seen their labels",
        "position-no-feature": "if rows are shown in its order, make it a feature with a value for "
        "serving, such as serving = 1: what a place earns is else learned as what is in it",
        "position-not-served": "if it is known only when rows are logged, give it a value for "
        "serving, such as serving = 1",
        "time-format": "convert the column: [data.split] by = 'time' refuses it as it is",
    },
    "info": {
        "drawn": "set [data] memory to audit every row; training counts orphans in all of them",
        "after-the-cut": "say when the log was read: now of the delay",
        "immature": "nothing: their labels are not known yet",
        "late-event": "nothing, or a longer window",
        "time-without-event": "nothing, if the label is right",
        "loss-scale": "balance = {{ kind = 'sum', normalize = true }}, the default, levels them",
        "requests": "nothing, if few are told apart by one label; else lists may have been cut",
        "constant": "remove it: it teaches nothing",
        "nearly-unique": "remove it, or set min_count so that rare ids share a row",
        "nulls": "nothing: a null id is an id, and a missing number has its own bin or indicator",
        "shared-lists": "look at the table of lists itself, or at the join of a part of the log",
        "unknown-duration": "nothing, if the log does not know them",
        "twins": "remove rows that were copied; of people or items that only look alike, nothing",
        "time-interleaved": "[data.split] by = 'time' scores on the future, which a model in use "
        "meets",
        "user-overlap": "[data.split] by = 'user' scores on new users, if those are what the model "
        "meets",
    },
}
RULES: Mapping[str, tuple[Severity, str]] = {
    check: (severity, remedy)
    for severity, checks in _REMEDIES.items()
    for check, remedy in checks.items()
}


def finding(
    check: str,
    message: str,
    column: str | None = None,
    split: str | None = None,
    numbers: Mapping[str, float | int | str] = MappingProxyType({}),
    *,
    note: str = "",
    remedy: str = "",
) -> Finding:
    """Return a finding with the severity and the remedy of its check, or another `remedy`.

    With a `note`, what to do then, it is only good to know.
    """
    severity, usual = RULES[check]
    what = note or remedy or usual.format(column=column, split=split)
    return Finding("info" if note else severity, check, message, column, split, dict(numbers), what)


@dataclass(frozen=True)
class Audit:
    """All findings about a log, errors first, and the rows of each split; prints as a list."""

    findings: tuple[Finding, ...]
    rows: Mapping[str, int]

    def __post_init__(self) -> None:
        order = get_args(Severity)
        ranked = sorted(self.findings, key=lambda finding: order.index(finding.severity))
        object.__setattr__(self, "findings", tuple(ranked))

    @property
    def failed(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def __str__(self) -> str:
        rows = "rows: " + ", ".join(f"{split} {rows:,}" for split, rows in self.rows.items())
        groups = [self.of(severity) for severity in get_args(Severity)]
        counts = zip(groups, ("error", "warning", "note"), strict=True)
        summary = ", ".join(counted(len(found), word) for found, word in counts)
        return "\n\n".join([rows, *("\n".join(map(str, each)) for each in groups if each), summary])

    def to_json(self) -> dict[str, Any]:
        """Return plain data: `findings` and `rows`."""
        return {"findings": [each.to_json() for each in self.findings], "rows": dict(self.rows)}
