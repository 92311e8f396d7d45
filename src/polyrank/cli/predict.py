"""`polyrank predict RUN DATA -o OUT`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def predict(
    run: Path,
    data: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    raw: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Score rows into a file: key columns, then the outputs, in the order of the rows.

    Args:
        run: a run folder or a bundle folder.
        data: a CSV or Parquet file, or a glob; labels need not be there.
        out: a .parquet or .csv file.
        raw: uncalibrated probabilities, as the heads learnt them.
        json: print the counts as JSON.
    """
    from polyrank.bundle.load import load
    from polyrank.bundle.stream import predict_file
    from polyrank.cli.show import print_counts, print_json

    scored = predict_file(load(run), data, out, raw=raw)
    if json:
        print_json({"out": str(out), **asdict(scored)})
        return
    print_counts(scored.unseen, scored.nulls, scored.rows)
    print(f"{scored.rows:,} rows scored into {out}")
