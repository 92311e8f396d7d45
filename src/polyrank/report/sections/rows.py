"""What is known of parts of the rows: segments, the audit's findings, a fused score."""

from __future__ import annotations

from typing import Any

from polyrank.report import charts
from polyrank.report.blocks import Cell, Figure, Note, Paragraph, Section, Table
from polyrank.report.evidence import Evidence, Finding
from polyrank.report.sections.scores import TITLES, number

LEVELS = ("error", "warning", "info")
MOST_SEGMENTS = 60


def segments(evidence: Evidence) -> Section | None:
    """Return the metrics of each segment, worst first."""
    frame = evidence.segments
    if frame is None or frame.is_empty():
        return None
    words = tuple(i for i, name in enumerate(frame.columns) if not frame[name].dtype.is_numeric())
    header = tuple(TITLES.get(name, name) for name in frame.columns)
    rows = tuple(tuple(_cell(value) for value in row) for row in frame.head(MOST_SEGMENTS).rows())
    notes = ()
    if frame.height > MOST_SEGMENTS:
        notes = (f"The first {MOST_SEGMENTS} of {frame.height:,} segments.",)
    text = "Metrics by the values of features and the like, worst first: where not to trust it."
    return Section("Segments", (Paragraph(text), Table(header, rows, (0, *words), notes)))


def audit(evidence: Evidence) -> Section | None:
    """Return what the audit of the log found, errors first."""
    if evidence.findings is None:
        return None
    if not evidence.findings:
        return Section("Audit of the log", (Paragraph("The audit found nothing."),))
    found = sorted(evidence.findings, key=_level)
    header = ("severity", "check", "column", "what was found", "what to do")
    rows = tuple(
        (
            Cell(str(each.severity)),
            Cell(each.check),
            Cell(each.column or "–"),
            Cell(each.message, detail=_numbers(each)),
            Cell(each.remedy),
        )
        for each in found
    )
    errors = sum(each.severity == "error" for each in found)
    text = f"{len(found)} finding{'s' if len(found) > 1 else ''}, {errors} of them at error level."
    level = "error" if errors else "info"
    return Section("Audit of the log", (Note(text, level), Table(header, rows, tuple(range(5)))))


def fusion(evidence: Evidence) -> Section | None:
    """Return the trade-off between two metrics while one weight of a fused score moves."""
    points = evidence.fusion
    if points is None or points.is_empty():
        return None
    weight, first, second = points.columns[:3]
    reading = (
        f"Each point is one value of {weight}, written beside it: right is better by {first}, up "
        f"is better by {second}. A point with another both above and right of it is a bad bargain."
    )
    return Section("Fused score", (Figure("Trade-off", reading, (charts.trade_off(points),)),))


def _level(finding: Finding) -> int:
    return LEVELS.index(finding.severity) if finding.severity in LEVELS else len(LEVELS)


def _numbers(finding: Finding) -> str:
    return ", ".join(f"{name} {_cell(value).text}" for name, value in finding.numbers.items())


def _cell(value: Any) -> Cell:
    if value is None:
        return Cell("–", reason="it cannot be computed on these rows")
    if isinstance(value, float):
        return Cell(number(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(f"{value:,}")
    return Cell(str(value))
