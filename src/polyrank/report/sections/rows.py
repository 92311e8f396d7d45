"""What is known of parts of the rows: segments, the audit's findings, a fused score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from polyrank.data.check.audit import Severity
from polyrank.metrics.registry import METRICS
from polyrank.metrics.segments import JUDGED
from polyrank.report import charts
from polyrank.report.blocks import Cell, Figure, Heading, Note, Paragraph, Section, Table
from polyrank.report.evidence import Evidence
from polyrank.report.sections.scores import TITLES, interval, number

SEVERITIES: Mapping[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
MOST_SEGMENTS = 15  # of a score
TOO_FEW = f"under {JUDGED} positives (or negatives), both seen and predicted"


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
        "The rows cut by one column at a time. The order is by the nats that the log loss of all "
        "rows owes to a segment's mean being off: a large segment that is a little off comes "
        "before a small one that is far off. PCOC, mean prediction / mean label, has a 95 % "
        "interval: where that holds 1, the gap may be chance. AUC is not comparable between "
        "segments of different spread."
    )
    return Section("Segments", (Paragraph(text), *tables))


def _segments(frame: pl.DataFrame) -> Table | Paragraph:
    """Return the worst of the segments that have the rows to be judged by."""
    frame = frame.filter(pl.len().over("dimension") > 1)  # what cuts nothing is no segment
    judged = frame.filter("judged")
    few = frame.height - judged.height
    if judged.is_empty():
        return Paragraph(f"None of {frame.height:,} segments can be judged: {TOO_FEW}.")
    header = ("segment", "rows", "positives", "observed", "predicted", "PCOC", "AUC", "log loss",
              "nats owed")  # fmt: skip
    lines = judged.head(MOST_SEGMENTS).to_dicts()
    rows = tuple(
        (
            Cell(f"{line['dimension']} = {'(null)' if line['value'] is None else line['value']}"),
            _cell(line["rows"]),
            _cell(line["positives"]),
            *(_cell(line[name], line["reason"]) for name in ("label_mean", "prediction_mean")),
            _pcoc(line),
            *(_cell(line[name], line["reason"]) for name in ("auc", "log_loss")),
            Cell("–" if line["excess"] is None else _power(line["excess"])),
        )
        for line in lines
    )
    notes = []
    if judged.height > MOST_SEGMENTS:
        notes.append(f"The first {MOST_SEGMENTS} of {judged.height:,} segments.")
    if few:
        notes.append(f"{few:,} more are left out: {TOO_FEW}.")
    return Table(header, rows, notes=tuple(notes))


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
    summary = ", ".join(f"{count} {name}{'s'[: count != 1]}" for name, count in counts.items())
    level = found.findings[0].severity  # the worst comes first
    header = ("severity", "check", "what was found", "what to do")
    lines = tuple(
        (Cell(each.severity), Cell(each.check), Cell(each.message), Cell(each.remedy or "–"))
        for each in found.findings
    )
    note = Note(f"{summary} in {rows} rows.", level)
    return Section("Audit of the log", (note, Table(header, lines, tuple(range(4)))))


def fusion(evidence: Evidence) -> Section | None:
    """Return how a fused score ranks each outcome, and what each of its weights trades off."""
    fused = None if evidence.scorecard is None else evidence.scorecard.fusion
    if fused is None:
        return None
    weights = ", ".join(f"{name} = {weight:g}" for name, weight in fused.weights.items())
    text = (
        f"Σ weight · log p or column, with {weights}. Only the order matters: it is measured "
        "against each outcome on all rows."
    )
    names = [
        name for name in METRICS["binary"] if any(name in each.metrics for each in fused.scores)
    ]
    rows = tuple(
        (
            Cell(each.name), _cell(each.rows), _cell(each.positives),
            *(_cell(each.metrics.get(name, {}).get("value"), each.absent.get(name))
              for name in names),
        )
        for each in fused.scores
    )  # fmt: skip
    table = Table(("outcome", "rows", "positives", *(TITLES.get(n, n) for n in names)), rows)
    figures = [_trade_off(name, points) for name, points in evidence.trade_offs.items()]
    return Section("Fused score", (Paragraph(text), table, *figures))


def _trade_off(name: str, points: pl.DataFrame) -> Figure:
    points = points.rename(lambda column: column.replace("auc of ", "AUC of "))
    _, first, second = points.columns
    reading = (
        f"Each point is one weight of {name}, written beside it, the others as declared: right is "
        f"better by {first}, up is better by {second}. A point with another both above and right "
        "of it is a bad bargain."
    )
    return Figure(f"Weight of {name}", reading, (charts.trade_off(points),))


def _pcoc(line: Mapping[str, Any]) -> Cell:
    if line["pcoc"] is None or line["pcoc_low"] is None:
        return replace(_cell(line["pcoc"], line["reason"]), reason=line["reason"] or "")
    bounds = {"value": line["pcoc"], "low": line["pcoc_low"], "high": line["pcoc_high"]}
    return Cell(number(line["pcoc"]), detail=interval(bounds))


def _power(value: float) -> str:
    return f"{value:.1e}".replace("-", "−") if value else "0"


def _cell(value: float | None, reason: str | None = None) -> Cell:
    if value is None:
        return Cell("–", reason=reason or "it cannot be computed on these rows")
    return Cell(f"{value:,}" if isinstance(value, int) else number(value))
