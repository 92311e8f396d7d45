"""The generated world behind the synthetic log: who is who, and what moves clicks and purchases.

A world depends on its seed and preset alone, never on how many rows are drawn from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from polyrank.datasets.marginals import check_hidden, nodes, sigmoid
from polyrank.spec import whole

FACTORS = 8
PILOT_ROWS = 100_000
REQUEST_ROWS = 10  # mean
CLICK_RATE, BUY_RATE = 0.04, 0.10  # buy is given click


@dataclass(frozen=True)
class Field:
    """A categorical column: whose attribute it is, and how many values it takes."""

    owner: str  # `user`, `item`, `request` or `row`
    values: int
    share: float  # of the variance of each logit that its values explain


@dataclass(frozen=True)
class Number:
    """A skewed numeric column, log-normal, whose logarithm moves the logits in a line."""

    owner: str
    scale: float  # median
    spread: float  # standard deviation of the logarithm
    missing: float  # share of owners without a value; for them the effect is 0
    share: float


@dataclass(frozen=True)
class Preset:
    """What a world is made of; the shares of a logit's variance add up to 1."""

    fields: Mapping[str, Field]
    numbers: Mapping[str, Number] = field(default_factory=dict)
    ids: float = 0.0  # share of each user's and each item's own effect
    factors: float = 0.0  # share of the product of user and item factors
    # Parts of a factor's variance that the owner's fields explain, by field.
    known: Mapping[str, float] = field(default_factory=dict)
    click: float = 0.8  # standard deviation of the click logit
    buy: float = 0.75  # standard deviation of the logit of buy given click
    alike: float = 0.2  # correlation between the effects on the two logits


@dataclass(frozen=True, eq=False)
class Draw:
    """Impressions before they are labelled: who, what, where; columns by name."""

    owners: Mapping[str, np.ndarray]
    columns: Mapping[str, np.ndarray]

    @property
    def rows(self) -> int:
        """Number of impressions."""
        return len(self.owners["user"])

    def __getitem__(self, rows: slice) -> Draw:
        """Return some of them."""
        owners = {name: each[rows] for name, each in self.owners.items()}
        return Draw(owners, {name: each[rows] for name, each in self.columns.items()})


class World:
    """Users, items and effects; the intercepts make up for the hidden cause."""

    @classmethod
    def seeded(
        cls, preset: Preset, users: int, items: int, hidden: float, seed: int
    ) -> tuple[World, np.random.Generator]:
        """Return a world, and the generator of what is drawn from it."""
        whole("users", users)
        whole("items", items)
        to_world, to_log = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
        return cls(preset, users, items, check_hidden(hidden), to_world), to_log

    def __init__(
        self, preset: Preset, users: int, items: int, hidden: float, rng: np.random.Generator
    ) -> None:
        self.preset, self.sizes = preset, {"user": users, "item": items}
        self.popularity = {"user": _zipf(users, 0.6, rng), "item": _zipf(items, 0.8, rng)}
        self.frequencies = {n: _zipf(f.values, 0.8, rng) for n, f in preset.fields.items()}
        self.columns = {**preset.fields, **preset.numbers}
        self.attributes = {
            name: self._values(name, self.sizes[each.owner], rng)
            for name, each in self.columns.items()
            if each.owner in self.sizes
        }
        self.effects = self._field_effects(rng)
        self.slopes = {
            name: _pair(rng, preset.alike)[:, 0] * np.sqrt(each.share)
            for name, each in preset.numbers.items()
        }
        share = np.sqrt(preset.ids / 2)
        self.own = {
            owner: _standard(_pair(rng, preset.alike, size), self.popularity[owner]) * share
            for owner, size in self.sizes.items()
        }
        self.factors = {owner: self._owner_factors(owner, rng) for owner in self.sizes}
        self.mix: np.ndarray = np.eye(2)
        self.intercepts: np.ndarray = np.zeros(2)
        self._calibrate(hidden, rng)

    def draw(self, rows: int, rng: np.random.Generator, request_rows: int = REQUEST_ROWS) -> Draw:
        """Return impressions of whole requests, the last one cut to make the rows exact."""
        # Twice as many requests as are needed on average, so that they always suffice.
        sizes = 1 + rng.poisson(request_rows - 1, size=2 * rows // request_rows + 10)
        request = np.repeat(np.arange(len(sizes)), sizes)[:rows]
        requests = int(request[-1]) + 1
        owners = {
            "user": _choose(self.popularity["user"], requests, rng)[request],
            "item": _choose(self.popularity["item"], rows, rng),
            "request": request,
        }
        columns = {}
        for name, each in self.columns.items():
            if each.owner in self.sizes:
                columns[name] = self.attributes[name][owners[each.owner]]
            elif each.owner == "request":
                columns[name] = self._values(name, requests, rng)[request]
            else:
                columns[name] = self._values(name, rows, rng)
        return Draw(owners, columns)

    def _values(self, name: str, size: int, rng: np.random.Generator) -> np.ndarray:
        column = self.columns[name]
        if isinstance(column, Field):
            return _choose(self.frequencies[name], size, rng)
        values = column.scale * np.exp(column.spread * rng.standard_normal(size))
        values[rng.random(size) < column.missing] = np.nan
        return values.astype(np.float32)

    def logits(self, draw: Draw) -> np.ndarray:
        """Return the logits of click and of buy given click at U = 0: float64[2, rows]."""
        return self.mix @ self._effect(draw) + self.intercepts[:, None]

    def _effect(self, draw: Draw) -> np.ndarray:
        total = np.zeros((2, draw.rows))
        for name, effect in self.effects.items():
            total += effect[:, draw.columns[name]]
        for name, slope in self.slopes.items():
            number = self.preset.numbers[name]
            standard = np.log(draw.columns[name] / number.scale) / number.spread
            total += slope[:, None] * np.nan_to_num(standard)
        for owner, own in self.own.items():
            total += own[:, draw.owners[owner]]
        if self.preset.factors:
            user, item = draw.owners["user"], draw.owners["item"]
            for task in range(2):
                u, v = self.factors["user"][task], self.factors["item"][task]
                product = np.einsum("nk,nk->n", u[user], v[item])
                total[task] += product * np.sqrt(self.preset.factors / FACTORS)
        return total

    def _field_effects(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        effects = {}
        for name, each in self.preset.fields.items():
            weights = self.frequencies[name]
            if each.owner in self.sizes:
                popularity = self.popularity[each.owner]
                weights = np.bincount(self.attributes[name], popularity, minlength=each.values)
            effects[name] = _standard(_pair(rng, self.preset.alike, each.values), weights)
            effects[name] *= np.sqrt(each.share)
        return effects

    def _owner_factors(self, owner: str, rng: np.random.Generator) -> np.ndarray:
        """Return factors, float32[2, size, FACTORS], in part a sum over the owner's fields."""
        size, known = self.sizes[owner], 0.0
        factors = np.zeros((2, size * FACTORS))
        for name, part in self.preset.known.items():
            if self.preset.fields[name].owner == owner:
                values = self.preset.fields[name].values
                of_value = _pair(rng, 0.5, values * FACTORS).reshape(2, values, FACTORS)
                chosen = of_value[:, self.attributes[name]].reshape(2, -1)
                factors += np.sqrt(part) * chosen
                known += part
        factors += np.sqrt(1 - known) * _pair(rng, 0.5, size * FACTORS)
        return factors.reshape(2, size, FACTORS).astype(np.float32)

    def _calibrate(self, hidden: float, rng: np.random.Generator) -> None:
        """Fix spread, correlation and mean of the logits on a pilot sample.

        With few values per field, worlds would stray in their rates and in their oracles' AUC.
        """
        pilot = self.draw(PILOT_ROWS, rng, request_rows=1)
        effect = self._effect(pilot)
        lower = np.linalg.cholesky(np.cov(effect))
        alike = self.preset.alike
        wanted = np.array([[1.0, 0.0], [alike, np.sqrt(1 - alike**2)]])
        spread = np.array([self.preset.click, self.preset.buy])
        self.mix = spread[:, None] * wanted @ np.linalg.inv(lower)
        click, buy = self.mix @ effect
        points, parts = nodes(hidden, most=16)
        cause = hidden * points[:, None]
        parts = np.broadcast_to(parts[:, None], (len(points), pilot.rows))
        first = intercept(click + cause, parts, CLICK_RATE)
        clicked = parts * sigmoid(click + cause + first)
        self.intercepts = np.array([first, intercept(buy + cause, clicked, BUY_RATE)])


def intercept(logits: np.ndarray, weights: np.ndarray, rate: float) -> float:
    """Return the constant c for which the weighted mean of σ(logits + c) equals `rate`.

    Newton's method on the logarithm of the mean, which is concave: started left of the root, where
    it is nearly a line, it goes up to the root and never past it.

    >>> round(intercept(np.zeros(3), np.ones(3), 0.2), 6) == round(float(np.log(0.25)), 6)
    True
    """
    total, constant = weights.sum(), -10.0
    for _ in range(50):
        p = sigmoid(logits + constant)
        mean, slope = (weights * p).sum() / total, (weights * p * (1 - p)).sum() / total
        step = np.log(rate / mean) * mean / slope
        constant += float(step)
        if abs(step) < 1e-6:
            break
    return constant


def _zipf(size: int, power: float, rng: np.random.Generator) -> np.ndarray:
    """Return Zipf-like frequencies, shuffled; some ranks are added, lest the first stand out."""
    weights = (np.arange(size) + 3.0) ** -power
    return rng.permutation(weights / weights.sum())


def _choose(frequencies: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    edges = np.cumsum(frequencies)
    return np.searchsorted(edges[:-1], rng.random(size), side="right").astype(np.int32)


def _pair(rng: np.random.Generator, alike: float, size: int = 1) -> np.ndarray:
    """Return two rows of standard normals with the correlation `alike`."""
    first, other = rng.standard_normal((2, size))
    return np.stack([first, alike * first + np.sqrt(1 - alike**2) * other])


def _standard(effect: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return each row with the weighted mean 0 and the weighted variance 1."""
    weights = weights / weights.sum()
    effect = effect - (effect * weights).sum(axis=1, keepdims=True)
    spread = np.sqrt((effect**2 * weights).sum(axis=1, keepdims=True))
    return effect / np.where(spread > 0, spread, 1.0)
