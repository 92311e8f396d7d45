"""How often a 95 % interval of a metric contains the population's value, by simulation.

    python benchmarks/interval_coverage.py [--repetitions N] [--seed SEED]

A user has 5 impressions. What the model sees, x, is the sum of a part per user and a part per row;
the label's logit adds a hidden part per user, so rows of one user share something that the model
cannot know. Predictions are 10 % too high. "users" draws users whole; "rows" is the same log with a
new user for each row, and draws rows. The population's values are integrals over x; the grouped AUC
is computed from 4 million users. The rule that fewer than 50 positives have no interval is not
applied: it would select among the repetitions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from polyrank.metrics.areas import weighted_auc
from polyrank.metrics.binary import gauc
from polyrank.metrics.bootstrap import bootstrap, interval
from polyrank.metrics.registry import METRICS
from polyrank.text import aligned

RESULTS = Path(__file__).parent / "results" / "interval_coverage.json"
POSITIVES = (50, 200, 2_000)
METRIC_NAMES = ("auc", "gauc", "pr_auc", "log_loss", "ne", "pcoc")
USER_ROWS = 5
SHARED, OWN, HIDDEN = 0.7, 0.7, 0.5  # standard deviations on the logit scale
INTERCEPT = -2.5
INFLATION = 1.1
REPLICATES = 200
GRID = 200_000


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Return the probability."""
    return 1 / (1 + np.exp(-logit))


def seen(x: np.ndarray) -> np.ndarray:
    """Return P(label | x), with the hidden part integrated out by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    parts = (w * sigmoid(x + HIDDEN * node) for node, w in zip(nodes, weights, strict=True))
    return sum(parts) / weights.sum()


# P(label | x) at points so close that a straight line between them is exact to 1e-6.
POINTS = np.linspace(INTERCEPT - 8, INTERCEPT + 8, 4_001)
SEEN = seen(POINTS)


def draw(users: int, rows: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return label, prediction and user of `rows` rows for each of `users` users."""
    user = np.repeat(np.arange(users), rows)
    x = INTERCEPT + SHARED * random.normal(size=users)[user] + OWN * random.normal(size=len(user))
    p = sigmoid(x + HIDDEN * random.normal(size=users)[user])
    label = (random.random(len(user)) < p).astype(np.float64)
    return label, np.minimum(INFLATION * np.interp(x, POINTS, SEEN), 0.999), user


def population(random: np.random.Generator) -> tuple[dict[str, float], float]:
    """Return each metric's value in the population, and the base rate."""
    spread = np.hypot(SHARED, OWN)
    z = np.linspace(-6.5, 6.5, GRID)
    mass = np.exp(-(z**2) / 2)
    mass /= mass.sum()
    p = np.interp(INTERCEPT + spread * z, POINTS, SEEN)
    q = np.minimum(INFLATION * p, 0.999)
    rate = float(mass @ p)
    loss = float(-mass @ (p * np.log(q) + (1 - p) * np.log1p(-q)))
    hits, false = (np.cumsum((mass * share)[::-1])[::-1] for share in (p, 1 - p))
    label, prediction, user = draw(4_000_000, USER_ROWS, random)
    return {
        "auc": weighted_auc(mass * p, mass * (1 - p), q),
        "gauc": gauc(label, prediction, key=user),
        "pr_auc": float((mass * p) @ (hits / (hits + false)) / rate),
        "log_loss": loss,
        "ne": loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)),
        "pcoc": float(mass @ q) / rate,
    }, rate


def repeat(
    truth: dict[str, float], rows: int, *, by_user: bool, repetitions: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return, by metric, the share of intervals that contain the truth, and their number."""
    names = [name for name in METRIC_NAMES if by_user or name != "gauc"]
    held: dict[str, list[bool]] = {name: [] for name in names}
    size = USER_ROWS if by_user else 1
    for repetition in range(repetitions):
        random = np.random.default_rng([seed, rows, by_user, repetition])
        label, prediction, user = draw(rows // size, size, random)
        samples = bootstrap(
            label, prediction, user if by_user else None, None, names,
            replicates=REPLICATES, seed=repetition,
        )  # fmt: skip
        for name in names:
            value = METRICS[name](label, prediction, key=user)
            ends, _ = interval(METRICS[name], value, samples[name])
            if ends is not None:
                held[name].append(ends[0] <= truth[name] <= ends[1])
    return {name: {"coverage": float(np.mean(h)), "intervals": len(h)} for name, h in held.items()}


def main() -> None:
    """Print the table, and save it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repetitions", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    truth, rate = population(np.random.default_rng(options.seed))
    print(f"base rate {rate:.4f}; " + ", ".join(f"{name} {v:.4f}" for name, v in truth.items()))
    cells = []
    for by_user in (True, False):
        for positives in POSITIVES:
            rows = USER_ROWS * round(positives / rate / USER_ROWS)
            found = repeat(
                truth, rows,
                by_user=by_user, repetitions=options.repetitions, seed=options.seed,
            )  # fmt: skip
            drawn = "users" if by_user else "rows"
            cells.append({"drawn": drawn, "positives": positives, "rows": rows, "metrics": found})
    header = ["drawn", "positives", "rows", *METRIC_NAMES]
    lines = [
        [cell["drawn"], f"{cell['positives']:,}", f"{cell['rows']:,}"]
        + [
            f"{100 * cell['metrics'][name]['coverage']:.1f} %" if name in cell["metrics"] else "–"
            for name in METRIC_NAMES
        ]
        for cell in cells
    ]
    print(aligned(header, lines, right=range(1, len(header))))
    whole = {"repetitions": options.repetitions, "replicates": REPLICATES, "seed": options.seed}
    text = json.dumps({**whole, "base_rate": rate, "population": truth, "cells": cells}, indent=1)
    RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
