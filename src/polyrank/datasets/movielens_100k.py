"""MovieLens 100K: 943 people rate 1,682 films. A regression and a binary task on the same rows."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from polyrank.data.split import split
from polyrank.datasets import fetch
from polyrank.errors import DataError
from polyrank.schema import DenseFeature, Keys, Schema, SparseFeature, Task

if TYPE_CHECKING:
    from polyrank.datasets import Frames

logger = logging.getLogger(__name__)

WHEEL = ("recbole", "1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
COLUMNS = {
    "ml-100k.inter": ("user_id", "item_id", "rating", "timestamp"),
    "ml-100k.user": ("user_id", "age", "gender", "occupation", "zip_code"),
    "ml-100k.item": ("item_id", "movie_title", "release_year", "class"),
}
NUMBERS: dict[str, pl.DataType] = {
    **dict.fromkeys(("user_id", "item_id", "age"), pl.Int32()),
    "rating": pl.Float32(),
    "timestamp": pl.Float64(),  # some writers of the format put a decimal point
}
EXPECTED = {"ratings": 100_000, "users": 943, "items": 1_682, "ratings of 4 or more": 55_375}
LIKED = 4


def movielens_100k(
    cache: str | Path | None = None,
    *,
    source: str | Path | None = None,
    progress: fetch.Progress | None = None,
) -> Frames:
    """Return MovieLens 100K as (train, valid, test, schema).

    pip fetches it once, in the wheel of a library that carries it (nothing of the wheel runs or is
    installed); it is checked, and kept as Parquet in `cache`, as `census` is. `source`, the
    wheel or a folder with `ml-100k.inter`, `.user` and `.item`, is read in place of cache and
    network. GroupLens allows neither passing the rows on nor commercial use without permission, and
    asks to be acknowledged.

    The first 80 % of the ratings in time train, the next 10 % validate, the last 10 % test;
    ratings of the same second stay together. People mostly rate in one sitting, so most of those
    of the later splits are not in the first. `like` is a rating of 4 or more, `genres` the film's
    whole list as one id, and `release_year` null where it is not known.

    Reference:
        Harper and Konstan, *The MovieLens Datasets: History and Context*, ACM TiiS 5(4), 2015.
    """
    path = fetch.cache_folder("movielens_100k", cache) / "movielens_100k-1.parquet"
    ratings = fetch.kept(path, source, COLUMNS, joined, partial(_from_wheel, progress))
    train, valid, test = split(ratings, "time", (0.8, 0.1, 0.1), "timestamp")
    return train, valid, test, schema_of()


def schema_of() -> Schema:
    """Return the schema of `movielens_100k`; see there."""
    sparse = ("user_id", "item_id", "gender", "occupation", "release_year", "genres")
    return Schema(
        features=[*map(SparseFeature, sparse), DenseFeature("age")],
        tasks=[Task("rating", kind="regression"), Task("like")],
        keys=Keys(user="user_id", time="timestamp"),
    )


def parse(content: bytes, name: str) -> pl.DataFrame:
    """Return one of the files of `COLUMNS`, in the atomic format: header `name:type`, tabs."""
    rows = fetch.parsed(content.replace(b"\r", b""), name, "MovieLens 100K", separator="\t")
    rows.columns = [column.partition(":")[0] for column in rows.columns]
    if tuple(rows.columns) != COLUMNS[name]:
        raise DataError(
            f"{name} has the columns {', '.join(rows.columns)}; expected {', '.join(COLUMNS[name])}"
        )
    return fetch.typed(rows, NUMBERS, name)


def joined(files: dict[str, bytes], where: str) -> pl.DataFrame:
    """Return the ratings in time order with their people and films, if all is as expected."""
    if missing := [name for name in COLUMNS if name not in files]:
        raise DataError(f"{where} holds no {' and no '.join(missing)}")
    frames = {name: parse(files[name], name) for name in COLUMNS}
    ratings, people, films = frames.values()
    _check(ratings, people, films, where)
    for name, known in SHA256.items():
        checksum = hashlib.sha256(files[name].replace(b"\r", b"")).hexdigest()
        if checksum != known:
            logger.warning(
                "%s of %s has the checksum %s, not %s; its counts are as expected",
                name, where, checksum, known,
            )  # fmt: skip
    return (
        ratings.join(people, on="user_id").join(films, on="item_id")
        .sort("timestamp", "user_id", "item_id")
        .select(
            "user_id", "item_id", "gender", "occupation",
            # two films have none: one is unknown, and one has a part of its title there
            pl.col("release_year").cast(pl.Int32, strict=False),
            pl.col("class").alias("genres"),
            "age", "rating",
            (pl.col("rating") >= LIKED).cast(pl.Int8).alias("like"),
            pl.col("timestamp").cast(pl.Int64),
        )
    )  # fmt: skip


def _check(ratings: pl.DataFrame, people: pl.DataFrame, films: pl.DataFrame, where: str) -> None:
    counts = (ratings.height, people.height, films.height, (ratings["rating"] >= LIKED).sum())
    whole = f"{where} is not the whole MovieLens 100K"
    fetch.check_counts(dict(zip(EXPECTED, counts, strict=True)), EXPECTED.values(), whole)
    for key, known in (("user_id", people), ("item_id", films)):
        strangers = ratings.join(known, on=key, how="anti")
        if strangers.height or known[key].n_unique() != known.height:
            raise DataError(
                f"{whole}: {strangers.height:,} ratings have a {key} without a line, or a {key} "
                "has two; fetch it again"
            )


def _from_wheel(progress: fetch.Progress | None) -> pl.DataFrame:
    name, version, sha256 = WHEEL
    try:
        archive = fetch.wheel(name, version, sha256, progress=progress)
    except DataError as error:
        raise DataError(
            f"MovieLens 100K could not be fetched: {error}\ndownload the wheel {name}=={version} "
            "elsewhere, then name the file: --from PATH (source=PATH in Python)"
        ) from error
    return joined(fetch.members(archive, COLUMNS), f"{name}=={version}")
