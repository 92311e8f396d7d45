"""Where a metric would lie on other test rows: a Poisson bootstrap, one sort for all of it.

A replicate gives each cluster, a user or a row, a Poisson(1) count that multiplies the weights of
its rows. Most metrics are functions of sums, which are taken once per cluster; one matrix product
then gives all replicates. AUC and PR-AUC take a pass over rows that were sorted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import exp, factorial

import numpy as np
from numpy.typing import ArrayLike

from polyrank.errors import ConfigError, did_you_mean
from polyrank.labels import LabelKind
from polyrank.labels.binary import sigmoid
from polyrank.metrics.areas import Ranks
from polyrank.metrics.inputs import coded, column, key_codes
from polyrank.metrics.metric import Metric, Rows
from polyrank.metrics.registry import METRICS
from polyrank.text import counted

BLOCK = 1 << 22  # rows times replicates in memory at a time
SLICE = 1 << 14  # clusters that are multiplied at a time
NEEDED = 50  # of each class, and of the users or requests that are drawn
Z = 1.96  # standard errors that hold 95 % of a normal distribution
_Map = Callable[[np.ndarray], np.ndarray]


def bootstrap(
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    metrics: Sequence[str] = ("auc",),
    *,
    outputs: np.ndarray | None = None,
    kind: LabelKind | None = None,
    group: ArrayLike | None = None,
    request: ArrayLike | None = None,
    replicates: int = 200,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return each metric's values on resampled test rows, (replicates,) by name.

    The draws depend on the seed, the number of rows and which of them share a user, never on the
    prediction: of two models that scored the same rows, the differences of their replicates are
    the replicates of their difference.

    Users are drawn whole, and a row whose user is missing on its own; a request is drawn with the
    user of its first row, or with that row. A replicate that does not support the metric is NaN.
    `outputs` and `kind` are as in `Rows`. `ece` is refused: it is a mean of absolute gaps, each of
    which resampling widens, so its replicates lie above its value. A metric of pairs of rows is
    replicated to first order: each row's part counts once, and the distance from the value twice.

    Reference:
        Chamandy et al., Estimating uncertainty for massive data streams, Google 2012: counts that
        are Poisson(1) and independent in place of the multinomial's. Serfling, Approximation
        theorems of mathematical statistics, 1980, section 5.3: the projection of a statistic of
        pairs.
    """
    keys = {"user": user, "request": request, "group": group}
    wanted = {name: _replicable(name, keys) for name in metrics}
    cluster = clusters_of(user, len(column("label", label)))
    rows = Rows.of(label, prediction, weight, _codes(cluster, request, group), outputs, kind)
    clusters = int(cluster.max()) + 1
    possible = {name: e for name, e in wanted.items() if e.needs is None or e.needs(rows) is None}
    sums, places = _sums(possible, rows, clusters)
    ranks = None
    if any(each.ranked for each in possible.values()):
        ranks = Ranks.of(rows.positive, rows.prediction, rows.weight, rows.codes["user"])
    found: dict[str, list[np.ndarray]] = {name: [] for name in possible}
    step = max(1, BLOCK // max(clusters, len(rows.label)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for counts in draws(clusters, replicates, seed, step):
            totals = _product(counts, sums)
            ranked = None if ranks is None else ranks.drawn(counts)
            for name, each in possible.items():
                if each.ranked is not None and ranked is not None:
                    found[name].append(each.ranked(ranked))
                else:
                    value = each.formula if each.sums else np.divide
                    drawn, whole = value(*totals[:, places[name]].T), 0.0
                    if each.degree > 1:
                        whole = (1 - each.degree) * each.formula(*sums[:, places[name]].sum(0))
                    found[name].append(each.degree * drawn + whole)
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    undefined = np.full(replicates, np.nan)
    known = {name: np.where(np.isfinite(v), v, np.nan) for name, v in values.items()}
    return {name: known.get(name, undefined) for name in metrics}


def draws(clusters: int, replicates: int, seed: int, step: int) -> Iterator[np.ndarray]:
    """Yield the Poisson(1) counts of all replicates, `step` at a time, which decides no draw."""
    words = -(-clusters // 4)  # of 64 bits, for four draws each
    generator = np.random.SFC64(seed)
    for first in range(0, replicates, step):
        some = min(step, replicates - first)
        random = generator.random_raw(some * words).astype("<u8", copy=False).view("<u2")
        yield QUANTILES[random.reshape(some, 4 * words)[:, :clusters]]


def clusters_of(user: ArrayLike | None, rows: int) -> np.ndarray:
    """Return each row's cluster: its user, numbered as they first appear, or the row itself."""
    number = np.arange(rows)
    if user is None or not rows:
        return number
    codes = key_codes("user", user, rows=rows)
    first = np.empty(int(codes.max()) + 1, dtype=np.int64)
    first[codes[::-1]] = number[::-1]  # of the rows of one code, the last to be written stays
    leader = first[codes]
    return (np.cumsum(leader == number) - 1)[leader]


def _poisson_quantiles() -> np.ndarray:
    """Return the count of each 16-bit word."""
    probabilities = np.array([exp(-1) / factorial(count) for count in range(12)])
    middles = (np.arange(1 << 16) + 0.5) / (1 << 16)
    return np.searchsorted(np.cumsum(probabilities), middles).astype(np.uint8)


QUANTILES = _poisson_quantiles()


def _codes(
    cluster: np.ndarray, request: ArrayLike | None, group: ArrayLike | None
) -> dict[str, np.ndarray]:
    """Return each row's cluster, by the name of what is drawn, its request and its group."""
    found = {"user": cluster}
    if request is not None:
        found["request"] = coded("request", request, rows=len(cluster))
    if group is not None:
        found["group"] = np.asarray(group)
    return found


def _replicable(name: str, keys: Mapping[str, ArrayLike | None]) -> Metric:
    known = [name for name, each in METRICS.items() if each.has_replicates]
    if name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"bootstrap: metric {name!r} has no replicates{hint}")
    if (key := METRICS[name].key) is not None and keys[key] is None:
        raise ConfigError(f"bootstrap: {name!r} needs the {key}s")
    return METRICS[name]


def _sums(
    metrics: Mapping[str, Metric], rows: Rows, clusters: int
) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Return what metrics sum, once per cluster: (clusters, sums), and the columns of each metric.

    Metrics share a sum that they have in common.
    """
    cluster, columns, places = rows.codes["user"], {}, {}
    for name, each in metrics.items():
        if each.sums:
            for summand in each.sums:
                if summand not in columns:
                    values = summand(rows)
                    values = values if rows.weight is None else values * rows.weight
                    columns[summand] = np.bincount(cluster, values, minlength=clusters)
            places[name] = list(each.sums)
        elif each.key is not None:
            found = each.formula(rows)
            weight = np.ones(len(found.value)) if found.weight is None else found.weight
            drawn = found.code if each.key == "user" else _clusters_of_requests(rows)[found.code]
            for part, values in (("value", found.value * weight), ("weight", weight)):
                columns[name, part] = np.bincount(drawn, values, minlength=clusters)
            places[name] = [(name, "value"), (name, "weight")]
    order = {part: index for index, part in enumerate(columns)}
    stacked = np.column_stack(list(columns.values())) if columns else np.zeros((clusters, 0))
    return stacked, {name: [order[part] for part in parts] for name, parts in places.items()}


def _clusters_of_requests(rows: Rows) -> np.ndarray:
    """Return the cluster of each request's first row, by the request's code."""
    request = rows.codes["request"]
    known = np.flatnonzero(request >= 0)[::-1]
    first = np.zeros(int(request.max(initial=-1)) + 1, dtype=np.int64)
    first[request[known]] = known  # of the rows of one request, the last to be written stays
    return rows.codes["user"][first]


def _product(counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return the sums of each replicate, without the counts as float64 all at once."""
    total = np.zeros((len(counts), sums.shape[1]))
    for first in range(0, len(sums) if sums.shape[1] else 0, SLICE):
        some = slice(first, first + SLICE)
        total += counts[:, some].astype(np.float64) @ sums[some]
    return total


def intervals(
    values: Mapping[str, float],
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    *,
    outputs: np.ndarray | None = None,
    kind: LabelKind | None = None,
    group: ArrayLike | None = None,
    request: ArrayLike | None = None,
    replicates: int = 200,
    seed: int = 0,
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Return the 95 % interval of each metric, `{name: (low, high)}`, and why others have none.

    An interval is the value ± 1.96 standard errors, which are the standard deviation of `bootstrap`
    replicates, on a scale without ends: logit for areas, log for losses and ratios. It covers the
    sampling of the test rows, not what another training would give: seeds show that.

    `values` are the metrics on all rows. A reason is under "interval" if it is that of all, else
    under "auc interval". There is no interval below 50 positives, negatives or users, nor where the
    value is the end of its scale.

    Reference:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, sections 12.6 and 13.3:
        intervals on a transformed scale.
    """
    if not values:
        return {}, {}
    known = [METRICS[name] for name in values]
    few, reasons = too_few(known, label, prediction, user, weight, request)
    if few is not None:
        return {}, {"interval": few}
    for each in known:
        if not np.isfinite(_scaled(each, values[each.name])):
            reasons[each.name] = f"{values[each.name]:g} is the end of its scale"
    measured = [name for name in values if name not in reasons]
    found = {}
    if measured:
        samples = bootstrap(
            label, prediction, user, weight, measured, request=request, group=group,
            outputs=outputs, kind=kind, replicates=replicates, seed=seed,
        )  # fmt: skip
        for name in measured:
            ends, reason = interval(METRICS[name], values[name], samples[name])
            if ends is None:
                reasons[name] = str(reason)
            else:
                found[name] = ends
    return found, {f"{name} interval": reasons[name] for name in values if name in reasons}


def interval(
    metric: Metric, value: float, samples: np.ndarray
) -> tuple[tuple[float, float] | None, str | None]:
    """Return low and high, or None and the reason, by a value and its replicates.

    Examples:
        >>> ends, _ = interval(METRICS["pcoc"], 1.0, np.array([0.5, 1.0, 2.0]))
        >>> [round(end, 2) for end in ends]
        [0.26, 3.89]
    """
    scaled = _scaled(metric, samples)
    fit = int(np.isfinite(scaled).sum())
    if fit < len(samples):
        return None, f"{len(samples) - fit} of {len(samples)} replicates are at its scale's end"
    assert metric.scale is not None
    ends = _scaled(metric, value) + Z * scaled.std(ddof=1) * np.array([-1.0, 1.0])
    low, high = sorted(_SCALES[metric.scale][1](ends).tolist())
    return (low, high), None


def too_few(
    metrics: Sequence[Metric],
    label: ArrayLike,
    prediction: ArrayLike,
    user: ArrayLike | None,
    weight: ArrayLike | None,
    request: ArrayLike | None = None,
) -> tuple[str | None, dict[str, str]]:
    """Return why these rows are too few for any interval, or None, and why for some metrics."""
    cluster = clusters_of(user, len(np.asarray(label)))
    rows = Rows.of(label, prediction, weight, _codes(cluster, request, None))
    if any(each.of_events for each in metrics):
        counts = {"positive": (rows.label == 1).sum(), "negative": (rows.label == 0).sum()}
    else:
        counts = {"row": len(rows.label)}
    if user is not None:
        counts["user"] = len(np.unique(rows.codes["user"]))
    for name, count in counts.items():
        if count < NEEDED:
            return f"{counted(count, name)}; an interval takes {NEEDED}", {}
    reasons = {}
    for each in metrics:
        if (
            each.key is not None
            and not each.sums
            and (count := len(each.formula(rows).value)) < NEEDED
        ):
            who = f"{counted(count, str(each.key))} {each.groups_are}".rstrip()
            reasons[each.name] = f"{who}; an interval takes {NEEDED}"
    return None, reasons


# To each scale, and the way back.
_SCALES: Mapping[str, tuple[_Map, _Map]] = {
    "logit": (lambda x: np.log(x) - np.log1p(-x), sigmoid),
    "log": (np.log, np.exp),
    "log of the rest": (lambda x: np.log(1 - x), lambda z: 1 - np.exp(z)),
    "fisher": (np.arctanh, np.tanh),
    "plain": (lambda x: x, lambda z: z),
}


def _scaled(metric: Metric, values: ArrayLike) -> np.ndarray:
    assert metric.scale is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        return _SCALES[metric.scale][0](np.asarray(values, dtype=np.float64))
