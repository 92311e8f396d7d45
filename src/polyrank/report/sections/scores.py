"""The scorecard, segments and the fused score, in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import polars as pl

from polyrank.labels import LABELS
from polyrank.metrics.registry import METRICS, metrics_of
from polyrank.metrics.score import TRUTH_COLUMNS, Score, by_request, metric_names, reasons
from polyrank.metrics.segments import scarce
from polyrank.report import charts
from polyrank.report.blocks import (
    Block,
    Cell,
    Figure,
    Heading,
    Note,
    Paragraph,
    ReportTable,
    Section,
)
from polyrank.report.evidence import Evidence
from polyrank.text import counted

MOST_SEGMENTS = 15  # of a score


def scorecard(evidence: Evidence) -> Section | None:
    """Return every score with every metric; what cannot be measured is absent with its reason."""
    card = evidence.scorecard
    if card is None:
        return Section(
            "Scorecard",
            (Note("Nothing was scored: the run had neither validation nor test rows.", "warning"),),
        )
    blocks: list[Block] = [Note(text, "warning") for text in evidence.notes]
    for kind in LABELS:
        scores = [score for score in card if score.kind == kind]
        if scores:
            blocks += [_table(kind, scores), Paragraph(_reading(kind))]
    if any(_has_interval(score.metrics) for score in card):
        blocks.append(
            Paragraph(
                "In brackets: 95 % intervals. They cover the sampling of these rows, not what "
                "training again with another seed would change."
            )
        )
    for kind in LABELS:
        blocks += _by_request(kind, [score for score in card if score.kind == kind])
    calibrated = [score for score in card if score.raw]
    if calibrated:
        blocks += [Paragraph("Before → after calibration:"), _before_and_after(calibrated)]
    return Section("Scorecard", tuple(blocks))


def number(value: float) -> str:
    """Return a figure with four decimals, small ones with more, and no zero before the point.

    Examples:
        >>> number(0.7123), number(-0.5), number(1.0131), number(0.000312), number(0)
        ('.7123', '−.5000', '1.0131', '.00031', '0')
        >>> number(12345.678), number(2.5e-9)
        ('12,345.68', '2.5e−09')
    """
    size = abs(value)
    if size == 0:
        text = "0"
    elif size < 1e-5:
        text = f"{size:.1e}"
    elif size < 1e-3:
        text = f"{size:.5f}"
    elif size < 1000:
        text = f"{size:.4f}"
    else:
        text = f"{size:,.2f}"
    text = text.removeprefix("0") if text.startswith("0.") else text
    return ("−" if value < 0 else "") + text.replace("-", "−")


def interval(metric: Mapping[str, float]) -> str:
    """Return the bounds of a metric in brackets; nothing where it has none.

    Examples:
        >>> interval({"value": 0.7123, "low": 0.699, "high": 0.725}), interval({"value": 0.7123})
        ('[.6990, .7250]', '')
    """
    if "low" not in metric or "high" not in metric:
        return ""
    return f"[{number(metric['low'])}, {number(metric['high'])}]"


def title(name: str) -> str:
    """Return the title of a metric, of its interval, or of all intervals.

    Examples:
        >>> title("gauc"), title("gauc interval"), title("interval")
        ('grouped AUC', 'grouped AUC interval', 'intervals')
    """
    if name == "interval":
        return "intervals"
    first, _, rest = name.partition(" ")
    return f"{METRICS[first].title} {rest}".strip() if first in METRICS else name


def cell(value: float | None, reason: str | None = None, detail: str = "") -> Cell:
    """Return a figure, or a dash that says why there is none."""
    if value is None:
        return Cell("–", reason=reason or "it cannot be computed on these rows")
    return Cell(f"{value:,}" if isinstance(value, int) else number(value), detail)


def _measured(score: Score, name: str) -> Cell:
    found, reason = score.metrics.get(name, {}), score.absent.get(name, "it was not measured")
    return cell(found.get("value"), reason, interval(found))


def _has_interval(metrics: Mapping[str, Mapping[str, float]]) -> bool:
    return any(interval(each) for each in metrics.values())


def _table(kind: str, scores: Sequence[Score]) -> ReportTable:
    known = TRUTH_COLUMNS if any(score.truth for score in scores) else {}
    counts = LABELS[kind].counts
    names = [name for name, each in metrics_of(kind).items() if each.key != "request"]
    rows = tuple(
        (
            Cell(score.name),
            *(cell(getattr(score, each), "true probabilities, not labels") for each in counts),
            *(_measured(score, name) for name in names),
            *(cell((score.truth or {}).get(name), score.absent.get(name)) for name in known),
        )
        for score in scores
    )
    header = ("score", *counts, *map(title, names), *map(_truth_title, known))
    notes = reasons(scores, _absent_title)
    return ReportTable(header, rows, notes=tuple(notes))


def _truth_title(name: str) -> str:
    return TRUTH_COLUMNS[name].replace("auc", METRICS["auc"].title)


def _absent_title(score: Score, name: str) -> str:
    """Return the title of what is absent; a regression's mae is no distance to a truth."""
    own = name in metrics_of(score.kind) or name not in TRUTH_COLUMNS
    return title(name) if own else _truth_title(name)


def _reading(kind: str) -> str:
    """Say how to read the metrics of a kind of label."""
    groups: dict[str, list[str]] = {}
    for each in metrics_of(kind).values():
        if each.key != "request":
            how = (
                f"best at {each.best:g}"
                if each.best is not None
                else f"{'higher' if each.higher_is_better else 'lower'} is better"
            )
            noted = f"{each.title} ({each.note})" if each.note else each.title
            groups.setdefault(how, []).append(noted)
    texts = (f"{listed(names)}: {how}." for how, names in groups.items())
    return " ".join(f"{text[0].upper()}{text[1:]}" for text in texts)


def listed(names: Sequence[str]) -> str:
    """Return names as running text.

    Examples:
        >>> listed(["AUC", "NE", "ECE"])
        'AUC, NE and ECE'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _by_request(kind: str, scores: Sequence[Score]) -> list[Block]:
    """Return the metrics of ranked lists, where there are requests."""
    names, scores = by_request(kind, scores)
    if not scores:
        return []
    text = "Within each request, over those with a positive: higher is better."
    rows = tuple((Cell(s.name), *(_measured(s, name) for name in names)) for s in scores)
    return [ReportTable(("by request", *map(title, names)), rows), Paragraph(text)]


def _before_and_after(scores: Sequence[Score]) -> ReportTable:
    shown = (metric_names(scores, role) for role in ("diagnosed", "calibration table"))
    names = list(dict.fromkeys(chain.from_iterable(shown)))

    def change(score: Score, name: str) -> Cell:
        before, after = (score.raw or {}).get(name), score.metrics.get(name)
        if before is None or after is None:
            return cell(None, score.absent.get(name, "it was not measured"))
        return Cell(f"{number(before)} → {number(after['value'])}")

    rows = tuple((Cell(score.name), *(change(score, name) for name in names)) for score in scores)
    return ReportTable(("score", *map(title, names)), rows)


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
    rows = tuple(
        (
            Cell(each.name),
            cell(each.rows),
            cell(each.positives),
            *(_measured(each, name) for name in fused.metrics),
        )
        for each in fused.scores
    )
    table = ReportTable(("outcome", "rows", "positives", *map(title, fused.metrics)), rows)
    colours = charts.hues(evidence.schema)
    figures = [
        _trade_off(name, points, colours.get(name, charts.BLUE))
        for name, points in evidence.trade_offs.items()
    ]
    return Section("Fused score", (Paragraph(text), table, *figures))


def _trade_off(name: str, points: pl.DataFrame, hue: str) -> Figure:
    points = points.rename(lambda column: column.replace("auc of ", "AUC of "))
    _, first, second = points.columns
    reading = (
        f"Each point is one weight of {name}, written beside it; the others are as declared. Right "
        f"is better by {first}, up is better by {second}. A point that has another both above and "
        "to the right of it is a bad bargain."
    )
    return Figure(f"Weight of {name}", reading, (charts.trade_off(points, hue=hue),))


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


def _metric(line: Mapping[str, Any], name: str) -> Cell:
    bounds = {end: line.get(f"{name}_{end}") for end in ("low", "high")}
    detail = interval({end: value for end, value in bounds.items() if value is not None})
    shown = cell(line[name], line["reason"], detail)
    return shown if detail or f"{name}_low" not in line else replace(shown, reason=line["reason"])


def _power(value: float) -> str:
    return f"{value:.1e}".replace("-", "−") if value else "0"
