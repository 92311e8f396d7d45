"""Data sets: one function a file, each giving (train, valid, test, Schema); `load` finds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from polyrank.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import polars as pl

    from polyrank.schema import Schema

    Frames = tuple[pl.LazyFrame, pl.LazyFrame, pl.LazyFrame, Schema]

__all__ = ["DATASETS", "Dataset", "find", "load"]


@dataclass(frozen=True)
class Dataset:
    """A data set known by name: fetched once, generated, or read from the files of a `source`."""

    name: str  # also its function, in the module of that name
    summary: str
    licence: str  # of the rows
    rows: int  # of all splits; of a generated set, by default
    fetch: bool = False
    # Whether its function writes files of another format into a folder, and returns counts.
    files: bool = False
    # Of the experiment that is written with it, where the usual will not do.
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verb(self) -> str:
        """The verb of `polyrank data` that writes it."""
        return "get" if self.fetch else "make"

    @property
    def function(self) -> Callable[..., Any]:
        """The function that gives it, imported on first use."""
        return getattr(import_module(f"polyrank.datasets.{self.name}"), self.name)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that it takes."""
        names = inspect.signature(self.function).parameters
        return tuple(name for name in names if not (self.files and name == "folder"))

    def load(self, **options: Any) -> Frames:
        """Return (train, valid, test, schema); raises as `polyrank.datasets.load`."""
        if self.files:
            raise ConfigError(
                f"data set {self.name!r} is files of another format: write them by `polyrank data "
                f"make {self.name}`"
            )
        self.check(options)
        return self.function(**options)

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse options that its function does not take."""
        for name in options:
            if name not in self.options:
                hint = did_you_mean(name, self.options)
                raise ConfigError(f"data set {self.name!r}: unknown option {name!r}{hint}")

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        shown = ("name", "verb", "rows", "licence", "summary")
        return {name: getattr(self, name) for name in shown}


_ALL = (
    Dataset(
        "synthetic",
        summary="clicks and purchases whose true probabilities are known",
        licence="generated; none",
        rows=1_000_000,
    ),
    Dataset(
        "census",
        summary="Census-Income (KDD): income and marital status, the MMoE paper's data",
        licence="CC BY 4.0",
        rows=299_285,
        fetch=True,
    ),
    Dataset(
        "ali_ccp",
        summary="clicks and purchases in the processed Ali-CCP's columns, truth known",
        licence="generated; none",
        rows=1_000_000,
    ),
    Dataset(
        "ali_ccp_raw",
        summary="the same in the raw files of Ali-CCP, with all values of all fields",
        licence="generated; none",
        rows=1_000_000,
        files=True,
    ),
    Dataset(
        "movielens_100k",
        summary="MovieLens 100K: a rating, and whether it is 4 or more",
        licence="GroupLens: acknowledge; no redistribution, no commercial use unasked",
        rows=100_000,
        fetch=True,
        training={"epochs": 6, "batch_size": 1024, "lr": 2e-3},
    ),
)
DATASETS: Mapping[str, Dataset] = MappingProxyType({each.name: each for each in _ALL})


def find(name: str) -> Dataset:
    """Return the data set of this name."""
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}{did_you_mean(name, DATASETS)}")
    return DATASETS[name]


def load(name: str, **options: Any) -> Frames:
    """Return a data set of `DATASETS` by name as (train, valid, test, schema).

    `options` are its function's; an unknown one is a ConfigError, and rows that cannot be fetched
    or are not the official ones a DataError.
    """
    return find(name).load(**options)
