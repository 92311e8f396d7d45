"""Where each slot of a feature lies: its row of ids, its place in a pack, its slice of x."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from polyrank.errors import DataError
from polyrank.features import Slot
from polyrank.schema import Schema

PACK_ROWS = 2**31 - 1


class VocabularySizes(Protocol):
    """What a Layout needs to know of a fitted vocabulary."""

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows of each embedding table."""
        ...

    @property
    def columns(self) -> Mapping[str, int]:
        """Float columns of each slot of `dense`."""
        ...


@dataclass(frozen=True)
class Pack:
    """Tables of one width, laid one after the other in one matrix of (rows, width).

    Args:
        width: columns of each table.
        rows: of all its tables.
        offsets: first row of each table.
        fields: the rows of `ids` that are looked up in it.
        bags: the bags that are, by their place in `schema.bags`.
    """

    width: int
    rows: int
    offsets: Mapping[str, int]
    fields: tuple[int, ...]
    bags: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where each slot of a feature lies: its row of `ids`, its place in a pack, its slice of x.

    x is the packs one after the other, each with its fields in schema order and then its pooled
    bags in theirs, then the dense columns.

    Args:
        schema: the features.
        vocab: rows of each table and columns of each slot of `dense`.
        widths: embedding width of each table.

    Raises:
        DataError: a pack of more than 2^31 − 1 rows.

    Example:
        >>> from types import SimpleNamespace
        >>> from polyrank.schema import DenseFeature, SparseFeature, Task
        >>> features = [SparseFeature("a"), SparseFeature("b"), DenseFeature("p", encoding="log")]
        >>> schema = Schema(features, [Task("click")])
        >>> layout = Layout(schema, SimpleNamespace(rows={"a": 3, "b": 5}, columns={"p": 2}),
        ...                 {"a": 4, "b": 4})
        >>> layout.width, layout.slices["b"], layout.slices["p"], layout.offsets.tolist()
        (10, slice(4, 8, None), slice(8, 10, None), [0, 3])
    """

    schema: Schema
    vocab: VocabularySizes
    widths: Mapping[str, int]

    def __post_init__(self) -> None:
        for pack in self.packs:
            if pack.rows > PACK_ROWS:
                raise DataError(
                    f"the tables of width {pack.width} hold {pack.rows:,} rows together, and ids "
                    f"address at most {PACK_ROWS:,}: raise min_count, or give some of "
                    f"{', '.join(map(repr, pack.offsets))} another embed_dim"
                )

    @cached_property
    def packs(self) -> tuple[Pack, ...]:
        """One pack a width, in order of first use."""
        tables: dict[int, dict[str, int]] = {}
        fields: dict[int, list[int]] = {}
        rows: dict[int, int] = {}
        for index, slot in enumerate(self.schema.lookups):
            width = self.widths[slot.table]
            offsets = tables.setdefault(width, {})
            fields.setdefault(width, []).append(index)
            if slot.table not in offsets:
                offsets[slot.table] = rows.get(width, 0)
                rows[width] = rows.get(width, 0) + self.vocab.rows[slot.table]
        count = len(self.schema.fields)
        return tuple(
            Pack(
                width,
                rows[width],
                tables[width],
                tuple(index for index in fields[width] if index < count),
                tuple(index - count for index in fields[width] if index >= count),
            )
            for width in tables
        )

    @cached_property
    def offsets(self) -> np.ndarray:
        """First row of each field's table in its pack: int64[F]."""
        return self._first_rows(self.schema.fields)

    @cached_property
    def bag_offsets(self) -> np.ndarray:
        """First row of each bag's table in its pack: int64[S]."""
        return self._first_rows(self.schema.bags)

    @cached_property
    def slices(self) -> Mapping[str, slice]:
        """Columns of x that hold each slot, by its name: the feature's for its first."""
        start, slices = 0, {}
        for name, width in self._widths_in_order():
            slices[name] = slice(start, start + width)
            start += width
        return slices

    @cached_property
    def width(self) -> int:
        """Number of columns of x."""
        return sum(width for _, width in self._widths_in_order())

    def _first_rows(self, slots: Sequence[Slot]) -> np.ndarray:
        first = {table: row for pack in self.packs for table, row in pack.offsets.items()}
        return np.array([first[slot.table] for slot in slots], dtype=np.int64)

    def _widths_in_order(self) -> Iterator[tuple[str, int]]:
        for pack in self.packs:
            for index in pack.fields:
                yield self.schema.fields[index].name, pack.width
            for index in pack.bags:
                yield self.schema.bags[index].name, pack.width
        for slot in self.schema.dense:
            yield slot.name, self.vocab.columns[slot.name]
