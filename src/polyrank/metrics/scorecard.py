"""Every task measured on every population on which it means something, by name.

`click @ all`, `buy|click @ click` and `buy @ all` are three numbers that the literature all calls
"CVR AUC" at times; a scorecard never leaves open which one it shows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.metrics.binary import auc, soft_auc
from polyrank.metrics.inputs import (
    LARGEST,
    column,
    key_codes,
    mean,
    missing_keys,
    refuse_beyond_one,
    refuse_values,
    shaped,
    weighing,
)
from polyrank.metrics.intervals import intervals
from polyrank.metrics.observed import factor_columns, predicted, used_columns
from polyrank.metrics.registry import METRICS, Metric
from polyrank.metrics.regression import mae, rmse
from polyrank.metrics.score import RAW_METRICS, Score, Scorecard
from polyrank.metrics.undefined import Undefined
from polyrank.schema import Schema
from polyrank.terms import ALL, TRUE, Population, joint_label, output_columns, populations

__all__ = ["Score", "Scorecard", "scorecard"]

SOFT = "true probabilities in place of labels"


def scorecard(
    schema: Schema,
    predictions: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    *,
    split: str,
    user: ArrayLike | pl.Series | None = None,
    weight: ArrayLike | None = None,
    request: ArrayLike | pl.Series | None = None,
    truth: Mapping[str, ArrayLike] | None = None,
    raw: Mapping[str, ArrayLike] | None = None,
    only: Collection[str] | None = None,
    replicates: int = 0,
) -> Scorecard:
    """Measure each task on all rows and on the rows where each of its ancestors happened.

    Args:
        schema: the tasks.
        predictions: each output column of `terms.output_columns`; the joint of a conditional
            regression is not measured and may be left out.
        labels: each task's label, by the task's name; NaN is not observed.
        split: which rows these are.
        user: keys for grouped AUC, and what intervals resample in place of rows.
        weight: sample weights.
        request: keys for the metrics of ranked lists.
        truth: true probabilities, named `true_` + an output column, as many as are known. Where
            a task's conditional ones are, there is also a score such as `buy|click @ all`, which
            no label could give: its AUC is `soft_auc`.
        raw: uncalibrated values of those output columns that a calibration changed. A score on such
            a column measures both.
        only: names of the metrics to compute, of any kind of label; the others are neither
            measured nor absent. None computes all.
        replicates: how many times the rows are resampled for intervals; 0 measures none.

    Returns:
        The scores in task order.

    Raises:
        ConfigError: `only` has a name that no metric has, with the nearest; or `replicates` is
            negative or 1.
        DataError: a column is missing, has another shape, or holds a value out of its domain.

    Shape:
        every array (rows,)

    Example:
        >>> from polyrank.schema import DenseFeature, Task
        >>> schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
        >>> card = scorecard(
        ...     schema,
        ...     {"p_click": [0.2, 0.5, 0.5], "p_buy_given_click": [0.5, 0.4, 0.6],
        ...      "p_buy": [0.1, 0.2, 0.3]},
        ...     {"click": [0, 1, 1], "buy": [float("nan"), 0, 1]},
        ...     split="test",
        ... )
        >>> [(score.name, score.rows, score.positives) for score in card]
        [('click @ all', 3, 2), ('buy @ all', 3, 1), ('buy|click @ click', 2, 1)]
    """
    wanted = _wanted(only)
    if replicates < 0 or replicates == 1:
        raise ConfigError(
            f"replicates is 0, for no intervals, or at least 2, however: {replicates}"
        )
    keys = {"user": user, "request": request}
    log = _read(schema, predictions, labels, keys, weight, truth or {}, raw or {})
    scores = []
    for where in populations(schema):
        scores.append(_score(log, where, wanted[where.kind], replicates))
        p_true = _p_true(log, where)
        if where.given and p_true is not None:
            soft = _soft_score(log, where, p_true, wanted[where.kind])
            if replicates and soft.metrics:
                soft = replace(soft, absent={**soft.absent, "interval": SOFT})
            scores.append(soft)
    return Scorecard(split, tuple(scores))


@dataclass(frozen=True, eq=False)
class _Log:
    """Checked float64 columns of one length."""

    schema: Schema
    rows: int
    predictions: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]
    raw: Mapping[str, np.ndarray]
    keys: Mapping[str, np.ndarray]
    weight: np.ndarray | None


def _wanted(only: Collection[str] | None) -> Mapping[str, Mapping[str, Metric]]:
    """Return the metrics to compute, by kind."""
    if only is None:
        return METRICS
    known = [name for metrics in METRICS.values() for name in metrics]
    for name in only:
        if name not in known:
            raise ConfigError(f"only: unknown metric {name!r}{did_you_mean(str(name), known)}")
    return {
        kind: {name: each for name, each in metrics.items() if name in only}
        for kind, metrics in METRICS.items()
    }


def _read(
    schema: Schema,
    predictions: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    keys: Mapping[str, ArrayLike | pl.Series | None],
    weight: ArrayLike | None,
    truth: Mapping[str, ArrayLike],
    raw: Mapping[str, ArrayLike],
) -> _Log:
    for task in schema.tasks:
        if task.name not in labels:
            raise DataError(f"no labels of task {task.name!r}{did_you_mean(task.name, labels)}")
    rows = len(shaped("label", labels[schema.tasks[0].name]))
    needed, known, before, possible = {}, {}, {}, []
    for task in schema.tasks:
        columns = output_columns(task)
        for name in columns if task.kind == "binary" else columns[:1]:
            if name not in predictions:
                raise DataError(f"no prediction column {name!r}{did_you_mean(name, predictions)}")
            needed[name] = _output(f"prediction {name}", task.kind, predictions[name], rows)
            if name in raw:
                before[name] = _output(f"raw {name}", task.kind, raw[name], rows)
        for name in (TRUE + name for name in columns if task.kind == "binary"):
            possible.append(name)
            if name in truth:
                known[name] = _output(name, task.kind, truth[name], rows)
    for name in raw:
        if all(name not in output_columns(task) for task in schema.tasks):
            raise DataError(f"unknown raw column {name!r}{did_you_mean(name, needed)}")
    for name in truth:
        if name not in possible:
            raise DataError(f"unknown truth column {name!r}{did_you_mean(name, possible)}")
    weighing(weight, rows=rows)  # checked once here, so that a message does not depend on a metric
    return _Log(
        schema,
        rows,
        needed,
        {task.name: _label(task.name, task.kind, labels[task.name], rows) for task in schema.tasks},
        known,
        before,
        {name: _codes(name, key, rows) for name, key in keys.items() if key is not None},
        None if weight is None else column("weight", weight),
    )


def _codes(name: str, key: ArrayLike | pl.Series, rows: int) -> np.ndarray:
    """Return integers that are equal where the keys are; with NaN where requests are missing."""
    codes = key_codes(name, key, rows=rows)
    if name == "request" and (missing := missing_keys(name, key)).any():
        return np.where(missing, np.nan, codes)
    return codes


def _output(name: str, kind: str, values: ArrayLike, rows: int) -> np.ndarray:
    array = column(name, values, rows=rows)
    if kind == "binary":
        refuse_beyond_one(name, array)
    return array


def _label(task: str, kind: str, values: ArrayLike, rows: int) -> np.ndarray:
    label = shaped(f"label of {task}", values, rows=rows)
    if kind == "binary":
        rule = f"label of {task}: 0, 1 or NaN is expected"
        refuse_values(rule, label, lambda y: (y != 0) & (y != 1) & ~np.isnan(y))
    else:
        rule = f"label of {task}: a number within {LARGEST:g} or NaN is expected"
        refuse_values(rule, label, lambda y: np.abs(y) > LARGEST)
    return label


def _score(log: _Log, where: Population, wanted: Mapping[str, Metric], replicates: int) -> Score:
    label = joint_label([log.labels[head] for head in where.heads])
    kept = ~np.isnan(label)
    if where.conditions:
        kept &= joint_label([log.labels[task] for task in where.conditions]) == 1
    label, prediction = label[kept], predicted(log.schema, log.predictions, where)[kept]
    weight = None if log.weight is None else log.weight[kept]
    keys = {name: codes[kept] for name, codes in log.keys.items()}
    metrics, absent = _measured(where, wanted, label, prediction, keys, weight)
    if replicates:
        values = {name: parts["value"] for name, parts in metrics.items() if wanted[name].scale}
        bounds, reasons = intervals(
            values, label, prediction, keys.get("user"), weight, replicates=replicates
        )
        for name, (low, high) in bounds.items():
            metrics[name] |= {"low": low, "high": high}
        absent |= reasons
    raw = _raw(log, where)
    if raw is not None:
        wanted = {name: each for name, each in wanted.items() if name in RAW_METRICS}
        before, _ = _measured(where, wanted, label, raw[kept], keys, weight)
        raw = {name: each["value"] for name, each in before.items()}
    truth = None
    p_true = _p_true(log, where)
    if p_true is not None and _mean(label, weight) is not None:
        truth, undefined = _against(p_true[kept], prediction, label, weight)
        absent |= undefined
    return Score(
        name=where.name,
        task=where.task,
        given=where.given,
        space=where.space,
        rows=len(label),
        positives=int((label == 1).sum()) if where.kind == "binary" else None,
        label_mean=_mean(label, weight),
        prediction_mean=_mean(prediction, weight),
        metrics=metrics,
        absent=absent,
        truth=truth,
        raw=raw,
    )


def _soft_score(
    log: _Log, where: Population, p_true: np.ndarray, wanted: Mapping[str, Metric]
) -> Score:
    """Measure a conditional probability on all rows, where only its truth is known."""
    prediction = predicted(log.schema, log.predictions, where)
    raw = _raw(log, where)
    absent = dict.fromkeys(wanted, f"{SOFT}: AUC only")
    metrics, before, truth = {}, {}, None
    if "auc" in wanted:
        try:
            metrics["auc"] = {"value": soft_auc(p_true, prediction, log.weight)}
            del absent["auc"]
            if raw is not None:
                before["auc"] = soft_auc(p_true, raw, log.weight)
        except Undefined as reason:
            absent["auc"] = str(reason)
    if _mean(prediction, log.weight) is not None:
        truth, undefined = _against(p_true, prediction, None, log.weight)
        absent |= undefined
    return Score(
        name=f"{where.task}|{where.given} @ {ALL}",
        task=where.task,
        given=where.given,
        space=ALL,
        rows=None,
        positives=None,
        label_mean=None,
        prediction_mean=_mean(prediction, log.weight),
        metrics=metrics,
        absent=absent,
        truth=truth,
        raw=None if raw is None else before,
    )


def _measured(
    where: Population,
    wanted: Mapping[str, Metric],
    label: np.ndarray,
    prediction: np.ndarray,
    keys: Mapping[str, np.ndarray],
    weight: np.ndarray | None,
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return the metrics that these rows support, and why they do not support the others."""
    values, absent = {}, {}
    for name, each in wanted.items():
        if each.key is not None and each.key not in keys:
            absent[name] = f"no {each.key} key"
            continue
        if not len(label):
            happened = "".join(f"{task} happened and " for task in where.conditions[-1:])
            absent[name] = f"no rows where {happened}{' & '.join(where.heads)} is observed"
            continue
        key = () if each.key is None else (keys[each.key],)
        try:
            values[name] = {"value": each.function(label, prediction, *key, weight)}
        except Undefined as reason:
            absent[name] = str(reason)
    return values, absent


def _against(
    p_true: np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray | None,
    weight: np.ndarray | None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the distance from the true probability and its own AUC, or why that has none."""
    distance = {"mae": mae(p_true, prediction, weight), "rmse": rmse(p_true, prediction, weight)}
    try:
        ranked = soft_auc(p_true, p_true, weight) if label is None else auc(label, p_true, weight)
    except Undefined as reason:
        return distance, {"oracle_auc": str(reason)}
    return {**distance, "oracle_auc": ranked}, {}


def _raw(log: _Log, where: Population) -> np.ndarray | None:
    """Return the prediction before calibration, or None where no calibration touches it."""
    if log.raw.keys().isdisjoint(used_columns(log.schema, where)):
        return None
    return predicted(log.schema, {**log.predictions, **log.raw}, where)


def _p_true(log: _Log, where: Population) -> np.ndarray | None:
    """Return the true P(heads | conditions), or None where it is not known."""
    if where.kind == "regression":
        return None
    joint = TRUE + output_columns(log.schema.by_name[where.task])[-1]
    if where.given is None and joint in log.truth:
        return log.truth[joint]
    names = [TRUE + name for name in factor_columns(log.schema, where)]
    if not log.truth.keys() >= set(names):
        return None
    return np.prod([log.truth[name] for name in names], axis=0)


def _mean(values: np.ndarray, weight: np.ndarray | None) -> float | None:
    """Return the weighted mean, or None where no row has a weight."""
    kept, w = weighing(weight, rows=len(values))
    return mean(values[kept], w) if len(values[kept]) else None
