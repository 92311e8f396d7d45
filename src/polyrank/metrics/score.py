"""A score and a scorecard: frozen numbers that read and write JSON and print as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyrank import spec
from polyrank.errors import ConfigError, did_you_mean
from polyrank.metrics.registry import METRICS, metric
from polyrank.metrics.undefined import Undefined
from polyrank.text import aligned

FORMAT = 1
RAW_METRICS = ("auc", "log_loss", "ne", "pcoc", "ece")
BEFORE_AND_AFTER = ("auc", "pcoc", "ece")
TRUTH_COLUMNS = {"oracle_auc": "oracle auc", "mae": "|p − truth|"}


@dataclass(frozen=True)
class Score:
    """One task on one population.

    Args:
        name: `buy|click @ click`; the name of the term that supervises the same population.
        task: whose outcome it is.
        given: the event conditioned on; None for a joint.
        space: the rows: "all", or the task whose joint label is 1 there.
        rows: how many rows; None where the score is of probabilities instead of labels.
        positives: how many of them have label 1; None for a regression.
        label_mean: weighted; None without rows.
        prediction_mean: weighted; None without rows.
        metrics: {name: {"value": number}}, with "low" and "high" where there is an interval.
        absent: {name: reason} of each metric that these rows cannot support; under "interval" or
            "auc interval" why all metrics, or one, have none.
        truth: `mae` and `rmse` from the true probability, and the AUC that it reaches itself
            (`oracle_auc`); None where the truth is not known.
        raw: {name: number} of the same predictions before calibration, as far as these rows
            support `RAW_METRICS`; None where no calibrated head is on the score's path.
    """

    name: str
    task: str
    given: str | None
    space: str
    rows: int | None
    positives: int | None
    label_mean: float | None
    prediction_mean: float | None
    metrics: Mapping[str, Mapping[str, float]]
    absent: Mapping[str, str]
    truth: Mapping[str, float] | None = None
    raw: Mapping[str, float] | None = None

    @property
    def kind(self) -> str:
        """The kind of its label, which its counts tell: a regression has rows and no positives."""
        return "regression" if self.rows is not None and self.positives is None else "binary"

    def value(self, name: str) -> float:
        """Return a metric's value.

        Raises:
            Undefined: it is absent; the message quotes the reason.
            ConfigError: the kind has no such metric.
        """
        if name in self.metrics:
            return self.metrics[name]["value"]
        metric(self.kind, name)
        reason = self.absent.get(name, "it was not measured")
        raise Undefined(f"{self.name} has no {name}: {reason}")

    def to_json(self) -> dict[str, Any]:
        """Return plain tables; `truth` only where it is known, `raw` only where it differs."""
        table: dict[str, Any] = {
            "name": self.name,
            "task": self.task,
            "given": self.given,
            "space": self.space,
            "rows": self.rows,
            "positives": self.positives,
            "label_mean": self.label_mean,
            "prediction_mean": self.prediction_mean,
            "metrics": {name: dict(parts) for name, parts in self.metrics.items()},
            "absent": dict(self.absent),
        }
        known = {"truth": self.truth, "raw": self.raw}
        return table | {name: dict(each) for name, each in known.items() if each is not None}


@dataclass(frozen=True)
class Fused:
    """How well one fused score ranks each binary task's outcome, on all rows.

    Args:
        weights: of the fused score, by name.
        scores: in task order, with the metrics of an order alone; `prediction_mean` is None, since
            a fused score is no probability.
    """

    weights: Mapping[str, float]
    scores: tuple[Score, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {
            "weights": dict(self.weights),
            "scores": [score.to_json() for score in self.scores],
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Fused:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: a table of another shape.
        """
        where = "scorecard fusion"
        spec.check_keys(table, ["weights", "scores"], where)
        for key in ("weights", "scores"):
            if key not in table:
                raise ConfigError(f"{where}: the key {key!r} is missing")
        scores = (spec.from_table(Score, each, f"{where} score") for each in table["scores"])
        return cls(dict(table["weights"]), tuple(scores))

    def __str__(self) -> str:
        declared = ", ".join(f"{name} = {weight:g}" for name, weight in self.weights.items())
        ranked = [name for name in METRICS["binary"] if any(name in s.metrics for s in self.scores)]
        header = ["fused score, by outcome", "rows", "positives", *ranked]
        table = aligned(
            header,
            [
                [score.task, f"{score.rows:,}", f"{score.positives:,}"]
                + [_shown(score.metrics.get(name, {}).get("value")) for name in ranked]
                for score in self.scores
            ],
            right=range(1, len(header)),
        )
        return "\n".join([table, f"– weights: {declared}", *_reasons(self.scores)])


@dataclass(frozen=True)
class Scorecard:
    """The scores of one split; prints as tables and reads its own JSON.

    Args:
        split: which rows they are: "test", "valid" …
        scores: in task order.
        fusion: how the declared fused score ranks; None where none is declared.

    Example:
        >>> from polyrank.metrics.scorecard import scorecard
        >>> from polyrank.schema import DenseFeature, Schema, Task
        >>> schema = Schema([DenseFeature("x")], [Task("click")])
        >>> card = scorecard(schema, {"p_click": [0.1, 0.6]}, {"click": [0, 1]}, split="test")
        >>> card.value("click @ all", "auc")
        1.0
        >>> Scorecard.from_json(card.to_json()) == card
        True
    """

    split: str
    scores: tuple[Score, ...]
    fusion: Fused | None = None

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, name: str) -> Score:
        for score in self.scores:
            if score.name == name:
                return score
        hint = did_you_mean(str(name), (score.name for score in self.scores))
        raise ConfigError(f"the scorecard has no score {name!r}{hint}")

    def value(self, score: str, metric: str) -> float:
        """Return the value of a metric of a score.

        Raises:
            Undefined: the metric is absent; the message quotes the reason.
            ConfigError: no such score, or no such metric of its kind, with the nearest.
        """
        return self[score].value(metric)

    def to_json(self) -> dict[str, Any]:
        """Return what `scorecard.json` holds; `fusion` only where one is declared."""
        table = {
            "format": FORMAT,
            "split": self.split,
            "scores": [score.to_json() for score in self.scores],
        }
        return table if self.fusion is None else {**table, "fusion": self.fusion.to_json()}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Scorecard:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: a newer format, or a table that is no scorecard.
        """
        found = table.get("format") if isinstance(table, Mapping) else table
        if isinstance(found, int) and found > FORMAT:
            raise ConfigError(
                f"scorecard: format {found} is newer than this polyrank reads ({FORMAT}); "
                "upgrade polyrank"
            )
        if found != FORMAT:
            raise ConfigError(f"scorecard: format {FORMAT} is expected, however: {found!r}")
        spec.check_keys(table, ["format", "split", "scores", "fusion"], "scorecard")
        for key in ("split", "scores"):
            if key not in table:
                raise ConfigError(f"scorecard: the key {key!r} is missing")
        return cls(
            table["split"],
            tuple(spec.from_table(Score, each, "scorecard score") for each in table["scores"]),
            Fused.from_json(table["fusion"]) if "fusion" in table else None,
        )

    def __str__(self) -> str:
        parts = [f"scores of the {self.split} split"]
        for kind in METRICS:
            scores = [score for score in self.scores if score.kind == kind]
            if scores:
                tables = [_table(kind, scores), _lists(kind, scores), _intervals(kind, scores)]
                tables = [table for table in tables if table]
                reasons = "\n".join(_reasons(scores))
                gap = "\n" if len(tables) == 1 else "\n\n"
                parts.append(gap.join(filter(None, ["\n\n".join(tables), reasons])))
        calibrated = [score for score in self.scores if score.raw is not None]
        if calibrated:
            parts.append(f"before → after calibration\n{_before_and_after(calibrated)}")
        if self.fusion is not None:
            parts.append(str(self.fusion))
        return "\n\n".join(parts)


def _table(kind: str, scores: Sequence[Score]) -> str:
    counts = ["rows", "positives"] if kind == "binary" else ["rows"]
    known = TRUTH_COLUMNS if any(score.truth for score in scores) else {}
    names = [name for name, each in METRICS[kind].items() if each.key != "request"]
    header = ["score", *counts, *names, *known.values()]
    lines = []
    for score in scores:
        truth = score.truth or {}
        numbers = [score.metrics.get(name, {}).get("value") for name in names]
        numbers += [truth.get(name) for name in known]
        lines.append(
            [
                score.name,
                *("–" if (n := getattr(score, each)) is None else f"{n:,}" for each in counts),
                *map(_shown, numbers),
            ]
        )
    return aligned(header, lines, right=range(1, len(header)))


def _shown(number: float | None) -> str:
    return "–" if number is None else f"{number:z.4f}"


def _lists(kind: str, scores: Sequence[Score]) -> str:
    """Return a table of the metrics of ranked lists; empty where there is none."""
    names = [name for name, each in METRICS[kind].items() if each.key == "request"]
    scores = [score for score in scores if score.metrics.keys() & set(names)]
    if not scores:
        return ""
    lines = [
        [s.name, *(_shown(s.metrics.get(name, {}).get("value")) for name in names)] for s in scores
    ]
    return aligned(["by request", *names], lines, right=range(1, len(names) + 1))


def _intervals(kind: str, scores: Sequence[Score]) -> str:
    """Return a table of the intervals there are; empty where there is none."""
    scores = [s for s in scores if any("low" in parts for parts in s.metrics.values())]
    names = [
        name for name in METRICS[kind] if any("low" in s.metrics.get(name, {}) for s in scores)
    ]
    if not scores:
        return ""
    lines = [
        [
            score.name,
            *(
                f"{parts['low']:z.4f}…{parts['high']:z.4f}" if "low" in parts else "–"
                for parts in (score.metrics.get(name, {}) for name in names)
            ),
        ]
        for score in scores
    ]
    return aligned(["95 % interval", *names], lines, right=range(1, len(names) + 1))


def _before_and_after(scores: Sequence[Score]) -> str:
    """Return a table of what calibration did to each score."""

    def cell(score: Score, name: str) -> str:
        before = (score.raw or {}).get(name)
        after = score.metrics.get(name, {}).get("value")
        return "–" if before is None or after is None else f"{before:z.4f} → {after:z.4f}"

    lines = [[score.name, *(cell(score, name) for name in BEFORE_AND_AFTER)] for score in scores]
    header = ["score", *BEFORE_AND_AFTER]
    return aligned(header, lines, right=range(1, len(header)))


def _reasons(scores: Sequence[Score]) -> list[str]:
    """Return a line for each distinct reason: which metrics it explains, and of which scores."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for score in scores:
        for name, reason in score.absent.items():
            names, where = found.setdefault(reason, ({}, {}))
            own = name in METRICS[score.kind]  # a regression's mae is no distance to a truth
            names[name if own else TRUTH_COLUMNS.get(name, name)] = where[score.name] = None
    return [
        f"– {', '.join(names)} of {', '.join(where)}: {reason}"
        for reason, (names, where) in found.items()
    ]
