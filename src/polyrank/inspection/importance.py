"""Permutation importance: what a score loses when a feature no longer says anything of its row.

Letters: N rows, R replicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from math import hypot
from statistics import mean, stdev
from typing import Any

import numpy as np
import polars as pl

from polyrank import spec
from polyrank.data.table import Table
from polyrank.data.windows import part
from polyrank.errors import ConfigError, did_you_mean
from polyrank.meter import metered
from polyrank.metrics.bootstrap import Z, bootstrap, too_few
from polyrank.metrics.comparison import student_t
from polyrank.metrics.inputs import coded, key_codes
from polyrank.metrics.metric import Metric, Rows
from polyrank.metrics.predicted import named_population, outputs_of, predicted
from polyrank.metrics.registry import direction, metric
from polyrank.metrics.undefined import Undefined
from polyrank.schema import Schema
from polyrank.terms import Population, population_label, populations
from polyrank.text import aligned, counted, html_table

FORMAT = 1
PERMUTATIONS = 5
MOST_ROWS = 20_000
REPLICATES = 200  # of the rows
SHOWN = 15  # features of a score that are printed
Predict = Callable[[Table], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Drop:
    """What one score loses when the values of a feature are permuted among the rows.

    Args:
        score: such as `buy @ all`.
        metric: that is measured.
        feature: or the name of a group of features that are permuted together.
        value: mean over the permutations, in the metric's own unit; above 0, predictions are worse
            without the feature.
        low: of the 95 % interval; None where there is none.
        high: likewise.
        reason: why there is none.
    """

    score: str
    metric: str
    feature: str
    value: float
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Importance:
    """The permutation importance of features; prints as a table.

    Args:
        split: which rows it was measured on.
        rows: how many.
        of: how many these were drawn from.
        permutations: how often each feature was permuted.
        whole: the metric of each score on the rows as they are.
        drops: by score, the largest first.
        together: the features of each group that was permuted as one.
        left_out: features that were not permuted, each with the reason.
        absent: scores that cannot be measured, or not without a feature, each with the reason.
    """

    split: str
    rows: int
    of: int
    permutations: int
    whole: Mapping[str, float]
    drops: tuple[Drop, ...]
    together: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]
    absent: Mapping[str, str]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was measured how, and what is missing."""
        found = [
            f"{name}: {', '.join(features)} are permuted together"
            for name, features in self.together.items()
        ]
        found += [f"{name} is left out: {reason}" for name, reason in self.left_out.items()]
        found += [f"{score} is not measured: {reason}" for score, reason in self.absent.items()]
        reasons: dict[str, dict[str, None]] = {}
        for each in self.drops:
            if each.reason is not None:
                reasons.setdefault(each.reason, {})[each.score] = None
        found += [f"no interval, {', '.join(of)}: {reason}" for reason, of in reasons.items()]
        return tuple(found)

    def to_frame(self) -> pl.DataFrame:
        """Return a line a drop: score, metric, feature, drop, low, high."""
        numbers = ("value", "low", "high")
        types = {
            name: pl.Float64 if name in numbers else pl.String
            for name in ("score", "metric", "feature", *numbers)
        }
        lines = [{name: getattr(each, name) for name in types} for each in self.drops]
        return pl.DataFrame(lines, schema=types).rename({"value": "drop"})

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {
            "format": FORMAT,
            "split": self.split,
            "rows": self.rows,
            "of": self.of,
            "permutations": self.permutations,
            "whole": dict(self.whole),
            "drops": [asdict(each) for each in self.drops],
            "together": {name: list(each) for name, each in self.together.items()},
            "left_out": dict(self.left_out),
            "absent": dict(self.absent),
        }

    def __str__(self) -> str:
        table = aligned(*self._table, right=(3,))
        return "\n".join([self.about, "", table, *(f"– {each}" for each in self.remarks)])

    def _repr_html_(self) -> str:
        notes = "<br>".join(escape(f"– {each}") for each in self.remarks)
        return f"<p>{escape(self.about)}</p>{html_table(*self._table)}<p>{notes}</p>"

    @property
    def about(self) -> str:
        """The rows and the permutations, in words."""
        of = "" if self.rows == self.of else f", drawn from {self.of:,}"
        times = counted(self.permutations, "permutation")
        return f"permutation importance on {self.rows:,} {self.split} rows{of}; {times}"

    @property
    def _table(self) -> tuple[list[str], list[list[str]]]:
        lines, last, shown_of = [], "", Counter[str]()
        counts = Counter(each.score for each in self.drops)
        for each in self.drops:
            shown_of[each.score] += 1
            if shown_of[each.score] > SHOWN:
                if shown_of[each.score] == counts[each.score]:
                    lines.append(["", "", f"… and {counts[each.score] - SHOWN:,} more", "", ""])
                continue
            whole = f"{each.metric} {self.whole[each.score]:.4f}"
            ends = "–"
            if each.low is not None and each.high is not None:
                ends = f"{each.low:+z.4f} … {each.high:+z.4f}"
            shown = [each.score, whole] if each.score != last else ["", ""]
            lines.append([*shown, each.feature, f"{each.value:+z.4f}", ends])
            last = each.score
        return ["score", "metric", "feature", "drop", "95 %"], lines


def groups_of(
    schema: Schema, together: Mapping[str, Sequence[str]], tied: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Return the features that are permuted as one, by the name of the group or the feature.

    Args:
        schema: the features; those that are set at prediction are left out.
        together: groups that somebody asked for.
        tied: groups by nature, less what `together` names.

    Raises:
        ConfigError: a feature that is none, is set at prediction or is in two groups, or a group
            that has the name of a feature outside it.
    """
    names = [each.name for each in schema.features if not each.served]
    served = {each.name for each in schema.served}
    group: dict[str, str] = {}
    for name, features in together.items():
        if isinstance(features, str) or not features:
            raise ConfigError(f"together.{name} must be a list of features, got {features!r}")
        for each in features:
            if each in served:
                raise ConfigError(
                    f"together.{name}: feature {each!r} is set at prediction, so that the model "
                    "does not read its column: leave it out"
                )
            if each not in names:
                hint = did_you_mean(str(each), names)
                raise ConfigError(f"together.{name}: unknown feature {each!r}{hint}")
            if each in group:
                raise ConfigError(f"together: feature {each!r} is in {group[each]!r} and {name!r}")
            group[each] = name
    for name, features in tied.items():
        left = [each for each in features if each in names and each not in group]
        group |= dict.fromkeys(left, name) if len(left) > 1 else {}
    found: dict[str, list[str]] = {}
    for each in names:
        found.setdefault(group.get(each, each), []).append(each)
    for name in {*group.values()} & {*names}:
        if group.get(name) != name:
            raise ConfigError(f"together: a group and a feature outside it are called {name!r}")
    return {name: tuple(features) for name, features in found.items()}


def permuted(table: Table, features: Collection[str], order: np.ndarray) -> Table:
    """Return encoded rows as if the columns of some features had come in another order.

    A kind of label that reads the column of such a feature reads the permuted one, at prediction.

    Examples:
        >>> from polyrank.data.read import read
        >>> from polyrank.data.table import encode
        >>> from polyrank.data.vocab import Vocab
        >>> from polyrank.schema import SparseFeature, Task
        >>> schema = Schema([SparseFeature("item"), SparseFeature("user")], [Task("click")])
        >>> rows = read({"item": [7, 8, 9], "user": [1, 2, 3], "click": [0, 1, 0]})
        >>> table = encode(rows, schema, Vocab.fit(rows, schema))
        >>> permuted(table, ["item"], np.array([2, 0, 1])).ids.tolist()
        [[3, 1, 2], [1, 2, 3]]
    """
    schema = table.schema
    slots = {slot.name for each in schema.features if each.name in features for slot in each.slots}
    ids, dense, extras = table.ids.copy(), table.dense.copy(), table.extras.copy()
    numbers = table.numbers.copy("K")
    for place, slot in enumerate(schema.fields):
        if slot.name in slots:
            ids[place] = table.ids[place][order]
    for name, columns in table.slices.items():
        if name in slots:
            dense[:, columns] = table.dense[order, columns]
    pairs = zip(schema.bags, table.bags, strict=True)
    bags = tuple(bag.part(order) if slot.name in slots else bag for slot, bag in pairs)
    numeric = [each.name for each in schema.features if each.numeric]
    for name in features:
        if name in numeric and numbers.shape[1]:
            place = numeric.index(name)
            numbers[:, place] = table.numbers[order, place]
        if name in schema.extras:
            place = schema.extras.index(name)
            extras[:, place] = table.extras[order, place]
    return replace(table, ids=ids, dense=dense, bags=bags, numbers=numbers, extras=extras, given={})


def importance(
    table: Table,
    predict: Predict,
    *,
    label_groups: Callable[[Table], Mapping[str, np.ndarray]],
    split: str,
    scores: Sequence[str] | None = None,
    measure: str | None = None,
    together: Mapping[str, Sequence[str]] | None = None,
    tied: Mapping[str, Sequence[str]] | None = None,
    permutations: int = PERMUTATIONS,
    most_rows: int = MOST_ROWS,
    seed: int = 0,
) -> Importance:
    """Return what each score of encoded, labelled rows loses without each feature.

    A feature's values are permuted among all rows, some times; each time the rows are predicted
    anew, and the drop is by how much the metric is worse. The interval adds two variances: that
    of the mean drop over other test rows, by a bootstrap whose draws the permuted and the whole
    rows share, and that of the mean over the permutations, by Student's t.

    Args:
        table: the rows, as they are served.
        predict: the output columns of encoded rows.
        label_groups: the group of each row, by task, of kinds of label that have groups.
        split: the name of the rows.
        scores: those to measure; None takes all.
        measure: the metric; None takes the default of each score's kind of label.
        together: features to permute as one, by a name for them.
        tied: those that move together by nature, as lists that come by one key.
        permutations: of each feature, at least 2.
        most_rows: how many rows to draw at most; a large table is not permuted whole.
        seed: of the rows that are drawn, and of the permutations.

    Raises:
        ConfigError: an unknown score, metric or feature, or a metric without a direction.

    Reference:
        Breiman, Machine Learning 2001, "Random forests", section 10. Fisher, Rudin and Dominici,
        JMLR 2019, "All models are wrong, but many are useful", eq. 3 (of a fitted model, on rows
        that it has not learned).
    """
    spec.whole("permutations", permutations, least=2)
    spec.whole("most_rows", most_rows, least=2)
    schema = table.schema
    groups = groups_of(schema, together or {}, tied or {})
    if isinstance(scores, str):
        raise ConfigError(f"scores must be a list such as [{scores!r}], got {scores!r}")
    chosen = [*populations(schema)]
    if scores is not None:
        chosen = [named_population(schema, name) for name in scores]
    wanted = {where.name: _metric(where, measure) for where in chosen}
    size = len(table)
    some = drawn(size, most_rows, seed)
    user = None if table.user is None else key_codes("user", table.user)[some]
    request = None if table.request is None else coded("request", table.request)[some]
    table = replace(part(table, some), given={})
    seen = _Seen(
        schema, table.labels_by_task, user, request,
        None if table.weight is None else table.weight.astype(np.float64), label_groups(table),
    )  # fmt: skip
    before = predict(table)
    measures, absent = {}, {}
    for where in chosen:
        try:
            measures[where.name] = _Measure.of(seen, where, wanted[where.name], before)
        except Undefined as reason:
            absent[where.name] = str(reason)
    draws = (np.random.default_rng([seed, each]) for each in range(permutations))
    orders = [each.permutation(len(some)) for each in draws]
    drops: list[Drop] = []
    for name, features in metered(groups.items(), "permuting features", unit="features"):
        after = [predict(permuted(table, features, order)) for order in orders]
        for score, each in measures.items():
            try:
                drops.append(each.drop(name, after))
            except Undefined as reason:
                absent[f"{score} without {name}"] = str(reason)
    places = {each.name: place for place, each in enumerate(chosen)}
    return Importance(
        split=split,
        rows=len(some),
        of=size,
        permutations=permutations,
        whole={name: each.whole for name, each in measures.items()},
        drops=tuple(sorted(drops, key=lambda each: (places[each.score], -each.value))),
        together={name: each for name, each in groups.items() if each != (name,)},
        left_out={
            each.name: f"it is set at prediction, to {getattr(each, 'serving', None)!r}"
            for each in schema.served
        },
        absent=absent,
    )


def drawn(rows: int, most: int, seed: int) -> np.ndarray:
    """Return the numbers of at most so many rows, in order: all, or some at random."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _metric(where: Population, name: str | None) -> Metric:
    name = where.label_kind.default_metric if name is None else name
    direction(where.label_kind, name)  # refuses one that has none
    return metric(where.label_kind, name)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known of the rows beside their predictions."""

    schema: Schema
    labels: Mapping[str, np.ndarray]
    user: np.ndarray | None
    request: np.ndarray | None
    weight: np.ndarray | None
    groups: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Measure:
    """One metric of one score on some rows, whoever predicted them."""

    seen: _Seen
    where: Population
    metric: Metric
    label: np.ndarray  # (N,), of the score's own rows, as all below
    kept: np.ndarray  # which of all rows these are
    keys: Mapping[str, np.ndarray]
    weight: np.ndarray | None
    whole: float
    replicates: np.ndarray | None  # (R,); None without an interval
    reason: str | None

    @classmethod
    def of(
        cls, seen: _Seen, where: Population, of: Metric, before: Mapping[str, np.ndarray]
    ) -> _Measure:
        label = population_label(seen.labels, where)
        kept = ~np.isnan(label)
        keys = {"user": seen.user, "request": seen.request, "group": seen.groups.get(where.task)}
        own = {name: each[kept] for name, each in keys.items() if each is not None}
        weight = None if seen.weight is None else seen.weight[kept]
        found = cls(seen, where, of, label[kept], kept, own, weight, np.nan, None, None)
        whole = of.measure(found._rows(before))
        prediction = predicted(seen.schema, before, where)[kept]
        user, request = own.get("user"), own.get("request")
        few, reasons = too_few([of], found.label, prediction, user, weight, request)
        reason = few or reasons.get(of.name)
        if not of.has_replicates:
            reason = f"{of.title} is not resampled"
        replicates = None if reason else found._replicates(before)
        return replace(found, whole=whole, replicates=replicates, reason=reason)

    def drop(self, feature: str, after: Sequence[Mapping[str, np.ndarray]]) -> Drop:
        """Return how much worse some predictions are, each of another permutation."""
        sign = 1.0 if self.metric.higher_is_better else -1.0
        each = [sign * (self.whole - self.metric.measure(self._rows(one))) for one in after]
        found = Drop(self.where.name, self.metric.name, feature, mean(each), reason=self.reason)
        if self.replicates is None:
            return found
        others = np.mean([self._replicates(one) for one in after], axis=0)
        differences = sign * (self.replicates - others)
        if lost := int(np.isnan(differences).sum()):
            reason = f"{lost} of {len(differences)} replicates cannot be measured"
            return replace(found, reason=reason)
        over_rows = Z * float(differences.std(ddof=1))
        over_permutations = student_t(len(each) - 1) * stdev(each) / len(each) ** 0.5
        reach = hypot(over_rows, over_permutations)
        return replace(found, low=found.value - reach, high=found.value + reach)

    def _rows(self, outputs: Mapping[str, np.ndarray]) -> Rows:
        prediction = predicted(self.seen.schema, outputs, self.where)[self.kept]
        return Rows.of(
            self.label, prediction, self.weight, self.keys, self._outputs(outputs),
            self.where.label_kind,
        )  # fmt: skip

    def _outputs(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        found = outputs_of(self.seen.schema, outputs, self.where)
        return None if found is None else found[self.kept]

    def _replicates(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        prediction = predicted(self.seen.schema, outputs, self.where)[self.kept]
        return bootstrap(
            self.label, prediction, self.keys.get("user"), self.weight, [self.metric.name],
            outputs=self._outputs(outputs), kind=self.where.label_kind,
            group=self.keys.get("group"), request=self.keys.get("request"), replicates=REPLICATES,
        )[self.metric.name]  # fmt: skip
