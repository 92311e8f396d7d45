"""A module from a dict of tensors to (rows, tasks), around a native ranker.

Letters: N rows, B rows of a batch, C label columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from polyrank.bundle.model import Bundle
from polyrank.classic.data import Rows
from polyrank.classic.features import raw, vocab_of
from polyrank.data.read import read
from polyrank.data.table import Table, encode
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.metrics.scorecard import Scorecard
from polyrank.models import model as native
from polyrank.models.outputs import logits_of, outputs
from polyrank.models.ranker import Head
from polyrank.nn.embed import TensorBag
from polyrank.objective.likelihood import likelihoods
from polyrank.schema import Feature, Schema, SequenceFeature, Task
from polyrank.terms import output_columns


class ClassicModel(nn.Module):
    """A native ranker behind a dict of tensors.

    Args:
        features: sparse and sequence ones with `vocab_size`, and dense ones.
        tasks: their label is filled in.
        model: the native spec.
        columns: the output that belongs to each label column.

    Shape:
        - input: {name: (B,)}, raw ids and numbers; {name: (B, length)}, padded lists of ids
        - output: (B, C), probabilities, and values in the unit of the label
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
        taken = {feature.name for feature in self.features}
        labelled = [_labelled(task, taken) for task in tasks]
        self.schema = Schema(self.features, labelled)
        self.spec, self.columns = model, tuple(columns)
        model.check(self.schema)
        self.vocab = vocab_of(self.features)
        self.layout = model.layout(self.schema, self.vocab)
        self.ranker = model.build(self.layout)
        self.register_buffer("target_mean", torch.zeros(len(tasks)))
        self.register_buffer("target_deviation", torch.ones(len(tasks)))
        self._drawn = self._biases()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each label column."""
        kind = {name: task.kind for task in self.schema.tasks for name in output_columns(task)}
        return tuple(kind[column] for column in self.columns)

    @property
    def feature_names(self) -> list[str]:
        """The columns of x that are read."""
        return [feature.name for feature in self.features]

    def check_task_types(self, kinds: Sequence[str]) -> str | None:
        """Refuse task types that are not the model's; return a note where they can be read on."""
        if tuple(kinds) == self.kinds:
            return None
        raise ConfigError(
            f"the trainer's task_types say {list(kinds)}, and the model was built for "
            f"{list(self.kinds)}: give both the same list"
        )

    def labels(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """Return each task's label from the label columns (N, C).

        Raises:
            DataError: another number of columns.
        """
        self._check_width(y)
        return {task.name: y[:, index] for index, task in enumerate(self.schema.tasks)}

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return the predictions of a batch."""
        return self._predicted(self.ranker(self.ranker.embed(*self._inputs(x))).logits).float()

    def encode(self, rows: Rows, split: str, *, labels: bool = True) -> Table:
        """Return rows as a native table; ids out of range go to row 0 and are counted.

        Raises:
            DataError: a missing column, or labels that cannot be.
        """
        for name in self.feature_names:
            if name not in rows.x:
                raise DataError(f"{split}: x has no column {name!r}{did_you_mean(name, rows.x)}")
        arrays = {each.name: _shaped(each, rows.x[each.name]) for each in self.features}
        if labels:
            of_task = self.labels(rows.labels)
            arrays |= {task.column: of_task[task.name] for task in self.schema.tasks}
        return encode(
            read(arrays), self.schema, self.vocab, split=split, orphans="zero", labels=labels
        )

    def predictions(self, rows: Rows) -> np.ndarray:
        """Return the predictions of rows, float64 (N, C): the bits of `Bundle.predict`."""
        device = str(next(self.parameters()).device)
        return self.of_logits(
            logits_of(self.ranker, self.encode(rows, "rows", labels=False), device)
        )

    def of_logits(self, logits: Mapping[str, Tensor]) -> np.ndarray:
        """Return the predictions of logits, float64 (N, C)."""
        return self._predicted(logits).numpy()

    def _predicted(self, logits: Mapping[str, Tensor]) -> Tensor:
        exact = {name: each.double() for name, each in logits.items()}
        found = outputs(self.schema, exact, likelihoods(self.schema, self.fitted), {})
        return torch.stack([found[column] for column in self.columns], dim=1)

    @property
    def fitted(self) -> dict[str, dict[str, float]]:
        """Mean and deviation of each regression's target, as its kind of label fits them."""
        pairs = zip(self.target_mean.tolist(), self.target_deviation.tolist(), strict=True)
        return {
            task.name: {"mean": mean, "deviation": deviation}
            for task, (mean, deviation) in zip(self.schema.tasks, pairs, strict=True)
            if not task.label_kind.is_event
        }

    def prepare(
        self, fitted: Mapping[str, Mapping[str, float]], rates: Mapping[str, float]
    ) -> None:
        """Take over the targets' scales; heads that are as drawn start at their base rate."""
        for index, task in enumerate(self.schema.tasks):
            if task.name in fitted:
                self.target_mean[index] = fitted[task.name]["mean"]
                self.target_deviation[index] = fitted[task.name]["deviation"]
        now = self._biases()
        self.ranker.start_at(
            {
                name: rate
                for name, rate in rates.items()
                if torch.equal(now[name], self._drawn[name])
            }
        )

    def bundle(
        self, config: Mapping[str, Any], history: pl.DataFrame, scorecard: Scorecard | None
    ) -> Bundle:
        """Return the native fitted thing, with a copy of the weights."""
        ranker = deepcopy(self.ranker).cpu().eval()
        return Bundle(
            self.schema, self.spec, self.vocab, self.fitted, ranker, config, history, scorecard
        )

    def _check_width(self, y: np.ndarray) -> None:
        if y.shape[1] != len(self.columns):
            raise DataError(
                f"{type(self).__name__} has {len(self.columns)} tasks, and the labels have "
                f"{y.shape[1]} columns: give one column a task"
            )

    def _inputs(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[TensorBag]]:
        """Return rows of the packed tables (F, B), dense columns (B, D) and the sequences' bags."""
        for feature in self.features:
            if feature.name not in x:
                raise DataError(f"x has no column {feature.name!r}{did_you_mean(feature.name, x)}")
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
        """Return rows of a packed table, those of ids out of range its first."""
        row = given.long()
        known = (row == given) & (row >= 0) & (row < self.vocab.rows[table])
        return torch.where(known, row, 0) + offset

    def _bag(self, feature: SequenceFeature, given: Tensor, offset: int) -> TensorBag:
        given = given.reshape(len(given), -1)
        kept = torch.ones_like(given, dtype=torch.bool)
        if feature.padding_idx is not None:
            kept = given != feature.padding_idx
        offsets = nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
        return self._rows(feature.table, given[kept], offset).int(), offsets

    def _biases(self) -> dict[str, Tensor]:
        heads = {name: self.ranker.head[name] for name in self.ranker.head}
        return {
            name: head.output.bias.detach().cpu().clone()
            for name, head in heads.items()
            if isinstance(head, Head)
        }


def _labelled(task: Task, taken: set[str]) -> Task:
    """Return a task whose label column is no feature's."""
    label = task.name
    while label in taken:
        label += "_"
    return replace(task, label=label)


def _shaped(feature: Feature, column: np.ndarray) -> np.ndarray:
    """Return a column as the native door reads it: lists of a sequence, else one value a row."""
    name = feature.name
    if feature.lists:
        numbers = column.ndim == 1 and column.dtype.kind in "biuf"  # lists of one id each
        return column[:, None] if numbers else column
    if column.ndim == 2 and column.shape[1] == 1:
        return column[:, 0]
    if column.ndim != 1:
        raise DataError(
            f"column {name!r} has the shape {column.shape}, and one value a row is expected"
        )
    return column
