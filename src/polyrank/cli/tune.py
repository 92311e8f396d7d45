"""`polyrank tune EXP.toml`."""

from __future__ import annotations

from pathlib import Path


def tune(
    experiment: Path,
    /,
    *,
    out: Path | None = None,
    trials: int | None = None,
    resume: bool = False,
    force: bool = False,
    set: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Search better settings on validation rows, and score the winner once on test rows.

    Several processes share a search: start the command in each with the same --out and --resume.

    Args:
        experiment: the TOML file; its table [tune] says how to search, and where.
        out: the folder of the search; runs/NAME-tune by default.
        trials: how many settings are tried, the same as tune.trials of the file.
        resume: go on with the search in that folder, or join the processes at work on it.
        force: replace the search in that folder.
        set: change a key of the file, such as tune.score="buy @ all"; may be repeated.
        json: print trials, finalists and test scores as JSON.
    """
    import sys

    from polyrank import report
    from polyrank.cli.show import print_json
    from polyrank.config import Experiment
    from polyrank.tune.tuned import Trial

    given = () if trials is None else (f"tune.trials={trials}",)
    loaded = Experiment.load(experiment, (*set, *given))
    folder = out or Path("runs") / f"{loaded.name}-tune"

    def told(trial: Trial) -> None:
        sys.stderr.write(f"{trial}\n")

    try:
        found = loaded.tune(out=folder, resume=resume, force=force, progress=False, told=told)
    except KeyboardInterrupt:
        if folder.exists():
            sys.stderr.write(f"{folder} keeps its trials; go on with --resume\n")
        raise
    page = str(report.write_tuned(found, folder / "tune.html")) if report.installed() else None
    if json:
        print_json(found.to_json() | {"page": page})
        return
    print(f"{found}\n\nsearch: {folder}\nwinner: {found.toml}")
    print(f"runs:   {' '.join(str(run) for run in found.winner.runs.runs.values())}")
    print(f"page:   {page}" if page else report.HOW_TO_INSTALL)
