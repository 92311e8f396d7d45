"""What the probabilities are worth: calibrated, ranked, spread, and against the truth."""

from __future__ import annotations

import numpy as np

from polyrank.report import charts, curves
from polyrank.report.blocks import Figure, Paragraph, Section
from polyrank.report.evidence import Evidence, ScoredRows


def calibration(evidence: Evidence) -> Section | None:
    """Return a reliability curve a score, with the counts behind each point."""
    figures = []
    for rows, label in evidence.labelled:
        bins = curves.reliability(label, rows.prediction, rows.weight)
        logarithmic = _rare(label, rows)
        axes = " Both axes are logarithmic." if logarithmic else ""
        reading = (
            "Points on the dashed line are calibrated; below it too much is promised. Bars are "
            f"95 % Wilson intervals.{axes} Beneath: rows and positives of each bin."
        )
        pictures = (
            charts.reliability(bins, logarithmic=logarithmic),
            charts.counts(bins, logarithmic=logarithmic),
        )
        figures.append(Figure(rows.name, reading, pictures))
    if not figures:
        return None
    text = (
        "Rows are cut into 15 bins of equal count by their prediction; the mean gap of these bins "
        "is the scorecard's ECE."
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
        reading = (
            "Each label's rows add up to 100 %: the less the two overlap, the better they are told "
            f"apart.{' The axis is logarithmic.' if logarithmic else ''}"
        )
        figures.append(
            Figure(rows.name, reading, (charts.histogram(bins, logarithmic=logarithmic),))
        )
    return Section("Predictions by label", tuple(figures)) if figures else None


def known_truth(evidence: Evidence) -> Section | None:
    """Return estimated against true probabilities, where a log knows them."""
    figures = []
    for rows in evidence.rows.values():
        if rows.truth is None or not len(rows.truth):
            continue
        logarithmic = curves.rare(float(np.average(rows.truth, weights=rows.weight)))
        bins = curves.agreement(rows.truth, rows.prediction, rows.weight)
        reading = (
            "Line: mean true probability of the rows in a bin; on the dashed line the estimate is "
            "right on average. Band: the middle 80 % of true probabilities: the narrower, the more "
            "the model knows."
        )
        figures.append(
            Figure(rows.name, reading, (charts.agreement(bins, logarithmic=logarithmic),))
        )
    if not figures:
        return None
    text = "The log knows each row's true probability; no label enters these figures."
    return Section("Estimate and truth", (Paragraph(text), *figures))


def _base_rate(label: np.ndarray, rows: ScoredRows) -> float:
    return float(np.average(label, weights=rows.weight))


def _rare(label: np.ndarray, rows: ScoredRows) -> bool:
    return curves.rare(_base_rate(label, rows))
