"""Sequence features: a column of lists of ids, pooled to one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np
import polars as pl

from polyrank.errors import SchemaError, did_you_mean
from polyrank.features.bags import Bag, Elements, flattened, offsets_of
from polyrank.features.kind import Encoded, Pooling, Slot
from polyrank.features.sparse import IdCodec, IdFeature
from polyrank.features.vocabulary import NoneType, Vocabulary
from polyrank.spec import whole


@dataclass(frozen=True)
class SequenceFeature(IdFeature):
    """A column of lists of ids, whose learned embeddings are pooled to one vector.

    An empty list and a null one give a vector of zeros, whatever the pooling. A null inside a
    list is an id like any other.

    Args:
        name: column of lists, or a 2-D array; ids as in `SparseFeature`.
        vocab_size: as in `SparseFeature`.
        embed_dim: as in `SparseFeature`.
        min_count: as in `SparseFeature`; every place in every list counts.
        shared_with: as in `SparseFeature`; a history of items shares the item's table.
        hash: as in `SparseFeature`.
        pooling: `mean` or `sum` of a list's embeddings, or its `last` one alone.
        padding_idx: an integer that only fills lists up to one length and is no id: it is left
            out wherever it stands. None leaves nothing out.
        wide: as in `SparseFeature`.

    Raises:
        SchemaError: as `SparseFeature`; an unknown pooling.

    Example:
        >>> SequenceFeature("clicked_items", shared_with="item_id", pooling="sum").table
        'item_id'
    """

    kind: ClassVar[str] = "sequence"
    lists: ClassVar[bool] = True
    expects: ClassVar[str] = f"a list of ids is expected, where {IdFeature.expects}"
    model_options: ClassVar[tuple[str, ...]] = ("embed_dim", "pooling", "wide")

    pooling: Pooling = "mean"
    padding_idx: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in get_args(Pooling):
            hint = did_you_mean(str(self.pooling), get_args(Pooling))
            raise SchemaError(f"feature {self.name!r}: unknown pooling {self.pooling!r}{hint}")
        if self.padding_idx is not None:
            where = f"feature {self.name!r}: padding_idx"
            padding = whole(where, self.padding_idx, least=None, error=SchemaError)
            object.__setattr__(self, "padding_idx", padding)

    @property
    def slots(self) -> tuple[Slot, ...]:
        slot = Slot(
            name=self.name, place="bags", table=self.table, pooling=self.pooling, unseen=True,
            wide=self.wide,
        )  # fmt: skip
        return (slot,)

    def values(self, column: pl.Series) -> Elements:
        return flattened(column, self.padding_idx)

    def codec(self, tables: Mapping[str, Vocabulary], state: None) -> SequenceCodec:
        return SequenceCodec(self, tables[self.table])


class SequenceCodec(IdCodec):
    """Lists of ids."""

    def read_values(self, values: Sequence[Any]) -> Encoded | None:
        if self.feature.padding_idx is not None or not set(map(type, values)) <= {list, NoneType}:
            return None
        found = self.vocabulary.encode_values([each for some in values if some for each in some])
        if found is None:
            return None
        rows, unseen, nulls = found
        lengths = np.array([len(each) if each else 0 for each in values], dtype=np.int64)
        absent = sum(each is None for each in values)
        bag = Bag(rows.astype(np.int32), offsets_of(lengths))
        return Encoded(bag, len(rows) - nulls, unseen, nulls + absent)
