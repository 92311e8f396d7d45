"""What the weights of debiased tasks are worth."""

from __future__ import annotations

from polyrank.report import charts
from polyrank.report.blocks import Block, Figure, Note, Paragraph, Section
from polyrank.report.evidence import Evidence
from polyrank.report.sections.epochs import best_epoch, by_series
from polyrank.terms import own_population

EFFECTIVE = "effective share"


def propensities(evidence: Evidence) -> Section | None:
    """Return the effective sample, the clipped share and the spread of each task's propensities."""
    if not evidence.propensities:
        return None
    colours, schema = charts.hues(evidence.schema), evidence.schema
    tasks = {own_population(schema, task).name: task.name for task in schema.tasks}
    uses = evidence.propensities
    blocks: list[Block] = [
        Note(f"{each[0].upper()}{each[1:]}.", "warning") for use in uses for each in use.warnings()
    ]
    blocks.append(
        Paragraph(
            "Rows are weighted by 1 ÷ the probability that their condition happened. The effective "
            "sample is as many rows of one weight as would give a mean as sure; where it is small, "
            "a few rows decide. Rows below the floor are clipped, which biases."
        )
    )
    for use in uses:
        caption = f"{use}. The dashed line is the floor."
        picture = charts.propensities(use, hue=colours[tasks[use.term]])
        blocks.append(Figure(f"Propensities of {use.term}", caption, (picture,)))
    lines = by_series(evidence.history, rf"^(?P<series>.+ @ .+) {EFFECTIVE}$")
    if lines.height > len(uses):
        drawn = charts.styles(schema, lines["series"].unique(maintain_order=True))
        best = best_epoch(evidence.history)
        picture = charts.by_epoch(lines, "effective rows ÷ rows", best, drawn, (0.0, 1.0))
        caption = "It falls as the heads above learn to tell rows apart."
        blocks.append(Figure("Effective sample over the epochs", caption, (picture,)))
    return Section("Propensities", tuple(blocks))
