"""What rows looked like at fit: counts of categories that are fixed then, one a row.

A feature has one or two facets. Each puts every row into exactly one category, so that the counts
of independent rows are multinomial, which the test of drift stands on. That is why of a list only
its last id is counted: the ids of one list are not independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from polyrank import spec
from polyrank.data.vocab import Vocab, id_owners
from polyrank.errors import BundleError, ConfigError
from polyrank.features import Codec, Feature
from polyrank.features.bags import Bag

FORMAT = 1
BINS = 10  # of numbers, lengths and predictions
TOP_IDS = 20
NEAR = 1e-5  # relative difference of numbers that are taken as one
MOST_ROWS = 50_000  # that a profile is made of

Of = Literal["number", "id", "last id", "length", "prediction"]


@dataclass(frozen=True, kw_only=True)
class Facet:
    """Categories of one property of a row, and how many rows at fit were in each.

    Args:
        name: of the feature, or of the output column.
        of: which property of its value.
        edges: numbers between bins, ascending: bin i holds edges[i - 1] < x <= edges[i].
        rows: of the feature's table, the most frequent ids.
        categories: the names, one a count.
        counts: of rows at fit.

    Raises:
        ConfigError: categories and counts that do not fit each other.
    """

    name: str
    of: Of
    edges: Sequence[float] = ()
    rows: Sequence[int] = ()
    categories: Sequence[str]
    counts: Sequence[int]

    def __post_init__(self) -> None:
        if self.of not in get_args(Of):
            raise ConfigError(f"facet {self.name!r}: of must be one of {get_args(Of)}")
        expected = len(self.rows) + 3 if self.by_id else len(self.edges) + 2
        if not len(self.categories) == len(self.counts) == expected:
            raise ConfigError(
                f"facet {self.name!r}: expected {expected} categories and counts, got "
                f"{len(self.categories)} and {len(self.counts)}"
            )

    @property
    def by_id(self) -> bool:
        """Whether its categories are ids; else they are bins of a number."""
        return self.of in ("id", "last id")

    @property
    def title(self) -> str:
        """The name, and which property where it is not the value itself."""
        return self.name if self.of in ("number", "id", "prediction") else f"{self.name} {self.of}"

    def count(self, values: np.ndarray) -> np.ndarray:
        """Return how many of some rows are in each category.

        Args:
            values: rows of the table, -1 for null; or numbers, NaN for missing.

        Shape:
            (N,) → (categories,)

        Examples:
            >>> bins = Facet(
            ...     name="price", of="number", edges=[1.0], counts=[0, 0, 0],
            ...     categories=["<= 1", "> 1", "missing"],
            ... )
            >>> bins.count(np.array([0.5, 1.0, 7.0, np.nan])).tolist()
            [2, 1, 1]
        """
        top = len(self.rows)
        if self.by_id:
            places = np.full(len(values), top)
            order = np.argsort(self.rows)
            ids = np.asarray(self.rows, np.int64)[order]
            if top:
                at = np.searchsorted(ids, values).clip(max=top - 1)
                hit = ids[at] == values
                places[hit] = order[at[hit]]
            places[values == 0] = top + 1
            places[values < 0] = top + 2
        else:
            places = np.searchsorted(np.asarray(self.edges), values, side="left")
            places[np.isnan(values)] = len(self.edges) + 1
        return np.bincount(places, minlength=len(self.counts))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What rows looked like at fit.

    Args:
        split: whose rows were counted: "valid" where there are any, since a model's predictions
            for its own training rows, and its vocabulary's misses among them, flatter it.
        rows: that were counted.
        facets: of each feature, then of each output column.
        format: of the saved form.
    """

    split: str
    rows: int
    facets: Sequence[Facet]
    format: int = FORMAT

    def to_table(self) -> dict[str, Any]:
        """Return it as plain tables."""
        return spec.to_table(self)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Profile:
        """Read what `to_table` returned.

        Raises:
            BundleError: another format, or a damaged one.
        """
        if table.get("format") != FORMAT:
            raise BundleError(
                f"profile.json has format {table.get('format')!r}, and this polyrank reads format "
                f"{FORMAT}: train again"
            )
        try:
            facets = tuple(Facet(**each) for each in table["facets"])
            return cls(split=table["split"], rows=table["rows"], facets=facets)
        except (KeyError, TypeError, ConfigError) as error:
            raise BundleError(f"profile.json is damaged: {error}") from error


def observed(codec: Codec, column: pl.Series) -> dict[Of, np.ndarray]:
    """Return the properties of a column's values that facets count, a value a row.

    Ids are rows of a table, -1 for null. Of a vector, its length in the Euclidean sense stands.
    """
    values = codec.read(column).values
    if isinstance(values, Bag):
        lengths = np.diff(values.offsets)
        last = np.full(len(lengths), -1, np.int64)
        last[lengths > 0] = values.ids[values.offsets[1:][lengths > 0] - 1]
        return {"last id": last, "length": lengths.astype(np.float64)}
    if values.ndim == 2:
        return {"number": np.linalg.norm(values.astype(np.float64), axis=1)}
    if np.issubdtype(values.dtype, np.integer):
        return {"id": np.where(column.is_null().to_numpy(), -1, values.astype(np.int64))}
    return {"number": values.astype(np.float64)}


def bins(name: str, of: Of, values: np.ndarray) -> Facet:
    """Return bins between the quantiles of numbers, NaN being missing, without counts."""
    present = values[~np.isnan(values)]
    edges: list[float] = []
    if len(present):
        levels = np.arange(1, BINS) / BINS
        # Quantiles that are values themselves: a number that many rows share is in one bin.
        inner = np.unique(np.quantile(present, levels, method="inverted_cdf"))
        # An edge lies between two values: predictions of two engines differ in their last digits.
        values = np.unique(present)
        after = np.searchsorted(values, inner + NEAR * np.maximum(np.abs(inner), NEAR), "right")
        after = np.unique(after[after < len(values)])  # no bin above the largest value
        edges = [float(each) for each in (values[after - 1] + values[after]) / 2]
    names = [f"<= {edge:.4g}" for edge in edges]
    last = f"> {edges[-1]:.4g}" if edges else "any"
    return Facet(
        name=name, of=of, edges=edges, categories=[*names, last, "missing"],
        counts=[0] * (len(edges) + 2),
    )  # fmt: skip


def top_ids(name: str, of: Of, values: np.ndarray, codec: Codec) -> Facet:
    """Return the most frequent ids of rows of a table, without counts."""
    rows, counts = np.unique(values[values > 0], return_counts=True)
    top = rows[np.lexsort((rows, -counts))][:TOP_IDS]
    names = codec.named(codec.feature.name, top) if len(top) else []
    categories = [*names, "other ids", "unseen", "null" if of == "id" else "empty"]
    return Facet(
        name=name, of=of, rows=[int(each) for each in top], categories=categories,
        counts=[0] * len(categories),
    )  # fmt: skip


def profile(
    vocab: Vocab,
    train: pl.DataFrame,
    counted: pl.DataFrame,
    predictions: tuple[pl.DataFrame, pl.DataFrame],
    split: str,
) -> Profile:
    """Return the profile of raw rows.

    Categories are chosen on one set of rows and counted on the other: to count the ids that are the
    most frequent of the same rows would overstate them.

    Args:
        vocab: encodes the rows.
        train: rows that bins and the most frequent ids are chosen on.
        counted: other rows, which are counted.
        predictions: the output columns of either.
        split: whose rows are counted.
    """
    facets = []
    for feature in watched(vocab.features):
        codec = vocab.codecs[feature.name]
        chosen = observed(codec, feature.column(train))
        seen = observed(codec, feature.column(counted))
        if split == "train":
            seen = {of: _left_out(vocab, feature, of, each) for of, each in seen.items()}
        for of, values in chosen.items():
            ids = of in ("id", "last id")
            name = feature.name
            new = top_ids(name, of, values, codec) if ids else bins(name, of, values)
            facets.append(_counted(new, seen[of]))
    for output in predictions[0].columns:
        first, second = (each[output].to_numpy().astype(np.float64) for each in predictions)
        facets.append(_counted(bins(output, "prediction", first), second))
    return Profile(split=split, rows=counted.height, facets=tuple(facets))


def watched(features: Iterable[Feature]) -> list[Feature]:
    """Return the features that have facets: not those that are set at prediction."""
    return [feature for feature in features if not feature.served]


def _left_out(vocab: Vocab, feature: Feature, of: Of, values: np.ndarray) -> np.ndarray:
    """Return training values as rows that the vocabulary was not fitted on would have them.

    Without its own row, an id that occurs as often as a vocabulary asks for is not in it.
    """
    tables = [each for each in feature.id_tables if not vocab.tables[each].size]
    if of not in ("id", "last id") or len(tables) != 1:
        return values
    frame = vocab.tables[tables[0]].to_frame()
    least = id_owners(vocab.features)[tables[0]].least_count(tables[0])
    rare = frame.filter(pl.col("count") <= least)["row"].to_numpy()
    return np.where(np.isin(values, rare), 0, values)


def _counted(facet: Facet, values: np.ndarray) -> Facet:
    counts = [int(each) for each in facet.count(values)]
    return Facet(
        name=facet.name, of=facet.of, edges=facet.edges, rows=facet.rows,
        categories=facet.categories, counts=counts,
    )  # fmt: skip
