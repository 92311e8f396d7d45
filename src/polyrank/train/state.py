"""What a checkpoint holds, as one safetensors file that is replaced whole.

Tensors are named by their owner (`model.…`, `best.…`, `embeddings.…`, `dense.…`, `balance.…`); the
rest is JSON in the file's header. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polyrank.errors import TrainingError


@dataclass(frozen=True)
class Position:
    """Where a run is after an epoch.

    Args:
        epoch: epochs done.
        best_epoch: the epoch whose weights are kept; 0 before the first.
        best_value: its value, oriented so that lower is better; None before the first.
        history: one line an epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    history: tuple[dict[str, Any], ...] = field(default=())

    @property
    def stale_epochs(self) -> int:
        """Epochs since the best."""
        return self.epoch - self.best_epoch


def write(path: Path, position: Position, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint beside its place, then rename it: a reader sees the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, temporary, metadata={"position": json.dumps(asdict(position))})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"the checkpoint {path} could not be written: {error}. The one of the epoch before is "
            "kept; free some space and go on with --resume"
        ) from error


def read(path: Path) -> tuple[Position, dict[str, Tensor]]:
    """Read a checkpoint.

    Raises:
        TrainingError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["position"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"the checkpoint {path} is damaged ({error}); start again with --force"
        ) from error
    header["history"] = tuple(header["history"])
    return Position(**header), tensors


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with a prefix before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a prefix, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: each for name, each in tensors.items() if name.startswith(start)}
