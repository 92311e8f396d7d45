"""What wide rows of heads with several outputs bring to levels and categories, paired.

A log of users with few rows each. Stars come from one effect of each id, three categories from
three, and money, of those who click, from another: every outcome has known probabilities. The
default model is trained on it with wide rows of heads with one question alone (`outputs = 1`), so
that levels and categories have none, and with those of all. On test rows, for each seed: the log
loss of levels, of categories and of clicks, which read the effects of all heads, each less that of
their true probabilities; and the root mean squared error of the log of the mean of money, whose
wide rows both have. With --log: ratings of a real log as levels beside its event, whose figures are
those of test rows. Prints means ± standard deviations over seeds, and the mean difference with its
95 % interval (t). Writes results/wide_outputs.json, or of a real log results/wide_outputs-LOG.json.

    python benchmarks/wide_outputs.py [--seeds 5] [--rows 200000] [--users 20000]
    python benchmarks/wide_outputs.py --log movielens_100k
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl
import torch
from parts import record
from parts.logs import Raw, raw_log
from parts.seeds import difference, spread

import polyrank as pr
from polyrank.metrics.registry import metric
from polyrank.text import aligned

RESULTS = record.RESULTS / "wide_outputs.json"
ITEMS = 1_000
STARS = (1.8, 0.6, -0.4, -1.6)  # logits of P(stars ≥ 2), … at an effect of 0
SHARES = (0.6, 0.3, 0.1)
FEATURES = [pr.SparseFeature("user"), pr.SparseFeature("item")]
TASKS = [
    pr.Task("click"),
    pr.Task("stars", kind="ordinal"),
    pr.Task("category", kind="categorical"),
    pr.Task("spend", kind="lognormal", given="click"),
]
MODELS = {
    "before": pr.Model(wide=pr.Wide(outputs=1)),
    "after": pr.Model(),
}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--log", choices=("coat", "movielens_100k"), help="not a generated one")
    parser.add_argument("--path", type=Path, help="of the log's files")
    return parser.parse_args()


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^(−z))."""
    return 1 / (1 + np.exp(-z))


def generated(seed: int, rows: int, users: int) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """Return a log and its truth, by the outputs' names."""
    random = np.random.default_rng(seed)
    user, item = random.integers(0, users, rows), random.integers(0, ITEMS, rows)
    # Of each id: one effect that clicks and stars share, one of money, and one of each category.
    e = random.normal(0, 0.57, (users, 5))[user] + random.normal(0, 0.57, (ITEMS, 5))[item]
    at_least = sigmoid(np.array(STARS) + e[:, :1])
    odds = np.exp(np.log(SHARES) + e[:, 2:])
    category = odds / odds.sum(1, keepdims=True)
    p_click = sigmoid(e[:, 0] - 1)
    truth = {
        **{f"p_stars_at_least_{k}": p for k, p in zip((2, 3, 4, 5), at_least.T, strict=True)},
        **{f"p_category_{k}": p for k, p in zip((1, 2, 3), category.T, strict=True)},
        "p_click": p_click, "spend_given_click": np.exp(3 + 0.7 * e[:, 1] + 0.9**2 / 2),
    }  # fmt: skip
    click = random.random(rows) < p_click
    drawn = random.random((rows, 1))
    log = {
        "user": user, "item": item, "click": click, "stars": 1 + (drawn < at_least).sum(1),
        "category": 1 + (random.random((rows, 1)) > category.cumsum(1)[:, :-1]).sum(1),
        "spend": click * np.exp(3 + 0.7 * e[:, 1] + 0.9 * random.standard_normal(rows)),
    }  # fmt: skip
    return pl.DataFrame(log), truth


def losses(columns: dict[str, np.ndarray], log: pl.DataFrame) -> dict[str, float]:
    """Return the log losses of outputs on rows of the log."""
    at_least = np.column_stack(
        [np.ones(len(log)), *(columns[f"p_stars_at_least_{k}"] for k in (2, 3, 4, 5))]
    )
    stars = at_least - np.column_stack([at_least[:, 1:], np.zeros(len(log))])
    category = np.column_stack([columns[f"p_category_{k}"] for k in (1, 2, 3)])
    click = np.column_stack([1 - columns["p_click"], columns["p_click"]])
    rows, found = np.arange(len(log)), {}
    for name, p, label in (
        ("stars", stars, log["stars"].to_numpy() - 1),
        ("category", category, log["category"].to_numpy() - 1),
        ("click", click, log["click"].to_numpy().astype(int)),
    ):
        found[f"{name}: log loss − oracle's"] = float(-np.log(p[rows, label]).mean())
    return found


def measured(model: pr.Model, seed: int, rows: int, users: int) -> dict[str, float]:
    """Train a model on one log, and return how far it is from the truth on test rows."""
    log, every = generated(seed, rows, users)
    ends = (rows * 8 // 10, rows * 9 // 10)
    test, true = log[ends[1] :], {name: each[ends[1] :] for name, each in every.items()}
    started = perf_counter()
    bundle = pr.fit(
        pr.Schema(FEATURES, TASKS), model, train=log[: ends[0]], valid=log[ends[0] : ends[1]],
        seed=seed, progress=False,
    )  # fmt: skip
    seconds = perf_counter() - started
    found = {each.name: each.to_numpy() for each in bundle.predict(test)}
    ours, oracle = losses(found, test), losses(true, test)
    figures = {name: ours[name] - oracle[name] for name in ours}
    gap = np.log(found["spend_given_click"] / true["spend_given_click"])
    figures["spend: rmse of the log of the mean"] = float(np.sqrt((gap**2).mean()))
    return {**figures, "seconds of the fit": seconds}


def measured_on(log: Raw, model: pr.Model, seed: int) -> dict[str, float]:
    """Train a model on a log's ratings as levels and its event; return the figures of test rows."""
    tasks = [pr.Task("rating", kind="ordinal"), pr.Task("like")]
    started = perf_counter()
    bundle = pr.fit(
        pr.Schema(log.schema.features, tasks, log.schema.keys), model, train=log.frames["train"],
        valid=log.frames["valid"], seed=seed, progress=False,
    )  # fmt: skip
    seconds = perf_counter() - started
    test = log.frames["test"]
    found = {each.name: each.to_numpy() for each in bundle.predict(test)}
    rating, like = (test[name].to_numpy().astype(np.float64) for name in ("rating", "like"))
    at_least = np.column_stack(
        [np.ones(len(test)), *(found[f"p_rating_at_least_{k}"] for k in (2, 3, 4, 5))]
    )
    levels = at_least - np.column_stack([at_least[:, 1:], np.zeros(len(test))])
    mean_level = at_least.sum(1)
    return {
        "rating: log loss": float(-np.log(levels[range(len(test)), rating.astype(int) - 1]).mean()),
        "rating: MAE": float(metric("ordinal", "mae")(rating, mean_level)),
        "rating: τ-b": float(metric("ordinal", "tau_b")(rating, mean_level)),
        "like: log loss": float(metric("binary", "log_loss")(like, found["p_like"])),
        "like: AUC": float(metric("binary", "auc")(like, found["p_like"])),
        "seconds of the fit": seconds,
    }


def show(runs: dict[str, list[dict[str, float]]]) -> None:
    """Print the table."""
    before, after = (runs[name] for name in MODELS)
    lines = []
    for name in before[0]:
        one, two = ([each[name] for each in some] for some in (before, after))
        line = [name, spread(one), spread(two)]
        if len(one) > 1:
            middle, half = difference(one, two)
            line.append(f"{middle:+.4f} ± {half:.4f}")
        lines.append(line)
    header = ["figure", *MODELS, "after − before"][: len(lines[0])]
    print(aligned(header, lines, [1, 2, 3][: len(header) - 1]))


def main() -> None:
    """Run every seed, print the table and save the figures."""
    torch.set_num_threads(1)
    args = options()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in MODELS}
    log = raw_log(args.log, 0, path=args.path) if args.log else None
    results = RESULTS.with_stem(f"{RESULTS.stem}-{args.log}") if args.log else RESULTS
    for seed in range(1, 1 + args.seeds):
        for name, model in MODELS.items():
            if log is None:
                runs[name].append(measured(model, seed, args.rows, args.users))
            else:
                runs[name].append(measured_on(log, model, seed))
        size = {} if args.log else {"rows": args.rows, "users": args.users}
        record.write(results, {**record.origin("polars"), **size, "runs": runs})
        print(f"seed {seed} is done", flush=True)
    show(runs)


if __name__ == "__main__":
    main()
