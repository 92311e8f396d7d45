"""The page of a replay: a metric and its cost, day by day, one line a strategy."""

from __future__ import annotations

from datetime import datetime
from html import escape

import altair as alt
import polars as pl

from polyrank.report.blocks import Cell, Figure, Paragraph, ReportTable, Section
from polyrank.report.charts import DASHES, EXTENT, PALETTE, Style, finished, lines, tip
from polyrank.report.page import document
from polyrank.text import counted
from polyrank.train.replay import Replay

BAND = 0.15  # opacity of an interval


def replay_page(found: Replay, *, written: datetime) -> str:
    """Return the page as HTML that needs nothing beside it."""
    frame = found.frame()
    name = f"{found.metric} of {found.score}"
    facts = [counted(len(found.periods), "period"), ", ".join(found.strategies)]
    headline = (
        f'<p class="kind">polyrank replay</p><h1>{escape(name)}</h1>'
        f"<p>{escape(' · '.join(facts))}</p>"
    )
    drawn = {
        each: Style(PALETTE[at % len(PALETTE)], DASHES[0])
        for at, each in enumerate(found.strategies)
    }
    figures = [
        Figure(name, "By the model of the period before; bands are 95 % intervals over rows.",
               (by_period(frame, found.metric, drawn),), wide=True),
        Figure("Seconds to learn a period", "Encoding, training and calibration.",
               (by_period(frame.drop("value", "low", "high").rename({"seconds": "value"}),
                          "seconds", drawn),), wide=True),
    ]  # fmt: skip
    text = "Each period was scored first, by a model that had learned only what came before it."
    sections = [Section("Day by day", (Paragraph(text), *figures)), _table(found, frame)]
    return document(f"{name} · polyrank replay", headline, sections, written=written)


def by_period(frame: pl.DataFrame, title: str, drawn: dict[str, Style]) -> alt.LayerChart:
    """Return one line a strategy over the periods: `period`, `strategy`, `value`.

    With the columns `low` and `high`, there is a band between them.
    """
    known = frame.filter(pl.col("value").is_not_null())
    order = frame["period"].unique(maintain_order=True).to_list()
    x = alt.X("period:N", title="period", sort=order).axis(labelAngle=0, labelOverlap="greedy")
    y = alt.Y("value:Q", title=title).scale(zero=False, padding=8).axis(tickCount=5, **EXTENT)
    mark = alt.Chart(known).mark_line(point={"size": 36, "filled": True}, strokeWidth=2)
    curves = mark.encode(
        x=x, y=y, **lines("strategy", drawn),
        tooltip=["strategy:N", "period:N", tip("value", title, ".5f")],
    )  # fmt: skip
    if "low" not in known.columns:
        return finished(curves)
    colours = alt.Color("strategy:N").scale(
        domain=list(drawn), range=[each.colour for each in drawn.values()]
    )
    band = alt.Chart(known.filter(pl.col("low").is_not_null())).mark_area(opacity=BAND)
    return finished(
        band.encode(x=x, y=alt.Y("low:Q").scale(zero=False), y2="high:Q", color=colours), curves
    )


def _table(found: Replay, frame: pl.DataFrame) -> Section:
    rows = []
    for row in frame.iter_rows(named=True):
        value = "–" if row["value"] is None else f"{row['value']:.4f}"
        low = "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
        rows.append(
            [
                *(Cell(text) for text in (row["period"], row["strategy"], f"{row['rows']:,}")),
                *(Cell(text) for text in (value, low)),
                *(Cell(text) for text in (f"{row['learned']:,}", f"{row['seconds']:.1f}")),
            ]
        )
    header = ["period", "strategy", "rows scored", found.metric, "95 %", "rows learned", "seconds"]
    return Section("All numbers", (_of(header, rows),))


def _of(header: list[str], rows: list[list[Cell]]) -> ReportTable:
    return ReportTable(tuple(header), tuple(map(tuple, rows)))
