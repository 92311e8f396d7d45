"""The page of a monitored model: what is crossed, what has drifted, what labels say."""

from __future__ import annotations

from datetime import datetime
from html import escape

import altair as alt
import numpy as np
import polars as pl

from polyrank.metrics.registry import metrics_of
from polyrank.monitor.drift import ALPHA, Drift, shares
from polyrank.report import charts
from polyrank.report.blocks import Cell, Figure, Note, Paragraph, ReportTable, Section
from polyrank.report.monitoring import Monitored
from polyrank.report.page import document

MOST_CHARTS = 12  # of what has drifted most


def monitored_page(found: Monitored, *, written: datetime) -> str:
    """Return the page as HTML that needs nothing beside it."""
    head = (
        f'<p class="kind">polyrank monitor</p><h1>{escape(found.name)}</h1>'
        f"<p>{found.rows:,} rows beside {found.profile.rows:,} {escape(found.profile.split)} rows "
        "at fit</p>"
    )
    sections = [_bounds(found), _drifts(found)]
    if found.scorecard is not None:
        sections.append(_scores(found))
    return document(f"{found.name} · polyrank monitor", head, sections, written=written)


def _bounds(found: Monitored) -> Section:
    notes = tuple(Note(each, "error") for each in found.crossed)
    return Section("Bounds", notes or (Note("No bound is crossed."),))


def _drifts(found: Monitored) -> Section:
    text = (
        "PSI is the population stability index of the counts of rows now and at fit. Its p-value "
        "says how often rows that have not drifted reach it, given both numbers of rows; with "
        "Holm's correction, one or more false alarms on this page have a probability of "
        f"{ALPHA:.0%} at most if rows are independent."
    )
    rows = tuple(
        (
            Cell(each.facet.title), Cell(f"{each.psi:.4f}"), Cell(f"{each.adjusted:.4f}"),
            Cell("yes" if each.found else "no"), Cell(each.moved if each.found else "–"),
        )
        for each in found.by_psi
    )  # fmt: skip
    table = ReportTable(("", "PSI", "p, adjusted", "drifted", "moves most"), rows, (0, 3, 4))
    drawn = [each for each in found.by_psi if each.found][:MOST_CHARTS]
    figures = tuple(
        Figure(each.facet.title, f"Shares of rows. {each.moved}.", (_chart(each),))
        for each in drawn
    )
    return Section("Drift", (Paragraph(text), table, *figures))


def _chart(drift: Drift) -> alt.LayerChart:
    """Return the shares of categories, at fit and now."""
    names = list(drift.facet.categories)
    frame = pl.concat(
        pl.DataFrame(
            {"category": names, "share": shares(np.array(counts)), "rows": [when] * len(names)}
        )
        for when, counts in (("at fit", drift.facet.counts), ("now", drift.counts))
    )
    bars = alt.Chart(frame).mark_bar().encode(
        x=alt.X("category:N", title=None, sort=names),
        xOffset=alt.XOffset("rows:N", sort=["at fit", "now"]),
        y=alt.Y("share:Q", title="share of rows").axis(format="%"),
        color=charts.colour("rows", ["at fit", "now"], charts.PALETTE[:2]),
    )  # fmt: skip
    return charts.finished(bars)


def _scores(found: Monitored) -> Section:
    rows = []
    for score in found.scorecard or ():
        for name, parts in score.metrics.items():
            if "low" in parts:
                title = metrics_of(score.kind)[name].title
                interval = f"{parts['low']:.4f} to {parts['high']:.4f}"
                rows.append(
                    (Cell(f"{score.name} {title}"), Cell(f"{parts['value']:.4f}", interval))
                )
    text = "Of the rows whose labels have come, with 95 % intervals."
    return Section("Scores", (Paragraph(text), ReportTable(("", "value"), tuple(rows))))
