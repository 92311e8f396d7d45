"""Render the README's picture from a real run: the top of a report, as Chromium shows it.

A generated log of several outcomes is trained on with the defaults, and its report is opened
without a window. Writes docs/images/report.png.

    python docs/pictures.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from polyrank.cli.app import run

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1200, 1240
LOG = ["--rows", "200000", "--seed", "1", "--part", "reactions", "--part", "stars"]


def main() -> None:
    """Train, report, and photograph."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit("docs/pictures.py needs chromium")
    IMAGES.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        log = f"{folder}/log"
        steps = [
            ["data", "make", "synthetic", *LOG, "--out", log],
            ["train", f"{log}/experiment.toml", "--out", f"{folder}/feed"],
            ["report", f"{folder}/feed"],
        ]
        for step in steps:
            if run(step) != 0:
                sys.exit(f"polyrank {' '.join(step)} failed")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=8000",
            f"--screenshot={IMAGES / 'report.png'}", f"file://{folder}/feed/report.html",
        ]  # fmt: skip
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
