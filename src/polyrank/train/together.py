"""What several processes need to train together, before any of them is started.

The model of docs/scale.md: the memory of each process, what it puts into exchanges at a step, and
the time of an epoch. A test holds it to what processes did exchange.

Letters: B rows of a process's batch, w columns of a pack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank.data.statistics import look_ups
from polyrank.data.table import Table
from polyrank.layout import Layout
from polyrank.models.ranker import Ranker
from polyrank.objective.losses import Supervision
from polyrank.text import aligned
from polyrank.train.step import running_statistics

NETWORK = 1.25e9  # bytes per second between hosts: 10 Gbit/s
ROWS, DENSE, LOSSES = "gradients of embedding rows", "gradients of the dense part", "losses"


@dataclass(frozen=True)
class TogetherPlan:
    """What each of some processes needs; prints as tables.

    Args:
        ranks: the processes.
        memory_bytes: of each process, by what it is for.
        limit_bytes: that a process may take; None where nobody said.
        exchanged_bytes: that each process puts into exchanges at a step, by what is exchanged.
        steps: of an epoch.
        step_seconds: of a step without exchanges, as measured; None where it was not.
    """

    ranks: int
    memory_bytes: Mapping[str, int]
    limit_bytes: int | None
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
        """Time of a step's exchanges, if each process receives what all others send, by `NETWORK`.

        What is added up travels twice, however many processes there are.
        """
        added = self.exchanged_bytes[DENSE]
        gathered = sum(self.exchanged_bytes.values()) - added
        return ((self.ranks - 1) * gathered + 2 * added) / NETWORK if self.ranks > 1 else 0.0

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
        found = [f"{self.ranks} processes, each:", aligned(["memory of each", "MiB"], lines, [1])]
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
            "exchanged_bytes": dict(self.exchanged_bytes),
            "steps": self.steps,
            "step_seconds": self.step_seconds,
            "exchange_seconds": self.exchange_seconds,
            "epoch_seconds": self.epoch_seconds,
        }


def exchanged(
    ranker: Ranker, supervision: Supervision, train: Table, size: int, unseen_rate: float = 0.0
) -> dict[str, float]:
    """Return the bytes that a process puts into exchanges at a step, expected, by what they are.

    Args:
        ranker: the network; it may be on the device "meta".
        supervision: of the training rows.
        train: the training rows.
        size: rows of a process's batch.
        unseen_rate: of id dropout.
    """
    layout = ranker.layout
    counts = look_ups(train, layout.vocab.rows, unseen_rate)
    lengths = 1 + 4 * len(layout.packs)  # of the tensors that travel together
    rows = 8.0 * lengths
    for pack in layout.packs:
        found = distinct_rows(pack.offsets, counts, layout, len(train), size)
        rows += 4 * len(pack.offsets) + found * (4 + 4 + 4 * pack.width)
    added = [*ranker.dense_parameters(), *running_statistics(ranker)]
    said = 2 * len(supervision.schema.objective)  # values and rows of terms
    return {
        ROWS: rows, DENSE: 4.0 * sum(each.numel() for each in added), LOSSES: 4.0 * said,
    }  # fmt: skip


def distinct_rows(
    tables: Iterable[str], counts: Mapping[str, np.ndarray], layout: Layout, rows: int, size: int
) -> float:
    """Return how many rows of some tables a batch of `size` of `rows` rows looks up, expected."""
    total = 0.0
    for table in tables:
        # The chance that no look-up of the batch is of a row, over all slots of its table.
        missed = np.zeros(layout.vocab.rows[table])
        for slot in layout.schema.lookups:
            if slot.table == table:
                # A list may hold an id twice.
                share = np.minimum(counts[slot.name] / rows, 1 - 1e-12)
                missed += size * np.log1p(-share)
        total += float(-np.expm1(missed).sum())
    return total
