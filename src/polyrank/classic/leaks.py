"""Features that state a label: told once a data set, and training goes on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any
from weakref import WeakSet

import numpy as np

from polyrank.classic.data import Rows
from polyrank.errors import LeakageWarning

_FIRST_ROWS = 1_000
_told: WeakSet[Any] = WeakSet()


def tell_leaks(
    model: str, source: Any, rows: Rows, names: Iterable[str], kinds: Sequence[str]
) -> None:
    """Warn of features that equal a label, or a joint label of two, once for each data set.

    Args:
        model: its name, for the message.
        source: what is remembered as told.
        rows: the training rows.
        names: of the model's features.
        kinds: of each label column.
    """
    try:
        if source in _told:
            return
    except TypeError:  # a list of batches cannot be remembered: it is told again
        source = None
    found = list(leaks(rows, names, kinds))
    if found:
        if source is not None:
            _told.add(source)
        told = "; ".join(f"feature {name!r} equals {label}" for name, label in found)
        remove = ", ".join(repr(name) for name in dict.fromkeys(name for name, _ in found))
        warnings.warn(
            f"{model}: {told} on all {len(rows):,} training rows. The model reads the answer, and "
            f"its scores mean nothing; remove {remove} from the features",
            LeakageWarning,
            stacklevel=3,
        )


def leaks(rows: Rows, names: Iterable[str], kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each feature that equals a label, with the first such label in words."""
    labels = rows.labels
    words = {f"label column {index}": labels[:, index] for index in range(labels.shape[1])}
    binary = [index for index, kind in enumerate(kinds) if kind == "binary"]
    words |= {
        f"the joint label of columns {i} and {j}": labels[:, i] * labels[:, j]
        for i, j in combinations(binary, 2)
    }
    varying = {name: y for name, y in words.items() if len(np.unique(y[~np.isnan(y)])) > 1}
    for name in names:
        column = np.asarray(rows.x[name])
        if column.dtype.kind not in "biuf" or column.ndim != 1:
            continue
        for word, label in varying.items():
            if _equal(column[:_FIRST_ROWS], label[:_FIRST_ROWS]) and _equal(column, label):
                yield name, word
                break


def _equal(column: np.ndarray, label: np.ndarray) -> bool:
    seen = ~np.isnan(label)
    return bool((column[seen] == label[seen]).all())
