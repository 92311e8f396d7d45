"""A generated log with the columns and vocabulary sizes of Ali-CCP, for measuring speed.

Ids are Zipf(0.9), independent of each other and of the labels: there is nothing to learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet

import polyrank as pr
from polyrank.datasets.ali_ccp import DENSE, FULL_ITEMS, FULL_USERS, LABELS, SCALED, SPARSE

SMALL = {"121": 98, "122": 14, "124": 3, "125": 8, "126": 4, "127": 4, "128": 3, "129": 5, "301": 4}
SIZES = {"101": FULL_USERS, "205": FULL_ITEMS, **SMALL, **SCALED}
EXPONENT = 0.9
CHUNK_ROWS = 500_000


def schema() -> pr.Schema:
    """Return the schema: 23 sparse features, 8 dense ones, click, and buy given click."""
    features = [*map(pr.SparseFeature, SPARSE), *map(pr.DenseFeature, DENSE)]
    buy = pr.Task("buy", label="purchase", given="click", space="all")
    return pr.Schema(features, [pr.Task("click"), buy])


def zipf(random: np.random.Generator, size: int, rows: int) -> np.ndarray:
    """Return ranks 0 … size − 1, rank r with a probability of (r + 1) ** −EXPONENT."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -EXPONENT
    bounds = np.cumsum(weights)
    return np.searchsorted(bounds[:-1] / bounds[-1], random.random(rows, dtype=np.float32))


def frames(rows: int, seed: int, *, spread: int = 1, part: int = 0) -> Iterator[pl.DataFrame]:
    """Yield the log in pieces; ids are a shuffle of 1 … size, times `spread`.

    Parts with one seed have the same frequent ids and different rows.
    """
    random = np.random.default_rng(seed)
    names = {name: (random.permutation(SIZES[name]) + 1) * spread for name in SPARSE}
    random = np.random.default_rng([seed, part])
    for start in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - start)
        click = random.random(count) < 0.04
        columns = {
            LABELS[0]: click.astype(np.int8),
            LABELS[1]: (click & (random.random(count) < 0.1)).astype(np.int8),
            **{name: names[name][zipf(random, SIZES[name], count)] for name in SPARSE},
            **{name: random.lognormal(size=count).astype(np.float32) for name in DENSE},
        }
        yield pl.DataFrame(columns)


def write_parquet(path: Path, rows: int, seed: int, *, spread: int = 1, part: int = 0) -> None:
    """Write the log as Parquet, one row group per piece."""
    writer = None
    for frame in frames(rows, seed, spread=spread, part=part):
        table = frame.to_arrow()
        writer = writer or pa.parquet.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()
