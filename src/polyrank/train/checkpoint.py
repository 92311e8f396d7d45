"""Checkpoints: what a run continues from, to the same bits.

A checkpoint's tensors are named by their owner (`model.…`, `best.…`, `embeddings.…`, `dense.…`,
`balance.…`); the rest is JSON in the file's header. Nothing is pickled. Where processes hold tables
between them, each writes the rows that it holds to a file of its own; they count once the file of
the first process names them, and any number of processes reads from them what it needs.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polyrank.errors import TrainingError
from polyrank.files import replacing
from polyrank.layout import WHOLE, Held
from polyrank.ranks import ALONE, Ranks
from polyrank.train.loop import Position, Trainer
from polyrank.train.progress import Progress

logger = logging.getLogger(__name__)

CHECKPOINT = Path("checkpoint") / "state.safetensors"
FORMAT = 4  # of a checkpoint


@dataclass(frozen=True)
class HeldRows:
    """Files of the rows that processes held, beside the one of the first process.

    Args:
        tag: of their names.
        count: of the processes.
        rows: of each tensor, all that there are.
    """

    tag: str
    count: int
    rows: Mapping[str, int]

    def file(self, folder: Path, rank: int) -> Path:
        """Return the file of one of the processes."""
        return folder / f"rows-{self.tag}-{rank}-of-{self.count}.safetensors"


class Saved(NamedTuple):
    """What the first process's file has."""

    position: Position
    tensors: dict[str, Tensor]
    held: HeldRows | None


class Checkpoints:
    """Those of one run's folder; only the last one is kept.

    Without a common table of rows only the first process has any. Otherwise all processes call all
    methods at the same time, and the folder is on a disk that they share.

    Args:
        run: the run's folder.
        data: the fingerprint of its rows.
        ranks: the processes.
    """

    def __init__(self, run: Path, data: str, ranks: Ranks = ALONE) -> None:
        self.path, self.data, self.ranks = run / CHECKPOINT, data, ranks
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="polyrank-checkpoint")
        self._writing: Future[None] | None = None
        self._commit: Callable[[], None] | None = None

    def save(self, trainer: Trainer, *, now: bool) -> None:
        """Replace the checkpoint; unless `now`, by a copy that is written while training goes on.

        What that raises, a later call of `settle` does.
        """
        self.settle()
        position, tensors, held = trainer.position, trainer.state(), trainer.held_rows()
        if not now:
            tensors = {name: each.detach().cpu().clone() for name, each in tensors.items()}
        if not held:
            self._start(lambda: _write(self.path, position, tensors, self.data))
        else:
            written = HeldRows(f"{position.epoch}-{position.step}", self.ranks.count, held)
            own = {name: tensors.pop(name) for name in held}
            file = written.file(self.path.parent, self.ranks.rank)
            self._start(lambda: _write_file(file, own, {"data": self.data}))
            self._commit = lambda: self._name(position, tensors, written)
        if now:
            self.settle()

    def settle(self, *, wait: bool = True) -> None:
        """Let a checkpoint that is being written count, if it is; `wait` until it does.

        Raises:
            TrainingError: it could not be written, by one of the processes; the last one counts.
        """
        if self._writing is None:
            return
        if self._commit is None:
            if wait or self._writing.done():
                written, self._writing = self._writing, None
                written.result()
            return
        if not wait and not all(self.ranks.by_all(self._writing.done())):
            return
        written, self._writing = self._writing, None
        commit, self._commit = self._commit, None
        self._agree(written.exception())
        failed = None
        if self.ranks.first:
            try:
                commit()
            except TrainingError as error:
                failed = error
        self._agree(failed)

    def close(self) -> BaseException | None:
        """Let what was begun be written, also where training was stopped; return what failed."""
        self._pool.shutdown()
        return None if self._writing is None else self._writing.exception()

    def follow(self, progress: Progress, trainer: Trainer) -> None:
        """Replace the checkpoint where one is due; within an epoch, while training goes on."""
        if progress.event in ("epoch", "checkpoint"):
            self.save(trainer, now=progress.event == "epoch")
        else:
            self.settle(wait=False)

    def saved(self, leave: Collection[str] = ()) -> Saved | None:
        """Return what the first process's file has, if any, without the tensors to `leave`."""
        return _read(self.path, self.data, leave) if self.path.is_file() else None

    def rows(
        self, written: HeldRows | None, totals: Mapping[str, int], here: Held
    ) -> dict[str, Tensor]:
        """Return the rows that are held here of tensors that have so many.

        They lie in the files of those that held them, or all in that of the first process.
        """
        folder = self.path.parent
        files = [self.path]
        if written is not None:
            files = [written.file(folder, rank) for rank in range(written.count)]
        found: dict[str, Tensor] = {}
        for rank, path in enumerate(files):
            with _reading(path), safe_open(path, framework="pt") as file:
                for name, total in totals.items():
                    part = file.get_tensor(name)
                    if name not in found:
                        found[name] = part.new_empty(here.rows(total), *part.shape[1:])
                    numbers = np.arange(rank, total, len(files))
                    own = numbers % here.count == here.rank
                    place = torch.from_numpy(numbers[own] // here.count)
                    found[name][place] = part[torch.from_numpy(own)]
        return found

    def _start(self, write: Callable[[], None]) -> None:
        self._writing = self._pool.submit(write)

    def _name(self, position: Position, tensors: Mapping[str, Tensor], held: HeldRows) -> None:
        """Write the first process's file, and remove rows of other checkpoints."""
        folder = self.path.parent
        _write(self.path, position, tensors, self.data, held)
        kept = {held.file(folder, rank) for rank in range(held.count)}
        for file in set(folder.glob("rows-*.safetensors")) - kept:
            file.unlink()

    def _agree(self, error: BaseException | None) -> None:
        """Raise on all processes what one of them has met."""
        found = self.ranks.by_all(None if error is None else str(error))
        if error is not None:
            raise error
        for rank, message in enumerate(found):
            if message is not None:
                raise TrainingError(f"process {rank}: {message}")


def finished_state(run: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a run's last checkpoint, whatever its rows; None where there are none.

    There are none where processes held tables between them, or in another format.
    """
    path = run / CHECKPOINT
    if not path.is_file():
        return None
    with _reading(path), safe_open(path, framework="pt") as file:
        header = file.metadata()
        if int(header["format"]) != FORMAT or "held" in header:
            return None
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def kept_checkpoints(run: Path, data: str, ranks: Ranks) -> Generator[Checkpoints]:
    """Give a run's checkpoints; what is being written at the end of the block is, and counts."""
    found = Checkpoints(run, data, ranks)
    try:
        yield found
    finally:
        if (error := found.close()) is not None:
            logger.warning("%s", error)


def restore(trainer: Trainer, kept: Checkpoints | None) -> None:
    """Bring all processes to the last checkpoint, if any, which the first one reads.

    Rows that a process holds it reads itself.
    """
    ranks, here, own = trainer.ranks, trainer.ranker.layout.held, trainer.held_rows()
    saved = kept.saved(leave=own) if kept is not None and ranks.first else None
    tensors = {} if saved is None else saved.tensors
    told = ranks.of_first(None if saved is None else (saved.position, saved.held))
    if told is None:
        return
    position, written = told
    if not own and written is not None and ranks.first:
        assert kept is not None
        tensors = tensors | kept.rows(written, written.rows, WHOLE)
    tensors = ranks.tensors_of_first(tensors)
    if own:
        assert kept is not None
        tensors = tensors | kept.rows(written, own, here)
    trainer.load(position, tensors)


def _write(
    path: Path,
    position: Position,
    tensors: Mapping[str, Tensor],
    data: str,
    held: HeldRows | None = None,
) -> None:
    header = {"format": str(FORMAT), "data": data, "position": json.dumps(asdict(position))}
    if held is not None:
        header["held"] = json.dumps(asdict(held))
    _write_file(path, tensors, header)


def _write_file(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
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


def _read(path: Path, data: str, leave: Collection[str]) -> Saved:
    with _reading(path), safe_open(path, framework="pt") as file:
        header = file.metadata()
        found, rows = int(header["format"]), header["data"]
        position = Position(**json.loads(header["position"]))
        held = HeldRows(**json.loads(header["held"])) if "held" in header else None
        names = [name for name in file.keys() if name not in leave]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
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
    return Saved(replace(position, history=tuple(position.history)), tensors, held)


@contextmanager
def _reading(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"the checkpoint {path} is damaged ({error}); start again with --force"
        ) from error
