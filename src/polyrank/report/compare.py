"""Runs compared on the same rows: which differs from the first, and by how much more than chance.

Runs of one folder of seeds, or that share a name, and that differ in their seed alone are one
group; the first run's is the baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from polyrank import spec
from polyrank.bundle.model import Bundle
from polyrank.data.read import Joined, column_names, read
from polyrank.data.statistics import label_groups
from polyrank.errors import ConfigError, DataError
from polyrank.metrics.comparison import (
    Comparison,
    Disagreement,
    Sample,
    furthest_apart,
    paired,
)
from polyrank.metrics.predicted import outputs_of, predicted
from polyrank.terms import Population, population_label, populations

# What may differ between the runs of one group: files may have moved. That the rows which are
# compared are the same is checked on the rows.
_MAY_DIFFER = frozenset({"name", "seed", "data", "track"})
_WHERE_ROWS_ARE = frozenset({"train", "valid", "test", "source", "cache"})


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run to compare."""

    path: str  # by which it was named
    bundle: Bundle
    rows: Any  # as in `Bundle.evaluate`; the same rows for every run
    folder: str | None = None  # of seeds that holds it; None of a run that stands alone

    @property
    def name(self) -> str:
        """Of its configuration."""
        return str(self.bundle.config.get("name", self.path))

    @property
    def seed(self) -> int:
        """Of its configuration."""
        return int(self.bundle.config.get("seed", 0))


def compare(
    runs: Sequence[ComparedRun], *, split: str = "test", disagreements: int = 0
) -> Comparison:
    """Compare runs on the same labelled rows; the group of the first is the baseline.

    The first run's user key says which rows are drawn together, and its weights and the groups of
    its kinds of label are used.

    Args:
        runs: at least two.
        split: the name of the rows.
        disagreements: of each score and each group but the first, so many of the rows on which it
            is furthest from the baseline, with their keys and features.

    Raises:
        ConfigError: too few runs, one that is given twice, no score in common, or a count below 0.
        DataError: runs that keep other rows, or labels.
    """
    spec.whole("disagreements", disagreements, least=0)
    if len(runs) < 2:
        raise ConfigError(f"compare needs at least two runs, got {len(runs)}")
    paths = [run.path for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"the run {path} is given twice: a run does not differ from itself")
    names, notes = _names(runs)
    shared = _shared(runs)
    told = _told_columns(runs) if disagreements else []
    scored = [
        _predicted(run, shared, split, told if place == 0 else []) for place, run in enumerate(runs)
    ]
    first = scored[0]
    for run, each in zip(runs, scored, strict=True):
        _refuse_other_rows(runs[0], first, run, each)
    groups, differences, absent = [], [], {}
    for where in shared:
        label = first.labels[where.name]
        rows = ~np.isnan(label)
        found = paired(
            where.name, where.label_kind, label[rows],
            [
                Sample(names[run.path], run.seed, *each.of(where.name, rows))
                for run, each in zip(runs, scored, strict=True)
            ],
            user=None if first.user is None else first.user.filter(rows),
            weight=None if first.weight is None else first.weight[rows],
            within=first.groups[where.task][rows] if where.task in first.groups else None,
        )  # fmt: skip
        groups += found[0]
        differences += found[1]
        absent[where.name] = found[2]
    by_name: dict[str, dict[str, int]] = {}
    for run in runs:
        by_name.setdefault(names[run.path], {})[run.path] = run.seed
    return Comparison(
        split=split,
        rows=first.rows,
        runs=by_name,
        kinds={where.name: where.kind for where in shared},
        groups=tuple(groups),
        differences=tuple(differences),
        absent=absent,
        notes=notes,
        disagreements=tuple(
            each
            for where in shared
            for each in _disagreements(where.name, runs, scored, names, disagreements)
        ),
    )


@dataclass(frozen=True, eq=False)
class _Predicted:
    """What one run makes of the rows: by score, labels (NaN outside its rows) and predictions."""

    rows: int
    labels: Mapping[str, np.ndarray]
    predictions: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray | None]  # of heads that have several
    user: pl.Series | None
    weight: np.ndarray | None
    groups: Mapping[str, np.ndarray]  # of rows, by task, of kinds of label that have some
    keys: pl.DataFrame
    features: pl.DataFrame  # raw values, of rows that may be told

    def of(self, score: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the prediction of a score on some rows, and all outputs of its head."""
        outputs = self.outputs[score]
        return self.predictions[score][rows], None if outputs is None else outputs[rows]


def _predicted(
    run: ComparedRun, shared: Sequence[Population], split: str, told: Sequence[str]
) -> _Predicted:
    bundle = run.bundle
    table = bundle.encode(run.rows, split=split, carried=told)
    outputs = {column.name: column.to_numpy() for column in bundle.score(table)}
    labels = table.labels_by_task
    return _Predicted(
        len(table),
        {where.name: population_label(labels, where) for where in shared},
        {where.name: predicted(bundle.schema, outputs, where) for where in shared},
        {where.name: outputs_of(bundle.schema, outputs, where) for where in shared},
        table.user,
        table.weight,
        {name: each.codes for name, each in label_groups(table, bundle.targets).items()},
        table.keys,
        table.carried.select(told),
    )


def _told_columns(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the columns of the runs' features, but lists, that the rows themselves hold."""
    bundle = runs[0].bundle
    opened = bundle.opened(runs[0].rows)
    own = read(opened.rows, bundle.schema) if isinstance(opened, Joined) else opened
    features = (each for run in runs for each in run.bundle.schema.features if not each.lists)
    known = {*column_names(own)}
    columns = (column for each in features for column in each.columns if column in known)
    return list(dict.fromkeys(columns))


def _disagreements(
    score: str,
    runs: Sequence[ComparedRun],
    scored: Sequence[_Predicted],
    names: Mapping[str, str],
    most: int,
) -> Iterator[Disagreement]:
    """Yield the rows of a score on which each group is furthest from the baseline."""
    if not most:
        return
    first, groups = scored[0], {}
    rows = np.flatnonzero(~np.isnan(first.labels[score]))
    for run, each in zip(runs, scored, strict=True):
        groups.setdefault(names[run.path], []).append(each.predictions[score][rows])
    means = {name: np.mean(each, axis=0) for name, each in groups.items()}
    baseline, *others = means
    before, weight = means[baseline], None if first.weight is None else first.weight[rows]
    for name in others:
        for place in furthest_apart(before, means[name], most, weight).tolist():
            row = int(rows[place])
            yield Disagreement(
                score, baseline, name, row, float(first.labels[score][row]), float(before[place]),
                float(means[name][place]), _plain(first.keys, row), _plain(first.features, row),
            )  # fmt: skip


def _plain(frame: pl.DataFrame, row: int) -> dict[str, Any]:
    """Return a row as values of JSON: what has no such type, such as a date, as text."""
    found = frame.row(row, named=True) if frame.width else {}
    return {name: _json(value) for name, value in found.items()}


def _json(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, int | float | str) else str(value)


def _refuse_other_rows(
    one: ComparedRun, first: _Predicted, other: ComparedRun, each: _Predicted
) -> None:
    if each.rows != first.rows:
        raise DataError(
            f"{one.path} keeps {first.rows:,} of the rows and {other.path} {each.rows:,}: they are "
            "compared on the same rows; give both the same rule for orphans"
        )
    for name, label in first.labels.items():
        unequal = ~((each.labels[name] == label) | (np.isnan(each.labels[name]) & np.isnan(label)))
        if unequal.any():
            raise DataError(
                f"{name}: {one.path} and {other.path} have other labels in "
                f"{int(unequal.sum()):,} rows, the first of them row {int(unequal.argmax())}: they "
                "are compared on the same outcome; give both the same label column and orphans"
            )


def _shared(runs: Sequence[ComparedRun]) -> list[Population]:
    """Return the scores that mean the same in every run, in the order of the first."""
    each = [{where.name: where for where in populations(run.bundle.schema)} for run in runs]
    shared = [
        where
        for name, where in each[0].items()
        if all(name in other and _meaning(other[name]) == _meaning(where) for other in each[1:])
    ]
    if not shared:
        known = "; ".join(
            f"{run.path} has {', '.join(found)}" for run, found in zip(runs, each, strict=True)
        )
        raise ConfigError(f"the runs have no score in common: {known}")
    return shared


def _meaning(where: Population) -> tuple[Any, ...]:
    """Return what a score is of, whatever options of its kind of label say how it is learned.

    Options that change the label itself are found out by comparing the labels.
    """
    return where.name, where.kind, where.heads, where.conditions


def _names(runs: Sequence[ComparedRun]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return each run's group by its path, and what to say of the grouping.

    Runs of one folder, or of one name, are seeds of one experiment only if nothing but the seed
    differs. A group is called by its name, or by its folder where several have that name.
    """
    groups: dict[tuple[str | None, str], list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault((run.folder, run.name), []).append(run)
    shared = [name for _, name in groups]
    names, notes = {}, []
    for (folder, name), group in groups.items():
        kept = [_recipe(run.bundle.config) for run in group]
        seeds = len({run.seed for run in group}) == len(group)
        one = seeds and all(each == kept[0] for each in kept)
        if not one:
            differ = "share a seed" if not seeds else "differ in more than their seed"
            which = f"named {name!r}" if folder is None else f"in {folder}"
            notes.append(f"the runs {which} {differ}, so each stands on its own, by its folder")
        called = name if folder is None or shared.count(name) == 1 else folder
        names |= {run.path: called if one else run.path for run in group}
    return names, tuple(notes)


def _recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes two runs seeds of one experiment if it is equal."""
    data = config.get("data", {})
    made = {
        key: each for key, each in data.items() if key not in _WHERE_ROWS_ARE and each is not None
    }
    return {**{key: each for key, each in config.items() if key not in _MAY_DIFFER}, "data": made}
