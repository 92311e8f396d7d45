"""Scorecards of one experiment trained with several seeds: each metric's mean and its deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

from polyrank.errors import ConfigError
from polyrank.metrics.comparison import Group
from polyrank.metrics.score import Score, Scorecard, metric_names, reasons
from polyrank.metrics.undefined import Undefined
from polyrank.text import aligned, html_table


@dataclass(frozen=True)
class SeedScores:
    """The same scores by several seeds; prints as mean ± standard deviation (n − 1).

    Args:
        cards: the scorecards by seed, at least one, all of one experiment on the same rows.

    Raises:
        ConfigError: no scorecard, or scorecards of different scores or splits.

    Examples:
        >>> from polyrank.metrics.scorecard import scorecard
        >>> from polyrank.schema import DenseFeature, Schema, Task
        >>> schema, labels = Schema([DenseFeature("x")], [Task("click")]), {"click": [0, 1, 1]}
        >>> cards = {
        ...     seed: scorecard(schema, {"p_click": p}, labels, split="test")
        ...     for seed, p in {1: [0.1, 0.6, 0.7], 2: [0.3, 0.2, 0.7]}.items()
        ... }
        >>> auc = SeedScores(cards).value("click @ all", "auc")
        >>> auc.values, auc.mean, round(auc.sd, 4)
        ({1: 1.0, 2: 0.5}, 0.75, 0.3536)
    """

    cards: Mapping[int, Scorecard]

    def __post_init__(self) -> None:
        if not self.cards:
            raise ConfigError("scores over seeds need at least one scorecard, got none")
        (first, wanted), *others = ((seed, _content(card)) for seed, card in self.cards.items())
        for seed, found in others:
            if found != wanted:
                raise ConfigError(
                    "scores over seeds need scorecards of one experiment, but seed "
                    f"{first} has {wanted}, and seed {seed} has {found}"
                )

    def value(self, score: str, metric: str) -> Group:
        """Return a metric of a score: its `values` by seed, their `mean` and their `sd`.

        Raises:
            Undefined: a seed has no such value; the message quotes its reason.
            ConfigError: no such score, or no such metric of its kind, with the nearest.
        """
        return _group({seed: card[score] for seed, card in self.cards.items()}, metric)

    def to_json(self) -> dict[str, Any]:
        """Return plain tables: `scores`, and those of a fused score where one is declared."""
        found = {"scores": [each.to_json() for each in self._scores]}
        return found | ({"fusion": [each.to_json() for each in self._fused]} if self._fused else {})

    @cached_property
    def _scores(self) -> list[_Measured]:
        return _measured({seed: card.scores for seed, card in self.cards.items()})

    @cached_property
    def _fused(self) -> list[_Measured]:
        fused = {seed: card.fusion.scores for seed, card in self.cards.items() if card.fusion}
        return _measured(fused) if fused else []

    def __str__(self) -> str:
        parts = [self._title, aligned(*_table(self._scores))]
        if self._fused:
            parts += ["of the fused score", aligned(*_table(self._fused))]
        if self._notes:
            parts.append("\n".join(self._notes))
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        parts = [f"<p>{escape(self._title)}</p>{html_table(*_table(self._scores))}"]
        if self._fused:
            parts.append(f"<p>of the fused score</p>{html_table(*_table(self._fused))}")
        notes = "<br>".join(map(escape, self._notes))
        return "".join([*parts, f"<p>{notes}</p>" if notes else ""])

    @property
    def _title(self) -> str:
        split = next(iter(self.cards.values())).split
        seeds = ", ".join(map(str, self.cards))
        if len(self.cards) == 1:
            return f"{split} rows: seed {seeds} alone, so without a deviation"
        return f"{split} rows: mean ± standard deviation over {len(self.cards)} seeds ({seeds})"

    @property
    def _notes(self) -> list[str]:
        measured = [*self._scores, *self._fused]
        return reasons([replace(each.first, absent=each.absent) for each in measured])


@dataclass(frozen=True)
class _Measured:
    """One score: the metrics that every seed has, and why it lacks the others."""

    first: Score  # of the first seed
    metrics: Mapping[str, Group]
    absent: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        metrics = {
            name: {"mean": each.mean, "deviation": each.sd, "values": list(each.values.values())}
            for name, each in self.metrics.items()
        }
        return {"name": self.first.name, "metrics": metrics, "absent": dict(self.absent)}


def _measured(scores: Mapping[int, Sequence[Score]]) -> list[_Measured]:
    found = []
    for each in zip(*scores.values(), strict=True):
        by_seed = dict(zip(scores, each, strict=True))
        metrics, absent = {}, {}
        for name in metric_names(each):
            if not any(name in one.metrics or name in one.absent for one in each):
                continue  # a fused score has metrics of an order alone
            try:
                metrics[name] = _group(by_seed, name)
            except Undefined as reason:
                absent[name] = str(reason)
        found.append(_Measured(each[0], metrics, absent))
    return found


def _group(by_seed: Mapping[int, Score], metric: str) -> Group:
    """Return the values of all seeds: a mean over some would hide that others have none."""
    values = {}
    for seed, score in by_seed.items():
        try:
            values[seed] = score.value(metric)
        except Undefined:
            reason = score.absent.get(metric, "it was not measured")
            everywhere = all(each.absent.get(metric) == reason for each in by_seed.values())
            raise Undefined(reason if everywhere else f"seed {seed}: {reason}") from None
    return Group(next(iter(by_seed.values())).name, metric, "seeds", values)


def _content(card: Scorecard) -> str:
    """What two scorecards must share to be of one experiment."""
    fused = () if card.fusion is None else card.fusion.scores
    names = [score.name for score in card.scores] + [f"{score.name} (fused)" for score in fused]
    return f"{card.split} rows with {', '.join(names)}"


def _table(scores: Sequence[_Measured]) -> tuple[list[str], list[list[str]]]:
    lines = []
    for each in scores:
        for place, (name, group) in enumerate(each.metrics.items()):
            spread = "" if group.sd is None else f" ± {group.sd:.4f}"
            score = each.first.name if place == 0 else ""
            lines.append([score, name, f"{group.mean:z.4f}{spread}"])
    spread = any(group.sd is not None for each in scores for group in each.metrics.values())
    return ["score", "metric", "mean ± sd" if spread else "value"], lines
