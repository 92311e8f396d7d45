"""Charts: small plain data in, a Vega-Lite chart out. Nothing here reads a bundle or a row.

First how every chart looks: axes, colours, legends, scales and ticks that a person can read. Texts
and lines take the page's own colour (`currentColor`), so that one chart serves light, dark and
print. Colours come from Okabe and Ito's palette, moved to a lightness that reads on both; no chart
leans on colour alone where a dash or a direct label can tell as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import polars as pl

from polyrank.debias.propensity import EDGES, PropensityUse
from polyrank.report.curves import (
    Agreement,
    Coverage,
    GroupMeans,
    Histogram,
    Reliability,
    Residuals,
)
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
LABEL_ROOM = 0.09  # of a chart's width, which a short number takes
# Columns of a grid in which there is room for numbers, and for numbers with a sign.
WRITTEN_COLUMNS, SIGNED_COLUMNS = 10, 6
NARROWEST = 270  # pixels that a grid's columns share on a narrow screen
LETTER = 6.5  # pixels
ENTROPIES = ("one row", "all rows together")
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


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
    """Return where a logarithmic axis is labelled: few numbers, whatever it spans."""
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
    line = alt.Chart(ends).mark_line(color="currentColor", opacity=0.45, strokeDash=[4, 4])
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


BIN_TIPS = [tip("from", "from", ".4~g"), tip("to", "to", ".4~g"), tip("rows", "rows", ",")]


def training(losses: pl.DataFrame, title: str, best: int | None, hue: str) -> alt.LayerChart:
    """Return a term's loss over the epochs: `epoch`, `rows`, `loss`; `best` is the one kept."""
    drawn = {"training": Style(GREY, [5, 3]), "validation": Style(hue, [1, 0])}
    curves = epoch_lines(losses, "loss", title).encode(
        **lines("rows", drawn), tooltip=["rows:N", "epoch:Q", tip("loss", "loss", ".5f")]
    )
    return finished(*kept_epoch(best), curves)


def by_epoch(
    values: pl.DataFrame,
    title: str,
    best: int | None,
    drawn: Mapping[str, Style],
    domain: tuple[float, float] | None = None,
) -> alt.LayerChart:
    """Return one line a series over the epochs: `epoch`, `series`, `value`."""
    curves = epoch_lines(values, "value", title, domain).encode(
        **lines("series", drawn),
        tooltip=["series:N", "epoch:Q", tip("value", title, ".5f")],
    )
    return finished(*kept_epoch(best), curves)


def reliability(
    bins: Reliability, before: Reliability | None = None, *, logarithmic: bool, hue: str
) -> alt.LayerChart:
    """Return what happened against what was predicted, with intervals and the diagonal.

    The same rows before calibration are a muted line without intervals.
    """
    low, _ = domain = _reach(bins, before, logarithmic)
    x = x_axis("predicted", "predicted, mean of the bin", domain, logarithmic)
    title = "observed, share of positives"
    y = y_axis("observed", title, domain, logarithmic)
    tips = [
        tip("predicted", "predicted", ".4~g"),
        tip("share", "observed", ".4~g"),
        tip("low", "95 % interval from", ".4~g"),
        tip("high", "to", ".4~g"),
        tip("rows", "rows", ","),
        tip("positives", "positives", ","),
    ]
    layers, series = [diagonal(domain, x, y)], alt.value(hue)
    names = ("before calibration", "calibrated")
    if before is not None:
        series = colour("of", names, [GREY, hue])
        line = alt.Chart(_reliability_frame(names[0], before, low)).mark_line(
            strokeWidth=1.5, opacity=0.85, point={"filled": True, "size": 18}
        )
        layers.append(line.encode(x=x, y=y, color=series, tooltip=["of:N", *tips]))
    base = alt.Chart(_reliability_frame(names[1], bins, low)).encode(x=x)
    whiskers = base.mark_rule(color=hue, opacity=0.5, strokeWidth=1.5).encode(
        y=y_axis("low", title, domain, logarithmic), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=42, opacity=1)
    return finished(*layers, whiskers, points.encode(y=y, color=series, tooltip=tips))


def counts(
    bins: Reliability, before: Reliability | None = None, *, logarithmic: bool, hue: str
) -> alt.LayerChart:
    """Return how many rows and positives stand behind each point of `reliability`, on its axis."""
    low, _ = domain = _reach(bins, before, logarithmic)
    kinds = {"rows": bins.rows, "positives": bins.positives}
    frame = pl.concat(
        pl.DataFrame({"predicted": np.maximum(bins.prediction, low), "count": values, "of": name})
        for name, values in kinds.items()
    ).filter(pl.col("count") > 0)
    lines = (
        alt.Chart(frame)
        .mark_line(point={"size": 22, "filled": True}, strokeWidth=1.5)
        .encode(
            x=x_axis("predicted", None, domain, logarithmic, labels=False),
            y=alt.Y("count:Q", title="count")
            .scale(type="log", domainMin=1, nice=True)
            .axis(format="~s", values=decades(frame["count"]), **EXTENT),
            color=colour("of", list(kinds), [GREY, hue]),
            tooltip=["of:N", tip("count", "count", ",")],
        )
    )
    return finished(lines, height=84)


def _reach(bins: Reliability, before: Reliability | None, logarithmic: bool) -> tuple[float, float]:
    """Return one domain for both axes."""
    parts = [bins] if before is None else [bins, before]
    drawn = [each for part in parts for each in (part.prediction, part.observed)]
    low = floor_of(*drawn) if logarithmic else 0.0
    return square(*drawn, bins.high, floor=low)


def _reliability_frame(name: str, bins: Reliability, low: float) -> pl.DataFrame:
    drawn = {"predicted": bins.prediction, "observed": bins.observed}
    drawn |= {"low": bins.low, "high": bins.high}
    return pl.DataFrame(
        {
            "of": [name] * len(bins.rows),
            **{each: np.maximum(values, low) for each, values in drawn.items()},
            "share": bins.observed,
            "rows": bins.rows,
            "positives": bins.positives,
        }
    )


def agreement(
    bins: Agreement,
    *,
    hue: str,
    logarithmic: bool = False,
    titles: tuple[str, str] = ("estimated, mean of the bin", "true probability"),
    floor: float | None = 0.0,
) -> alt.LayerChart:
    """Return what is true against what was estimated: means, and the spread in each bin.

    Linear axes begin at `floor`; None is at the smallest value.
    """
    drawn = {"estimate": bins.estimate, "truth": bins.truth, "low": bins.low, "high": bins.high}
    if logarithmic:
        floor = floor_of(bins.estimate, bins.truth)
        drawn = {name: np.maximum(each, floor) for name, each in drawn.items()}
    frame = pl.DataFrame({**drawn, "rows": bins.rows})
    domain = square(*drawn.values(), floor=floor)
    x = x_axis("estimate", titles[0], domain, logarithmic)
    y = y_axis("truth", titles[1], domain, logarithmic)
    base = alt.Chart(frame).encode(x=x)
    spread = base.mark_area(color=hue, opacity=0.2).encode(
        y=y_axis("low", titles[1], domain, logarithmic), y2="high:Q"
    )
    means = base.mark_line(color=hue, point={"size": 36, "filled": True, "color": hue}).encode(
        y=y,
        tooltip=[
            tip("estimate", titles[0], ".4~g"),
            tip("truth", f"{titles[1]}, mean", ".4~g"),
            tip("low", "10 % are below", ".4~g"),
            tip("high", "10 % are above", ".4~g"),
            tip("rows", "rows", ","),
        ],
    )
    return finished(spread, diagonal(domain, x, y), means)


def coverage(bins: Coverage, levels: Sequence[float], *, hue: str) -> alt.LayerChart:
    """Return the share of labels at or below each quantile; the rules are their levels."""
    frame = pl.concat(
        pl.DataFrame(
            {"middle": bins.middle, "share": shares, "rows": bins.rows, "level": f"{level:g}"}
        )
        for level, shares in zip(levels, bins.shares.T, strict=True)
    )
    low, high = float(bins.middle.min()), float(bins.middle.max())
    x = x_axis("middle", "predicted middle quantile, mean of the bin", (low, high))
    y = y_axis("share", "share of labels at or below", (0.0, 1.0))
    rules = alt.Chart(pl.DataFrame({"share": list(levels)})).mark_rule(color=GREY, strokeWidth=1)
    paths = alt.Chart(frame).mark_line(color=hue, point={"size": 30, "filled": True, "color": hue})
    paths = paths.encode(
        x=x, y=y, detail="level:N",
        tooltip=[
            alt.Tooltip("level:N", title="quantile"), tip("share", "share at or below", ".3f"),
            tip("rows", "rows", ","),
        ],
    )  # fmt: skip
    return finished(rules.encode(y=y), paths)


def by_group(groups: GroupMeans, title: str, *, hue: str) -> alt.LayerChart:
    """Return predicted against observed means by group, and the spread of what was observed."""
    drawn = {"predicted": Style(hue, [1, 0]), "observed": Style(GREY, [5, 3])}
    about = {"group": groups.names, "low": groups.low, "high": groups.high, "rows": groups.rows}
    frame = pl.DataFrame(about)
    means = pl.concat(
        frame.with_columns(series=pl.lit(name), value=getattr(groups, name)) for name in drawn
    )
    x = alt.X("group:O", title=title, sort=list(groups.names)).axis(
        labelAngle=-40, labelLimit=110, labelOverlap=True
    )
    y = alt.Y("value:Q", title="mean").scale(zero=True)
    spread = alt.Chart(frame).mark_area(color=GREY, opacity=0.2)
    spread = spread.encode(x=x, y=alt.Y("low:Q", title="mean"), y2="high:Q")
    paths = alt.Chart(means).mark_line(point={"size": 30, "filled": True}).encode(
        x=x, y=y, **lines("series", drawn),
        tooltip=[
            "group:N", "series:N", tip("value", "mean", ".4~g"),
            tip("low", "10 % are observed below", ".4~g"),
            tip("high", "10 % are observed above", ".4~g"), tip("rows", "rows", ","),
        ],
    )  # fmt: skip
    return finished(spread, paths)


def roc(curves: Curves, drawn: Mapping[str, Style]) -> alt.LayerChart:
    """Return the ROC curves of several scores."""
    frame = _curves_frame(curves, "false", "true")
    x = x_axis("false", "false positive rate", (0.0, 1.0))
    y = y_axis("true", "true positive rate", (0.0, 1.0))
    paths = alt.Chart(frame).mark_line(strokeWidth=2)
    paths = paths.encode(x=x, y=y, **lines("score", drawn), order="order:Q", tooltip=["score:N"])
    return finished(diagonal((0.0, 1.0), x, y), paths)


def precision_recall(
    curves: Curves, base_rates: Mapping[str, float], drawn: Mapping[str, Style]
) -> alt.LayerChart:
    """Return precision against recall of several scores, on a logarithmic precision axis.

    Thin and level: the base rates, which a random order would reach.
    """
    # Where nothing is found yet, precision is 0: a logarithmic axis has no place for it.
    frame = _curves_frame(curves, "recall", "precision").filter(pl.col("precision") > 0)
    smallest = min([*base_rates.values(), *frame["precision"].to_list()])
    x, domain = x_axis("recall", "recall", (0.0, 1.0)), (smallest / 1.5, 1.0)
    y, series = y_axis("precision", "precision", domain, logarithmic=True), lines("score", drawn)
    rate = tip("precision", "base rate", ".4~g")
    tips = ["score:N", tip("recall", "recall", ".3f"), tip("precision", "precision", ".4~g")]
    paths = alt.Chart(frame).mark_line(strokeWidth=2)
    paths = paths.encode(x=x, y=y, **series, order="order:Q", tooltip=tips)
    rates = pl.DataFrame({"score": list(base_rates), "precision": list(base_rates.values())})
    rules = alt.Chart(rates).mark_rule(opacity=0.6, strokeWidth=1)
    rules = rules.encode(y=y, **series, tooltip=["score:N", rate])
    return finished(paths, rules, height=HEIGHT + 40)


def histogram(bins: Histogram, *, logarithmic: bool, hue: str) -> alt.LayerChart:
    """Return how predictions spread, as each label's own shares."""
    parts = {"label 0": bins.negatives, "label 1": bins.positives}
    frame = pl.concat(
        _shares(bins.edges, rows).with_columns(label=pl.lit(name)) for name, rows in parts.items()
    )
    bars = _bars(frame, ("predicted", "share of the label's rows"), logarithmic)
    legend = colour("label", list(parts), [GREY, hue])
    return finished(bars.encode(color=legend, tooltip=["label:N", *BIN_TIPS]))


def _shares(edges: np.ndarray, rows: np.ndarray) -> pl.DataFrame:
    share = rows / max(int(rows.sum()), 1)
    return pl.DataFrame({"from": edges[:-1], "to": edges[1:], "share": share, "rows": rows})


def _bars(frame: pl.DataFrame, titles: tuple[str, str], logarithmic: bool = False) -> alt.Chart:
    """Return bars of `_shares`; the titles are those of the x and the y axis."""
    domain = (float(frame["from"].min()), float(frame["to"].max()))  # type: ignore[arg-type]
    return alt.Chart(frame).mark_rect(opacity=0.5).encode(
        x=x_axis("from", titles[0], domain, logarithmic),
        x2="to:Q",
        y=alt.Y("share:Q", title=titles[1]).axis(format="~%", **EXTENT),
        y2=alt.datum(0),
    )  # fmt: skip


def propensities(use: PropensityUse, *, hue: str) -> alt.LayerChart:
    """Return how the propensities of a debiased task's rows spread, and the floor."""
    edges = np.array(EDGES)
    frame = pl.DataFrame({"from": edges[:-1], "to": edges[1:], "share": use.shares})
    bars = _bars(frame, ("propensity", "share of the rows"), logarithmic=True)
    tips = [tip("from", "from", ".2~g"), tip("to", "to", ".2~g"), tip("share", "share", ".1%")]
    bars = bars.encode(color=alt.value(hue), tooltip=tips)
    domain = (EDGES[0], EDGES[-1])
    floor = alt.Chart(pl.DataFrame({"at": [max(use.floor, EDGES[0])]}))
    rule = floor.mark_rule(color="currentColor", opacity=0.6, strokeDash=[4, 4])
    return finished(bars, rule.encode(x=x_axis("at", "propensity", domain, logarithmic=True)))


def residuals(bins: Residuals, *, hue: str) -> alt.LayerChart:
    """Return how observed values spread around predicted ones."""
    x, domain = "observed − predicted", (float(bins.edges[0]), float(bins.edges[-1]))
    bars = _bars(_shares(bins.edges, bins.rows), (x, "share of the rows"))
    bars = bars.encode(color=alt.value(hue), tooltip=BIN_TIPS)
    marks = {"no error": 0.0, "mean": bins.mean}
    rules = alt.Chart(pl.DataFrame({"what": list(marks), "at": list(marks.values())}))
    rules = rules.mark_rule(color="currentColor", opacity=0.6).encode(
        x=x_axis("at", x, domain),
        strokeDash=alt.StrokeDash("what:N", legend=alt.Legend(columns=2, **STROKE)).scale(
            domain=list(marks), range=[[4, 4], [1, 0]]
        ),
        tooltip=["what:N", tip("at", "at", ".4~g")],
    )
    return finished(bars, rules)


def trade_off(points: pl.DataFrame, *, hue: str) -> alt.LayerChart:
    """Return one metric against another while a weight moves: columns named as their axes."""
    weight, first, second = points.columns[:3]
    # Names of metrics have brackets and dots, which a field of Vega would read as a path.
    frame = points.select(
        pl.col(weight).alias("weight"), pl.col(first).alias("x"), pl.col(second).alias("y")
    )
    frame = frame.with_columns(written=_apart(frame["x"].to_numpy(), frame["y"].to_numpy()))
    base = alt.Chart(frame).encode(
        x=alt.X("x:Q", title=first).scale(zero=False, padding=14).axis(tickCount=5),
        y=alt.Y("y:Q", title=second).scale(zero=False, padding=14).axis(tickCount=5, **EXTENT),
        order="weight:Q",
    )
    line = base.mark_line(color=hue, point={"filled": True, "color": hue}).encode(
        tooltip=[tip("weight", weight, ".3~g"), tip("x", first, ".4f"), tip("y", second, ".4f")]
    )
    labels = base.transform_filter("datum.written").mark_text(
        dx=7, dy=-7, align="left", fontSize=10, color="currentColor"
    ).encode(text=alt.Text("weight:Q", format=".3~g"))  # fmt: skip
    return finished(line, labels)


def _apart(x: np.ndarray, y: np.ndarray) -> pl.Series:
    """Return which points can be written beside: those far enough from the ones before them."""
    x, y = ((each - each.min()) / max(np.ptp(each), 1e-12) for each in (x, y))
    written: list[int] = []
    for point in range(len(x)):
        if all(np.hypot(x[point] - x[w], y[point] - y[w]) > LABEL_ROOM for w in written):
            written.append(point)
    return pl.Series([point in written for point in range(len(x))])


def epoch_lines(
    frame: pl.DataFrame, value: str, title: str, domain: tuple[float, float] | None = None
) -> alt.Chart:
    """Return lines over the epochs, whose series the caller encodes."""
    epochs = frame["epoch"].unique().sort().to_list()
    step = max(len(epochs) // 8, 1)
    x = alt.X("epoch:Q", title="epoch").axis(values=epochs[::step], format="d", grid=False)
    x = x.scale(domain=[epochs[0] - 0.3, epochs[-1] + 0.3], nice=False, zero=False)
    y = alt.Y(f"{value}:Q", title=title)
    y = y.scale(domain=domain, nice=False) if domain else y.scale(zero=False, padding=8)
    mark = alt.Chart(frame).mark_line(point={"size": 36, "filled": True}, strokeWidth=2)
    return mark.encode(x=x, y=y.axis(tickCount=5, **EXTENT))


def kept_epoch(epoch: int | None) -> list[alt.Chart]:
    """Return a line at the epoch that was kept."""
    if epoch is None:
        return []
    frame = pl.DataFrame({"epoch": [epoch], "what": ["kept"]})
    rule = alt.Chart(frame).mark_rule(color="currentColor", opacity=0.35, strokeDash=[2, 3])
    return [
        rule.encode(x=alt.X("epoch:Q").scale(zero=False), tooltip=[tip("epoch", "kept epoch", "d")])
    ]


def _curves_frame(curves: Curves, x: str, y: str) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame(
            {x: first.round(6), y: second.round(6), "score": name, "order": range(len(first))}
        )
        for name, (first, second) in curves.items()
    )


def grid(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    titles: tuple[str, str],
    measure: str,
    signed: bool = False,
) -> alt.LayerChart:
    """Return shares from 0 to 1, or from −1 if `signed`, written and coloured; None is empty.

    The titles are those of the y and the x axis; `measure` says what a number is.
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
    base = alt.Chart(frame).encode(
        x=alt.X("column:N", title=titles[1]).scale(domain=list(columns)).axis(
            labelAngle=-40 if turned else 0, labelLimit=110, **quiet
        ),
        y=alt.Y("row:N", title=titles[0]).scale(domain=list(rows)).axis(labelLimit=110, **quiet),
    )  # fmt: skip
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=measure, legend=None).scale(
            scheme="redblue" if signed else "blues", domain=[-1 if signed else 0, 1], clamp=True
        ),
        tooltip=["row:N", "column:N", tip("value", measure, ".4f")],
    )
    height = max(30 * len(rows), 40)
    if len(columns) > (SIGNED_COLUMNS if signed else WRITTEN_COLUMNS):
        return finished(cells, height=height)
    strong = alt.expr.abs(alt.datum.value) > 0.5
    dark = alt.condition(strong, alt.value("#ffffff"), alt.value("#1b1f23"))
    numbers = base.mark_text(fontSize=11).encode(text=alt.Text("value:Q", format=".2f"), color=dark)
    return finished(cells, numbers, height=height)


def by_expert(
    values: Sequence[float],
    names: Sequence[str],
    title: str,
    reference: Sequence[float] | None = None,
) -> alt.LayerChart:
    """Return a bar an expert, such as how much each is used, in shares of 1.

    The reference, what each would be if all were alike, is a mark across the bar.
    """
    bars = _named_bars(values, names, ("expert", title), "%", BLUE)
    height = max(26 * len(names), 40)
    if reference is None:
        return finished(bars, height=height)
    even = pl.DataFrame({"name": list(names), "value": list(map(float, reference))})
    marks = alt.Chart(even).mark_tick(color="currentColor", thickness=2, size=20).encode(
        x=bars.encoding.x, y=bars.encoding.y,
        tooltip=["name:N", tip("value", "if all were used alike", ".2%")],
    )  # fmt: skip
    return finished(bars, marks, height=height)


def by_feature(
    values: Mapping[str, float], title: str, *, hue: str, shares: bool = False
) -> alt.LayerChart:
    """Return a bar a feature, or a field of one; shares are written as such."""
    form = "%" if shares else "f"
    bars = _named_bars(list(values.values()), list(values), ("feature", title), form, hue)
    return finished(bars, height=max(20 * len(values), 40))


def drops(
    values: Sequence[tuple[str, float, float | None, float | None]], title: str, *, hue: str
) -> alt.LayerChart:
    """Return a point a feature, its interval where it has one, and a line at 0.

    The values are a name, a number, and the ends of its interval.
    """
    frame = pl.DataFrame(
        [dict(zip(("name", "value", "low", "high"), each, strict=True)) for each in values],
        schema={"name": pl.String, **dict.fromkeys(("value", "low", "high"), pl.Float64)},
    )
    names = frame["name"].to_list()
    y = alt.Y("name:N", title=None, sort=names).axis(labelLimit=130, ticks=False)
    x = alt.X("value:Q", title=title).axis(format="~g", tickCount=5, labelOverlap="greedy")
    base = alt.Chart(frame).encode(
        y=y,
        tooltip=[
            "name:N", tip("value", title, "+.5f"), tip("low", "95 % from", "+.5f"),
            tip("high", "to", "+.5f"),
        ],
    )  # fmt: skip
    nothing = alt.Chart(pl.DataFrame({"zero": [0.0]})).mark_rule(
        color="currentColor", opacity=0.45, strokeDash=[4, 4]
    )
    whiskers = base.transform_filter("isValid(datum.low)").mark_rule(
        color=hue, strokeWidth=2, opacity=0.6
    )
    layers = [nothing.encode(x=alt.X("zero:Q", title=title)), whiskers.encode(x="low:Q", x2="high")]
    points = base.mark_point(color=hue, size=42, filled=True, opacity=1).encode(x=x)
    return finished(*layers, points, height=max(20 * len(names), 40))


def dependence(curve: pl.DataFrame, feature: str, output: str, *, hue: str) -> alt.LayerChart:
    """Return the mean output over a number, and the band of the rows' own curves.

    The columns are `value`, `mean`, `low`, `high`.
    """
    low, high = (float(f(curve["value"])) for f in (min, max))
    x = x_axis("value", feature, (low, high) if low < high else (low - 0.5, high + 0.5))
    y = alt.Y("mean:Q", title=output).scale(zero=False, padding=6)
    y = y.axis(tickCount=4, format="~r", **EXTENT)
    base = alt.Chart(curve.select("value", "mean", "low", "high")).encode(x=x)
    band = base.mark_area(color=hue, opacity=0.2).encode(
        y=alt.Y("low:Q", title=output).scale(zero=False), y2="high:Q"
    )
    line = base.mark_line(color=hue, point={"size": 24, "filled": True, "color": hue}).encode(
        y=y,
        tooltip=[
            tip("value", feature, ".5~g"), tip("mean", output, ".4~g"),
            tip("low", "10 % of the curves are below", ".4~g"),
            tip("high", "10 % are above", ".4~g"),
        ],
    )  # fmt: skip
    return finished(band, line, height=120)


def _named_bars(
    values: Sequence[float], names: Sequence[str], titles: tuple[str, str], form: str, hue: str
) -> alt.Chart:
    """Return a bar a name, in the order given; the titles are those of the y and the x axis."""
    frame = pl.DataFrame({"name": list(names), "value": list(map(float, values))})
    y = alt.Y("name:N", title=titles[0], sort=list(names)).axis(labelLimit=110, ticks=False)
    x = alt.X("value:Q", title=titles[1]).axis(
        format=f"~{form}", tickCount=5, labelOverlap="greedy"
    )  # fmt: skip
    bars = alt.Chart(frame).mark_bar(color=hue, height=14)
    tips = ["name:N", tip("value", titles[1], ".2%" if form == "%" else f".4{form}")]
    return bars.encode(x=x, y=y, tooltip=tips)


def shrinkage(
    curves: pl.DataFrame, deciles: pl.DataFrame, drawn: Mapping[str, Style]
) -> alt.LayerChart:
    """Return how much of what its rows say is kept of an id's effect, by what they tell.

    Both have the columns `field`, `information`, `kept`: the curves many points, and the deciles
    one for each tenth of the ids.
    """
    low, high = (float(f(curves["information"])) for f in (min, max))
    x = x_axis("information", "information of an id", (low, high), logarithmic=True)
    y = y_axis("kept", "share that is kept", (0.0, 1.0))
    series = lines("field", drawn)
    paths = alt.Chart(curves).mark_line(strokeWidth=1.5).encode(x=x, y=y, **series)
    points = alt.Chart(deciles).mark_point(filled=True, size=34, opacity=1).encode(
        x=x, y=y, color=series["color"],
        tooltip=[
            "field:N", tip("tenths", "share of the ids below", ".0%"),
            tip("information", "information", ".3~g"), tip("kept", "kept", ".1%"),
        ],
    )  # fmt: skip
    return finished(paths, points)


def spreads(quantiles: pl.DataFrame, title: str, colours: Mapping[str, str]) -> alt.LayerChart:
    """Return the middle 90 % and 50 % of values, and their median, a line a name.

    The columns are `name`, the keys of `colours`, and `low`, `first`, `middle`, `third`, `high`.
    """
    y = alt.Y("name:N", title=None, sort=list(colours)).axis(labelLimit=170, ticks=False)
    paint = alt.Color("name:N", legend=None).scale(
        domain=list(colours), range=list(colours.values())
    )
    parts = {"low": "5 %", "first": "25 %", "middle": "50 %", "third": "75 %", "high": "95 %"}
    tips = ["name:N", *(tip(field, share, ".3~f") for field, share in parts.items())]
    base = alt.Chart(quantiles).encode(y=y, tooltip=tips)
    x = alt.X("low:Q", title=title).axis(tickCount=5, format="~r", labelOverlap="greedy")
    whiskers = base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q", color=paint)
    boxes = base.mark_bar(height=12).encode(
        x=alt.X("first:Q", title=title), x2="third:Q", color=paint
    )
    middles = base.mark_tick(color="currentColor", thickness=2, size=18).encode(
        x=alt.X("middle:Q", title=title)
    )
    return finished(whiskers, boxes, middles, height=max(28 * len(colours), 40))


def entropies(values: pl.DataFrame, best: int | None, colours: Mapping[str, str]) -> alt.LayerChart:
    """Return each gate's entropies over the epochs: of a row's weights, and of their mean.

    The columns are `epoch`, `gate`, `of` (one of `ENTROPIES`), `value` (share of the largest).
    """
    curves = epoch_lines(values, "value", "entropy, share of the largest", (0.0, 1.0)).encode(
        color=alt.Color("gate:N", legend=alt.Legend(columns=1, **STROKE)).scale(
            domain=list(colours), range=list(colours.values())
        ),
        strokeDash=alt.StrokeDash("of:N", legend=None).scale(  # the caption tells
            domain=list(ENTROPIES), range=[[1, 0], [5, 3]]
        ),
        tooltip=["gate:N", "of:N", "epoch:Q", tip("value", "entropy", ".4f")],
    )
    return finished(*kept_epoch(best), curves)
