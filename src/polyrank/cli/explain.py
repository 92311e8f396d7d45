"""`polyrank explain EXP.toml`."""

from __future__ import annotations

from pathlib import Path


def explain(experiment: Path, /, *, set: tuple[str, ...] = (), json: bool = False) -> None:
    """Show the plan of an experiment: objective, rows, positives, parameters, memory.

    Args:
        experiment: the TOML file.
        set: change a key of the file, such as task.buy.space=click; may be repeated.
        json: print the plan as JSON.
    """
    from polyrank.cli.show import show
    from polyrank.config import Experiment
    from polyrank.train.explain import explain as planned

    loaded = Experiment.load(experiment, set)
    found = planned(loaded.schema, loaded.model, loaded.training, loaded.sources(), loaded.fusion)
    show(found, json=json)
