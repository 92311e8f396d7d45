"""How to get the same again: what is missing, the log's audit, configuration and environment."""

from __future__ import annotations

from collections.abc import Mapping

import tomli_w

from polyrank.data.check.audit import Severity
from polyrank.report.blocks import Cell, Code, Listing, Note, Paragraph, ReportTable, Section
from polyrank.report.evidence import Evidence
from polyrank.text import counted

SEVERITIES: Mapping[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}


def missing(evidence: Evidence) -> Section | None:
    """Say plainly what this page could not show, and why."""
    gaps = []
    if evidence.missing is not None:
        added = "" if evidence.first is None else "what the network adds to its first stages, "
        gaps.append(
            "Reliability and ranking curves, predictions by label, predicted values, the truth, "
            f"segments, trade-offs, {added}and what the experts do need the scored rows: "
            f"{evidence.missing}."
        )
    elif not evidence.labelled:
        gaps.append("No score has rows of both labels: no curve can be drawn.")
    if evidence.history.is_empty():
        gaps.append("The bundle has no history: training curves cannot be drawn.")
    if not gaps:
        return None
    return Section("Not on this page", tuple(Note(text, "warning") for text in gaps))


def configuration(evidence: Evidence) -> Section | None:
    """Return the resolved experiment, as the TOML file that would run it again."""
    text = "The resolved experiment, every default shown, as the run's config.toml has it."
    return Section("Configuration", (Paragraph(text), Code(tomli_w.dumps(dict(evidence.config)))))


def environment(evidence: Evidence) -> Section | None:
    """Return the machine and the libraries that wrote the page."""
    if not evidence.environment:
        return None
    text = "Of the process that wrote this page."
    return Section("Environment", (Paragraph(text), Listing(tuple(evidence.environment.items()))))


def audit(evidence: Evidence) -> Section:
    """Return what the audit of the log found, errors first, or why there was none."""
    found = evidence.audit
    if found is None:
        text = f"The log was not audited: {evidence.unaudited}."
        return Section("Audit of the log", (Note(text, "warning"),))
    rows = ", ".join(f"{count:,} {split}" for split, count in found.rows.items())
    if not found.findings:
        return Section("Audit of the log", (Note(f"The audit of {rows} rows found nothing."),))
    counts = {name: len(found.of(severity)) for severity, name in SEVERITIES.items()}
    summary = ", ".join(counted(count, name) for name, count in counts.items())
    level = found.findings[0].severity  # the worst comes first
    header = ("severity", "check", "what was found", "what to do")
    lines = tuple(
        (Cell(each.severity), Cell(each.check), Cell(each.message), Cell(each.remedy or "–"))
        for each in found.findings
    )
    note = Note(f"{summary} in {rows} rows.", level)
    return Section("Audit of the log", (note, ReportTable(header, lines, tuple(range(4)))))
