"""What an audit found: findings with their numbers and what to do, printable and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
        column: the column that it is about, if one.
        split: the split that it is about, if one.
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
        return {
            "severity": self.severity,
            "check": self.check,
            "column": self.column,
            "split": self.split,
            "message": self.message,
            "numbers": dict(self.numbers),
            "remedy": self.remedy,
        }


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


def listed(names: Iterable[str]) -> str:
    """Return names in quotes, with commas."""
    return ", ".join(map(repr, names))
