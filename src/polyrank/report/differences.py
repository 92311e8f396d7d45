"""The page of compared runs: what differs from the baseline, and by how much more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape

import altair as alt
import polars as pl

from polyrank.metrics.comparison import Comparison, Difference, Group, Spread
from polyrank.metrics.registry import METRICS
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
from polyrank.report.charts import BLUE, ORANGE, finished, tip
from polyrank.report.page import document
from polyrank.report.sections.scores import number, title
from polyrank.text import counted

ROW_HEIGHT = 34  # pixels of a line of the forest plot
SOURCES = ("test rows", "seeds")


def comparison_page(found: Comparison, *, written: datetime) -> str:
    """Return the page as HTML that needs nothing beside it."""
    baseline, *others = found.runs
    name = f"{', '.join(others)} against {baseline}" if others else f"seeds of {baseline}"
    facts = [f"{found.rows:,} {found.split} rows"]
    facts += [f"{run}: {counted(len(seeds), 'run')}" for run, seeds in found.runs.items()]
    headline = (
        f'<p class="kind">polyrank comparison</p><h1>{escape(name)}</h1>'
        f"<p>{escape(' · '.join(facts))}</p>"
    )
    sections = [_conclusion(found), *_by_metric(found), _values(found)]
    sections += [*_disagreements(found), _runs(found)]
    return document(f"{name} · polyrank comparison", headline, sections, written=written)


def forest(differences: Sequence[Difference], *, higher_is_better: bool) -> alt.LayerChart:
    """Return one line a score and run, of one metric: the difference, its intervals, and 0."""
    lines = [
        {
            "line": f"{each.score} · {each.name}",
            "source": source,
            "value": each.value,
            "low": spread.low,
            "high": spread.high,
        }
        for each in differences
        for source, spread in zip(SOURCES, (each.rows, each.seeds), strict=True)
        if spread is not None
    ]
    frame = pl.DataFrame(lines)
    names = frame["line"].unique(maintain_order=True).to_list()
    sources = [each for each in SOURCES if each in frame["source"].to_list()]
    sides = ("worse", "better") if higher_is_better else ("better", "worse")
    title = f"← {sides[0]} · difference from the baseline · {sides[1]} →"
    base = alt.Chart(frame).encode(
        y=alt.Y("line:N", title=None, sort=names).axis(labelLimit=190, grid=False, ticks=False),
        yOffset=alt.YOffset("source:N", sort=sources),
        color=alt.Color("source:N", legend=alt.Legend(columns=len(sources))).scale(
            domain=sources, range=[BLUE, ORANGE][: len(sources)]
        ),
        tooltip=[
            "line:N", "source:N", tip("value", "difference", "+.5f"),
            tip("low", "95 % from", "+.5f"), tip("high", "to", "+.5f"),
        ],
    )  # fmt: skip
    reach = alt.X("low:Q", title=title).axis(tickCount=5, format="~g", labelOverlap="greedy")
    whiskers = base.mark_rule(strokeWidth=2).encode(x=reach, x2="high:Q")
    points = base.mark_point(size=50, filled=True, opacity=1).encode(x="value:Q")
    nothing = alt.Chart(pl.DataFrame({"zero": [0.0]})).mark_rule(
        color="currentColor", opacity=0.45, strokeDash=[4, 4]
    )
    height = max(ROW_HEIGHT * len(names), 60)
    return finished(nothing.encode(x="zero:Q"), whiskers, points, height=height)


def _conclusion(found: Comparison) -> Section:
    text = f"{found.conclusion[0].upper()}{found.conclusion[1:]}."
    remarks = (Paragraph(f"{each[0].upper()}{each[1:]}.") for each in found.remarks)
    return Section("What differs", (Note(text), *remarks))


def _by_metric(found: Comparison) -> list[Section]:
    """Return a section a metric: the plot, and the numbers that it draws."""
    sections = []
    for metric in dict.fromkeys(each.metric for each in found.differences):
        differences = [each for each in found.differences if each.metric == metric]
        up = bool(METRICS[metric].higher_is_better)
        judged = [each for each in differences if each.rows is not None]
        blocks: list[Figure | ReportTable] = []
        if judged:
            reading = (
                f"{'Higher' if up else 'Lower'} is better. A line that crosses the dashed one may "
                "be no difference at all."
            )
            chart = forest(judged, higher_is_better=up)
            blocks.append(Figure("Differences with 95 % intervals", reading, (chart,), wide=True))
        blocks.append(_differences(found, differences))
        sections.append(Section(title(metric), tuple(blocks)))
    return sections


def _differences(found: Comparison, differences: Sequence[Difference]) -> ReportTable:
    return ReportTable(
        ("score", "runs", "difference", "95 % over rows", "95 % over seeds", "verdict"),
        tuple(
            (
                Cell(each.score),
                Cell(each.name),
                Cell(_signed(each.value)),
                _interval(each.rows, each.reason or ""),
                _interval(each.seeds, "one side has a single seed"),
                Cell(found.verdict(each)),
            )
            for each in differences
        ),
        text_columns=(0, 1, 5),
    )


def _values(found: Comparison) -> Section:
    rows = tuple(
        (Cell(each.score), Cell(title(each.metric)), Cell(each.name), _mean(each))
        for each in found.groups
    )
    header = ("score", "metric", "runs", "mean ± sd over seeds")
    return Section("Values", (ReportTable(header, rows, text_columns=(0, 1, 2)),))


def _disagreements(found: Comparison) -> list[Section]:
    """Return the rows on which a run is furthest from the baseline, a table a score and run."""
    blocks: list[Block] = []
    for (score, name), rows in found.disagreed.items():
        blocks.append(Heading(f"{score} · {name}"))
        header = ("row", "label", rows[0].baseline, name, "difference", "keys", "features")
        lines = tuple(
            (
                Cell(f"{each.row:,}"),
                Cell(f"{each.label:g}"),
                Cell(number(each.before)),
                Cell(number(each.after)),
                Cell(_signed(each.after - each.before)),
                Cell(each.told(each.keys)),
                Cell(each.told(each.features)),
            )
            for each in rows
        )
        blocks.append(ReportTable(header, lines, text_columns=(0, 5, 6)))
    if not blocks:
        return []
    text = (
        "The rows whose predictions differ most, the largest difference first; of several seeds, "
        "the mean. A row's number is among the compared rows, from 0. The tables show single "
        "rows: mind to whom you send this page."
    )
    return [Section("Largest disagreements", (Paragraph(text), *blocks))]


def _runs(found: Comparison) -> Section:
    rows = tuple(
        (Cell(name), Cell(path), Cell(str(seed)))
        for name, runs in found.runs.items()
        for path, seed in runs.items()
    )
    return Section("Runs", (ReportTable(("name", "run", "seed"), rows, text_columns=(0, 1)),))


def _mean(group: Group) -> Cell:
    return Cell(number(group.mean) + ("" if group.sd is None else f" ± {number(group.sd)}"))


def _interval(spread: Spread | None, reason: str) -> Cell:
    if spread is None:
        return Cell("–", reason=reason)
    return Cell(f"{_signed(spread.low)} to {_signed(spread.high)}")


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)
