"""Which map a head gets, if any: candidates compared on rows that they were not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank import spec
from polyrank.calibration import MAPS, CalibrationMap
from polyrank.calibration.platt import log_loss

FOLDS = 5
LEAST = 50  # positives, and negatives, below which nothing is fitted
NONE = "none"
_EVIDENCE = ("rows", "positives", "log_loss", "reason")


@dataclass(frozen=True)
class Calibrator:
    """The map that a head's validation rows support, or the `reason` why there is none.

    `log_loss` is of each candidate, "none" among them, on rows it was not fitted on, if any.
    """

    map: CalibrationMap | None
    rows: int
    positives: int
    log_loss: Mapping[str, float]
    reason: str | None = None

    @property
    def kind(self) -> str:
        """The map's name, or `none`."""
        return NONE if self.map is None else self.map.name

    def apply(self, logits: np.ndarray) -> np.ndarray:
        return logits if self.map is None else self.map.apply(logits)

    def to_table(self) -> dict[str, Any]:
        found = {"kind": NONE} if self.map is None else spec.chosen(MAPS, self.map)
        evidence = {name: spec.to_table(getattr(self, name)) for name in _EVIDENCE}
        return found | {name: each for name, each in evidence.items() if each is not None}

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "calibrator") -> Calibrator:
        kept = {key: table[key] for key in table if key in _EVIDENCE}
        rest = {key: table[key] for key in table if key not in _EVIDENCE}
        evidence = spec.from_table(_Evidence, kept, where)
        found = None if rest == {"kind": NONE} else spec.choose(MAPS, rest, where)
        return cls(found, evidence.rows, evidence.positives, evidence.log_loss, evidence.reason)


@dataclass(frozen=True)
class _Evidence:
    rows: int
    positives: int
    log_loss: Mapping[str, float]
    reason: str | None = None


def calibrate(
    logit: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Calibrator:
    """Return the map of a head's finite logit that its rows support, fitted on all of them.

    The best of a 5-fold cross-fit on log loss is taken only where its gain over the logit as it is
    exceeds the gain's standard error. A row of weight 0 is no row. Rows of equal `groups` are one
    user's: they are in one fold, and the standard error counts users.
    """
    rows = _rows(logit, label, weight, groups)
    positives = int(rows.label.sum())
    for name, count in (("positives", positives), ("negatives", len(rows.label) - positives)):
        if count < LEAST:
            reason = f"{count:,} {name}, and at least {LEAST} are needed"
            return Calibrator(None, len(rows.label), positives, {}, reason)
    losses = {NONE: log_loss(rows.logit, rows.label)}
    losses |= {
        name: loss
        for name, kind in MAPS.items()
        if positives >= kind.least_positives and (loss := _cross_fit(kind, rows, seed)) is not None
    }
    means = {name: float(rows.weight @ each / rows.weight.sum()) for name, each in losses.items()}
    best = min(means, key=lambda name: means[name])
    gain, error = means[NONE] - means[best], _standard_error(losses[NONE] - losses[best], rows)
    found, reason = None, None
    if len(means) == 1:
        what = "one label is missing or the logit separates the two, so no map has a best fit"
        reason = f"in some of the {FOLDS} folds {what}"
    elif best == NONE:
        reason = "no candidate has a lower log loss on rows that it was not fitted on"
    elif not gain > error:
        reason = f"the gain of {best}, {gain:.2g} of log loss, is within its error of {error:.2g}"
    elif not (found := MAPS[best].fit(rows.logit, rows.label, rows.weight)):
        reason = f"{best} has no solution that rises on all rows"
    return Calibrator(found, len(rows.label), positives, means, reason)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of a weight above 0, from the lowest logit to the highest, as float64."""

    logit: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    groups: np.ndarray


def _rows(
    logit: np.ndarray, label: np.ndarray, weight: np.ndarray | None, groups: np.ndarray | None
) -> _Rows:
    order = np.argsort(logit)  # once: the sorts of the folds are then linear
    if weight is not None:
        order = order[weight[order] > 0]
    w = np.ones(len(order)) if weight is None else weight[order].astype(np.float64)
    return _Rows(
        logit[order].astype(np.float64),
        label[order].astype(np.float64),
        w / w.max(initial=0) if len(w) else w,
        np.arange(len(order)) if groups is None else groups[order],
    )


def _cross_fit(kind: type[CalibrationMap], rows: _Rows, seed: int) -> np.ndarray | None:
    """Return each row's log loss under a map that the other folds gave, or None if one has none."""
    choice = np.random.default_rng(seed).integers(
        FOLDS, size=int(rows.groups.max()) + 1, dtype=np.int8
    )
    fold = choice[rows.groups]
    losses = np.empty(len(rows.label))
    for each in range(FOLDS):
        held = fold == each
        found = kind.fit(rows.logit[~held], rows.label[~held], rows.weight[~held])
        if found is None:
            return None
        losses[held] = log_loss(found.apply(rows.logit[held]), rows.label[held])
    return losses


def _standard_error(gains: np.ndarray, rows: _Rows) -> float:
    """Return the standard error of a weighted mean over rows of which one user's go together."""
    total = rows.weight.sum()
    off = rows.weight * (gains - rows.weight @ gains / total)
    sums = np.bincount(rows.groups, off)
    users = int(np.count_nonzero(np.bincount(rows.groups)))
    return float(np.sqrt(sums @ sums * users / max(users - 1, 1)) / total)
