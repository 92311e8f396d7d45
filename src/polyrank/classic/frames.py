"""From a frame and from ragged lists to the arrays that `DataGenerator` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from polyrank.errors import DataError

Side = Literal["pre", "post"]


def df_to_dict(data: Any) -> dict[str, np.ndarray]:
    """Return a frame's columns as arrays by name.

    Args:
        data: a pandas or polars frame.

    Example:
        >>> import polars as pl
        >>> df_to_dict(pl.DataFrame({"item": [1, 2]}))
        {'item': array([1, 2])}
    """
    return {str(name): np.array(data[name].to_list()) for name in data.columns}


def pad_sequences(
    sequences: Sequence[Sequence[Any]],
    maxlen: int | None = None,
    dtype: str = "int32",
    padding: Side = "pre",
    truncating: Side = "pre",
    value: float = 0.0,
) -> np.ndarray:
    """Return lists of different lengths as one array.

    Args:
        sequences: lists.
        maxlen: columns; None takes the longest list's length.
        dtype: of the array.
        padding: which end of a short list is filled.
        truncating: which end of a long list is cut.
        value: what fills.

    Returns:
        (lists, maxlen).

    Raises:
        DataError: an end other than "pre" and "post".

    Example:
        >>> pad_sequences([[1], [2, 3, 4]], maxlen=2)
        array([[0, 1],
               [3, 4]], dtype=int32)
    """
    for name, side in (("padding", padding), ("truncating", truncating)):
        if side not in ("pre", "post"):
            raise DataError(f"{name} is 'pre' or 'post', however: {side!r}")
    width = max((len(each) for each in sequences), default=0) if maxlen is None else maxlen
    out = np.full((len(sequences), width), value, dtype=dtype)
    for row, each in zip(out, sequences, strict=True):
        kept = list(each)
        if len(kept) > width:
            kept = kept[len(kept) - width :] if truncating == "pre" else kept[:width]
        if kept:
            row[slice(width - len(kept), None) if padding == "pre" else slice(len(kept))] = kept
    return out
