"""`polyrank check EXP.toml`."""

from __future__ import annotations

from pathlib import Path


def check(experiment: Path, /, *, set: tuple[str, ...] = (), json: bool = False) -> int:
    """Audit the log of an experiment; the exit code is 1 if there is an error.

    Args:
        experiment: the TOML file.
        set: change a key of the file, such as data.orphans=drop; may be repeated.
        json: print the findings as JSON.
    """
    from polyrank.cli.show import show
    from polyrank.config import Experiment

    found = Experiment.load(experiment, set).audit()
    show(found, json=json)
    return 1 if found.failed else 0
