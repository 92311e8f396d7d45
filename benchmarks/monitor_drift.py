"""False alarms of drift on clean rows, and how often planted drifts are found, by number of rows.

    python benchmarks/monitor_drift.py --replicates 200 --rows 1000 10000 100000

Each replicate draws a profile's rows and the rows looked at from one distribution: 12 numbers, 6
columns of ids with a long tail, 2 list lengths and 3 outputs. No model is trained: the test sees
counts alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np

from polyrank.monitor.drift import drifts
from polyrank.monitor.profile import BINS, MOST_ROWS, TOP_IDS, Facet, Profile, bins

Values = dict[str, np.ndarray]


def world(generator: np.random.Generator, rows: int) -> Values:
    """Return the properties of some rows, by facet; ids are rows of a table, 0 being unseen."""
    values = {f"number {each}": generator.normal(size=rows) for each in range(8)}
    values |= {f"skewed {each}": generator.lognormal(size=rows) for each in range(4)}
    for each in range(6):
        ids = generator.zipf(1.2 + 0.1 * each, rows)
        values[f"ids {each}"] = np.where(ids > 5000, 0, ids)
    values |= {f"length {each}": generator.poisson(4, rows).astype(float) for each in range(2)}
    return values | {f"output {each}": generator.beta(2, 20, rows) for each in range(3)}


def profile(generator: np.random.Generator, rows: int) -> Profile:
    """Return a profile whose categories are chosen on as many other rows."""
    chosen, counted = world(generator, rows), world(generator, rows)
    facets = []
    for name, values in chosen.items():
        if name.startswith("ids"):
            top = np.argsort(-np.bincount(values, minlength=TOP_IDS + 1)[1:], kind="stable")
            ids = [int(each) + 1 for each in top[:TOP_IDS]]
            names = [*map(str, ids), "other ids", "unseen", "null"]
            kind = {"of": "id", "rows": ids, "categories": names}
        else:
            made = bins(name, "number", values)
            kind = {"of": "number", "edges": made.edges, "categories": made.categories}
        empty = Facet(name=name, counts=[0] * len(kind["categories"]), **kind)
        facets.append(Facet(name=name, counts=empty.count(counted[name]).tolist(), **kind))
    return Profile(split="valid", rows=rows, facets=tuple(facets))


def _odds(values: np.ndarray, factor: float) -> np.ndarray:
    odds = values / (1 - values) * factor
    return odds / (1 + odds)


PLANTED: dict[str, tuple[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]]] = {
    "mean of a number + .3 sd": ("number 0", lambda x, _: x + 0.3),
    "spread of a number x 1.3": ("number 1", lambda x, _: x * 1.3),
    "5 % of ids are new": ("ids 5", lambda x, g: np.where(g.random(len(x)) < 0.05, 0, x)),
    "an id loses half to another": (
        "ids 1", lambda x, g: np.where((x == 1) & (g.random(len(x)) < 0.5), 2, x),
    ),
    "5 % of a number is null": (
        "number 2", lambda x, g: np.where(g.random(len(x)) < 0.05, np.nan, x),
    ),
    "odds of an output x 1.3": ("output 0", lambda x, _: _odds(x, 1.3)),
    "lists are longer by .5": ("length 0", lambda x, g: x + g.integers(0, 2, len(x))),
}  # fmt: skip


def alarms(before: Profile, values: Values, seed: int) -> set[str]:
    """Return the facets in which drift is found."""
    counts = [each.count(values[each.name]) for each in before.facets]
    return {each.facet.name for each in drifts(before, counts, seed=seed) if each.found}


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    z, share = 1.959964, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * np.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    reach /= 1 + z * z / trials
    return float(middle - reach), float(middle + reach)


def main() -> None:
    """Print a line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    given = parser.parse_args()
    for rows in given.rows:
        false, found = 0, dict.fromkeys(PLANTED, 0)
        for seed in range(given.replicates):
            generator = np.random.default_rng([rows, seed])
            before = profile(generator, min(rows, MOST_ROWS))
            clean = world(generator, rows)
            false += bool(alarms(before, clean, seed))
            drifted = clean | {
                name: plant(clean[name], generator) for name, plant in PLANTED.values()
            }
            hit = alarms(before, drifted, seed)
            for what, (name, _) in PLANTED.items():
                found[what] += name in hit
        print(
            json.dumps(
                {
                    "rows": rows, "replicates": given.replicates, "facets": len(clean),
                    "bins": BINS, "false_alarms": false,
                    "rate": false / given.replicates,
                    "interval": [round(each, 4) for each in wilson(false, given.replicates)],
                    "found": {what: hits / given.replicates for what, hits in found.items()},
                }
            ),
            flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
