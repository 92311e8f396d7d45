"""A fitted model with everything that it takes to score raw rows."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from textwrap import indent
from typing import Any, overload

import numpy as np
import polars as pl
import torch
from torch import Tensor

from polyrank import spec
from polyrank.bundle import format
from polyrank.calibration import CalibrationMap
from polyrank.calibration.fitting import Calibrator
from polyrank.data import stream
from polyrank.data.labels import Orphans, check_rule
from polyrank.data.learned import Learned
from polyrank.data.read import (
    Joined,
    OtherFrame,
    collect_chunks,
    column_names,
    like,
    read,
    with_lists,
)
from polyrank.data.sampling import Sampling
from polyrank.data.statistics import label_groups
from polyrank.data.table import Table, encode, outcomes
from polyrank.data.vocab import Vocab
from polyrank.debias import PropensityUse
from polyrank.errors import BundleError, ConfigError, DataError, PolyrankError
from polyrank.inspection.dependence import CURVE_ROWS, POINTS, dependence, numbers_of
from polyrank.inspection.importance import MOST_ROWS, PERMUTATIONS, Importance, importance
from polyrank.layout import Layout
from polyrank.metrics.fusion import FACTORS, Fusion, fused, trade_off
from polyrank.metrics.scorecard import Scorecard, scorecard
from polyrank.metrics.segments import DECILE, columns_needed, dimensions, score_segments
from polyrank.models.expert_use import ExpertUse, experts_of
from polyrank.models.model import BuildsTrunk, Model
from polyrank.models.outputs import CHUNK_ROWS, logits_of, outputs
from polyrank.models.ranker import Ranker
from polyrank.models.uncertainty import deviations_of, uncertain_tasks
from polyrank.monitor.profile import Profile
from polyrank.objective.likelihood import Likelihood, likelihoods, named_extras
from polyrank.objective.losses import Supervision
from polyrank.schema import Schema
from polyrank.serve.engine import Predictions
from polyrank.terms import NORMALIZED, deviation_column, head_columns, output_columns
from polyrank.text import aligned, counted, html_table

logger = logging.getLogger(__name__)

REPLICATES = 200  # of the rows, for the intervals of a scorecard
PIECE_ROWS = 8 * CHUNK_ROWS  # of files, while they are predicted: whole batches keep their bits


@dataclass(frozen=True, eq=False)
class Bundle:
    """A fitted model: schema, vocabularies, weights, and the record of its training.

    Args:
        schema: features, tasks and keys.
        model: the spec of the network.
        vocab: ids to rows, numbers to columns.
        targets: what each kind of label fitted on the training rows, by task.
        ranker: the network, on the CPU, in evaluation mode.
        config: the resolved experiment as plain tables.
        history: one row per epoch.
        scorecard: of the test rows where there were any, else of the validation rows.
        calibrators: of each head, by task; a head without one is uncalibrated.
        learned: the training rows of the runs behind these weights, the first run's first.
        profile: what rows looked like at fit, for monitoring; None where none was made.
    """

    schema: Schema
    model: Model
    vocab: Vocab
    targets: Mapping[str, Mapping[str, Any]]
    ranker: Ranker
    config: Mapping[str, Any]
    history: pl.DataFrame
    scorecard: Scorecard | None
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    learned: tuple[Learned, ...] = ()
    profile: Profile | None = None

    @property
    def version(self) -> str:
        """A name for what it has learned, by which a bundle that starts from it names it."""
        digest = hashlib.sha256(json.dumps(self._manifest(), sort_keys=True).encode())
        for name, weight in self.ranker.named_weights().items():
            digest.update(name.encode())
            digest.update(weight.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    @property
    def fusion(self) -> Fusion | None:
        """The weights of the declared fused score, or None."""
        return Fusion(self.config["fusion"]) if "fusion" in self.config else None

    @property
    def sampling(self) -> Sampling | None:
        """How negatives were down-sampled, as the configuration declares it."""
        table = self.config.get("data", {}).get("sampling")
        return None if table is None else spec.from_table(Sampling, table, "data.sampling")

    @property
    def orphans(self) -> Orphans:
        """The run's rule for a child label without its parent."""
        return self.config.get("data", {}).get("orphans", "error")

    @property
    def kept_epoch(self) -> int:
        """The epoch of these weights."""
        return self.history.filter("best")["epoch"].to_list()[-1]

    @property
    def without_network(self) -> tuple[str, ...]:
        """The heads to which the network adds nothing: their first stages answer alone.

        The validation rows of the kept epoch chose so, or were too few to choose.
        """
        first = self.ranker.first
        if first is None:
            return ()
        shares = zip(first.heads, first.share.tolist(), strict=True)
        return tuple(head for head, share in shares if share == 0)

    def __repr__(self) -> str:
        facts = aligned(["", ""], list(self._facts().items())).strip("\n")
        return f"Bundle {self.config.get('name', '')!r}\n{indent(facts, '  ')}"

    def _repr_html_(self) -> str:
        head = ["Bundle", str(self.config.get("name", ""))]
        figures = [_figures(row) for row in self.history.iter_rows(named=True)]
        names = ["epoch", *dict.fromkeys(name for each in figures for name in each)]
        epochs = [
            [str(number), *(each.get(name, "–") for name in names[1:])]
            for number, each in enumerate(figures, start=1)
        ]
        return html_table(head, list(self._facts().items())) + html_table(names, epochs)

    def _facts(self) -> dict[str, str]:
        tasks = (
            f"{task.name} given {task.given}" if task.given else task.name
            for task in self.schema.tasks
        )
        parameters = sum(each.numel() for each in self.ranker.parameters())
        mapped = [f"{task} ({each.kind})" for task, each in self.calibrators.items() if each.map]
        facts = {
            "tasks": ", ".join(tasks),
            "features": ", ".join(feature.name for feature in self.schema.features),
            **self._served(),
            "model": f"{type(self.model.trunk).__name__}, {counted(parameters, 'parameter')}",
            "calibrated": ", ".join(mapped) or "no head",
        }
        if self.history.height:
            kept = _figures(self.history.row(self.kept_epoch - 1, named=True))
            shown = ", ".join(f"{name} {value}" for name, value in kept.items())
            facts["kept"] = f"epoch {self.kept_epoch} of {self.history.height}: {shown}"
        if len(self.learned) > 1:
            rows = sum(each.rows for each in self.learned)
            runs = counted(len(self.learned) - 1, "run")
            facts["learned"] = f"{rows:,} rows, of this run and {runs} before it"
        if self.scorecard is not None:
            facts["scorecard"] = f"of {self.scorecard.split} rows"
        return facts

    def _served(self) -> dict[str, str]:
        """What is set at prediction, and what the trunk does not read."""
        served = ", ".join(f"{name} = {value}" for name, value in self.vocab.serving.items())
        facts = {"set at prediction": served} if served else {}
        own = ", ".join(f"{name} {[*each]}" for name, each in self.schema.own_towers.items())
        return facts | ({"tower of its own": own} if own else {})

    @overload
    def predict(
        self, rows: OtherFrame, *, raw: bool = False, uncertainty: bool | Sequence[str] = False
    ) -> Any: ...
    @overload
    def predict(
        self, rows: Any, *, raw: bool = False, uncertainty: bool | Sequence[str] = False
    ) -> pl.DataFrame: ...
    def predict(
        self, rows: Any, *, raw: bool = False, uncertainty: bool | Sequence[str] = False
    ) -> Any:
        """Return the output columns of raw rows, in their order.

        A pandas frame of a pandas frame, with its index; a pyarrow table of a pyarrow table; of all
        else a polars frame.

        Of files, and of a LazyFrame, some rows are in memory at a time, beside the outputs.

        With `uncertainty`, behind them comes a column for each binary head with wide rows, such as
        `p_click_sd`: the standard deviation of the head's logit, before its calibration map, by the
        posterior of the wide rows: √(V·(1 + πV/8)) with V = Σ x² ÷ precision over the ids of the
        row, each given all other effects. An unseen id has the prior's variance. The covariances of
        effects, the bias, and the network's own uncertainty are not in it; a joint such as `p_buy`
        has none.

        Args:
            rows: a path or glob, a polars or pandas frame, a pyarrow table, or a dict of arrays;
                labels need not be there.
            raw: leave the logits uncalibrated.
            uncertainty: True for each task that has such a column, or names of tasks.

        Raises:
            DataError: a feature that is missing or of a wrong type.
            ConfigError: `uncertainty` of a task that has none, or of a model that has none.
        """
        asked = self.uncertain(uncertainty)
        return like(rows, self._predict(rows, raw, asked))

    def _predict(self, rows: Any, raw: bool, asked: Sequence[str]) -> pl.DataFrame:
        opened = self.opened(rows)
        frame = _scanned(rows, opened)
        if frame is None or not frame.head(1).collect().height:
            return self.score(self.encode(opened), raw=raw, uncertainty=asked)
        found: list[pl.DataFrame] = []
        unseen, nulls, start = Counter[str](), Counter[str](), 0
        for part in collect_chunks(frame, self.schema.inputs, PIECE_ROWS):
            try:
                table = self.encode_quietly(part)
                found.append(self.score(table, raw=raw, uncertainty=asked))
            except DataError as error:
                if not start:
                    raise
                raise DataError(f"{error} (row 0 is here row {start:,} of the data)") from None
            unseen.update(table.unseen)
            nulls.update(table.nulls)
            start += len(table)
        log_counts(unseen, nulls, start, "rows")
        return pl.concat(found, rechunk=True)

    def predict_frame(
        self, frame: pl.DataFrame, *, raw: bool = False, uncertainty: bool | Sequence[str] = False
    ) -> Predictions:
        """Return the predictions of a frame, as an exported bundle's engine does."""
        table = self.encode(frame)
        found = self._predicted(table, raw=raw) | self.deviations(table, uncertainty)
        return Predictions(found, table.unseen, table.nulls)

    def evaluate(
        self, rows: Any, *, split: str = "test", orphans: Orphans | None = None
    ) -> Scorecard:
        """Return the scorecard of labelled rows, with intervals.

        Of files, some rows are in memory at a time, beside the scores and labels of all.

        Args:
            rows: as in `predict`, with labels.
            split: the scorecard's name for them; where `sampling` names it, rows are weighted to
                stand for the whole log.
            orphans: "error", "drop" or "zero", as in `fit`; None is the run's own rule.
        """
        return self.evaluated(rows, split, orphans)[1]

    def evaluated(
        self, rows: Any, split: str, orphans: Orphans | None = None
    ) -> tuple[Table, Scorecard]:
        """Return labelled rows, those of files without what the model read, and their scorecard."""
        opened = self.opened(rows)
        frame = _scanned(rows, opened)
        if frame is None:
            table = self.encode(opened, split=split, orphans=orphans)
            return table, self.score_labelled(table, split)
        rule = orphans or self.orphans
        check_rule(rule)
        carried = self._fused(frame, split)
        plan = stream.planned(frame, self.schema, rule, split, PIECE_ROWS)
        tables: list[Table] = []
        found: dict[str, list[np.ndarray]] = {}
        for each in stream.encoded_chunks(
            frame, self.schema, self.vocab, plan, split, orphans=rule, carried=carried,
            numbers=self.model.numbers, served=True,
        ):  # fmt: skip
            for head, logits in self.logits(each).items():
                found.setdefault(head, []).append(logits)
            tables.append(outcomes([each]))
        table = outcomes(tables)
        log_counts(table.unseen, table.nulls, len(table), split)
        if self.sampling is not None:
            table = self.sampling.weighted(table, split)
        whole = {head: np.concatenate(parts) for head, parts in found.items()}
        return table, self._scorecard(table, whole, split)

    def segments(
        self,
        rows: Any,
        by: Sequence[str] | None = None,
        *,
        score: str | None = None,
        split: str = "test",
        orphans: Orphans | None = None,
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

    def importance(
        self,
        rows: Any,
        *,
        scores: Sequence[str] | None = None,
        metric: str | None = None,
        together: Mapping[str, Sequence[str]] | None = None,
        permutations: int = PERMUTATIONS,
        most_rows: int = MOST_ROWS,
        seed: int = 0,
        split: str = "test",
        orphans: Orphans | None = None,
    ) -> Importance:
        """Return what each score of labelled rows loses when a feature's values are permuted.

        Lists that come by one key, with `[data] shared` or a `Joined`, are permuted together, and
        with them the key if it is a feature. Features that are set at prediction are left out.

        Args:
            rows: as in `predict`, with labels; better not those of the training.
            scores: such as `["click @ all"]`; None takes all.
            metric: with a direction; None takes the default of each score's kind of label.
            together: names of features to permute as one, by a name for them.
            permutations: of each feature, at least 2.
            most_rows: that are drawn at random where there are more.
            seed: of the draw and of the permutations.
            split: as in `evaluate`.
            orphans: as in `evaluate`.

        Raises:
            ConfigError: an unknown score, metric or feature, with the nearest; a metric without a
                direction.
        """
        opened = self.opened(rows)
        table = self.encode(opened, split=split, orphans=orphans)
        return self.importance_labelled(
            table, split, tied=self.tied(opened), scores=scores, measure=metric, together=together,
            permutations=permutations, most_rows=most_rows, seed=seed,
        )  # fmt: skip

    def importance_labelled(self, table: Table, split: str, **options: Any) -> Importance:
        """Return the same of encoded, labelled rows; the options are those of its own module."""

        def groups(rows: Table) -> dict[str, np.ndarray]:
            return {name: each.codes for name, each in label_groups(rows, self.targets).items()}

        return importance(table, self._predicted, label_groups=groups, split=split, **options)

    def tied(self, opened: pl.LazyFrame | Joined) -> dict[str, tuple[str, ...]]:
        """Return the features that are functions of one key of the rows, by a name for them."""
        if not isinstance(opened, Joined):
            return {}
        shared = {*column_names(read(opened.shared, self.schema))}
        names = (each.name for each in self.schema.features if shared & {*each.columns})
        return {f"by {opened.key}": tuple(names)}

    def dependence(
        self,
        rows: Any,
        features: Sequence[str] | None = None,
        *,
        points: int = POINTS,
        most_rows: int = CURVE_ROWS,
        seed: int = 0,
    ) -> pl.DataFrame:
        """Return how the outputs move with a number, all else of each row as it is.

        Args:
            rows: as in `predict`; labels need not be there.
            features: dense features; None takes all that have a value in these rows.
            points: values of each, at evenly spaced quantiles of these rows, at most.
            most_rows: that are drawn at random where there are more.
            seed: of the draw.

        Returns:
            A line for each feature, output column and value: `mean`, the partial dependence, and
            `low` and `high`, the middle 80 % of the rows' own curves, each moved to the level of
            the mean.

        Raises:
            ConfigError: a feature that is unknown, no number, or set at prediction.
            DataError: a named feature without a value in these rows.
        """
        numbers = numbers_of(self.schema, features)
        table = self.encode(rows, carried=[each.name for each in numbers])
        values = {each.name: each.values(table.carried[each.name]) for each in numbers}
        if features is None:
            values = {name: each for name, each in values.items() if not np.isnan(each).all()}
        return self.dependence_encoded(table, values, points=points, most_rows=most_rows, seed=seed)

    def dependence_encoded(
        self, table: Table, values: Mapping[str, np.ndarray], **options: Any
    ) -> pl.DataFrame:
        """Return the same of encoded rows, by the numbers of each feature, NaN where missing."""
        return dependence(table, self.vocab, self._predicted, values, **options)

    def trade_off(
        self,
        rows: Any,
        name: str,
        scores: tuple[str, str],
        *,
        metric: str = "auc",
        factors: Sequence[float] = FACTORS,
        split: str = "test",
        orphans: Orphans | None = None,
    ) -> pl.DataFrame:
        """Return how one weight of the fused score trades one outcome for another.

        Args:
            rows: as in `predict`, with labels.
            name: of the output whose weight is swept.
            scores: the two scores that are traded: `click @ all` and `buy @ all`.
            metric: one that depends on the order alone.
            factors: what the declared weight is multiplied by, one after the other.
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

        They are measured on at most 16,384 rows, drawn from all; on the validation rows the history
        has the same figures for the kept epoch.
        """
        return experts_of(self.ranker, self.encode(rows))

    def propensities(self, rows: Any, *, split: str = "rows") -> tuple[PropensityUse, ...]:
        """Return what the weights of debiased tasks are worth on labelled rows.

        Where the log was sampled, propensities are those of the sample, as the weights in training.
        `split` is as in `evaluate`.
        """
        # The weights of training were of rows as they were logged.
        table = self.encode(rows, split=split, served=False)
        return self.propensities_labelled(table, self.logits(table))

    def propensities_labelled(
        self, table: Table, logits: Mapping[str, np.ndarray]
    ) -> tuple[PropensityUse, ...]:
        """Return the same of encoded, labelled rows and their logits."""
        return Supervision(self.schema, {}, sampling=self.sampling).propensities(
            {name: torch.from_numpy(each) for name, each in logits.items()},
            torch.from_numpy(table.labels),
            None if table.weight is None else torch.from_numpy(table.weight),
        )

    def encode(
        self,
        rows: Any,
        *,
        split: str | None = None,
        orphans: Orphans | None = None,
        carried: Sequence[str] = (),
        served: bool = True,
    ) -> Table:
        """Return raw rows as a Table that keeps `carried` columns; without a `split`, no labels.

        Features have the values that are set at prediction; labelled rows, not `served`, those
        that were logged.
        """
        frame = self.opened(rows)
        if split is None:
            table = self.encode_quietly(frame, carried)
            log_counts(table.unseen, table.nulls, len(table), "rows")
            return table
        table = encode(
            frame, self.schema, self.vocab, split=split, orphans=orphans or self.orphans,
            carried=[*carried, *self._fused(frame, split)], numbers=self.model.numbers,
            served=served,
        )  # fmt: skip
        log_counts(table.unseen, table.nulls, len(table), split)
        return table if self.sampling is None else self.sampling.weighted(table, split)

    def _fused(self, frame: pl.LazyFrame | Joined, split: str) -> list[str]:
        """Return the raw columns of the fused score, if one is declared, which must be there."""
        if self.fusion is None:
            return []
        self.fusion.check(self.schema, column_names(frame.lazy()), split)
        return list(self.fusion.columns(self.schema))

    def encode_quietly(
        self, frame: pl.LazyFrame | pl.DataFrame | Joined, carried: Sequence[str] = ()
    ) -> Table:
        """Return rows without labels as a Table; what was unseen or null is not logged."""
        return encode(
            frame, self.schema, self.vocab, split="rows", labels=False, carried=carried,
            numbers=self.model.numbers, served=True,
        )  # fmt: skip

    def opened(self, rows: Any) -> pl.LazyFrame | Joined:
        """Return raw rows as `encode` takes them.

        Rows that have the key of the lists that the run's experiment shares, and not those lists,
        are joined with them.
        """
        found = with_lists(rows, self.schema, self.config)
        return found if isinstance(found, Joined) else read(found, self.schema)

    def score(
        self, table: Table, *, raw: bool = False, uncertainty: bool | Sequence[str] = False
    ) -> pl.DataFrame:
        """Return the output columns of encoded rows; `raw` and `uncertainty` as in `predict`."""
        found = self._predicted(table, raw=raw) | self.deviations(table, uncertainty)
        return pl.DataFrame(found)

    def uncertain(self, uncertainty: bool | Sequence[str] = True) -> list[str]:
        """Return the tasks that `predict` gives a standard deviation, or refuse them as it does."""
        return [task.name for task in uncertain_tasks(self.ranker, uncertainty)]

    def deviations(self, table: Table, uncertainty: bool | Sequence[str]) -> dict[str, np.ndarray]:
        """Return the standard deviations of logits of encoded rows by column, as `predict` does."""
        return deviations_of(self.ranker, table, uncertain_tasks(self.ranker, uncertainty))

    def output_columns(self, uncertain: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the columns of `predict`, with the deviations of tasks."""
        columns = (deviation_column(self.schema.by_name[task]) for task in uncertain)
        return *self.schema.outputs, *columns

    def score_labelled(self, table: Table, split: str) -> Scorecard:
        """Return the scorecard of encoded, labelled rows, with intervals."""
        return self._scorecard(table, self.logits(table), split)

    def _scorecard(self, table: Table, logits: Mapping[str, np.ndarray], split: str) -> Scorecard:
        changed = self._changed_columns()
        raw = self.columns(table, logits, raw=True) if changed else {}
        found = self.columns(table, logits)
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
            groups={name: each.codes for name, each in label_groups(table, self.targets).items()},
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

    def _predicted(self, table: Table, *, raw: bool = False) -> dict[str, np.ndarray]:
        return self.columns(table, self.logits(table), raw=raw)

    def logits(self, table: Table) -> dict[str, np.ndarray]:
        """Return uncalibrated, finite logits: {task: float64 (rows,) or (rows, outputs)}."""
        found = logits_of(self.ranker, table)
        logits = {name: found[name].numpy().astype(np.float64) for name in self.schema.by_name}
        finite = [np.isfinite(each).reshape(len(table), -1).all(1) for each in logits.values()]
        broken = ~np.all(finite, axis=0)
        if broken.any():
            raise DataError(
                f"{int(broken.sum()):,} of {len(table):,} rows, the first of them row "
                f"{int(broken.argmax())}, get no finite prediction: {_extreme(table, broken)}"
            )
        return logits

    def columns(
        self, table: Table, logits: Mapping[str, np.ndarray], *, raw: bool = False
    ) -> dict[str, np.ndarray]:
        """Return the output columns from `logits`: maps act on them, products come after."""
        tensors = {task: torch.from_numpy(each) for task, each in logits.items()}
        extras = named_extras(self.schema, torch.from_numpy(table.extras))
        fitted = {} if raw else self.calibrators
        maps = {
            task: partial(_mapped, each.map)
            for task, each in fitted.items()
            if each.map is not None
        }
        found = outputs(self.schema, tensors, self.likelihoods, extras, maps)
        return {name: each.numpy() for name, each in found.items()}

    @cached_property
    def likelihoods(self) -> Mapping[str, Likelihood]:
        """Of each task: its prediction from logits."""
        return likelihoods(self.schema, self.targets)

    def save(self, path: str | Path) -> None:
        """Write the bundle's folder, whole or not at all.

        Raises:
            BundleError: `path` is something else, or cannot be written.
        """
        weights = {name: each.numpy() for name, each in self.ranker.named_weights().items()}
        listed = {name: each for name, each in self.vocab.tables.items() if each.size is None}
        vocab = {name: table.saved() for name, table in listed.items()}
        card = self.scorecard.to_json() if self.scorecard is not None else None
        stages = {} if self.ranker.first is None else self.ranker.first.to_files()
        record = self.config, self.history, vocab, weights, card, stages
        profile = None if self.profile is None else self.profile.to_table()
        parts = format.Parts(self._manifest(), *record, profile)
        format.write(Path(path), parts)

    def _changed_columns(self) -> list[str]:
        """Output columns that a map changes: its head's, and joints below."""
        mapped = {task for task, each in self.calibrators.items() if each.map is not None}
        found = []
        for task in self.schema.tasks:
            head = head_columns(task)
            joint = [name for name in output_columns(task) if name not in head]
            found += head if task.name in mapped else []
            found += joint if mapped & {task.name, *self.schema.ancestors(task.name)} else []
        return found

    def _manifest(self) -> dict[str, Any]:
        return {
            **format.hash_version(self.vocab),
            "schema": self.schema.to_table(),
            "model": self.model.to_table(),
            "encodings": self.vocab.saved_states(),
            "targets": {task: dict(each) for task, each in self.targets.items()},
            "tables": {slot.name: slot.table for slot in self.schema.lookups},
            "calibrators": {
                task: each.to_table(self.schema.by_name[task].label_kind)
                for task, each in self.calibrators.items()
            },
            "stages": {} if self.ranker.first is None else self.ranker.first.to_table(),
            "learned": [spec.to_table(each) for each in self.learned],
        }


def _mapped(found: CalibrationMap, values: Any) -> Any:
    """Return what is calibrated of a tensor, or of a tuple of them."""
    if isinstance(values, Tensor):
        return torch.from_numpy(found.apply(values.numpy()))
    return tuple(torch.from_numpy(each) for each in found.apply([v.numpy() for v in values]))


def _scanned(rows: Any, opened: pl.LazyFrame | Joined) -> pl.LazyFrame | None:
    """Return rows that may be more than memory holds; None of those that are read at once."""
    if isinstance(opened, Joined) or not isinstance(rows, str | Path | pl.LazyFrame):
        return None
    return opened


def log_counts(unseen: Mapping[str, int], nulls: Mapping[str, int], rows: int, split: str) -> None:
    """Log how many ids were unseen and how many values were null."""
    for what, counts in (("unseen or rare ids", unseen), ("nulls", nulls)):
        shown = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        if shown:
            logger.info("%s: %s of %s rows: %s", split, what, f"{rows:,}", shown)


def _figures(epoch: Mapping[str, Any]) -> dict[str, str]:
    """Return the telling figures of an epoch's record: those of validation rows, if any."""
    valid = {
        name.removeprefix("valid "): value
        for name, value in epoch.items()
        if name in ("valid total loss", f"valid {NORMALIZED}")
        or (name.startswith("valid ") and name[-5:] != " loss")
    }
    found = valid or {name: value for name, value in epoch.items() if name.endswith(" loss")}
    return {name: f"{value:.4f}" for name, value in found.items() if value is not None}


def _extreme(table: Table, rows: np.ndarray) -> str:
    """Name the dense feature that is furthest out in some rows."""
    owner = {slot.name: each.name for each in table.schema.features for slot in each.slots}
    reach: dict[str, float] = {}
    for slot, columns in table.slices.items():
        if columns.start < columns.stop:
            most = float(np.abs(table.dense[rows][:, columns]).max())
            reach[owner[slot]] = max(most, reach.get(owner[slot], 0.0))
    if not reach:
        return "the weights are too large"
    name = max(reach, key=reach.__getitem__)
    return (
        f"dense feature {name!r} reaches {reach[name]:.3g} after its encoding; clip such values, "
        "or encode it as bins"
    )


def load(path: str | Path, *, trunk: BuildsTrunk | None = None) -> Bundle:
    """Load a bundle from its folder or its run's folder; no code of the file runs.

    Args:
        path: a run folder or a bundle folder.
        trunk: the spec of a trunk that polyrank does not have.

    Raises:
        BundleError: no bundle, a newer format, or a file that is missing or damaged.
    """
    folder = format.find(Path(path))
    parts = format.read(folder)
    try:
        schema = Schema.from_table(parts.manifest["schema"])
        model = Model.from_table(parts.manifest["model"], trunk)
        vocab = format.vocab_of(schema, parts)
        targets = {task: dict(each) for task, each in parts.manifest["targets"].items()}
        likelihoods(schema, targets)  # refuses what is damaged
        calibrators = {
            task: Calibrator.from_table(
                each, f"calibrators.{task}", schema.by_name[task].label_kind
            )
            for task, each in parts.manifest["calibrators"].items()
        }
        learned = tuple(
            spec.from_table(Learned, each, "learned") for each in parts.manifest["learned"]
        )
        card = None if parts.scorecard is None else Scorecard.from_json(parts.scorecard)
        profile = None if parts.profile is None else Profile.from_table(parts.profile)
        ranker = _built(model, model.layout(schema, vocab))
        if ranker.first is not None:
            ranker.first.load_files(parts.manifest["stages"], parts.stages)
    except PolyrankError as error:
        raise BundleError(f"the bundle {folder} cannot be used: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError) as error:
        # the last two: sizes for which there is no memory
        raise BundleError(f"the bundle {folder} is damaged: bundle.json: {error!r}") from error
    ranker.load_named_weights({name: torch.from_numpy(w) for name, w in parts.weights.items()})
    record = parts.config, parts.history, card
    return Bundle(
        schema, model, vocab, targets, ranker.eval(), *record, calibrators, learned, profile
    )


def _built(model: Model, layout: Layout) -> Ranker:
    """Build a float32 network; the weights that it draws leave no trace in torch's generator."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]):
            return model.build(layout)
    finally:
        torch.set_default_dtype(dtype)
