"""`polyrank train EXP.toml`."""

from __future__ import annotations

from pathlib import Path


def train(
    experiment: Path,
    /,
    *,
    out: Path | None = None,
    resume: bool = False,
    force: bool = False,
    set: tuple[str, ...] = (),
    profile: bool = False,
    json: bool = False,
) -> None:
    """Train an experiment and write its run folder.

    Args:
        experiment: the TOML file.
        out: the run folder; runs/NAME by default.
        resume: continue the run in that folder, to the same bits as an uninterrupted one.
        force: replace the run in that folder.
        set: change a key of the file, such as train.epochs=3 or task.buy.space=click; may be
            repeated.
        profile: show where a step's time goes: load (the next batch gathered from the table),
            gather (embeddings looked up), forward, backward, dense step, embedding step. The
            weights are the same as without.
        json: print the run and its scorecard as JSON.
    """
    from polyrank.cli.show import print_json, print_profile
    from polyrank.config import Experiment
    from polyrank.train.progress import Profile

    loaded = Experiment.load(experiment, set)
    measured = Profile() if profile else None
    folder = out or Path("runs") / loaded.name
    try:
        bundle = loaded.fit(out=folder, resume=resume, force=force, progress=True, profile=measured)
    except KeyboardInterrupt:
        import sys

        if folder.exists():
            sys.stderr.write(f"{folder} is readable; continue it with --resume\n")
        raise
    card = bundle.scorecard
    if json:
        found = {"run": str(folder), "scorecard": card.to_json() if card else None}
        print_json(found | ({"profile": measured.record()} if measured else {}))
        return
    print(card if card else "nothing was scored: there are neither validation nor test rows")
    if measured:
        print()
        print_profile(measured.record())
    print(f"\nepoch {bundle.kept_epoch} of {bundle.history.height} is kept\nrun: {folder}")
