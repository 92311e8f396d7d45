"""Charts: small plain data in, a Vega-Lite chart out. Nothing here reads a bundle or a row.

No chart leans on colour alone where a dash or a direct label can tell as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import numpy as np
import polars as pl

from polyrank.report.axes import (
    BLUE,
    EXTENT,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    PURPLE,
    colour,
    decades,
    diagonal,
    drawn_on,
    finished,
    floor_of,
    square,
    tip,
    x_axis,
    y_axis,
)
from polyrank.report.curves import Agreement, Histogram, Reliability

LABEL_ROOM = 0.09  # of a chart's width, which a short number takes
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def training(losses: pl.DataFrame, title: str, best: int | None) -> alt.LayerChart:
    """Return a term's loss over the epochs.

    Args:
        losses: `epoch`, `rows` ("training" or "validation"), `loss`.
        title: of the y axis, with its unit.
        best: the epoch that was kept.
    """
    lines = epoch_lines(losses, "loss", title).encode(
        color=colour("rows", ["training", "validation"], [GREY, BLUE], line=True),
        strokeDash=alt.StrokeDash("rows:N").scale(
            domain=["training", "validation"], range=[[5, 3], [1, 0]]
        ),
        tooltip=["rows:N", "epoch:Q", tip("loss", "loss", ".5f")],
    )
    return finished(*kept_epoch(best), lines)


def by_epoch(
    values: pl.DataFrame,
    title: str,
    best: int | None = None,
    domain: tuple[float, float] | None = None,
) -> alt.LayerChart:
    """Return one line a series over the epochs.

    Args:
        values: `epoch`, `series`, `value`.
        title: of the y axis, with its unit.
        best: the epoch that was kept.
        domain: of the y axis; that of the values by default.
    """
    names = values["series"].unique(maintain_order=True).to_list()
    lines = epoch_lines(values, "value", title, domain).encode(
        color=colour("series", names, line=True),
        tooltip=["series:N", "epoch:Q", tip("value", title, ".5f")],
    )
    return finished(*kept_epoch(best), lines)


def reliability(
    bins: Reliability, before: Reliability | None = None, *, logarithmic: bool
) -> alt.LayerChart:
    """Return what happened against what was predicted, with intervals and the diagonal.

    Args:
        bins: of the probabilities.
        before: of the same rows before calibration; a muted line without intervals.
        logarithmic: both axes.
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
    layers, series = [diagonal(domain, x, y)], alt.value(BLUE)
    names = ("before calibration", "calibrated")
    if before is not None:
        series = colour("of", names, [GREY, BLUE])
        line = drawn_on(_reliability_frame(names[0], before, low)).mark_line(
            strokeWidth=1.5, opacity=0.85, point={"filled": True, "size": 18}
        )
        layers.append(line.encode(x=x, y=y, color=series, tooltip=["of:N", *tips]))
    base = drawn_on(_reliability_frame(names[1], bins, low)).encode(x=x)
    whiskers = base.mark_rule(color=BLUE, opacity=0.5, strokeWidth=1.5).encode(
        y=y_axis("low", title, domain, logarithmic), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=42, opacity=1)
    return finished(*layers, whiskers, points.encode(y=y, color=series, tooltip=tips))


def counts(
    bins: Reliability, before: Reliability | None = None, *, logarithmic: bool
) -> alt.LayerChart:
    """Return how many rows and positives stand behind each point of `reliability`.

    Args:
        bins: of the probabilities.
        before: what `reliability` was given, so that the axes agree.
        logarithmic: the x axis.
    """
    low, _ = domain = _reach(bins, before, logarithmic)
    kinds = {"rows": bins.rows, "positives": bins.positives}
    frame = pl.concat(
        pl.DataFrame({"predicted": np.maximum(bins.prediction, low), "count": values, "of": name})
        for name, values in kinds.items()
    ).filter(pl.col("count") > 0)
    lines = (
        drawn_on(frame)
        .mark_line(point={"size": 22, "filled": True}, strokeWidth=1.5)
        .encode(
            x=x_axis("predicted", None, domain, logarithmic, labels=False),
            y=alt.Y("count:Q", title="count")
            .scale(type="log", domainMin=1, nice=True)
            .axis(format="~s", values=decades(frame["count"]), **EXTENT),
            color=colour("of", list(kinds), [GREY, BLUE]),
            tooltip=["of:N", tip("count", "count", ",")],
        )
    )
    return finished(lines, height=84)


def _reach(bins: Reliability, before: Reliability | None, logarithmic: bool) -> tuple[float, float]:
    """Return one domain for both axes."""
    parts = [bins] if before is None else [bins, before]
    drawn = [each for part in parts for each in (part.prediction, part.observed)]
    low = floor_of(*drawn) if logarithmic else 0.0
    return square(low, *drawn, bins.high)


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


def agreement(bins: Agreement, *, logarithmic: bool) -> alt.LayerChart:
    """Return true probabilities against estimated ones: means, and the spread in each bin."""
    low = floor_of(bins.estimate, bins.truth) if logarithmic else 0.0
    drawn = {"estimate": bins.estimate, "truth": bins.truth, "low": bins.low, "high": bins.high}
    frame = pl.DataFrame(
        {**{name: np.maximum(each, low) for name, each in drawn.items()}, "rows": bins.rows}
    )
    domain = square(low, *drawn.values())
    x = x_axis("estimate", "estimated, mean of the bin", domain, logarithmic)
    title = "true probability"
    y = y_axis("truth", title, domain, logarithmic)
    base = drawn_on(frame).encode(x=x)
    spread = base.mark_area(color=GREEN, opacity=0.2).encode(
        y=y_axis("low", title, domain, logarithmic), y2="high:Q"
    )
    means = base.mark_line(color=GREEN, point={"size": 36, "filled": True, "color": GREEN}).encode(
        y=y,
        tooltip=[
            tip("estimate", "estimated", ".4~g"),
            tip("truth", "true, mean", ".4~g"),
            tip("low", "true, 10 %", ".4~g"),
            tip("high", "true, 90 %", ".4~g"),
            tip("rows", "rows", ","),
        ],
    )
    return finished(spread, diagonal(domain, x, y), means)


def roc(curves: Curves) -> alt.LayerChart:
    """Return the ROC curves of several scores."""
    frame = _curves_frame(curves, "false", "true")
    x = x_axis("false", "false positive rate", (0.0, 1.0))
    y = y_axis("true", "true positive rate", (0.0, 1.0))
    lines = drawn_on(frame).mark_line(strokeWidth=2).encode(
        x=x, y=y, color=colour("score", list(curves)), order="order:Q", tooltip=["score:N"]
    )  # fmt: skip
    return finished(diagonal((0.0, 1.0), x, y), lines)


def precision_recall(curves: Curves, base_rates: Mapping[str, float]) -> alt.LayerChart:
    """Return precision against recall of several scores, on a logarithmic precision axis.

    Args:
        curves: recall and precision, by score.
        base_rates: what a random order would reach, by score; dashed.
    """
    # Where nothing is found yet, precision is 0: a logarithmic axis has no place for it.
    frame = _curves_frame(curves, "recall", "precision").filter(pl.col("precision") > 0)
    smallest = min([*base_rates.values(), *frame["precision"].to_list()])
    x, domain = x_axis("recall", "recall", (0.0, 1.0)), (smallest / 1.5, 1.0)
    series = colour("score", list(curves))
    lines = drawn_on(frame).mark_line(strokeWidth=2).encode(
        x=x, y=y_axis("precision", "precision", domain, logarithmic=True), color=series,
        order="order:Q", tooltip=["score:N", tip("recall", "recall", ".3f"),
                                  tip("precision", "precision", ".4~g")],
    )  # fmt: skip
    rates = pl.DataFrame({"score": list(base_rates), "precision": list(base_rates.values())})
    rules = drawn_on(rates).mark_rule(strokeDash=[3, 3], opacity=0.7).encode(
        y=y_axis("precision", "precision", domain, logarithmic=True), color=series,
        tooltip=["score:N", tip("precision", "base rate", ".4~g")],
    )  # fmt: skip
    return finished(rules, lines, height=HEIGHT + 40)


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
    bars = drawn_on(frame).mark_rect(opacity=0.5).encode(
        x=x_axis("from", "predicted", domain, logarithmic),
        x2="to:Q",
        y=alt.Y("share:Q", title="share of the label's rows").axis(format="~%", **EXTENT),
        y2=alt.datum(0),
        color=colour("label", list(parts), [GREY, ORANGE]),
        tooltip=["label:N", tip("from", "from", ".4~g"), tip("to", "to", ".4~g"),
                 tip("rows", "rows", ",")],
    )  # fmt: skip
    return finished(bars)


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
    frame = frame.with_columns(written=_apart(frame["x"].to_numpy(), frame["y"].to_numpy()))
    base = drawn_on(frame).encode(
        x=alt.X("x:Q", title=first).scale(zero=False, padding=14).axis(tickCount=5),
        y=alt.Y("y:Q", title=second).scale(zero=False, padding=14).axis(tickCount=5, **EXTENT),
        order="weight:Q",
    )
    line = base.mark_line(color=PURPLE, point={"filled": True, "color": PURPLE}).encode(
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
    mark = drawn_on(frame).mark_line(point={"size": 36, "filled": True}, strokeWidth=2)
    return mark.encode(x=x, y=y.axis(tickCount=5, **EXTENT))


def kept_epoch(epoch: int | None) -> list[alt.Chart]:
    """Return a line at the epoch that was kept."""
    if epoch is None:
        return []
    frame = pl.DataFrame({"epoch": [epoch], "what": ["kept"]})
    rule = drawn_on(frame).mark_rule(color="currentColor", opacity=0.35, strokeDash=[2, 3])
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
