"""Features that equal a label: one warning per data set, and training goes on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any
from weakref import WeakSet

import numpy as np
import polars as pl

from polyrank.classic.data import Rows
from polyrank.data.labels import HiddenLabel, find_leak
from polyrank.errors import LeakageWarning
from polyrank.labels import LabelKind

_warned: WeakSet[Any] = WeakSet()


def warn_of_leaks(
    model: str, source: Any, rows: Rows, names: Iterable[str], kinds: Sequence[LabelKind]
) -> None:
    """Warn of features that equal a label, or a joint label of two, once for each data set.

    Args:
        model: its name, for the message.
        source: the data set, which is remembered.
        rows: the training rows.
        names: of the model's features.
        kinds: of each label column.
    """
    try:
        if source in _warned:
            return
    except TypeError:  # a list of batches cannot be remembered: it is warned of again
        source = None
    found = list(leaks(rows, names, kinds))
    if found:
        if source is not None:
            _warned.add(source)
        equal = "; ".join(f"feature {name!r} equals {label}" for name, label in found)
        remove = ", ".join(repr(name) for name in dict.fromkeys(name for name, _ in found))
        warnings.warn(
            f"{model}: {equal} on all {len(rows):,} training rows. The model reads the answer, so "
            f"its scores mean nothing; remove {remove} from the features",
            LeakageWarning,
            stacklevel=3,
        )


def leaks(
    rows: Rows, names: Iterable[str], kinds: Sequence[LabelKind]
) -> Iterator[tuple[str, str]]:
    """Yield each feature that equals a label, with the first such label in words."""
    labels = rows.labels
    columns = {f"label column {index}": labels[:, index] for index in range(labels.shape[1])}
    events = [index for index, kind in enumerate(kinds) if kind.is_event]
    columns |= {
        f"the joint label of columns {i} and {j}": labels[:, i] * labels[:, j]
        for i, j in combinations(events, 2)
    }
    hidden = [HiddenLabel(words, "", label, event=False) for words, label in columns.items()]
    for name in names:
        column = np.asarray(rows.x[name])
        if column.dtype.kind in "biuf" and column.ndim == 1:
            feature = pl.Series(name, column)
            found = next((each for each in hidden if find_leak(feature, each)), None)
            if found is not None:
                yield name, found.words
