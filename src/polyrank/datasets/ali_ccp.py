"""Ali-CCP as the classic tutorial has it: a processed CSV per split, or a generated log like it.

The full log may not be redistributed, and its truth is not known. A generated one is free of both
limits, at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polyrank.datasets.marginals import marginal
from polyrank.datasets.synthetic import split_rows
from polyrank.datasets.world import Draw, Field, Number, Preset, World
from polyrank.errors import ConfigError, DataError
from polyrank.files import replacing
from polyrank.schema import DenseFeature, Keys, Schema, SparseFeature, Task

if TYPE_CHECKING:
    from polyrank.datasets import Frames

LABELS = ("click", "purchase")
SPARSE = (
    *("101", "121", "122", "124", "125", "126", "127", "128", "129"),
    *("205", "206", "207", "210", "216", "508", "509", "702", "853", "301"),
    *("109_14", "110_14", "127_14", "150_14"),
)
DENSE = ("D109_14", "D110_14", "D127_14", "D150_14", "D508", "D509", "D702", "D853")
COLUMNS = (*LABELS, *SPARSE, *DENSE)
TRUTH = ("true_p_click", "true_p_buy_given_click", "true_p_buy")
USER, ITEM = "101", "205"
SPLITS = ("train", "val", "test")  # as the files are named

# Of the full log: its training rows, and the ids of each field after the usual count filter. No
# size of 210 is published; those of its like are about twice those of the crosses with the user.
FULL_ROWS, FULL_USERS, FULL_ITEMS = 42_300_135, 238_635, 467_298
SCALED = {
    "206": 6_929, "207": 263_942, "210": 74_000, "216": 106_399,
    "508": 5_888, "509": 104_830, "702": 51_878, "853": 37_148,
    "109_14": 6_929, "110_14": 263_942, "127_14": 106_399, "150_14": 74_000,
}  # fmt: skip
CROSSES = ("508", "509", "702", "853")  # of user and item; id 0 and value 0 where there is none
LEAST_USERS, LEAST_ITEMS = 200, 400
FRACTIONS = (0.8, 0.1, 0.1)
CHUNK_ROWS = 1_000_000


def ali_ccp(
    source: str | Path | None = None,
    *,
    rows: int | None = None,
    seed: int = 0,
    users: int | None = None,
    items: int | None = None,
    fractions: Sequence[float] = FRACTIONS,
) -> Frames:
    """Return a log with the columns of the processed Ali-CCP as (train, valid, test, schema).

    A source is a folder with `ali_ccp_train*.csv`, `ali_ccp_val*.csv` and `ali_ccp_test*.csv`, and
    takes none of the other options. Without one the log is generated, with its truth in `true_p_…`:
    4 % of the impressions are clicked and 10 % of the clicks are purchases. The original has 3.9 %
    and 0.5 %, which leaves a log that fits on a laptop without purchases to score.

    Ids count from 0, as in the processed files, and a cross of user and item that never happened
    has the id 0 and the value 0. By default `rows` is 1,000,000, and
    `users` (200 or more) and `items` (400 or more) keep the full log's proportions. `fractions` are
    of the rows, each split having requests of its own.
    """
    if source is not None:
        changed = {
            "rows": rows is not None,
            "seed": seed != 0,
            "users": users is not None,
            "items": items is not None,
            "fractions": tuple(fractions) != FRACTIONS,
        }
        if named := [name for name, given in changed.items() if given]:
            raise ConfigError(
                f"{', '.join(named)} belong to a generated log, and {source} is read as it is: "
                "leave out either"
            )
        train, valid, test = (_read(_find(Path(source).expanduser(), each)) for each in SPLITS)
        return train, valid, test, schema_of()
    rows = 1_000_000 if rows is None else rows
    scale = min(1.0, rows / FULL_ROWS)
    users = max(LEAST_USERS, round(FULL_USERS * scale)) if users is None else users
    items = max(LEAST_ITEMS, round(FULL_ITEMS * scale)) if items is None else items
    counts = split_rows(rows, fractions)
    world, rng = World.seeded(preset(items), users, items, 0.0, seed)
    for name in CROSSES:
        world.effects[name][:, 0] = 0.0  # nothing crossed, nothing moved
    train, valid, test = (_made(world, count, rng) for count in counts)
    return train, valid, test, schema_of()


def schema_of() -> Schema:
    """Return the schema of `ali_ccp`; see there."""
    return Schema(
        features=[*map(SparseFeature, SPARSE), *map(DenseFeature, DENSE)],
        tasks=[Task("click"), Task("buy", label="purchase", given="click")],
        keys=Keys(user=USER),
    )


def write_tutorial(
    folder: str | Path, *, rows: int = 200, seed: int = 0
) -> tuple[Path, Path, Path]:
    """Write a generated log as the three CSV files that the classic tutorial reads.

    They have the tutorial's columns and no others, since it takes every unknown column for an id.
    Half of the rows are for training and a quarter each for the other two, as in its sample.
    """
    folder = Path(folder).expanduser()
    *frames, _ = ali_ccp(rows=rows, seed=seed, fractions=(0.5, 0.25, 0.25))
    folder.mkdir(parents=True, exist_ok=True)
    train, valid, test = (folder / f"ali_ccp_{split}_sample.csv" for split in SPLITS)
    for path, frame in zip((train, valid, test), frames, strict=True):
        with replacing(path) as temporary:
            frame.select(COLUMNS).collect().write_csv(temporary)
    return train, valid, test


def preset(items: int) -> Preset:
    """Return what the world is made of, with the full log's vocabularies scaled to `items`."""
    values = {name: max(4, round(size * items / FULL_ITEMS)) for name, size in SCALED.items()}
    return Preset(
        fields={
            "121": Field("user", 98, 0.05),
            "122": Field("user", 14, 0.05),
            "124": Field("user", 3, 0.03),
            "125": Field("user", 8, 0.04),
            "126": Field("user", 4, 0.02),
            "127": Field("user", 4, 0.03),
            "128": Field("user", 3, 0.02),
            "129": Field("user", 5, 0.03),
            "206": Field("item", values["206"], 0.09),
            "207": Field("item", values["207"], 0.04),
            "210": Field("item", values["210"], 0.03),
            "216": Field("item", values["216"], 0.05),
            "508": Field("row", values["508"], 0.03),
            "509": Field("row", values["509"], 0.03),
            "702": Field("row", values["702"], 0.02),
            "853": Field("row", values["853"], 0.02),
            "301": Field("request", 4, 0.05),
            "109_14": Field("user", values["109_14"], 0.02),
            "110_14": Field("user", values["110_14"], 0.01),
            "127_14": Field("user", values["127_14"], 0.01),
            "150_14": Field("user", values["150_14"], 0.01),
        },
        numbers={
            "D109_14": Number("user", 0.80, 0.6, 0.0, 0.04),
            "D110_14": Number("user", 0.90, 0.6, 0.0, 0.02),
            "D127_14": Number("user", 0.10, 0.8, 0.0, 0.01),
            "D150_14": Number("user", 0.25, 0.7, 0.0, 0.01),
            "D508": Number("row", 0.50, 0.8, 0.2, 0.03),
            "D509": Number("row", 0.30, 0.8, 0.6, 0.02),
            "D702": Number("row", 0.35, 0.8, 0.5, 0.01),
            "D853": Number("row", 0.15, 0.8, 0.5, 0.01),
        },
        ids=0.06,
        factors=0.11,
        known={"121": 0.3, "122": 0.3, "206": 0.4, "216": 0.2},
    )


def _made(world: World, rows: int, rng: np.random.Generator) -> pl.LazyFrame:
    """Return a split, drawn in chunks so that the arrays on the way stay small."""
    sizes = [CHUNK_ROWS] * (rows // CHUNK_ROWS) + [rows % CHUNK_ROWS]
    return pl.concat([_chunk(world, size, rng) for size in sizes if size]).lazy()


def _chunk(world: World, rows: int, rng: np.random.Generator) -> pl.DataFrame:
    draw = _without_crosses(world.draw(rows, rng))
    truth = marginal(*world.logits(draw), hidden=0.0)
    click = rng.random(rows) < truth.p_click
    buy = click & (rng.random(rows) < truth.p_buy_given_click)
    ids = {USER: draw.owners["user"], ITEM: draw.owners["item"], **draw.columns}
    columns = {
        "click": click.astype(np.int8),
        "purchase": buy.astype(np.int8),
        **{name: ids[name] for name in SPARSE},
        # of a log-normal value, what keeps its order and lies between 0 and 1
        **{name: _squashed(draw.columns[name]) for name in DENSE},
        "true_p_click": truth.p_click,
        "true_p_buy_given_click": truth.p_buy_given_click,
        "true_p_buy": truth.p_buy,
    }
    return pl.DataFrame(columns)


def _without_crosses(draw: Draw) -> Draw:
    """Return a draw in which a cross without a value has the id 0, and only such a one."""
    crossed = {
        name: np.where(np.isnan(draw.columns[f"D{name}"]), 0, np.maximum(draw.columns[name], 1))
        for name in CROSSES
    }
    return replace(draw, columns={**draw.columns, **crossed})


def _squashed(values: np.ndarray) -> np.ndarray:
    """Return v / (1 + v) to four digits, and 0 where there is no value."""
    return np.nan_to_num(values / (1 + values)).round(4).astype(np.float32)


def _find(folder: Path, split: str) -> Path:
    """Return the file of a split: `ali_ccp_SPLIT.csv` if it is there, else the only one."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name the one that holds ali_ccp_train*.csv")
    exact = folder / f"ali_ccp_{split}.csv"
    found = [exact] if exact.is_file() else sorted(folder.glob(f"ali_ccp_{split}*.csv"))
    if not found:
        raise DataError(f"{folder} holds no ali_ccp_{split}*.csv")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder} holds several files of one split: {names}; keep one")
    return found[0]


def _read(path: Path) -> pl.LazyFrame:
    types = {
        **dict.fromkeys((*LABELS, *SPARSE), pl.Int64),
        **dict.fromkeys(DENSE, pl.Float32),
        **dict.fromkeys(TRUTH, pl.Float64),
    }
    try:
        log = pl.scan_csv(path, schema_overrides=types)
        known = log.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if missing := [name for name in COLUMNS if name not in known]:
        raise DataError(
            f"{path} lacks {len(missing)} of the {len(COLUMNS)} columns of the processed Ali-CCP: "
            f"{', '.join(missing)}"
        )
    return log.select(*COLUMNS, *(name for name in TRUTH if name in known))
