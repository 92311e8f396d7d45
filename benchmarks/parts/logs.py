"""The logs on which models and baselines are tried: raw frames, a schema, and what may be asked.

Features and tasks are declared without options, so that a run's own settings decide encodings and
spaces. Generated logs are new for each seed and know the truth; the others are the same rows for
every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from polyrank.data.split import split
from polyrank.datasets import load
from polyrank.datasets.synthetic import synthetic
from polyrank.schema import DenseFeature, Keys, Schema, SparseFeature, Task

# Real rows at hand lie beside the checkout, or beside the folder of worktrees.
BESIDE = tuple(parent / "shared" / "data" for parent in Path(__file__).resolve().parents[3:5])
KUAIRAND = "kuairand/explicit_feedback_sample.tsv"
COAT = "coat"
SPLITS = ("train", "valid", "test")
# A generated log's rows beside those of training. Truth needs no labels, but many rows.
VALID_ROWS, TEST_ROWS = 30_000, 200_000
RARE_POSITIVES = 20


class AbsentLogError(Exception):
    """A log whose files are not here: runs on it are skipped by name."""


@dataclass(frozen=True)
class Raw:
    """The rows of one log before any encoding.

    Args:
        schema: features and tasks without options.
        frames: by split.
    """

    schema: Schema
    frames: Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Source:
    """A log by name.

    Args:
        make: from (seed, training rows, path of the files) to the rows.
        generated: new for every seed, with its truth.
        rows: training rows of a generated log.
        folder: of files that are never part of this repository; None where there are none.
    """

    make: Callable[[int, int, Path], Raw]
    generated: bool = False
    rows: int = 240_000
    folder: str | None = None


def raw_log(name: str, seed: int, rows: int | None = None, path: Path | None = None) -> Raw:
    """Return a log; `rows` replaces a generated log's training rows, `path` where files lie.

    Raises:
        AbsentLogError: its files are not here.
    """
    source = LOGS[name]
    return source.make(seed, rows or source.rows, located(name, path))


def located(name: str, path: Path | None = None) -> Path:
    """Return where a log's files lie; an empty path where it needs none."""
    folder = LOGS[name].folder
    if folder is None:
        return Path()
    tried = [path] if path is not None else [each / folder for each in BESIDE]
    for each in tried:
        if each.exists():
            return each
    raise AbsentLogError(f"{name}: there is no {' or '.join(map(str, tried))}")


def _generated(seed: int, rows: int, preset: str = "latent", parts: tuple[str, ...] = ()) -> Raw:
    valid, test = (min(most, max(rows, 1_000)) for most in (VALID_ROWS, TEST_ROWS))
    total = rows + valid + test
    fractions = (rows / total, valid / total, test / total)
    *frames, schema = synthetic(total, seed=seed, preset=preset, fractions=fractions, parts=parts)
    return Raw(plain(schema), {s: f.collect() for s, f in zip(SPLITS, frames, strict=True)})


def plain(schema: Schema) -> Schema:
    """Return a schema whose features have no options, and whose tasks have no space."""
    features = [type(each)(each.name) for each in schema.features]
    tasks = [replace(each, space=None) for each in schema.tasks]
    return replace(schema, features=features, tasks=tasks)


def _synthetic(seed: int, rows: int, _: Path) -> Raw:
    return _generated(seed, rows)


def _fields(seed: int, rows: int, _: Path) -> Raw:
    return _generated(seed, rows, "additive")


def _reactions(seed: int, rows: int, _: Path) -> Raw:
    """Likes, shares and hides beside the funnel: several roots, one against the others."""
    return _generated(seed, rows, parts=("reactions",))


def _ids(seed: int, rows: int, _: Path) -> Raw:
    raw = _generated(seed, rows)
    ids = [each for each in raw.schema.features if isinstance(each, SparseFeature)]
    return replace(raw, schema=replace(raw.schema, features=ids))


def _singletons(seed: int, rows: int, _: Path) -> Raw:
    """Ids that say nothing, each seen once: user and item give way to a visit and a device.

    What user and item do cannot be learned then, so the oracle is out of reach.
    """
    raw = _generated(seed, rows)
    total = sum(map(len, raw.frames.values()))
    random = np.random.default_rng([seed, 1])
    names = {name: random.permutation(total) for name in ("visit", "device")}
    frames, start = {}, 0
    for each, frame in raw.frames.items():
        here = slice(start, start + len(frame))
        frames[each] = frame.with_columns(pl.Series(n, v[here]) for n, v in names.items())
        start += len(frame)
    kept = [each for each in raw.schema.features if each.name not in ("101", "205")]
    features = [*map(SparseFeature, names), *kept]
    return Raw(replace(raw.schema, features=features), frames)


def _rare(seed: int, rows: int, _: Path) -> Raw:
    """The synthetic log with purchases thinned by chance until training has 20 of them."""
    raw = _generated(seed, rows)
    random = np.random.default_rng([seed, 2])
    bought = np.flatnonzero(raw.frames["train"]["buy"].to_numpy())
    keep = min(1.0, RARE_POSITIVES / len(bought))
    stay = set(random.choice(bought, min(RARE_POSITIVES, len(bought)), replace=False).tolist())
    frames = {}
    for each, frame in raw.frames.items():
        buy = frame["buy"].to_numpy()
        if each == "train":
            thin = np.isin(np.arange(len(buy)), list(stay))
        else:
            thin = buy.astype(bool) & (random.random(len(buy)) < keep)
        truth = [pl.col(name) * keep for name in ("true_p_buy", "true_p_buy_given_click")]
        frames[each] = frame.with_columns(pl.Series("buy", thin.astype(np.int8)), *truth)
    return replace(raw, frames=frames)


def _loaded(name: str) -> Callable[[int, int, Path], Raw]:
    def make(seed: int, rows: int, path: Path) -> Raw:
        del seed, rows, path
        *frames, schema = load(name)
        return Raw(plain(schema), {s: f.collect() for s, f in zip(SPLITS, frames, strict=True)})

    return make


def _kuairand(seed: int, rows: int, path: Path) -> Raw:
    """Clicks, long views of them, and likes; the last days validate and test.

    The sample has only rows with a like or a hate. The .6 % of long views without a click count as
    not viewed; a duration of 0 is unknown.
    """
    del seed, rows
    log = pl.read_csv(path, separator="\t").sort("time_ms", "user_id", "video_id")
    log = log.select(
        "user_id", "video_id", "time_ms",
        (pl.col("hourmin") // 100).alias("hour"),
        (pl.col("date") % 7).alias("weekday"),  # 8 to 21 April 2022
        pl.when(pl.col("duration_ms") > 0).then("duration_ms").cast(pl.Float32),
        pl.col("is_click").alias("click"),
        (pl.col("long_view") * pl.col("is_click")).alias("view"),
        pl.col("label").alias("like"),
    )  # fmt: skip
    frames = split(log, "time", (0.8, 0.1, 0.1), "time_ms")
    schema = Schema(
        [*map(SparseFeature, ("user_id", "video_id", "hour", "weekday")),
         DenseFeature("duration_ms")],
        [Task("click"), Task("view", given="click"), Task("like")],
        Keys(user="user_id", time="time_ms"),
    )  # fmt: skip
    return Raw(schema, {s: f.collect() for s, f in zip(SPLITS, frames, strict=True)})


def _coat(seed: int, rows: int, path: Path) -> Raw:
    """Ratings of coats: self-chosen ones train and validate, random ones test.

    Validation rows are thus of another population than test rows, as in the field.
    """
    del seed, rows

    def features(name: str) -> pl.DataFrame:
        names = [line.split(":")[0] for line in _lines(path / f"{name}_features_map.txt")]
        values = np.loadtxt(path / f"{name}_features.ascii", dtype=np.int64)
        columns = {name: np.arange(len(values))}  # 0, 1, … are the keys
        for each in dict.fromkeys(names):  # one-hot groups become ids
            group = [index for index, other in enumerate(names) if other == each]
            columns[f"{name}_{each}"] = values[:, group].argmax(axis=1)
        return pl.DataFrame(columns)

    def ratings(name: str) -> pl.DataFrame:
        found = pl.read_csv(path / name, has_header=False, new_columns=["user", "item", "rating"])
        found = found.join(users, on="user", maintain_order="left")
        return found.join(items, on="item", maintain_order="left").with_columns(
            pl.col("rating").cast(pl.Float32), (pl.col("rating") >= 4).cast(pl.Int8).alias("like")
        )

    users, items = features("user"), features("item")
    chosen = ratings("user.txt")
    order = np.random.default_rng(0).permutation(len(chosen))
    cut = len(chosen) * 9 // 10
    frames = {"train": chosen[np.sort(order[:cut])], "valid": chosen[np.sort(order[cut:])],
              "test": ratings("random.txt")}  # fmt: skip
    sparse = [*users.columns, *items.columns]
    tasks = [Task("rating", kind="regression"), Task("like")]
    return Raw(Schema([*map(SparseFeature, sparse)], tasks, Keys(user="user")), frames)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")


LOGS: Mapping[str, Source] = {
    "ids": Source(_ids, generated=True),
    "fields": Source(_fields, generated=True),
    "synthetic": Source(_synthetic, generated=True),
    "singletons": Source(_singletons, generated=True),
    "rare": Source(_rare, generated=True),
    "reactions": Source(_reactions, generated=True),
    "large": Source(_synthetic, generated=True, rows=3_000_000),
    "census": Source(_loaded("census")),
    "movielens_100k": Source(_loaded("movielens_100k")),
    "kuairand": Source(_kuairand, folder=KUAIRAND),
    "coat": Source(_coat, folder=COAT),
}
# Not the one that takes as long as all the others, nor the one for balances.
USUAL = tuple(name for name in LOGS if name not in ("large", "reactions"))

__all__ = ["LOGS", "USUAL", "AbsentLogError", "Raw", "Source", "located", "plain", "raw_log"]
