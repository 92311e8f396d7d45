"""`polyrank data list|get|make NAME`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cyclopts import App

from polyrank.errors import ConfigError
from polyrank.paths import local

data = App(name="data", help="List, fetch (get) or generate (make) a data set.")


@data.command(name="list")
def list_(*, json: bool = False) -> None:
    """List the data sets.

    Args:
        json: print them as JSON.
    """
    from polyrank.cli.show import print_json
    from polyrank.datasets import DATASETS
    from polyrank.text import aligned

    if json:
        print_json([each.to_json() for each in DATASETS.values()])
        return
    lines = [
        [each.name, each.verb, f"{each.rows:,}", each.licence, each.summary]
        for each in DATASETS.values()
    ]
    print(aligned(["name", "verb", "rows", "licence", "what"], lines, [2]))


@data.command
def get(
    name: str,
    /,
    *,
    from_: Path | None = None,
    raw: Path | None = None,
    seed: int = 0,
    education: bool = False,
    out: Path | None = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Fetch a data set, once, and write it with an experiment that is ready to run.

    Args:
        name: see `polyrank data list`.
        from_: a file or folder that you already have, instead of the network.
        raw: the folder of the four raw files that you already have (ali_ccp).
        seed: by which raw test rows are halved into validation and test.
        education: make education a third task (census).
        out: the folder to write; data/NAME by default.
        force: replace an experiment that is there.
        json: print what was written as JSON.
    """
    from polyrank.datasets import find

    for path in (from_, raw):
        if path is not None:
            local(path, "the data", read=True)
    options: dict[str, Any] = {"source": from_, "education": education or None}
    dataset = find(name)
    if raw is not None:
        if name != "ali_ccp":
            raise ConfigError(f"data set {name!r} has no raw files: --raw is for ali_ccp")
        if from_ is not None:
            raise ConfigError("--from names processed files, and --raw the raw ones: give either")
        _convert(raw, out or Path("data") / name, seed, force, json)
        return
    if dataset.fetch:
        with download_bar(name) as progress:
            _write(name, options | {"progress": progress}, out, force, json)
    elif from_ is not None and "source" in dataset.options:
        _write(name, options, out, force, json)
    else:
        hint = "; to read files of your own, name their folder by --from, or raw ones by --raw"
        raise ConfigError(
            f"data set {name!r} is generated: use `polyrank data make {name}`"
            + hint * ("source" in dataset.options)
        )


@data.command
def make(
    name: str,
    /,
    *,
    rows: int | None = None,
    seed: int | None = None,
    preset: str | None = None,
    hidden: float | None = None,
    users: int | None = None,
    items: int | None = None,
    part: list[str] | None = None,
    out: Path | None = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Generate a data set and write it with an experiment that is ready to run.

    Args:
        name: see `polyrank data list`.
        rows: impressions in all.
        seed: of the world and of the draw.
        preset: latent or additive.
        hidden: strength of the hidden cause of click and buy.
        users: number of users.
        items: number of items.
        part: what else the world has, such as position; may be repeated (synthetic).
        out: the folder to write; data/NAME by default.
        force: replace an experiment that is there.
        json: print what was written as JSON.
    """
    from polyrank.datasets import find

    dataset = find(name)
    if dataset.fetch:
        raise ConfigError(f"data set {name!r} is fetched: use `polyrank data get {name}`")
    sizes = {"rows": rows, "users": users, "items": items}
    options = {**sizes, "seed": seed, "preset": preset, "hidden": hidden, "parts": part}
    if dataset.files:
        _write_files(name, options, out or Path("data") / name, force, json)
    else:
        _write(name, options, out, force, json)


@contextmanager
def download_bar(name: str) -> Generator[Any]:
    """Give an observer of (done bytes, all bytes or None) that draws a bar."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amounts = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True)
    columns = TextColumn("fetching {task.description}"), BarColumn(20), *amounts
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None, visible=False)

        def observe(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield observe


def _write(name: str, options: dict[str, Any], out: Path | None, force: bool, json: bool) -> None:
    from polyrank.cli.show import print_json
    from polyrank.datasets import find
    from polyrank.datasets.write import write

    dataset, folder = find(name), local(out or Path("data") / name, "the data set")
    frames = dataset.load(**{key: value for key, value in options.items() if value is not None})
    experiment = write(frames, folder, name=name, training=dataset.training, force=force)
    if json:
        print_json({"name": name, "experiment": str(experiment)})
        return
    print(f"written: {experiment.parent}")
    print(f"next:    polyrank train {experiment}")


def _write_files(name: str, options: dict[str, Any], folder: Path, force: bool, json: bool) -> None:
    from polyrank.cli.show import print_json
    from polyrank.datasets import find

    dataset = find(name)
    given = {key: value for key, value in options.items() if value is not None}
    dataset.check(given)
    if folder.exists() and any(folder.iterdir()) and not force:
        raise ConfigError(f"{folder} is not empty: name another folder, or replace it with --force")
    counts = dataset.function(folder, **given)
    if json:
        print_json({"name": name, "folder": str(folder), "counts": counts})
        return
    _print_counts(folder, counts)
    print(f"next:     polyrank data get {name.removesuffix('_raw')} --raw {folder}")


def _convert(raw: Path, folder: Path, seed: int, force: bool, json: bool) -> None:
    from polyrank.cli.show import print_json
    from polyrank.datasets.ali_ccp_parquet import SINGLE_FILE, convert
    from polyrank.datasets.write import FILE

    counts = convert(raw, folder, seed=seed, force=force).to_json()
    if json:
        print_json({"name": "ali_ccp", "experiment": str(folder / FILE), "counts": counts})
        return
    _print_counts(folder, counts)
    print(f"next:     polyrank train {folder / FILE}")
    print(f"or:       polyrank train {folder / SINGLE_FILE}  (one value a field)")


def _print_counts(folder: Path, counts: dict[str, int]) -> None:
    print(f"written:  {folder}")
    for what, count in counts.items():
        print(f"{what + ':':<10}{count:,}")
