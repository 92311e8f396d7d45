"""What the probabilities are worth: calibrated, ranked, spread, and against the truth."""

from __future__ import annotations

import numpy as np

from polyrank.report import charts, curves
from polyrank.report.blocks import Figure, Paragraph, Section
from polyrank.report.evidence import Evidence, ScoredRows
from polyrank.report.sections.scores import number


def calibration(evidence: Evidence) -> Section | None:
    """Return a reliability curve a score, with the counts behind each point."""
    figures = []
    for rows, label in evidence.labelled:
        bins = curves.reliability(label, rows.prediction, rows.weight)
        rate, logarithmic = _base_rate(label, rows), _rare(label, rows)
        predicted = float(np.average(rows.prediction, weights=rows.weight))
        means = f"Predicted on average {number(predicted)}, observed {number(rate)}."
        pictures = (
            charts.reliability(bins, logarithmic=logarithmic),
            charts.counts(bins, logarithmic=logarithmic),
        )
        figures.append(Figure(rows.name, means + _axes(logarithmic), pictures))
    if not figures:
        return None
    text = (
        "Points on the dashed line are calibrated; below it too much is promised, above it too "
        "little. Bars are 95 % Wilson intervals: a bar that reaches the line is no evidence "
        "against it. Beneath each chart: the rows and positives behind each point. Rows are cut "
        "into 15 bins of equal count by their prediction, whose mean gap is the scorecard's ECE."
    )
    return Section("Calibration", (Paragraph(text), *figures))


def ranking(evidence: Evidence) -> Section | None:
    """Return ROC and precision-recall curves, all scores in one chart each."""
    if not evidence.labelled:
        return None
    roc, precision, rates = {}, {}, {}
    for rows, label in evidence.labelled:
        roc[rows.name] = curves.roc(label, rows.prediction, rows.weight)
        precision[rows.name] = curves.precision_recall(label, rows.prediction, rows.weight)
        rates[rows.name] = _base_rate(label, rows)
    return Section(
        "Ranking",
        (
            Figure(
                "ROC",
                "The nearer to the upper left, the better positives are told from negatives; the "
                "dashed line is chance. The area beneath is the AUC.",
                (charts.roc(roc),),
            ),
            Figure(
                "Precision and recall",
                "Of the rows above a threshold, how many are positive, against how many of the "
                "positives are found. Dashed: the base rate, which a random order reaches.",
                (charts.precision_recall(precision, rates),),
            ),
        ),
    )


def spread(evidence: Evidence) -> Section | None:
    """Return how predictions spread for positives and negatives."""
    figures = []
    for rows, label in evidence.labelled:
        logarithmic = _rare(label, rows)
        bins = curves.histogram(label, rows.prediction, rows.weight, logarithmic=logarithmic)
        caption = (
            f"{bins.negatives.sum():,} rows with label 0 and {bins.positives.sum():,} with label "
            f"1.{_axes(logarithmic)}"
        )
        picture = charts.histogram(bins, logarithmic=logarithmic)
        figures.append(Figure(rows.name, caption, (picture,)))
    if not figures:
        return None
    text = (
        "Each label's rows add up to 100 %: the less the two overlap, the better they are told "
        "apart. A lone spike is many rows with one prediction."
    )
    return Section("Predictions by label", (Paragraph(text), *figures))


def known_truth(evidence: Evidence) -> Section | None:
    """Return estimated against true probabilities, where a log knows them."""
    figures = []
    for rows in evidence.rows.values():
        if rows.truth is None or not len(rows.truth):
            continue
        logarithmic = curves.rare(float(np.average(rows.truth, weights=rows.weight)))
        bins = curves.agreement(rows.truth, rows.prediction, rows.weight)
        gap = float(np.average(np.abs(rows.truth - rows.prediction), weights=rows.weight))
        caption = f"Mean distance from the truth {number(gap)}.{_axes(logarithmic)}"
        picture = charts.agreement(bins, logarithmic=logarithmic)
        figures.append(Figure(rows.name, caption, (picture,)))
    if not figures:
        return None
    text = (
        "The log knows each row's true probability; no label enters these figures. Line: the mean "
        "true probability of the rows in a bin; on the dashed line the estimate is right on "
        "average. Band: the middle 80 % of their true probabilities; the narrower, the more the "
        "model tells rows apart."
    )
    return Section("Estimate and truth", (Paragraph(text), *figures))


def _axes(logarithmic: bool) -> str:
    return " Logarithmic axes." if logarithmic else ""


def _base_rate(label: np.ndarray, rows: ScoredRows) -> float:
    return float(np.average(label, weights=rows.weight))


def _rare(label: np.ndarray, rows: ScoredRows) -> bool:
    return curves.rare(_base_rate(label, rows))
