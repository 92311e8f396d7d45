"""Seconds of the metrics that sort, on 10 million rows of 500 thousand users.

    python benchmarks/metric_speed.py [--rows ROWS] [--users USERS] [--seed SEED]

Then seconds of a scorecard of 1 million rows and three scores, without and with intervals. Labels
are drawn from the scores, so the scores rank as a good model's would; half are positive, the
slowest case for the AUC. CPU seconds are shown beside wall seconds, which a busy machine stretches.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np

from polyrank.metrics.binary import auc, ece, gauc, pr_auc
from polyrank.metrics.scorecard import scorecard
from polyrank.schema import DenseFeature, Schema, Task

REPLICATES = 200


def measure(name: str, metric: Callable[[], float]) -> None:
    """Print the seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    value = metric()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name:<32}{wall:8.2f} s wall{processor:8.2f} s CPU   = {value:.6f}", flush=True)


def measure_intervals(rows: int, users: int, seed: int) -> None:
    """Print the seconds of a scorecard with intervals: clicks of 4 %, a tenth of them bought."""
    random = np.random.default_rng(seed)
    click, buy = (1 / (1 + np.exp(-random.normal(middle, 1, rows))) for middle in (-3.55, -2.5))
    clicked = random.random(rows) < click
    labels = {"click": clicked, "buy": clicked & (random.random(rows) < buy)}
    predictions = {"p_click": click, "p_buy_given_click": buy, "p_buy": click * buy}
    schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
    for name, user in (("rows", None), ("users", random.integers(0, users, rows))):
        for replicates in (0, REPLICATES):

            def auc_of_buy(user: object = user, replicates: int = replicates) -> float:
                card = scorecard(
                    schema, predictions, labels, split="test", user=user, replicates=replicates
                )
                return card.value("buy @ all", "auc")

            measure(f"scorecard, {replicates} draws of {name}", auc_of_buy)


def main() -> None:
    """Draw the rows and measure each metric once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    score = random.random(options.rows)
    label = (random.random(options.rows) < score).astype(np.float64)
    user = random.integers(0, options.users, options.rows)
    hashed = (user * 2_654_435_761) ^ 0x5BD1E995
    weight = random.exponential(size=options.rows)
    print(
        f"{options.rows:,} rows, {options.users:,} users, seed {options.seed}; "
        f"numpy {np.__version__}, {platform.machine()}"
    )
    measure("auc", lambda: auc(label, score))
    measure("auc, weighted", lambda: auc(label, score, weight))
    measure("grouped auc", lambda: gauc(label, score, key=user))
    measure("grouped auc, hashed users", lambda: gauc(label, score, key=hashed))
    measure("grouped auc, weighted", lambda: gauc(label, score, weight, key=user))
    measure("average precision", lambda: pr_auc(label, score))
    measure("ece", lambda: ece(label, score))
    few, some = min(options.rows, 1_000_000), min(options.users, 50_000)
    print(f"{few:,} rows, {some:,} users, 3 scores:")
    measure_intervals(few, some, options.seed)


if __name__ == "__main__":
    main()
