"""Cells of a benchmark, each an outcome learned by a loss under a seed: run, kept, and shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from parts import record
from parts.seeds import shown, spread
from polyrank.text import aligned

Run = dict[str, Any]


def every_cell(
    results: Path,
    rows: int,
    outcomes: Iterable[str],
    losses: Iterable[str],
    log: Callable[[int, int], tuple[Any, Any]],
    trained: Callable[..., Mapping[str, Any]],
) -> tuple[list[Run], list[int], int]:
    """Run every cell of `[seeds [rows]]` of the command line; return runs, seeds and rows.

    Args:
        results: the file that keeps them.
        rows: of a log by default.
        outcomes: what is learned.
        losses: by what.
        log: from (seed, rows) to the splits and the schema.
        trained: from (splits, schema, outcome, loss, seed) to figures.
    """
    torch.set_num_threads(1)
    seeds = list(range(1, 1 + int(sys.argv[1] if len(sys.argv) > 1 else 5)))
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else rows
    runs: list[Run] = []
    for seed in seeds:
        splits, schema = log(seed, rows)
        for outcome in outcomes:
            for loss in losses:
                found = trained(splits, schema, outcome, loss, seed)
                runs.append({"outcome": outcome, "loss": loss, "seed": seed, **found})
        # After each seed: an interrupted run keeps what it has.
        record.write(results, {**record.origin("polars"), "rows": rows, "runs": runs})
    return runs, seeds, rows


def table(
    runs: Sequence[Run], outcome: str, losses: Iterable[str], figures: Sequence[str],
    paired: str, base: str, form: str | None = None,
) -> str:  # fmt: skip
    """Return a line a loss: its figures over seeds, and one of them less the base's.

    Args:
        runs: of `every_cell`.
        outcome: whose.
        losses: the lines.
        figures: the columns.
        paired: the figure that is compared.
        base: the loss that it is compared with.
        form: the key of a run that holds the figures; None where the run does.
    """

    def values(loss: str, figure: str) -> list[float]:
        own = [each for each in runs if (each["outcome"], each["loss"]) == (outcome, loss)]
        return [(each if form is None else each[form])[figure] for each in own]

    lines = [
        [
            loss, *(spread(values(loss, figure)) for figure in figures),
            shown(values(base, paired), values(loss, paired)),
        ]
        for loss in losses
    ]  # fmt: skip
    header = ["loss", *figures, f"{paired} − {base}'s"]
    return aligned(header, lines, list(range(1, len(header))))
