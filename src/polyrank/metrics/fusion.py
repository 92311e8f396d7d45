"""One score to rank by, fused from several outcomes and columns, and what its weights trade off.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
import polars as pl

from polyrank import spec
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.metrics.inputs import coded, mean
from polyrank.metrics.metric import Metric, Rows
from polyrank.metrics.predicted import named_population, scored_columns
from polyrank.metrics.registry import metric as metric_of
from polyrank.metrics.registry import metrics_of
from polyrank.metrics.score import Fused, Score
from polyrank.metrics.undefined import Undefined
from polyrank.schema import Schema
from polyrank.terms import ALL, Population, output_columns, population, population_label

SMALLEST = float(np.finfo(np.float64).tiny)  # below it, a float64 loses digits
FACTORS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
Keys = Mapping[str, pl.Series | None]


@dataclass(frozen=True)
class Fusion:
    """A score as a weighted sum: Σ w·log p + Σ w·column, of which the order matters alone.

    A name is a task's, an output column's or a raw column's, and is looked up in this order. The
    task of an event is the log of its joint probability on an impression (`buy` is `p_buy`), and so
    is an output such as `p_buy_given_click`; of a kind whose outputs are never below 0, such as a
    count or money, it is the log of the predicted value; any other task is its predicted value; any
    other column of the data is its number as it stands. Weights on logs are exponents: click = 1
    and buy = 2 rank by p_click · p_buy².

    Args:
        weights: by name.

    Raises:
        ConfigError: no weights, or one that is no finite number.

    Examples:
        >>> from polyrank.schema import DenseFeature, Task
        >>> schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
        >>> fusion = Fusion({"click": 1, "buy": 2, "price": 0.1})
        >>> fusion.columns(schema)
        ['price']
        >>> outputs = {"p_click": np.array([0.5, 0.5]), "p_buy": np.array([0.1, 0.2])}
        >>> fusion.score(schema, outputs, {"price": pl.Series([3.0, 2.0])}).round(3)
        array([-4.998, -3.712])
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise ConfigError(
                'fusion: weights must be given by name, such as {"click": 1, "buy": 2}, '
                f"got {self.weights!r}"
            )
        for name, weight in self.weights.items():
            if not isinstance(name, str):
                raise ConfigError(f"fusion: names must be strings, got {name!r}")
            number = isinstance(weight, Real) and not isinstance(weight, bool)
            if not number or not isfinite(weight):
                raise ConfigError(f"fusion: {name} must be a finite number, got {weight!r}")
        plain = {name: float(weight) for name, weight in self.weights.items()}
        object.__setattr__(self, "weights", plain)

    def to_table(self) -> dict[str, Any]:
        """Return the `[fusion]` table."""
        return spec.to_table(self.weights)

    def columns(self, schema: Schema) -> list[str]:
        """Return the raw columns that it reads; a label, unknown in time to rank, is refused."""
        outputs = _outputs(schema)
        found = [name for name in self.weights if name not in outputs]
        for task in schema.tasks:
            if task.column in found:
                raise ConfigError(
                    f"fusion: {task.column!r} is the label of task {task.name!r}, which is not "
                    f"known when rows are ranked; write {task.name!r} for its probability"
                )
        return found

    def check(self, schema: Schema, known: Iterable[str], split: str) -> None:
        """Refuse a name that is neither a task, an output nor a known column of the split."""
        columns = list(known)
        for name in self.columns(schema):
            if name not in columns:
                hint = did_you_mean(name, [*_outputs(schema), *columns])
                raise ConfigError(
                    f"fusion: {name!r} is neither a task, nor an output, nor a column of "
                    f"{split}{hint}"
                )

    def check_values(self, schema: Schema, columns: Mapping[str, pl.Series]) -> None:
        """Refuse raw columns that cannot be added up, as `score` does."""
        for name in self.columns(schema):
            _numbers(name, columns[name])

    def score(
        self,
        schema: Schema,
        outputs: Mapping[str, np.ndarray],
        columns: Mapping[str, pl.Series],
    ) -> np.ndarray:
        """Return the fused score of each row.

        A probability below 2.2e-308, the smallest float64 of full precision, counts as that.

        Args:
            schema: the tasks.
            outputs: the output columns of `predict`, (N,) each.
            columns: the raw columns.

        Raises:
            DataError: a column that holds no numbers, or a null, NaN or infinite value, counted.
        """
        parts = self.parts(schema, outputs, columns)
        return np.sum([self.weights[name] * each for name, each in parts.items()], axis=0)

    def parts(
        self,
        schema: Schema,
        outputs: Mapping[str, np.ndarray],
        columns: Mapping[str, pl.Series],
    ) -> dict[str, np.ndarray]:
        """Return what each weight multiplies, by name: log-probabilities and numbers."""
        known = _outputs(schema)
        parts = {}
        for name in self.weights:
            if name not in known:
                parts[name] = _numbers(name, columns[name])
                continue
            column, is_factor = known[name]
            values = np.asarray(outputs[column], dtype=np.float64)
            parts[name] = np.log(np.maximum(values, SMALLEST)) if is_factor else values
        return parts


def fused(
    schema: Schema,
    fusion: Fusion,
    score: np.ndarray,
    labels: Mapping[str, np.ndarray],
    *,
    keys: Keys | None = None,
    weight: np.ndarray | None = None,
) -> Fused:
    """Return how well a fused score ranks the joint outcome of each event's task, on all rows.

    Keys are the user and the request of each row, by these names.
    """
    scores = []
    for task in schema.tasks:
        if not task.label_kind.is_event:
            continue
        where = population(schema, task, ALL)
        seen = _Seen.of(labels, where, keys or {}, weight)
        metrics, absent = {}, {}
        for name, each in metrics_of(task.label_kind).items():
            if each.ranks:
                try:
                    metrics[name] = {"value": seen.value(each, score)}
                except Undefined as reason:
                    absent[name] = str(reason)
        w = np.ones(len(seen.label)) if seen.weight is None else seen.weight.astype(np.float64)
        scores.append(
            Score(
                name=where.name,
                task=task.name,
                kind=where.kind,
                given=None,
                space=ALL,
                rows=len(seen.label),
                positives=int((seen.label == 1).sum()),
                label_mean=mean(seen.label, w) if w.sum() > 0 else None,
                prediction_mean=None,
                metrics=metrics,
                absent=absent,
            )
        )
    return Fused(dict(fusion.weights), tuple(scores))


def trade_off(
    schema: Schema,
    fusion: Fusion,
    outputs: Mapping[str, np.ndarray],
    columns: Mapping[str, pl.Series],
    labels: Mapping[str, np.ndarray],
    name: str,
    scores: tuple[str, str],
    *,
    metric: str = "auc",
    factors: Sequence[float] = FACTORS,
    keys: Keys | None = None,
    weight: np.ndarray | None = None,
) -> pl.DataFrame:
    """Return what one weight of a fused score gives to one outcome and takes from another.

    The declared weight of `name` is multiplied by one factor after the other. `scores` are the two
    that it is traded between, such as `click @ all` and `buy @ all`; the metric must depend on the
    order alone. A line of the curve has `weight` and each score's metric: `auc of buy @ all`.
    """
    if name not in fusion.weights:
        raise ConfigError(f"fusion has no weight {name!r}{did_you_mean(str(name), fusion.weights)}")
    if isinstance(scores, str) or len(scores) != 2:
        raise ConfigError(
            "a trade-off is between two scores, such as ('click @ all', 'buy @ all'), got "
            f"{scores!r}"
        )
    if (
        isinstance(factors, str | Real)
        or not len(factors)
        or not all(isinstance(factor, Real) and isfinite(factor) for factor in factors)
    ):
        raise ConfigError(
            f"factors must be finite numbers, such as [0, 0.5, 1, 2], got {factors!r}"
        )
    seen = []
    for each in scores:
        where = named_population(schema, each)
        if not where.label_kind.is_event:
            raise ConfigError(f"a trade-off is between the scores of events, got {each!r}")
        ranked = metric_of(where.label_kind, metric)
        if not ranked.ranks:
            known = [name for name, each in metrics_of(where.label_kind).items() if each.ranks]
            raise ConfigError(
                f"a fused score is no probability, so it has no {metric!r}; use one of {known}"
            )
        seen.append((ranked, _Seen.of(labels, where, keys or {}, weight)))
    parts = fusion.parts(schema, outputs, columns)
    rest = sum((fusion.weights[each] * parts[each] for each in parts if each != name), 0.0)
    lines = []
    for factor in factors:
        swept = factor * fusion.weights[name]
        score = rest + swept * parts[name]
        values = {
            f"{metric} of {each}": rows.value(ranked, score)
            for each, (ranked, rows) in zip(scores, seen, strict=True)
        }
        lines.append({"weight": swept, **values})
    return pl.DataFrame(lines)


@dataclass(frozen=True, eq=False)
class _Seen:
    """The rows of one population, whatever ranks them."""

    rows: np.ndarray
    label: np.ndarray
    codes: Mapping[str, np.ndarray]
    weight: np.ndarray | None

    @classmethod
    def of(
        cls,
        labels: Mapping[str, np.ndarray],
        where: Population,
        keys: Keys,
        weight: np.ndarray | None,
    ) -> _Seen:
        label = population_label(labels, where)
        rows = ~np.isnan(label)
        codes = {name: coded(name, key)[rows] for name, key in keys.items() if key is not None}
        return cls(rows, label[rows], codes, None if weight is None else weight[rows])

    def value(self, metric: Metric, score: np.ndarray) -> float:
        """Return a metric of a score (N,); raise Undefined where the rows cannot support it."""
        reason = metric.lacks(self.codes)  # also where there are no rows
        if reason is not None:
            raise Undefined(reason)
        return metric.measure(Rows.of(self.label, score[self.rows], self.weight, self.codes))


def _outputs(schema: Schema) -> dict[str, tuple[str, bool]]:
    """Return each task's and output's output column, and whether it is a factor of the score."""
    outputs, tasks = {}, {}
    for task in schema.tasks:
        kind = task.label_kind
        outputs |= {name: (name, kind.is_factor) for name in output_columns(task)}
        if kind.is_average:  # else none of its outputs is what the task is worth
            tasks[task.name] = (scored_columns(task)[-1], kind.is_factor)
    return outputs | tasks


def _numbers(name: str, column: pl.Series) -> np.ndarray:
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise DataError(
            f"fusion: column {name!r} must hold numbers, since it is added up, got {column.dtype}"
        )
    values = column.cast(pl.Float64).to_numpy()
    broken = ~np.isfinite(values)
    if broken.any():
        nulls = column.null_count()
        raise DataError(
            f"fusion: {int(broken.sum()):,} of {len(values):,} values of column {name!r} are "
            f"missing or infinite ({nulls:,} null), the first in row {int(broken.argmax())}: fill "
            "them, or leave the column out"
        )
    return values
