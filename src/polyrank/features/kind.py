"""What a kind of feature is: its spec, what it learns of training rows, and how it encodes.

A `Feature` is declared. On the training rows it becomes a `Codec`, which turns a column of a file,
or the few plain values of a request, into what the exported graph takes (`read`), and that into
the parts of x (`place`). Everything else in polyrank loops over features and their slots. No torch
here: a kind names its module of the exported graph as a string.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl

from polyrank.errors import DataError, SchemaError
from polyrank.features.bags import Bag
from polyrank.spec import whole

if TYPE_CHECKING:
    from polyrank.features.vocabulary import Vocabulary

Pooling = Literal["mean", "sum", "last"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Pooling of a list by what is ranked: Σ_j a(e_j, q) · e_j, as in a deep interest network.

    a is a small network of an embedding e_j of the list, the embedding q of the query, and e_j ⊙ q.
    It is learned; see docs/nouns/feature.md.

    Args:
        query: the sparse feature whose embedding q is, such as the item's id; as wide as the list's
            own, which is best met by one table for both.
        hidden: columns of each layer of a.

    Raises:
        SchemaError: a query that is no name, or layers that are no whole numbers of at least 1.

    Examples:
        >>> Target(query="item_id").hidden
        (36,)

    Reference:
        Zhou et al., KDD 2018, "Deep Interest Network", eq. 3.
    """

    query: str
    hidden: Sequence[int] = (36,)

    def __post_init__(self) -> None:
        if not isinstance(self.query, str) or not self.query:
            raise SchemaError(f"query must be the name of a feature, got {self.query!r}")
        if not isinstance(self.hidden, list | tuple):
            raise SchemaError(f"hidden must be a list of widths, got {self.hidden!r}")
        sizes = tuple(whole("hidden", each, error=SchemaError) for each in self.hidden)
        object.__setattr__(self, "hidden", sizes)


POOLINGS: Mapping[str, type[Target]] = {"target": Target}  # those with options, by kind


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A part of x that a feature fills.

    Args:
        name: the feature's name for its first slot, `NAME#suffix` for others.
        place: a row of a batch's `ids`, one of its `bags`, or columns of its `dense`.
        table: of the embeddings that ids or a bag are looked up in.
        pooling: of a bag.
        unseen: whether row 0 of the table is for unseen ids or values, so that id dropout trains
            it.
        weighted: of a bag: whether its ids have weights.
        wide: whether its ids may have wide rows; of bags and ids only.
        ordered: of ids: whether the rows after row 0 are in the order of a number, so that the
            effects of neighbours are alike.
    """

    name: str
    place: Literal["ids", "bags", "dense"]
    table: str = ""
    pooling: Pooling = "mean"
    weighted: bool = False
    unseen: bool = False
    wide: bool = True
    ordered: bool = False


def check_wide(name: str, wide: object) -> None:
    """Refuse a `wide` of a feature that is no boolean."""
    if not isinstance(wide, bool):
        raise SchemaError(f"feature {name!r}: wide must be true or false, got {wide!r}")


def checked_tower(name: str, tower: object) -> tuple[int, ...] | None:
    """Return the layers of a feature's own tower; refuse what is no list of widths."""
    if tower is None:
        return None
    if not isinstance(tower, list | tuple):
        raise SchemaError(
            f"feature {name!r}: tower must be a list of layer widths, which may be empty, got "
            f"{tower!r}"
        )
    where = f"feature {name!r}: a layer of its tower"
    return tuple(whole(where, each, error=SchemaError) for each in tower)


class Encoded(NamedTuple):
    """A column as the exported graph takes it, and what is counted of it.

    Args:
        values: int32 or int64 rows of a table (N,), a Bag of N lists of them, float32 (N,), or
            float32 (N, D) of vectors.
        ids: that were looked up and are not null.
        unseen: how many of these are in no vocabulary.
        nulls: missing values.
    """

    values: np.ndarray | Bag
    ids: int
    unseen: int
    nulls: int


@dataclass(frozen=True)
class Feature(ABC):
    """A column of the log that the model reads; what its kind does is in its methods.

    Another package adds a kind by `polyrank.registry.register("feature", kind, cls)`.

    Attributes:
        kind: its name in files.
        graph: "module:class" of its `polyrank.serve.export.features.FeatureGraph`; None cannot be
            exported.
        state: the frozen dataclass of plain values that `fit` returns, which a bundle keeps.
        numeric: its column holds numbers, which the exported graph takes raw; any other is text
            where it comes from a CSV file.
        lists: its column holds lists, so that it comes from no CSV file and is no key.
        expects: what one of its values is, for messages.
        model_options: fields that only a model reads: they do not change what is encoded.
    """

    kind: ClassVar[str]
    graph: ClassVar[str | None] = None
    state: ClassVar[type | None] = None
    numeric: ClassVar[bool] = False
    lists: ClassVar[bool] = False
    expects: ClassVar[str]
    model_options: ClassVar[tuple[str, ...]] = ("embed_dim", "wide", "tower")

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SchemaError(f"a feature's name must be the name of a column, got {self.name!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that it reads, the one of its own name first."""
        return (self.name,)

    @property
    def served(self) -> bool:
        """Whether its value is set at prediction, so that rows need not have it."""
        return getattr(self, "serving", None) is not None

    @property
    def own_tower(self) -> tuple[int, ...] | None:
        """The layers of a tower of its own, which alone reads it; None where the trunk does."""
        return getattr(self, "tower", None)

    def column(self, raw: Mapping[str, pl.Series] | pl.DataFrame) -> pl.Series:
        """Return what it reads as one column, by its name, of the raw `columns` of some rows."""
        return raw[self.name]

    @property
    @abstractmethod
    def slots(self) -> tuple[Slot, ...]:
        """The parts of x that it fills, in order."""

    @property
    def target(self) -> Target | None:
        """How its slots, the places of a list, become one; None where each slot is for itself."""
        return None

    @property
    def tables(self) -> tuple[str, ...]:
        """The embedding tables that it owns."""
        return tuple(slot.table for slot in self.slots if slot.table == slot.name)

    @property
    def id_tables(self) -> tuple[str, ...]:
        """The tables, its own or another's, whose vocabulary its ids are looked up in."""
        return ()

    @property
    def ragged(self) -> bool:
        """Whether the exported graph takes lists of rows."""
        return any(slot.place == "bags" for slot in self.slots)

    def width(self, table: str) -> int | None:
        """Return the embedding width of a table that it owns; None takes the model's."""
        return getattr(self, "embed_dim", None)

    def fixed(self, table: str) -> Vocabulary | None:
        """Return the vocabulary of a table that it owns, where no row need be read for it."""
        return None

    def least_count(self, table: str) -> int:
        """Return how often an id must occur to get a row in a table that it owns."""
        return getattr(self, "min_count", 1)

    def check_among(self, features: Mapping[str, Feature]) -> None:  # noqa: B027  most need none
        """Refuse what contradicts the other features of a schema, given by name."""

    @abstractmethod
    def values(self, column: pl.Series) -> Any:
        """Return what `column` holds: `Elements`, or float32 numbers (N,) with NaN for null.

        Raises:
            DataError: a column that can hold no such values.
        """

    def ids(self, column: pl.Series, table: str) -> pl.Series:
        """Return the ids of a training column that one of its `id_tables` is fitted on."""
        return self.values(column).ids

    def fit(self, column: pl.Series) -> Any:
        """Return its state, fitted on its training column, or None if it has none."""
        return None

    @abstractmethod
    def codec(self, tables: Mapping[str, Vocabulary], state: Any) -> Codec:
        """Return what encodes its column.

        Args:
            tables: the vocabularies of all features, by table.
            state: what `fit` returned.
        """


class Beside(NamedTuple):
    """A raw column that a feature reads beside the one of its name, as `Codec` has the latter.

    Args:
        json: the JSON Schema of one value in a request.
        example: such a value.
        described: the input of an exported file.
    """

    json: dict[str, Any]
    example: Any
    described: dict[str, Any]


Together = Callable[[Mapping[str, list[Any]]], "dict[str, Encoded] | None"]


class Codec(ABC):
    """A feature as fitted on the training rows.

    Attributes:
        feature: whose it is, a `Feature` of the codec's own kind.
        filler: what fills up lists in a matrix of `read`.
    """

    feature: Any
    filler: ClassVar[int] = -1

    @property
    def raw_filler(self) -> Any:
        """What fills up lists in a matrix of `raw`."""
        return self.filler

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows of each table of its own that has no vocabulary."""
        return {}

    @property
    def columns(self) -> Mapping[str, int]:
        """Float columns of each of its slots in `dense`."""
        return {}

    @abstractmethod
    def read(self, column: pl.Series) -> Encoded:
        """Return a column as `model.onnx` takes it.

        Raises:
            DataError: a column that can hold no such values.
        """

    @property
    def serving(self) -> Any:
        """The value that its column has in every row at prediction; None where rows have it."""
        return getattr(self.feature, "serving", None)

    def served(self, rows: int) -> Encoded:
        """Return what `read` does of so many rows that hold what is served.

        Raises:
            DataError: an id to serve that training did not see often enough.
        """
        found = self.read(pl.Series(self.feature.name, [self.serving]))
        if found.unseen:
            raise DataError(
                f"feature {self.feature.name!r}: serving = {self.serving!r} is to stand in every "
                "row at prediction, and training has too few rows of it to give it an embedding: "
                "serve a value that the log has"
            )
        assert isinstance(found.values, np.ndarray)
        return Encoded(np.repeat(found.values, rows, axis=0), rows * found.ids, 0, 0)

    def read_values(self, values: Sequence[Any]) -> Encoded | None:
        """Return what `read` returns of a few plain values, without making a column of them.

        None where their types do not tell; they are then read as a column.
        """
        return None

    def together(self, alike: Mapping[str, Any]) -> tuple[Sequence[str], Together] | None:
        """Return which codecs of this class read plain values together, and what does so.

        What numpy takes to begin is more than what it takes for a hundred values.
        """
        return None

    @abstractmethod
    def place(self, values: Any) -> Mapping[str, np.ndarray | Bag]:
        """Return what `read` gave as the parts of x, by slot.

        Shape:
            int32 (N,) of ids, a Bag of N lists, or float32 (N, columns)
        """

    def named(self, slot: str, rows: np.ndarray) -> list[str]:
        """Return what some rows of a slot's table stand for, as a person would write it."""
        return [f"row {row}" for row in rows]

    def raw(self, column: pl.Series) -> np.ndarray | Bag:
        """Return a column as `model-with-vocabulary.onnx` takes it."""
        return self.read(column).values

    def ordered(self, columns: np.ndarray) -> np.ndarray:
        """Return columns of a slot as one number per row, NaN where missing, for the audit.

        Shape:
            (N, columns) → (N,)
        """
        return columns.sum(axis=1)

    @property
    def beside(self) -> Mapping[str, Beside]:
        """What else it reads of a request, and takes as an input of an exported file."""
        return {}

    @property
    @abstractmethod
    def json(self) -> dict[str, Any]:
        """The JSON Schema of one value in a request."""

    @property
    @abstractmethod
    def example(self) -> Any:
        """A value for the documentation of a request."""

    @abstractmethod
    def described(self, *, with_vocabulary: bool) -> dict[str, Any]:
        """Return the input of an exported file as its metadata describes it, the name aside."""
