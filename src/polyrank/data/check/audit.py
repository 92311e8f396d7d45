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
    """One thing that a log shows.

    Args:
        severity: `error`, what training refuses or what makes its scores worthless; `warning`,
            what may; `info`, what is good to know.
        check: the name of the rule, such as `label-equal`.
        message: what was found, with its numbers.
        column: the column in question, if any.
        split: the split in question, if any.
        numbers: those of the message, by name.
        remedy: what to do.
    """

    severity: Severity
    check: str
    message: str
    column: str | None = None
    split: str | None = None
    numbers: Mapping[str, float | int | str] = field(default_factory=dict)
    remedy: str = ""

    def __str__(self) -> str:
        lines = [f"{self.severity:<8} {self.check}: {self.message}"]
        if self.remedy and self.severity != "info":
            lines.append(f"{'':<8} → {self.remedy}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


# What each check reports, at which severity, and what to do about it; see docs/audit.md.
RULES: Mapping[str, tuple[Severity, str]] = {
    "no-rows": ("error", "check the path and any filter of the rows, or leave the split out"),
    "values": ("error", "convert the column, or declare it otherwise"),
    "missing-key": ("warning", "add the column, or leave the key out of [keys]"),
    "label-values": ("error", "convert the label: training refuses it as it is"),
    "orphans": (
        "error",
        "fix the log, or set orphans = 'drop' (leave the rows out) or 'zero' (the child did not "
        "happen)",
    ),
    **dict.fromkeys(
        ("no-labels", "no-positives", "no-negatives"),
        (
            "error",
            "check the join that made the label, take more rows, or leave the task out",
        ),
    ),
    "loss-scale": (
        "info",
        "balance = {{ kind = 'sum', normalize = true }}, the default, levels them",
    ),
    "label-equal": ("error", "remove {column!r} from the features"),
    "label-opposite": ("error", "remove {column!r} from the features"),
    "may-state-label": (
        "warning",
        "find out when {column!r} is written: if after the outcome, or from it, remove it from the "
        "features",
    ),
    "constant": ("info", "remove it: it teaches nothing"),
    "nearly-unique": ("info", "remove it, or set min_count so that rare ids share a row"),
    "nulls": (
        "info",
        "nothing: a null id is an id, and a missing number has its own bin or indicator",
    ),
    "drift": (
        "warning",
        "find out what changed; train on later rows, or remove the feature if it is a clock or a "
        "counter",
    ),
    "duplicates": ("warning", "remove them from {split}: a model has seen their labels"),
    "time-reversed": (
        "error",
        "swap the files, or split by time: train on the past, {split} on what follows",
    ),
    "time-interleaved": (
        "info",
        "[data.split] by = 'time' scores on the future, which a model in use meets",
    ),
    "time-format": (
        "warning",
        "convert the column: [data.split] by = 'time' refuses it as it is",
    ),
    "user-overlap": (
        "info",
        "[data.split] by = 'user' scores on new users, if those are what the model meets",
    ),
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
    """Return a finding with the severity and the remedy of its check.

    Args:
        check: one of `RULES`.
        message: what was found, with its numbers.
        column: the column in question, if any.
        split: the split in question, if any.
        numbers: those of the message, by name.
        note: where this finding is only good to know, what to do then.
        remedy: another than that of the check.
    """
    severity, usual = RULES[check]
    what = note or remedy or usual.format(column=column, split=split)
    return Finding("info" if note else severity, check, message, column, split, dict(numbers), what)


@dataclass(frozen=True)
class Audit:
    """All findings about a log, errors first; prints as a list.

    Args:
        findings: in any order; kept sorted by severity.
        rows: of each split, as they are in the log.

    Example:
        >>> constant = Finding("info", "constant", "feature 'country' has one value")
        >>> broken = Finding("error", "no-rows", "valid has no rows", remedy="leave valid out")
        >>> print(Audit((constant, broken), {"train": 800, "valid": 0}))
        rows: train 800, valid 0
        <BLANKLINE>
        error    no-rows: valid has no rows
                 → leave valid out
        <BLANKLINE>
        info     constant: feature 'country' has one value
        <BLANKLINE>
        1 error, 0 warnings, 1 note
    """

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
        blocks = ["rows: " + ", ".join(f"{split} {rows:,}" for split, rows in self.rows.items())]
        blocks += [
            "\n".join(map(str, found)) for each in get_args(Severity) if (found := self.of(each))
        ]
        counts = zip(("error", "warning", "note"), map(self.of, get_args(Severity)), strict=True)
        blocks.append(", ".join(counted(len(found), word) for word, found in counts))
        return "\n\n".join(blocks)

    def to_json(self) -> dict[str, Any]:
        """Return plain data: `findings` and `rows`."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "rows": dict(self.rows),
        }
