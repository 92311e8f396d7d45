"""Runs of one experiment with several seeds, in one folder, and what they score together.

OUT/
  seed-3/ seed-4/ …   whole run folders
  seeds.json          what the finished ones score: each scorecard, means and deviations

Which runs there are, and which are finished, is read from their folders: seeds.json only sums up,
so a kill between two files leaves nothing that contradicts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError, safe_open

from polyrank.bundle.format import MANIFEST, seed_runs
from polyrank.bundle.model import load
from polyrank.errors import ConfigError, TrainingError
from polyrank.files import replacing, writing
from polyrank.metrics.scorecard import Scorecard
from polyrank.metrics.seeds import SeedScores
from polyrank.train.checkpoint import CHECKPOINT
from polyrank.train.run import CONFIG, RunFolder, only_writer, run_folder

SUMMARY = "seeds.json"
FORMAT = 1  # of the summary


@dataclass(frozen=True)
class SeedRuns:
    """Finished runs of one experiment that differ in their seed; prints what they score.

    Args:
        folder: which holds them.
        cards: the scorecard of each by seed; None where nothing was scored.
    """

    folder: Path
    cards: Mapping[int, Scorecard | None]

    @property
    def runs(self) -> dict[int, Path]:
        """The run folders by seed."""
        return {seed: run_of(self.folder, seed) for seed in self.cards}

    @property
    def scores(self) -> SeedScores | None:
        """Means and deviations; None where nothing was scored, or not yet all on the same rows."""
        cards = {seed: card for seed, card in self.cards.items() if card is not None}
        splits = {card.split for card in cards.values()}
        return SeedScores(cards) if len(splits) == 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return plain tables: `runs`, each with its scorecard, and `scores` over the seeds."""
        runs = [
            {"seed": seed, "run": str(self.runs[seed]), "scorecard": card and card.to_json()}
            for seed, card in self.cards.items()
        ]
        scores = {"scores": []} if self.scores is None else self.scores.to_json()
        return {"format": FORMAT, "runs": runs, **scores}

    def write(self) -> None:
        """Write the summary; its paths are relative, so that the folder may be moved."""
        table = self.to_json()
        for run in table["runs"]:
            run["run"] = Path(run["run"]).name
        path, text = self.folder / SUMMARY, json.dumps(table, ensure_ascii=False, indent=1)
        with writing(path, TrainingError), replacing(path) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")

    def __str__(self) -> str:
        if self.scores is None:
            return "nothing was scored: there are neither validation nor test rows"
        return str(self.scores)

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>" if self.scores is None else self.scores._repr_html_()


def run_of(folder: Path, seed: int) -> Path:
    """Return the run folder of a seed."""
    return folder / f"seed-{seed}"


@contextmanager
def seeds_folder(
    folder: Path, seeds: Sequence[int], *, resume: bool = False, force: bool = False
) -> Generator[None]:
    """Keep others out of a folder of seeds; `resume` continues its runs, `force` replaces them.

    Replaced runs come back if no new one begins, as where the rows are refused.
    """
    if resume and force:
        raise ConfigError("resume continues runs and force replaces them: give one of them")
    with only_writer(folder, "training in"):
        old = None
        if not _is_empty(folder):
            _check(folder, seeds, resume=resume, force=force)
            if force:
                old = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
                folder.rename(old)
        try:
            yield
        finally:
            if old is None:
                with suppress(OSError):  # it holds something
                    folder.rmdir()
            elif seed_runs(folder):
                shutil.rmtree(old)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                old.rename(folder)


def finished(run: Path, config: Mapping[str, Any]) -> bool:
    """Whether a run has its bundle and its scorecard; one of another configuration is refused."""
    files = [run / "bundle" / MANIFEST]
    if (run / "bundle" / "scorecard.json").is_file():
        files.append(run / "scorecard.json")
    if not all(file.is_file() for file in files):
        return False
    with run_folder(run, config, resume=True):
        return True


def scorecard_of(run: Path) -> Scorecard | None:
    """Return a finished run's scorecard; None where nothing was scored."""
    path = run / "scorecard.json"
    if not path.is_file():
        return None
    try:
        return Scorecard.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def rescored(found: SeedRuns, rows: Any, split: str) -> SeedRuns:
    """Return runs that were trained without some rows with their scorecards on these, saved."""
    cards: dict[int, Scorecard | None] = {}
    for seed, run in found.runs.items():
        card = scorecard_of(run)
        if card is None or card.split != split:
            bundle = load(run / "bundle")
            card = bundle.evaluate(rows, split=split)
            RunFolder(run, bundle.config, resume=True).finish(replace(bundle, scorecard=card))
        cards[seed] = card
    scored = SeedRuns(found.folder, cards)
    scored.write()
    return scored


def check_rows(runs: Sequence[Path]) -> None:
    """Refuse runs on different rows: files may change between two of them."""
    found = {run: rows for run in runs if (rows := _rows(run)) is not None}
    for run, rows in found.items():
        first, expected = next(iter(found.items()))
        if rows != expected:
            raise TrainingError(
                f"{run} learned other rows ({rows}) than {first} ({expected}), so their scores do "
                "not differ in the seed alone: the files have changed; start again with --force"
            )


def _rows(run: Path) -> str | None:
    """The fingerprint of the rows that a run learned, if its checkpoint is still there."""
    try:
        with safe_open(run / CHECKPOINT, framework="np") as file:
            return file.metadata()["data"]
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing, or only what a killed run left hidden before it began."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())


def _check(folder: Path, seeds: Sequence[int], *, resume: bool, force: bool) -> None:
    """Refuse a folder that is in the way, or whose runs would not be those of these seeds."""
    known = seed_runs(folder)
    if not known and not (force and (folder / CONFIG).is_file()):
        what = "is a single run" if (folder / CONFIG).is_file() else "holds no runs of seeds"
        fix = "replace it with --force or choose" if (folder / CONFIG).is_file() else "choose"
        raise ConfigError(f"{folder} {what}: {fix} another --out")
    if not resume and not force:
        raise ConfigError(
            f"{folder} exists: resume its runs with --resume, replace them with --force, or choose "
            "another --out"
        )
    if resume and not set(known) <= set(seeds):
        first, last = min(known), max(known)
        raise ConfigError(
            f"{folder} holds the seeds {_listed(known)}, and these are the seeds {_listed(seeds)}: "
            "--resume needs all that are there and may add to them; give --set seed="
            f"{first} --seeds {last - first + 1}, or choose another --out"
        )


def _listed(seeds: Sequence[int] | Mapping[int, Any]) -> str:
    return ", ".join(map(str, seeds))
