"""How long something was watched, which its duration bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import erfc, log, sqrt, tau
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from polyrank import spec
from polyrank.errors import SchemaError, did_you_mean
from polyrank.labels.kind import Curvature, LabelKind, Remark, RowGroups
from polyrank.text import says

Method = Literal["d2q", "pcr", "censored"]
Over = Literal["clip", "keep", "error"]
# Of each group's quantile function: 2^8 − 1, so that 8 halvings find a value among them.
KNOTS = 255
_HALVINGS = (128, 64, 32, 16, 8, 4, 2, 1)
# Rows on which the constant of "censored" is fitted, and rounds of EM.
_EM_ROWS, _EM_ROUNDS = 4096, 100
# Words of a column's name that say so.
_DURATIONS = ("duration", "length", "时长")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class WatchTime(LabelKind):
    """A time of at least 0, in the unit of its duration and at most as long.

    A duration that is 0, negative or missing is unknown; such rows are a group of their own. Unless
    plays above their duration are kept, a prediction is never above a known duration.

    Args:
        duration: the column of durations, which prediction reads too.
        method: what is learned. "d2q": the percentile rank of the watch time among the training
            rows of similar duration; the prediction is that group's quantile at the rank. "pcr":
            the share of the duration that was watched. "censored": a latent log-normal time, cut
            off at 0 and at the duration; the prediction is its mean after the cut.
        groups: of durations, of as many training rows each: those of "d2q", and those within
            which every method is ranked and shown.
        over: of a play above its duration, such as a loop: "clip" it to the duration, counted;
            "keep" it, for a rank, which needs no bound, nor has the prediction one then; or refuse
            the log with an "error".

    Raises:
        SchemaError: an option that there is none of.

    Examples:
        >>> import polyrank as pr
        >>> task = pr.Task("play", kind=WatchTime(duration="length", method="pcr"))
        >>> task.label_kind.reads
        ('length',)

    Reference:
        Zhan et al., Deconfounding duration bias in watch-time prediction for video recommendation,
        KDD 2022 (d2q). Tobin, Estimation of relationships for limited dependent variables,
        Econometrica 1958 (censored).
    """

    name = "watch_time"
    likelihood = "polyrank.objective.watch_time:likelihood"
    default_metric = "mae"
    metrics = ("mae", "rmse", "bias")
    allowed = "finite numbers of at least 0 or null"
    curvature = "gaussian"  # of a share, which is learned as a number is
    loss_title = "loss of the watch time, by its method"

    words = ("play", "watch", "watched", "播放", "观看")

    duration: str = "duration"
    method: Method = "d2q"
    groups: int = 30
    over: Over = "clip"

    def __post_init__(self) -> None:
        where = f"kind {self.name!r}"
        if not isinstance(self.duration, str) or not self.duration:
            raise SchemaError(f"{where}: duration must name a column, got {self.duration!r}")
        for field, known in (("method", get_args(Method)), ("over", get_args(Over))):
            value = getattr(self, field)
            if value not in known:
                hint = did_you_mean(str(value), known)
                raise SchemaError(f"{where}: unknown {field} {value!r}{hint}")
        if self.over == "keep" and self.method != "d2q":
            raise SchemaError(
                f"{where}: over = 'keep' needs method 'd2q', whose ranks have no bound, got "
                f"{self.method!r}, which learns within the duration: write over = 'clip'"
            )
        groups = spec.whole(f"{where}: groups", self.groups, error=SchemaError)
        object.__setattr__(self, "groups", groups)

    @classmethod
    def proposed(cls, label: np.ndarray, numbers: Mapping[str, np.ndarray]) -> Self | None:
        """A time that a column of durations bounds, by its name and in most rows."""
        if label.min(initial=0) < 0 or len(np.unique(label)) <= 2:
            return None
        for name, duration in numbers.items():
            known = duration > 0
            if says(name, _DURATIONS) and 2 * (label <= duration)[known].sum() > known.sum():
                return cls(duration=name)
        return None

    @property
    def outputs(self) -> int:
        """Of "censored" the mean and the deviation of the latent log time; else one."""
        return 2 if self.method == "censored" else 1

    @property
    def curvatures(self) -> tuple[Curvature | None, ...]:
        """A latent time that nobody saw to its end has no curvature that a row knows."""
        return (None, None) if self.method == "censored" else super().curvatures

    @property
    def is_density(self) -> bool:
        """That of "censored" is."""
        return self.method == "censored"

    @property
    def is_factor(self) -> bool:
        """A time is."""
        return True

    @property
    def reads(self) -> tuple[str, ...]:
        """The duration."""
        return (self.duration,)

    def allows(self, values: np.ndarray) -> np.ndarray:
        """Numbers of at least 0 that float32 holds."""
        return (values >= 0) & (values <= _LARGEST)

    def observed(self, label: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the watch time, up to the duration where that is known and bounds it."""
        if self.over == "keep":
            return label
        duration = columns[self.duration]
        return np.where(label > duration, np.where(duration > 0, duration, label), label)

    def remarks(self, label: np.ndarray, columns: Mapping[str, np.ndarray]) -> tuple[Remark, ...]:
        """Return plays above their duration, and durations that are not known."""
        duration = columns[self.duration]
        known, seen = duration > 0, ~np.isnan(label)
        return (
            Remark(
                "above-duration",
                self.duration,
                known & (label > duration),
                f"a watch time above the duration {self.duration!r}",
                "they are kept (over = 'keep')"
                if self.over == "keep"
                else "they count as watched to the end, once (over = 'clip')",
                refused=self.over == "error",
            ),
            Remark(
                "unknown-duration",
                self.duration,
                seen & ~known,
                f"an unknown duration {self.duration!r} (0, negative or missing)",
                "they are a group of their own",
            ),
        )

    def row_groups(self, fitted: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> RowGroups:
        """Return the group of each row's duration, the unknown first."""
        edges = fitted["edges"]
        codes = _groups_of(columns[self.duration], np.array(edges, np.float32))
        bounds = [f"≤ {edge:g}" for edge in edges[:1]]
        bounds += [f"{low:g} – {high:g}" for low, high in pairwise(edges)]
        bounds.append(f"> {edges[-1]:g}" if edges else "known")
        return RowGroups(self.duration, ("unknown", *bounds), codes)

    def fit(
        self, label: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return what the method needs of the training rows, and the groups of durations.

        `edges` are the upper ends of the groups but the last; `unknown` stands for a duration that
        is not known: the longest watch time of such rows, or else the mean duration.
        """
        kept = weight > 0
        label, weight, duration = label[kept], weight[kept], columns[self.duration][kept]
        known = duration > 0
        edges = _edges(duration[known], weight[known], self.groups)
        unknown = float(label[~known].max()) if (~known).any() else _mean(duration, weight)
        unknown = unknown if unknown > 0 else 1.0
        bound = np.where(known, duration, unknown)
        rows = _Rows(
            label if self.over == "keep" else np.minimum(label, bound),
            weight,
            bound,
            _groups_of(duration, edges),
            len(edges) + 2,
        )
        return {"edges": edges.tolist(), "unknown": unknown} | _FITS[self.method](rows)


class _Rows(NamedTuple):
    """Training rows of weight above 0; every array (rows,)."""

    label: np.ndarray  # up to the bound
    weight: np.ndarray
    bound: np.ndarray  # the duration, or what stands for it
    group: np.ndarray  # of the duration, 0 where it is not known
    groups: int


def rank_in(knots: Any, group: Any, value: Any) -> Any:
    """Return the rank of each value in its group, within 0 and 1: the same in numpy and torch.

    Between knots it is linear. A value that several knots have gets the middle of their ranks, as a
    percentile rank gives ties their mean.

    Args:
        knots: quantiles of each group, in order: (groups, `KNOTS`).
        group: the group of each row: integers (rows,).
        value: in the dtype of the knots: (rows,).
    """
    flat, start = knots.reshape(-1), group * KNOTS
    below = upto = start * 0
    for step in _HALVINGS:
        below = below + step * (flat[start + below + (step - 1)] < value)
        upto = upto + step * (flat[start + upto + (step - 1)] <= value)
    low, high = (below - 1).clip(0, KNOTS - 2), below.clip(1, KNOTS - 1)
    left, right = flat[start + low], flat[start + high]
    within = (value - left) / (right - left + (right <= left))
    between = (low + within).clip(0, KNOTS - 1)
    tied, middle = upto > below, (below + upto - 1) / 2
    return (tied * middle + ~tied * between) / (KNOTS - 1)


def _groups_of(duration: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the group of each duration, 0 where it is not known."""
    return (1 + np.searchsorted(edges, duration, side="left")) * (duration > 0)


def _edges(duration: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    """Return the upper ends of groups of equal weight, but the last one's; equal ends are one."""
    if not len(duration):
        return np.empty(0, np.float32)
    found = np.unique(_quantiles(duration, weight, np.arange(1, groups) / groups))
    return found[found < duration.max()].astype(np.float32)


def _quantiles(values: np.ndarray, weight: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return values at weighted quantiles: the first at which the share reaches the level."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order])
    places = np.searchsorted(reached, levels * reached[-1], side="left")
    return values[order][places.clip(max=len(values) - 1)]


def _mean(values: np.ndarray, weight: np.ndarray) -> float:
    total = float(weight.sum())
    return float(weight @ values) / total if total > 0 else 0.0


def _standard(share: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    """Return what standardises a share, and the loss of its mean; a constant's deviation is 1."""
    mean = _mean(share, weight)
    variance = _mean((share - mean) ** 2, weight)
    deviation = variance**0.5 if variance > 0 else 1.0
    return {"mean": mean, "deviation": deviation, "constant_loss": variance / deviation**2}


def _fit_ranks(rows: _Rows) -> dict[str, Any]:
    """Return each group's `quantiles`; those of all rows for a group that has none."""
    levels, knots = np.linspace(0, 1, KNOTS), np.zeros((rows.groups, KNOTS))
    for code in range(rows.groups if len(rows.label) else 0):
        own = rows.group == code
        own = own if own.any() else np.ones(len(own), bool)
        knots[code] = _quantiles(rows.label[own], rows.weight[own], levels)
    ranks = rank_in(knots, rows.group, rows.label)
    return {"quantiles": knots.tolist()} | _standard(ranks, rows.weight)


def _fit_shares(rows: _Rows) -> dict[str, Any]:
    return _standard(rows.label / rows.bound, rows.weight)


def _fit_censored(rows: _Rows) -> dict[str, Any]:
    """Return the `mean` and the `deviation` of a latent log(1 + time ÷ `scale`), by EM.

    They are the most likely ones for all rows alike. A part of the rows says them well enough:
    heads only begin there.

    Reference:
        Dempster, Laird and Rubin, Journal of the Royal Statistical Society B 1977, section 4.2.
    """
    scale = _mean(rows.label, rows.weight) or 1.0
    step = -(-len(rows.label) // _EM_ROWS) or 1
    label, weight, bound = (each[::step] for each in (rows.label, rows.weight, rows.bound))
    y, end = np.log1p(label / scale), np.log1p(bound / scale)
    top, none = label >= bound, label <= 0
    mean, deviation = _mean(y, weight), max(_mean((y - _mean(y, weight)) ** 2, weight) ** 0.5, 0.01)
    for _ in range(_EM_ROUNDS if len(label) else 0):
        above, below = _hazard((end - mean) / deviation), _hazard(mean / deviation)
        guess, spread = y.copy(), np.zeros(len(y))
        guess[top] = mean + deviation * above[top]
        spread[top] = 1 + ((end - mean) / deviation * above - above**2)[top]
        guess[none], spread[none] = (
            mean - deviation * below,
            1 + mean / deviation * below - below**2,
        )
        last, mean = mean, _mean(guess, weight)
        variance = _mean(spread.clip(0) * deviation**2 + (guess - mean) ** 2, weight)
        deviation = max(variance**0.5, 0.01)
        if abs(mean - last) < 1e-6 * deviation:
            break
    tail = np.where(top, _upper_tail((end - mean) / deviation), _upper_tail(mean / deviation))
    seen = ((y - mean) / deviation) ** 2 / 2 + log(tau) / 2
    losses = np.where(top | none, -np.log(tail.clip(1e-300)), seen)
    fitted = {"scale": scale, "mean": mean, "deviation": deviation}
    return fitted | {"constant_loss": _mean(losses, weight)}


def _upper_tail(x: Any) -> np.ndarray:
    """1 − Φ(x)."""
    flat = np.atleast_1d(np.asarray(x, np.float64)) / sqrt(2)
    return np.array([erfc(each) / 2 for each in flat.tolist()])


def _hazard(x: Any) -> np.ndarray:
    """φ(x) ÷ (1 − Φ(x)), which is about x where the tail has no digits left."""
    tail = _upper_tail(x)
    x = np.atleast_1d(np.asarray(x, np.float64))
    return np.where(tail > 1e-300, np.exp(-(x**2) / 2) / sqrt(tau) / tail.clip(1e-300), x)


_FITS: Mapping[str, Callable[[_Rows], dict[str, Any]]] = {
    "d2q": _fit_ranks,
    "pcr": _fit_shares,
    "censored": _fit_censored,
}
