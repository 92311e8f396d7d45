"""`polyrank check EXP.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def check(
    experiment: Path,
    /,
    *,
    set: Annotated[list[str], Parameter(negative=())] = [],  # noqa: B006
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Audit the log of an experiment: leaks, labels, repeated rows, time order, drift.

    The exit code is 1 if there is an error.

    Args:
        experiment: the TOML file.
        set: change a key of the file, such as data.orphans=drop; may be repeated.
        json: print the findings as JSON.
    """
    from polyrank.balance import Sum
    from polyrank.cli.show import print_json
    from polyrank.config import Experiment
    from polyrank.data.check import check as audit
    from polyrank.data.read import read

    loaded = Experiment.load(experiment, set)
    sources, balance = loaded.sources(), loaded.training.balance
    found = audit(
        loaded.schema,
        {split: read(source, loaded.schema) for split, source in sources.splits.items()},
        orphans=sources.orphans,
        normalized=isinstance(balance, Sum) and balance.normalize,
    )
    if json:
        print_json(found.to_json())
    else:
        print(found)
    return 1 if found.failed else 0
