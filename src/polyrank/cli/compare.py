"""`polyrank compare RUN RUN …`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.bundle.model import Bundle


def compare(
    *runs: Path,
    data: str | None = None,
    out: Path | None = None,
    disagreements: int = 0,
    json: bool = False,
) -> None:
    """Compare runs on the same test rows: differences from the first, with intervals.

    Args:
        runs: run folders, bundle folders, or folders of `train --seeds`, each of which is a group.
            Other runs that share a name are the seeds of one group. The first group is the
            baseline.
        data: labelled rows to compare on instead of the runs' own test (else validation) rows: a
            CSV, TSV or Parquet file, or a glob.
        out: also write a page, such as compared.html, that draws the differences.
        disagreements: of each score also show so many rows, such as 20, on which predictions differ
            most, with their keys and features.
        json: print the comparison as JSON.
    """
    from polyrank.bundle.model import load
    from polyrank.cli.show import print_json
    from polyrank.errors import ConfigError
    from polyrank.paths import local
    from polyrank.report import need_extra, write_comparison
    from polyrank.report.compare import ComparedRun
    from polyrank.report.compare import compare as compared

    folders = {str(path): _runs_in(path) for path in runs}
    paths = [path for each in map(str, runs) for path in folders[each]]
    if len(paths) < 2:
        raise ConfigError(f"compare needs at least two runs, got {len(paths)}")
    if out is not None:
        need_extra()
        local(out, "the page")
    of = {path: folder for folder, inside in folders.items() for path in inside if path != folder}
    bundles = {path: load(path) for path in paths}
    split, sources = _own_rows(bundles) if data is None else ("given", dict.fromkeys(bundles, data))
    rows = [ComparedRun(path, bundles[path], sources[path], of.get(path)) for path in paths]
    found = compared(rows, split=split, disagreements=disagreements)
    page = {} if out is None else {"page": str(write_comparison(found, out))}
    if json:
        print_json(found.to_json() | page)
        return
    print(found)
    for path in page.values():
        print(f"\npage: {path}")


def _runs_in(path: Path) -> list[str]:
    """Return the runs of a folder of seeds, or the run itself."""
    from polyrank.bundle.format import seed_runs

    return [str(each) for each in seed_runs(path).values()] or [str(path)]


def _own_rows(bundles: Mapping[str, Bundle]) -> tuple[str, dict[str, Any]]:
    """Return the split and the rows of it, which all runs must name alike."""
    from polyrank.config import own_rows
    from polyrank.errors import DataError

    named = {path: _named_rows(path, bundle.config) for path, bundle in bundles.items()}
    first, rows = next(iter(named.items()))
    for path, other in named.items():
        if other != rows:
            raise DataError(
                f"runs must be compared on the same rows, but {first} has {_words(rows)}, and "
                f"{path} has {_words(other)}; --data names the rows to compare on"
            )
    split = rows["split"]
    return split, {path: own_rows(bundle.config)[split] for path, bundle in bundles.items()}


def _named_rows(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what says which rows a run was scored on: plain data, equal where the rows are."""
    from polyrank.errors import DataError

    data = config.get("data", {})
    if "source" in data:
        parts = data["split"]
        split = "test" if parts["fractions"][2] > 0 else "valid"
        seed = {} if parts["by"] == "time" else {"seed": config["seed"]}
        return {"split": split, "source": data["source"], **seed, **parts}
    for split in ("test", "valid"):
        if split in data:
            return {"split": split, "file": data[split]}
    raise DataError(
        f"{path} names no file of test or validation rows: it was trained on rows in memory, or "
        "had none; --data names the rows to compare on"
    )


def _words(rows: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in rows.items())
