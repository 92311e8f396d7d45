"""What a part of a generated world is, and the log that it adds to.

Letters: B impressions; a is the logit of click, z = (a − its intercept) ÷ its deviation.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from polyrank.datasets.marginals import Marginals, nodes
from polyrank.datasets.world import Draw, World, intercept
from polyrank.features import Feature
from polyrank.tasks import Task

# When a part acts: on who and what is drawn, on click and buy, on outcomes beside them, on what
# of all this a log holds.
Stage = Literal["draw", "event", "outcome", "log"]
STAGES: tuple[Stage, ...] = ("draw", "event", "outcome", "log")


@dataclass(frozen=True, eq=False)
class Labels:
    """Outcomes by label column, float64 (B,), NaN = not observed; as int8 where `whole`."""

    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    numbers: frozenset[str] = frozenset()  # those with fractions, or beyond int8

    def adding(self, values: Mapping[str, np.ndarray], *, number: bool = False) -> Labels:
        """Return these and others, or others in place of these."""
        numbers = self.numbers | (set(values) if number else set())
        return Labels({**self.values, **values}, numbers)


@dataclass(frozen=True, eq=False)
class Log:
    """All impressions of a log, those of the splits one after the other.

    Args:
        ends: where each split ends.
        request: counted through all splits, from 0.
        time: seconds since 1970.
        logits: float64 (2, B), of click and of buy given click, without the hidden cause; empty
            before the stage "event".
        truth: the probabilities of click and buy; None before the stage "event".
        shift: added to the logits; float64 (2, B).
        columns: what is neither key, feature of the world, nor label; truths among them.
    """

    world: World
    draw: Draw
    ends: tuple[int, ...]
    request: np.ndarray
    time: np.ndarray
    logits: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))
    truth: Marginals | None = None
    shift: np.ndarray | None = None
    labels: Labels = field(default_factory=Labels)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of impressions."""
        return self.draw.rows

    @property
    def probabilities(self) -> Marginals:
        """The probabilities of click and buy, once they are known."""
        assert self.truth is not None, "click and buy come with the stage 'event'"
        return self.truth

    @property
    def relevance(self) -> np.ndarray:
        """z, about standard normal over impressions: what a ranker of clicks wants to know."""
        return (self.logits[0] - self.world.intercepts[0]) / self.world.preset.click

    def given(self, event: str, values: np.ndarray) -> np.ndarray:
        """Return values where the event is in the log, and NaN elsewhere."""
        return np.where(self.labels.values[event] == 1, values, np.nan)

    def adding(self, **columns: np.ndarray) -> Log:
        """Return the log with more columns."""
        return replace(self, columns={**self.columns, **columns})


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """Something that a generated world has beside click and buy; its fields are its options.

    Attributes:
        name: as `parts` has it.
        stage: when it acts; parts of one stage act in the order of `PARTS`.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]

    @abstractmethod
    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Return the log with this part in it.

        Args:
            log: with what earlier parts made of it.
            to_world: for what is true of the world, whatever the rows.
            to_log: for what happens in this log. Both are of this part alone, so that what it
                draws does not depend on other parts.
        """

    @property
    def features(self) -> tuple[Feature, ...]:
        """Features that it adds."""
        return ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks that it adds."""
        return ()

    def generators(self, seed: int) -> tuple[np.random.Generator, np.random.Generator]:
        """Return the generators of `apply` for the seed of a log."""
        own = np.random.SeedSequence([seed, zlib.crc32(self.name.encode())])
        first, second = own.spawn(2)
        return np.random.default_rng(first), np.random.default_rng(second)


def appeal(log: Log, rng: np.random.Generator, alike: float) -> np.ndarray:
    """Return alike·z + √(1 − alike²)·Σ over fields of √share·effect of the value: float64 (B,).

    Every effect has the mean 0 and the variance 1 over the field's values, drawn by `rng` whatever
    the rows; the shares are those of the fields, scaled to sum to 1. So the result is about
    standard normal, and its correlation with z is about `alike`.
    """
    world, total = log.world, np.zeros(log.rows)
    whole = sum(each.share for each in world.preset.fields.values())
    for name, each in world.preset.fields.items():
        effect = rng.standard_normal(each.values)
        weights = world.frequencies[name]
        if each.owner in world.sizes:
            popularity = world.popularity[each.owner]
            weights = np.bincount(world.attributes[name], popularity, minlength=each.values)
        effect = effect - np.average(effect, weights=weights)
        spread = np.sqrt(np.average(effect**2, weights=weights))
        if spread > 0:
            total += np.sqrt(each.share / whole) / spread * effect[log.draw.columns[name]]
    return alike * log.relevance + np.sqrt(1 - alike**2) * total


def constant(spread: float, rate: float) -> float:
    """Return c for which the mean of σ(c + spread·Z) is `rate`, Z standard normal.

    >>> from polyrank.datasets.marginals import sigmoid
    >>> points, weights = nodes(1.0)
    >>> round(float(weights @ sigmoid(constant(0.8, 0.04) + 0.8 * points)), 6)
    0.04
    """
    points, weights = nodes(1.0)
    return intercept(spread * points, weights, rate)
