"""Warm start against training from scratch, day by day, on a log that drifts and gets new items.

The synthetic log with the part `drift`: ten days, tastes that wander, items that are new on some
day. Each day from the second on is scored by the model of the day before and then learned: from
scratch on all days so far, by a warm start, and by one that forgets. Prints, over seeds, the AUC of
clicks and of purchases on the whole log by day and strategy, the least difference of a warm start
from scratch over the days, and what the last day cost it as a share of scratch's seconds. All
strategies have the same epochs and batch size. Writes results/replay.json.

    python benchmarks/replay.py [seeds] [rows]
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import polars as pl
import torch
from parts import record

from polyrank.config import Data, Experiment
from polyrank.datasets.synthetic import synthetic
from polyrank.text import aligned
from polyrank.train.training import Training

ROWS, SEEDS = 1_000_000, 5
EPOCHS, BATCH = 3, 1024
SCORES = ("click @ all", "buy @ all")
RESULTS = record.RESULTS / "replay.json"


def replayed(seed, rows, folder):
    """Return a line of numbers a day and strategy of one seed."""
    *splits, schema = synthetic(rows, seed=seed, parts=["drift"])
    pl.concat([each.collect() for each in splits]).write_parquet(folder / "log.parquet")
    experiment = Experiment(
        schema=schema,
        data=Data(train=str(folder / "log.parquet")),
        training=Training(epochs=EPOCHS, batch_size=BATCH),
        seed=seed,
    )
    found = experiment.replay("day", out=folder / "out", progress=False)
    return [
        {
            "seed": seed, "day": int(each.period), "strategy": each.strategy,
            "learned": each.learned, "seconds": each.seconds,
            **{name: each.scorecard[name].metrics.get("auc", {}).get("value") for name in SCORES},
        }
        for each in found.cells
    ]  # fmt: skip


def summary(lines):
    """Return what must be shown of one warm strategy against scratch, by seed and score."""
    frame = pl.DataFrame(lines)
    scratch = frame.filter(strategy="scratch")
    found = []
    for name in ("warm", "forget"):
        both = frame.filter(strategy=name).join(scratch, on=["seed", "day"], suffix=" of scratch")
        last = both.filter(pl.col("day") == pl.col("day").max())
        share = (last["seconds"] / last["seconds of scratch"]).to_list()
        for score in SCORES:
            gap = (both[score] - both[f"{score} of scratch"]).drop_nulls().to_list()
            found.append(
                {
                    "strategy": name, "score": score, "least": min(gap), "mean": mean(gap),
                    "share_of_last_day": mean(share),
                }
            )  # fmt: skip
    return found


def main():
    """Run every seed, print the tables and save the figures."""
    given = list(map(int, sys.argv[1:]))
    seeds, rows = [*given, *(SEEDS, ROWS)[len(given) :]]
    torch.set_num_threads(1)
    lines = []
    for seed in range(1, seeds + 1):
        with TemporaryDirectory() as folder:
            lines += replayed(seed, rows, Path(folder))
    frame = pl.DataFrame(lines)
    for score in SCORES:
        table = frame.pivot("strategy", index="day", values=score, aggregate_function="mean")
        shown = [[str(row[0]), *(f"{each:.4f}" for each in row[1:])] for row in table.rows()]
        print(f"\n{score}, AUC, mean of {seeds} seeds\n{aligned(table.columns, shown)}")
    found = summary(lines)
    header = ["strategy", "score", "least difference", "mean", "cost of the last day"]
    shown = [
        [
            each["strategy"], each["score"], f"{each['least']:+.4f}", f"{each['mean']:+.4f}",
            f"{100 * each['share_of_last_day']:.1f} %",
        ]
        for each in found
    ]  # fmt: skip
    print(f"\nagainst scratch on all days so far\n{aligned(header, shown)}")
    sizes = {"seeds": seeds, "rows": rows, "epochs": EPOCHS, "batch_size": BATCH}
    record.write(RESULTS, {**record.origin("polars"), **sizes, "summary": found, "days": lines})


if __name__ == "__main__":
    main()
