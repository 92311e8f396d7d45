"""What several processes need to train together, before any of them is started.

The model of docs/scale.md: the memory of each process, what it puts into exchanges at a step, and
the time of an epoch. A test holds it to what processes did exchange.

Letters: B rows of a process's batch, w columns of a pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank.data.statistics import look_ups
from polyrank.data.table import Table
from polyrank.models.model import Model
from polyrank.models.ranker import Ranker
from polyrank.objective.losses import Supervision
from polyrank.text import aligned
from polyrank.train.step import running_statistics
from polyrank.train.training import REPLICATED, SHARDED

NETWORK = 1.25e9  # bytes per second between hosts: 10 Gbit/s
ROWS, DENSE, LOSSES = "gradients of embedding rows", "gradients of the dense part", "losses"


@dataclass(frozen=True)
class TogetherPlan:
    """What each of some processes needs; prints as tables.

    Args:
        ranks: the processes.
        memory_bytes: of each process, by what it is for.
        limit_bytes: that a process may take; None where nobody said.
        sharded: whether they hold the tables between them.
        exchanged_bytes: that each process puts into exchanges at a step, by what is exchanged.
        steps: of an epoch.
        step_seconds: of a step without exchanges, as measured; None where it was not.
    """

    ranks: int
    memory_bytes: Mapping[str, int]
    limit_bytes: int | None
    sharded: bool
    exchanged_bytes: Mapping[str, float]
    steps: int
    step_seconds: float | None

    @property
    def fits(self) -> bool | None:
        """Whether the memory is enough; None where nobody said how much there is."""
        if self.limit_bytes is None:
            return None
        return sum(self.memory_bytes.values()) <= self.limit_bytes

    @property
    def exchange_seconds(self) -> float:
        """Time of a step's exchanges, by what each process receives and `NETWORK`.

        That is what all others put into exchanges; of sharded tables as much as it puts into them.
        What is added up travels twice, however many processes there are.
        """
        if self.ranks == 1:
            return 0.0
        added = self.exchanged_bytes[DENSE]
        rest = sum(self.exchanged_bytes.values()) - added
        received = rest if self.sharded else (self.ranks - 1) * rest
        return (received + 2 * added) / NETWORK

    @property
    def epoch_seconds(self) -> float | None:
        """Time of an epoch."""
        if self.step_seconds is None:
            return None
        return self.steps * (self.step_seconds + self.exchange_seconds)

    def __str__(self) -> str:
        memory = {name: count / 2**20 for name, count in self.memory_bytes.items()}
        memory["all"] = sum(memory.values())
        lines = [[name, f"{count:,.1f}"] for name, count in memory.items()]
        how = "tables sharded" if self.sharded else "tables replicated"
        found = [
            f"{self.ranks} processes, {how}; each:",
            aligned(["memory of each", "MiB"], lines, [1]),
        ]
        if self.limit_bytes is not None:
            says = "fits" if self.fits else "does not fit"
            found.append(f"it {says} into {self.limit_bytes / 2**20:,.0f} MiB")
        sent = {**self.exchanged_bytes, "all": sum(self.exchanged_bytes.values())}
        lines = [[name, f"{count / 1e3:,.1f}"] for name, count in sent.items()]
        found.append(aligned(["exchanged by each, a step", "kB"], lines, [1]))
        found.append(f"time: {self._time()}")
        return "\n\n".join(found)

    def _time(self) -> str:
        exchanges = f"{1e3 * self.exchange_seconds:.1f} ms a step for exchanges at 10 Gbit/s"
        if self.step_seconds is None or self.epoch_seconds is None:
            return (
                f"{exchanges}, {self.steps:,} steps an epoch; a run of one process tells what a "
                "step takes: none has ended an epoch in the run folder yet"
            )
        return (
            f"{exchanges}, {1e3 * self.step_seconds:.1f} ms for the rest, as the run folder's log "
            f"has it: {self.epoch_seconds:,.0f} s for the {self.steps:,} steps of an epoch"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {
            "ranks": self.ranks,
            "memory_bytes": dict(self.memory_bytes),
            "limit_bytes": self.limit_bytes,
            "fits": self.fits,
            "tables": SHARDED if self.sharded else REPLICATED,
            "exchanged_bytes": dict(self.exchanged_bytes),
            "steps": self.steps,
            "step_seconds": self.step_seconds,
            "exchange_seconds": self.exchange_seconds,
            "epoch_seconds": self.epoch_seconds,
        }


def exchanged(
    ranker: Ranker,
    model: Model,
    supervision: Supervision,
    train: Table,
    size: int,
    unseen_rate: float = 0.0,
    holders: int = 1,
    measured: float = 0.0,
) -> dict[str, float]:
    """Return the bytes that a process puts into exchanges at a step, expected, by what they are.

    Args:
        ranker: the network; it may be on the device "meta".
        model: its spec.
        supervision: of the training rows.
        train: the training rows.
        size: rows of a process's batch.
        unseen_rate: of id dropout.
        holders: processes that hold the tables between them; 1 where each has them whole.
        measured: share of the steps that compare the terms' gradients.
    """
    layout = ranker.layout
    counts = look_ups(train, layout.vocab.rows, unseen_rate)
    share = {name: np.minimum(each / len(train), 1 - 1e-12) for name, each in counts.items()}
    lengths = 1 + 4 * len(layout.packs)  # of the tensors that travel together
    # Where processes hold the tables between them, others have and look up their part of the rows.
    sharded, others = holders > 1, (holders - 1) / holders
    rows = 8.0 * holders * (lengths + len(layout.packs)) if sharded else 8.0 * lengths
    for pack in layout.packs:
        found = 0.0
        for table in pack.offsets:
            slots = [slot.name for slot in layout.schema.lookups if slot.table == table]
            found += distinct_rows([share[name] for name in slots], size)
        told = found * (4 + 4 + 4 * pack.width)
        if not sharded:
            rows += 4 * len(pack.offsets) + told
            continue
        rows += 4 * len(pack.offsets) * (holders - 1)
        rows += others * (told + found * (4 + 4 * pack.width))
    for stage in model.first_stages if sharded else ():
        read = stage.read_rows(layout.schema)
        found = sum(distinct_rows([share[slot.name]], size) for slot in read.slots)
        rows += others * found * (4 + 4 * read.columns) + 8.0 * holders * bool(read.columns)
    added = [*ranker.dense_parameters(), *running_statistics(ranker)]
    terms = len(supervision.schema.objective)
    dense = sum(each.numel() for each in added)
    if terms > 1:
        shared = sum(each.numel() for each in ranker.shared_parameters())
        dense += measured * terms * (terms + shared)
    # Of losses, values and rows of terms.
    return {ROWS: rows, DENSE: 4.0 * dense, LOSSES: 4.0 * 2 * terms}


def distinct_rows(shares: Sequence[np.ndarray], size: int) -> float:
    """Return how many rows of a table a batch of `size` rows looks up, expected.

    Args:
        shares: of each slot of the table, how often a row of the log looks up each of its rows.
        size: rows of the batch.

    Examples:
        >>> distinct_rows([np.array([0.5, 0.5])], 2)
        1.5
    """
    # The chance that no look-up of the batch is of a row, over all slots.
    missed = size * np.log1p(-np.stack(shares)).sum(0)
    return float(-np.expm1(missed).sum())
