"""How often a 90 % interval of a logit contains the generator's truth, by the rows of the ids.

Three logs: in `ids`, drawn here, the effects of users and items add up, as in wide rows, and most
ids have few rows; in the `synthetic` log `additive`, without a hidden cause, those of fields do; in
its `latent`, user and item have factors too, which no main effect says. On test rows, the interval
is centre ± 1.645 · `p_click_sd` (likewise of buy given click), and the truth is the logit of
`true_p_click`. Rows are grouped by the fewest training rows that one of their ids has; in a group
of many rows an id, there are few ids. The centre is the mean of the true logit, which
docs/uncertainty.md describes; the served logit, which is that of the mean probability; or the mean
by the wide rows alone: the first two have what the network adds, of whose uncertainty the deviation
knows nothing.
Printed are the coverage, the mean deviation, and the root mean square of the error, which should be
about the deviation, each as mean ± standard deviation over seeds. Writes results/uncertainty.json.

    python benchmarks/uncertainty.py [--seeds 5] [--rows 1_000_000] [--epochs N]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from math import inf
from statistics import NormalDist

import numpy as np
import polars as pl
from parts.record import RESULTS, origin, write
from parts.seeds import spread

import polyrank as pr
from polyrank.datasets.synthetic import PRESETS, synthetic
from polyrank.exploration.posterior import centre
from polyrank.models.outputs import margins_of
from polyrank.terms import head_columns
from polyrank.text import aligned

BOUNDS = (0, 1, 10, 100, 1_000, inf)  # of the fewest training rows of an id
LEVEL = 0.9
METRICS = ("coverage", "deviation", "error")


def of_ids(rows: int, seed: int) -> tuple[list[pl.DataFrame], pr.Schema]:
    """Return train, valid and test rows of Zipf's users and items, whose effects add up."""
    rng = np.random.default_rng(seed)
    logit, columns = np.full(rows, -2.0), {}
    for name, size, deviation in (("user", rows // 20, 0.7), ("item", rows // 20, 0.5)):
        shares = 1 / np.arange(1, size + 1)
        columns[name] = rng.choice(size, rows, p=shares / shares.sum())
        logit += rng.normal(0, deviation, size)[columns[name]]
    p = 1 / (1 + np.exp(-logit))
    log = pl.DataFrame({**columns, "click": (rng.random(rows) < p) * 1, "true_p_click": p})
    ends = (0, rows * 8 // 10, rows * 9 // 10, rows)
    schema = pr.Schema([pr.SparseFeature("user"), pr.SparseFeature("item")], [pr.Task("click")])
    return [log[start:end] for start, end in pairwise(ends)], schema


def of_synthetic(preset: str, rows: int, seed: int) -> tuple[list[pl.DataFrame], pr.Schema]:
    """Return the same of the generator."""
    *splits, schema = synthetic(rows, preset=preset, hidden=0.0, seed=seed)
    return [each.collect() for each in splits], schema


LOGS: dict[str, Callable[[int, int], tuple[list[pl.DataFrame], pr.Schema]]] = {
    "ids": of_ids,
    **{preset: partial(of_synthetic, preset) for preset in sorted(PRESETS)},
}


def fewest_rows(schema: pr.Schema, train: pl.DataFrame, test: pl.DataFrame) -> np.ndarray:
    """Return the training rows of each test row's rarest id: int64 (rows,)."""
    fewest = np.full(test.height, np.iinfo(np.int64).max)
    for feature in schema.features:
        if isinstance(feature, pr.SparseFeature):
            counts = train[feature.name].value_counts(name="rows")
            own = test.select(feature.name).join(
                counts, on=feature.name, how="left", nulls_equal=True, maintain_order="left"
            )
            fewest = np.minimum(fewest, own["rows"].fill_null(0).to_numpy())
    return fewest


def names() -> list[str]:
    """Return what the groups are called."""
    return [
        f"{low:,} and more" if high == inf else "0" if high == 1 else f"{low:,} to {high - 1:,}"
        for low, high in pairwise(BOUNDS)
    ]


def measured(
    bundle: pr.Bundle, fewest: np.ndarray, test: pl.DataFrame
) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Yield head, centre, group, and the figures of each group that has rows."""
    table = bundle.encode(test)
    deviations = bundle.score(table, uncertainty=True)
    margins = margins_of(bundle.ranker, table)
    logits = bundle.logits(table)
    half = NormalDist().inv_cdf((1 + LEVEL) / 2)
    for task in bundle.schema.tasks:
        (column,) = head_columns(task)
        p, sd = test[f"true_{column}"].to_numpy(), deviations[f"{column}_sd"].to_numpy()
        served, wide = logits[task.name], margins[task.name].double().numpy()
        centres = {"mean": centre(served, sd), "served": served, "wide rows": centre(wide, sd)}
        for name_of_centre, logit in centres.items():
            error = logit - np.log(p / (1 - p))
            for name, (low, high) in zip(names(), pairwise(BOUNDS), strict=True):
                own = (fewest >= low) & (fewest < high)
                if own.any():
                    figures = (
                        float((np.abs(error[own]) <= half * sd[own]).mean()),
                        float(sd[own].mean()),
                        float(np.sqrt((error[own] ** 2).mean())),
                    )
                    yield column, name_of_centre, name, dict(zip(METRICS, figures, strict=True))


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, help="the default of `fit` if left out")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level="ERROR")
    options = {} if args.epochs is None else {"epochs": args.epochs}
    found: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for name, drawn in LOGS.items():
        for seed in range(1, args.seeds + 1):
            (train, valid, test), schema = drawn(args.rows, seed)
            bundle = pr.fit(
                schema, pr.Model(), train=train, valid=valid, seed=seed, threads=args.threads,
                cache=False, **options,
            )  # fmt: skip
            for *key, figures in measured(bundle, fewest_rows(schema, train, test), test):
                found.setdefault((name, *key), []).append(figures)
            print(name, seed, flush=True)
    order = [key for group in names() for key in found if key[-1] == group]
    order.sort(key=lambda key: key[:-1])  # stable: groups stay in their order
    head = ["log", "head", "centre", "fewest rows of an id", *METRICS]
    lines = [
        [*key, *(spread([each[metric] for each in found[key]], 3) for metric in METRICS)]
        for key in order
    ]
    print(f"\n{aligned(head, lines)}\n")
    settings = {"seeds": args.seeds, "rows": args.rows, "epochs": args.epochs, "level": LEVEL}
    groups = [dict(zip(head, key, strict=False)) | {"seeds": found[key]} for key in order]
    write(RESULTS / "uncertainty.json", {**origin("numba"), **settings, "groups": groups})


if __name__ == "__main__":
    main()
