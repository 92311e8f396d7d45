"""What predictions are worth: calibrated, ranked, spread, against the truth and the observed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polyrank.calibration.fitting import NONE, Calibrator, scale_of
from polyrank.labels import LabelKind
from polyrank.report import charts, curves
from polyrank.report.blocks import Block, Figure, Listing, Paragraph, Section, section_of
from polyrank.report.evidence import Evidence, ScoredRows
from polyrank.report.sections.scores import number


def calibration(evidence: Evidence) -> Section | None:
    """Return each head's map, and a reliability curve a score with the counts of its points."""
    colours = charts.hues(evidence.schema)
    figures = [_reliability(rows, label, colours[rows.task]) for rows, label in evidence.labelled]
    if not figures and not evidence.calibrators:
        return None
    blocks: list[Block] = [Listing(tuple(_maps(evidence)))]
    if figures:
        text = (
            "Points on the dashed line are calibrated; below it predictions are too high, above "
            "it too low. Bars are 95 % Wilson intervals: a bar that reaches the line is no "
            "evidence against calibration. Beneath each chart: the rows and positives behind each "
            "point. Rows are cut into 15 bins of equal count by their prediction, whose mean gap "
            "is the scorecard's ECE."
        )
        blocks += [Paragraph(text), *figures]
    return Section("Calibration", tuple(blocks))


def _reliability(rows: ScoredRows, label: np.ndarray, hue: str) -> Figure:
    bins = curves.reliability(label, rows.prediction, rows.weight)
    before = None if rows.raw is None else curves.reliability(label, rows.raw, rows.weight)
    rate = rows.mean(label)
    raw = "" if rows.raw is None else f" ({number(rows.mean(rows.raw))} before calibration)"
    predicted = number(rows.mean(rows.prediction))
    means = f"Predicted on average {predicted}{raw}, observed {number(rate)}."
    logarithmic = curves.rare(rate)
    pictures = tuple(
        chart(bins, before, logarithmic=logarithmic, hue=hue)
        for chart in (charts.reliability, charts.counts)
    )
    return Figure(rows.name, means + _axes(logarithmic), pictures)


def _maps(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield each calibrated head with the map that it got, or why it has none."""
    for task in evidence.schema.tasks:
        if task.label_kind.calibrated is not None:
            head = f"{task.name}|{task.given}" if task.given else task.name
            found = evidence.calibrators.get(task.name)
            yield (
                head,
                "no map: there were no validation rows"
                if found is None
                else _map(found, task.label_kind),
            )


def _map(found: Calibrator, kind: LabelKind) -> str:
    if found.map is None:
        return f"no map, by {found.where}: {found.reason}"
    loss = scale_of(kind).loss_name.replace("_", " ")
    before, after = found.losses[NONE], found.losses[found.kind]
    return (
        f"{found.map.words(number)}, fitted on {found.where}; by cross-fit their {loss} went from "
        f"{number(before)} to {number(after)}"
    )


def ranking(evidence: Evidence) -> Section | None:
    """Return ROC and precision-recall curves, all scores in one chart each."""
    if not evidence.labelled:
        return None
    roc, precision, rates = {}, {}, {}
    for rows, label in evidence.labelled:
        roc[rows.name] = curves.roc(label, rows.prediction, rows.weight)
        precision[rows.name] = curves.precision_recall(label, rows.prediction, rows.weight)
        rates[rows.name] = rows.mean(label)
    drawn = charts.styles(evidence.schema, roc)
    return Section(
        "Ranking",
        (
            Figure(
                "ROC",
                "The nearer to the upper left, the better positives are told from negatives; the "
                "diagonal is chance. The area beneath is the AUC.",
                (charts.roc(roc, drawn),),
            ),
            Figure(
                "Precision and recall",
                "Of the rows above a threshold, how many are positive, against how many of the "
                "positives are found. Thin and level: the base rate, which a random order reaches.",
                (charts.precision_recall(precision, rates, drawn),),
            ),
        ),
    )


def spread(evidence: Evidence) -> Section | None:
    """Return how predictions spread for positives and negatives."""
    figures, colours = [], charts.hues(evidence.schema)
    for rows, label in evidence.labelled:
        logarithmic = curves.rare(rows.mean(label))
        bins = curves.histogram(label, rows.prediction, rows.weight, logarithmic=logarithmic)
        caption = (
            f"{bins.negatives.sum():,} rows with label 0 and {bins.positives.sum():,} with label "
            f"1.{_axes(logarithmic)}"
        )
        picture = charts.histogram(bins, logarithmic=logarithmic, hue=colours[rows.task])
        figures.append(Figure(rows.name, caption, (picture,)))
    text = (
        "Each label's rows add up to 100 %: the less the two overlap, the better they are told "
        "apart. A lone spike is many rows with one prediction."
    )
    return section_of("Predictions by label", text, figures)


def known_truth(evidence: Evidence) -> Section | None:
    """Return estimated against true probabilities, where a log knows them."""
    figures, colours = [], charts.hues(evidence.schema)
    for rows in evidence.rows.values():
        if rows.truth is None or not len(rows.truth):
            continue
        logarithmic = curves.rare(rows.mean(rows.truth))
        bins = curves.agreement(rows.truth, rows.prediction, rows.weight)
        gap = rows.mean(np.abs(rows.truth - rows.prediction))
        caption = f"Mean distance from the truth {number(gap)}.{_axes(logarithmic)}"
        picture = charts.agreement(bins, logarithmic=logarithmic, hue=colours[rows.task])
        figures.append(Figure(rows.name, caption, (picture,)))
    text = (
        "The log knows each row's true probability; no label enters these figures. Line: the mean "
        "true probability of the rows in a bin; on the dashed line the estimate is right on "
        "average. Band: the middle 80 % of their true probabilities; the narrower, the more the "
        "model tells rows apart."
    )
    return section_of("Estimate and truth", text, figures)


def by_group(evidence: Evidence) -> Section | None:
    """Return predicted and observed means within the groups of a kind of label, as of duration."""
    figures, colours = [], charts.hues(evidence.schema)
    for rows in evidence.rows.values():
        if rows.groups is None or rows.label is None or not len(rows.label):
            continue
        found = curves.by_group(
            rows.label, rows.prediction, rows.groups.codes, rows.groups.names, rows.weight
        )
        gap = np.abs(found.predicted - found.observed)
        worst = int(gap.argmax())
        caption = (
            f"By {rows.groups.title}. The means are furthest apart in the group "
            f"{found.names[worst]} ({found.rows[worst]:,} rows): predicted "
            f"{number(found.predicted[worst])}, observed {number(found.observed[worst])}."
        )
        picture = charts.by_group(found, rows.groups.title, hue=colours[rows.task])
        figures.append(Figure(rows.name, caption, (picture,)))
    text = (
        "Groups have about equally many training rows each; “unknown” are rows without a value. "
        "Band: the middle 80 % of the observed values. Where the lines part, the model is off for "
        "a whole group, which a score over all rows may hide."
    )
    return section_of("Predicted values by group", text, figures)


def _axes(logarithmic: bool) -> str:
    return " Logarithmic axes." if logarithmic else ""
