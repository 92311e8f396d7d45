"""One self-contained HTML page of a bundle: what a reviewer asks, with a picture each.

Example:
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import polyrank as pr
    >>> from polyrank import report
    >>> schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    >>> log = {"item": [1, 2] * 8, "click": [1, 0, 1, 1] * 4}
    >>> bundle = pr.fit(schema, pr.Model(), train=log, valid=log, epochs=1)
    >>> with TemporaryDirectory() as folder:
    ...     path = report.write(report.gather(bundle, log), Path(folder) / "report.html")
    ...     print(path.name, path.read_text(encoding="utf-8")[:15])
    report.html <!doctype html>
"""

from polyrank.report.evidence import Evidence, gather
from polyrank.report.write import HOW_TO_INSTALL, installed, need_extra, write, write_comparison

__all__ = [
    "HOW_TO_INSTALL",
    "Evidence",
    "gather",
    "installed",
    "need_extra",
    "write",
    "write_comparison",
]
