"""Whether an exported file answers as its bundle does, within what float32 can tell.

A bundle's network computes in float32, and so does its export, in another order. How far rounding
alone takes the bundle from what it means is measured: by the same network in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch

from polyrank.bundle.model import Bundle
from polyrank.data.table import Table
from polyrank.errors import ExportError
from polyrank.models.outputs import bag_tensors, tensors
from polyrank.serve.inputs import RAW_FILE, Columns, encoded, raw
from polyrank.serve.session import Session
from polyrank.terms import output_columns

PROBABILITY = 1e-6  # the largest difference of a probability
REGRESSION = 1e-5  # that of a regression, in deviations of its training target
# Two computations in float32 differ by up to twice what one of them is off; and one more for luck.
ROUNDINGS = 3
_RUN_ROWS = 8192  # lists are filled up to the longest of so many rows


@dataclass
class Parity:
    """How far an exported file is from the bundle on the same rows.

    Args:
        bars: the largest difference that is let through, by output, if float32 can tell it.
        rows: that were compared.
        differences: the largest of each output from the bundle's, in its own unit.
        rounding: the largest of each of the bundle's outputs from its network in float64.
    """

    bars: Mapping[str, float]
    rows: int = 0
    differences: dict[str, float] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)

    @property
    def allowed(self) -> dict[str, float]:
        """The largest difference that is let through, by output.

        A steep calibration map, a wide network or a number far from training make more of float32
        rounding than the bar: no other float32 network could be held to it.
        """
        return {
            name: max(bar, ROUNDINGS * self.rounding.get(name, 0.0))
            for name, bar in self.bars.items()
        }

    def compare(
        self, found: Mapping[str, np.ndarray], expected: pl.DataFrame, exact: pl.DataFrame
    ) -> None:
        """Take more rows into account.

        Args:
            found: answers of the file.
            expected: the bundle's.
            exact: those of its network in float64.
        """
        self.rows += expected.height
        for name in self.bars:
            ours = expected[name].to_numpy()
            for largest, off in (
                (self.differences, found[name] - ours),
                (self.rounding, ours - exact[name].to_numpy()),
            ):
                # of a NaN there is no difference, and it is one
                each = float("inf") if np.isnan(off).any() else float(np.abs(off).max(initial=0))
                largest[name] = max(largest.get(name, 0.0), each)

    def check(self, what: str) -> None:
        """Refuse answers that are further off than is allowed.

        Raises:
            ExportError: the worst output, or no rows.
        """
        if not self.rows:
            raise ExportError(f"{what}: there were no rows to compare")
        allowed = self.allowed
        worst = max(allowed, key=lambda name: self.differences[name] / allowed[name])
        if self.differences[worst] > allowed[worst]:
            raise ExportError(
                f"{what} does not answer as the bundle does: {worst!r} differs by up to "
                f"{self.differences[worst]:.3g} on {self.rows:,} rows, and at most "
                f"{allowed[worst]:.3g} is allowed: nothing was exported"
            )


def compared(
    bundle: Bundle, files: Mapping[str, Path], chunks: Iterable[pl.DataFrame]
) -> dict[str, Parity]:
    """Return the parity of each file.

    Args:
        bundle: that they were exported from.
        files: by their names in a bundle.
        chunks: raw rows.

    Raises:
        ExportError: answers that differ by more than is allowed, or no rows.
    """
    sessions = {name: Session(path) for name, path in files.items()}
    parity = {name: Parity(_bars(bundle)) for name in files}
    exact = Exact(bundle)
    for chunk in chunks:
        if not chunk.height:
            continue
        table = bundle.encode(chunk)
        expected, meant = bundle.score(table), exact.score(table)
        for name, session in sessions.items():
            make = raw if name == RAW_FILE else encoded
            columns = make(chunk, bundle.schema, bundle.vocab)
            parity[name].compare(_answers(session, columns), expected, meant)
    for name, each in parity.items():
        each.check(name)
    return parity


class Exact:
    """A bundle whose trunk and heads compute in float64, on the same float32 inputs and weights."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.trunk = deepcopy(bundle.ranker.trunk).double().eval()
        self.head = deepcopy(bundle.ranker.head).double().eval()

    @torch.inference_mode()
    def score(self, table: Table) -> pl.DataFrame:
        """Return the output columns of encoded rows."""
        ranker, found = self.bundle.ranker, []
        for batch in table.batches(ranker.layout, _RUN_ROWS):
            ids, dense, _, _ = tensors(batch, "cpu")
            hidden = self.trunk(ranker.embed(ids, dense, bag_tensors(batch, "cpu")).double())
            logits = {task: self.head[task](hidden[task]).numpy() for task in self.head}
            found.append(pl.DataFrame(self.bundle.columns(logits)))
        return pl.concat(found)


def _answers(session: Session, columns: Columns) -> dict[str, np.ndarray]:
    parts = [session.run(feeds) for feeds in columns.batches(_RUN_ROWS)]
    return {name: np.concatenate([part[name] for part in parts]) for name in session.outputs}


def _bars(bundle: Bundle) -> dict[str, float]:
    found = {}
    for task in bundle.schema.tasks:
        deviation = bundle.scales.get(task.name, (0.0, 1.0))[1]
        bar = PROBABILITY if task.kind == "binary" else REGRESSION * deviation
        found |= dict.fromkeys(output_columns(task), bar)
    return found
