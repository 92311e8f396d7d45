"""Every task measured on every population on which it means something, by name.

The literature calls each of `click @ all`, `buy|click @ click` and `buy @ all` "CVR AUC" at times;
a scorecard always says which one it shows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from polyrank.delay.method import IMMATURE
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.metrics.binary import auc, soft_auc
from polyrank.metrics.bootstrap import intervals
from polyrank.metrics.inputs import (
    coded,
    column,
    key_codes,
    mean,
    refuse_beyond_one,
    refuse_values,
    shaped,
    weighing,
)
from polyrank.metrics.metric import Metric, Rows
from polyrank.metrics.predicted import (
    outputs_of,
    predicted,
    scored_columns,
    true_probability,
    used_columns,
)
from polyrank.metrics.registry import METRICS, metrics_of
from polyrank.metrics.regression import mae, rmse
from polyrank.metrics.score import Score, Scorecard
from polyrank.metrics.undefined import Undefined
from polyrank.schema import Schema, Task
from polyrank.terms import ALL, TRUE, Population, head_columns, population_label, populations

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
    groups: Mapping[str, np.ndarray] | None = None,
    only: Collection[str] | None = None,
    replicates: int = 0,
) -> Scorecard:
    """Measure each task on all rows and on the rows where each of its ancestors happened.

    Args:
        schema: the tasks.
        predictions: each output column of `terms.output_columns`; the joint of a conditional
            regression is not measured and may be left out.
        labels: by the task's name; NaN is not observed.
        split: which rows these are.
        user: keys for grouped AUC, and what intervals resample in place of rows.
        weight: sample weights.
        request: keys for the metrics of ranked lists.
        truth: true probabilities, named `true_` + an output column, as many as are known. Where
            a task's conditional ones are, there is also a score such as `buy|click @ all`, which
            no label could give: its AUC is `soft_auc`.
        raw: uncalibrated values of those output columns that a calibration changed. A score on such
            a column measures both.
        groups: the group of each row, by task, of kinds of label that have groups of their own.
        only: names of the metrics to compute; the others are neither measured nor absent.
        replicates: how many times the rows are resampled for intervals; 0 measures none.
    """
    for name in only or ():
        if name not in METRICS:
            raise ConfigError(f"only: unknown metric {name!r}{did_you_mean(str(name), METRICS)}")
    if replicates < 0 or replicates == 1:
        raise ConfigError(
            f"replicates must be 0, for no intervals, or at least 2, got {replicates}"
        )
    log = _read(schema, predictions, labels, user, request, weight, truth or {}, raw or {})
    log = replace(log, groups=groups or {})
    scores = []
    for where in populations(schema):
        wanted = {
            name: each
            for name, each in metrics_of(where.label_kind).items()
            if only is None or name in only
        }
        p_true = true_probability(schema, log.truth, where)
        scores.append(_score(log, where, p_true, wanted, replicates))
        if where.given and p_true is not None:
            soft = _soft_score(log, where, p_true, wanted)
            if replicates and soft.metrics:
                soft = replace(soft, absent={**soft.absent, "interval": SOFT})
            scores.append(soft)
    return Scorecard(split, tuple(scores))


@dataclass(frozen=True, eq=False)
class _Log:
    """Checked float64 columns of one length."""

    schema: Schema
    predictions: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]
    raw: Mapping[str, np.ndarray]
    codes: Mapping[str, np.ndarray]
    weight: np.ndarray | None
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)  # by task

    def before(self, where: Population) -> np.ndarray | None:
        """Return the prediction before calibration, or None where no calibration touches it."""
        if self.raw.keys().isdisjoint(used_columns(self.schema, where)):
            return None
        return predicted(self.schema, {**self.predictions, **self.raw}, where)


def _read(
    schema: Schema,
    predictions: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    user: ArrayLike | pl.Series | None,
    request: ArrayLike | pl.Series | None,
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
        is_event, columns = task.label_kind.is_event, scored_columns(task)

        def checked(name: str, values: ArrayLike, is_event: bool = is_event) -> np.ndarray:
            array = column(name, values, rows=rows)
            if is_event:
                refuse_beyond_one(name, array)
            return array

        for name in columns if is_event else head_columns(task):
            if name not in predictions:
                raise DataError(f"no prediction column {name!r}{did_you_mean(name, predictions)}")
            needed[name] = checked(f"prediction {name}", predictions[name])
            if name in raw:
                before[name] = checked(f"raw {name}", raw[name])
            if is_event:
                possible.append(TRUE + name)
                if TRUE + name in truth:
                    known[name] = checked(TRUE + name, truth[TRUE + name])
    outputs = schema.outputs
    for what, given, expected in (("raw", raw, outputs), ("truth", truth, possible)):
        for name in given:
            if name not in expected:
                raise DataError(f"unknown {what} column {name!r}{did_you_mean(name, expected)}")
    codes = {} if user is None else {"user": key_codes("user", user, rows=rows)}
    if request is not None:
        codes["request"] = coded("request", request, rows=rows)
    weighing(weight, rows=rows)  # checked once here, so that a message does not depend on a metric
    return _Log(
        schema,
        needed,
        _labels(schema, labels, rows),
        known,
        before,
        codes,
        None if weight is None else column("weight", weight),
    )


def _labels(schema: Schema, given: Mapping[str, ArrayLike], rows: int) -> dict[str, np.ndarray]:
    """Return checked labels; of what is no event, NaN where an ancestor did not happen."""
    found = {
        task.name: shaped(f"label of {task.name}", given[task.name], rows=rows)
        for task in schema.tasks
    }
    for task in schema.tasks:
        if not task.label_kind.is_event and task.given:
            happened = [found[name] == 1 for name in schema.ancestors(task.name)]
            found[task.name] = np.where(np.all(happened, axis=0), found[task.name], np.nan)
        _check_label(task, found[task.name])
    return found


def _check_label(task: Task, label: np.ndarray) -> None:
    immature = label == IMMATURE if task.delay is not None else False
    kind, observed = task.label_kind, label[~(np.isnan(label) | immature)]
    refuse_values(f"label of {task.name} must be {kind.rule}", observed, lambda y: ~kind.allows(y))


def _score(
    log: _Log,
    where: Population,
    p_true: np.ndarray | None,
    wanted: Mapping[str, Metric],
    replicates: int,
) -> Score:
    label = population_label(log.labels, where)
    kept = ~np.isnan(label)
    label, prediction = label[kept], predicted(log.schema, log.predictions, where)[kept]
    weight = None if log.weight is None else log.weight[kept]
    codes = {name: each[kept] for name, each in log.codes.items()}
    if where.task in log.groups:
        codes["group"] = log.groups[where.task][kept]
    rows, raw, kind = None, log.before(where), where.label_kind
    own = outputs_of(log.schema, log.predictions, where)
    own = None if own is None else own[kept]
    try:
        rows = Rows.of(label, prediction, weight, codes, own, kind)
        values, absent = _measured(wanted, rows)
    except Undefined as undefined:
        happened = "".join(f"{task} happened and " for task in where.conditions[-1:])
        nothing = f"no rows where {happened}{' & '.join(where.heads)} is observed"
        reason = str(undefined) if len(label) else nothing
        values = {}
        absent = {name: each.lacks(codes) or reason for name, each in wanted.items()}
    metrics = {name: {"value": value} for name, value in values.items()}
    if replicates:
        scaled = {name: value for name, value in values.items() if wanted[name].scale is not None}
        bounds, reasons = intervals(
            scaled, label, prediction, codes.get("user"), weight, request=codes.get("request"),
            group=codes.get("group"), outputs=own, kind=kind, replicates=replicates,
        )  # fmt: skip
        for name, (low, high) in bounds.items():
            metrics[name] |= {"low": low, "high": high}
        absent |= reasons
    before = None if raw is None else {}
    if raw is not None and rows is not None:
        shown = {"diagnosed", "calibration table"}
        moved = {name: each for name, each in wanted.items() if shown & {*each.roles}}
        own = outputs_of(log.schema, {**log.predictions, **log.raw}, where)
        own = None if own is None else own[kept]
        before, _ = _measured(moved, Rows.of(label, raw[kept], weight, codes, own, kind))
    truth = None
    if p_true is not None and rows is not None:
        truth, undefined = _against(p_true[kept], prediction, label, weight)
        absent |= undefined
    return Score(
        name=where.name,
        task=where.task,
        kind=where.kind,
        given=where.given,
        space=where.space,
        rows=len(label),
        positives=int((label == 1).sum()) if kind.is_event else None,
        label_mean=mean(rows.label, rows.weight) if rows and kind.is_average else None,
        prediction_mean=mean(rows.prediction, rows.weight) if rows and kind.is_average else None,
        metrics=metrics,
        absent=absent,
        truth=truth,
        raw=before,
    )


def _measured(wanted: Mapping[str, Metric], rows: Rows) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metrics that these rows support, and why they do not support the others."""
    values, absent = {}, {}
    for name, each in wanted.items():
        try:
            values[name] = each.measure(rows)
        except Undefined as reason:
            absent[name] = str(reason)
    return values, absent


def _soft_score(
    log: _Log, where: Population, p_true: np.ndarray, wanted: Mapping[str, Metric]
) -> Score:
    """Measure a conditional probability on all rows, where only its truth is known."""
    prediction, before = predicted(log.schema, log.predictions, where), log.before(where)
    absent = dict.fromkeys(wanted, f"{SOFT}: {auc.title} only")
    metrics, raw, truth = {}, {}, None
    if auc.name in wanted:
        try:
            metrics[auc.name] = {"value": soft_auc(p_true, prediction, log.weight)}
            del absent[auc.name]
            if before is not None:
                raw[auc.name] = soft_auc(p_true, before, log.weight)
        except Undefined as reason:
            absent[auc.name] = str(reason)
    kept, weight = weighing(log.weight, rows=len(prediction))
    some = bool(len(prediction[kept]))
    if some:
        truth, undefined = _against(p_true, prediction, None, log.weight)
        absent |= undefined
    return Score(
        name=f"{where.task}|{where.given} @ {ALL}",
        task=where.task,
        kind=where.kind,
        given=where.given,
        space=ALL,
        rows=None,
        positives=None,
        label_mean=None,
        prediction_mean=mean(prediction[kept], weight) if some else None,
        metrics=metrics,
        absent=absent,
        truth=truth,
        raw=None if before is None else raw,
    )


def _against(
    p_true: np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray | None,
    weight: np.ndarray | None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the distance from the true probability and its own AUC, or why that has none."""
    rows = Rows.of(p_true, prediction, weight)
    distance = {each.name: each.measure(rows) for each in (mae, rmse)}
    try:
        ranked = soft_auc(p_true, p_true, weight) if label is None else auc(label, p_true, weight)
    except Undefined as reason:
        return distance, {"oracle_auc": str(reason)}
    return {**distance, "oracle_auc": ranked}, {}
