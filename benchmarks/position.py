"""Whether the position as a feature, set at prediction, ranks by relevance: its effect is known.

`synthetic` logs with the part `position`: click ~ θ(k)·σ(a), θ(k) = k^(−power), where a past ranker
has put what is relevant high, so that position and relevance are confounded. `do_p_click` is what
the first position would give. All ways have one model and the same other features. Printed is, on
test rows, the AUC of p_click with a label drawn from `do_p_click` (as expected over draws), the
mean absolute error of p_click with it, and the AUC with the logged clicks, which favours what stood
high; in parentheses the difference from the model without the position over seeds (Student's t,
95 %). Writes results/position.json.

    python benchmarks/position.py [--seeds 5] [--rows 1_000_000] [--power 1.0] [--epochs N]
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import numpy as np
import polars as pl
from parts.record import RESULTS, origin, write
from parts.seeds import shown, spread

import polyrank as pr
from polyrank.datasets.parts.position import Position
from polyrank.datasets.synthetic import synthetic
from polyrank.metrics.binary import auc
from polyrank.text import aligned

WAYS: dict[str, list[Any]] = {
    "without": [],
    "read at prediction": [pr.SparseFeature("position")],
    "serving = 1": [pr.SparseFeature("position", serving=1)],
    "serving = 1, tower = [16]": [pr.SparseFeature("position", serving=1, tower=[16])],
}
METRICS = ("AUC with relevance", "error of p_click", "AUC with logged clicks")


def expected_auc(p: np.ndarray, score: np.ndarray) -> float:
    """Return the AUC of a score with labels drawn with probability p: each row is both, weighted.

    A row is a positive of weight p and a negative of weight 1 − p; its pair with itself is a tie,
    which is one of N² pairs.
    """
    label = np.repeat([1.0, 0.0], len(p))
    weight = np.concatenate([p, 1 - p])
    return float(auc(label, np.concatenate([score, score]), weight))


def measured(bundle: pr.Bundle, test: pl.DataFrame) -> dict[str, float]:
    """Return what a bundle is worth on the test rows."""
    p = bundle.predict(test)["p_click"].to_numpy()
    truth = test["do_p_click"].to_numpy()
    found = (
        expected_auc(truth, p),
        float(np.abs(p - truth).mean()),
        float(auc(test["click"].to_numpy().astype(float), p)),
    )
    return dict(zip(METRICS, found, strict=True))


def compared(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each way, by seed."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    options = {} if args.epochs is None else {"epochs": args.epochs}
    for seed in range(1, args.seeds + 1):
        *splits, schema = synthetic(args.rows, seed=seed, parts=[Position(power=args.power)])
        train, valid, test = (each.collect() for each in splits)
        for way, features in WAYS.items():
            bundle = pr.fit(
                pr.Schema([*schema.features, *features], [pr.Task("click")]),
                pr.Model(),
                train=train, valid=valid, seed=seed, threads=args.threads, cache=False, **options,
            )  # fmt: skip
            found[way].append(measured(bundle, test))
            print(seed, way, found[way][-1], flush=True)
    return found


def main() -> None:
    """Compare the ways, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--power", type=float, default=1.0, help="of the decay with the position")
    parser.add_argument("--epochs", type=int, help="the default of `fit` if left out")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level="ERROR")
    found = compared(args)
    lines = []
    for way, runs in found.items():
        cells = []
        for metric in METRICS:
            base, own = ([each[metric] for each in some] for some in (found["without"], runs))
            against = f"  ({shown(base, own)})" if way != "without" else ""
            cells.append(spread(own) + against)
        lines.append([way, *cells])
    print(f"\n{aligned(['way, and its difference from without', *METRICS], lines)}\n")
    settings = {
        "seeds": args.seeds, "rows": args.rows, "power": args.power, "epochs": args.epochs
    }  # fmt: skip
    write(RESULTS / "position.json", {**origin("numba"), **settings, "ways": found})


if __name__ == "__main__":
    main()
