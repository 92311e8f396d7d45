"""What the loop reports while it runs, the sums behind it, a progress bar, and a profile of a step.

Letters: T terms.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from polyrank.errors import TrainingError
from polyrank.meter import bar
from polyrank.terms import NORMALIZED

REMEDY = (
    "lower lr, or look for extreme values in the dense features and targets. The last checkpoint, "
    "if any, is kept"
)


Event = Literal["step", "checkpoint", "epoch"]


@dataclass(frozen=True)
class Progress:
    """What the loop reports now and then within an epoch ("step"), and after each ("epoch").

    "checkpoint" is a step after which the run may be resumed.

    `valid`, `best` (so far), `experts` and `propensities` are of an epoch: losses of terms
    (`click @ all loss`, `total loss`), of heads on their own rows ÷ the best constant's
    (`buy|click normalized loss`, `normalized loss`), metrics (`click @ all auc`), and the figures
    of `ExpertUse` and of `PropensityUse`. So is `cosines`: between the gradients of two terms at
    what they share, by `click @ all · buy @ all`, of some batches of the epoch together.
    """

    event: Event
    epoch: int  # from 1
    epochs: int
    step: int  # done in this epoch, as are rows and seconds
    steps: int  # per epoch
    rows: int
    seconds: float
    losses: Mapping[str, float]  # mean training loss of each term in this epoch
    empty: Mapping[str, int]  # batches of this epoch without a row of each term
    valid: Mapping[str, float] = field(default_factory=dict)
    best: bool = False
    experts: Mapping[str, float] = field(default_factory=dict)
    propensities: Mapping[str, float] = field(default_factory=dict)
    cosines: Mapping[str, float] = field(default_factory=dict)
    ranks: int = 1  # processes that train together; rows and losses are of all of them
    exchanged: int = 0  # bytes that this process has put into exchanges in this epoch

    @property
    def rows_per_second(self) -> float:
        """Training speed in this epoch."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    def record(self) -> dict[str, Any]:
        """Return the epoch as one flat line of the history."""
        return {
            "epoch": self.epoch,
            "ranks": self.ranks,
            **({"exchanged_bytes": self.exchanged} if self.ranks > 1 else {}),
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows_per_second, 1),
            **{f"train {term} loss": loss for term, loss in self.losses.items()},
            **{f"train {term} empty batches": count for term, count in self.empty.items()},
            **{f"valid {name}": value for name, value in self.valid.items()},
            **self.experts,
            **self.propensities,
            **{f"cosine {pair}": value for pair, value in self.cosines.items()},
            "best": self.best,
        }

    def __str__(self) -> str:
        """One line: what the validation rows say, or where there are none the training losses."""
        shown = [
            f"{name} {value:.4f}"
            for name, value in self.valid.items()
            if name in ("total loss", NORMALIZED) or not name.endswith(" loss")
        ]
        rows = "validation" if self.valid else "training"
        shown = shown or [f"{term} loss {value:.4f}" for term, value in self.losses.items()]
        best = " · best so far" if self.best and self.valid else ""
        return f"epoch {self.epoch} of {self.epochs}: {rows} {', '.join(shown)}{best}"


def own_best_epochs(history: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return in which epoch each head's own validation loss was lowest, of an epoch's records.

    Examples:
        >>> own_best_epochs([{"epoch": 1, "valid buy|click normalized loss": 0.98},
        ...                  {"epoch": 2, "valid buy|click normalized loss": 0.99}])
        {'buy|click': 1}
    """
    lowest: dict[str, tuple[float, int]] = {}
    for record in history:
        for name, value in record.items():
            if name.startswith("valid ") and name.endswith(f" {NORMALIZED}") and value is not None:
                head = name.removeprefix("valid ").removesuffix(NORMALIZED).strip()
                if head and value < lowest.get(head, (inf, 0))[0]:
                    lowest[head] = value, record["epoch"]
    return {head: epoch for head, (_, epoch) in lowest.items()}


Observer = Callable[[Progress], None]


class Tally:
    """Sums the losses of an epoch; reads them from the device only when it is flushed."""

    def __init__(self, terms: Sequence[str]) -> None:
        self.terms = terms
        self.losses: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.steps = 0
        self.totals = np.zeros(0)
        self.empty_batches = np.zeros(len(terms), dtype=np.int64)
        self.gram = np.zeros((len(terms), len(terms)))

    def add(self, losses: Tensor, rows: Tensor) -> None:
        """Keep a step's losses (T + penalties,) and rows (T,), detached, for the next flush."""
        self.losses.append(losses)
        self.rows.append(rows)

    def measured(self, gram: np.ndarray) -> None:
        """Add the inner products of the terms' gradients in a batch: (T, T)."""
        self.gram += gram

    def state(self) -> dict[str, Tensor]:
        """Return all sums, and what was not summed up yet, as tensors."""
        found = {
            "totals": torch.from_numpy(self.totals), "steps": torch.tensor(self.steps),
            "empty batches": torch.from_numpy(self.empty_batches),
            "gram": torch.from_numpy(self.gram),
        }  # fmt: skip
        if self.losses:
            found |= {"losses": torch.stack(self.losses), "rows": torch.stack(self.rows)}
        return {name: each.clone() for name, each in found.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.totals, self.steps = state["totals"].numpy(), int(state["steps"])
        self.empty_batches = state["empty batches"].numpy()
        if "gram" in state:  # checkpoints had none at first
            self.gram = state["gram"].numpy()
        if "losses" in state:
            self.losses, self.rows = list(state["losses"]), list(state["rows"])

    def flush(
        self, names: Sequence[str], epoch: int, step: int
    ) -> tuple[dict[str, float], dict[str, int]]:
        """Return the mean of each loss, and each term's number of batches without a row."""
        if self.losses:
            values = torch.stack(self.losses).cpu().double().numpy()
            for row, column in np.argwhere(~np.isfinite(values)):
                raise TrainingError(
                    f"the loss of {names[column]!r} is {values[row, column]} at epoch {epoch}, "
                    f"step {step - len(values) + 1 + row}: {REMEDY}"
                )
            self.totals = values.sum(axis=0) + (self.totals if len(self.totals) else 0)
            self.empty_batches += (torch.stack(self.rows).cpu().numpy() == 0).sum(axis=0)
            self.steps += len(self.losses)
            self.losses, self.rows = [], []
        means, empty = (self.totals / max(self.steps, 1)).tolist(), self.empty_batches.tolist()
        return dict(zip(names, means, strict=True)), dict(zip(self.terms, empty, strict=True))


@dataclass
class Profile:
    """Where a step's time goes, part by part; queued GPU work counts where it is waited for."""

    seconds: dict[str, float] = field(default_factory=dict)  # of each part, in order of first use
    steps: int = 0
    rows: int = 0
    _last: float = 0.0

    def mark(self, part: str) -> None:
        """End a part; one without a name is not counted."""
        now = perf_counter()
        if part:
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = perf_counter()

    def count(self, rows: int) -> None:
        """End a step."""
        self.steps += 1
        self.rows += rows

    def record(self) -> dict[str, Any]:
        """Return steps, rows per second, and each part's milliseconds per step and share."""
        total = sum(self.seconds.values())
        each, speed = max(self.steps, 1), self.rows / total if total > 0 else 0.0
        parts = [
            {"part": part, "ms_per_step": 1000 * s / each, "share": s / total if total > 0 else 0.0}
            for part, s in self.seconds.items()
        ]
        return {"steps": self.steps, "rows_per_second": speed, "parts": parts}


@contextmanager
def progress_bar(name: str) -> Generator[Observer]:
    """Give an observer that prints a line per epoch on stderr, with a bar below on a terminal.

    Before the first step the bar shows how far the rows are encoded.
    """
    with bar(name) as shown:
        last = ""

        def observe(each: Progress) -> None:
            nonlocal last
            if each.event == "epoch":
                last = _first_figure(each)
            shown.show(
                f"{name} · epoch {each.epoch} of {each.epochs}",
                (each.epoch - 1) * each.steps + each.step,
                each.epochs * each.steps,
                f"{each.rows_per_second:,.0f} rows/s",
                last,
            )
            if each.event == "epoch":
                shown.line(f"{name} {each}")

        yield observe


def _first_figure(each: Progress) -> str:
    """Return the figure of an epoch that is looked at first: of validation rows, if any."""
    figures = {name: value for name, value in each.valid.items() if not name.endswith(" loss")}
    figures = figures or each.valid or {f"{name} loss": v for name, v in each.losses.items()}
    return next((f"{name} {value:.4f}" for name, value in figures.items()), "")
