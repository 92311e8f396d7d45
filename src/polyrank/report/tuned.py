"""The page of a search: what was found, the way there, which keys mattered, and every trial."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from html import escape
from math import log
from statistics import mean, stdev

import altair as alt
import polars as pl

from polyrank.report.blocks import (
    Block,
    Cell,
    Code,
    Figure,
    Note,
    Paragraph,
    ReportTable,
    Section,
)
from polyrank.report.charts import BLUE, EXTENT, GREY, ORANGE, finished, tip
from polyrank.report.page import document
from polyrank.text import counted
from polyrank.tune.space import Searched, label
from polyrank.tune.spec import Choices
from polyrank.tune.tuned import AS_GIVEN, Trial, Tuned

SHORT = 17  # letters of a choice on an axis
STATES = {"complete": BLUE, "pruned": GREY}


def tuned_page(found: Tuned, *, written: datetime) -> str:
    """Return the page as HTML that needs nothing beside it."""
    facts = [counted(len(found.trials), "trial"), counted(len(found.finalists), "finalist")]
    headline = (
        f'<p class="kind">polyrank tune</p><h1>{escape(found.objective)}</h1>'
        f"<p>{escape(' · '.join([*facts, f'winner: {found.winner.name}']))}</p>"
    )
    sections = [_outcome(found), _way(found), _keys(found), _trials(found)]
    return document(f"{found.objective} · polyrank tune", headline, sections, written=written)


def _outcome(found: Tuned) -> Section:
    text = (
        f"Each finalist was trained with {counted(len(found.winner.values), 'seed')}; the best "
        f"mean of {found.objective} on validation rows won. Test rows were read after that, once."
    )
    rows = []
    for each in found.finalists:
        values, against = list(each.values.values()), found.against(each)
        rows.append(
            (
                Cell(each.name),
                Cell(f"{mean(values):.4f}", f"± {stdev(values):.4f}"),
                Cell("–" if against is None else str(against)),
                Cell(_settings(each.changes)),
            )
        )
    header = ("finalist", f"{found.objective} (valid)", "less the file", "settings")
    blocks: list[Block] = [Paragraph(text), ReportTable(header, tuple(rows), (0, 3))]
    if not found.scores:
        blocks.append(Note("There are no test rows: how much of this is luck, nothing says."))
    elif found.winner.name == AS_GIVEN:
        blocks.append(Note("No setting that was tried beats the file as it is."))
    else:
        blocks.append(_tests(found))
        blocks.append(Code("\n".join(f"{k} = {label(v)}" for k, v in found.winner.changes.items())))
    return Section("What was found", tuple(blocks))


def _tests(found: Tuned) -> ReportTable:
    before, after = found.scores[AS_GIVEN], found.scores[found.winner.name]
    rows = [
        (
            Cell(score),
            Cell(metric),
            Cell(f"{before.value(score, metric).mean:.4f}"),
            Cell(f"{after.value(score, metric).mean:.4f}"),
            Cell(str(difference)),
        )
        for score, metric, difference in found.tests
    ]
    note = "* the 95 % interval over seeds (Student's t of paired differences) excludes 0"
    header = ("test rows", "metric", "the file as it is", found.winner.name, "difference")
    return ReportTable(header, tuple(rows), (0, 1), (note,))


def _way(found: Tuned) -> Section:
    figure = Figure(
        "Trial by trial", "Each trial's best epoch, with one seed; the line is the best so far.",
        (by_trial(found.trials, found.objective, higher=found.higher),), wide=True,
    )  # fmt: skip
    text = (
        "The best of many trials is partly lucky: its value with one seed is above what it gives "
        "with others. That is why finalists are trained again."
    )
    return Section("The search", (Paragraph(text), figure))


def _keys(found: Tuned) -> Section:
    blocks: list[Block] = []
    if found.importance:
        blocks.append(
            Figure(
                "Importance", "Share of each key in what tells the best complete trials from all "
                "(PED-ANOVA).", (importance(found.importance),), wide=True,
            )
        )  # fmt: skip
    else:
        blocks.append(Note("Too few complete trials to tell which keys matter."))
    blocks.append(
        Figure(
            "Settings side by side", "A line a complete trial, from key to key; the darker and "
            "warmer, the better. Each axis runs from its least to its most, choices in order.",
            (parallel(found),), wide=True,
        )
    )  # fmt: skip
    return Section("What mattered", tuple(blocks))


def _trials(found: Tuned) -> Section:
    own = {each.key: each.own for each in found.space}
    rows = []
    for each in found.trials:
        changes = {key: value for key, value in each.changes.items() if value != own[key]}
        rows.append(
            (
                Cell(str(each.number)),
                Cell("–" if each.value is None else f"{each.value:.4f}"),
                Cell(each.state, each.reason),
                Cell(str(len(each.epochs))),
                Cell(f"{each.seconds:.1f}"),
                Cell(_settings(changes)),
            )
        )
    header = ("trial", found.objective, "ended", "epochs", "seconds", "settings")
    return Section("All trials", (ReportTable(header, tuple(rows), (0, 2, 5)),))


def _settings(changes: Mapping[str, object]) -> str:
    return "; ".join(f"{key} {label(each)}" for key, each in changes.items()) or "as in the file"


def by_trial(trials: tuple[Trial, ...], title: str, *, higher: bool) -> alt.LayerChart:
    """Return a point a trial, and the best complete one so far."""
    lines, best = [], None
    for each in trials:
        if each.value is None:
            continue
        if each.state == "complete" and (best is None or (each.value > best) == higher):
            best = each.value
        lines.append({"trial": each.number, "value": each.value, "ended": each.state, "best": best})
    frame = pl.DataFrame(lines, schema_overrides={"best": pl.Float64})
    x = alt.X("trial:Q", title="trial").axis(tickMinStep=1)
    y = alt.Y("value:Q", title=title).scale(zero=False, padding=8).axis(tickCount=5, **EXTENT)
    colours = alt.Color("ended:N").scale(domain=list(STATES), range=list(STATES.values()))
    points = alt.Chart(frame).mark_point(size=40, filled=True, opacity=0.8)
    step = alt.Chart(frame.drop_nulls("best")).mark_line(
        interpolate="step-after", color=ORANGE, strokeWidth=2
    )
    return finished(
        step.encode(x=x, y=alt.Y("best:Q", title=title).scale(zero=False)),
        points.encode(
            x=x, y=y, color=colours,
            shape=alt.Shape("ended:N").scale(domain=list(STATES), range=["circle", "cross"]),
            tooltip=["trial:Q", "ended:N", tip("value", title, ".5f")],
        ),
    )  # fmt: skip


def importance(shares: Mapping[str, float]) -> alt.LayerChart:
    """Return a bar a key, the most important first."""
    order = sorted(shares, key=lambda key: -shares[key])
    frame = pl.DataFrame({"key": order, "share": [shares[key] for key in order]})
    bars = alt.Chart(frame).mark_bar(height=12, color=BLUE)
    y = alt.Y("key:N", title=None, sort=order).axis(labelLimit=220, ticks=False)
    x = alt.X("share:Q", title="share").axis(format=".0%", tickCount=5)
    return finished(
        bars.encode(y=y, x=x, tooltip=["key:N", tip("share", "share", ".1%")]),
        height=max(26 * len(order), 40),
    )


def parallel(found: Tuned) -> alt.LayerChart:
    """Return parallel coordinates: an axis a key and one of the objective, a line a trial."""
    complete = [each for each in found.trials if each.state == "complete"]
    values = [each.value for each in complete if each.value is not None]
    axes = [*(each.key for each in found.space), found.objective]
    lines, low, high = [], min(values, default=0.0), max(values, default=0.0)
    for each in complete:
        assert each.value is not None
        at = (each.value - low) / (high - low) if high > low else 0.5
        rank = at if found.higher else 1 - at
        places = [
            (one.key, place(one, each.changes[one.key]), label(each.changes[one.key]))
            for one in found.space
        ]
        for axis, height, shown in [*places, (found.objective, at, f"{each.value:.4f}")]:
            lines.append(
                {"trial": each.number, "axis": axis, "height": height, "shown": shown, "rank": rank}
            )  # fmt: skip
    types = {"trial": pl.Int64, "axis": pl.String, "height": pl.Float64, "shown": pl.String,
             "rank": pl.Float64}  # fmt: skip
    frame = pl.DataFrame(lines, schema=types)
    x = alt.X("axis:N", title=None, sort=axes).axis(
        labelAngle=-30, labelLimit=150, domain=False, ticks=False, grid=True
    )
    y = alt.Y("height:Q", title=None).scale(domain=[0, 1], padding=6).axis(None)
    warmth = alt.Color("rank:Q", legend=None).scale(domain=[0, 1], range=[GREY, BLUE, ORANGE])
    curves = alt.Chart(frame).mark_line(strokeWidth=1.6).encode(
        x=x, y=y, detail="trial:N", color=warmth,
        opacity=alt.Opacity("rank:Q", legend=None).scale(domain=[0, 1], range=[0.2, 0.95]),
        tooltip=["trial:N", "axis:N", "shown:N"],
    )  # fmt: skip
    points = alt.Chart(frame).mark_point(size=26, filled=True).encode(
        x=x, y=y, color=warmth, tooltip=["trial:N", "axis:N", "shown:N"]
    )  # fmt: skip
    ends = pl.DataFrame(_ends(found, low, high))
    text = alt.Chart(ends).mark_text(fontSize=9, color="currentColor", opacity=0.85, dy=-8)
    return finished(curves, points, text.encode(x=x, y=y, text="shown:N"), height=300)


def place(searched: Searched, value: object) -> float:
    """Return where a value lies on its axis, from 0 to 1."""
    where = searched.where
    if isinstance(where, Choices):
        return where.values.index(value) / (len(where.values) - 1)
    low, high, at = (float(each) for each in (where.low, where.high, value))  # type: ignore[arg-type]
    if where.log:
        low, high, at = log(low), log(high), log(at)
    return (at - low) / (high - low)


def short(value: object) -> str:
    """Return a value in so few letters that axes beside each other have room.

    Examples:
        >>> short({"kind": "shared_bottom", "hidden": [256]}), short({"folds": 4}), short(0.25)
        ('shared_bottom 256', 'on', '0.25')
    """
    if isinstance(value, Mapping):
        if "kind" not in value:
            return "on"
        value = " ".join([value["kind"], *([label(value["hidden"])] if "hidden" in value else [])])
    shown = label(value)
    return shown if len(shown) <= SHORT else f"{shown[: SHORT - 1]}…"


def _ends(found: Tuned, low: float, high: float) -> list[dict[str, object]]:
    """Return the words at the ends of each axis, and at each choice."""
    lines: list[dict[str, object]] = []
    for each in found.space:
        where = each.where
        values = where.values if isinstance(where, Choices) else (where.low, where.high)
        lines += [
            {"axis": each.key, "height": place(each, value), "shown": short(value)}
            for value in values
        ]
    for height, value in ((0.0, low), (1.0, high)):
        lines.append({"axis": found.objective, "height": height, "shown": f"{value:.4f}"})
    return lines
