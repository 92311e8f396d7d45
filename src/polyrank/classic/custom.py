"""A custom module, from a dict of tensors to (rows, tasks) probabilities, as a ranker.

The engine's batches carry row numbers instead of ids; the columns stay as the user gave them. Only
here does a loss see probabilities: they are turned into the logits that the engine expects.

Letters: N rows, B rows of a batch, C label columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from polyrank.classic.data import Rows, tensor_of
from polyrank.classic.models import tasks_of
from polyrank.data.labels import check_labels
from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, DataError
from polyrank.features.vocabulary import Vocabulary
from polyrank.labels import LabelKind
from polyrank.layout import Layout
from polyrank.models.outputs import CHUNK_ROWS
from polyrank.models.ranker import Inputs, Scores
from polyrank.models.trunk import Mixing
from polyrank.nn.embed import TensorBag
from polyrank.schema import Schema, SparseFeature
from polyrank.terms import output_columns

_MARGIN = 1e-7  # of a probability from 0 and from 1; less cannot be told from 1 in float32
_ROW = "row number"
_PROBED = 64  # rows of the first check


class RowNumbers(nn.Module):
    """An embedder without tables: it remembers the rows of a batch, and gives x (B, 1) of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.pack = nn.ParameterList()
        self.current = torch.empty(0, dtype=torch.long)

    def forward(self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = ()) -> Tensor:
        self.current = ids[0].cpu().long()
        return torch.zeros(len(dense), 1, device=dense.device)

    def look_up(
        self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = (), out: Tensor | None = None
    ) -> Tensor:
        return self(ids, dense, bags)

    def row_gradients(
        self, ids: Tensor, gradient: Tensor, bags: Sequence[TensorBag] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(())


class CustomModel(nn.Module):
    """A user's module, {name: (B,)} → (B, C), with what training needs of a ranker."""

    first = None  # no first stage is under it

    def __init__(self, module: nn.Module, kinds: Sequence[LabelKind]) -> None:
        super().__init__()
        self.module = module
        self.kinds = tuple(kinds)
        self.rows = 0
        self.schema = Schema([SparseFeature(_ROW, embed_dim=1)], tasks_of(self.kinds))
        self.columns = [output_columns(task)[0] for task in self.schema.tasks]
        self.fitted: dict[str, Mapping[str, float]] = {}
        self.embed = RowNumbers()
        self._store: dict[str, Tensor] = {}
        self._shared: list[nn.Parameter] = []

    @property
    def ranker(self) -> CustomModel:
        return self  # is what the engine trains

    @property
    def feature_names(self) -> list[str]:
        return list(self._store)

    @property
    def layout(self) -> Layout:
        tables = {_ROW: Vocabulary("identity", size=max(self.rows, 1))}
        return Layout(self.schema, Vocab(self.schema.features, tables, {}), {_ROW: 1})

    def encode(self, rows: Rows, split: str) -> Table:
        """Return row numbers and labels as a table, and keep the columns for `embed`."""
        labels = rows.labels
        if labels.shape[1] != len(self.kinds):
            raise DataError(
                f"{split}: got {len(self.kinds)} task types for {labels.shape[1]} label columns: "
                "give one per column"
            )
        names = [task.column for task in self.schema.tasks]
        check_labels(pl.DataFrame(dict(zip(names, labels.T, strict=True))), self.schema, split)
        ids = np.arange(self.rows, self.rows + len(rows), dtype=np.int32)[None]
        for name, column in rows.x.items():
            tensor = tensor_of(name, column)
            before = self._store.get(name)
            self._store[name] = tensor if before is None else torch.cat([before, tensor])
        self.rows += len(rows)
        none = {_ROW: 0}
        return Table(
            schema=self.schema, ids=ids, dense=np.empty((len(rows), 0), np.float32),
            labels=labels.astype(np.float32), weight=None, keys=pl.DataFrame(), truth={},
            unseen=none, nulls=none,
        )  # fmt: skip

    def told(self, table: Table) -> Table:
        return table

    def inputs(
        self,
        ids: Tensor,
        dense: Tensor,
        bags: Sequence[TensorBag] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> Inputs:
        return Inputs(self.embed(ids, dense, bags), None)

    def forward(self, x: Tensor, margin: Tensor | None = None) -> Scores:
        predicted = self._predicted(self.embed.current)
        logits = {}
        for task, value in zip(self.schema.tasks, predicted.unbind(1), strict=True):
            if task.label_kind.is_event:
                logit = torch.logit(value, eps=_MARGIN)
            else:
                fitted = self.fitted[task.name]
                logit = (value - fitted["mean"]) / fitted["deviation"]
            logits[task.name] = logit + x[:, 0]
        return Scores(logits, {})

    def prepare(
        self, fitted: Mapping[str, Mapping[str, float]], rates: Mapping[str, float]
    ) -> None:
        """Take over the scales of the targets, and check the predictions of a first batch."""
        self.fitted = dict(fitted)
        training = self.module.training
        self.module.eval()
        predicted = self._predicted(torch.arange(min(self.rows, _PROBED)))
        self.module.train(training)
        for index, (kind, column) in enumerate(zip(self.kinds, predicted.unbind(1), strict=True)):
            if kind.is_event and not ((column >= 0) & (column <= 1)).all():
                raise ConfigError(
                    f"{type(self.module).__name__}: column {index} is a classification and must "
                    f"hold probabilities, got {column[:3].tolist()}: end with a sigmoid"
                )
        parameters = [each for each in self.module.parameters() if each.requires_grad]
        touched = (
            torch.autograd.grad(column.sum(), parameters, retain_graph=True, materialize_grads=True)
            for column in predicted.unbind(1)
        )
        self._shared = [
            parameter
            for parameter, *gradients in zip(parameters, *touched, strict=True)
            if all(bool(gradient.any()) for gradient in gradients)
        ]

    def dense_parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that every column depends on."""
        return self._shared

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        return ()

    def predictions(self, rows: Rows) -> np.ndarray:
        """Return the module's predictions for rows, float64 (N, C)."""
        columns = {name: tensor_of(name, column) for name, column in rows.x.items()}
        self.module.eval()
        with torch.inference_mode():
            parts = [
                self.module({n: c[each].to(self._device) for n, c in columns.items()}).cpu()
                for each in torch.arange(len(rows)).split(CHUNK_ROWS)
            ]
        return torch.cat(parts).double().numpy()

    def bundle(self, *parts: Any) -> Any:
        """Refuse: a bundle rebuilds a network from plain data."""
        raise ConfigError(
            f"{type(self.module).__name__} is your own module, which a bundle cannot rebuild: keep "
            "its state_dict (the .pth file), or write it as a trunk for `polyrank.fit`"
        )

    @property
    def _device(self) -> torch.device:
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def _predicted(self, rows: Tensor) -> Tensor:
        batch = {name: column[rows].to(self._device) for name, column in self._store.items()}
        predicted, expected = self.module(batch), (len(rows), len(self.kinds))
        if not isinstance(predicted, Tensor) or tuple(predicted.shape) != expected:
            found = tuple(getattr(predicted, "shape", ())) or type(predicted).__name__
            raise ConfigError(
                f"{type(self.module).__name__} must return (rows, tasks) = {expected}, got {found}"
            )
        return predicted
