"""How far later rows have drifted from the training rows, beyond sampling noise."""

from __future__ import annotations

import numpy as np

# The usual bound: below .1 nothing, above .2 a shift that affects models (Siddiqi, 2006).
MOST_DRIFT = 0.2
# All other ids share one bin: rare ids come and go in any log.
FREQUENT_IDS = 20
NUMBER_BINS = 10
# Standard deviations of sampling noise that are allowed: at 3, one feature in a hundred by chance.
DEVIATIONS = 3.0
_HALF_A_ROW = 0.5


def stability_index(train: np.ndarray, later: np.ndarray) -> tuple[float, float]:
    """Return the population stability index of two histograms, and what noise alone explains.

    The index is Σ (q − p) ln(q / p) over the B bins that hold any row, p and q being their shares
    of n training and m later rows. Half a row is added to each bin, so that an empty one has a
    finite share. If both are drawn from one distribution, the index is distributed like
    (1/n + 1/m) χ² with B − 1 degrees of freedom, so noise is taken as its mean and 3 deviations:
    (1/n + 1/m) · (B − 1 + 3 √(2 (B − 1))).

    Args:
        train: rows in each bin.
        later: likewise.

    Returns:
        The index and the noise; both 0 where one side has no row.

    Shape:
        (bins,), (bins,) → two numbers

    Example:
        >>> index, noise = stability_index(np.array([500, 500]), np.array([800, 200]))
        >>> round(index, 2), round(noise, 4)
        (0.41, 0.0105)

    Reference:
        Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal
        of Risk Model Validation 2020: the χ² distribution.
    """
    held = (train > 0) | (later > 0)
    n, m, bins = int(train.sum()), int(later.sum()), int(np.count_nonzero(held))
    if not n or not m:
        return 0.0, 0.0
    p, q = train[held] + _HALF_A_ROW, later[held] + _HALF_A_ROW
    p, q = p / p.sum(), q / q.sum()
    free = bins - 1
    noise = (1 / n + 1 / m) * (free + DEVIATIONS * np.sqrt(2 * free))
    return float((q - p) @ np.log(q / p)), float(noise)


def id_bins(counts: np.ndarray) -> np.ndarray:
    """Return counts of the 20 most frequent training ids, and of the rest.

    Args:
        counts: of each row of a vocabulary: row 0 the unseen ids, then the most frequent first.

    Example:
        >>> id_bins(np.array([3, 9, 8]))
        array([9, 8, 3])
    """
    frequent = counts[1 : FREQUENT_IDS + 1]
    return np.append(frequent, counts.sum() - frequent.sum())


def number_bins(train: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return counts of up to ten quantile bins of the training values, and of missing ones.

    Args:
        train: counts of finer bins, the first of missing values, the others in order of value.
        later: likewise.

    Example:
        >>> fine = np.array([7, *[1] * 20])
        >>> number_bins(fine, fine)[0]
        array([7, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    present = train[1:]
    below = np.cumsum(present) - present
    tenth = 1 + (NUMBER_BINS * below) // max(int(present.sum()), 1)
    # A bin above all training values belongs to the last tenth.
    of = np.concatenate([[0], np.minimum(tenth, NUMBER_BINS)])
    return tuple(  # pyrefly: ignore
        np.bincount(of, each, minlength=NUMBER_BINS + 1).astype(np.int64) for each in (train, later)
    )
