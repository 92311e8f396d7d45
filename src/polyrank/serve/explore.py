"""Exploration of a bundle's predictions: moved outputs, their order, and its propensities.

Letters: N rows, D draws.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import polars as pl
from safetensors import safe_open

from polyrank.calibration import CalibrationMap
from polyrank.calibration.fitting import Calibrator
from polyrank.errors import ConfigError, did_you_mean
from polyrank.exploration import Exploration, Sure
from polyrank.exploration.posterior import variance
from polyrank.metrics.fusion import Fusion
from polyrank.schema import Schema, Task
from polyrank.terms import composed, deviation_column, head_columns, output_columns

SCORE = "score"
MOST_DRAWN = 2e7  # numbers that a request may draw, about a second
LEAST_OWN = 1e-4  # of the variance is a row's own, though all of it may be that of common ids
_BLOCK = 2**20
_LEAST = float(np.finfo(np.float64).tiny)  # probabilities between which a logit is finite
_MOST = 1 - 2.0**-53


@dataclass(frozen=True, eq=False)
class Explored:
    """Rows as they are explored.

    Args:
        by: what rows are ranked by: `score`, or an output column.
        outputs: the columns of `predict` with the moved logits, float64 (N,) each.
        score: what the rows are ranked by, of the moved logits: float64 (N,).
        order: row numbers from first to last; of equal rows, the lower number first.
        first: K of the propensities.
        propensity: the probability of each row that it is among the first K of these rows, under
            another draw: float64 (N,). None of what draws nothing.
        propensity_from: how that is known.
    """

    by: str
    outputs: Mapping[str, np.ndarray]
    score: np.ndarray
    order: np.ndarray
    first: int
    propensity: np.ndarray | None
    propensity_from: Literal["integral", "draws"] | None


@dataclass(frozen=True, eq=False)
class Precisions:
    """How precisely the effects of plain ids are known, from the weights of a bundle.

    Args:
        at: of each task, the first stage that is added to its head and its column there.
        fields: the slots of plain ids that may have effects, and whether row 0 is of unseen ids.
        weights: reads the named weights a row at a time; None of a file without deviations.
    """

    at: Mapping[str, tuple[str, int]]
    fields: Mapping[str, bool]
    weights: Any

    @classmethod
    def of(cls, folder: Path, about: Mapping[str, Any], schema: Schema) -> Precisions:
        """Open those of a bundle's folder; none where its file was exported without deviations."""
        at = about.get("polyrank.precisions")
        if not at:
            return cls({}, {}, None)
        fields = {slot.name: slot.unseen for slot in schema.fields if slot.wide}
        weights = safe_open(folder / "weights.safetensors", framework="np")
        return cls({task: (stage, column) for task, (stage, column) in at.items()}, fields, weights)

    @cached_property
    def named(self) -> frozenset[str]:
        """The weights that there are."""
        return frozenset(self.weights.keys())

    def common(self, task: str, rows: Mapping[str, np.ndarray], shared: Collection[str]) -> float:
        """Return the variance of a logit that all rows owe to one and the same ids.

        Unseen ids are the same one only where the request says that all rows share it.

        Args:
            task: of the head.
            rows: of plain ids by feature, (N,) each.
            shared: the features that all rows have from one value.
        """
        if task not in self.at:
            return 0.0
        (stage, column), found = self.at[task], 0.0
        for name, own in rows.items():
            row, unseen = int(own[0]), self.fields[name]
            precision = f"{stage}.precision.{name}"
            if precision not in self.named or (own != row).any():
                continue
            if row or not unseen:
                known = self.weights.get_slice(precision)[row : row + 1][0, column]
            elif name in shared:
                known = self.weights.get_tensor(f"{stage}.prior.{name}")[column]
            else:
                continue
            found += 1 / float(known)
        return found


@dataclass(frozen=True, eq=False)
class Explorer:
    """What a bundle's exported outputs say of exploring.

    Args:
        schema: the tasks.
        fusion: of the score, or None.
        sure: the tasks whose heads have a deviation among the outputs.
        maps: calibration maps of their logits, by task.
        precisions: of plain ids, to tell what rows are unsure of together.
    """

    schema: Schema
    fusion: Fusion | None
    sure: tuple[Task, ...]
    maps: Mapping[str, CalibrationMap]
    precisions: Precisions = Precisions({}, {}, None)

    @classmethod
    def of(
        cls,
        manifest: Mapping[str, Any],
        schema: Schema,
        fusion: Fusion | None,
        outputs: Collection[str],
        precisions: Precisions,
    ) -> Explorer:
        """Read it from a manifest and the columns of an exported file."""
        sure = tuple(task for task in schema.tasks if deviation_column(task) in outputs)
        found = {
            task.name: Calibrator.from_table(
                manifest["calibrators"][task.name], f"calibrators.{task.name}", task.label_kind
            ).map
            for task in sure
            if task.name in manifest["calibrators"]
        }
        maps = {name: each for name, each in found.items() if each}
        return cls(schema, fusion, sure, maps, precisions)

    @property
    def moving(self) -> tuple[str, ...]:
        """The output columns that exploration moves."""
        sure = {task.name for task in self.sure}
        found: list[str] = []
        for task in self.schema.tasks:
            own = head_columns(task)
            found += own if task.name in sure else ()
            if sure & {task.name, *self.schema.ancestors(task.name)}:
                found += [name for name in output_columns(task) if name not in own]
        return tuple(found)

    def ranked_by(self, by: str | None) -> str:
        """Return what rows are ranked by.

        Raises:
            ConfigError: a bundle without deviations, or a column that nothing moves.
        """
        if not self.sure:
            raise ConfigError(
                "explore: the exported model has no deviations: run `polyrank export RUN "
                "--uncertainty` of a bundle with wide rows"
            )
        moving = self.moving
        if self.fusion is not None:
            if by not in (None, SCORE):
                raise ConfigError(
                    f"explore: this bundle ranks by its fused score: leave by out, got {by!r}"
                )
            return SCORE
        if by is None and len(moving) == 1:
            return moving[0]
        if by is None:
            raise ConfigError(f"explore: by must say which output to rank by: one of {moving}")
        if by not in moving:
            hint = did_you_mean(by[:100], moving)
            raise ConfigError(
                f"explore: by must be an output that exploration moves, got {by[:100]!r}{hint}; "
                f"known: {', '.join(moving)}"
            )
        return by

    def explored(
        self,
        how: Exploration,
        outputs: Mapping[str, np.ndarray],
        columns: Mapping[str, pl.Series],
        first: int = 1,
        rows: Mapping[str, np.ndarray] = MappingProxyType({}),
        shared: Collection[str] = (),
    ) -> Explored:
        """Return rows as they are explored.

        Args:
            how: the way.
            outputs: of the model, deviations among them, (N,) each.
            columns: the raw columns that the fused score reads.
            first: K of the propensities, which are of being among the first K rows.
            rows: of plain ids by feature, (N,) each.
            shared: the features that all rows have from one value.

        Raises:
            ConfigError: see `ranked_by`; or propensities that take too long.
        """
        by = self.ranked_by(how.by)
        heads = {}
        for task in self.sure:
            p = np.clip(outputs[head_columns(task)[0]], _LEAST, _MOST)
            logit = np.log(p) - np.log1p(-p)
            if task.name in self.maps:
                logit = self.maps[task.name].inverse(logit)
            deviation = outputs[deviation_column(task)]
            common = self.precisions.common(task.name, rows, shared)
            own = np.maximum(1 - common / variance(deviation), LEAST_OWN)
            heads[task.name] = Sure(logit, deviation * np.sqrt(own))
        found = self._outputs(outputs, how.moved(heads))
        score = self._score(by, found, columns)
        order = np.argsort(-score, kind="stable")
        propensity, source = self._propensity(how, by, heads, outputs, columns, order, first)
        return Explored(by, found, score, order, first, propensity, source)

    def _outputs(
        self, outputs: Mapping[str, np.ndarray], logits: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the columns of `predict`, of which the heads of `logits` have these logits."""
        values = {}
        for task in self.schema.tasks:
            values[task.name] = tuple(outputs[name] for name in head_columns(task))
            if task.name in logits:
                z = logits[task.name]
                z = self.maps[task.name].apply(z) if task.name in self.maps else z
                small = np.exp(-np.abs(z))
                values[task.name] = (np.where(z >= 0, 1.0, small) / (1 + small),)
        return composed(self.schema, values)

    def _score(
        self, by: str, outputs: Mapping[str, np.ndarray], columns: Mapping[str, pl.Series]
    ) -> np.ndarray:
        if by == SCORE and self.fusion is not None:
            return self.fusion.score(self.schema, outputs, columns)
        return outputs[by]

    def _decided_by(self, by: str) -> Task | None:
        """Return the task whose logit alone decides the order, and rises with it."""
        column = by
        if by == SCORE and self.fusion is not None:
            (name, weight), *others = self.fusion.weights.items()
            if others or weight <= 0:
                return None
            task = self.schema.by_name.get(name)
            column = name if task is None else output_columns(task)[-1]
        return next((task for task in self.sure if head_columns(task)[0] == column), None)

    def _propensity(
        self,
        how: Exploration,
        by: str,
        heads: Mapping[str, Sure],
        outputs: Mapping[str, np.ndarray],
        columns: Mapping[str, pl.Series],
        order: np.ndarray,
        first: int,
    ) -> tuple[np.ndarray | None, Literal["integral", "draws"] | None]:
        if not how.random:
            return None, None
        decides = self._decided_by(by)
        found = None if decides is None else how.chances(heads[decides.name], first)
        if found is not None:
            return found, "integral"
        return self._drawn(how, by, heads, outputs, columns, order, first), "draws"

    def _drawn(
        self,
        how: Exploration,
        by: str,
        heads: Mapping[str, Sure],
        outputs: Mapping[str, np.ndarray],
        columns: Mapping[str, pl.Series],
        order: np.ndarray,
        first: int,
    ) -> np.ndarray:
        """Return shares of draws, of which the one that ranked these rows is one."""
        rows, draws = len(order), how.replicates
        if draws * rows * len(heads) > MOST_DRAWN:
            raise ConfigError(
                f"explore: {draws:,} draws of {rows:,} rows and {len(heads)} heads are more than "
                f"the {MOST_DRAWN:,.0f} numbers that a request may draw: give fewer draws, or send "
                "fewer candidates"
            )
        again = how.again(heads, draws)
        found = np.zeros(rows)
        found[order[:first]] = 1
        each = max(_BLOCK // rows, 1)
        for start in range(0, draws, each):
            some = {name: z[start : start + each] for name, z in again.items()}
            count = min(each, draws - start)
            flat = {name: z.ravel() for name, z in some.items()}
            tiled = {name: np.tile(values, count) for name, values in outputs.items()}
            raw = {name: pl.concat([values] * count) for name, values in columns.items()}
            score = self._score(by, self._outputs(tiled, flat), raw).reshape(count, rows)
            best = np.argsort(-score, axis=1, kind="stable")[:, :first]
            found += np.bincount(best.ravel(), minlength=rows)
        return found / (draws + 1)
