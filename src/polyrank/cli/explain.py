"""`polyrank explain EXP.toml`."""

from __future__ import annotations

from pathlib import Path


def explain(
    experiment: Path,
    /,
    *,
    set: tuple[str, ...] = (),
    ranks: int | None = None,
    memory: str | None = None,
    json: bool = False,
) -> None:
    """Show the plan of an experiment: objective, rows, positives, parameters, memory.

    Args:
        experiment: the TOML file.
        set: change a key of the file, such as task.buy.space=click; may be repeated.
        ranks: also what each of so many processes needs that train it together: memory, bytes
            exchanged a step, and the time of an epoch, by what the log in runs/NAME has measured.
        memory: what each of them may take, such as 16GiB; the plan says whether it fits.
        json: print the plan as JSON.
    """
    from polyrank.cli.show import show
    from polyrank.config import Experiment
    from polyrank.data.memory import bytes_of
    from polyrank.errors import ConfigError
    from polyrank.spec import whole
    from polyrank.train.explain import explain as planned
    from polyrank.train.run import measured_rate

    if ranks is not None:
        whole("ranks", ranks)
    elif memory is not None:
        raise ConfigError("--memory is of each of several processes: give --ranks as well")
    loaded = Experiment.load(experiment, set)
    found = planned(
        loaded.schema, loaded.model, loaded.training, loaded.sources(), loaded.fusion, loaded.start,
        ranks=ranks,
        limit=None if memory is None else bytes_of(memory),
        rate=measured_rate(Path("runs") / loaded.name),
    )  # fmt: skip
    show(found, json=json)
