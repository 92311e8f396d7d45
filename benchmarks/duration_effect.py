"""Whether a way to learn watch time ranks better, on a log with a duration effect and without one.

The clicked rows of `synthetic` logs with the part `watch`: with a duration effect, whoever likes
it, a long video is watched longer, up to its end; without one the duration plays no part and a play
may exceed it. All ways have the same features, the duration among them, and differ in the kind of
the label alone. Kendall's τ-b within 30 groups of duration of the training rows, with the truth's
`true_interest` and with the watch time observed, and the mean absolute error in seconds; in
parentheses the difference from the plain regression over seeds (Student's t, 95 %). Writes
results/duration_effect.json.

    python benchmarks/duration_effect.py [--seeds 5] [--rows 1_000_000] [--epochs N]
"""

from __future__ import annotations

import argparse
import json
import logging

import numpy as np
import polars as pl
from parts.record import RESULTS, origin, write
from parts.seeds import shown, spread

import polyrank as pr
from polyrank.datasets.parts import Watch
from polyrank.datasets.synthetic import synthetic
from polyrank.labels import Regression
from polyrank.metrics.concordance import tau_b, tau_b_in_groups
from polyrank.metrics.regression import mae
from polyrank.text import aligned

DURATION, LABEL = "duration_s", "watch"
WAYS = {
    "regression": Regression(),
    "log1p": Regression(transform="log1p"),
    **{m: pr.WatchTime(duration=DURATION, method=m) for m in ("d2q", "pcr", "censored")},
    "d2q, loops kept": pr.WatchTime(duration=DURATION, over="keep"),
    "weighted logistic": pr.WeightedLogistic(),
}
METRICS = ("τ with interest, in groups", "τ with watch, in groups", "τ with watch", "MAE")


def clicked(effect: bool, rows: int, seed: int) -> tuple[list[pl.DataFrame], pr.Schema]:
    """Return the clicked rows of each split, and the schema of the log."""
    *splits, schema = synthetic(rows, seed=seed, parts=[Watch(effect=effect)])
    return [each.filter(pl.col("click") == 1).collect() for each in splits], schema


def measured(bundle: pr.Bundle, test: pl.DataFrame, groups: np.ndarray) -> dict[str, float]:
    """Return what a bundle is worth on the test rows."""
    predicted = bundle.predict(test)[LABEL].to_numpy()
    watch, interest = (test[name].to_numpy() for name in (LABEL, "true_interest"))
    found = (
        tau_b_in_groups(interest, predicted, key=groups),
        tau_b_in_groups(watch, predicted, key=groups),
        tau_b(watch, predicted),
        mae(watch, predicted),
    )
    return dict(zip(METRICS, found, strict=True))


def compared(effect: bool, args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each way, by seed."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    options = {} if args.epochs is None else {"epochs": args.epochs}
    for seed in range(1, args.seeds + 1):
        (train, valid, test), schema = clicked(effect, args.rows, seed)
        label, duration = (train[name].cast(pl.Float32).to_numpy() for name in (LABEL, DURATION))
        kind = pr.WatchTime(duration=DURATION, method="pcr")
        fitted = kind.fit(label.astype(np.float64), np.ones(len(label)), {DURATION: duration})
        later = test[DURATION].cast(pl.Float32).to_numpy()
        groups = kind.row_groups(fitted, {DURATION: later}).codes
        for way, each in WAYS.items():
            bundle = pr.fit(
                pr.Schema(schema.features, [pr.Task(LABEL, kind=each)]),
                pr.Model(trunk=pr.SharedBottom()),
                train=train, valid=valid, seed=seed, threads=args.threads, cache=False, **options,
            )  # fmt: skip
            found[way].append(measured(bundle, test, groups))
            print(f"effect {effect}", seed, way, json.dumps(found[way][-1]), flush=True)
    return found


def main() -> None:
    """Compare on both logs, print the tables and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of which 4 %% are clicked")
    parser.add_argument("--epochs", type=int, help="the default of `fit` if left out")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level="ERROR")
    results = {}
    for effect in (True, False):
        name = "with a duration effect" if effect else "without a duration effect"
        found = results[name] = compared(effect, args)
        lines = []
        for way, runs in found.items():
            cells = []
            for metric in METRICS:
                base, own = (
                    [each[metric] for each in some] for some in (found["regression"], runs)
                )
                against = f"  ({shown(base, own)})" if way != "regression" else ""
                cells.append(spread(own) + against)
            lines.append([way, *cells])
        print(
            f"\n{name}\n{aligned(['way, and its difference from regression', *METRICS], lines)}\n"
        )
    settings = {"seeds": args.seeds, "rows": args.rows, "epochs": args.epochs}
    write(RESULTS / "duration_effect.json", {**origin("numba"), **settings, "logs": results})


if __name__ == "__main__":
    main()
