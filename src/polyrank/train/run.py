"""The run folder: readable at every moment, one process's at a time, and resumable.

config.toml  log.jsonl  checkpoint/state.safetensors  bundle/  scorecard.json
"""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from math import inf
from pathlib import Path
from typing import Any

import tomli_w

from polyrank.bundle.model import Bundle
from polyrank.data.memory import AUTO
from polyrank.errors import ConfigError, TrainingError
from polyrank.files import locked, replacing, replacing_folder, writing
from polyrank.paths import local
from polyrank.train.loop import Position
from polyrank.train.progress import Progress

logger = logging.getLogger(__name__)

CONFIG = "config.toml"


@contextmanager
def only_writer(path: Path, doing: str) -> Generator[None]:
    """Keep others out of a folder that may not exist yet.

    Raises:
        ConfigError: another process has it; `doing` says what it does, such as "training in".
        TrainingError: its lock cannot be written.
    """
    path = local(path, "the run folder")
    with ExitStack() as stack:
        with writing(path, TrainingError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(path.parent / f".{path.name}.lock", wait=False))
            except BlockingIOError:
                raise ConfigError(
                    f"another process is {doing} {path}: wait for it, or choose another --out"
                ) from None
        yield


@contextmanager
def run_folder(
    path: str | Path, config: Mapping[str, Any], *, resume: bool = False, force: bool = False
) -> Generator[RunFolder]:
    """Give a run's folder and keep others out; `resume` continues its run, `force` replaces it."""
    path = local(path, "the run folder")
    with only_writer(path, "training in"):
        if resume and force:
            raise ConfigError("resume continues a run and force replaces it: give one of them")
        if path.exists() and resume:
            config = _resumed(path, config)
        elif path.exists() and not force:
            raise ConfigError(
                f"{path} exists: resume it with --resume, replace it with --force, or choose "
                "another --out"
            )
        elif path.exists() and not (path / CONFIG).is_file():
            raise ConfigError(f"{path} is no run folder (no {CONFIG}): it is not replaced")
        yield RunFolder(path, config, resume)


class RunFolder:
    """One run's folder; `open` creates it."""

    def __init__(self, path: Path, config: Mapping[str, Any], resume: bool) -> None:
        self.path, self.config, self.resume = path, config, resume
        self._log = path / "log.jsonl"

    def open(self) -> None:
        """Create the folder, unless its run is resumed."""
        if self.resume and self.path.exists():
            return
        with writing(self.path, TrainingError), replacing_folder(self.path) as temporary:
            (temporary / CONFIG).write_text(tomli_w.dumps(dict(self.config)), encoding="utf-8")

    def cut(self, position: Position) -> None:
        """Leave in the log what was before a position."""
        if self._log.is_file():
            # The line of a checkpoint is written before it, so that it is the last one that counts.
            last = (position.epoch + 1, position.step) if position.step else (position.epoch, inf)
            kept = [
                line
                for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()
                if _place(line) <= last
            ]
            _replace(self._log, "".join(f"{line}\n" for line in kept))

    def record(self, progress: Progress) -> None:
        """Append a line of JSON to the log."""
        entry = {"event": progress.event, "step": progress.step, **progress.record()}
        with writing(self._log, TrainingError), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")

    def finish(self, bundle: Bundle) -> None:
        """Write the bundle and, beside it, the scorecard."""
        bundle.save(self.path / "bundle")
        if bundle.scorecard is not None:
            text = json.dumps(bundle.scorecard.to_json(), ensure_ascii=False, indent=1)
            _replace(self.path / "scorecard.json", f"{text}\n")


def measured_rate(folder: Path) -> float | None:
    """Return the rows per second of the last epoch that one process trained in a run folder."""
    log = folder / "log.jsonl"
    found = None
    if log.is_file():
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # a kill tore it
                continue
            if entry.get("event") == "epoch" and entry.get("ranks") == 1:
                found = entry["rows_per_second"]
    return found


def _resumed(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of the run in a folder, which a given one must equal.

    Where the given one leaves the memory to what is free, it is what was free at the start.
    """
    try:
        found = tomllib.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no run that can be resumed: {error}") from error
    data = config.get("data", {})
    if data.get("memory") == AUTO:
        before = found.get("data", {}).get("memory", AUTO)
        config = {**config, "data": {**data, "memory": before}}
    # The same round trip for both: TOML knows no tuple and no None.
    difference = differs(found, tomllib.loads(tomli_w.dumps(dict(config))))
    if difference:
        raise ConfigError(
            f"{path} holds a run of another configuration ({difference}): --resume needs "
            "the same one; use --force or another --out"
        )
    return config


def _replace(path: Path, text: str) -> None:
    with writing(path, TrainingError), replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _place(line: str) -> tuple[float, float]:
    """Return the epoch and the step of a line of the log; those of an epoch come last in it."""
    try:
        entry = json.loads(line)
        return entry["epoch"], entry["step"] if entry["event"] != "epoch" else inf
    except (ValueError, KeyError, TypeError):
        return inf, inf  # a line that a kill tore: after every checkpoint


def differs(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> str:
    """Return in words the first key in which two configurations differ, or nothing."""
    for key in [*old, *(key for key in new if key not in old)]:
        name = f"{where}.{key}" if where else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = differs(before, after, name)
            if inner:
                return inner
        elif before != after:
            return f"{name} was {before!r} and is {after!r}"
    return ""
