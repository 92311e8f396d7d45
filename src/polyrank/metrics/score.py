"""A score and a scorecard: frozen numbers that read and write JSON and print as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import polars as pl

from polyrank import spec
from polyrank.errors import ConfigError, did_you_mean
from polyrank.labels import LABELS
from polyrank.metrics.metric import Role
from polyrank.metrics.registry import metric, metrics_of
from polyrank.metrics.undefined import Undefined
from polyrank.text import aligned, html_table

FORMAT = 1
TRUTH_COLUMNS = {"oracle_auc": "oracle auc", "mae": "|p − truth|"}
COLUMNS = {
    **dict.fromkeys(("score", "task", "kind", "given", "space"), pl.String),
    "rows": pl.Int64,
    "positives": pl.Int64,
    "metric": pl.String,
    **dict.fromkeys(("value", "low", "high", "raw"), pl.Float64),
    "reason": pl.String,
}


@dataclass(frozen=True)
class Score:
    """One task on one population.

    Args:
        name: `buy|click @ click`; the name of the term that supervises the same population.
        task: whose outcome it is.
        kind: name of the kind of its label.
        given: the event conditioned on; None for a joint.
        space: the rows: "all", or the task whose joint label is 1 there.
        rows: how many rows; None where the score is of probabilities instead of labels.
        positives: how many of them have label 1; None where the label is no event.
        label_mean: weighted; None without rows, and of a kind that predicts no mean.
        prediction_mean: likewise.
        metrics: {name: {"value": number}}, with "low" and "high" where there is an interval.
        absent: {name: reason} of each metric that these rows cannot support; under "interval" or
            "auc interval" why all metrics, or one, have none.
        truth: `mae` and `rmse` from the true probability, and the AUC that it reaches itself
            (`oracle_auc`); None where the truth is not known.
        raw: {name: number} of the same predictions before calibration: the diagnosed metrics that
            these rows support; None where no calibrated head is on the score's path.
    """

    name: str
    task: str
    kind: str
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

    def shown(self, name: str) -> str:
        """Return a metric's value with four decimals, or a dash."""
        return _number(self.metrics.get(name, {}).get("value"))

    def to_json(self) -> dict[str, Any]:
        """Return plain tables; `truth` only where it is known, `raw` only where it differs."""
        optional = ("truth", "raw")
        known = asdict(self).items()
        return {name: each for name, each in known if each is not None or name not in optional}


@dataclass(frozen=True)
class Fused:
    """How well one fused score ranks the outcome of each task that is an event, on all rows.

    Args:
        weights: of the fused score, by name.
        scores: in task order, with the metrics of an order alone; `prediction_mean` is None, since
            a fused score is no probability.
    """

    weights: Mapping[str, float]
    scores: tuple[Score, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {"weights": dict(self.weights), "scores": [each.to_json() for each in self.scores]}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Fused:
        """Read what `to_json` wrote."""
        where = "scorecard fusion"
        spec.check_keys(table, ["weights", "scores"], where)
        for key in ("weights", "scores"):
            if key not in table:
                raise ConfigError(f"{where}: the key {key!r} is missing")
        scores = (spec.from_table(Score, each, f"{where} score") for each in table["scores"])
        return cls(dict(table["weights"]), tuple(scores))

    @property
    def metrics(self) -> list[str]:
        """The metrics that any of its scores has."""
        names = metric_names(self.scores)
        return [name for name in names if any(name in score.metrics for score in self.scores)]

    def __str__(self) -> str:
        return "\n".join([_aligned(self.table), *self.notes])

    @property
    def table(self) -> Grid:
        """What it prints: header and lines."""
        names = self.metrics
        header = ["fused score, by outcome", "rows", "positives", *names]
        lines = [
            [score.task, f"{score.rows:,}", f"{score.positives:,}", *map(score.shown, names)]
            for score in self.scores
        ]
        return header, lines

    @property
    def notes(self) -> list[str]:
        """The weights, and why what is absent is absent."""
        declared = ", ".join(f"{name} = {weight:g}" for name, weight in self.weights.items())
        return [f"– weights: {declared}", *reasons(self.scores)]


@dataclass(frozen=True)
class Scorecard:
    """The scores of one split; prints as tables and reads its own JSON.

    Args:
        split: which rows they are: "test", "valid" …
        scores: in task order.
        fusion: how the declared fused score ranks; None where none is declared.

    Examples:
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
            raise ConfigError(f"scorecard: expected format {FORMAT}, got {found!r}")
        spec.check_keys(table, ["format", "split", "scores", "fusion"], "scorecard")
        for key in ("split", "scores"):
            if key not in table:
                raise ConfigError(f"scorecard: the key {key!r} is missing")
        return cls(
            table["split"],
            tuple(spec.from_table(Score, each, "scorecard score") for each in table["scores"]),
            Fused.from_json(table["fusion"]) if "fusion" in table else None,
        )

    def to_frame(self) -> pl.DataFrame:
        """Return a line per score and metric, for a table or a chart of one's own.

        Returns:
            The columns `score`, `task`, `kind`, `given`, `space`, `rows`, `positives`, `metric`,
            `value`, the interval's `low` and `high`, `raw` (the value before calibration) and
            `reason` (why the value or else its interval is null).

        Examples:
            >>> from polyrank.metrics.scorecard import scorecard
            >>> from polyrank.schema import DenseFeature, Schema, Task
            >>> schema = Schema([DenseFeature("x")], [Task("click")])
            >>> card = scorecard(schema, {"p_click": [0.1, 0.6]}, {"click": [0, 1]}, split="test")
            >>> card.to_frame().select("score", "metric", "value", "reason").rows()[:2]
            [('click @ all', 'auc', 1.0, None), ('click @ all', 'gauc', None, 'no user key')]
        """
        lines = []
        for score in self.scores:
            about = {name: getattr(score, name) for name in ("task", "kind", "given", "space")}
            about |= {"score": score.name, "rows": score.rows, "positives": score.positives}
            for name, each in metrics_of(score.kind).items():
                if name not in score.metrics and name not in score.absent:
                    continue
                found = score.metrics.get(name, {})
                keys = [name] if not found else [f"{name} interval", "interval"]
                reason = next((score.absent[key] for key in keys if key in score.absent), None)
                if found and ("low" in found or each.scale is None):
                    reason = None
                raw = (score.raw or {}).get(name)
                lines.append({**about, "metric": name, **found, "raw": raw, "reason": reason})
        return pl.DataFrame(lines, schema=COLUMNS)

    def __str__(self) -> str:
        blocks = [f"scores of the {self.split} split"]
        for tables, notes in self._parts():
            texts = [*map(_aligned, tables)]
            gap = "\n" if len(texts) == 1 else "\n\n"
            blocks.append(gap.join(filter(None, ["\n\n".join(texts), "\n".join(notes)])))
        blocks += [f"{title}\n{_aligned(table)}" for title, table in self._calibrations()]
        return "\n\n".join(blocks if self.fusion is None else [*blocks, str(self.fusion)])

    def _repr_html_(self) -> str:
        parts = [*self._parts()]
        parts += [([table], [title]) for title, table in self._calibrations()]
        if self.fusion is not None:
            parts.append(([self.fusion.table], self.fusion.notes))
        blocks = [f"<p>scores of the {escape(self.split)} split</p>"]
        for tables, notes in parts:
            blocks += [html_table(*table) for table in tables]
            blocks += [f"<p>{'<br>'.join(map(escape, notes))}</p>"] if notes else []
        return "".join(blocks)

    def _parts(self) -> Iterator[tuple[list[Grid], list[str]]]:
        """Yield the tables of each kind of label, and why what is absent is absent."""
        for kind in LABELS:
            scores = [score for score in self.scores if score.kind == kind]
            if scores:
                tables = [_table(kind, scores), _lists(kind, scores), _intervals(kind, scores)]
                yield [table for table in tables if table is not None], reasons(scores)

    def _calibrations(self) -> Iterator[tuple[str, Grid]]:
        """Yield what calibration did to each score, where it did anything."""
        scores = [score for score in self.scores if score.raw is not None]
        if scores:
            names = metric_names(scores, "calibration table")
            lines = [[score.name, *(_change(score, name) for name in names)] for score in scores]
            yield "before → after calibration", (["score", *names], lines)


Grid = tuple[list[str], list[list[str]]]  # header, lines


def _aligned(grid: Grid) -> str:
    header, lines = grid
    return aligned(header, lines, right=range(1, len(header)))


def metric_names(scores: Sequence[Score], role: Role | None = None) -> list[str]:
    """Return the metrics of the scores' kinds of label, or those with a role."""
    kinds = dict.fromkeys(score.kind for score in scores)
    return list(dict.fromkeys(name for kind in kinds for name in metrics_of(kind, role)))


def by_request(kind: str, scores: Sequence[Score]) -> tuple[list[str], list[Score]]:
    """Return the metrics of ranked lists of a kind, and the scores that have any."""
    names = [name for name, each in metrics_of(kind).items() if each.key == "request"]
    return names, [score for score in scores if score.metrics.keys() & set(names)]


def _table(kind: str, scores: Sequence[Score]) -> Grid:
    counts = LABELS[kind].counts
    known = TRUTH_COLUMNS if any(score.truth for score in scores) else {}
    names = [name for name, each in metrics_of(kind).items() if each.key != "request"]
    header = ["score", *counts, *names, *known.values()]
    lines = [
        [
            score.name,
            *("–" if (n := getattr(score, each)) is None else f"{n:,}" for each in counts),
            *map(score.shown, names),
            *(_number((score.truth or {}).get(name)) for name in known),
        ]
        for score in scores
    ]
    return header, lines


def _number(number: float | None) -> str:
    return "–" if number is None else f"{number:z.4f}"


def _lists(kind: str, scores: Sequence[Score]) -> Grid | None:
    names, scores = by_request(kind, scores)
    if not scores:
        return None
    lines = [[score.name, *map(score.shown, names)] for score in scores]
    return ["by request", *names], lines


def _intervals(kind: str, scores: Sequence[Score]) -> Grid | None:
    scores = [s for s in scores if any("low" in parts for parts in s.metrics.values())]
    if not scores:
        return None
    names = [n for n in metrics_of(kind) if any("low" in s.metrics.get(n, {}) for s in scores)]

    def shown(parts: Mapping[str, float]) -> str:
        return f"{parts['low']:z.4f}…{parts['high']:z.4f}" if "low" in parts else "–"

    lines = [[s.name, *(shown(s.metrics.get(name, {})) for name in names)] for s in scores]
    return ["95 % interval", *names], lines


def _change(score: Score, name: str) -> str:
    before = (score.raw or {}).get(name)
    after = score.metrics.get(name, {}).get("value")
    return "–" if before is None or after is None else f"{before:z.4f} → {after:z.4f}"


def reasons(scores: Sequence[Score], title: Callable[[Score, str], str] | None = None) -> list[str]:
    """Return a line for each distinct reason: which metrics it explains, and of which scores.

    `title` names what is absent from a score; by default as the printed tables do.
    """
    title = title or _absent_name
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for score in scores:
        for name, reason in score.absent.items():
            names, where = found.setdefault(reason, ({}, {}))
            names[title(score, name)] = where[score.name] = None
    return [
        f"– {', '.join(names)} of {', '.join(where)}: {reason}"
        for reason, (names, where) in found.items()
    ]


def _absent_name(score: Score, name: str) -> str:
    own = name in metrics_of(score.kind)  # a regression's mae is no distance to a truth
    return name if own else TRUTH_COLUMNS.get(name, name)
