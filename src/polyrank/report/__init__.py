"""One self-contained HTML page of a bundle: what a reviewer asks, with a picture each.

Examples:
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

from __future__ import annotations

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from polyrank.errors import PolyrankError
from polyrank.files import replacing, writing
from polyrank.metrics.comparison import Comparison
from polyrank.paths import local
from polyrank.report.evidence import Evidence, gather
from polyrank.report.monitoring import Monitored
from polyrank.train.replay import Replay
from polyrank.tune.tuned import Tuned

__all__ = [
    "HOW_TO_INSTALL",
    "Evidence",
    "gather",
    "installed",
    "need_extra",
    "write",
    "write_charts",
    "write_comparison",
    "write_monitored",
    "write_replay",
    "write_tuned",
]

HOW_TO_INSTALL = "the report needs the extra [report]: pip install 'polyrank[report]'"


def installed() -> bool:
    """Whether the libraries that draw a page are there."""
    return find_spec("altair") is not None and find_spec("vl_convert") is not None


def need_extra() -> None:
    """Raise PolyrankError with how to install them where the libraries that draw are missing."""
    if not installed():
        raise PolyrankError(HOW_TO_INSTALL)


def write(evidence: Evidence, path: str | Path) -> Path:
    """Write the page of `gather`'s evidence, whole or not at all, and return its path."""
    need_extra()
    from polyrank.report.page import page

    return _put(page(evidence, written=datetime.now().astimezone()), path)


def write_charts(evidence: Evidence, folder: str | Path) -> list[Path]:
    """Write each chart of the page into a folder, as SVG and as PNG; return the files.

    They are called by section and title, such as `calibration-click-all.svg`; of charts above each
    other in one figure, those after the first have a number. The folder keeps what else it holds.
    """
    need_extra()
    from polyrank.report.pictures import pictures

    place = local(folder, "the folder of charts")
    with writing(f"the charts in {place}", PolyrankError):
        place.mkdir(parents=True, exist_ok=True)
        found = []
        for name, content in pictures(evidence):
            with replacing(place / name) as temporary:
                temporary.write_bytes(content)
            found.append(place / name)
    return found


def write_comparison(found: Comparison, path: str | Path) -> Path:
    """Write the page of what `polyrank.report.compare.compare` found, as `write` does."""
    need_extra()
    from polyrank.report.differences import comparison_page

    return _put(comparison_page(found, written=datetime.now().astimezone()), path)


def write_replay(found: Replay, path: str | Path) -> Path:
    """Write the page of a replay, as `write` does."""
    need_extra()
    from polyrank.report.replayed import replay_page

    return _put(replay_page(found, written=datetime.now().astimezone()), path)


def write_tuned(found: Tuned, path: str | Path) -> Path:
    """Write the page of a search, as `write` does."""
    need_extra()
    from polyrank.report.tuned import tuned_page

    return _put(tuned_page(found, written=datetime.now().astimezone()), path)


def write_monitored(found: Monitored, path: str | Path) -> Path:
    """Write the page of what `polyrank.report.monitoring.monitor` found, as `write` does."""
    need_extra()
    from polyrank.report.drifted import monitored_page

    return _put(monitored_page(found, written=datetime.now().astimezone()), path)


def _put(text: str, path: str | Path) -> Path:
    path = local(path, "the page")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PolyrankError(f"the report {path} could not be written: {error}") from error
    return path
