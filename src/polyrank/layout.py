"""Where each slot of a feature lies: its row of ids, its place in a pack, its slice of x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from polyrank.errors import DataError
from polyrank.features import Slot
from polyrank.schema import Schema

if TYPE_CHECKING:
    from polyrank.ranks import Ranks

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
class Held:
    """Which rows of a matrix a process holds: those whose number, modulo `count`, is its `rank`.

    Row r is the (r // count)-th of what its process holds.

    Args:
        rank: of the process.
        count: of the processes.
        ranks: by which rows that others hold are fetched; None where nothing is looked up.

    Examples:
        >>> Held(1, 3).rows(8), Held(1, 3).of(np.arange(8)).tolist()
        (3, [1, 4, 7])
        >>> Held(1, 3).first(np.array([0, 2, 8])).tolist()  # of what follows rows 0, 2 and 8
        [0, 1, 3]
    """

    rank: int = 0
    count: int = 1
    ranks: Ranks | None = None

    def rows(self, total: int) -> int:
        """Return how many of so many rows it holds."""
        return len(range(self.rank, total, self.count))

    def first(self, numbers: np.ndarray) -> np.ndarray:
        """Return how many rows it holds before each of some rows: int64, of the same shape."""
        return (numbers - self.rank + self.count - 1) // self.count

    def of(self, whole: np.ndarray) -> np.ndarray:
        """Return its rows of a whole matrix: a view."""
        return whole[self.rank :: self.count]


WHOLE = Held()


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
    bags in theirs, then the dense columns, then what first stages give to be read.

    Args:
        schema: the features.
        vocab: rows of each table and columns of each slot of `dense`.
        widths: embedding width of each table.
        reads: columns that each first stage gives to be read; its slice is called `#NAME`.
        apart: those of them that speak of a feature with a tower of its own: no trunk reads them.
        held: which rows of the packs, and of what first stages have of each id, this process holds.
        sets: of embeddings that each table holds side by side, all of one width.

    Raises:
        DataError: a pack of more than 2^31 − 1 rows.

    Examples:
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
    reads: Mapping[str, int] = field(default_factory=dict)
    held: Held = WHOLE
    sets: int = 1
    apart: Mapping[str, Sequence[int]] = field(default_factory=dict)

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
        """One pack per width, in order of first use."""
        slots, count = self.schema.lookups, len(self.schema.fields)
        by_width: dict[int, list[int]] = {}
        for index, slot in enumerate(slots):
            by_width.setdefault(self.widths[slot.table], []).append(index)
        packs = []
        for width, members in by_width.items():
            tables = dict.fromkeys(slots[index].table for index in members)
            ends = list(accumulate(self.vocab.rows[table] for table in tables))
            offsets = dict(zip(tables, [0, *ends], strict=False))
            fields = tuple(index for index in members if index < count)
            bags = tuple(index - count for index in members if index >= count)
            packs.append(Pack(width, ends[-1], offsets, fields, bags))
        return tuple(packs)

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
        schema = self.schema
        widths = []
        for pack in self.packs:
            widths += [(schema.fields[index].name, pack.width) for index in pack.fields]
            widths += [(schema.bags[index].name, pack.width) for index in pack.bags]
        widths += [(slot.name, self.vocab.columns[slot.name]) for slot in schema.dense]
        widths += [(f"#{name}", columns) for name, columns in self.reads.items()]
        ends = accumulate(width for _, width in widths)
        return {
            name: slice(end - width, end) for (name, width), end in zip(widths, ends, strict=True)
        }

    @property
    def read(self) -> Layout:
        """Where each slot lies in what the trunk reads.

        An attended list is one vector there, and what has a tower of its own is left out.
        """
        attended = any(feature.target is not None for feature in self.schema.features)
        if not attended and not self.schema.own_towers:
            return self
        return ReadLayout(*self._parts)

    @property
    def own_towers(self) -> Mapping[str, tuple[slice, ...]]:
        """The columns of x, by slot, of each feature that has a tower of its own."""
        return {
            feature.name: tuple(self.slices[slot.name] for slot in feature.slots)
            for feature in self.schema.features
            if feature.name in self.schema.own_towers
        }

    def of_set(self, number: int) -> list[slice]:
        """Return the columns of x of one set: its part of each embedding, and what is in no table.

        Examples:
            >>> from types import SimpleNamespace
            >>> from polyrank.schema import DenseFeature, SparseFeature, Task
            >>> schema = Schema([SparseFeature("a"), DenseFeature("p", encoding="log")],
            ...                 [Task("click")])
            >>> layout = Layout(schema, SimpleNamespace(rows={"a": 3}, columns={"p": 1}), {"a": 4},
            ...                 sets=2)
            >>> layout.of_set(1)
            [slice(2, 4, None), slice(4, 5, None)]
        """
        looked_up = {slot.name for slot in self.schema.lookups}
        found = []
        for name, columns in self.slices.items():
            width = columns.stop - columns.start
            part = width // self.sets
            start = columns.start + number * part
            found.append(slice(start, start + part) if name in looked_up else columns)
        return found

    @cached_property
    def width(self) -> int:
        """Number of columns of x."""
        return max((each.stop for each in self.slices.values()), default=0)

    @cached_property
    def own_width(self) -> int:
        """Number of columns of x that features fill; what first stages give comes after them."""
        return self.width - sum(self.reads.values())

    @property
    def _parts(self) -> tuple[Any, ...]:
        return tuple(getattr(self, each.name) for each in fields(self))

    def _first_rows(self, slots: Sequence[Slot]) -> np.ndarray:
        first = {table: row for pack in self.packs for table, row in pack.offsets.items()}
        return np.array([first[slot.table] for slot in slots], dtype=np.int64)


@dataclass(frozen=True)
class ReadLayout(Layout):
    """Where each slot lies behind target attention, without what has a tower of its own."""

    @cached_property
    def slices(self) -> Mapping[str, slice]:
        """Columns of what the trunk reads that hold each slot, by its name."""
        raw = Layout(*self._parts).slices
        left_out: set[str] = set()
        for each in self.schema.features:
            if each.name in self.schema.own_towers:
                left_out |= {slot.name for slot in each.slots}
            elif each.target is not None:
                left_out |= {slot.name for slot in each.slots[1:]}  # the places of a list
        widths = {name: at.stop - at.start for name, at in raw.items() if name not in left_out}
        for stage, columns in self.apart.items():
            widths[f"#{stage}"] -= len(columns)
        ends = accumulate(widths.values())
        return {
            name: slice(end - width, end)
            for (name, width), end in zip(widths.items(), ends, strict=True)
        }
