"""The run folder: readable at every moment, one process's at a time, and resumable.

config.toml  log.jsonl  checkpoint/state.safetensors  bundle/  scorecard.json
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from polyrank.bundle.model import Bundle
from polyrank.errors import ConfigError, TrainingError
from polyrank.files import locked, replacing, replacing_folder, writing
from polyrank.train import checkpoint
from polyrank.train.loop import Trainer
from polyrank.train.progress import Progress

CONFIG = "config.toml"


@contextmanager
def run_folder(
    path: str | Path, config: Mapping[str, Any], *, resume: bool = False, force: bool = False
) -> Iterator[RunFolder]:
    """Give a run's folder, and keep every other process out of it meanwhile.

    Args:
        path: the folder.
        config: the resolved experiment as plain tables.
        resume: continue the run in it, if any.
        force: replace the run in it, if any.

    Raises:
        ConfigError: the folder exists, holds a run of another configuration, or is in use.
    """
    path = Path(path)
    lock = path.parent / f".{path.name}.lock"
    with ExitStack() as stack:
        with writing(path, TrainingError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(lock, wait=False))
            except BlockingIOError:
                raise ConfigError(
                    f"another process is training in {path}: wait for it, or choose another --out"
                ) from None
        yield RunFolder(path, config, resume=resume, force=force)


class RunFolder:
    """One run's folder; constructing it checks the options, `open` creates it.

    The arguments are those of `run_folder`.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], *, resume: bool = False, force: bool = False
    ) -> None:
        self.path, self.config, self.resume, self.data = path, config, resume, ""
        self._log, self._checkpoint = path / "log.jsonl", path / "checkpoint" / "state.safetensors"
        if resume and force:
            raise ConfigError("resume continues a run and force replaces it: give one of them")
        if path.exists() and resume:
            self._check()
        elif path.exists() and not force:
            raise ConfigError(
                f"{path} exists: resume it with --resume, replace it with --force, or choose "
                "another --out"
            )
        elif path.exists() and not (path / CONFIG).is_file():
            raise ConfigError(f"{path} is no run folder (no {CONFIG}): it is not replaced")

    def open(self, data: str) -> None:
        """Create the folder with its configuration, unless its run is resumed.

        Args:
            data: the fingerprint of the rows.
        """
        self.data = data
        if self.resume and self.path.exists():
            return
        with writing(self.path, TrainingError), replacing_folder(self.path) as temporary:
            (temporary / CONFIG).write_text(tomli_w.dumps(dict(self.config)), encoding="utf-8")

    def restore(self, trainer: Trainer) -> None:
        """Bring a trainer to the last checkpoint, if any, and cut the log there."""
        if self._checkpoint.is_file():
            trainer.load(*checkpoint.read(self._checkpoint, self.data))
        if self._log.is_file():
            kept = [
                line
                for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()
                if _epoch(line) <= trainer.position.epoch
            ]
            _replace(self._log, "".join(f"{line}\n" for line in kept))

    def record(self, progress: Progress, trainer: Trainer) -> None:
        """Append a line of JSON to the log, and after an epoch replace the checkpoint."""
        entry = {"event": progress.event, "step": progress.step, **progress.record()}
        with writing(self._log, TrainingError), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
        if progress.event == "epoch":
            checkpoint.write(self._checkpoint, trainer.position, trainer.state(), self.data)

    def finish(self, bundle: Bundle) -> None:
        """Write the bundle and, beside it, the scorecard."""
        bundle.save(self.path / "bundle")
        if bundle.scorecard is not None:
            text = json.dumps(bundle.scorecard.to_json(), ensure_ascii=False, indent=1)
            _replace(self.path / "scorecard.json", f"{text}\n")

    def _check(self) -> None:
        try:
            found = tomllib.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path} holds no run that can be resumed: {error}") from error
        # The same round trip for both: TOML knows no tuple and no None.
        difference = _difference(found, tomllib.loads(tomli_w.dumps(dict(self.config))))
        if difference:
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({difference}): --resume needs "
                "the same one; use --force or another --out"
            )


def _replace(path: Path, text: str) -> None:
    with writing(path, TrainingError), replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
