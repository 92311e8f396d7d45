"""Writing the page; the extra that draws it is looked for here, before anything is read."""

from __future__ import annotations

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from polyrank.errors import PolyrankError
from polyrank.files import replacing
from polyrank.report.evidence import Evidence

HOW_TO_INSTALL = "the report needs the extra [report]: pip install 'polyrank[report]'"


def installed() -> bool:
    """Whether the libraries that draw a page are there."""
    return find_spec("altair") is not None and find_spec("vl_convert") is not None


def need_extra() -> None:
    """Refuse where the libraries that draw a page are missing.

    Raises:
        PolyrankError: they are, and how to install them.
    """
    if not installed():
        raise PolyrankError(HOW_TO_INSTALL)


def write(evidence: Evidence, path: str | Path) -> Path:
    """Write the page, whole or not at all.

    Args:
        evidence: of `gather`.
        path: of the HTML file; what is there is replaced.

    Returns:
        The path.

    Raises:
        PolyrankError: the extra is not installed, or the file cannot be written.
    """
    need_extra()
    from polyrank.report.page import page

    path = Path(path)
    text = page(evidence, written=datetime.now().astimezone())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PolyrankError(f"the report {path} could not be written: {error}") from error
    return path
