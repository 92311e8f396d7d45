"""The fold of a row: which part of a cross-fitted first stage never learns from it."""

from __future__ import annotations

from typing import Any

import numpy as np

_STEP, _FIRST, _SECOND = (
    np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def folds(rows: np.ndarray, count: int, seed: int, file: int = 0) -> np.ndarray:
    """Return the fold of each row, from 0 to `count` − 1.

    It is a hash of the seed, of the file's place among those that are read and of the row's number
    in it, and of nothing that the row holds: neither order, batches nor shards change it, and a
    label cannot tell it. Rows of one user fall into different folds, so that the user's own effect
    is read.

    Args:
        rows: row numbers, from 0.
        count: number of folds.
        seed: of the run.
        file: its place.

    Shape:
        int64 (N,) → int32 (N,)

    Examples:
        >>> folds(np.arange(8), 4, seed=1).tolist() == folds(np.arange(8), 4, seed=1).tolist()
        True

    Reference:
        Steele, Lea and Flood, OOPSLA 2014 (the mixing function of SplitMix64).
    """
    with np.errstate(over="ignore"):  # the hash is modulo 2^64
        start = _mixed(_mixed(np.uint64(seed % 2**64) + _STEP) + np.uint64(file) * _STEP)
        mixed = _mixed(start + (rows.astype(np.uint64) + np.uint64(1)) * _STEP)
    return ((mixed >> np.uint64(32)) % np.uint64(count)).astype(np.int32)


def parted(rows: np.ndarray, requests: np.ndarray | None) -> np.ndarray:
    """Return the numbers by which rows fall into folds: where a task ranks, those of requests.

    A row's own label is left out of what it reads. Were the rows of a request in several folds,
    what they have in common, such as the user's effect, would be read lower by its positives than
    by its negatives, and a loss that compares them would learn that.

    Args:
        rows: row numbers.
        requests: the number of each row's request; None where no task ranks.

    Shape:
        int (N,) each → (N,)

    Examples:
        >>> parted(np.array([3, 4, 5]), np.array([9, 2, 9])).tolist()
        [9, 2, 9]
    """
    return rows if requests is None else requests.astype(np.int64)


def _mixed(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
