"""`polyrank report RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.bundle.model import Bundle
    from polyrank.data.check import Audit
    from polyrank.report import Evidence


def report(
    run: Path,
    /,
    *,
    data: str | None = None,
    out: Path | None = None,
    inspect: bool = False,
    json: bool = False,
) -> None:
    """Write one HTML file that shows what a run is worth; it opens from disk, offline.

    Args:
        run: a run folder or a bundle folder.
        data: labelled rows to show instead of the run's own test (else validation) rows: a CSV or
            Parquet file, or a glob.
        out: the file; RUN/report.html by default.
        inspect: also show which features each score needs, and how numbers move predictions; it
            takes a prediction of the rows for each of many permutations and values.
        json: print the path and what the page lacks as JSON, and what --inspect found.
    """
    import sys

    from polyrank.cli.show import print_json

    path, evidence = write_page(run, data, out, inspect=inspect)
    if json:
        found: dict[str, Any] = {"missing": evidence.missing, "unaudited": evidence.unaudited}
        if evidence.importance is not None and evidence.dependence is not None:
            found["importance"] = evidence.importance.to_json()
            found["dependence"] = evidence.dependence.to_dicts()
        print_json({"report": str(path), **found})
        return
    if evidence.missing is not None:
        sys.stderr.write(f"without the scored rows: {evidence.missing}\n")
    print(path)


def write_page(
    run: Path, data: str | None = None, out: Path | None = None, *, inspect: bool = False
) -> tuple[Path, Evidence]:
    """Write a run's page; return where, and what it was written from."""
    from datetime import datetime
    from functools import partial

    from polyrank.bundle.format import MANIFEST, find
    from polyrank.bundle.model import load
    from polyrank.errors import DataError
    from polyrank.report import gather, need_extra, write

    need_extra()
    folder = find(run)
    bundle = load(folder)
    trained = datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime).astimezone()
    named = folder.resolve()
    name = (named.parent if named.name == "bundle" else named).name
    audit, unaudited = _audit(bundle)
    gathered = partial(
        gather, bundle, name=name, trained=trained, audit=audit, unaudited=unaudited,
        inspect=inspect,
    )  # fmt: skip
    if data is not None:
        evidence = gathered(data, split="given")
    else:
        try:
            rows, missing = _own_rows(bundle)
            evidence = gathered(rows, missing=missing)
        except DataError as error:  # files move; what the run itself recorded is still worth a page
            missing = f"they could not be read ({error}); --data names where they are now"
            evidence = gathered(missing=missing)
    return write(evidence, out or run / "report.html"), evidence


def _own_rows(bundle: Bundle) -> tuple[Any, str]:
    """Return the rows of the bundle's scorecard, or None and why there are none."""
    from polyrank.config import own_rows

    if bundle.scorecard is None:
        return None, "the run had neither test nor validation rows; --data names some"
    split = bundle.scorecard.split
    rows = own_rows(bundle.config).get(split)
    if rows is None:
        return None, f"the run had its {split} rows in memory; --data names a file of them"
    return rows, ""


def _audit(bundle: Bundle) -> tuple[Audit | None, str]:
    """Return the audit of the log that the bundle learned from, or None and why there is none."""
    from polyrank.config import Experiment
    from polyrank.errors import PolyrankError

    data = bundle.config.get("data", {})
    if "train" not in data and "source" not in data:
        return None, "the run had its training rows in memory, and no file of them is known"
    try:
        return Experiment.from_table(bundle.config).audit(), ""
    except PolyrankError as error:  # files move
        return None, f"it could not be read again ({error})"
