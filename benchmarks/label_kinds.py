"""What kinds of label recover of a known truth, and what eight tasks of five kinds cost.

A log in which effects of 2,000 users and 1,000 items add up to e, about normal with deviation .8,
and every outcome has known probabilities given e: stars, three categories, a count, seconds, and
money of the 40 % who buy. One default model has a task of each. On test rows, for each seed: the
gap of each event's and level's probability, the mean prediction ÷ the mean truth of counts, money
and seconds, the share of labels below each quantile, and the log loss of categories less that of
their true probabilities. Prints means ± standard deviations over seeds and the 95 % interval of
each mean (t); and rows a second of eight tasks of five kinds and of eight binary ones, in turn.
Writes results/label_kinds.json, or with --outputs N, a log of its own: label_kinds-N.json.

    python benchmarks/label_kinds.py [--seeds 5] [--rows 400000] [--outputs N] [--speed ROUNDS]
"""

from __future__ import annotations

import argparse
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
import torch
from parts import record
from parts.seeds import difference, spread

import polyrank as pr
from polyrank.metrics.registry import METRICS
from polyrank.text import aligned

LEVELS = (0.1, 0.5, 0.9)
RESULTS = record.RESULTS / "label_kinds.json"
USERS, ITEMS = 2_000, 1_000
STARS = (1.8, 0.6, -0.4, -1.6)  # logits of P(stars ≥ 2), … at e = 0
PULL = (-1.0, 0.0, 1.0)  # of e on each category's logit
FEATURES = [pr.SparseFeature("user"), pr.SparseFeature("item")]
TASKS = [
    pr.Task("click"),
    pr.Task("buy"),
    pr.Task("stars", kind="ordinal"),
    pr.Task("category", kind="categorical"),
    pr.Task("items", kind="count"),
    pr.Task("spend", kind="lognormal", given="buy"),
    pr.Task("watch", kind=pr.Quantile(levels=LEVELS)),
    pr.Task("seconds", kind=pr.Regression(transform="log1p")),
]


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--outputs", type=int, help="with wide rows, of a head, at the most")
    parser.add_argument("--speed", type=int, default=3, metavar="ROUNDS", help="0 for none")
    return parser.parse_args()


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^(−z))."""
    return 1 / (1 + np.exp(-z))


def generated(seed: int, rows: int) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """Return a log and its truth, by the outputs' names."""
    random = np.random.default_rng(seed)
    user, item = random.integers(0, USERS, rows), random.integers(0, ITEMS, rows)
    e = random.normal(0, 0.57, USERS)[user] + random.normal(0, 0.57, ITEMS)[item]
    at_least = sigmoid(np.array(STARS) + e[:, None])
    z = np.array(PULL) * e[:, None]
    category = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    drawn = random.random((rows, 1))
    truth = {
        **{f"p_stars_at_least_{k}": p for k, p in zip((2, 3, 4, 5), at_least.T, strict=True)},
        **{f"p_category_{k}": p for k, p in zip((1, 2, 3), category.T, strict=True)},
        "p_click": sigmoid(e - 1), "p_buy": sigmoid(e - 0.45),
        "items": np.exp(0.3 + 0.5 * e), "spend_given_buy": np.exp(3 + 0.5 * e + 0.9**2 / 2),
        "seconds": np.exp(2.5 + 0.6 * e + 0.7**2 / 2),
    }  # fmt: skip
    truth["spend"] = truth["p_buy"] * truth["spend_given_buy"]
    buy = random.random(rows) < truth["p_buy"]
    seconds = np.exp(2.5 + 0.6 * e + 0.7 * random.standard_normal(rows))
    log = {
        "user": user, "item": item, "click": random.random(rows) < truth["p_click"], "buy": buy,
        "stars": 1 + (drawn < at_least).sum(1),
        "category": 1 + (random.random((rows, 1)) > category.cumsum(1)[:, :-1]).sum(1),
        "items": random.poisson(truth["items"]),
        "spend": buy * np.exp(3 + 0.5 * e + 0.9 * random.standard_normal(rows)),
        "watch": seconds, "seconds": seconds,
    }  # fmt: skip
    return pl.DataFrame(log), truth


def recovered(seed: int, rows: int, model: pr.Model) -> dict[str, float]:
    """Train on one log, and return what the model recovers of its truth, on test rows."""
    log, every = generated(seed, rows)
    ends = (rows * 8 // 10, rows * 9 // 10)
    test, true = log[ends[1] :], {name: each[ends[1] :] for name, each in every.items()}
    started = perf_counter()
    bundle = pr.fit(
        pr.Schema(FEATURES, TASKS), model, train=log[: ends[0]],
        valid=log[ends[0] : ends[1]], seed=seed, progress=False,
    )  # fmt: skip
    figures = {"seconds of the fit": perf_counter() - started}
    found = {each.name: each.to_numpy() for each in bundle.predict(test)}
    probabilities = {f"P(stars ≥ {level})": f"p_stars_at_least_{level}" for level in (2, 3, 4, 5)}
    for title, name in {"P(click)": "p_click", "P(buy)": "p_buy", **probabilities}.items():
        gap = found[name] - true[name]
        figures[f"{title}: mean gap"] = float(gap.mean())
        figures[f"{title}: mean |gap|"] = float(np.abs(gap).mean())
    for name in ("items", "spend_given_buy", "spend", "seconds"):
        figures[f"{name}: predicted ÷ true"] = ratio(found, true, name)
    watched = test["watch"].to_numpy()
    for level in LEVELS:
        below = (watched <= found[f"watch_q{100 * level:g}"]).mean()
        figures[f"watch q{level:g}: share below"] = float(below)
    kind, label = bundle.schema.by_name["category"].label_kind, test["category"].to_numpy()
    losses = []
    for each in (found, true):
        p = np.column_stack([each[f"p_category_{k}"] for k in (1, 2, 3)])
        losses.append(METRICS["cross_entropy"](label, p[:, 0], outputs=p, kind=kind))
    figures["category: log loss − oracle's"] = losses[0] - losses[1]
    return figures


def ratio(found: dict[str, np.ndarray], true: dict[str, np.ndarray], name: str) -> float:
    """Return the mean prediction ÷ the mean truth."""
    return float(found[name].mean() / true[name].mean())


def speed(rounds: int, rows: int = 300_000) -> dict[str, list[float]]:
    """Return rows a second of eight tasks of five kinds and of eight binary ones, by round."""
    frame = generated(0, rows)[0]
    random = np.random.default_rng([0, 1])  # unlike what the log was drawn from
    frame = frame.with_columns(
        **{f"b{index}": random.integers(0, 2, rows) for index in range(8)},
    )
    tasks = {
        "five kinds": TASKS,
        "binary": [pr.Task(f"b{i}") for i in range(8)],
    }
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, each in tasks.items():
            history = pr.fit(
                pr.Schema(FEATURES, each), pr.Model(), train=frame, epochs=2,
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
    model, results = pr.Model(), RESULTS
    if args.outputs is not None:
        model = pr.Model(wide=pr.Wide(outputs=args.outputs))
        results = RESULTS.with_stem(f"{RESULTS.stem}-{args.outputs}")
    for seed in range(1, 1 + args.seeds):
        runs.append(recovered(seed, args.rows, model))
        about: dict[str, Any] = {"rows": args.rows, "runs": runs, "rows_per_second": rates}
        record.write(results, {**record.origin("polars"), **about})
        print(
            f"seed {seed}: {mean(each['seconds of the fit'] for each in runs):.0f} s a fit",
            flush=True,
        )
    show(runs, rates)


if __name__ == "__main__":
    main()
