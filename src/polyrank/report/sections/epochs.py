"""How training went: losses a term and validation metrics, over the epochs."""

from __future__ import annotations

import re

import polars as pl

from polyrank.report import charts
from polyrank.report.blocks import Figure, Paragraph, Section
from polyrank.report.evidence import Evidence
from polyrank.report.sections.scores import number
from polyrank.terms import populations

LOSS = re.compile(r"^(?P<split>train|valid) (?P<term>.+ @ .+) loss$")
SPLITS = {"train": "training", "valid": "validation"}


def training(evidence: Evidence) -> Section | None:
    """Return a loss curve a term and the validation AUC of every score."""
    history = evidence.history
    if "epoch" not in history.columns or history.is_empty():
        return None
    best, kinds = best_epoch(history), {p.name: p.kind for p in populations(evidence.schema)}
    figures = []
    for term, losses in _losses(history).items():
        picture = charts.training(losses, _unit(kinds.get(term)), best)
        figures.append(Figure(term, _lowest(losses), (picture,)))
    auc = series(history, re.compile(r"^valid (?P<name>.+) auc$"))
    if auc is not None:
        caption = "Ranking on the validation rows; .5 is chance, and higher is better."
        figures.append(Figure("Validation AUC", caption, (charts.by_epoch(auc, "AUC", best),)))
    epochs = history.height
    kept = f"; the weights of epoch {best} were kept (dotted line)" if best is not None else ""
    text = (
        f"{epochs} epoch{'s' if epochs > 1 else ''}{kept}. While both losses fall, the model still "
        "learns; where validation rises and training falls, it learns the training rows by heart."
    )
    return Section("Training", (Paragraph(text), *figures))


def best_epoch(history: pl.DataFrame) -> int | None:
    """Return the epoch whose weights were kept: the last that was the best so far."""
    if "best" not in history.columns:
        return None
    kept = history.filter(pl.col("best"))["epoch"]
    return None if kept.is_empty() else int(kept[-1])


def series(history: pl.DataFrame, pattern: re.Pattern[str]) -> pl.DataFrame | None:
    """Return `epoch`, `series`, `value` of the columns that match; the group names the series."""
    found = {match[1]: name for name in history.columns if (match := pattern.match(name))}
    frames = [
        history.select("epoch", series=pl.lit(name), value=pl.col(column).cast(pl.Float64))
        for name, column in found.items()
    ]
    if not frames:
        return None
    finite = pl.concat(frames).filter(pl.col("value").is_finite())
    return None if finite.is_empty() else finite


def _losses(history: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return `epoch`, `rows`, `loss` of each term."""
    found: dict[str, list[pl.DataFrame]] = {}
    for column in history.columns:
        if match := LOSS.match(column):
            frame = history.select(
                "epoch", rows=pl.lit(SPLITS[match["split"]]), loss=pl.col(column).cast(pl.Float64)
            ).filter(pl.col("loss").is_finite())
            if not frame.is_empty():
                found.setdefault(match["term"], []).append(frame)
    return {term: pl.concat(frames) for term, frames in found.items()}


def _lowest(losses: pl.DataFrame) -> str:
    """Say where a term was best."""
    valid = losses.filter(pl.col("rows") == "validation")
    if valid.is_empty():
        return "There are no validation rows: this is the loss of the rows that it learns from."
    lowest = valid.sort("loss").row(0, named=True)
    return f"Lowest on the validation rows in epoch {lowest['epoch']}: {number(lowest['loss'])}."


def _unit(kind: str | None) -> str:
    return "squared error, standardised" if kind == "regression" else "log loss, nats"
