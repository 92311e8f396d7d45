"""How well a number ranks a number: Kendall's τ-b over all pairs of rows, or those of one group.

Each is a function of three sums over rows, of what a row has in common with all others. A pair of
rows weighs the product of their weights. Pure numpy, float64; see `polyrank.metrics.regression` for
what the functions take and raise.

Letters: N rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from polyrank.metrics.areas import starts
from polyrank.metrics.metric import Key, Metric, Rows


def signed_pairs(
    label: np.ndarray, prediction: np.ndarray, codes: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Return Σ w·sign(Δlabel)·sign(Δprediction) of each row over the rows of its code.

    Rows are kept in the order of their labels and divided by the bits of their prediction's rank,
    the highest first: at each bit, the other half of a row's part have a known sign of Δprediction,
    and those before and after the row's label one of Δlabel. It takes O(N log N).

    Shape:
        every array (N,) → float64 (N,)
    """
    rank = np.unique(prediction, return_inverse=True)[1]
    order = np.lexsort((label, codes))
    rank, y, w, part = rank[order], label[order], weight[order], codes[order]
    found, row = np.zeros(len(y)), np.arange(len(y))
    for bit in range(int(rank.max(initial=0)).bit_length() - 1, -1, -1):
        high = (rank >> bit & 1).astype(bool)
        new_part = starts(part[1:] != part[:-1])
        first, last = _ends(new_part)
        tied_first, tied_last = _ends(new_part | starts(y[1:] != y[:-1]))
        halves = _before(w * ~high), _before(w * high)
        lead = _opposite(high, halves, first, tied_first) - _opposite(high, halves, tied_last, last)
        found[order] += np.where(high, lead, -lead)
        lows = _before(~high)
        own = lows[row] - lows[first]  # low rows of the part before this one
        place = np.where(high, row + lows[last] - lows[row], first + own)
        part = 2 * np.cumsum(new_part) + high
        order, rank, y, w, part = (_moved(each, place) for each in (order, rank, y, w, part))
    return found


def _ends(new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each row's run begins, and where it has ended."""
    firsts = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    return firsts[run], np.append(firsts[1:], len(new))[run]


def _before(values: np.ndarray) -> np.ndarray:
    """Return the sum before each place, and after all."""
    return np.concatenate([[0], np.cumsum(values)])


def _opposite(
    high: np.ndarray, halves: tuple[np.ndarray, np.ndarray], start: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Return the mass between two places of the half that each row is not in."""
    low, upper = halves
    return np.where(high, low[end] - low[start], upper[end] - upper[start])


def _moved(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    found = np.empty_like(values)
    found[place] = values
    return found


def _untied(values: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the weight of the rows of each row's code that differ from it in value."""
    rank = np.unique(values, return_inverse=True)[1]
    run = np.unique(codes * (int(rank.max(initial=0)) + 1) + rank, return_inverse=True)[1]
    group = np.unique(codes, return_inverse=True)[1]
    return np.bincount(group, weight)[group] - np.bincount(run, weight)[run]


class _Pairs:
    """A sum over rows of what each has in common with the rows of its code."""

    def __init__(self, what: str, key: str | None) -> None:
        self.what, self.key = what, key

    def __call__(self, rows: Rows) -> np.ndarray:
        codes = np.zeros(len(rows.label), np.int64) if self.key is None else rows.codes[self.key]
        kept = codes >= 0
        weight = np.ones(len(codes)) if rows.weight is None else rows.weight
        columns = [each[kept] for each in (rows.label, rows.prediction, codes, weight)]
        found = np.zeros(len(codes))
        if self.what == "signed":
            found[kept] = signed_pairs(*columns)
        else:
            found[kept] = _untied(columns[self.what == "prediction"], *columns[2:])
        return found


def _of(key: Key | None) -> dict[str, Any]:
    """Return what the metrics over all pairs and over those of one group have in common."""
    label, prediction, signed = (_Pairs(what, key) for what in ("label", "prediction", "signed"))
    among = "of one group " if key else ""

    def needs(rows: Rows) -> str | None:
        for what, pairs in (("label", label), ("prediction", prediction)):
            if not rows.total(pairs) > 0:
                return f"no two rows {among}differ in their {what}, among {rows.count}"
        return None

    return {"sums": (signed, label, prediction), "needs": needs, "key": key}


PairMetric = partial(
    Metric, higher_is_better=True, degree=2, scale="fisher", ranks=True, roles=("compared",)
)


def _formula(signed: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    return signed / np.sqrt(label * prediction)


@partial(PairMetric, title="τ", kinds=("watch_time", "weighted_logistic"), **_of(None))
def tau_b(signed: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return Kendall's τ-b: pairs in order less pairs in reverse, ÷ √(pairs untied in either).

    1 is the same order, −1 the reverse, and about 0 what chance gives. Undefined where all labels,
    or all predictions, are the same.

    Examples:
        >>> round(tau_b([1.0, 2.0, 3.0, 4.0], [0.1, 0.3, 0.2, 0.9]), 4)
        0.6667

    Reference:
        Kendall, The treatment of ties in ranking problems, Biometrika 1945.
    """
    return _formula(signed, label, prediction)


@partial(
    PairMetric, title="τ in groups", note="of pairs within one group",
    kinds=("watch_time",), **_of("group"),
)  # fmt: skip
def tau_b_in_groups(signed: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return τ-b over the pairs of rows of one group: what a ranking knows beside the group.

    Rows of no group, below 0, are left out.

    Examples:
        >>> tau_b_in_groups([1.0, 2.0, 30.0, 40.0], [0.2, 0.1, 0.8, 0.9], key=["a", "a", "b", "b"])
        0.0
    """
    return _formula(signed, label, prediction)


METRICS = (tau_b, tau_b_in_groups)
