"""What the model reads: the features that scores need, and how numbers move predictions."""

from __future__ import annotations

import polars as pl

from polyrank.inspection.importance import Drop, Importance
from polyrank.metrics.predicted import scored_columns
from polyrank.report import charts
from polyrank.report.blocks import Block, Cell, Figure, Note, Paragraph, ReportTable, Section
from polyrank.report.evidence import Evidence
from polyrank.report.sections.scores import number, title
from polyrank.schema import Schema
from polyrank.terms import populations

MOST_FEATURES = 20  # of a chart, and of the table
MOST_NUMBERS = 8  # whose curves are drawn


def importance(evidence: Evidence) -> Section | None:
    """Return what each score loses without each feature, a chart a score and all in a table."""
    found = evidence.importance
    if found is None:
        return None
    colours = charts.hues(evidence.schema)
    owners = {where.name: where.task for where in populations(evidence.schema)}
    blocks: list[Block] = [Note(f"{each[0].upper()}{each[1:]}.") for each in found.remarks]
    blocks.append(
        Paragraph(
            f"{found.about[0].upper()}{found.about[1:]}: by how much a score is worse when the "
            "values of a feature are permuted among the rows, so that they say nothing of their "
            "own row. Lines are 95 % intervals, over other test rows and other permutations; one "
            "that reaches 0 is no evidence that the model needs the feature. Features that say "
            "the same share their importance: each alone may seem to matter little."
        )
    )
    for score, whole in found.whole.items():
        drops = [each for each in found.drops if each.score == score]
        if not drops:
            continue
        name = title(drops[0].metric)
        more = len(drops) - MOST_FEATURES
        rest = f" The {MOST_FEATURES} largest of {len(drops)}." if more > 0 else ""
        picture = charts.drops(
            [(each.feature, each.value, each.low, each.high) for each in drops[:MOST_FEATURES]],
            f"{name}, worse by", hue=colours[owners[score]],
        )  # fmt: skip
        blocks.append(Figure(score, f"{name} {number(whole)} as it is.{rest}", (picture,)))
    if found.whole:
        blocks.append(_table(found))
    return Section("Importance of features", tuple(blocks))


def _table(found: Importance) -> ReportTable:
    drops = {(each.score, each.feature): each for each in found.drops}
    features = list(dict.fromkeys(each.feature for each in found.drops))
    rows = tuple(
        (Cell(feature), *(_cell(drops.get((score, feature))) for score in found.whole))
        for feature in features[:MOST_FEATURES]
    )
    notes = []
    if len(features) > MOST_FEATURES:
        notes.append(f"the {MOST_FEATURES} first of {len(features)}, by the first score")
    return ReportTable(("feature", *found.whole), rows, notes=tuple(notes))


def _cell(drop: Drop | None) -> Cell:
    if drop is None:
        return Cell("–", reason="it cannot be measured without the feature")
    text = f"+{number(drop.value)}" if drop.value > 0 else number(drop.value)
    if drop.low is None or drop.high is None:
        return Cell(text, reason=drop.reason or "")
    return Cell(text, f"[{number(drop.low)}, {number(drop.high)}]")


def dependence(evidence: Evidence) -> Section | None:
    """Return curves of the outputs over the numbers that matter most."""
    found = evidence.dependence
    if found is None or not found.height:
        return None
    hues, features = charts.hues(evidence.schema), _by_importance(evidence, found)
    outputs = _outputs(evidence.schema)
    figures = []
    for feature in features[:MOST_NUMBERS]:
        own = found.filter(feature=feature)
        pictures = tuple(
            charts.dependence(own.filter(output=output), feature, output, hue=hues[task])
            for task, output in outputs.items()
        )
        reach = own.group_by("output").agg(low=pl.col("mean").min(), high=pl.col("mean").max())
        ends = {output: (low, high) for output, low, high in reach.iter_rows()}
        said = (
            f"{output} from {number(ends[output][0])} to {number(ends[output][1])}"
            for output in outputs.values()
        )
        figures.append(Figure(feature, f"Mean {', '.join(said)}.", pictures))
    rest = ""
    if len(features) > MOST_NUMBERS:
        rest = f" Here are the {MOST_NUMBERS} numbers of {len(features)} that matter most."
    text = (
        "The mean prediction if every row had the same value of a number, all else as it is; "
        "points stand at quantiles of the value. Band: the middle 80 % of the rows' own curves, "
        "each moved to the level of the mean; without width, the number moves all rows alike. "
        "It is what the model computes, not what would happen: where the number goes along with "
        f"others, some of these rows are like none that there are.{rest}"
    )
    return Section("Dependence on numbers", (Paragraph(text), *figures))


def _outputs(schema: Schema) -> dict[str, str]:
    """Return the output column of each task that is drawn: of an event, that of all rows."""
    found: dict[str, str] = {}
    for task in schema.tasks:
        columns = scored_columns(task)
        found[task.name] = columns[-1] if task.label_kind.is_event else columns[0]
    return found


def _by_importance(evidence: Evidence, found: pl.DataFrame) -> list[str]:
    """Return the numbers that have curves, those first whose loss is the largest of a score.

    Losses of metrics have units of their own, so each is compared with the largest of its score.
    """
    features = found["feature"].unique(maintain_order=True).to_list()
    drops = () if evidence.importance is None else evidence.importance.drops
    largest: dict[str, float] = {}
    for each in drops:
        largest[each.score] = max(largest.get(each.score, 0.0), each.value)
    shares = dict.fromkeys(features, 0.0)
    for each in drops:
        if each.feature in shares and largest[each.score] > 0:
            share = each.value / largest[each.score]
            shares[each.feature] = max(shares[each.feature], share)
    return sorted(features, key=lambda name: -shares[name])
