"""Seconds of the metrics that sort, on 10 million rows of 500 thousand users.

    python benchmarks/metric_speed.py [--rows ROWS] [--users USERS] [--seed SEED]

Labels are drawn from the scores, so that they rank as a good model's do; half are positive, the
slowest case for the AUC. CPU seconds stand beside the wall's, which a busy machine stretches.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np

from polyrank.metrics.binary import auc, average_precision, ece, grouped_auc


def measure(name: str, metric: Callable[[], float]) -> None:
    """Print the seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    value = metric()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name:<28}{wall:8.2f} s wall{processor:8.2f} s CPU   = {value:.6f}", flush=True)


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
    measure("grouped auc", lambda: grouped_auc(label, score, user))
    measure("grouped auc, hashed users", lambda: grouped_auc(label, score, hashed))
    measure("grouped auc, weighted", lambda: grouped_auc(label, score, user, weight))
    measure("average precision", lambda: average_precision(label, score))
    measure("ece", lambda: ece(label, score))


if __name__ == "__main__":
    main()
