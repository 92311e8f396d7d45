"""First-stage trees: a boosted ensemble a head, cross-fitted, as a margin that the network gets.

A head's boosters learn what the head predicts, on the rows that speak of it: those where its parent
happened and its label is known. One booster is fitted without each fold of the training rows, and
one on all of them. A training row gets its margin from the booster that has not seen it, so that
the network trusts margins as far as those of new rows deserve; new rows get that of the booster of
all rows.

What trees read: the numbers of numeric features as they are, NaN where missing, and the ids of
features of few values as categories. Lists and features of many ids are left out: wide rows and
embeddings are for those. All training rows lie in memory as float32, so a log larger than memory
is not for trees.

Letters: N rows, B rows of a batch, C columns, H or T heads with trees.

Reference:
    Ke et al., LightGBM, NeurIPS 2017; cross-fitting: Wolpert, Stacked generalization, Neural
    Networks 1992, and Chernozhukov et al., The Econometrics Journal 2018.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from math import log
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from polyrank import spec
from polyrank.data.folds import folds, parted
from polyrank.data.sampling import Sampling
from polyrank.data.statistics import term_labels
from polyrank.data.table import Batch, Table
from polyrank.errors import BundleError, ConfigError
from polyrank.layout import Layout
from polyrank.nn.embed import Padded, TensorBag
from polyrank.objective.likelihood import Likelihood, numbers_of
from polyrank.schema import Schema, Task
from polyrank.stages.ensemble import Ensemble
from polyrank.stages.stage import Stage, StageLearner, StageModule, StageRun
from polyrank.terms import own_population

logger = logging.getLogger(__name__)

SCALE = 1 / 3  # of what the network reads, so that margins are about as large as other inputs
FOLDER = "trees"  # of a bundle's files
_END = "end of trees\n"
# LightGBM's own default of rows in a leaf: with fewer than twice as many there is no split.
_LEAF_ROWS = 20
_MOST_CATEGORIES = 2**16


@dataclass(frozen=True, kw_only=True)
class Trees(Stage):
    """Boosted trees under the network; needs the extra `[trees]` to be fitted, not to be served.

    Args:
        folds: parts of the training rows; a row's margin comes of a booster fitted without its own.
        rounds: most trees of a booster.
        leaves: most leaves of a tree.
        lr: what each tree's answer is multiplied by.
        patience: trees without a better loss on held-out rows before a booster has enough. The
            first fold's booster finds the number for all boosters of a head: on the validation
            rows, or on its own fold where there are none.
        categories: rows of a feature's table, that of unseen ids included, up to which its ids are
            read as categories; a feature of more is not read.

    Raises:
        ConfigError: a value of a wrong type, below its least or above its most.

    Examples:
        >>> Trees(rounds=100)
        Trees(folds=4, rounds=100, leaves=63, lr=0.03, patience=50, categories=256)

    Reference:
        Ke et al., NeurIPS 2017.
    """

    name: ClassVar[str] = "trees"

    folds: int = 4
    rounds: int = 500
    leaves: int = 63
    lr: float = 0.03
    patience: int = 50
    categories: int = 256

    def __post_init__(self) -> None:
        limits = {
            "folds": (2, None), "rounds": (1, None), "leaves": (2, 2**17), "patience": (1, None),
            "categories": (1, _MOST_CATEGORIES),
        }  # fmt: skip
        for name, (least, most) in limits.items():
            found = spec.whole(f"trees: {name}", getattr(self, name), least=least, most=most)
            object.__setattr__(self, name, found)
        object.__setattr__(self, "lr", spec.number("trees: lr", self.lr, above=0, most=1))

    def reads(self, schema: Schema) -> int:
        return len(tasks_of(schema))

    def require(self) -> None:
        require_lightgbm()

    @property
    def numbers(self) -> bool:
        return True

    def build(self, layout: Layout) -> TreesModule:
        return TreesModule(self, layout)


def tasks_of(schema: Schema) -> tuple[Task, ...]:
    """Return the tasks whose heads have trees: events, and numbers learned by squared error."""
    return tuple(
        task
        for task in schema.tasks
        if task.label_kind.curvatures == ("gaussian",)
        or (task.label_kind.is_event and task.label_kind.curvatures == ("logistic",))
    )


@dataclass(frozen=True, kw_only=True)
class Column:
    """What trees read of a feature: its number, or its id as one of some categories.

    Args:
        feature: its name.
        categories: rows of its table; 0 for a number.
    """

    feature: str
    categories: int = 0


@dataclass(frozen=True, eq=False)
class Target:
    """What a head's boosters learn.

    Args:
        label: float64 (N,), NaN in rows that do not speak of the head.
        weight: float64 (N,), or None where all are 1.
        event: whether the label is 0 or 1 and the margin its logit; else squared error.
    """

    label: np.ndarray
    weight: np.ndarray | None
    event: bool

    @property
    def rows(self) -> np.ndarray:
        """The numbers of the rows that teach the head."""
        usable = ~np.isnan(self.label)
        return np.flatnonzero(usable if self.weight is None else usable & (self.weight > 0))

    def constant(self, rows: np.ndarray) -> float:
        """Return the margin of some rows without a tree: that of the smoothed rate, or the mean.

        It is 0, of a rate of ½, without rows.
        """
        label, count = self.label[rows], len(rows)
        weight = np.ones(count) if self.weight is None else self.weight[rows]
        mean = float(np.average(label, weights=weight)) if count else 0.0
        if not self.event:
            return mean * count / (count + 2)
        rate = (mean * count + 1) / (count + 2)
        return log(rate / (1 - rate))

    def teaches(self, rows: np.ndarray) -> bool:
        """Whether some rows can part anything: enough of them, and not all of one label."""
        label = self.label[rows]
        return len(rows) >= 2 * _LEAF_ROWS and bool((label != label[0]).any())


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as trees learn from them.

    Args:
        matrix: of `matrix_of`.
        targets: of each head that can have trees.
    """

    matrix: np.ndarray
    targets: Mapping[str, Target]


@dataclass(frozen=True, eq=False)
class Boosters:
    """Fitted trees.

    Args:
        columns: of the matrix that they read.
        full: of each head, fitted on all training rows.
        parts: of each head, fitted without each fold; none in a bundle, which has no fold's rows.
    """

    columns: tuple[Column, ...]
    full: Mapping[str, Ensemble]
    parts: Mapping[str, tuple[Ensemble, ...]] = field(default_factory=dict)

    def margins(self, matrix: np.ndarray) -> np.ndarray:
        """Return the margins of new rows, in the heads' order: float32 (N, H)."""
        found = np.empty((len(matrix), len(self.full)), np.float32)
        for at, each in enumerate(self.full.values()):
            found[:, at] = each.margins(matrix)
        return found

    def cross_fitted(self, matrix: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """Return the margins of the training rows, of whose fold a booster has seen none.

        Also rows that teach a head nothing get its margin: the network reads it there.

        Shape:
            matrix: float32 (N, C) · folds: (N,) → float32 (N, H)
        """
        found = np.empty((len(matrix), len(self.parts)), np.float32)
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds == fold)
            part = matrix[rows]
            for at, each in enumerate(self.parts.values()):
                found[rows, at] = each[fold].margins(part)
        return found

    def importance(self) -> dict[str, dict[str, float]]:
        """Return the share of each feature in a head's gain, the largest first; 0 is left out.

        A head without a split has none.
        """
        shares = {}
        for head, each in self.full.items():
            gains = sorted(each.gain().items(), key=lambda pair: (-pair[1], pair[0]))
            total = sum(gain for _, gain in gains)
            shares[head] = {
                self.columns[at].feature: gain / total for at, gain in gains if gain > 0
            }
        return shares

    def to_table(self) -> dict[str, Any]:
        """Return what a manifest keeps, as plain tables, beside `to_files`."""
        return {"columns": spec.to_table(self.columns), "heads": list(self.full)}

    def to_files(self, *, parts: bool = False) -> dict[str, str]:
        """Return LightGBM's texts by file name; those of the folds only where they are asked for.

        A bundle needs the full ones. A checkpoint keeps `parts` too, or just `cross_fitted`.
        """
        found = {_file(head): each.text for head, each in self.full.items()}
        if parts:
            for head, folds in self.parts.items():
                found |= {_file(head, fold): each.text for fold, each in enumerate(folds)}
        return found

    @classmethod
    def read(cls, table: Mapping[str, Any], files: Mapping[str, str]) -> Boosters:
        """Read what `to_table` and `to_files` returned; nothing is fitted again.

        Raises:
            BundleError: a missing file, or one that is no model of LightGBM.
        """
        columns = tuple(spec.from_table(Column, each, "trees") for each in table["columns"])
        full, parts = {}, {}
        for head in table["heads"]:
            if _file(head) not in files:
                raise BundleError(f"trees: the file {_file(head)!r} is missing")
            full[head] = Ensemble.read(files[_file(head)], f"trees: {_file(head)}")
            folds = []
            while (name := _file(head, len(folds))) in files:
                folds.append(Ensemble.read(files[name], f"trees: {name}"))
            if folds:
                parts[head] = tuple(folds)
        return cls(columns, full, parts)


class TreesModule(StageModule):
    """Fitted trees as they serve: the boosters of all rows. Without any, every margin is 0."""

    graph = "polyrank.serve.export.trees:splice_stage"

    def __init__(self, trees: Trees, layout: Layout) -> None:
        super().__init__()
        self.trees, self.layout = trees, layout
        self.heads = tuple(task.name for task in tasks_of(layout.schema))
        self.boosters: Boosters | None = None

    def says(self, table: Table) -> np.ndarray:
        if self.boosters is None:
            return np.zeros((len(table), len(self.heads)), np.float32)
        return self.boosters.margins(matrix_of(table, self.boosters.columns))

    def forward(
        self, ids: Tensor, bags: Sequence[TensorBag], given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if given is None:
            if self.boosters is not None:
                raise ValueError("trees read raw numbers: say what they say of the table first")
            given = torch.zeros(ids.shape[1], len(self.heads), device=ids.device)
        return given, given * SCALE

    def in_graph(
        self, ids: Tensor, sequences: Sequence[Padded], given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert given is not None
        return given, given * SCALE

    def learner(self, run: StageRun) -> TreesLearner:
        return TreesLearner(self, run)

    def to_table(self) -> dict[str, Any]:
        assert self.boosters is not None
        return self.boosters.to_table()

    def to_files(self) -> dict[str, str]:
        assert self.boosters is not None
        return self.boosters.to_files()

    def load_files(self, table: Mapping[str, Any], files: Mapping[str, str]) -> None:
        found = Boosters.read(table, files)
        if tuple(found.full) != self.heads:
            raise BundleError(f"trees: boosters of {[*found.full]}, but the heads are {self.heads}")
        expected, _ = _columns_of(self.layout.schema, self.layout.vocab.rows, self.trees)
        if found.columns != expected:
            raise BundleError("trees: their columns are not those of the features")
        self.boosters = found

    def importance(self) -> Mapping[str, Mapping[str, float]]:
        return {} if self.boosters is None else self.boosters.importance()


class TreesLearner(StageLearner):
    """Fits the boosters before the first step; then the margins of the training rows are known."""

    def __init__(self, module: TreesModule, run: StageRun) -> None:
        self.module, self.run = module, run
        self.margins: Tensor | None = None  # of the training rows, out of fold: (N, T)

    def start(self) -> None:
        run, trees = self.run, self.module.trees
        columns = columns_of(run.train.schema, self.module.layout.vocab.rows, trees)
        if run.train.window is not None:
            logger.warning(
                "the rows exceed the memory that they may take, and trees read all %s at once: "
                "leave trees out if that fails", f"{len(run.train):,}",
            )  # fmt: skip
        train = rows_of(run.train, columns, run.likelihoods, run.sampling)
        valid = None if run.valid is None else rows_of(run.valid, columns, run.likelihoods)
        number = parted(np.arange(len(run.train)), run.train.requests)
        fold = folds(number, trees.folds, run.seed)
        boosters = fit_boosters(
            trees, columns, train, fold, valid, seed=run.seed % 2**31, threads=run.threads
        )
        self.margins = torch.from_numpy(boosters.cross_fitted(train.matrix, fold))
        self.module.boosters = replace(boosters, parts={})

    def alone(self, valid: Table) -> Tensor:
        return torch.from_numpy(self.module.says(valid))

    def step(self, batch: Batch, x: Tensor, column: int) -> Tensor:
        assert self.margins is not None
        assert batch.rows is not None
        margin = self.margins[torch.from_numpy(batch.rows)].to(x.device)
        x[:, column : column + margin.shape[1]] = margin * SCALE
        return margin

    def end_epoch(self) -> None:
        pass  # all is fitted

    def state(self) -> dict[str, Tensor]:
        assert self.margins is not None
        kept = {"table": self.module.to_table(), "files": self.module.to_files()}
        text = np.frombuffer(json.dumps(kept).encode(), np.uint8).copy()
        return {"margins": self.margins, "boosters": torch.from_numpy(text)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.margins = state["margins"]
        kept = json.loads(state["boosters"].numpy().tobytes())
        self.module.load_files(kept["table"], kept["files"])


def require_lightgbm() -> None:
    """Refuse to fit trees where LightGBM is not installed."""
    if find_spec("lightgbm") is None:
        raise ConfigError(
            "trees need lightgbm: pip install 'polyrank[trees]', or set [model] trees = false"
        )


def columns_of(schema: Schema, rows: Mapping[str, int], trees: Trees) -> tuple[Column, ...]:
    """Return what trees read of a log: categories first, then numbers, each in schema order.

    `rows` are those of each table.

    Raises:
        ConfigError: no feature that trees can read.
    """
    columns, left_out = _columns_of(schema, rows, trees)
    shown = ", ".join(f"{name!r} {why}" for name, why in left_out.items())
    if not columns:
        raise ConfigError(
            "trees have nothing to read: they read numbers, and ids of at most "
            f"{trees.categories:,} rows (the option categories), but {shown}; set [model] trees = "
            "false"
        )
    if left_out:
        logger.info("trees do not read: %s", shown)
    return columns


def _columns_of(
    schema: Schema, rows: Mapping[str, int], trees: Trees
) -> tuple[tuple[Column, ...], dict[str, str]]:
    """Return the columns that trees read, and why they do not read the other features."""
    numbers, categories, left_out = [], [], {}
    for each in schema.features:
        if each.name in schema.own_towers:
            left_out[each.name] = "has a tower of its own"
            continue
        if each.numeric:
            numbers.append(Column(feature=each.name))
            continue
        sizes = [rows[slot.table] for slot in each.slots if slot.place == "ids"]
        if each.ragged or len(sizes) != 1:
            left_out[each.name] = "holds lists" if each.ragged else "is no single id"
        elif sizes[0] > trees.categories:
            left_out[each.name] = f"has {sizes[0]:,} rows in its table"
        else:
            categories.append(Column(feature=each.name, categories=sizes[0]))
    return (*categories, *numbers), left_out


def matrix_of(table: Table, columns: Sequence[Column]) -> np.ndarray:
    """Return what trees read of a Table with `numbers`: float32 (N, C), ids as local rows."""
    schema = table.schema
    fields = {slot.name: at for at, slot in enumerate(schema.fields)}
    names = [feature.name for feature in schema.features if feature.numeric]
    if names and not table.numbers.shape[1]:
        raise ValueError("the table has no raw numbers: encode it with numbers=True")
    numbers = dict(zip(names, table.numbers.T, strict=True))
    found = np.empty((len(table), len(columns)), np.float32)
    for at, column in enumerate(columns):
        name = column.feature
        found[:, at] = table.ids[fields[name]] if column.categories else numbers[name]
    return found


def rows_of(
    table: Table,
    columns: Sequence[Column],
    likelihoods: Mapping[str, Likelihood],
    sampling: Sampling | None = None,
) -> Rows:
    """Return a Table as trees learn from it.

    Args:
        table: with labels and `numbers`.
        columns: of `columns_of`.
        likelihoods: of each task, whose origin and unit the labels get.
        sampling: where the weights do not say it already. Rows are then weighted to be those of
            the whole log, so that the margins are too.
    """
    weight = None if table.weight is None else table.weight.astype(np.float64)
    if sampling is not None:
        stands_for = sampling.weight(table.labels_by_task[sampling.task])
        weight = stands_for if weight is None else weight * stands_for
    targets = {}
    labels = numbers_of(table.schema, likelihoods, table.labels, table.extras)
    table = table if labels is table.labels else replace(table, labels=labels)
    for task in tasks_of(table.schema):
        likelihood = likelihoods[task.name]
        label = term_labels(table, own_population(table.schema, task))
        scaled = (label - likelihood.origin) / likelihood.unit
        targets[task.name] = Target(scaled, weight, task.label_kind.is_event)
    return Rows(matrix_of(table, columns), targets)


def fit_boosters(
    trees: Trees,
    columns: tuple[Column, ...],
    train: Rows,
    folds: np.ndarray,
    valid: Rows | None = None,
    *,
    seed: int = 0,
    threads: int = 1,
) -> Boosters:
    """Return the boosters of each head: one without each fold, and one of all rows.

    The same arguments give the same trees, whatever the number of threads. A head whose rows are
    too few, or all of one label, outside a fold has the constant margin of its base rate there,
    which is logged.

    Args:
        trees: the spec.
        columns: of the rows.
        train: the training rows.
        folds: of each training row, from 0 to `trees.folds` − 1: int (N,).
        valid: rows that say when a booster has enough trees; without those that speak of a head,
            its first fold does.
        seed: of LightGBM.
        threads: of LightGBM.
    """
    require_lightgbm()
    full: dict[str, Ensemble] = {}
    parts: dict[str, tuple[Ensemble, ...]] = {}
    for head, target in train.targets.items():
        held = None if valid is None else valid.targets[head]
        judged = None if valid is None or held is None else (valid.matrix, held)
        task = _Head(trees, columns, train.matrix, target, judged, seed, threads)
        full[head], parts[head] = task.fitted(head, folds)
    return Boosters(columns, full, parts)


class _Head:
    """The fitting of one head's boosters."""

    def __init__(
        self,
        trees: Trees,
        columns: tuple[Column, ...],
        matrix: np.ndarray,
        target: Target,
        judged: tuple[np.ndarray, Target] | None,
        seed: int,
        threads: int,
    ) -> None:
        self.trees, self.columns, self.target = trees, columns, target
        self.matrix, self.judged = matrix, judged
        self.rows = target.rows
        self.parameters = {
            "objective": "binary" if target.event else "regression",
            "num_leaves": trees.leaves,
            "learning_rate": trees.lr,
            "min_data_in_leaf": _LEAF_ROWS,
            "seed": seed,
            "num_threads": threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }

    def fitted(self, head: str, folds: np.ndarray) -> tuple[Ensemble, tuple[Ensemble, ...]]:
        """Return the booster of all rows, and those without each fold."""
        import lightgbm

        of_row = folds[self.rows]
        outside = [np.flatnonzero(of_row != fold) for fold in range(self.trees.folds)]
        able = [self.target.teaches(self.rows[each]) for each in outside]
        if not all(able):
            without = ", ".join(str(fold) for fold, each in enumerate(able) if not each)
            logger.warning(
                "trees: head %r has too few rows, or all of one label, without fold %s (%s rows "
                "teach it): its margin is a constant there", head, without, f"{len(self.rows):,}",
            )  # fmt: skip
        parts = [self._constant(self.rows[each]) for each in outside]
        if not any(able):
            return self._constant(self.rows), tuple(parts)
        data = self._dataset(lightgbm, self.matrix, self.target, self.rows).construct()
        first = able.index(True)
        # Each booster costs the same, so the number of trees is found once.
        parts[first], rounds = self._first(lightgbm, data, outside[first], of_row == first)
        for fold in range(first + 1, self.trees.folds):
            if able[fold]:
                part = data.subset(outside[fold], params=self.parameters)
                parts[fold] = self._booster(lightgbm, part, rounds)
        logger.info(
            "trees: head %r has boosters of %d trees, of %s rows", head, rounds,
            f"{len(self.rows):,}",
        )  # fmt: skip
        return self._booster(lightgbm, data, rounds), tuple(parts)

    def _first(
        self, lightgbm: Any, data: Any, outside: np.ndarray, inside: np.ndarray
    ) -> tuple[Ensemble, int]:
        """Return the first booster, cut where held-out rows have the least loss, and its trees."""
        part = data.subset(outside, params=self.parameters)
        matrix, target = self.judged or (self.matrix, self.target)
        rows = target.rows
        if self.judged is None or not len(rows):
            matrix, target, rows = self.matrix, self.target, self.rows[inside]
        if not len(rows):
            return self._booster(lightgbm, part, self.trees.rounds), self.trees.rounds
        booster = lightgbm.train(
            self.parameters, part, self.trees.rounds,
            valid_sets=[self._dataset(lightgbm, matrix, target, rows, reference=data)],
            callbacks=[lightgbm.early_stopping(self.trees.patience, verbose=False)],
        )  # fmt: skip
        best = max(booster.best_iteration, 0) or booster.current_iteration()
        return _read(booster, best), best

    def _booster(self, lightgbm: Any, data: Any, rounds: int) -> Ensemble:
        return _read(lightgbm.train(self.parameters, data, rounds), rounds)

    def _constant(self, rows: np.ndarray) -> Ensemble:
        return Ensemble.constant(self.target.constant(rows), len(self.columns))

    def _dataset(
        self,
        lightgbm: Any,
        matrix: np.ndarray,
        target: Target,
        rows: np.ndarray,
        reference: Any = None,
    ) -> Any:
        weight = None if target.weight is None else target.weight[rows]
        categorical = [at for at, column in enumerate(self.columns) if column.categories]
        return lightgbm.Dataset(
            matrix[rows], target.label[rows], weight=weight, reference=reference,
            categorical_feature=categorical, params=self.parameters,
        )  # fmt: skip


def _read(booster: Any, trees: int) -> Ensemble:
    """Return a LightGBM booster without the parameters, which name the number of threads."""
    text = booster.model_to_string(num_iteration=trees)
    return Ensemble.read(text[: text.index(_END) + len(_END)])


def _file(head: str, fold: int | None = None) -> str:
    return f"{FOLDER}/{quote(head, safe='')}{'' if fold is None else f'.{fold}'}.txt"
