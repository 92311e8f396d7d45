"""`polyrank evaluate RUN DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def evaluate(
    run: Path,
    data: str,
    /,
    *,
    orphans: Literal["error", "drop", "zero"] = "error",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Score labelled rows and print the scorecard.

    Args:
        run: a run folder or a bundle folder.
        data: a CSV or Parquet file, or a glob.
        orphans: what becomes of a child label without its parent.
        json: print the scorecard as JSON.
    """
    from polyrank.bundle.model import load
    from polyrank.cli.show import print_counts, print_json

    bundle = load(run)
    table = bundle.encode(data, split="test", orphans=orphans)
    print_counts(table.unseen, table.nulls, len(table))
    card = bundle.score_labelled(table, "test")
    if json:
        print_json(card.to_json())
    else:
        print(card)
