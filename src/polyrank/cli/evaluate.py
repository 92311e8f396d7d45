"""`polyrank evaluate RUN DATA`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)


def evaluate(
    run: Path,
    data: str,
    /,
    *,
    by: tuple[str, ...] = (),
    score: str | None = None,
    orphans: Literal["error", "drop", "zero"] | None = None,
    json: bool = False,
) -> None:
    """Score labelled rows and print the scorecard.

    Args:
        run: a run folder or a bundle folder.
        data: a CSV, TSV or Parquet file, or a glob.
        by: also print the metrics of each value of this column, the worst first; may be repeated.
            "new or seen user" and "score decile" are columns too.
        score: the score whose segments --by prints, such as "buy @ all"; all of them by default.
        orphans: what happens to a child label without its parent; the run's own rule by default.
        json: print the scorecard as JSON.
    """
    from polyrank.bundle.model import load
    from polyrank.cli.show import print_counts, print_json
    from polyrank.data.read import column_names
    from polyrank.errors import ConfigError
    from polyrank.metrics.segments import as_text, columns_needed
    from polyrank.paths import absolute

    if score is not None and not by:
        raise ConfigError("--score chooses segments: name their column by --by")
    bundle = load(run)
    # The run's own files keep their names, which say whether their rows were sampled.
    files = bundle.config.get("data", {})
    own = (name for name in ("valid", "train") if files.get(name) == absolute(data))
    split = next(own, "test")
    if files.get("source") == absolute(data):
        logger.warning("%s is the run's source: rows that it learned from are scored too", data)
    segments = None
    if by:
        frame = bundle.opened(data)
        needed = columns_needed(bundle.schema, column_names(frame.lazy()), by)
        table = bundle.encode(frame, split=split, orphans=orphans, carried=needed)
        card = bundle.score_labelled(table, split)
        segments = bundle.segments_labelled(table, by, score)
    else:
        table, card = bundle.evaluated(data, split, orphans)
    print_counts(table.unseen, table.nulls, len(table))
    if json:
        found = {} if segments is None else {"segments": segments.to_dicts()}
        print_json(card.to_json() | found)
        return
    print(card)
    if segments is not None:
        for name in segments["score"].unique(maintain_order=True):
            print(f"\nsegments of {name}, the worst first")
            print(as_text(segments.filter(score=name)))
