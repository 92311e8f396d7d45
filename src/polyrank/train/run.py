"""The run folder: readable at every moment, and what `--resume` goes on from.

config.toml  log.jsonl  checkpoint/state.safetensors  bundle/  scorecard.json
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import tomli_w

from polyrank.bundle.model import Bundle
from polyrank.errors import ConfigError, TrainingError
from polyrank.files import replacing
from polyrank.train import checkpoint
from polyrank.train.loop import Trainer
from polyrank.train.progress import Progress

CONFIG = "config.toml"


class RunFolder:
    """One run's folder; constructing it refuses what cannot be, `open` creates it.

    Args:
        path: the folder.
        config: the resolved experiment as plain tables.
        resume: go on with the run that is there, if any.
        force: remove the run that is there.

    Raises:
        ConfigError: the folder exists, or holds a run of another configuration.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        self.path, self.config = Path(path), config
        if resume and force:
            raise ConfigError("resume goes on with a run and force removes it: give one of them")
        if self.path.exists() and resume:
            self._check()
        elif self.path.exists() and not force:
            raise ConfigError(
                f"{self.path} exists: go on with it by --resume, replace it by --force, or choose "
                "another by --out"
            )
        elif self.path.exists() and not (self.path / CONFIG).is_file():
            raise ConfigError(f"{self.path} is no run folder (no {CONFIG}): it is not removed")
        self.force, self.data = force, ""

    def open(self, data: str) -> None:
        """Create the folder with its configuration, unless it is gone on with.

        Args:
            data: the fingerprint of the rows.
        """
        self.data = data
        if self.force and self.path.exists():
            shutil.rmtree(self.path)
        if self.path.exists():
            return
        with _writing(self.path):
            temporary = self.path.parent / f".{self.path.name}.{uuid4().hex[:8]}"
            try:
                temporary.mkdir(parents=True)
                (temporary / CONFIG).write_text(tomli_w.dumps(dict(self.config)), encoding="utf-8")
                temporary.rename(self.path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    @property
    def bundle(self) -> Path:
        """Folder of the bundle."""
        return self.path / "bundle"

    def restore(self, trainer: Trainer) -> None:
        """Bring a trainer to the last checkpoint, if any, and cut the log there."""
        saved = self.path / "checkpoint" / "state.safetensors"
        if saved.is_file():
            trainer.load(*checkpoint.read(saved, self.data))
        log = self.path / "log.jsonl"
        if log.is_file():
            kept = [
                line
                for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
                if _epoch(line) <= trainer.position.epoch
            ]
            with _writing(log), replacing(log) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def log(self, progress: Progress) -> None:
        """Append one line of JSON."""
        entry = {"event": progress.event, "step": progress.step, **progress.record()}
        log = self.path / "log.jsonl"
        with _writing(log), log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")

    def checkpoint(self, trainer: Trainer) -> None:
        """Replace the checkpoint."""
        path = self.path / "checkpoint" / "state.safetensors"
        checkpoint.write(path, trainer.position, trainer.state(), self.data)

    def finish(self, bundle: Bundle) -> None:
        """Write the bundle and, beside it, the scorecard."""
        bundle.save(self.bundle)
        if bundle.scorecard is not None:
            text = json.dumps(bundle.scorecard.to_json(), ensure_ascii=False, indent=1)
            path = self.path / "scorecard.json"
            with _writing(path), replacing(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    def _check(self) -> None:
        try:
            found = tomllib.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path} holds no run to go on with: {error}") from error
        # The same round trip for both: TOML knows no tuple and no None.
        difference = _difference(found, tomllib.loads(tomli_w.dumps(dict(self.config))))
        if difference:
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({difference}): --resume goes "
                "on with the same one; use --force or another --out"
            )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error}") from error


def _epoch(line: str) -> int:
    try:
        return int(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62  # a line that a kill tore: after every checkpoint


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> str:
    for key in [*old, *(key for key in new if key not in old)]:
        name = f"{where}.{key}" if where else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _difference(before, after, name)
            if inner:
                return inner
        elif before != after:
            return f"{name} was {before!r} and is {after!r}"
    return ""
