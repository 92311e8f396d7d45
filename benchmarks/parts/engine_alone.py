"""How long the engine takes per request, without a server and without torch in the process.

Each call is timed; the shapes take turns, each with all its requests.

    python -m parts.engine_alone BUNDLE SEED SECONDS          prints {shape: [µs of each call]}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np

import polyrank as pr
from parts.served import requests

MOST_ROUNDS = 100  # of all requests, in each shape


def calls_of(engine: pr.Engine, seed: int) -> dict[str, list[Callable[[], object]]]:
    """Return what is timed: one call per request, by shape."""
    asked = requests(seed)
    found: dict[str, list[Callable[[], object]]] = {
        "answer: 1 context × 100 candidates": [],
        "answer: 100 rows as lists": [],
        "predict: 100 rows as a dict of arrays": [],
    }
    ranking, lists, arrays = found.values()
    for each in asked:
        own = {name: [row[name] for row in each.candidates] for name in each.candidates[0]}
        ranking.append(lambda own=own, shared=each.context: engine.predict_columns(own, shared))
        columns = each.columns
        lists.append(lambda columns=columns: engine.predict_columns(columns))
        matrix = {name: np.array(values) for name, values in columns.items()}
        arrays.append(lambda matrix=matrix: engine.predict(matrix))
    return found


def main() -> None:
    """Time the calls and print them."""
    bundle, seed, seconds = sys.argv[1:]
    calls = calls_of(pr.Engine(bundle), int(seed))
    times: dict[str, list[float]] = {shape: [] for shape in calls}
    for each in calls.values():  # warms up
        for call in each:
            call()
    end = perf_counter() + float(seconds)
    for _ in range(MOST_ROUNDS):
        for shape, each in calls.items():
            for call in each:
                started = perf_counter()
                call()
                times[shape].append((perf_counter() - started) * 1e6)
        if perf_counter() > end:
            break
    assert "torch" not in sys.modules
    print(json.dumps(times))


if __name__ == "__main__":
    main()
