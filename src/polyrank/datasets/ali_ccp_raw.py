"""The raw files of Ali-CCP: their format, and a generated log in it whose truth is known.

sample_skeleton_{train,test}.csv
    sample_id,click,buy,common_feature_index,feature_num,feature_list
common_features_{train,test}.csv
    common_feature_index,feature_num,feature_list

There is no header, and an index has 16 hexadecimal digits. A feature is a field, byte 2, an id,
byte 3 and a value; byte 1 stands between two features, which may be in any order. Fields of `BAGS`
may occur several times in a list. What rows of one user have in common stands in one common row,
which has 518 features on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
import pyarrow

from polyrank.datasets.ali_ccp import CROSSES, FULL_ITEMS, LEAST_ITEMS, LEAST_USERS, SCALED, preset
from polyrank.datasets.marginals import marginal
from polyrank.datasets.world import World
from polyrank.errors import ConfigError
from polyrank.features.bags import offsets_of
from polyrank.files import replacing
from polyrank.meter import metered
from polyrank.spec import whole

# Fields with one value, by the file that has them, and those that may have several.
COMMON = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
SAMPLE = ("205", "206", "207", "216", "508", "509", "702", "301")
COMMON_BAGS = ("109_14", "110_14", "127_14", "150_14")
SAMPLE_BAGS = ("210", "853")
BAGS = (*COMMON_BAGS, *SAMPLE_BAGS)
SPLITS = ("train", "test")
NEXT, ID, VALUE = "\x01", "\x02", "\x03"  # what a feature, its id and its value begin with

# Of the full log: rows, common rows and purchases without a click, of either split.
FULL_ROWS, FULL_COMMON, FULL_ORPHANS = 42_300_135, 730_600, 230
LENGTHS = {"109_14": 62, "110_14": 180, "127_14": 110, "150_14": 155}  # mean, of a user
SPREAD = 0.8  # standard deviation of the logarithm of a length
SHARE = 0.03  # of the variance of a logit, for each of a user's lists
MISSING = 0.01  # of a user's attributes
USERS, ROWS = 8_192, 500_000  # written at a time


def ali_ccp_raw(folder: str | Path, *, rows: int = 1_000_000, seed: int = 0) -> dict[str, int]:
    """Write the four raw files of a generated log, and its truth; return what was counted.

    Half of the rows are of the official test. `truth_{train,test}.parquet` has the `sample_id` of
    each row and its `true_p_…`; the purchases without a click, as rare as in the full log but one
    at least in either split, are no part of it. A user's lists move both logits by their mean,
    weighted by their values. The number of users keeps the full log's proportion to the rows.

    Raises:
        ConfigError: fewer than 100 rows.
    """
    if whole("rows", rows) < 100:
        raise ConfigError(f"rows must be at least 100, for both splits, got {rows}")
    folder = Path(folder).expanduser()
    scale = min(1.0, rows / (2 * FULL_ROWS))
    users = max(LEAST_USERS, round(FULL_COMMON * scale))
    items = max(LEAST_ITEMS, round(FULL_ITEMS * scale))
    whole_world = preset(items)
    kept = {k: v for k, v in whole_world.fields.items() if k not in COMMON_BAGS}
    numbers = {k: v for k, v in whole_world.numbers.items() if k.removeprefix("D") in kept}
    world, rng = World.seeded(
        replace(whole_world, fields=kept, numbers=numbers), users, items, 0.0, seed
    )
    for name in CROSSES:
        world.effects[name][:, 0] = 0.0  # nothing crossed, nothing moved
    log = _Log(world, scale, rng)
    counted = {"users": users, "rows": 0, "clicks": 0, "buys": 0, "orphans": 0}
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:

        def opened(name: str) -> IO[bytes]:
            path = stack.enter_context(replacing(folder / name))
            return stack.enter_context(path.open("wb"))

        common = [opened(f"common_features_{split}.csv") for split in SPLITS]
        for part in log.common():
            for salt, file in enumerate(common):
                _write(part.with_columns(pl.Series("index", log.index(part["user"], salt))), file)
        for salt, (split, count) in enumerate(
            zip(SPLITS, (rows - rows // 2, rows // 2), strict=True)
        ):
            file = opened(f"sample_skeleton_{split}.csv")
            truths = []
            parts = log.skeleton(count, salt)
            what = f"writing {split} rows"
            for part, truth in metered(parts, what, total=count, size=lambda of: of[0].height):
                labels = part.select(pl.col("click", "buy").cast(pl.Int64))
                counted["rows"] += part.height
                counted["clicks"] += int(labels["click"].sum())
                counted["buys"] += int(labels["buy"].sum())
                counted["orphans"] += int((labels["buy"] > labels["click"]).sum())
                _write(part, file)
                truths.append(truth)
            path = stack.enter_context(replacing(folder / f"truth_{split}.parquet"))
            pl.concat(truths).write_parquet(path)
    return counted


class _Log:
    """A world with lists, and the texts of its rows."""

    def __init__(self, world: World, scale: float, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        self.sizes = {
            **{name: each.values for name, each in world.preset.fields.items()},
            "101": world.sizes["user"],
            "205": world.sizes["item"],
            **{name: max(4, round(SCALED[name] * scale)) for name in COMMON_BAGS},
        }
        # Ids of all fields differ, as in the original.
        starts = [1, *accumulate(self.sizes.values(), initial=1)]
        self.first = dict(zip(self.sizes, starts[1:], strict=False))
        self.pulls = {
            name: rng.standard_normal((2, self.sizes[name])).astype(np.float32)
            for name in COMMON_BAGS
        }
        self.moved = np.zeros((2, world.sizes["user"]))
        self.more = rng.integers(0, 3, world.sizes["item"])  # further intentions of an item

    def index(self, users: pl.Series, salt: int) -> list[str]:
        """Return the common index of users in one split."""
        mixed = (
            users.to_numpy().astype(np.uint64) + np.uint64(salt << 40) + np.uint64(1)
        ) * np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two are alike
        return [f"{each:016x}" for each in mixed.tolist()]

    def common(self) -> Iterator[pl.DataFrame]:
        """Yield the common rows, and note how their lists move the logits."""
        users = self.world.sizes["user"]
        for start in range(0, users, USERS):
            some = np.arange(start, min(start + USERS, users))
            texts = {"101": self._one("101", some, None)}
            for name in COMMON[1:]:
                there = self.rng.random(len(some)) >= MISSING
                texts[name] = self._one(name, self.world.attributes[name][some], there)
            counts = np.sum([text.is_not_null().to_numpy() for text in texts.values()], axis=0)
            for name in COMMON_BAGS:
                texts[name], lengths = self._list(name, some)
                counts = counts + lengths
            yield _together(texts).select(
                pl.Series("index", [""] * len(some)),
                pl.Series("feature_num", counts),
                "feature_list",
                pl.Series("user", some),
            )
        # Each list has its share of the variance of a logit.
        spread = self.moved.std(axis=1, keepdims=True)
        sd = np.array([[self.world.preset.click], [self.world.preset.buy]])
        standard = (self.moved - self.moved.mean(axis=1, keepdims=True)) / spread
        self.moved = standard * sd * np.sqrt(SHARE * len(COMMON_BAGS))

    def _list(self, name: str, users: np.ndarray) -> tuple[pl.Series, np.ndarray]:
        """Draw a list of each user: its text, null where it is empty, and its length."""
        drawn = np.exp(SPREAD * self.rng.standard_normal(len(users)) - SPREAD**2 / 2)
        lengths = np.minimum(drawn * LENGTHS[name], 40 * LENGTHS[name]).astype(np.int64)
        offsets = offsets_of(lengths)
        ids = _zipf(self.sizes[name], int(offsets[-1]), self.rng)
        values = np.log1p(self.rng.geometric(0.4, len(ids))).round(5)
        for task, pull in enumerate(self.pulls[name]):
            sums = np.concatenate([[0.0], np.cumsum(values * pull[ids])])
            sizes = np.concatenate([[0.0], np.cumsum(values)])
            total = sizes[offsets[1:]] - sizes[offsets[:-1]]
            mean = (sums[offsets[1:]] - sums[offsets[:-1]]) / np.where(total > 0, total, 1)
            # A mean of more ids differs less; this leaves each list about the same effect.
            self.moved[task, users] += mean * np.sqrt(np.maximum(lengths, 1))
        return _listed(self._texts(name, ids, values), offsets), lengths

    def skeleton(self, rows: int, salt: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Yield the rows of a split, and what is true of them."""
        orphans = max(1, round(FULL_ORPHANS * rows / FULL_ROWS))
        indices = self.index(pl.Series(np.arange(self.world.sizes["user"])), salt)
        of_user = pl.Series("common_feature_index", indices)
        for start in range(0, rows, ROWS):
            draw = self.world.draw(min(ROWS, rows - start), self.rng)
            user, item = draw.owners["user"], draw.owners["item"]
            truth = marginal(*(self.world.logits(draw) + self.moved[:, user]), hidden=0.0)
            click = self.rng.random(draw.rows) < truth.p_click
            buy = click & (self.rng.random(draw.rows) < truth.p_buy_given_click)
            if start == 0:
                buy[np.flatnonzero(~click)[:orphans]] = True
            texts = {"205": self._one("205", item, None)}
            for name in SAMPLE[1:]:
                ids = draw.columns[name]
                values = draw.columns.get(f"D{name}")
                there = np.ones(len(ids), dtype=bool) if values is None else ~np.isnan(values)
                texts[name] = self._one(name, ids, there, values)
            counts = np.sum([text.is_not_null().to_numpy() for text in texts.values()], axis=0)
            crossed = ~np.isnan(draw.columns["D853"])
            for name, lengths, values in (
                ("210", 1 + self.more[item], None),
                ("853", crossed * self.rng.integers(1, 4, draw.rows), draw.columns["D853"]),
            ):
                texts[name] = self._several(name, draw.columns[name], lengths, values)
                counts = counts + lengths
            number = np.arange(start + 1, start + draw.rows + 1)
            found = _together(texts).select(
                pl.Series("sample_id", number),
                pl.Series("click", click.astype(np.int8)),
                pl.Series("buy", buy.astype(np.int8)),
                of_user.gather(user),
                pl.Series("feature_num", counts),
                "feature_list",
            )
            true = {
                "sample_id": number,
                "true_p_click": truth.p_click,
                "true_p_buy_given_click": truth.p_buy_given_click,
                "true_p_buy": truth.p_buy,
            }
            yield found, pl.DataFrame(true)

    def _one(
        self, name: str, ids: np.ndarray, there: np.ndarray | None, values: np.ndarray | None = None
    ) -> pl.Series:
        """Return the text of a field with one value, null where it is not there."""
        numbers = np.ones(len(ids)) if values is None else np.nan_to_num(values.astype(np.float64))
        texts = self._texts(name, ids, numbers.round(5))
        return texts if there is None else texts.set(pl.Series(~there), None)

    def _several(
        self, name: str, first: np.ndarray, lengths: np.ndarray, values: np.ndarray | None
    ) -> pl.Series:
        """Return the text of a field of which a row has several values, the world's first."""
        offsets = offsets_of(lengths)
        ids = _zipf(self.sizes[name], int(offsets[-1]), self.rng)
        numbers = np.ones(len(ids))
        begin = offsets[:-1][lengths > 0]
        ids[begin] = first[lengths > 0]
        if values is not None:
            numbers = np.exp(self.rng.standard_normal(len(ids)))
            numbers[begin] = values[lengths > 0]
        return _listed(self._texts(name, ids, numbers.round(5)), offsets)

    def _texts(self, name: str, ids: np.ndarray, values: np.ndarray) -> pl.Series:
        columns = [pl.Series("id", ids + self.first[name]), pl.Series("value", values, pl.Float64)]
        text = pl.concat_str(pl.lit(f"{name}{ID}"), "id", pl.lit(VALUE), "value")
        return pl.DataFrame(columns).select(text.alias(name)).to_series()


def _zipf(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ids of which few are frequent, of a density that falls with the rank's reciprocal."""
    return (np.exp(rng.random(count) * np.log1p(size)) - 1).astype(np.int64).clip(0, size - 1)


def _listed(texts: pl.Series, offsets: np.ndarray) -> pl.Series:
    """Return the texts of each list as one, null where it is empty."""
    lists = pyarrow.LargeListArray.from_arrays(pyarrow.array(offsets), texts.to_arrow())
    joined = pl.Series(texts.name, lists).list.join(NEXT)
    return joined.set(pl.Series(np.diff(offsets) == 0), None)


def _together(texts: dict[str, pl.Series]) -> pl.DataFrame:
    joined = pl.concat_str(*texts, separator=NEXT, ignore_nulls=True)
    return pl.DataFrame(texts).select(joined.alias("feature_list"))


def _write(frame: pl.DataFrame, file: IO[bytes]) -> None:
    frame.drop("user", strict=False).write_csv(file, include_header=False, quote_style="never")
