"""How training went: losses and metrics over the epochs, and whether experts specialise."""

from __future__ import annotations

import re
from collections.abc import Iterator

import polars as pl

from polyrank.metrics.registry import METRICS
from polyrank.models.expert_use import ExpertUse
from polyrank.report import charts
from polyrank.report.blocks import Block, Figure, Note, Paragraph, Section
from polyrank.report.evidence import Evidence
from polyrank.report.sections.scores import number
from polyrank.terms import NORMALIZED, own_population
from polyrank.text import counted
from polyrank.train.progress import own_best_epochs

LOSS = re.compile(r"^(?P<rows>train|valid) (?P<term>.+ @ .+) loss$")
OWN = re.compile(rf"^valid (?P<series>.+) {NORMALIZED}$")
ENTROPY = re.compile(r"^(?:(?P<level>.+?) )?gate (?P<gate>.+) (?P<of>row|mean) entropy$")
DEAD = re.compile(r"^(?P<series>.*?) ?largest dead rate$")
COSINE = re.compile(r"^cosine (?P<series>.+ · .+)$")
MOST_LINES = 3  # of pairs, which a person tells apart; more are a grid
HOW = dict(zip(("row", "mean"), charts.ENTROPIES, strict=True))


def training(evidence: Evidence) -> Section | None:
    """Return a loss curve per term, and the validation metrics of every score."""
    history = evidence.history
    if "epoch" not in history.columns or history.is_empty():
        return None
    best, colours = best_epoch(history), charts.hues(evidence.schema)
    terms, figures = {term.name: term.population for term in evidence.schema.objective}, []
    for term, found in _parts(_matching(history, LOSS), "term"):
        if term in terms:
            rows = pl.col("rows").replace({"train": "training", "valid": "validation"})
            losses = found.select("epoch", rows, loss="value")
            title, hue = terms[term].label_kind.loss_title, colours[terms[term].task]
            figures.append(
                Figure(term, _lowest(losses), (charts.training(losses, title, best, hue),))
            )
    for name, metric in METRICS.items():
        found = _matching(history, re.compile(rf"^valid (?P<series>.+ @ .+) {re.escape(name)}$"))
        if found.is_empty():
            continue
        how = {True: "higher is better", False: "lower is better", None: "best in between"}
        caption = f"Of the validation rows; {how[metric.higher_is_better]}."
        drawn = charts.styles(evidence.schema, found["series"].unique(maintain_order=True))
        # Areas and losses share an axis; an error in the label's own unit has one to itself.
        for names in [list(drawn)] if metric.of_events else [[each] for each in drawn]:
            of = "" if metric.of_events else f" of {names[0]}"
            lines, shown = found.filter(pl.col("series").is_in(names)), {n: drawn[n] for n in names}
            picture = charts.by_epoch(lines, metric.title, best, shown)
            figures.append(Figure(f"Validation {metric.title}{of}", caption, (picture,)))
    figures += _own_losses(evidence, best)
    figures += _cosines(evidence, best)
    kept = f"; the weights of epoch {best} were kept (dotted line)" if best is not None else ""
    text = (
        f"{counted(history.height, 'epoch')}{kept}. While both losses fall, the model still "
        "learns; where validation rises and training falls, it memorises the training rows."
    )
    return Section("Training", (Paragraph(text), *figures))


def _own_losses(evidence: Evidence, best: int | None) -> list[Figure]:
    """Return each head's loss on its own rows, and in which epoch it was best."""
    found = _matching(evidence.history, OWN)
    if found.is_empty():
        return []
    schema = evidence.schema
    owners = {own_population(schema, t).predicted: own_population(schema, t) for t in schema.tasks}
    drawn = charts.styles(schema, [each.name for each in owners.values()])
    shown = {head: drawn[owners[head].name] for head in found["series"].unique() if head in owners}
    own = own_best_epochs(evidence.history.to_dicts())
    epochs = ", ".join(f"{head} in epoch {own[head]}" for head in owners if head in own)
    caption = (
        "Of the validation rows where the head's parent happened; 1 is the best constant's loss on "
        f"the training rows, lower is better. Each head's own best: {epochs}."
    )
    lines = found.filter(pl.col("series").is_in(list(shown)))
    picture = charts.by_epoch(lines, "loss ÷ the constant's", best, shown)
    return [Figure("Each head's own loss", caption, (picture,))]


def _cosines(evidence: Evidence, best: int | None) -> list[Figure]:
    """Return how far the terms' gradients agree."""
    found = _matching(evidence.history, COSINE)
    if found.is_empty():
        return []
    caption = (
        "Between two terms' gradients at what their tasks share: x and the trunk's shared "
        "parameters. Above 0 a step for one also lowers the other's loss, and there is no conflict "
        "that a balance could settle; below 0 they pull apart."
    )
    pairs = found["series"].unique(maintain_order=True)
    if len(pairs) <= MOST_LINES:
        drawn = charts.styles(evidence.schema, pairs)
        picture = charts.by_epoch(found, "cosine", best, drawn, (-1.0, 1.0))
    else:
        means = dict(found.group_by("series").agg(pl.col("value").mean()).iter_rows())
        terms = list(dict.fromkeys(each for pair in pairs for each in pair.split(" · ")))
        cells = [[means.get(f"{a} · {b}", means.get(f"{b} · {a}")) for b in terms] for a in terms]
        picture = charts.grid(
            cells, terms, terms, titles=("term", "term"), measure="mean cosine", signed=True
        )
        caption += " Means over the epochs."
    return [Figure("Agreement of gradients", caption, (picture,))]


def best_epoch(history: pl.DataFrame) -> int | None:
    """Return the epoch whose weights were kept: the last that was the best so far."""
    if "best" not in history.columns:
        return None
    kept = history.filter(pl.col("best"))["epoch"]
    return None if kept.is_empty() else int(kept[-1])


def by_series(history: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Return `epoch`, `value` and `series` of the columns that match a pattern with that group."""
    return _matching(history, re.compile(pattern))


def _matching(history: pl.DataFrame, pattern: re.Pattern[str]) -> pl.DataFrame:
    """Return `epoch`, `value` and the pattern's groups, of the columns that match, where finite."""
    frames = [
        history.select(
            "epoch",
            value=pl.col(column).cast(pl.Float64),
            **{name: pl.lit(text) for name, text in match.groupdict("").items()},
        ).filter(pl.col("value").is_finite())
        for column in history.columns
        if (match := pattern.match(column))
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


def _parts(frame: pl.DataFrame, by: str) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield each value of a column and its lines."""
    if not frame.is_empty():
        for part in frame.partition_by(by, maintain_order=True):
            yield part[by][0], part


def _lowest(losses: pl.DataFrame) -> str:
    """Say in which epoch a term was best."""
    valid = losses.filter(pl.col("rows") == "validation")
    if valid.is_empty():
        return "There are no validation rows: this is the loss of the training rows."
    lowest = valid.sort("loss").row(0, named=True)
    return f"Lowest on the validation rows in epoch {lowest['epoch']}: {number(lowest['loss'])}."


def experts(evidence: Evidence) -> Section | None:
    """Return what each gate listens to, how different experts are, and the entropy over epochs."""
    blocks: list[Block] = [
        Note(f"{each[0].upper()}{each[1:]}.", "warning")
        for use in evidence.experts
        for each in use.warnings()
    ]
    for use in evidence.experts:
        blocks += [Paragraph(_summary(use)), *_figures(use)]
    blocks += _epochs(evidence)
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
    picture = charts.grid(weights, gates, names, titles=("gate", "expert"), measure="mean weight")
    figures = [Figure(f"Gate weights{of}", reading, (picture,))]
    reading = (
        "Each expert's mean weight over rows and gates. The mark across a bar: what it would be if "
        "every gate weighed all that it sees alike."
    )
    picture = charts.by_expert(use.utilisation, names, "mean weight", use.even)
    figures.append(Figure(f"Utilisation{of}", reading, (picture,)))
    if any(use.dead_rate):
        reading = f"Share of an expert's units that are 0 on all {use.rows:,} rows: lost capacity."
        picture = charts.by_expert(use.dead_rate, names, "dead units")
        figures.append(Figure(f"Dead units{of}", reading, (picture,)))
    if len(names) > 1:
        reading = (
            "Linear CKA of two experts' outputs. 1: they are the same up to rotation and scale, "
            "and one of them is superfluous; 0: nothing in common."
        )
        if any(None in line for line in use.similarity):
            reading += " An empty cell: one of the two gives every row the same output."
        picture = charts.grid(
            use.similarity, names, names, titles=("expert", "expert"), measure="linear CKA"
        )
        figures.append(Figure(f"Similarity{of}", reading, (picture,)))
    return figures


def _epochs(evidence: Evidence) -> list[Figure]:
    """Return each level's entropies, and the dead rate where a unit ever died."""
    history, found = evidence.history, []
    best = best_epoch(history)
    reading = (
        "0: one expert; 1, log of the number of experts: all alike. Solid: how a single row is "
        "weighed; dashed: the mean weights of all rows. Dashed far above solid: rows take "
        "different experts, the gate routes. Both near 0: all rows take the same one, the gate has "
        "collapsed."
    )
    for level, lines in _parts(_matching(history, ENTROPY), "level"):
        values = lines.select("epoch", "gate", pl.col("of").replace(HOW), "value")
        of = f" of {level}" if level else ""
        drawn = charts.styles(evidence.schema, values["gate"].unique(maintain_order=True))
        hues = {gate: style.colour for gate, style in drawn.items()}
        picture = charts.entropies(values, best, hues)
        found.append(Figure(f"Entropy of the gates{of}", reading, (picture,)))
    dead = _matching(history, DEAD)
    if not dead.is_empty() and dead["value"].max():
        dead = dead.with_columns(pl.col("series").replace("", "all experts"))
        reading = "The expert with the largest share of units that are 0 on all rows looked at."
        drawn = charts.styles(evidence.schema, dead["series"].unique(maintain_order=True))
        picture = charts.by_epoch(dead, "dead units, share", best, drawn, (0.0, 1.0))
        found.append(Figure("Dead units over the epochs", reading, (picture,)))
    return found
