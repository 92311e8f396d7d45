"""What kinds of label recover of a known truth, and what eight tasks of five kinds cost.

The synthetic log with the parts stars, items, money and watch (without a duration effect), and one
default model with a task of each kind. On test rows, for each seed: the gap of each level's
probability, the ratio of mean predicted to mean true counts and spend, the share of labels below
each quantile, and the log loss of stars as categories less that of their true probabilities. Prints
means ± standard deviations over seeds and the 95 % interval of each mean (t); and rows a second of
eight tasks of five kinds and of eight binary ones, in turn. Writes results/label_kinds.json.

    python benchmarks/label_kinds.py [--seeds 5] [--rows 1000000] [--speed ROUNDS]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
import torch
from parts import record
from parts.seeds import difference, spread

import polyrank as pr
from polyrank.datasets.parts import Watch
from polyrank.datasets.synthetic import synthetic
from polyrank.metrics.registry import METRICS
from polyrank.text import aligned

LEVELS = (0.1, 0.5, 0.9)
WATCH = Watch(effect=False)
RESULTS = record.RESULTS / "label_kinds.json"
TASKS = [
    pr.Task("click"),
    pr.Task("buy", given="click"),
    pr.Task("stars", kind=pr.Ordinal(values=[1, 2, 3, 4, 5]), given="click"),
    pr.Task("category", kind=pr.Categorical(values=[1, 2, 3, 4, 5]), given="click"),
    pr.Task("items", kind="count", given="click"),
    pr.Task("spend", kind="lognormal", given="buy"),
    pr.Task("watch", kind=pr.Quantile(levels=LEVELS), given="click"),
    pr.Task("seconds", kind=pr.Regression(transform="log1p"), given="click"),
]


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--speed", type=int, default=3, metavar="ROUNDS", help="0 for none")
    return parser.parse_args()


def recovered(seed: int, rows: int) -> dict[str, float]:
    """Train on one log, and return what the model recovers of its truth, on test rows."""
    parts = ["stars", "items", "money", WATCH]
    *splits, schema = synthetic(rows, seed=seed, parts=parts)
    train, valid, test = (
        each.with_columns(category="stars", seconds="watch").collect() for each in splits
    )
    started = perf_counter()
    bundle = pr.fit(
        replace(schema, tasks=tuple(TASKS)), pr.Model(), train=train, valid=valid, seed=seed,
        progress=False,
    )  # fmt: skip
    seconds = perf_counter() - started
    found = {name: column.to_numpy() for name, column in bundle.predict(test).to_dict().items()}
    true = {name: test[name].to_numpy() for name in test.columns if name.startswith("true_")}
    figures = {"seconds": seconds}
    for level in (2, 3, 4, 5):
        gap = (
            found[f"p_stars_at_least_{level}_given_click"]
            - true[f"true_p_stars_{level}_given_click"]
        )
        figures[f"P(stars ≥ {level}): mean gap"] = float(gap.mean())
        figures[f"P(stars ≥ {level}): mean |gap|"] = float(np.abs(gap).mean())
    figures["items: predicted ÷ true"] = ratio(found, true, "items_given_click")
    figures["spend given buy: predicted ÷ true"] = ratio(found, true, "spend_given_buy")
    figures["spend: predicted ÷ true"] = ratio(found, true, "spend")
    clicked = test["click"].to_numpy() == 1
    watched = test["watch"].to_numpy()[clicked]
    for level in LEVELS:
        quantile = found[f"watch_q{100 * level:g}_given_click"]
        figures[f"watch q{level:g}: share below"] = float((watched <= quantile[clicked]).mean())
    figures["seconds: predicted ÷ true"] = float(
        found["seconds_given_click"].mean() / true["true_watch_given_click"].mean()
    )
    figures["category: log loss − oracle's"] = log_loss_gap(found, true, test, clicked)
    return figures


def ratio(found: dict[str, np.ndarray], true: dict[str, np.ndarray], name: str) -> float:
    """Return the mean prediction ÷ the mean truth."""
    return float(found[name].mean() / true[f"true_{name}"].mean())


def log_loss_gap(
    found: dict[str, np.ndarray], true: dict[str, np.ndarray], test: pl.DataFrame, rows: np.ndarray
) -> float:
    """Return how much the log loss of clicked rows is above that of the true probabilities."""
    at_least = np.column_stack(
        [np.ones(len(rows)), *(true[f"true_p_stars_{k}_given_click"] for k in (2, 3, 4, 5)),
         np.zeros(len(rows))]
    )  # fmt: skip
    oracle = at_least[:, :-1] - at_least[:, 1:]
    own = np.column_stack([found[f"p_category_{k}_given_click"] for k in (1, 2, 3, 4, 5)])
    kind, label = TASKS[3].label_kind, test["stars"].to_numpy()[rows]
    losses = [
        METRICS["cross_entropy"](label, p[rows, 0], outputs=p[rows], kind=kind)
        for p in (own, oracle)
    ]
    return losses[0] - losses[1]


def speed(rounds: int, rows: int = 300_000) -> dict[str, list[float]]:
    """Return rows a second of eight tasks of five kinds and of eight binary ones, by round."""
    *splits, schema = synthetic(rows, seed=1, parts=["stars", "items", "money", WATCH])
    train = splits[0].collect()
    # Roots, so that all tasks of either model have all rows; what has no label is drawn.
    random = np.random.default_rng(0)
    size = train.height
    frame = train.with_columns(
        stars=random.integers(1, 6, size),
        items=random.poisson(1.5, size),
        spend=random.lognormal(2, 1, size),
        watch=random.gamma(2, 9, size),
        **{f"b{index}": random.integers(0, 2, size) for index in range(8)},
    ).with_columns(category="stars", seconds="watch")
    tasks = {
        "five kinds": [replace(each, given=None) for each in TASKS],
        "binary": [pr.Task(f"b{i}") for i in range(8)],
    }
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, each in tasks.items():
            history = pr.fit(
                replace(schema, tasks=tuple(each)), pr.Model(), train=frame, epochs=2,
                batch_size=4096, seed=0, progress=False,
            ).history  # fmt: skip
            found[name].append(float(history["rows_per_second"][-1]))
    return found


def show(runs: list[dict[str, float]], rates: dict[str, list[float]]) -> None:
    """Print the tables."""
    lines = []
    for name in runs[0]:
        values = [each[name] for each in runs]
        middle, half = difference([0.0] * len(values), values)
        lines.append([name, spread(values), f"{middle:.4f} ± {half:.4f}"])
    print(aligned(["figure", "mean ± sd", "95 % interval"], lines, [1, 2]))
    if rates:
        ratios = [a / b for a, b in zip(rates["five kinds"], rates["binary"], strict=True)]
        each = ", ".join(f"{name} {median(values):,.0f}" for name, values in rates.items())
        print(f"\nrows/s of eight tasks: {each}; ratio {median(ratios):.2f}")


def main() -> None:
    """Run every seed, print the tables and save the figures."""
    torch.set_num_threads(1)
    args = options()
    runs = []
    rates = speed(args.speed) if args.speed else {}
    for seed in range(1, 1 + args.seeds):
        runs.append(recovered(seed, args.rows))
        about: dict[str, Any] = {"rows": args.rows, "runs": runs, "rows_per_second": rates}
        record.write(RESULTS, {**record.origin("polars"), **about})
        print(f"seed {seed}: {mean(each['seconds'] for each in runs):.0f} s a fit", flush=True)
    show(runs, rates)


if __name__ == "__main__":
    main()
