"""Whether experts specialise: gates, utilisation, dead units, similarity, entropy."""

from __future__ import annotations

import re

import polars as pl

from polyrank.models.expert_use import ExpertUse
from polyrank.report import charts, expert_charts
from polyrank.report.blocks import Block, Figure, Note, Paragraph, Section
from polyrank.report.evidence import Evidence
from polyrank.report.sections.epochs import best_epoch, series

ENTROPY = re.compile(r"^(?:(?P<level>.+?) )?gate (?P<gate>.+) (?P<of>row|mean) entropy$")
DEAD = re.compile(r"^(?P<level>.*?) ?largest dead rate$")
HOW = dict(zip(("row", "mean"), expert_charts.HOW, strict=True))


def experts(evidence: Evidence) -> Section | None:
    """Return what each gate listens to, how different experts are, and the entropy over epochs."""
    blocks: list[Block] = [
        Note(f"{each[0].upper()}{each[1:]}.", "warning")
        for use in evidence.experts
        for each in use.warnings()
    ]
    for use in evidence.experts:
        blocks += [Paragraph(_summary(use)), *_figures(use)]
    blocks += _epochs(evidence.history)
    return Section("Gates and experts", tuple(blocks)) if blocks else None


def _summary(use: ExpertUse) -> str:
    where = f"In {use.level}, the" if use.level else "The"
    return (
        f"{where} gates spread their weight as widely as {use.effective_experts:.1f} experts of "
        f"{len(use.experts)} used alike would, on {use.rows:,} of the rows."
    )


def _figures(use: ExpertUse) -> list[Figure]:
    of = f" of {use.level}" if use.level else ""
    names, gates = use.experts, [gate.name for gate in use.gates]
    weights = [[gate.weights.get(name) for name in names] for gate in use.gates]
    reading = (
        "Mean weight that each gate gives to each expert. Equal rows of the grid share everything; "
        "one dark cell a row specialises; a pale column is an expert that nobody uses."
    )
    if any(None in line for line in weights):
        reading += " An empty cell is an expert that the gate does not see."
    picture = expert_charts.grid(
        weights, gates, names, titles=("gate", "expert"), measure="mean weight"
    )
    figures = [Figure(f"Gate weights{of}", reading, (picture,))]
    reading = (
        "Each expert's mean weight over rows and gates. The mark across a bar: what it would be if "
        "every gate weighed all that it sees alike."
    )
    picture = expert_charts.by_expert(use.utilisation, names, "mean weight", use.even)
    figures.append(Figure(f"Utilisation{of}", reading, (picture,)))
    if any(use.dead_rate):
        reading = f"Share of an expert's units that are 0 on all {use.rows:,} rows: lost capacity."
        picture = expert_charts.by_expert(use.dead_rate, names, "dead units")
        figures.append(Figure(f"Dead units{of}", reading, (picture,)))
    if len(names) > 1:
        reading = (
            "Linear CKA of two experts' outputs. 1: they say the same up to rotation and scale, "
            "and one of them is superfluous; 0: nothing in common."
        )
        if any(None in line for line in use.similarity):
            reading += " An empty cell: one of the two says one thing of all rows."
        picture = expert_charts.grid(
            use.similarity, names, names, titles=("expert", "expert"), measure="linear CKA"
        )
        figures.append(Figure(f"Similarity{of}", reading, (picture,)))
    return figures


def _epochs(history: pl.DataFrame) -> list[Figure]:
    """Return each level's entropies, and the dead rate where a unit ever died."""
    best, found = best_epoch(history), []
    reading = (
        "0: one expert; 1, log of the number of experts: all alike. Solid: how a single row is "
        "weighed; dashed: the mean weights of all rows. Dashed far above solid: rows take "
        "different experts, the gate routes. Both near 0: all rows take the same one, the gate has "
        "collapsed."
    )
    for level, values in _entropies(history).items():
        of = f" of {level}" if level else ""
        picture = expert_charts.entropies(values, best)
        found.append(Figure(f"Entropy of the gates{of}", reading, (picture,)))
    dead = series(history, DEAD)
    if dead is not None and dead["value"].max():
        dead = dead.with_columns(pl.col("series").replace("", "all experts"))
        reading = "The expert with the largest share of units that are 0 on all rows looked at."
        picture = charts.by_epoch(dead, "dead units, share", best, (0.0, 1.0))
        found.append(Figure("Dead units over the epochs", reading, (picture,)))
    return found


def _entropies(history: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return `epoch`, `gate`, `of`, `value` of each level."""
    found: dict[str, list[pl.DataFrame]] = {}
    for column in history.columns:
        if match := ENTROPY.match(column):
            frame = history.select(
                "epoch",
                gate=pl.lit(match["gate"]),
                of=pl.lit(HOW[match["of"]]),
                value=pl.col(column).cast(pl.Float64),
            ).drop_nulls()
            found.setdefault(match["level"] or "", []).append(frame)
    return {level: pl.concat(frames) for level, frames in found.items()}
