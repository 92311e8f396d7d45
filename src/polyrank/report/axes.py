"""How every chart looks: axes, colours, legends. Scales and ticks that a person can read.

Texts and lines take the page's own colour (`currentColor`), so that one chart serves light, dark
and print. Colours come from Okabe and Ito's palette, moved to a lightness that reads on both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import polars as pl

from polyrank.schema import Schema
from polyrank.terms import populations

BLUE, ORANGE, *_ = PALETTE = (
    "#2b7bba", "#d5652a", "#1b9277", "#a66fc4", "#b8901c", "#4fa8d8", "#c2497f", "#76862b",
    "#8f6a4a", "#5b63b5",
)  # fmt: skip
DASHES = ([1, 0], [7, 3], [2, 2], [9, 2, 2, 2])
GREY = "#8a8f96"
FONT = "system-ui, sans-serif"
HEIGHT = 220  # pixels
AXIS_WIDTH = 46  # pixels, of y axes that stand above each other
STROKE: dict[str, Any] = {"symbolType": "stroke", "symbolSize": 260}  # of a line's key
EXTENT: dict[str, Any] = {"minExtent": AXIS_WIDTH, "maxExtent": AXIS_WIDTH}


class Style(NamedTuple):
    """How one series is drawn."""

    colour: str
    dash: list[int]


def hues(schema: Schema) -> dict[str, str]:
    """Return the colour of each task, the same in all charts."""
    tasks = enumerate(task.name for task in schema.tasks)
    return {name: PALETTE[index % len(PALETTE)] for index, name in tasks}


def styles(schema: Schema, names: Iterable[str]) -> dict[str, Style]:
    """Return how the lines of scores are drawn: in the task's colour, told apart by dashes.

    A name that is no score takes a colour that no task has.

    Example:
        >>> from polyrank.schema import DenseFeature, Task
        >>> schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
        >>> styles(schema, ["buy @ all", "buy|click @ click"])["buy|click @ click"]
        Style(colour='#d5652a', dash=[7, 3])
    """
    owners = {
        name: where.task
        for where in populations(schema)
        for name in (where.name, where.on_all_rows)
    }
    colours, drawn = hues(schema), {}
    left = [each for each in PALETTE if each not in colours.values()] or PALETTE
    lines: dict[str, int] = {}
    for name in names:
        owner = owners.get(name, name)
        hue = colours.setdefault(owner, left[len(lines) % len(left)])
        drawn[name] = Style(hue, DASHES[lines.setdefault(owner, 0) % len(DASHES)])
        lines[owner] += 1
    return drawn


def drawn_on(frame: pl.DataFrame) -> alt.Chart:
    """Return a chart whose data stand in it; its fields need plain names."""
    return alt.Chart(frame)


def finished(*layers: alt.Chart, height: int = HEIGHT) -> alt.LayerChart:
    """Stack layers into one chart that is as wide as its place on the page."""
    text: dict[str, Any] = {"labelColor": "currentColor", "titleColor": "currentColor"}
    small: dict[str, Any] = {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"}
    return (
        alt.LayerChart(layer=list(layers))
        .properties(width="container", height=height)
        .configure(
            background="transparent",
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
            padding=alt.Padding(left=0, right=8, top=6, bottom=0),
            font=FONT,
        )
        .configure_view(stroke=None)
        .configure_axis(
            **text, **small, domainColor="currentColor", domainOpacity=0.4, titlePadding=8,
            gridColor="currentColor", gridOpacity=0.1, tickColor="currentColor", tickOpacity=0.4,
            titleOpacity=0.85, labelOpacity=0.85,
        )
        .configure_legend(
            **text, **small, orient="top", title=None, labelLimit=260,
            symbolStrokeWidth=2, symbolSize=60, offset=6, rowPadding=1,
        )
    )  # fmt: skip


def x_axis(
    field: str,
    title: str | None,
    domain: tuple[float, float],
    logarithmic: bool = False,
    *,
    labels: bool = True,
) -> alt.X:
    """Return a horizontal axis of numbers; without labels where another chart beneath has them."""
    axis = _axis(domain, logarithmic) | {"labels": labels, "ticks": labels}
    return alt.X(f"{field}:Q", title=title).scale(**_scale(domain, logarithmic)).axis(**axis)


def y_axis(field: str, title: str, domain: tuple[float, float], logarithmic: bool = False) -> alt.Y:
    """Return a vertical axis of numbers, as wide as those above and beneath it."""
    axis = _axis(domain, logarithmic) | EXTENT
    return alt.Y(f"{field}:Q", title=title).scale(**_scale(domain, logarithmic)).axis(**axis)


def _axis(domain: tuple[float, float], logarithmic: bool) -> dict[str, Any]:
    ticks: dict[str, Any] = {"tickCount": 5, "format": "~r"}
    if logarithmic:
        ticks = {"values": ticks_of(*domain), "format": "~g"}
    return {**ticks, "labelOverlap": "greedy"}


def ticks_of(low: float, high: float) -> list[float]:
    """Return where a logarithmic axis is labelled: few numbers, whatever it spans.

    Example:
        >>> ticks_of(0.004, 0.3), ticks_of(0.02, 0.06), ticks_of(2e-6, 0.7)
        ([0.01, 0.03, 0.1, 0.3], [0.02, 0.05], [1e-05, 0.0001, 0.001, 0.01, 0.1])
    """
    span = np.log10(high / low)
    steps = (1, 2, 5) if span < 1.3 else (1, 3) if span < 3 else (1,)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    # rounded to the digits that a person would write
    found = [float(f"{step}e{power}") for power in powers for step in steps]
    return [value for value in found if low <= value <= high]


def _scale(domain: tuple[float, float], logarithmic: bool) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": "log"} if logarithmic else {}
    return {**kind, "domain": list(domain), "nice": False, "clamp": True}


def square(*values: np.ndarray, floor: float | None = None) -> tuple[float, float]:
    """Return one domain for both axes, with a little room; it begins at a floor if one is given."""
    low = min(float(each.min()) for each in values) if floor is None else floor
    high = max(float(each.max()) for each in values)
    room = 0.04 * (high - low) if floor is None else 0.08 * abs(high)
    return low - (room if floor is None else 0.0), max(high + room, low * 1.08, low + 1e-12)


def diagonal(domain: tuple[float, float], x: alt.X, y: alt.Y) -> alt.Chart:
    """Return the line on which both axes agree."""
    ends = pl.DataFrame({str(axis["shorthand"]).partition(":")[0]: domain for axis in (x, y)})
    line = drawn_on(ends).mark_line(color="currentColor", opacity=0.45, strokeDash=[4, 4])
    return line.encode(x=x, y=y)


def floor_of(*values: np.ndarray) -> float:
    """Return where a logarithmic axis begins: a little below the smallest value above 0."""
    above = np.concatenate(values)
    above = above[above > 0]
    return float(above.min()) / 1.6 if len(above) else 1e-6


def decades(values: pl.Series) -> list[int]:
    """Return the powers of ten up to the largest value, so that few labels stand on the axis."""
    largest = max(int(values.max() or 1), 1)  # type: ignore[arg-type]
    return [10**power for power in range(len(str(largest)) + 1)]


def colour(field: str, names: Sequence[str], colours: Sequence[str]) -> alt.Color:
    """Return the colours of a series."""
    legend = alt.Legend(columns=_columns(names))
    return alt.Color(f"{field}:N", legend=legend).scale(domain=list(names), range=list(colours))


def lines(field: str, drawn: Mapping[str, Style]) -> dict[str, Any]:
    """Return the colours and dashes of series that are lines; a line is its key."""
    legend = alt.Legend(columns=_columns(list(drawn)), **STROKE)
    parts = zip(*drawn.values(), strict=True)
    return {
        channel: each(f"{field}:N", legend=legend).scale(domain=list(drawn), range=list(values))
        for (channel, each), values in zip(
            (("color", alt.Color), ("strokeDash", alt.StrokeDash)), parts, strict=True
        )
    }


def _columns(names: Sequence[str]) -> int:
    return len(names) if sum(map(len, names)) < 30 else 1


def tip(field: str, title: str, format: str) -> alt.Tooltip:
    """Return one number of what is shown on hovering."""
    return alt.Tooltip(f"{field}:Q", title=title, format=format)


def spec(chart: alt.LayerChart) -> dict[str, Any]:
    """Return a chart as JSON tables, without the address of its schema: a page loads nothing.

    They are not validated, which takes most of a page's time; the tests do.
    """
    table = chart.to_dict(validate=False)
    return {key: value for key, value in table.items() if key != "$schema"}
