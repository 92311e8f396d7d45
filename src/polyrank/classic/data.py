"""Rows as a dict of arrays with a matrix of labels, and the loaders that hand them out.

Letters: N rows, B rows of a batch, C label columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from polyrank import spec
from polyrank.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Rows:
    """Columns of one length, (N,) or for padded lists (N, length), and their labels.

    `y` is (N, C) or (N,), and None for rows to predict; `batch` are the rows of the loader's first
    batch, if they came from one.
    """

    x: Mapping[str, np.ndarray]
    y: np.ndarray | None
    batch: int | None = None

    def __post_init__(self) -> None:
        if not self.x:
            raise DataError("x has no columns: give a dict of arrays, {name: array}")
        lengths = {name: len(column) for name, column in self.x.items()}
        lengths |= {} if self.y is None else {"the labels": len(self.y)}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
            raise DataError(f"x and y have columns of different lengths: {shown}")

    @classmethod
    def of(cls, x: Any, y: Any = None) -> Rows:
        """Return rows from a dict (or a frame) of array-likes."""
        if not hasattr(x, "items"):
            raise DataError(f"x must be a dict of arrays, {{name: array}}, got {type(x).__name__}")
        columns = {str(name): np.asarray(column) for name, column in x.items()}
        return cls(columns, None if y is None else np.asarray(y))

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))

    def __getitem__(self, index: Any) -> Any:
        x = {name: column[index] for name, column in self.x.items()}
        return x if self.y is None else (x, self.y[index])

    def take(self, index: np.ndarray) -> Rows:
        found = self[index]
        return Rows(found, None) if self.y is None else Rows(*found)

    @property
    def labels(self) -> np.ndarray:
        """Labels as float64 (N, C)."""
        if self.y is None:
            raise DataError("these rows have no labels: give the loader y as well")
        try:
            labels = np.asarray(self.y, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"labels must be numbers: {error}") from None
        return labels.reshape(len(labels), -1)


class Loader:
    """Rows in batches, the last of which may be short, cut from whole columns without any process.

    `shuffle` draws a new order from torch's generator at each iteration; `MTLTrainer.fit` shuffles
    by its own seed.
    """

    def __init__(self, dataset: Rows, batch_size: int, *, shuffle: bool = False) -> None:
        self.dataset, self.shuffle = dataset, shuffle
        self.batch_size = spec.whole("batch_size", batch_size)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        columns = {name: tensor_of(name, column) for name, column in self.dataset.x.items()}
        labels = None if self.dataset.y is None else tensor_of("y", self.dataset.y)
        rows = len(self.dataset)
        order = torch.randperm(rows) if self.shuffle else torch.arange(rows)
        for each in order.split(self.batch_size):
            x = {name: column[each] for name, column in columns.items()}
            yield x if labels is None else (x, labels[each])


class DataGenerator:
    """Makes the three loaders of a data set.

    Args:
        x: {name: array (N,)} of the training rows, or of all rows if `split_ratio` splits them.
        y: labels (N, C).

    Examples:
        >>> generator = DataGenerator({"item": np.arange(10)}, np.zeros((10, 2)))
        >>> loaders = generator.generate_dataloader(split_ratio=[0.7, 0.1], batch_size=4)
        >>> [len(loader.dataset) for loader in loaders]
        [7, 1, 2]
    """

    def __init__(self, x: Any, y: Any) -> None:
        self.dataset = Rows.of(x, y)
        self.length = len(self.dataset)

    def generate_dataloader(
        self,
        x_val: Any = None,
        y_val: Any = None,
        x_test: Any = None,
        y_test: Any = None,
        split_ratio: Sequence[float] | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> tuple[Loader, Loader | None, Loader | None]:
        """Return the loaders of training, validation and test rows; None for a split without rows.

        Args:
            x_val: columns of the validation rows.
            y_val: their labels.
            x_test: columns of the test rows.
            y_test: their labels.
            split_ratio: shares of training and validation rows; the rest are test rows. The rows
                are drawn by torch's generator.
            batch_size: rows of a batch.
            num_workers: accepted and not needed: batches are cut from whole columns.
        """
        if split_ratio is None:
            given = ((x_val, y_val), (x_test, y_test))
            train = self.dataset
            valid, test = (None if x is None else Rows.of(x, y) for x, y in given)
        else:
            train, valid, test = self._split(split_ratio)
        others = [None if each is None else Loader(each, batch_size) for each in (valid, test)]
        return Loader(train, batch_size, shuffle=True), others[0], others[1]

    def _split(self, ratio: Sequence[float]) -> tuple[Rows, Rows | None, Rows | None]:
        if len(ratio) < 2 or min(ratio) < 0 or sum(ratio) > 1 + 1e-9 or not ratio[0] > 0:
            raise ConfigError(
                "split_ratio must be the shares of training and validation rows, together at most "
                f"1, got {list(ratio)}"
            )
        order = torch.randperm(self.length).numpy()
        first, second = int(self.length * ratio[0]), int(self.length * ratio[1])
        parts = np.split(order, [first, first + second])
        train, valid, test = (self.dataset.take(part) if len(part) else None for part in parts)
        if train is None:
            raise ConfigError(
                f"split_ratio {list(ratio)} of {self.length} rows leaves none to train"
            )
        return train, valid, test


def rows_of(loader: Iterable[Any]) -> Rows:
    """Return all rows of a loader: ours without iterating, any other by one pass over it."""
    if isinstance(loader, Loader):
        return loader.dataset
    columns: dict[str, list[np.ndarray]] = {}
    labels: list[np.ndarray] = []
    for batch in loader:
        pair = isinstance(batch, list | tuple) and len(batch) == 2
        x = batch[0] if pair else batch
        if not isinstance(x, Mapping):
            raise DataError(
                "a loader must yield (dict of tensors, labels) or a dict of tensors, got "
                f"{type(batch).__name__}"
            )
        for name, column in x.items():
            columns.setdefault(name, []).append(np.asarray(column))
        if pair:
            labels.append(np.asarray(batch[1]))
    for name, parts in columns.items():
        if len(shapes := {part.shape[1:] for part in parts}) > 1:
            raise DataError(
                f"column {name!r} has batches of different lengths {sorted(shapes)}: pad the lists "
                "of all batches to one length"
            )
    first = len(next(iter(columns.values()))[0]) if columns else None
    x = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Rows(x, np.concatenate(labels) if labels else None, first)


def batch_size_of(loader: Any, rows: Rows) -> int:
    """Return the batch size that a loader declares, or the length of its first batch."""
    return min(int(getattr(loader, "batch_size", None) or rows.batch or len(rows)), len(rows))


def tensor_of(name: str, column: np.ndarray) -> Tensor:
    """Return a column as a tensor of its own type."""
    if column.dtype.kind not in "biuf":
        raise DataError(
            f"column {name!r} holds {column.dtype}, and the classic API takes numbers only: encode "
            "it (LabelEncoder), or use `polyrank.fit`, which takes ids of any type"
        )
    wide = np.int64 if column.dtype.kind == "u" and column.dtype.itemsize > 1 else None
    return torch.from_numpy(np.array(column, dtype=wide))


def df_to_dict(data: Any) -> dict[str, np.ndarray]:
    """Return the columns of a pandas or polars frame as arrays by name.

    Examples:
        >>> import polars as pl
        >>> df_to_dict(pl.DataFrame({"item": [1, 2]}))
        {'item': array([1, 2])}
    """
    return {str(name): np.array(data[name].to_list()) for name in data.columns}


def pad_sequences(
    sequences: Sequence[Sequence[Any]],
    maxlen: int | None = None,
    dtype: str = "int32",
    padding: Literal["pre", "post"] = "pre",
    truncating: Literal["pre", "post"] = "pre",
    value: float = 0.0,
) -> np.ndarray:
    """Return lists of different lengths as one array (lists, maxlen).

    Args:
        sequences: the lists.
        maxlen: columns; None takes the longest list's length.
        dtype: of the array.
        padding: the end at which a short list is filled.
        truncating: the end at which a long list is cut.
        value: fills short lists.

    Raises:
        DataError: an end other than "pre" and "post".

    Examples:
        >>> pad_sequences([[1], [2, 3, 4]], maxlen=2)
        array([[0, 1],
               [3, 4]], dtype=int32)
    """
    for name, side in (("padding", padding), ("truncating", truncating)):
        if side not in ("pre", "post"):
            raise DataError(f"{name} must be 'pre' or 'post', got {side!r}")
    width = max((len(each) for each in sequences), default=0) if maxlen is None else maxlen
    out = np.full((len(sequences), width), value, dtype=dtype)
    for row, each in zip(out, sequences, strict=True):
        kept = list(each)
        kept = kept[max(len(kept) - width, 0) :] if truncating == "pre" else kept[:width]
        row[slice(width - len(kept), None) if padding == "pre" else slice(len(kept))] = kept
    return out
