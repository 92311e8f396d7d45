"""A user's own module, from a dict of tensors to (rows, tasks) probabilities, as a ranker.

The engine's batches carry row numbers instead of ids; the columns stay as the user gave them. Here
alone a loss sees probabilities: they are turned into the logits that the engine expects.

Letters: N rows, B rows of a batch, C label columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from polyrank.layout import Layout
from polyrank.models.outputs import CHUNK_ROWS
from polyrank.models.ranker import Scores
from polyrank.models.trunk import Mixing
from polyrank.nn.embed import TensorBag
from polyrank.objective.likelihood import likelihoods
from polyrank.schema import Schema, SparseFeature
from polyrank.terms import output_columns

_NEAREST = 1e-7  # to 0 and to 1, as near as float32 tells apart from 1
_ROW = "row number"
_PROBED = 64  # rows of the first look


class RowNumbers(nn.Module):
    """An embedder without tables, which takes note of the rows of a batch.

    Shape:
        - ids: (1, B), dense: (B, 0)
        - output: x (B, 1), zeros
    """

    def __init__(self) -> None:
        super().__init__()
        self.pack = nn.ParameterList()
        self.current: Tensor = torch.empty(0, dtype=torch.long)

    def forward(self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = ()) -> Tensor:
        """Return zeros: what a batch is, `current` says."""
        self.current = ids[0].cpu().long()
        return torch.zeros(len(dense), 1, device=dense.device)

    def look_up(
        self, ids: Tensor, dense: Tensor, bags: Sequence[TensorBag] = (), out: Tensor | None = None
    ) -> Tensor:
        """Return the same."""
        return self(ids, dense, bags)

    def row_gradients(
        self, ids: Tensor, gradient: Tensor, bags: Sequence[TensorBag] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield nothing: there are no tables."""
        return iter(())


@dataclass(frozen=True)
class _Spec:
    name: str

    def to_table(self) -> dict[str, Any]:
        return {"class": self.name}


class OwnModel(nn.Module):
    """A module of the user's with what training needs to know of it.

    Args:
        module: {name: (B,)} → (B, C).
        kinds: of each label column.

    Shape:
        - forward: x (B, 1) → Scores
    """

    def __init__(self, module: nn.Module, kinds: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.kinds = tuple(kinds)
        self.rows = 0
        feature = SparseFeature(_ROW, embed_dim=1)
        self.schema = Schema([feature], tasks_of(self.kinds))
        self.columns = [output_columns(task)[0] for task in self.schema.tasks]
        self.fitted: dict[str, Mapping[str, float]] = {}
        self.embed = RowNumbers()
        self._store: dict[str, Tensor] = {}
        self._shared: list[nn.Parameter] | None = None

    @property
    def spec(self) -> Any:
        """Its class's name, as a spec."""
        return _Spec(type(self.module).__qualname__)

    @property
    def ranker(self) -> OwnModel:
        """What the engine trains: this."""
        return self

    @property
    def feature_names(self) -> list[str]:
        """The columns of x: any may be read."""
        return list(self._store)

    @property
    def layout(self) -> Layout:
        """One feature, the row number."""
        vocab = Vocab(
            self.schema.features, {_ROW: Vocabulary("identity", size=max(self.rows, 1))}, {}
        )
        return Layout(self.schema, vocab, {_ROW: 1})

    def encode(self, rows: Rows, split: str) -> Table:
        """Return row numbers and labels as a table, and keep the columns for `embed`.

        Raises:
            DataError: labels that cannot be.
        """
        labels = rows.labels
        if labels.shape[1] != len(self.kinds):
            raise DataError(
                f"{split}: {len(self.kinds)} task types are given, and the labels have "
                f"{labels.shape[1]} columns: give one a column"
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

    def forward(self, x: Tensor) -> Scores:
        """Return the logits of the rows that `embed` was given."""
        predicted = self._checked(self.module(self._batch(self.embed.current)), len(x))
        logits = {}
        for index, task in enumerate(self.schema.tasks):
            value = predicted[:, index]
            if task.label_kind.is_event:
                logit = torch.logit(value, eps=_NEAREST)
            else:
                fitted = self.fitted[task.name]
                logit = (value - fitted["mean"]) / fitted["deviation"]
            logits[task.name] = logit + x[:, 0]
        return Scores(logits, {})

    def prepare(
        self, fitted: Mapping[str, Mapping[str, float]], rates: Mapping[str, float]
    ) -> None:
        """Take over the scales of the targets, and look at a first batch.

        Raises:
            ConfigError: predictions of another shape, or probabilities outside [0, 1].
        """
        self.fitted = dict(fitted)
        training = self.module.training
        self.module.eval()
        predicted = self._checked(
            self.module(self._batch(torch.arange(min(self.rows, _PROBED)))), None
        )
        self.module.train(training)
        for index, kind in enumerate(self.kinds):
            column = predicted[:, index]
            if kind == "binary" and not ((column >= 0) & (column <= 1)).all():
                raise ConfigError(
                    f"{type(self.module).__name__}: column {index} is a classification, and its "
                    f"values are no probabilities, however: {column[:3].tolist()}; end with a "
                    "sigmoid"
                )
        parameters = [each for each in self.module.parameters() if each.requires_grad]
        touched = [
            torch.autograd.grad(
                predicted[:, index].sum(), parameters, retain_graph=True, allow_unused=True
            )
            for index in range(len(self.kinds))
        ]
        self._shared = [
            parameter
            for parameter, *gradients in zip(parameters, *touched, strict=True)
            # zero, not None, where columns are only put side by side
            if all(gradient is not None and bool(gradient.any()) for gradient in gradients)
        ]

    def dense_parameters(self) -> list[nn.Parameter]:
        """Return the module's parameters, embeddings included."""
        return list(self.module.parameters())

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that every column depends on."""
        return self._shared or []

    def mixing(self, x: Tensor) -> tuple[Mixing, ...]:
        """Return nothing: what a user's module mixes is not known."""
        return ()

    def predictions(self, rows: Rows) -> np.ndarray:
        """Return what the module says of rows, float64 (N, C)."""
        columns = {name: tensor_of(name, column) for name, column in rows.x.items()}
        self.module.eval()
        with torch.inference_mode():
            parts = [
                self.module({n: c[each].to(self._device) for n, c in columns.items()}).cpu()
                for each in torch.arange(len(rows)).split(CHUNK_ROWS)
            ]
        return torch.cat(parts).double().numpy()

    def of_logits(self, logits: Mapping[str, Tensor]) -> np.ndarray:
        """Return the predictions that logits mean, float64 (N, C)."""
        found = likelihoods(self.schema, self.fitted)
        columns = [found[name].predict(z.double(), {})[0] for name, z in logits.items()]
        return torch.stack(columns, dim=1).numpy()

    def bundle(self, *parts: Any) -> Any:
        """Refuse: a bundle rebuilds a network from plain data.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{type(self.module).__name__} is a module of yours, which no bundle can rebuild: keep "
            "its state_dict (the .pth file), or write it as a Trunk for the native door"
        )

    @property
    def _device(self) -> torch.device:
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def _batch(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: column[rows].to(self._device) for name, column in self._store.items()}

    def _checked(self, predicted: Any, rows: int | None) -> Tensor:
        expected = (rows if rows is not None else len(predicted), len(self.kinds))
        if not isinstance(predicted, Tensor) or tuple(predicted.shape) != expected:
            found = tuple(getattr(predicted, "shape", ())) or type(predicted).__name__
            raise ConfigError(
                f"{type(self.module).__name__} gives {found}, and (rows, tasks) = {expected} is "
                "expected"
            )
        return predicted
