"""`polyrank train EXP.toml`."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def train(
    experiment: Path,
    /,
    *,
    out: Path | None = None,
    resume: bool = False,
    force: bool = False,
    set: tuple[str, ...] = (),
    start: Path | None = None,
    seeds: int | None = None,
    profile: bool = False,
    json: bool = False,
) -> None:
    """Train an experiment and write its run folder.

    Several processes train it together: torchrun --nproc-per-node=2 -m polyrank train EXP.toml.

    Args:
        experiment: the TOML file.
        out: the run folder; runs/NAME by default.
        resume: continue the run in that folder, to the same bits as an uninterrupted one.
        force: replace the run in that folder.
        set: change a key of the file, such as train.epochs=3 or task.buy.space=click; may be
            repeated.
        start: go on from the weights of this run folder or bundle, on new rows alone: the same as
            start.run of the file.
        seeds: train so many seeds, from the experiment's on, each into a run folder OUT/seed-N, and
            print the mean and the standard deviation of every score.
        profile: show where a step's time goes: load (the next batch gathered from the table),
            gather (embeddings looked up), forward, backward, dense step, embedding step. The
            weights are the same as without.
        json: print the run and its scorecard as JSON.
    """
    from json import dumps as json_text

    from polyrank.bundle.format import seed_runs
    from polyrank.cli.show import print_json, print_profile, show
    from polyrank.config import Experiment
    from polyrank.errors import ConfigError
    from polyrank.paths import absolute
    from polyrank.ranks import launched, speaks
    from polyrank.train.progress import Profile

    if not speaks():  # what it would say, the first process of the run says
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.ERROR)
    begun = () if start is None else (f"start.run={json_text(absolute(start))}",)
    loaded = Experiment.load(experiment, (*set, *begun))
    folder = out or Path("runs") / loaded.name
    if seeds is not None:
        if profile:
            raise ConfigError("--profile is of a single run: leave out --seeds")
        if launched():
            raise ConfigError("--seeds starts processes of its own: start it without a launcher")
        with _readable(folder):
            found = loaded.fit_seeds(seeds, out=folder, resume=resume, force=force, progress=True)
        show(found, json=json)
        if not json:
            print(f"\nruns: {' '.join(map(str, found.runs.values()))}")
        return
    if seed_runs(folder):
        raise ConfigError(
            f"{folder} holds a run of each of several seeds: give --seeds, or choose another --out"
        )
    measured = Profile() if profile else None
    with _readable(folder):
        bundle = loaded.fit(out=folder, resume=resume, force=force, progress=True, profile=measured)
    card = bundle.scorecard
    if not speaks():
        return
    if json:
        ran = {"run": str(folder), "scorecard": card.to_json() if card else None}
        print_json(ran | ({"profile": measured.record()} if measured else {}))
        return
    print(card if card else "nothing was scored: there are neither validation nor test rows")
    if measured:
        print()
        print_profile(measured.record())
    print(f"\nepoch {bundle.kept_epoch} of {bundle.history.height} is kept")
    if bundle.without_network:
        print(
            f"the network adds nothing to {', '.join(bundle.without_network)}: on the validation "
            "rows, the first stages alone are better, or they are too few to tell; "
            "settings of the network change nothing there"
        )
    print(f"run: {folder}")


@contextmanager
def _readable(folder: Path) -> Generator[None]:
    """Say after Ctrl-C that what is written is of use."""
    try:
        yield
    except KeyboardInterrupt:
        import sys

        if folder.exists():
            sys.stderr.write(f"{folder} is readable; continue it with --resume\n")
        raise
