"""A data set as files: three Parquet files and an experiment that is ready to run."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

from polyrank import spec
from polyrank.data.sampling import SPLITS
from polyrank.errors import ConfigError, DataError
from polyrank.features import names_by_kind
from polyrank.files import replacing
from polyrank.schema import Feature, Schema, Task

FILE = "experiment.toml"


def write(
    frames: tuple[pl.LazyFrame, pl.LazyFrame, pl.LazyFrame, Schema],
    folder: str | Path,
    *,
    name: str,
    seed: int = 1,
    training: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write a data set's splits and its experiment, and return the path of the experiment.

    The files appear together, once all are written: a folder with an experiment is complete, and
    is refused without `force`; one that cannot be written is left as it was. `training` is of the
    table [train], where the default of 2 epochs of large batches will not do.
    """
    *splits, schema = frames
    folder = Path(folder).expanduser()
    experiment = folder / FILE
    text = as_toml(experiment_table(schema, name=name, seed=seed, training=training))
    with whole_folder(folder), ExitStack() as files:
        if experiment.exists() and not force:
            raise ConfigError(
                f"{experiment} exists: name another folder, or replace it with --force "
                "(force=True in Python)"
            )
        # What is entered first is renamed last.
        temporary = files.enter_context(replacing(experiment))
        for split, frame in zip(SPLITS, splits, strict=True):
            path = files.enter_context(replacing(folder / f"{split}.parquet"))
            frame.sink_parquet(path)  # a log that comes from files may exceed the memory
        temporary.write_text(text, encoding="utf-8")
        experiment.unlink(missing_ok=True)
    return experiment


@contextmanager
def whole_folder(folder: Path) -> Generator[None]:
    """Make a folder to write to; on failure, remove what was made of it."""
    made: list[Path] = []
    try:
        made += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for path in made:
            with suppress(OSError):  # it holds something else by now, or was never made
                path.rmdir()
        if isinstance(error, OSError | pl.exceptions.PolarsError):
            reason = str(error).partition("\n")[0]
            raise DataError(f"{folder} cannot be written: {reason}") from error
        raise


def experiment_table(
    schema: Schema, *, name: str, seed: int = 1, training: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the tables of an experiment on files beside it, without options at their defaults."""
    features: dict[str, Any] = {**names_by_kind(schema.features)}
    for feature in schema.features:
        if options := _changed(feature):
            features[feature.name] = options
    keys = spec.to_table(schema.keys)
    return {
        "name": name,
        "seed": seed,
        "data": {split: f"{split}.parquet" for split in SPLITS},
        "features": features,
        **({"keys": keys} if keys else {}),
        "task": [_task(task) for task in schema.tasks],
        "model": {
            "trunk": {"kind": "mmoe", "experts": 8, "hidden": [16]},
            "tower": [8],
            "embed_dim": 8,
        },
        "train": {"epochs": 2, "batch_size": 4096, "lr": 1e-3, **(training or {})},
    }


def as_toml(table: Mapping[str, Any]) -> str:
    """Return an experiment as text with a heading for each task; tomli_w would write one line."""
    blocks: list[str] = []
    for tasks, group in groupby(table.items(), key=lambda item: item[0] == "task"):
        if tasks:
            blocks += [_task_block(task) for _, each in group for task in each]
        else:
            blocks.append(tomli_w.dumps(dict(group)))
    return "\n".join(blocks)


def _task_block(task: Mapping[str, Any]) -> str:
    """Return a task as text, what has options of its own under a heading of its own."""
    nested = {name: each for name, each in task.items() if isinstance(each, Mapping)}
    plain = {name: each for name, each in task.items() if name not in nested}
    headed = [f"\n[task.{name}]\n{tomli_w.dumps(each)}" for name, each in nested.items()]
    return "".join([f"[[task]]\n{tomli_w.dumps(plain)}", *headed])


def _task(task: Task) -> dict[str, Any]:
    changed = _changed(task)
    if task.column == task.name:
        changed.pop("label", None)
    return {"name": task.name, **changed}


def _changed(spec_: Feature | Task) -> dict[str, Any]:
    """Return the fields, the name aside, that do not have their default."""
    shown = spec_.to_table() if isinstance(spec_, Task) else spec.to_table(spec_)
    return {
        each.name: shown[each.name]
        for each in fields(spec_)
        if each.name != "name" and each.name in shown and getattr(spec_, each.name) != each.default
    }
