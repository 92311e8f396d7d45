"""Sequence features: a column of lists of ids, pooled to one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import numpy as np
import polars as pl

from polyrank import spec
from polyrank.errors import SchemaError, did_you_mean
from polyrank.features.bags import Bag, Elements, flattened, offsets_of
from polyrank.features.kind import POOLINGS, Beside, Encoded, Feature, Pooling, Slot, Target
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
        pooling: `mean` or `sum` of a list's embeddings, its `last` one alone, or a `Target`, as an
            object or a table {kind = "target", query = …}: a sum weighed by what is ranked. It
            needs `max_length`, has no `weights`, and its ids have no wide rows.
        padding_idx: an integer that only fills lists up to one length and is no id: it is left
            out wherever it stands. None leaves nothing out.
        weights: column of lists with a finite number for each id, such as a count or an age. The
            vector of `sum` is then Σ w·e, that of `mean` Σ w·e ÷ Σ |w| (zeros where all weights are
            0) and that of `last` the last w·e, with the embeddings e. No other feature has it.
        max_length: the longest list: of a longer one the last ids count, which are the most recent
            ones where lists are written in the order of time, and what `padding_idx` leaves out
            does not count. None takes lists of any length.
        wide: as in `SparseFeature`; a weight is the coefficient of an id's effect as it is that of
            its embedding.

    Raises:
        SchemaError: as `SparseFeature`; an unknown pooling, weights that are no column's name, or
            target attention by a feature that is not there or that has no ids.

    Examples:
        >>> SequenceFeature("clicked_items", shared_with="item_id", pooling="sum").table
        'item_id'
        >>> SequenceFeature("brands", weights="visits", max_length=50).columns
        ('brands', 'visits')
    """

    kind: ClassVar[str] = "sequence"
    lists: ClassVar[bool] = True
    expects: ClassVar[str] = f"a list of ids is expected, where {IdFeature.expects}"

    pooling: Pooling | Target = field(
        default="mean", metadata={spec.KINDS: "polyrank.features.kind:POOLINGS"}
    )
    padding_idx: int | None = None
    weights: str | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.pooling, Mapping):
            chosen = spec.choose(POOLINGS, self.pooling, f"feature {self.name!r}: pooling")
            object.__setattr__(self, "pooling", chosen)
        if self.target is not None:
            self._check_target()
        elif self.pooling not in get_args(Pooling):
            hint = did_you_mean(str(self.pooling), get_args(Pooling))
            raise SchemaError(f"feature {self.name!r}: unknown pooling {self.pooling!r}{hint}")
        if self.padding_idx is not None:
            where = f"feature {self.name!r}: padding_idx"
            padding = whole(where, self.padding_idx, least=None, error=SchemaError)
            object.__setattr__(self, "padding_idx", padding)
        if self.max_length is not None:
            where = f"feature {self.name!r}: max_length"
            most = whole(where, self.max_length, error=SchemaError)
            object.__setattr__(self, "max_length", most)
        if self.weights is not None and (not isinstance(self.weights, str) or not self.weights):
            raise SchemaError(
                f"feature {self.name!r}: weights must be the name of a column, got {self.weights!r}"
            )

    def _check_target(self) -> None:
        where = f"feature {self.name!r}: target attention"
        if self.max_length is None:
            raise SchemaError(
                f"{where} reads each place of a list, so it needs max_length: how many of the last "
                "ids of a list count"
            )
        if self.weights is not None:
            raise SchemaError(
                f"{where} weighs the ids itself: leave weights out, or take another pooling"
            )

    @property
    def model_options(self) -> tuple[str, ...]:  # pyrefly: ignore
        """The places of a list are encoded one by one, so target attention is no mere option."""
        return ("embed_dim", "wide") if self.target else ("embed_dim", "pooling", "wide")

    @property
    def target(self) -> Target | None:
        return self.pooling if isinstance(self.pooling, Target) else None

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.name,) if self.weights is None else (self.name, self.weights)

    def column(self, raw: Mapping[str, pl.Series] | pl.DataFrame) -> pl.Series:
        """Return the lists; with weights, a struct of both."""
        if self.weights is None:
            return raw[self.name]
        both = [raw[self.name].alias("ids"), raw[self.weights].alias("weights")]
        return pl.DataFrame(both).to_struct(self.name)

    def check_among(self, features: Mapping[str, Feature]) -> None:
        super().check_among(features)
        if self.target is not None:
            queries = [
                each.name
                for each in features.values()
                if each.slots and each.slots[0].place == "ids" and not each.numeric
            ]
            if self.target.query not in queries:
                hint = did_you_mean(self.target.query, queries)
                raise SchemaError(
                    f"feature {self.name!r}: the query {self.target.query!r} of its pooling is no "
                    f"sparse feature{hint}: declare one, such as the id of the item that is ranked"
                )
            if features[self.target.query].own_tower is not None:
                raise SchemaError(
                    f"feature {self.name!r}: the query {self.target.query!r} of its pooling has a "
                    "tower of its own, which alone reads it: leave one of the two out"
                )
        if self.weights is None:
            return
        for other in features.values():
            if other.name == self.weights:
                raise SchemaError(
                    f"feature {self.name!r}: its weights {self.weights!r} are a feature too: "
                    "rename a copy of the column"
                )
            if other.name != self.name and self.weights in other.columns:
                raise SchemaError(
                    f"features {self.name!r} and {other.name!r} have the weights {self.weights!r}: "
                    "rename a copy of the column"
                )

    @property
    def slots(self) -> tuple[Slot, ...]:
        if isinstance(self.pooling, Target):
            return tuple(
                Slot(
                    name=f"{self.name}#{place}" if place else self.name, place="bags",
                    table=self.table, pooling="sum", unseen=True, wide=False,
                )
                for place in range(self.max_length or 0)
            )  # fmt: skip
        slot = Slot(
            name=self.name, place="bags", table=self.table, pooling=self.pooling,
            weighted=self.weights is not None, unseen=True, wide=self.wide,
        )  # fmt: skip
        return (slot,)

    def values(self, column: pl.Series) -> Elements:
        if self.weights is None:
            return flattened(column, self.padding_idx, most=self.max_length)
        ids = column.struct.field("ids").alias(self.name)
        weights = column.struct.field("weights").alias(self.weights)
        return flattened(ids, self.padding_idx, weights=weights, most=self.max_length)

    def codec(self, tables: Mapping[str, Vocabulary], state: None) -> SequenceCodec:
        return SequenceCodec(self, tables[self.table])


class SequenceCodec(IdCodec):
    """Lists of ids."""

    def place(self, values: Bag) -> Mapping[str, np.ndarray | Bag]:
        if self.feature.target is None:
            return super().place(values)
        return {slot.name: values.at(place) for place, slot in enumerate(self.feature.slots)}

    @property
    def beside(self) -> Mapping[str, Beside]:
        if self.feature.weights is None:
            return {}
        json = {"type": ["array", "null"], "items": {"type": "number"}}
        return {self.feature.weights: Beside(json, [1.0], {"type": "float32", "padding": 0})}

    def read_values(self, values: Sequence[Any]) -> Encoded | None:
        feature = self.feature
        if feature.padding_idx is not None or feature.weights is not None:
            return None
        if not set(map(type, values)) <= {list, NoneType}:
            return None
        if feature.max_length is not None:
            values = [each and each[-feature.max_length :] for each in values]
        found = self.vocabulary.encode_values([each for some in values if some for each in some])
        if found is None:
            return None
        rows, unseen, nulls = found
        lengths = np.array([len(each) if each else 0 for each in values], dtype=np.int64)
        absent = sum(each is None for each in values)
        bag = Bag(rows.astype(np.int32), offsets_of(lengths))
        return Encoded(bag, len(rows) - nulls, unseen, nulls + absent)
