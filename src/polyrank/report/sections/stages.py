"""What first stages say: the effects of ids, what trees split by, and what the network adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from math import exp, sqrt

import numpy as np
import polars as pl

from polyrank.metrics.registry import METRICS
from polyrank.report import charts
from polyrank.report.blocks import (
    Block,
    Cell,
    Figure,
    Heading,
    Paragraph,
    ReportTable,
    Section,
)
from polyrank.report.curves import Z_95
from polyrank.report.evidence import Evidence
from polyrank.report.first_stages import MOST_EFFECTS, QUANTILES, FirstStagesUse
from polyrank.report.sections.scores import number
from polyrank.stages.effects import DECILES, FieldEffects, IdEffect
from polyrank.stages.stage import margin_name
from polyrank.terms import own_population

MOST_FIELDS = 15  # of a chart of bars
MOST_OUTPUTS = 4  # of a head that are shown one by one
MOST_LINES = 8  # of a chart of lines
CURVE_POINTS = 25
LONGEST = 60  # letters of an id


@dataclass(frozen=True)
class _Scale:
    """The unit in which a head's effects are read."""

    label: str | None  # None where effects multiply: odds, and means
    unit: float = 1.0
    of_means: bool = False

    @property
    def deviations(self) -> str:
        if self.label is not None:
            return f"deviation, units of {self.label}"
        return "deviation of the log of the mean" if self.of_means else "deviation, logits"

    @property
    def effects(self) -> str:
        if self.label is not None:
            return f"effect, units of {self.label}"
        return "ratio of means" if self.of_means else "odds ratio"

    def shown(self, effect: float) -> str:
        """Return an effect as a person reads it."""
        if self.label is not None:
            return number(effect * self.unit)
        return f"{exp(effect * self.unit):.3g}".removeprefix("0").replace("-", "−")


def first_stages(evidence: Evidence) -> Section | None:
    """Return what the first stages say of each head, and what the network makes of it."""
    use = evidence.first
    if use is None:
        return None
    names, colours, hues = {}, {}, charts.hues(evidence.schema)
    detailed: list[str] = []
    for task in evidence.schema.tasks:
        predicted, kind = own_population(evidence.schema, task).predicted, task.label_kind
        questions = {margin_name(task, at): kind.question(at) for at in range(kind.outputs)}
        own = {name: each for name, each in questions.items() if name in use.heads}
        for name, question in own.items():
            names[name] = f"{predicted} {question}".strip()
            colours[name] = hues[task.name]
        detailed += list(own)[:MOST_OUTPUTS]
    text = (
        "First stages are fitted out of fold, before or beside the network. The margin of one is "
        "added to what the network gives for a head; the network reads the others too."
    )
    blocks: list[Block] = [Paragraph(text), _together(use, names)]
    if use.gains:
        blocks.append(_worth(use))
    if use.changes:
        blocks.append(_changes(use, names))
    if use.effects:
        blocks.append(Paragraph(_reading(use)))
    for head in detailed:
        blocks += _head(use, head, names[head], colours[head])
    if len(detailed) < len(names):
        left = len(names) - len(detailed)
        text = f"Of a head with many outputs, those after the first {MOST_OUTPUTS} have no charts: "
        blocks.append(Paragraph(f"{text}{left:,} here."))
    return Section("First stages", tuple(blocks))


def _together(use: FirstStagesUse, names: Mapping[str, str]) -> ReportTable:
    """Return what is added to each head, and by how much the network changes it."""
    header, rows = ["head", "added", "also read"], []
    notes: tuple[str, ...] = ()
    if use.changes:
        header += [f"network, {share * 100:g} %" for share in QUANTILES]
        unit = " (of a number, in deviations of the label)" if use.units else ""
        notes = (f"Network: on that share of the rows it adds less than this to a logit{unit}.",)
    for head, name in names.items():
        added, *others = use.stages[head]
        found = [Cell(name), Cell(added), Cell(", ".join(others) or "–")]
        rows.append((*found, *(Cell(number(each)) for each in use.changes.get(head, ()))))
    return ReportTable(tuple(header), tuple(rows), (0, 1, 2), notes)


def _worth(use: FirstStagesUse) -> ReportTable:
    """Return each score of the margins alone, and with the network."""
    header = ("score", "metric", "first stages alone", "with the network")
    rows = tuple(
        (
            Cell(name), Cell(METRICS[each.metric].title), Cell(number(each.alone)),
            Cell(number(each.together)),
        )
        for name, each in use.gains.items()
    )  # fmt: skip
    shown = [METRICS[name] for name in dict.fromkeys(each.metric for each in use.gains.values())]
    lower = [f"{each.title}: lower is better." for each in shown if each.higher_is_better is False]
    notes = ("Both before calibration.", *lower)
    return ReportTable(header, rows, (0, 1), notes=notes)


def _changes(use: FirstStagesUse, names: Mapping[str, str]) -> Figure:
    """Return how far margins differ from row to row, and how far the network changes them."""
    hues, lines = {}, []
    for head, name in names.items():
        for what, found, hue in (
            ("first stage", use.margins, charts.GREY),
            ("network", use.changes, charts.BLUE),
        ):
            title = f"{name}, {what}"
            hues[title] = hue
            lines.append((title, *found[head]))
    frame = pl.DataFrame(lines, orient="row", schema=["name", *_BOX])
    caption = (
        "Box: half of the rows; line: 90 % of them. Grey: the margin around its mean. Blue: what "
        "the network adds to it. A blue box as wide as the grey one: the network decides as much "
        "as the first stage; a mere line at 0: it found nothing to add."
    )
    unit = "logits" if not use.units else "logits, or deviations of a label that is a number"
    return Figure("What the network adds", caption, (charts.spreads(frame, unit, hues),))


_BOX = ("low", "first", "middle", "third", "high")


def _reading(use: FirstStagesUse) -> str:
    """Say how to read what stands by head."""
    text = (
        "Each id has an effect of its own on a head, against the mean of its field's ids, which is "
        "shrunk towards 0. By how much is estimated: the prior's deviation says how far the ids "
        "of a field differ. Information is what the rows of an id tell, the sum of p(1 − p) over "
        "them: of rows at 10 %, eleven tell 1."
    )
    if use.units:
        text += " Where the label is a number, a row tells 1 ÷ its residual variance."
    return text


def _head(use: FirstStagesUse, head: str, name: str, hue: str) -> Iterator[Block]:
    label = head if head in use.units else None
    unit = use.units.get(head, use.ratios.get(head, 1.0))
    scale = _Scale(label, unit, head in use.ratios)
    fields = [each for each in use.effects if each.head == head and each.ids]
    fields.sort(key=lambda each: -each.deviation)
    if fields:
        yield _priors(fields, name, scale, hue)
        yield _shrinkage(fields[:MOST_LINES], name)
    for stage, shares in use.importance.items():
        if shares.get(head):
            yield _importance(shares[head], stage, name, hue)
    if fields:
        yield Heading(f"{name}: the largest effects")
        yield _largest(fields, scale)


def _priors(fields: list[FieldEffects], name: str, scale: _Scale, hue: str) -> Figure:
    drawn = {each.field: each.deviation * scale.unit for each in fields[:MOST_FIELDS]}
    ids = ", ".join(f"{each.field} {each.ids:,}" for each in fields[:MOST_FIELDS])
    caption = (
        "How far the ids of a field differ, whatever their number of rows: the prior's standard "
        f"deviation. Ids that training rows tell of: {ids}.{_rest(len(fields), len(drawn))}"
    )
    picture = charts.by_feature(drawn, scale.deviations, hue=hue)
    return Figure(f"{name}: how far ids differ", caption, (picture,))


def _shrinkage(fields: list[FieldEffects], name: str) -> Figure:
    curves, deciles = [], []
    for each in fields:
        low, high = each.deciles[0], each.deciles[-1]
        along = np.geomspace(low, max(high, low * 1.01), CURVE_POINTS).tolist()
        tenths = zip(each.deciles, DECILES.tolist(), strict=True)
        curves += [(each.field, at, each.kept(at)) for at in along]
        deciles += [(each.field, at, each.kept(at), share) for at, share in tenths]
    columns = ["field", "information", "kept"]
    styles = {
        each.field: charts.Style(
            charts.PALETTE[at % len(charts.PALETTE)], charts.DASHES[at % len(charts.DASHES)]
        )
        for at, each in enumerate(fields)
    }
    picture = charts.shrinkage(
        pl.DataFrame(curves, orient="row", schema=columns),
        pl.DataFrame(deciles, orient="row", schema=[*columns, "tenths"]),
        styles,
    )
    caption = (
        "Nine points a field part its ids into tenths. Near the foot, ids have too few rows for "
        "their field, and effects of almost 0; near the top, they speak for themselves."
    )
    return Figure(f"{name}: shrinkage", caption, (picture,))


def _importance(shares: Mapping[str, float], stage: str, name: str, hue: str) -> Figure:
    drawn = dict(list(shares.items())[:MOST_FIELDS])
    caption = (
        "Share of the gain in training loss that the splits by a feature gave; high for what has "
        f"many values to split by, so no measure of cause.{_rest(len(shares), len(drawn))}"
    )
    picture = charts.by_feature(drawn, "share of the gain", hue=hue, shares=True)
    return Figure(f"{name}: what {stage} split by", caption, (picture,))


def _rest(all_of_them: int, drawn: int) -> str:
    left = all_of_them - drawn
    return f" The {drawn} largest; {left:,} more are left out." if left else ""


def _largest(fields: list[FieldEffects], scale: _Scale) -> ReportTable:
    header = ("id", scale.effects, "information", "kept")
    rows = tuple(
        (
            Cell(f"{field.field}: {_short(each.id)}"),
            Cell(scale.shown(each.effect), _interval(each, scale)),
            Cell(number(each.information)),
            Cell(f"{field.kept(each.information) * 100:.0f} %"),
        )
        for field, each in _in_turn(fields)
    )
    notes = [
        "In brackets: 95 % intervals, effect ± 1.96 ÷ √precision, the other effects given. An "
        "odds ratio of 2 doubles p ÷ (1 − p). Of a pooled list: that of a list of this id alone.",
        f"The {len(rows)} largest, of the fields in turn.",
    ]
    return ReportTable(header, rows, notes=tuple(notes))


def _in_turn(fields: list[FieldEffects]) -> list[tuple[FieldEffects, IdEffect]]:
    """Return the largest effects of all fields: first each one's largest, then each one's next.

    One field of many ids would else fill the table. Fields stand together, the one with the
    largest effect first.
    """
    rounds = zip_longest(*([(each, one) for one in each.largest] for each in fields))
    reach = {each.field: abs(each.largest[0].effect) for each in fields}
    found = []
    for some in rounds:
        present = [pair for pair in some if pair is not None]
        found += sorted(present, key=lambda pair: -abs(pair[1].effect))
    found = found[:MOST_EFFECTS]
    order = {name: at for at, name in enumerate(sorted(reach, key=lambda name: -reach[name]))}
    return sorted(found, key=lambda pair: (order[pair[0].field], -abs(pair[1].effect)))


def _interval(each: IdEffect, scale: _Scale) -> str:
    half = Z_95 / sqrt(each.precision)
    return f"[{scale.shown(each.effect - half)}, {scale.shown(each.effect + half)}]"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
