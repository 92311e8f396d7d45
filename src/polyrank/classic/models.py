"""The classic models: native rankers behind a dict of tensors, by upstream's names and arguments.

Letters: N rows, B rows of a batch, C label columns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from polyrank import spec
from polyrank.bundle.model import Bundle
from polyrank.classic.data import Rows
from polyrank.classic.features import raw, vocab_of
from polyrank.data.read import read
from polyrank.data.table import Table, encode
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.labels import Binary, LabelKind, Regression
from polyrank.metrics.scorecard import Scorecard
from polyrank.models import model as native
from polyrank.models.outputs import logits_of, outputs
from polyrank.nn.embed import TensorBag
from polyrank.objective.likelihood import likelihoods
from polyrank.schema import Feature, Schema, SequenceFeature, Task
from polyrank.tasks import ALL
from polyrank.terms import output_columns
from polyrank.train.fit import config_tables
from polyrank.train.training import Training

logger = logging.getLogger(__name__)

TASK_TYPES: Mapping[str, LabelKind] = {"classification": Binary(), "regression": Regression()}


class ClassicModel(nn.Module):
    """A native ranker behind a dict of tensors, whose tasks get their labels here.

    {name: (B,) ids or numbers, (B, length) lists} → (B, C): probabilities, and values in the
    label's unit. `columns` are the outputs for the label columns.
    """

    def __init__(
        self,
        features: Sequence[Any],
        tasks: Sequence[Task],
        model: native.Model,
        columns: Sequence[str],
    ) -> None:
        super().__init__()
        self.features = raw(features)
        self.schema = model.supervised(Schema(self.features, _labelled(tasks, self.feature_names)))
        self.spec, self.columns = model, tuple(columns)
        model.check(self.schema)
        self.vocab = vocab_of(self.features)
        self.layout = model.layout(self.schema, self.vocab)
        self.ranker = model.build(self.layout)
        self.register_buffer("target_mean", torch.zeros(len(tasks)))
        self.register_buffer("target_deviation", torch.ones(len(tasks)))
        self._drawn = self._biases()

    @property
    def kinds(self) -> tuple[LabelKind, ...]:
        kinds = {
            name: task.label_kind for task in self.schema.tasks for name in output_columns(task)
        }
        return tuple(kinds[column] for column in self.columns)

    @property
    def feature_names(self) -> list[str]:
        return [feature.name for feature in self.features]

    def check_task_types(self, kinds: Sequence[LabelKind]) -> None:
        if tuple(kinds) != self.kinds:
            raise ConfigError(
                f"the trainer's task_types are {_task_types(kinds)}, but the model was built for "
                f"{_task_types(self.kinds)}: give both the same list"
            )

    def labels(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """Return each task's label from the label columns (N, C)."""
        self._check_width(y)
        return {task.name: y[:, index] for index, task in enumerate(self.schema.tasks)}

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return predictions_of(self, self.ranker(self.embed(x)).logits).float()

    def embed(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return the input of the trunk: (B, width)."""
        return self.ranker.embed(*self._inputs(x))

    def encode(self, rows: Rows, split: str, *, labels: bool = True) -> Table:
        """Return rows as a native table; ids out of range go to row 0 and are counted."""
        self._check_columns(rows.x, f"{split}: ")
        arrays = {each.name: _shaped(each, rows.x[each.name]) for each in self.features}
        if labels:
            of_task = self.labels(rows.labels)
            arrays |= {task.column: of_task[task.name] for task in self.schema.tasks}
        raw_rows = read(arrays)
        return encode(raw_rows, self.schema, self.vocab, split=split, orphans="zero", labels=labels)

    def predictions(self, rows: Rows) -> np.ndarray:
        """Return the predictions for rows, float64 (N, C): the bits of `Bundle.predict`."""
        device = str(self.target_mean.device)
        table = self.encode(rows, "rows", labels=False)
        return predictions_of(self, logits_of(self.ranker, table, device)).numpy()

    @property
    def fitted(self) -> dict[str, dict[str, float]]:
        """Mean and deviation of each regression's target, as its kind of label fits them."""
        means, deviations = self.target_mean.tolist(), self.target_deviation.tolist()
        return {
            task.name: {"mean": mean, "deviation": deviation}
            for task, mean, deviation in zip(self.schema.tasks, means, deviations, strict=True)
            if not task.label_kind.is_event
        }

    def prepare(
        self, fitted: Mapping[str, Mapping[str, float]], rates: Mapping[str, float]
    ) -> None:
        """Take over the scales of targets; heads with their first bias get a base rate's."""
        for index, task in enumerate(self.schema.tasks):
            if task.name in fitted:
                self.target_mean[index] = fitted[task.name]["mean"]
                self.target_deviation[index] = fitted[task.name]["deviation"]
        now = self._biases()
        fresh = [name for name in rates if torch.equal(now[name], self._drawn[name])]
        self.ranker.start_at({name: rates[name] for name in fresh})

    def bundle(
        self, training: Training, seed: int, history: pl.DataFrame, scorecard: Scorecard | None
    ) -> Bundle:
        config = config_tables("classic", seed, {}, self.schema, self.spec, training)
        ranker = deepcopy(self.ranker).cpu().eval()
        return Bundle(
            self.schema, self.spec, self.vocab, self.fitted, ranker, config, history, scorecard
        )

    def _check_width(self, y: np.ndarray) -> None:
        if y.shape[1] != len(self.columns):
            raise DataError(
                f"{type(self).__name__} has {len(self.columns)} tasks, but the labels have "
                f"{y.shape[1]} columns: give one column per task"
            )

    def _check_columns(self, x: Mapping[str, Any], where: str = "") -> None:
        for name in self.feature_names:
            if name not in x:
                raise DataError(f"{where}x has no column {name!r}{did_you_mean(name, x)}")

    def _inputs(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[TensorBag]]:
        """Return rows of the packed tables (F, B), dense columns (B, D) and the sequences' bags."""
        self._check_columns(x)
        device = self.target_mean.device
        ids = [
            self._rows(slot.table, x[slot.name].to(device).flatten(), offset)
            for slot, offset in zip(self.schema.fields, self.layout.offsets.tolist(), strict=True)
        ]
        sequences = (each for each in self.schema.features if isinstance(each, SequenceFeature))
        bags = [
            self._bag(feature, x[feature.name].to(device), offset)
            for feature, offset in zip(sequences, self.layout.bag_offsets.tolist(), strict=True)
        ]
        numbers = [x[slot.name].to(device).flatten().float() for slot in self.schema.dense]
        rows = len(x[self.features[0].name])
        empty = torch.empty(0, rows, device=device)
        stacked = torch.stack(ids) if ids else empty
        dense = torch.stack(numbers) if numbers else empty
        dense = torch.where(dense.isnan(), 0.0, dense)  # as the encoding `none` does
        return stacked.int(), dense.T, bags

    def _rows(self, table: str, given: Tensor, offset: int) -> Tensor:
        row = given.long()
        known = (row == given) & (row >= 0) & (row < self.vocab.rows[table])
        return torch.where(known, row, 0) + offset

    def _bag(self, feature: SequenceFeature, given: Tensor, offset: int) -> TensorBag:
        given = given.reshape(len(given), -1)
        kept = torch.ones_like(given, dtype=torch.bool)
        if feature.padding_idx is not None:
            kept = given != feature.padding_idx
        offsets = nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
        return TensorBag(self._rows(feature.table, given[kept], offset).int(), offsets)

    def _biases(self) -> dict[str, Tensor]:
        heads = self.ranker.head.items()
        return {name: head.output.bias.detach().cpu().clone() for name, head in heads}


class ESMM(ClassicModel):
    """Entire-space multi-task model: clicks and purchases, both learned on all impressions.

    Dense features are used as well, in either list.

    Args:
        user_features: of the user.
        item_features: of the item.
        cvr_params: {"dims": [...], "dropout": p} of the tower of P(purchase | click).
        ctr_params: likewise, of P(click).

    Shape:
        - output: (B, 3): P(purchase | click), P(click), P(click and purchase)

    Reference:
        Ma et al., SIGIR 2018, eq. 1-4.
    """

    def __init__(
        self,
        user_features: Sequence[Any],
        item_features: Sequence[Any],
        cvr_params: Mapping[str, Any],
        ctr_params: Mapping[str, Any],
    ) -> None:
        towers = {"ctr": ctr_params, "cvr": cvr_params}
        super().__init__(
            [*user_features, *item_features],
            [_task("ctr"), _task("cvr", given="ctr")],
            _model(
                native.Separate(norm=None, dropout=None, activation=None), towers, entire_space=True
            ),
            ["p_cvr_given_ctr", "p_ctr", "p_cvr"],
        )

    def check_task_types(self, kinds: Sequence[LabelKind]) -> None:
        if not all(kind.is_event for kind in kinds) or len(kinds) not in (2, 3):
            raise ConfigError(
                'ESMM has three classification tasks: task_types must be ["classification"] * 3, '
                f"got {_task_types(kinds)}"
            )
        if len(kinds) == 2:
            logger.warning(
                "two task types for the three label columns [cvr, ctr, ctcvr] of ESMM: CTR and "
                "CTCVR are trained all the same, and evaluate returns three scores"
            )

    def labels(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """Return click and purchase from the columns [cvr, ctr, ctcvr], which must agree."""
        self._check_width(y)
        cvr, ctr, both = y.T
        wrong = (both != cvr * ctr) & ~np.isnan(y).any(axis=1)
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                "the label columns of ESMM are [cvr, ctr, ctcvr], and the third must be the "
                f"product of the others: {int(wrong.sum()):,} rows differ, the first is row "
                f"{row}: {y[row].tolist()}"
            )
        # Real logs have some purchases without their click; more of them than clicks are swapped.
        if ctr.any() and (ctr <= cvr).all() and (ctr < cvr).sum() > ctr.sum():
            raise DataError(
                "the label columns of ESMM are [cvr, ctr, ctcvr], but every row of the second is "
                "also one of the first: the first two look swapped"
            )
        return {"ctr": ctr, "cvr": cvr}


class IndependentTasks(ClassicModel):
    """A model whose tasks have one label column each.

    Args:
        features: sparse, sequence and dense.
        task_types: "classification" or "regression", one per label column.
        trunk: the native spec.
        tower_params_list: {"dims": [...], "dropout": p} of each task's tower.
    """

    def __init__(
        self,
        features: Sequence[Any],
        task_types: Sequence[str],
        trunk: native.BuildsTrunk,
        tower_params_list: Sequence[Mapping[str, Any]],
    ) -> None:
        tasks = tasks_of(kinds_of(task_types))
        if len(tower_params_list) != len(tasks):
            raise ConfigError(
                f"tower_params_list has {len(tower_params_list)} towers for {len(tasks)} tasks: "
                "give one per task"
            )
        named = {task.name: each for task, each in zip(tasks, tower_params_list, strict=True)}
        model = _model(trunk, named, entire_space=False)
        super().__init__(features, tasks, model, [output_columns(task)[0] for task in tasks])


class MMOE(IndependentTasks):
    """Multi-gate mixture of experts.

    Args:
        features, task_types, tower_params_list: as in `IndependentTasks`.
        n_expert: number of experts.
        expert_params: {"dims": [...], "dropout": p} of each expert.

    Reference:
        Ma et al., KDD 2018, eq. 6-7.
    """

    def __init__(
        self,
        features: Sequence[Any],
        task_types: Sequence[str],
        n_expert: int,
        expert_params: Mapping[str, Any],
        tower_params_list: Sequence[Mapping[str, Any]],
    ) -> None:
        layers = _layers(expert_params, "expert_params")
        trunk = native.MMoE(experts=n_expert, norm=None, **layers)
        super().__init__(features, task_types, trunk, tower_params_list)


class SharedBottom(IndependentTasks):
    """One bottom for all tasks, then a tower each.

    Args:
        features, task_types, tower_params_list: as in `IndependentTasks`.
        bottom_params: {"dims": [...], "dropout": p} of the bottom.

    Reference:
        Caruana, Machine Learning 1997.
    """

    def __init__(
        self,
        features: Sequence[Any],
        task_types: Sequence[str],
        bottom_params: Mapping[str, Any],
        tower_params_list: Sequence[Mapping[str, Any]],
    ) -> None:
        trunk = native.SharedBottom(norm=None, **_layers(bottom_params, "bottom_params"))
        super().__init__(features, task_types, trunk, tower_params_list)


class PLE(IndependentTasks):
    """Progressive layered extraction.

    Args:
        features, task_types, tower_params_list: as in `IndependentTasks`.
        n_level: number of extraction levels.
        n_expert_specific: experts of each task in a level.
        n_expert_shared: experts of all tasks in a level.
        expert_params: {"dims": [...], "dropout": p} of each expert.

    Reference:
        Tang et al., RecSys 2020, eq. 4-8.
    """

    def __init__(
        self,
        features: Sequence[Any],
        task_types: Sequence[str],
        n_level: int,
        n_expert_specific: int,
        n_expert_shared: int,
        expert_params: Mapping[str, Any],
        tower_params_list: Sequence[Mapping[str, Any]],
    ) -> None:
        layers = _layers(expert_params, "expert_params")
        trunk = native.PLE(
            levels=n_level,
            shared_experts=n_expert_shared,
            task_experts=n_expert_specific,
            norm=None,
            **layers,
        )
        super().__init__(features, task_types, trunk, tower_params_list)


class AITM(IndependentTasks):
    """Adaptive information transfer along a chain of binary tasks.

    Args:
        features, tower_params_list: as in `IndependentTasks`.
        n_task: number of tasks; each follows the one before it.
        bottom_params: {"dims": [...], "dropout": p} of each task's bottom.

    Reference:
        Xi et al., KDD 2021, eq. 4-9.
    """

    def __init__(
        self,
        features: Sequence[Any],
        n_task: int,
        bottom_params: Mapping[str, Any],
        tower_params_list: Sequence[Mapping[str, Any]],
    ) -> None:
        names = tuple(f"task_{index}" for index in range(n_task))
        layers = _layers(bottom_params, "bottom_params")
        trunk = native.AITM(chain=names, dim=None, penalty=0.6, norm=None, **layers)
        super().__init__(features, ["classification"] * n_task, trunk, tower_params_list)


def predictions_of(learner: Any, logits: Mapping[str, Tensor]) -> Tensor:
    """Return the predictions of a `ClassicModel` or `CustomModel`, float64 (N, C)."""
    exact = {name: each.double() for name, each in logits.items()}
    found = outputs(learner.schema, exact, likelihoods(learner.schema, learner.fitted), {})
    return torch.stack([found[column] for column in learner.columns], dim=1)


def kinds_of(task_types: Sequence[str]) -> tuple[LabelKind, ...]:
    """Return the kind of label for each task type."""
    if not task_types:
        raise ConfigError("task_types is empty: name at least one task type")
    for each in task_types:
        if each not in TASK_TYPES:
            raise ConfigError(f"unknown task type {each!r}{did_you_mean(str(each), TASK_TYPES)}")
    return tuple(TASK_TYPES[each] for each in task_types)


def tasks_of(kinds: Sequence[LabelKind]) -> list[Task]:
    """Return independent tasks `task_0`, `task_1` …, whose loss is the mean of their losses."""
    weight = 1 / len(kinds)
    return [_task(f"task_{i}", kind=kind.name, weight=weight) for i, kind in enumerate(kinds)]


def _task(
    name: str, *, kind: str = "binary", given: str | None = None, weight: float = 1.0
) -> Task:
    """Return a task that is learned on all rows, whatever the native defaults are."""
    return Task(
        name, label=name, kind=kind, given=given, space=ALL, weight=weight, positive_weight=1.0,
        debias=None, ranking=None, hold_ancestors=False, delay=None,
    )  # fmt: skip


def _task_types(kinds: Sequence[LabelKind]) -> list[str]:
    names = {kind: name for name, kind in TASK_TYPES.items()}
    return [names[kind] for kind in kinds]


def _model(
    trunk: native.BuildsTrunk, towers: Mapping[str, Mapping[str, Any]], *, entire_space: bool
) -> native.Model:
    """Return the native spec with Torch-RecHub's maths, whatever the native defaults are."""
    return native.Model(
        trunk=trunk,
        interaction=False,
        embed_dim=16,  # unused: each table has its own
        norm="batch",
        field_dropout=0.0,
        wide=False,
        trees=False,
        stages=(),
        entire_space=entire_space,
        **_towers(towers),
    )


def _towers(params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the widths of each tower (one list if all are alike), and their dropout."""
    read = {name: _layers(each, f"tower of {name!r}") for name, each in params.items()}
    dropouts = {each["dropout"] for each in read.values()}
    if len(dropouts) > 1:
        message = f"towers have different dropouts ({sorted(dropouts)}): give all the same one"
        raise ConfigError(message)
    towers = {name: each["hidden"] for name, each in read.items()}
    alike = len(set(towers.values())) == 1
    return {"tower": next(iter(towers.values())) if alike else towers, "dropout": dropouts.pop()}


def _layers(params: Mapping[str, Any], where: str) -> dict[str, Any]:
    spec.check_keys(params, ["dims", "dropout", "activation", "output_layer"], where)
    activation = params.get("activation", "relu")
    if str(activation).lower() != "relu":
        raise ConfigError(
            f"{where}: activation {activation!r} is not supported, layers are ReLU: leave it out, "
            "or give MTLTrainer your own nn.Module"
        )
    hidden = tuple(int(size) for size in params.get("dims") or ())
    # Without an activation of its own, a trunk has ReLU.
    return {"hidden": hidden, "dropout": float(params.get("dropout", 0)), "activation": None}


def _labelled(tasks: Sequence[Task], features: Sequence[str]) -> list[Task]:
    """Return tasks whose label columns are no feature's."""
    labelled = []
    for task in tasks:
        label = task.name
        while label in features:
            label += "_"
        labelled.append(replace(task, label=label))
    return labelled


def _shaped(feature: Feature, column: np.ndarray) -> np.ndarray:
    """Return a column as the native API reads it: lists of a sequence, else one value per row."""
    name = feature.name
    if feature.lists:
        numbers = column.ndim == 1 and column.dtype.kind in "biuf"  # lists of one id each
        return column[:, None] if numbers else column
    if column.ndim == 2 and column.shape[1] == 1:
        return column[:, 0]
    if column.ndim != 1:
        raise DataError(f"column {name!r} must have one value per row, got shape {column.shape}")
    return column
