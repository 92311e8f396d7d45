"""Parity: whether an exported file predicts what its bundle does, within float32 rounding.

Both compute in float32, in different orders. How far rounding alone may move a prediction is
measured with the same network in float64: it shows how far rounding moves logits, and each row's
logits are then moved as far. Where a calibration map is steep, that can be a whole step of the map.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch

from polyrank.bundle.model import Bundle
from polyrank.data.table import Table
from polyrank.errors import ExportError
from polyrank.models.outputs import logits_of
from polyrank.serve.engine import Session
from polyrank.serve.inputs import RAW_FILE, Inputs
from polyrank.terms import deviation_column, output_columns

logger = logging.getLogger(__name__)

SD_BAR = 1e-5  # of deviations, which are below 10 and of variances in float32
ROUNDINGS = 3  # two float32 computations differ by up to twice the rounding of one; and a margin
T = TypeVar("T")


@dataclass
class Parity:
    """The largest differences of an exported file from its bundle on the same rows, by output.

    `rounding` is empty where the network does not compute in float64: the bars alone hold then.
    """

    bars: Mapping[str, float]  # the largest difference allowed, unless rounding alone exceeds it
    rows: int = 0  # compared so far
    differences: dict[str, float] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)  # the largest effect of float32
    _sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def allowed(self) -> dict[str, float]:
        """The bar of each output, or three times the rounding."""
        return {
            name: max(bar, ROUNDINGS * self.rounding.get(name, 0.0))
            for name, bar in self.bars.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest and `--json` hold."""
        return {
            "rows": self.rows,
            "differences": self.differences,
            "rounding": self.rounding,
            "allowed": self.allowed,
        }

    def compare(
        self,
        found: Mapping[str, np.ndarray],
        expected: Mapping[str, np.ndarray],
        rounding: Mapping[str, np.ndarray] | None,
    ) -> None:
        """Add rows: the file's outputs, the bundle's, and `Exact.rounding`; (N,) by output."""
        self.rows += len(next(iter(expected.values())))
        for name in self.bars:
            difference = self._enlarge(self.differences, name, found[name] - expected[name])
            off = 0.0 if rounding is None else self._enlarge(self.rounding, name, rounding[name])
            sums = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = sums[0] + difference, sums[1] + off

    def check(self, what: str) -> None:
        """Refuse predictions that differ by more than is allowed, naming the worst output.

        A few rows, such as one with a number far from training, may raise the limit of all: so the
        mean difference is held to the mean rounding in the same way.
        """
        if not self.rows:
            raise ExportError(f"{what}: there were no rows to compare")
        allowed = self.allowed
        worst = max(allowed, key=lambda name: self.differences[name] / allowed[name])
        if self.differences[worst] > allowed[worst]:
            raise ExportError(
                f"{what} differs from the bundle: {worst!r} by up to "
                f"{self.differences[worst]:.3g} on {self.rows:,} rows, and at most "
                f"{allowed[worst]:.3g} is allowed: nothing was exported"
            )
        for name, sums in self._sums.items():
            difference, rounding = (each / self.rows for each in sums)
            limit = max(self.bars[name], ROUNDINGS * rounding)
            if difference > limit:
                raise ExportError(
                    f"{what} differs from the bundle: {name!r} by {difference:.3g} in the mean of "
                    f"{self.rows:,} rows, and at most {limit:.3g} is allowed: nothing was exported"
                )

    @staticmethod
    def _enlarge(largest: dict[str, float], name: str, off: np.ndarray) -> float:
        """Add differences, of which NaN is an infinite one, and return their sum."""
        size = np.where(np.isnan(off), np.inf, np.abs(off))
        largest[name] = max(largest.get(name, 0.0), float(size.max(initial=0)))
        return float(size.sum())


def compared(
    bundle: Bundle,
    files: Mapping[str, Path],
    chunks: Iterable[pl.DataFrame],
    uncertain: Sequence[str] = (),
) -> dict[str, Parity]:
    """Return the parity of each file by its name, on chunks of raw rows, or refuse it."""
    sessions = {name: Session(path) for name, path in files.items()}
    bars = {
        column: bundle.likelihoods[task.name].tolerance
        for task in bundle.schema.tasks
        for column in output_columns(task)
    }
    deviations = [deviation_column(bundle.schema.by_name[task]) for task in uncertain]
    bars |= dict.fromkeys(deviations, SD_BAR)
    parity = {name: Parity(bars) for name in files}
    inputs = Inputs(bundle.schema, bundle.vocab)
    exact: Exact | None = _tried(bundle, Exact, bundle)
    for chunk in chunks:
        if not chunk.height:
            continue
        table = bundle.encode(chunk)
        logits = bundle.logits(table)
        expected = bundle.columns(table, logits) | bundle.deviations(table, uncertain)
        rounding = None if exact is None else _tried(bundle, exact.rounding, table, logits)
        exact = None if rounding is None else exact
        if rounding is not None:  # deviations depend on no logit
            rounding |= {name: np.zeros(len(table)) for name in deviations}
        for name, session in sessions.items():
            columns = inputs.raw(chunk) if name == RAW_FILE else inputs.encoded(chunk)
            parity[name].compare(session.run_columns(columns), expected, rounding)
    for name, each in parity.items():
        each.check(name)
    return parity


class Exact:
    """A bundle whose network computes in float64, on the same float32 inputs and weights."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        shared = {id(bundle.ranker.embed): bundle.ranker.embed}  # large, and not computed with
        self.ranker = deepcopy(bundle.ranker, shared)
        for part in self.ranker.parts.values():
            part.double()

    def rounding(self, table: Table, logits: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return how far float32 rounding of the logits may move each output: (N,) by output.

        The largest rounding of a head's logits on these rows, relative to logits above 1, is
        applied to every row, upwards and downwards. `logits` are the bundle's.
        """
        exact = self.logits(table)
        step = {}
        for task, z in exact.items():
            size = np.maximum(np.abs(z), 1.0)
            step[task] = size * np.max(np.abs(logits[task] - z) / size, initial=0.0)
        ours = self.bundle.columns(table, logits)
        found = {name: np.zeros(len(table)) for name in ours}
        for sign in (-1, 0, 1):
            moved = self.bundle.columns(
                table, {task: z + sign * step[task] for task, z in exact.items()}
            )
            for name, each in found.items():
                np.maximum(each, np.abs(moved[name] - ours[name]), out=each)
        return found

    def logits(self, table: Table) -> dict[str, np.ndarray]:
        """Return uncalibrated logits as `Bundle.logits` does; ArithmeticError if not finite."""
        logits = logits_of(self.ranker, table, dtype=torch.float64)
        found = {task: logits[task].numpy() for task in self.bundle.schema.by_name}
        if not all(np.isfinite(each).all() for each in found.values()):
            raise ArithmeticError("a logit is not finite")
        return found


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def _tried(bundle: Bundle, call: Callable[..., T], *arguments: Any) -> T | None:
    """Return what a call gives, or None where the network does not compute in float64."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001  whatever a custom trunk raises
        logger.warning(
            "%s does not compute in float64 (%s): the effect of float32 rounding is not "
            "measured, and the bar holds as it is; register its constants as buffers",
            bundle.ranker.kinds, first_line(error),
        )  # fmt: skip
        return None
