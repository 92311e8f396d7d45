"""Which map a head gets, if any: candidates compared on rows that they were not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank import spec
from polyrank.calibration import MAPS, CalibrationMap
from polyrank.calibration.scale import LEAST, SCALES, Scale
from polyrank.errors import ConfigError
from polyrank.labels import Binary, LabelKind

FOLDS = 5
NONE = "none"
BINARY = Binary()


@dataclass(frozen=True)
class Calibrator:
    """The map that a head's validation rows support, or the `reason` why there is none.

    `positives` are None of a kind of label that has none. `losses` are of each candidate, "none"
    among them, on rows it was not fitted on, if any; what loss it is, the scale of the kind says.
    """

    map: CalibrationMap | None
    rows: int
    positives: int | None
    losses: Mapping[str, float]
    reason: str | None = None

    @property
    def kind(self) -> str:
        """The map's name, or `none`."""
        return NONE if self.map is None else self.map.name

    @property
    def where(self) -> str:
        """The rows, in words."""
        found = f"{self.rows:,} validation rows"
        return found if self.positives is None else f"{found} with {self.positives:,} positives"

    def apply(self, values: Any) -> Any:
        """Return what is calibrated; see `CalibrationMap.apply`."""
        return values if self.map is None else self.map.apply(values)

    def to_table(self, kind: LabelKind = BINARY) -> dict[str, Any]:
        """Return plain values; the losses go by the name of what they are."""
        found = {"kind": NONE} if self.map is None else spec.chosen(MAPS, self.map)
        evidence = {
            "rows": self.rows,
            "positives": self.positives,
            scale_of(kind).loss_name: dict(self.losses),
            "reason": self.reason,
        }
        return found | {name: each for name, each in evidence.items() if each is not None}

    @classmethod
    def from_table(
        cls, table: Mapping[str, Any], where: str = "calibrator", kind: LabelKind = BINARY
    ) -> Calibrator:
        """Return what `to_table` gave.

        Raises:
            ConfigError: a key that is missing, or a map that is not of the kind of label.
        """
        named = scale_of(kind, where).loss_name
        names = {"rows": "rows", "positives": "positives", named: "losses", "reason": "reason"}
        for needed in ("rows", named):
            if needed not in table:
                raise ConfigError(f"{where}: the key {needed!r} is missing")
        kept = {names[key]: table[key] for key in table if key in names}
        rest = {key: table[key] for key in table if key not in names}
        evidence = spec.from_table(_Evidence, kept, where)
        found = None if rest == {"kind": NONE} else spec.choose(MAPS, rest, where)
        if found is not None:
            found.check(kind, where)
        return cls(found, evidence.rows, evidence.positives, evidence.losses, evidence.reason)


@dataclass(frozen=True)
class _Evidence:
    rows: int
    losses: Mapping[str, float]
    positives: int | None = None
    reason: str | None = None


def scale_of(kind: LabelKind, where: str = "calibration") -> Scale:
    """Return what maps of a kind of label map.

    Raises:
        ConfigError: a kind that has no map.
    """
    if kind.calibrated is None:
        raise ConfigError(f"{where}: a label of kind {kind.name!r} has no calibration map")
    return SCALES[kind.calibrated]


def calibrate(
    prediction: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
    kind: LabelKind = BINARY,
) -> Calibrator:
    """Return the map of a finite prediction that its rows support, fitted on all of them.

    The best of a 5-fold cross-fit on the loss of its scale is taken only where its gain over the
    prediction as it is exceeds the gain's standard error. A row of weight 0 is no row. Rows of
    equal `groups` are one user's: they are in one fold, and the standard error counts users.

    Args:
        prediction: the head's logit or the mean (rows,), or quantiles (rows, levels): what the
            kind says is `calibrated`.
        label: (rows,), none NaN.
        weight: (rows,).
        groups: codes of users (rows,).
        seed: of the folds.
        kind: of the label, with its options.

    Raises:
        ConfigError: a kind that has no map.
    """
    scale = scale_of(kind)
    rows = _rows(prediction, label, weight, groups)
    positives, evidence = scale.positives(rows.label), scale.evidence(kind, rows.label)
    for name, count in evidence.items():
        if count < LEAST:
            reason = f"{count:,} {name}, and at least {LEAST} are needed"
            return Calibrator(None, len(rows.label), positives, {}, reason)
    told = next(iter(evidence.values()))  # such as positives
    candidates = {name: each for name, each in MAPS.items() if kind.calibrated in each.scales}
    enough = {name: each for name, each in candidates.items() if told >= each.least}
    if not enough:
        least = min(each.least for each in candidates.values())
        reason = f"{told:,} {next(iter(evidence))}, and at least {least:,} are needed"
        return Calibrator(None, len(rows.label), positives, {}, reason)
    losses = {NONE: scale.loss(kind, rows.prediction, rows.label)}
    losses |= {
        name: loss
        for name, each in enough.items()
        if (loss := _cross_fit(each, rows, seed, kind)) is not None
    }
    means = {name: float(rows.weight @ each / rows.weight.sum()) for name, each in losses.items()}
    best = min(means, key=lambda name: means[name])
    gain, error = means[NONE] - means[best], _standard_error(losses[NONE] - losses[best], rows)
    found, reason, said = None, None, scale.loss_name.replace("_", " ")
    if len(means) == 1:
        reason = f"in some of the {FOLDS} folds {scale.no_end}"
    elif best == NONE:
        reason = f"no candidate has a lower {said} on rows that it was not fitted on"
    elif not gain > error:
        reason = f"the gain of {best}, {gain:.2g} of {said}, is within its error of {error:.2g}"
    elif not (found := MAPS[best].fit(rows.prediction, rows.label, rows.weight, kind)):
        reason = f"{best} has no solution that rises on all rows"
    return Calibrator(found, len(rows.label), positives, means, reason)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of a weight above 0, from the lowest prediction to the highest, as float64."""

    prediction: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    groups: np.ndarray


def _rows(
    prediction: np.ndarray, label: np.ndarray, weight: np.ndarray | None, groups: np.ndarray | None
) -> _Rows:
    order = np.argsort(
        prediction if prediction.ndim == 1 else prediction[:, 0]
    )  # once: the sorts of the folds are then linear
    if weight is not None:
        order = order[weight[order] > 0]
    w = np.ones(len(order)) if weight is None else weight[order].astype(np.float64)
    return _Rows(
        prediction[order].astype(np.float64),
        label[order].astype(np.float64),
        w / w.max(initial=0) if len(w) else w,
        np.arange(len(order)) if groups is None else groups[order],
    )


def _cross_fit(
    candidate: type[CalibrationMap], rows: _Rows, seed: int, kind: LabelKind
) -> np.ndarray | None:
    """Return each row's log loss under a map that the other folds gave, or None if one has none."""
    choice = np.random.default_rng(seed).integers(
        FOLDS, size=int(rows.groups.max()) + 1, dtype=np.int8
    )
    fold = choice[rows.groups]
    losses = np.empty(len(rows.label))
    for each in range(FOLDS):
        held = fold == each
        found = candidate.fit(rows.prediction[~held], rows.label[~held], rows.weight[~held], kind)
        if found is None:
            return None
        mapped = mapped_rows(found, rows.prediction[held])
        losses[held] = scale_of(kind).loss(kind, mapped, rows.label[held])
    return losses


def mapped_rows(found: CalibrationMap, prediction: np.ndarray) -> np.ndarray:
    """Return what is calibrated of predictions (rows,) or quantiles (rows, levels)."""
    if prediction.ndim == 1:
        return found.apply(prediction)
    return np.stack(found.apply(tuple(prediction.T)), axis=1)


def _standard_error(gains: np.ndarray, rows: _Rows) -> float:
    """Return the standard error of a weighted mean over rows of which one user's go together."""
    total = rows.weight.sum()
    off = rows.weight * (gains - rows.weight @ gains / total)
    sums = np.bincount(rows.groups, off)
    users = int(np.count_nonzero(np.bincount(rows.groups)))
    return float(np.sqrt(sums @ sums * users / max(users - 1, 1)) / total)
