"""A checkpoint: one safetensors file that is replaced whole.

Tensors are named by their owner (`model.…`, `best.…`, `embeddings.…`, `dense.…`, `balance.…`); the
rest is JSON in the file's header. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polyrank.errors import TrainingError
from polyrank.files import replacing

FORMAT = 1


@dataclass(frozen=True)
class Position:
    """Where a run is after an epoch.

    Args:
        epoch: epochs done.
        best_epoch: the epoch whose weights are kept; 0 before the first.
        best_value: its value, oriented so that lower is better; None before the first.
        history: one record per epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    history: tuple[dict[str, Any], ...] = field(default=())

    @property
    def stale_epochs(self) -> int:
        """Epochs since the best."""
        return self.epoch - self.best_epoch


def write(path: Path, position: Position, tensors: Mapping[str, Tensor], data: str) -> None:
    """Replace a checkpoint; `data` is the fingerprint of the training rows."""
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


def read(path: Path, data: str) -> tuple[Position, dict[str, Tensor]]:
    """Read a checkpoint of a run on the rows of a fingerprint.

    Raises:
        TrainingError: the file is damaged, of another format, or of a run on other rows.
    """
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


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with a prefix before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a prefix, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: each for name, each in tensors.items() if name.startswith(start)}
