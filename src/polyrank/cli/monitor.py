"""`polyrank monitor RUN ROWS`."""

from __future__ import annotations

from pathlib import Path

CROSSED = 3  # the exit code


def monitor(
    run: Path,
    rows: str,
    /,
    *,
    labels: str | None = None,
    key: tuple[str, ...] = (),
    psi: float | None = None,
    pcoc: float | None = None,
    auc: float | None = None,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Compare rows with those at fit, and predictions with labels; exit code 3 beyond a bound.

    Args:
        run: a run folder or a bundle folder.
        rows: a CSV, TSV or Parquet file, or a glob, with or without labels.
        labels: a file of the labels that have come, with the columns of --key.
        key: a column that names a row, in rows and labels; repeated, they name it together.
        psi: bound of the population stability index; [monitor] psi by default.
        pcoc: bound of |mean prediction / mean label - 1|; [monitor] pcoc by default.
        auc: bound that every score of an event must reach; [monitor] auc by default.
        out: an HTML page to write; needs polyrank[report].
        json: print what was found as JSON.
    """
    from polyrank import spec
    from polyrank.bundle.model import load
    from polyrank.cli.show import show
    from polyrank.monitor.bounds import Bounds
    from polyrank.report import need_extra, write_monitored
    from polyrank.report.monitoring import monitor as monitored

    if out is not None:
        need_extra()
    bundle = load(run)
    given = {"psi": psi, "pcoc": pcoc, "auc": auc}
    chosen = {name: value for name, value in given.items() if value is not None}
    table = {**bundle.config.get("monitor", {}), **chosen}
    bounds = spec.from_table(Bounds, table, "monitor")
    found = monitored(bundle, rows, labels=labels, key=key, bounds=bounds)
    if out is not None:
        write_monitored(found, out)
    show(found, json=json)
    return CROSSED if found.crossed else 0
