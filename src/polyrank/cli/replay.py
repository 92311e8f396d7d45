"""`polyrank replay EXP.toml --by COLUMN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def replay(
    experiment: Path,
    /,
    *,
    by: str,
    first: Annotated[str | None, Parameter(name="--from")] = None,
    last: Annotated[str | None, Parameter(name="--to")] = None,
    every: str | None = None,
    strategy: tuple[str, ...] = (),
    window: int | None = None,
    retain: float = 0.9,
    valid: float = 0.1,
    score: str | None = None,
    metric: str | None = None,
    out: Path | None = None,
    resume: bool = False,
    force: bool = False,
    set: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Score each day of a log by the model of the day before, then learn it.

    Args:
        experiment: the TOML file; its source, or its training rows, are the log.
        by: a column whose values are periods, such as day; or times, with --every.
        first: period that is scored; by default the second one.
        last: period that is scored and learned; by default the last one.
        every: the length of a period: 1d of a time, 86400 of a number of seconds.
        strategy: scratch, warm or forget; may be repeated. All three by default.
        window: periods that scratch learns; all so far by default.
        retain: share of what earlier days told that still counts, of forget.
        valid: share of each run's rows that choose its epoch and calibrate.
        score: that is shown, such as "buy @ all"; the JSON has all.
        metric: that is shown, such as log_loss.
        out: the folder; runs/NAME-replay by default.
        resume: go on with the replay in that folder; finished days stay as they are.
        force: replace it.
        set: change a key of the file, such as train.epochs=3; may be repeated.
        json: print every scorecard and cost as JSON.
    """
    from polyrank import report
    from polyrank.cli.show import print_json
    from polyrank.config import Experiment

    loaded = Experiment.load(experiment, set)
    folder = out or Path("runs") / f"{loaded.name}-replay"
    found = loaded.replay(
        by, first=first, last=last, every=every, names=strategy, window=window, retain=retain,
        valid=valid, score=score, metric=metric, out=folder, resume=resume, force=force,
        progress=None,
    )  # fmt: skip
    page = None
    if report.installed():
        page = str(report.write_replay(found, folder / "replay.html"))
    if json:
        print_json(found.to_json() | {"page": page})
        return
    print(found)
    print(f"\nreplay: {folder}")
    print(f"page: {page}" if page else report.HOW_TO_INSTALL)
