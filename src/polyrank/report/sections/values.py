"""What predictions of labels that are no events are worth, by what their kind has drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import altair as alt
import numpy as np

from polyrank.labels import Categorical, Ordinal, Quantile
from polyrank.report import charts, curves
from polyrank.report.blocks import Figure, Section, section_of
from polyrank.report.evidence import Evidence, ScoredRows
from polyrank.report.sections.scores import number

MOST = 20  # levels or categories in a table of them, the most frequent


def values(evidence: Evidence) -> Section | None:
    """Return predicted against observed values, and what else each kind of label has drawn."""
    figures, told, colours = [], {}, charts.hues(evidence.schema)
    for rows in evidence.rows.values():
        kind = evidence.schema.by_name[rows.task].label_kind
        if rows.is_event or rows.label is None or not len(rows.label):
            continue
        drawn = {name: _DRAWN[name] for name in kind.charts}
        pictures = tuple(chart(rows, rows.label, colours[rows.task]) for chart, _ in drawn.values())
        told |= {name: said for name, (_, said) in drawn.items()}
        predicted, observed = number(rows.mean(rows.prediction)), number(rows.mean(rows.label))
        raw = "" if rows.raw is None else f" ({number(rows.mean(rows.raw))} before calibration)"
        caption = f"Predicted on average {predicted}{raw}, observed {observed}."
        figures.append(Figure(rows.name, caption if kind.is_average else "", pictures))
    return section_of("Predicted values", " ".join(told.values()), figures)


def _agreement(rows: ScoredRows, label: np.ndarray, hue: str) -> alt.LayerChart:
    bins = curves.agreement(label, rows.prediction, rows.weight)
    titles = ("predicted, mean of the bin", "observed")
    return charts.agreement(bins, hue=hue, titles=titles, floor=None)


def _residuals(rows: ScoredRows, label: np.ndarray, hue: str) -> alt.LayerChart:
    return charts.residuals(curves.residuals(label, rows.prediction, rows.weight), hue=hue)


def _levels(rows: ScoredRows, label: np.ndarray, _: str) -> alt.LayerChart:
    assert isinstance(rows.kind, Ordinal)
    assert rows.outputs is not None
    at_least = np.column_stack([np.ones(len(label)), rows.outputs[:, 1:], np.zeros(len(label))])
    names = [f"{each:g}" for each in rows.kind.known]
    return _confusion(rows, at_least[:, :-1] - at_least[:, 1:], rows.kind.places(label), names)


def _categories(rows: ScoredRows, label: np.ndarray, _: str) -> alt.LayerChart:
    assert isinstance(rows.kind, Categorical)
    assert rows.outputs is not None
    return _confusion(rows, rows.outputs, rows.kind.places(label), [*rows.kind.categories])


def _confusion(
    rows: ScoredRows, chance: np.ndarray, place: np.ndarray, names: list[str]
) -> alt.LayerChart:
    shares = curves.confusion(place, chance, rows.weight)
    often = np.bincount(place, minlength=len(names))
    shown = np.sort(np.argsort(-often, kind="stable")[:MOST]).tolist()
    cells = [[float(shares[i, j]) if often[i] else None for j in shown] for i in shown]
    kept = [names[each] for each in shown]
    titles = ("observed", "predicted")
    return charts.grid(cells, kept, kept, titles=titles, measure="mean predicted probability")


def _coverage(rows: ScoredRows, label: np.ndarray, hue: str) -> alt.LayerChart:
    assert isinstance(rows.kind, Quantile)
    outputs = rows.prediction[:, None] if rows.outputs is None else rows.outputs
    bins = curves.coverage(label, outputs, rows.weight)
    return charts.coverage(bins, rows.kind.levels, hue=hue)


# What a kind of label names in `charts`: how it is drawn, and what a reader is told of it.
_DRAWN: Mapping[str, tuple[Callable[[ScoredRows, np.ndarray, str], alt.LayerChart], str]] = {
    "agreement": (
        _agreement,
        "Predicted against observed: the mean observed value of the rows in a bin of equal count, "
        "by their prediction; on the dashed line the prediction is right on average. Band: the "
        "middle 80 % of the observed values.",
    ),
    "residuals": (
        _residuals,
        "Residuals: observed less predicted; the outermost bars hold the 1 % beyond them.",
    ),
    "levels": (
        _levels,
        "Levels: of the rows of each observed level (a line), the mean probability of each level.",
    ),
    "categories": (
        _categories,
        "Categories: of the rows of each observed one (a line), the mean probability of each; of "
        f"many, the {MOST} most frequent.",
    ),
    "coverage": (
        _coverage,
        "Coverage: the share of labels at or below each predicted quantile, in bins of equal count "
        "by the middle one; thin and level, what it should be.",
    ),
}
