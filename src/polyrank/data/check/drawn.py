"""Rows drawn at random from a log whose audit would take more memory than it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from polyrank.data.check.audit import Finding, finding
from polyrank.data.read import collect_chunks, column_names, count_rows, is_parquet
from polyrank.data.stream import CELLS, chunk_rows
from polyrank.schema import Feature, Schema

Frame = pl.LazyFrame | pl.DataFrame

# An audit keeps of a row its checksums and its labels, and of one column at a time the value and
# its code: 123 bytes were measured with two tasks.
ROW_BYTES, TASK_BYTES = 96, 32
_SEED = 0xA0D17  # not 0, with which a log may have been generated


def drawn(
    schema: Schema,
    features: Sequence[Feature],
    keys: Sequence[str],
    frames: Mapping[str, Frame],
    limit: int | None,
) -> tuple[dict[str, Frame], tuple[Finding, ...]]:
    """Return the frames, or rows of them that an audit may hold, and what that leaves out.

    Of each split the same share is drawn, in the order of its rows, and the same rows every time.
    A frame in memory counts like one that is read: its audit needs as much beside it.

    Args:
        schema: labels, tasks and keys.
        features: whose columns are looked at.
        keys: of lists that rows share.
        frames: of each split.
        limit: bytes that the audit may take; None is no limit.
    """
    own = ROW_BYTES + TASK_BYTES * len(schema.tasks)
    names = [each.name for each in features] + [*keys, *schema.labels, *schema.keys.columns]
    columns = list(dict.fromkeys([*names, *schema.extras, *schema.made_of]))
    # Files of text are parsed as a whole, and so are the rows that are drawn.
    whole = own + CELLS * len(columns)
    counts = {split: count_rows(frame) for split, frame in frames.items()}
    needed = sum(
        rows * (own if is_parquet(frames[split]) else whole) for split, rows in counts.items()
    )
    if limit is None or needed <= limit:
        return dict(frames), ()
    share = limit / (whole * sum(counts.values()))
    found, notes = {}, []
    for place, (split, frame) in enumerate(frames.items()):
        known = column_names(frame)
        kept = [name for name in columns if name in known or name not in schema.keys.columns]
        random = np.random.default_rng([_SEED, place])
        parts = [
            part.filter(pl.Series(random.random(part.height) < share))
            for part in collect_chunks(frame, kept, chunk_rows(schema, limit))
        ]
        if not parts:  # and without rows there is nothing to draw from
            found[split] = frame
            continue
        found[split] = pl.concat(parts)
        rows, total = found[split].height, counts[split]
        message = (
            f"{split}: {rows:,} of {total:,} rows were drawn at random and looked at, since all "
            f"would take more than the {limit / 1e6:,.0f} MB of memory allowed; all counts are of "
            "these, and rows that are alike were seldom drawn together"
        )
        notes.append(finding("drawn", message, None, split, {"rows": rows, "of": total}))
    return found, tuple(notes)
