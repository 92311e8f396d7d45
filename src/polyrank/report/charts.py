"""Charts: small plain data in, a Vega-Lite chart out. Nothing here reads a bundle or a row.

Texts and lines take the page's own colour (`currentColor`), so that one chart serves light, dark
and print. Colours come from Okabe and Ito's palette, moved to a lightness that reads on both; no
chart leans on colour alone where a dash or a direct label can tell as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from polyrank.report.curves import Agreement, Histogram, Reliability

BLUE, ORANGE, GREEN, PURPLE, OCHRE, SKY = PALETTE = (
    "#2b7bba", "#d5652a", "#1b9277", "#a66fc4", "#b8901c", "#4fa8d8",
)  # fmt: skip
GREY = "#8a8f96"
FONT = "system-ui, sans-serif"
HEIGHT = 220  # pixels
AXIS_WIDTH = 46  # pixels, of y axes that stand above each other
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def training(losses: pl.DataFrame, title: str, best: int | None) -> alt.LayerChart:
    """Return a term's loss over the epochs.

    Args:
        losses: `epoch`, `rows` ("training" or "validation"), `loss`.
        title: of the y axis, with its unit.
        best: the epoch that was kept.
    """
    lines = _epoch_lines(losses, "loss", title).encode(
        color=_colour("rows", ["training", "validation"], [GREY, BLUE]),
        strokeDash=alt.StrokeDash("rows:N", legend=None).scale(
            domain=["training", "validation"], range=[[5, 3], [1, 0]]
        ),
        tooltip=["rows:N", "epoch:Q", _tip("loss", "loss", ".5f")],
    )
    return _finished(*_best(best), lines)


def by_epoch(values: pl.DataFrame, title: str, best: int | None = None) -> alt.LayerChart:
    """Return one line a series over the epochs.

    Args:
        values: `epoch`, `series`, `value`.
        title: of the y axis, with its unit.
        best: the epoch that was kept.
    """
    names = values["series"].unique(maintain_order=True).to_list()
    lines = _epoch_lines(values, "value", title).encode(
        color=_colour("series", names),
        tooltip=["series:N", "epoch:Q", _tip("value", title, ".5f")],
    )
    return _finished(*_best(best), lines)


def reliability(bins: Reliability, *, logarithmic: bool) -> alt.LayerChart:
    """Return what happened against what was predicted, with intervals and the diagonal."""
    low = _floor(bins.prediction, bins.observed) if logarithmic else 0.0
    drawn = {"predicted": bins.prediction, "observed": bins.observed}
    drawn |= {"low": bins.low, "high": bins.high}
    frame = pl.DataFrame(
        {
            **{name: np.maximum(values, low) for name, values in drawn.items()},
            "share": bins.observed,
            "rows": bins.rows,
            "positives": bins.positives,
        }
    )
    domain = (low, max(float(values.max()) for values in drawn.values()))
    x = _x("predicted", "predicted, mean of the bin", domain, logarithmic)
    title = "observed, share of positives"
    base = _drawn_on(frame).encode(x=x)
    whiskers = base.mark_rule(color=BLUE, opacity=0.5, strokeWidth=1.5).encode(
        y=_y("low", title, domain, logarithmic), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=42, color=BLUE, opacity=1).encode(
        y=_y("observed", title, domain, logarithmic),
        tooltip=[
            _tip("predicted", "predicted", ".4~g"),
            _tip("share", "observed", ".4~g"),
            _tip("low", "95 % interval from", ".4~g"),
            _tip("high", "to", ".4~g"),
            _tip("rows", "rows", ","),
            _tip("positives", "positives", ","),
        ],
    )
    return _finished(_diagonal(domain, x, _y("y", title, domain, logarithmic)), whiskers, points)


def counts(bins: Reliability, *, logarithmic: bool) -> alt.LayerChart:
    """Return how many rows and positives stand behind each point of `reliability`."""
    low = _floor(bins.prediction, bins.observed) if logarithmic else 0.0
    high = max(float(each.max()) for each in (bins.prediction, bins.observed, bins.high))
    kinds = {"rows": bins.rows, "positives": bins.positives}
    frame = pl.concat(
        pl.DataFrame({"predicted": np.maximum(bins.prediction, low), "count": values, "of": name})
        for name, values in kinds.items()
    ).filter(pl.col("count") > 0)
    lines = (
        _drawn_on(frame)
        .mark_line(point={"size": 22, "filled": True}, strokeWidth=1.5)
        .encode(
            x=_x("predicted", "", (low, high), logarithmic).axis(labels=False, ticks=False),
            y=alt.Y("count:Q", title="count")
            .scale(type="log", domainMin=1, nice=True)
            .axis(format="~s", values=_decades(frame["count"]), **_EXTENT),
            color=_colour("of", list(kinds), [GREY, BLUE]),
            tooltip=["of:N", _tip("count", "count", ",")],
        )
    )
    return _finished(lines, height=84)


def agreement(bins: Agreement, *, logarithmic: bool) -> alt.LayerChart:
    """Return true probabilities against estimated ones: means, and the spread in each bin."""
    low = _floor(bins.estimate, bins.truth) if logarithmic else 0.0
    drawn = {"estimate": bins.estimate, "truth": bins.truth, "low": bins.low, "high": bins.high}
    frame = pl.DataFrame(
        {**{name: np.maximum(each, low) for name, each in drawn.items()}, "rows": bins.rows}
    )
    domain = (low, max(float(values.max()) for values in drawn.values()))
    x = _x("estimate", "estimated, mean of the bin", domain, logarithmic)
    title = "true probability"
    base = _drawn_on(frame).encode(x=x)
    spread = base.mark_area(color=GREEN, opacity=0.2).encode(
        y=_y("low", title, domain, logarithmic), y2="high:Q"
    )
    means = base.mark_line(color=GREEN, point={"size": 36, "filled": True, "color": GREEN}).encode(
        y=_y("truth", title, domain, logarithmic),
        tooltip=[
            _tip("estimate", "estimated", ".4~g"),
            _tip("truth", "true, mean", ".4~g"),
            _tip("low", "true, 10 %", ".4~g"),
            _tip("high", "true, 90 %", ".4~g"),
            _tip("rows", "rows", ","),
        ],
    )
    return _finished(spread, _diagonal(domain, x, _y("y", title, domain, logarithmic)), means)


def roc(curves: Curves) -> alt.LayerChart:
    """Return the ROC curves of several scores."""
    frame = _curves_frame(curves, "false", "true")
    x = _x("false", "false positive rate", (0.0, 1.0))
    y = _y("true", "true positive rate", (0.0, 1.0))
    lines = _drawn_on(frame).mark_line(strokeWidth=2).encode(
        x=x, y=y, color=_colour("score", list(curves)), order="order:Q", tooltip=["score:N"]
    )  # fmt: skip
    return _finished(_diagonal((0.0, 1.0), x, y.copy(), fields=("false", "true")), lines)


def precision_recall(curves: Curves, base_rates: Mapping[str, float]) -> alt.LayerChart:
    """Return precision against recall of several scores, on a logarithmic precision axis.

    Args:
        curves: recall and precision, by score.
        base_rates: what a random order would reach, by score; dashed.
    """
    frame = _curves_frame(curves, "recall", "precision")
    floor = min([*base_rates.values(), *frame["precision"].to_list()]) / 1.5
    x, domain = _x("recall", "recall", (0.0, 1.0)), (floor, 1.0)
    colour = _colour("score", list(curves))
    lines = _drawn_on(frame).mark_line(strokeWidth=2).encode(
        x=x, y=_y("precision", "precision", domain, logarithmic=True), color=colour,
        order="order:Q", tooltip=["score:N", _tip("recall", "recall", ".3f"),
                                  _tip("precision", "precision", ".4~g")],
    )  # fmt: skip
    rates = pl.DataFrame({"score": list(base_rates), "precision": list(base_rates.values())})
    rules = _drawn_on(rates).mark_rule(strokeDash=[3, 3], opacity=0.7).encode(
        y=_y("precision", "precision", domain, logarithmic=True), color=colour,
        tooltip=["score:N", _tip("precision", "base rate", ".4~g")],
    )  # fmt: skip
    return _finished(rules, lines, height=HEIGHT + 40)


def histogram(bins: Histogram, *, logarithmic: bool) -> alt.LayerChart:
    """Return how predictions spread, as each label's own shares."""
    parts = {"label 0": bins.negatives, "label 1": bins.positives}
    frame = pl.concat(
        pl.DataFrame(
            {
                "from": bins.edges[:-1],
                "to": bins.edges[1:],
                "share": counted / max(int(counted.sum()), 1),
                "rows": counted,
                "label": name,
            }
        )
        for name, counted in parts.items()
    )
    domain = (float(bins.edges[0]), float(bins.edges[-1]))
    bars = _drawn_on(frame).mark_rect(opacity=0.5).encode(
        x=_x("from", "predicted", domain, logarithmic),
        x2="to:Q",
        y=alt.Y("share:Q", title="share of the label's rows").axis(format="~%", **_EXTENT),
        y2=alt.datum(0),
        color=_colour("label", list(parts), [GREY, ORANGE]),
        tooltip=["label:N", _tip("from", "from", ".4~g"), _tip("to", "to", ".4~g"),
                 _tip("rows", "rows", ",")],
    )  # fmt: skip
    return _finished(bars)


def heatmap(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    titles: tuple[str, str],
    measure: str,
    domain: tuple[float, float] = (0.0, 1.0),
) -> alt.LayerChart:
    """Return a grid of numbers, written and coloured.

    Args:
        values: (rows, columns).
        rows: names.
        columns: names.
        titles: of the y and the x axis.
        measure: what a number is.
        domain: of the colours.
    """
    frame = pl.DataFrame(
        [
            {"row": row, "column": column, "value": float(values[r, c])}
            for r, row in enumerate(rows)
            for c, column in enumerate(columns)
        ]
    )
    middle = (domain[0] + domain[1]) / 2
    base = _drawn_on(frame).encode(
        x=alt.X("column:N", title=titles[1], sort=list(columns)).axis(
            labelAngle=0, labelLimit=70, domain=False, ticks=False
        ),
        y=alt.Y("row:N", title=titles[0], sort=list(rows)).axis(
            labelLimit=110, domain=False, ticks=False
        ),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=measure, legend=None).scale(
            scheme="blues", domain=list(domain), clamp=True
        ),
        tooltip=["row:N", "column:N", _tip("value", measure, ".4f")],
    )
    dark = alt.condition(alt.datum.value > middle, alt.value("#ffffff"), alt.value("#1b1f23"))
    numbers = base.mark_text(fontSize=11).encode(text=alt.Text("value:Q", format=".2f"), color=dark)
    return _finished(cells, numbers, height=max(34 * len(rows), 40))


def shares(values: np.ndarray, names: Sequence[str], title: str) -> alt.LayerChart:
    """Return a bar a name, such as how much each expert is used.

    Args:
        values: (names,), shares of 1.
        names: of the bars.
        title: of the axis.
    """
    frame = pl.DataFrame({"name": list(names), "share": np.asarray(values, np.float64)})
    base = _drawn_on(frame).encode(
        y=alt.Y("name:N", title=None, sort=list(names)).axis(labelLimit=110, ticks=False),
        x=alt.X("share:Q", title=title).axis(format="~%", tickCount=5),
        tooltip=["name:N", _tip("share", title, ".2%")],
    )
    return _finished(base.mark_bar(color=BLUE, height=14), height=max(26 * len(names), 40))


def trade_off(points: pl.DataFrame) -> alt.LayerChart:
    """Return one metric against another while a weight moves.

    Args:
        points: `weight`, then the two metrics, each named as its axis should be.
    """
    weight, first, second = points.columns[:3]
    # Names of metrics have brackets and dots, which a field of Vega would read as a path.
    frame = points.select(
        pl.col(weight).alias("weight"), pl.col(first).alias("x"), pl.col(second).alias("y")
    )
    base = _drawn_on(frame).encode(
        x=alt.X("x:Q", title=first).scale(zero=False).axis(tickCount=5),
        y=alt.Y("y:Q", title=second).scale(zero=False).axis(tickCount=5, **_EXTENT),
        order="weight:Q",
    )
    line = base.mark_line(color=PURPLE, point={"filled": True, "color": PURPLE}).encode(
        tooltip=[_tip("weight", weight, ".3~g"), _tip("x", first, ".4f"), _tip("y", second, ".4f")]
    )
    labels = base.mark_text(dx=7, dy=-7, align="left", fontSize=10, color="currentColor").encode(
        text=alt.Text("weight:Q", format=".3~g")
    )
    return _finished(line, labels)


def spec(chart: alt.LayerChart) -> dict[str, Any]:
    """Return a chart as JSON tables, without the address of its schema: a page loads nothing."""
    return {key: value for key, value in chart.to_dict().items() if key != "$schema"}


_EXTENT = {"minExtent": AXIS_WIDTH, "maxExtent": AXIS_WIDTH}


def _drawn_on(frame: pl.DataFrame) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=frame.to_dicts()))


def _finished(*layers: alt.Chart, height: int = HEIGHT) -> alt.LayerChart:
    """Stack layers into one chart that is as wide as its place on the page."""
    text = {"labelColor": "currentColor", "titleColor": "currentColor"}
    small = {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"}
    return (
        alt.layer(*layers)
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
            **text, **small, orient="top", direction="vertical", title=None, labelLimit=260,
            symbolStrokeWidth=2, symbolSize=60, offset=6, rowPadding=1,
        )
    )  # fmt: skip


def _epoch_lines(frame: pl.DataFrame, value: str, title: str) -> alt.Chart:
    epochs = frame["epoch"].unique().sort().to_list()
    step = max(len(epochs) // 8, 1)
    x = alt.X("epoch:Q", title="epoch").axis(values=epochs[::step], format="d", grid=False)
    x = x.scale(domain=[epochs[0] - 0.3, epochs[-1] + 0.3], nice=False)
    y = alt.Y(f"{value}:Q", title=title).scale(zero=False, padding=8)
    mark = _drawn_on(frame).mark_line(point={"size": 36, "filled": True}, strokeWidth=2)
    return mark.encode(x=x, y=y.axis(tickCount=5, **_EXTENT))


def _best(epoch: int | None) -> list[alt.Chart]:
    """Return a line at the epoch that was kept."""
    if epoch is None:
        return []
    frame = pl.DataFrame({"epoch": [epoch], "what": ["kept"]})
    rule = _drawn_on(frame).mark_rule(color="currentColor", opacity=0.35, strokeDash=[2, 3])
    return [rule.encode(x="epoch:Q", tooltip=[_tip("epoch", "kept epoch", "d")])]


def _x(field: str, title: str, domain: tuple[float, float], logarithmic: bool = False) -> alt.X:
    axis = {"tickCount": 5, "format": "~g", "labelOverlap": "greedy"}
    return (
        alt.X(f"{field}:Q", title=title or None).scale(**_scale(domain, logarithmic)).axis(**axis)
    )


def _y(field: str, title: str, domain: tuple[float, float], logarithmic: bool = False) -> alt.Y:
    axis = {"tickCount": 5, "format": "~g", "labelOverlap": "greedy", **_EXTENT}
    return alt.Y(f"{field}:Q", title=title).scale(**_scale(domain, logarithmic)).axis(**axis)


def _scale(domain: tuple[float, float], logarithmic: bool) -> dict[str, Any]:
    if not logarithmic:
        return {"domain": list(domain), "nice": False, "clamp": True}
    return {"type": "log", "domain": list(domain), "nice": False, "clamp": True}


def _diagonal(
    domain: tuple[float, float], x: alt.X, y: alt.Y, fields: tuple[str, str] | None = None
) -> alt.Chart:
    """Return the line of perfect agreement."""
    names = fields or (str(x.to_dict()["field"]), "y")
    ends = pl.DataFrame({names[0]: list(domain), names[1]: list(domain)})
    line = _drawn_on(ends).mark_line(color="currentColor", opacity=0.45, strokeDash=[4, 4])
    return line.encode(x=x, y=y)


def _floor(*values: np.ndarray) -> float:
    """Return where a logarithmic axis begins: a little below the smallest value above 0."""
    above = np.concatenate(values)
    above = above[above > 0]
    return float(above.min()) / 1.6 if len(above) else 1e-6


def _decades(values: pl.Series) -> list[int]:
    """Return the powers of ten up to the largest value, so that few labels stand on the axis."""
    largest = max(int(values.max() or 1), 1)  # type: ignore[arg-type]
    return [10**power for power in range(len(str(largest)) + 1)]


def _curves_frame(curves: Curves, x: str, y: str) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame(
            {x: first.round(6), y: second.round(6), "score": name, "order": range(len(first))}
        )
        for name, (first, second) in curves.items()
    )


def _colour(field: str, names: Sequence[str], colours: Sequence[str] = PALETTE) -> alt.Color:
    """Return the colours of a series; beyond the palette they begin anew."""
    chosen = [colours[index % len(colours)] for index in range(len(names))]
    return alt.Color(f"{field}:N").scale(domain=list(names), range=chosen)


def _tip(field: str, title: str, format: str) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", title=title, format=format)
