"""A fitted model with everything that it takes to score raw rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from polyrank import spec
from polyrank.bundle import format
from polyrank.bundle.encodings import hash_version
from polyrank.calibration.fitting import Calibrator
from polyrank.data.labels import Orphans
from polyrank.data.read import column_names, read
from polyrank.data.sampling import Sampling
from polyrank.data.table import Table, encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, DataError
from polyrank.metrics.dimensions import DECILE, columns_needed, dimensions, score_segments
from polyrank.metrics.fusion import FACTORS, Fusion, fused, trade_off
from polyrank.metrics.scorecard import Scorecard, scorecard
from polyrank.models.experts import ExpertUse, experts_of
from polyrank.models.model import Model
from polyrank.models.outputs import logits_of, outputs
from polyrank.models.ranker import Ranker
from polyrank.schema import Schema
from polyrank.serve.engine import Predictions
from polyrank.terms import output_columns

logger = logging.getLogger(__name__)

REPLICATES = 200  # of the rows, for the intervals of a scorecard


@dataclass(frozen=True, eq=False)
class Bundle:
    """A fitted model: schema, vocabularies, weights, and what became of it.

    Args:
        schema: features, tasks and keys.
        model: the spec that was learnt.
        vocab: ids to rows, numbers to columns.
        scales: mean and deviation of each regression's target.
        ranker: the network, on the CPU, in evaluation mode.
        config: the resolved experiment as plain tables.
        history: one line an epoch.
        scorecard: of the test rows where there were any, else of the best epoch's validation rows.
        calibrators: of each head's logit, by task; a head without one predicts as it was learnt.
    """

    schema: Schema
    model: Model
    vocab: Vocab
    scales: Mapping[str, tuple[float, float]]
    ranker: Ranker
    config: Mapping[str, Any]
    history: pl.DataFrame
    scorecard: Scorecard | None
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)

    @property
    def fusion(self) -> Fusion | None:
        """The weights of the declared fused score, or None."""
        return Fusion(self.config["fusion"]) if "fusion" in self.config else None

    @property
    def sampling(self) -> Sampling | None:
        """How negatives were down-sampled, as the configuration declares it."""
        table = self.config.get("data", {}).get("sampling")
        return None if table is None else spec.from_table(Sampling, table, "data.sampling")

    def predict(self, rows: Any, *, raw: bool = False) -> pl.DataFrame:
        """Return the output columns of raw rows, in their order.

        Args:
            rows: a path or glob, a polars or pandas frame, a pyarrow table, or a dict of arrays;
                labels need not be there.
            raw: leave the logits as they were learnt, uncalibrated.

        Raises:
            DataError: a feature that is missing or of a wrong type.
        """
        return self.score(self.encode(rows), raw=raw)

    def predict_frame(self, frame: pl.DataFrame, *, raw: bool = False) -> Predictions:
        """Return what the model says of a frame, as an exported bundle's engine does.

        Args:
            frame: with a column for each feature.
            raw: as in `predict`.

        Raises:
            DataError: as in `predict`.
        """
        table = self.encode(frame)
        return Predictions(self.columns(self.logits(table), raw=raw), table.unseen, table.nulls)

    def evaluate(self, rows: Any, *, split: str = "test", orphans: Orphans = "error") -> Scorecard:
        """Return the scorecard of labelled rows, with intervals.

        Args:
            rows: as in `predict`, with labels.
            split: the scorecard's name for them; where `sampling` names it, rows are weighted to
                be as the whole log.
            orphans: "error", "drop" or "zero": what becomes of a child label without its parent.
        """
        return self.score_labelled(self.encode(rows, split=split, orphans=orphans), split)

    def segments(
        self,
        rows: Any,
        by: Sequence[str] | None = None,
        *,
        score: str | None = None,
        split: str = "test",
        orphans: Orphans = "error",
    ) -> pl.DataFrame:
        """Return the metrics of each segment of labelled rows, the worst of each score first.

        Args:
            rows: as in `predict`, with labels.
            by: columns of the data, "new or seen user" or "score decile"; None takes these two and
                every feature of at most 50 values, dense ones being binned.
            score: such as `click @ all`; None takes every one of a binary task.
            split: the name of these rows in messages.
            orphans: as in `evaluate`.

        Returns:
            The column `score`, and those of `polyrank.metrics.segments.segments`.

        Raises:
            DataError: a column that is not in the data, with the nearest.
            ConfigError: no such score, with the nearest, or one of a regression.
        """
        frame = read(rows, self.schema)
        needed = columns_needed(self.schema, column_names(frame), by)
        table = self.encode(frame, split=split, orphans=orphans, carried=needed)
        return self.segments_labelled(table, by, score)

    def trade_off(
        self,
        rows: Any,
        name: str,
        scores: tuple[str, str],
        *,
        metric: str = "auc",
        factors: Sequence[float] = FACTORS,
        split: str = "test",
        orphans: Orphans = "error",
    ) -> pl.DataFrame:
        """Return what one weight of the fused score gives to one outcome and takes from another.

        Args:
            rows: as in `predict`, with labels.
            name: whose weight is swept.
            scores: the two scores that it is traded between: `click @ all` and `buy @ all`.
            metric: one that depends on the order alone.
            factors: by which the declared weight is multiplied, one after the other.
            split: the name of these rows in messages.
            orphans: as in `evaluate`.

        Returns:
            `weight`, and the metric of either score, such as `auc of buy @ all`, in the order of
            `factors`.

        Raises:
            ConfigError: no fused score is declared, or an unknown name, score or metric.
        """
        if self.fusion is None:
            raise ConfigError(
                "no fused score is declared: write [fusion], or fit(…, fusion=Fusion(weights))"
            )
        table = self.encode(rows, split=split, orphans=orphans)
        return trade_off(
            self.schema, self.fusion, self._predicted(table), table.carried.to_dict(),
            table.labels_by_task, name, scores, metric=metric, factors=factors,
            keys={"user": table.user, "request": table.request}, weight=table.weight,
        )  # fmt: skip

    def experts(self, rows: Any) -> tuple[ExpertUse, ...]:
        """Return how the gates use the experts, level by level; empty where no gate mixes.

        Of at most 16,384 rows, drawn from all; on the validation rows it is what the history has of
        the epoch that was kept.

        Args:
            rows: as in `predict`.
        """
        return experts_of(self.ranker, self.encode(rows))

    def encode(
        self,
        rows: Any,
        *,
        split: str | None = None,
        orphans: Orphans = "error",
        carried: Sequence[str] = (),
    ) -> Table:
        """Return raw rows as a Table, which counts ids that are unseen and values that are null.

        Args:
            rows: as in `predict`.
            split: a name of labelled rows; None leaves labels out.
            orphans: as in `evaluate`.
            carried: raw columns that the table keeps.
        """
        frame = read(rows, self.schema)
        if split is not None and self.fusion is not None:
            self.fusion.check(self.schema, column_names(frame), split)
            carried = [*carried, *self.fusion.columns(self.schema)]
        table = encode(
            frame, self.schema, self.vocab,
            split=split or "rows", orphans=orphans, labels=split is not None, carried=carried,
        )  # fmt: skip
        log_counts(table, split or "rows")
        if split is None or self.sampling is None:
            return table
        return self.sampling.weighted(table, split)

    def score(self, table: Table, *, raw: bool = False) -> pl.DataFrame:
        """Return the output columns of encoded rows, or with `raw` the uncalibrated ones."""
        return pl.DataFrame(self.columns(self.logits(table), raw=raw))

    def score_labelled(self, table: Table, split: str) -> Scorecard:
        """Return the scorecard of encoded, labelled rows, with intervals."""
        logits = self.logits(table)
        changed = self._changed_columns()
        raw = self.columns(logits, raw=True) if changed else {}
        found = self.columns(logits)
        card = scorecard(
            self.schema,
            found,
            table.labels_by_task,
            split=split,
            user=table.user,
            request=table.request,
            weight=table.weight,
            truth={f"true_{output}": values for output, values in table.truth.items()},
            replicates=REPLICATES,
            raw={column: raw[column] for column in changed},
        )
        if self.fusion is None:
            return card
        score = self.fusion.score(self.schema, found, table.carried.to_dict())
        ranked = fused(
            self.schema, self.fusion, score, table.labels_by_task,
            keys={"user": table.user, "request": table.request}, weight=table.weight,
        )  # fmt: skip
        return replace(card, fusion=ranked)

    def segments_labelled(
        self, table: Table, by: Sequence[str] | None = None, score: str | None = None
    ) -> pl.DataFrame:
        """Return the segments of encoded, labelled rows that carry the columns of `by`."""
        return score_segments(
            self.schema, self._predicted(table), table.labels_by_task,
            dimensions(table, self.vocab, by), score=score,
            deciles=by is None or DECILE in by, weight=table.weight,
        )  # fmt: skip

    def _predicted(self, table: Table) -> dict[str, np.ndarray]:
        return self.columns(self.logits(table))

    def logits(self, table: Table) -> dict[str, np.ndarray]:
        """Return each head's uncalibrated logits of encoded rows: {task: float64 (rows,)}.

        Raises:
            DataError: a row whose logit is not finite, with the feature that is furthest out.
        """
        found = logits_of(self.ranker, table)
        logits = {name: each.numpy().astype(np.float64) for name, each in found.items()}
        broken = ~np.all([np.isfinite(each) for each in logits.values()], axis=0)
        if broken.any():
            raise DataError(
                f"{int(broken.sum()):,} of {len(table):,} rows, the first of them row "
                f"{int(broken.argmax())}, get no finite prediction: {_extreme(table, broken)}"
            )
        return logits

    def columns(
        self, logits: Mapping[str, np.ndarray], *, raw: bool = False
    ) -> dict[str, np.ndarray]:
        """Return the output columns of what `logits` returned, or with `raw` the uncalibrated ones.

        Maps are of conditional logits, and products are formed after them.
        """
        if not raw:
            logits = {
                task: self.calibrators[task].apply(each) if task in self.calibrators else each
                for task, each in logits.items()
            }
        return outputs(self.schema, logits, self.scales)

    def save(self, path: str | Path) -> None:
        """Write the bundle's folder, whole or not at all.

        Raises:
            BundleError: `path` is something else, or cannot be written.
        """
        weights = {name: each.numpy() for name, each in self.ranker.named_weights().items()}
        vocab = {
            name: table.to_frame()
            for name, table in self.vocab.tables.items()
            if table.size is None
        }
        card = self.scorecard.to_json() if self.scorecard is not None else None
        parts = format.Parts(self._manifest(), self.config, self.history, vocab, weights, card)
        format.write(Path(path), parts)

    def _changed_columns(self) -> list[str]:
        """The output columns that a map changes: those of a head with one, and joints below it."""
        mapped = {task for task, each in self.calibrators.items() if each.map is not None}
        found = []
        for task in self.schema.tasks:
            head, *joint = output_columns(task)
            found += [head] if task.name in mapped else []
            found += joint if mapped & {task.name, *self.schema.ancestors(task.name)} else []
        return found

    def _manifest(self) -> dict[str, Any]:
        tables = {feature.name: feature.table for feature in self.schema.embedded_features}
        return {
            **hash_version(self.schema),
            "schema": self.schema.to_table(),
            "model": self.model.to_table(),
            "dense": {name: each.to_table() for name, each in self.vocab.dense.items()},
            "targets": {
                task: {"mean": mean, "deviation": deviation}
                for task, (mean, deviation) in self.scales.items()
            },
            "tables": tables,
            "calibrators": {task: each.to_table() for task, each in self.calibrators.items()},
        }


def log_counts(table: Table, split: str) -> None:
    """Log how many ids were unseen and how many values were null."""
    for what, counts in (("unseen or rare ids", table.unseen), ("nulls", table.nulls)):
        shown = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        if shown:
            logger.info("%s: %s of %s rows: %s", split, what, f"{len(table):,}", shown)


def _extreme(table: Table, rows: np.ndarray) -> str:
    """Name the dense feature that is furthest out in some rows."""
    reach = {
        name: float(np.abs(table.dense[rows][:, columns]).max())
        for name, columns in table.slices.items()
        if columns.start < columns.stop
    }
    if not reach:
        return "the weights are too large"
    name = max(reach, key=lambda each: reach[each])
    return (
        f"dense feature {name!r} reaches {reach[name]:.3g} after its encoding; clip such values, "
        "or encode it as bins"
    )
