"""The run folder: readable at every moment, one process's at a time, and resumable.

config.toml  log.jsonl  checkpoint/state.safetensors  bundle/  scorecard.json

A checkpoint's tensors are named by their owner (`model.…`, `best.…`, `embeddings.…`, `dense.…`,
`balance.…`); the rest is JSON in the file's header. Nothing is pickled.
"""

from __future__ import annotations

import json
import logging
import os
import tomllib
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any

import tomli_w
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polyrank.bundle.model import Bundle
from polyrank.data.memory import AUTO
from polyrank.errors import ConfigError, TrainingError
from polyrank.files import locked, replacing, replacing_folder, writing
from polyrank.train.loop import Position, Trainer
from polyrank.train.progress import Progress

logger = logging.getLogger(__name__)

CONFIG = "config.toml"
CHECKPOINT = Path("checkpoint") / "state.safetensors"
FORMAT = 2  # of a checkpoint


@contextmanager
def run_folder(
    path: str | Path, config: Mapping[str, Any], *, resume: bool = False, force: bool = False
) -> Generator[RunFolder]:
    """Give a run's folder and keep others out; `resume` continues its run, `force` replaces it."""
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
        with closing(_Writer()) as writer:
            yield RunFolder(path, config, resume, writer)


class _Writer:
    """Writes one thing at a time while training goes on; what it raises, the next call raises."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="polyrank-checkpoint")
        self._written: Future[None] | None = None

    def start(self, write: Callable[..., None], *arguments: Any) -> None:
        """Begin to write."""
        self._written = self._pool.submit(write, *arguments)

    def wait(self) -> None:
        """Return once what was begun is written."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Let what was begun be written, also where training was stopped; log what fails then."""
        self._pool.shutdown()
        if self._written is not None and (error := self._written.exception()) is not None:
            logger.warning("%s", error)


class RunFolder:
    """One run's folder; `open` creates it."""

    def __init__(
        self, path: Path, config: Mapping[str, Any], resume: bool, writer: _Writer
    ) -> None:
        self._writer = writer
        self.path, self.config, self.resume, self.data = path, config, resume, ""
        self._log, self._checkpoint = path / "log.jsonl", path / CHECKPOINT

    def open(self, data: str) -> None:
        """Create the folder, unless its run is resumed; `data` is the fingerprint of the rows."""
        self.data = data
        if self.resume and self.path.exists():
            return
        with writing(self.path, TrainingError), replacing_folder(self.path) as temporary:
            (temporary / CONFIG).write_text(tomli_w.dumps(dict(self.config)), encoding="utf-8")

    def saved(self) -> tuple[Position, dict[str, Tensor]] | None:
        """Return the last checkpoint, if any."""
        if not self._checkpoint.is_file():
            return None
        return _read_checkpoint(self._checkpoint, self.data)

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

    def record(self, progress: Progress, trainer: Trainer) -> None:
        """Append a line of JSON to the log, and where one is due replace the checkpoint.

        Within an epoch it is copied, and written while training goes on.
        """
        entry = {"event": progress.event, "step": progress.step, **progress.record()}
        with writing(self._log, TrainingError), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
        if progress.event == "epoch":
            self._writer.wait()
            _write_checkpoint(self._checkpoint, trainer.position, trainer.state(), self.data)
        elif progress.event == "checkpoint":
            self._writer.wait()
            copied = {name: each.detach().cpu().clone() for name, each in trainer.state().items()}
            self._writer.start(_write_checkpoint, self._checkpoint, trainer.position, copied,
                               self.data)  # fmt: skip

    def finish(self, bundle: Bundle) -> None:
        """Write the bundle and, beside it, the scorecard."""
        self._writer.wait()
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
    difference = _difference(found, tomllib.loads(tomli_w.dumps(dict(config))))
    if difference:
        raise ConfigError(
            f"{path} holds a run of another configuration ({difference}): --resume needs "
            "the same one; use --force or another --out"
        )
    return config


def _write_checkpoint(
    path: Path, position: Position, tensors: Mapping[str, Tensor], data: str
) -> None:
    header = {"format": str(FORMAT), "data": data, "position": json.dumps(asdict(position))}
    # Cloned where two names share storage (tied weights), which the file format refuses.
    seen: set[int] = set()
    whole = {}
    for name, tensor in tensors.items():
        whole[name] = tensor.detach().cpu().contiguous()
        if whole[name].data_ptr() in seen:
            whole[name] = whole[name].clone()
        seen.add(whole[name].data_ptr())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(whole, temporary, metadata=header)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint {path} could not be written: {error}. The previous epoch's is kept; "
            "free some space and continue with --resume"
        ) from error


def _read_checkpoint(path: Path, data: str) -> tuple[Position, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            found, rows = int(header["format"]), header["data"]
            position = Position(**json.loads(header["position"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"the checkpoint {path} is damaged ({error}); start again with --force"
        ) from error
    if found != FORMAT:
        raise TrainingError(
            f"the checkpoint {path} has format {found}, and this polyrank resumes format {FORMAT}: "
            "start again with --force, or resume it with the polyrank that wrote it"
        )
    if rows != data:
        raise TrainingError(
            f"the checkpoint {path} is of a run on other rows ({rows}; now {data}): "
            "start again with --force"
        )
    return replace(position, history=tuple(position.history)), tensors


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
