"""Tables that processes hold between them: whether they do, and how one has all at the end.

Row r of a matrix is held by process r mod S.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polyrank.data.memory import AUTO as AUTO_MEMORY
from polyrank.data.memory import resolved
from polyrank.errors import ConfigError
from polyrank.layout import WHOLE, Held, Layout
from polyrank.models.model import Model
from polyrank.models.ranker import Ranker
from polyrank.ranks import Ranks, of_host
from polyrank.train.training import AUTO, SHARDED, Training

logger = logging.getLogger(__name__)

NUMBERS = 4  # kept of a weight in training: itself, the best one, and two of the optimiser
GATHERED_ROWS = 2**18  # of each process, that are gathered at a time


def table_bytes(layout: Layout, model: Model) -> int:
    """Return what the rows of all ids take while they are trained."""
    weights = sum(pack.rows * pack.width for pack in layout.packs)
    stages = sum(each.memory(layout.schema, layout.vocab.rows) for each in model.first_stages)
    return 4 * NUMBERS * weights + stages


def is_sharded(training: Training, needed: int, room: int | None) -> bool:
    """Return whether processes hold tables between them that take `needed` bytes.

    Args:
        training: what was said of it.
        needed: by all rows.
        room: what a process has for them; None where nobody knows.
    """
    if training.tables == AUTO:
        return room is not None and needed > room
    return training.tables == SHARDED


def held(training: Training, layout: Layout, model: Model, ranks: Ranks) -> Held:
    """Return which rows this process holds: all, or those of its number.

    There is room for half of what the fullest host has free, shared out among its processes.
    """
    if not ranks.several:
        return WHOLE
    needed = table_bytes(layout, model)
    known = [each for each in ranks.by_all(resolved(AUTO_MEMORY, of_host())) if each is not None]
    room = min(known, default=None)
    sharded = is_sharded(training, needed, room)
    if sharded:
        logger.info(
            "the tables take %s MB in training: the %d processes hold them between them",
            f"{needed / 1e6:,.0f}", ranks.count,
        )  # fmt: skip
    return Held(ranks.rank, ranks.count, ranks) if sharded else WHOLE


def make_whole(ranker: Ranker, layout: Layout, ranks: Ranks, folder: Path | None) -> None:
    """Give a ranker on the CPU all rows, in a layout that holds them.

    They lie in memory, or where there is a folder, which all processes see, in files without a name
    there, from which the system reads what is looked up: the tables may be larger than memory.
    """
    count = 0

    def gathered(own: Tensor, total: int) -> Tensor:
        nonlocal count
        path = None if folder is None else folder / f".rows-{count}"
        count += 1
        return _gathered(own, total, ranks, path)

    ranker.make_whole(layout, gathered)


def _gathered(own: Tensor, total: int, ranks: Ranks, path: Path | None) -> Tensor:
    shape = (total, *own.shape[1:])
    whole: np.ndarray | None = None
    if path is None:
        whole = np.empty(shape, dtype=np.float32)
    elif ranks.first:
        whole = _mapped(path, "w+", shape)
    for start in range(0, -(-total // ranks.count), GATHERED_ROWS):
        parts = ranks.joined([own[start : start + GATHERED_ROWS]])
        for rank, (part,) in enumerate(parts):
            if whole is not None:
                whole[rank + ranks.count * start :: ranks.count][: len(part)] = part.numpy()
    if path is not None:
        ranks.by_all(None)  # written
        if whole is None:
            whole = _mapped(path, "c", shape)
        ranks.by_all(None)  # opened by all
        if ranks.first:
            path.unlink()
    assert whole is not None
    return torch.from_numpy(whole)


def _mapped(path: Path, mode: Literal["w+", "c"], shape: tuple[int, ...]) -> np.ndarray:
    if not np.prod(shape):
        path.touch()
        return np.empty(shape, dtype=np.float32)
    return np.memmap(path, dtype=np.float32, mode=mode, shape=shape)


def check_shared(folder: Path, ranks: Ranks) -> None:
    """Refuse a run folder that not all processes see, once the first has made it."""
    ranks.by_all(None)
    missing = [rank for rank, sees in enumerate(ranks.by_all(folder.is_dir())) if not sees]
    if missing:
        raise ConfigError(
            f"process {missing[0]} does not see the run folder {folder}: tables that processes "
            "hold between them need one on a disk that all share"
        )
