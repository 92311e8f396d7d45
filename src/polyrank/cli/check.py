"""`polyrank check EXP.toml`."""

from __future__ import annotations

from pathlib import Path


def check(experiment: Path, /, *, set: tuple[str, ...] = (), json: bool = False) -> int:
    """Audit the log of an experiment: leaks, labels, repeated rows, time order, drift.

    The exit code is 1 if there is an error.

    Args:
        experiment: the TOML file.
        set: change a key of the file, such as data.orphans=drop; may be repeated.
        json: print the findings as JSON.
    """
    from polyrank.cli.show import print_json
    from polyrank.config import Experiment

    found = Experiment.load(experiment, set).audit()
    if json:
        print_json(found.to_json())
    else:
        print(found)
    return 1 if found.failed else 0
