"""What is known of parts of the rows: segments, and the audit's findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from polyrank.data.check.audit import Severity
from polyrank.metrics.registry import METRICS
from polyrank.metrics.segments import scarce
from polyrank.report.blocks import Cell, Heading, Note, Paragraph, ReportTable, Section
from polyrank.report.evidence import Evidence
from polyrank.report.sections.scores import cell, interval, title
from polyrank.text import counted

SEVERITIES: Mapping[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
MOST_SEGMENTS = 15  # of a score


def segments(evidence: Evidence) -> Section | None:
    """Return the metrics of the worst segments of each joint outcome."""
    tables = [
        block
        for score, frame in evidence.segments.items()
        for block in (Heading(score), _segments(frame))
    ]
    if not tables:
        return None
    text = (
        "The rows are cut by one column at a time, and ordered by the nats that the log loss of "
        "all rows owes to a segment's mean being off: a large segment that is a little off comes "
        "before a small one that is far off. PCOC, mean prediction / mean label, has a 95 % "
        "interval: where that holds 1, the gap may be chance. AUC is not comparable between "
        "segments of different spread."
    )
    return Section("Segments", (Paragraph(text), *tables))


def _segments(frame: pl.DataFrame) -> ReportTable | Paragraph:
    """Return the worst of the segments that have the rows to be judged by."""
    frame = frame.filter(pl.len().over("dimension") > 1)  # what cuts nothing is no segment
    judged = frame.filter("judged")
    few = frame.height - judged.height
    if judged.is_empty():
        why = f": they have {scarce(frame)}, seen or predicted" if few else ""
        return Paragraph(f"None of {counted(frame.height, 'segment')} can be judged{why}.")
    metrics = [name for name in METRICS if name in frame.columns]
    header = ("segment", "rows", "positives", "observed", "predicted", *map(title, metrics))
    lines = judged.head(MOST_SEGMENTS).to_dicts()
    rows = tuple(
        (
            Cell(f"{line['dimension']} = {'(null)' if line['value'] is None else line['value']}"),
            cell(line["rows"]),
            cell(line["positives"]),
            *(cell(line[name], line["reason"]) for name in ("label_mean", "prediction_mean")),
            *(_metric(line, name) for name in metrics),
            Cell("–" if line["excess"] is None else _power(line["excess"])),
        )
        for line in lines
    )
    notes = []
    if judged.height > MOST_SEGMENTS:
        notes.append(f"The first {MOST_SEGMENTS} of {judged.height:,} segments.")
    if few:
        left = f"{few:,} more {'is' if few == 1 else 'are'} left out"
        notes.append(f"{left}: {scarce(frame)}, seen or predicted.")
    return ReportTable((*header, "nats owed"), rows, notes=tuple(notes))


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


def _metric(line: Mapping[str, Any], name: str) -> Cell:
    bounds = {end: line.get(f"{name}_{end}") for end in ("low", "high")}
    detail = "" if None in bounds.values() else interval(bounds)
    shown = cell(line[name], line["reason"], detail)
    return shown if detail or f"{name}_low" not in line else replace(shown, reason=line["reason"])


def _power(value: float) -> str:
    return f"{value:.1e}".replace("-", "−") if value else "0"
