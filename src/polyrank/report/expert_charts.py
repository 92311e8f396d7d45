"""Charts of a mixture of experts: weights as a grid, shares as bars, entropies over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from polyrank.report.axes import BLUE, colour, drawn_on, finished, tip
from polyrank.report.charts import epoch_lines, kept_epoch

WRITTEN_COLUMNS = 10  # of a grid; in more of them there is no room for numbers
NARROWEST = 270  # pixels that a grid's columns share on a narrow screen
LETTER = 6.5  # pixels
HOW = ("one row", "all rows together")


def grid(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    titles: tuple[str, str],
    measure: str,
) -> alt.LayerChart:
    """Return shares from 0 to 1, written and coloured; a cell of None is empty.

    Args:
        values: a line a row.
        rows: names.
        columns: names.
        titles: of the y and the x axis.
        measure: what a number is.
    """
    frame = pl.DataFrame(
        [
            {"row": row, "column": column, "value": value}
            for row, line in zip(rows, values, strict=True)
            for column, value in zip(columns, line, strict=True)
            if value is not None
        ],
        schema={"row": pl.String, "column": pl.String, "value": pl.Float64},
    )
    turned = max(map(len, columns)) * LETTER > NARROWEST / len(columns)
    quiet = {"domain": False, "ticks": False, "labelOverlap": False}
    base = drawn_on(frame).encode(
        x=alt.X("column:N", title=titles[1]).scale(domain=list(columns)).axis(
            labelAngle=-40 if turned else 0, labelLimit=110, **quiet
        ),
        y=alt.Y("row:N", title=titles[0]).scale(domain=list(rows)).axis(labelLimit=110, **quiet),
    )  # fmt: skip
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=measure, legend=None).scale(
            scheme="blues", domain=[0, 1], clamp=True
        ),
        tooltip=["row:N", "column:N", tip("value", measure, ".4f")],
    )
    height = max(30 * len(rows), 40)
    if len(columns) > WRITTEN_COLUMNS:
        return finished(cells, height=height)
    dark = alt.condition(alt.datum.value > 0.5, alt.value("#ffffff"), alt.value("#1b1f23"))
    numbers = base.mark_text(fontSize=11).encode(text=alt.Text("value:Q", format=".2f"), color=dark)
    return finished(cells, numbers, height=height)


def by_expert(
    values: Sequence[float],
    names: Sequence[str],
    title: str,
    reference: Sequence[float] | None = None,
) -> alt.LayerChart:
    """Return a bar an expert, such as how much each is used.

    Args:
        values: shares of 1.
        names: of the experts.
        title: of the axis.
        reference: what each would be if all were alike; a mark across the bar.
    """
    frame = pl.DataFrame({"name": list(names), "share": list(map(float, values))})
    y = alt.Y("name:N", title="expert", sort=list(names)).axis(labelLimit=110, ticks=False)
    x = alt.X("share:Q", title=title).axis(format="~%", tickCount=5, labelOverlap="greedy")
    bars = drawn_on(frame).mark_bar(color=BLUE, height=14).encode(
        x=x, y=y, tooltip=["name:N", tip("share", title, ".2%")]
    )  # fmt: skip
    height = max(26 * len(names), 40)
    if reference is None:
        return finished(bars, height=height)
    even = pl.DataFrame({"name": list(names), "share": list(map(float, reference))})
    marks = drawn_on(even).mark_tick(color="currentColor", thickness=2, size=20).encode(
        x=x, y=y, tooltip=["name:N", tip("share", "if all were used alike", ".2%")]
    )  # fmt: skip
    return finished(bars, marks, height=height)


def entropies(values: pl.DataFrame, best: int | None) -> alt.LayerChart:
    """Return each gate's entropies over the epochs: of a row's weights, and of their mean.

    Args:
        values: `epoch`, `gate`, `of` (one of `HOW`), `value` as a share of the largest possible.
        best: the epoch that was kept.
    """
    gates = values["gate"].unique(maintain_order=True).to_list()
    lines = epoch_lines(values, "value", "entropy, share of the largest", (0.0, 1.0)).encode(
        color=colour("gate", gates, line=True),
        strokeDash=alt.StrokeDash("of:N", legend=None).scale(  # the caption tells
            domain=list(HOW), range=[[1, 0], [5, 3]]
        ),
        tooltip=["gate:N", "of:N", "epoch:Q", tip("value", "entropy", ".4f")],
    )
    return finished(*kept_epoch(best), lines)
