"""What every results file records about itself: machine, versions, commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def origin(*packages: str) -> dict[str, Any]:
    """Return the machine, the versions of Python, polyrank and `packages`, and the commit."""
    return {
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("polyrank", "torch", "numpy", *packages)},
        },
        "commit": _commit(),
    }


def write(path: Path, table: dict[str, Any]) -> None:
    """Replace a results file, whole: one that is interrupted leaves the file before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    half.replace(path)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit, with a plus where tracked files differ from it."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True,
                               text=True, check=True).stdout.strip()  # fmt: skip
        clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "../../src"], check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found + ("+" if clean.returncode else "")
