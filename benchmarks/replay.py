"""Warm start against training from scratch, day by day, on a log that drifts and gets new items.

The synthetic log with the part `drift`: ten days, tastes that wander, items that are new on some
day. Each day from the second on is scored by the model of the day before and then learned, by each
strategy of `polyrank replay`: from scratch on all days so far, by a warm start, and by one that
forgets. Of clicks and of purchases on the whole log it prints the AUC by day and strategy, and the
difference of each other strategy from scratch: over the days, with its interval over seeds, and on
the worst day, as a mean over seeds. The first day is left out of differences, for one model scores
it for all. The cost is that of the last day, as a share of scratch's seconds.

All strategies have the options of a user who gives none, or the epochs that are given.

    python benchmarks/replay.py --seeds 5 --rows 1000000 --write
    python benchmarks/replay.py --seeds 1 --rows 20000 --strategies scratch warm
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import torch
from parts import record
from parts.seeds import shown

from polyrank.config import Data, Experiment
from polyrank.datasets.synthetic import synthetic
from polyrank.text import aligned
from polyrank.train.replay import strategies
from polyrank.train.training import Training

SCORES = ("click @ all", "buy @ all")
NAMES = tuple(each.name for each in strategies())
SCRATCH = NAMES[0]
RESULTS = record.RESULTS / "replay.json"


def replayed(seed: int, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return a line of numbers a day and strategy of one seed."""
    *splits, schema = synthetic(args.rows, seed=seed, parts=["drift"])
    pl.concat([each.collect() for each in splits]).write_parquet(folder / "log.parquet")
    experiment = Experiment(
        schema=schema,
        data=Data(train=str(folder / "log.parquet")),
        training=Training(epochs=args.epochs or "auto"),
        seed=seed,
    )
    found = experiment.replay(
        "day", names=args.strategies, retain=args.retain, out=folder / "out", progress=False
    )
    return [
        {
            "seed": seed, "day": int(each.period), "strategy": each.strategy,
            "learned": each.learned, "seconds": each.seconds,
            **{name: each.scorecard[name].metrics.get("auc", {}).get("value") for name in SCORES},
        }
        for each in found.cells
    ]  # fmt: skip


def compared(frame: pl.DataFrame, strategy: str, score: str) -> list[str]:
    """Return how a strategy differs from scratch, and its cost, as text."""
    both = frame.filter(strategy=strategy).join(
        frame.filter(strategy=SCRATCH), on=["seed", "day"], suffix=" of scratch"
    )
    last = both.filter(pl.col("day") == pl.col("day").max())
    later = both.filter(pl.col("day") > pl.col("day").min()).drop_nulls()
    scores = pl.col(score, f"{score} of scratch")
    by_seed = later.group_by("seed", maintain_order=True).agg(scores.mean())
    gap = pl.col(score) - pl.col(f"{score} of scratch")
    by_day = later.with_columns(gap=gap).group_by("day").agg(pl.col("gap").mean())
    worst = by_day.row(by_day["gap"].arg_min() or 0, named=True)
    return [
        strategy,
        score,
        shown(by_seed[f"{score} of scratch"].to_list(), by_seed[score].to_list()),
        f"{worst['gap']:+.4f} (day {worst['day']})",
        f"{100 * mean(last['seconds'] / last['seconds of scratch']):.1f} %",
    ]


def options() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="logs")
    parser.add_argument("--first-seed", type=int, default=1, help="of these")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of a log")
    parser.add_argument("--strategies", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--retain", type=float, default=0.9, help="of the one that forgets")
    parser.add_argument("--epochs", type=int, help='of every run; "auto" without')
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    return parser.parse_args()


def main() -> None:
    """Run every seed, and print the tables."""
    args = options()
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        with TemporaryDirectory() as folder:
            lines += replayed(seed, args, Path(folder))
    frame = pl.DataFrame(lines)
    seeds = f"seeds {args.first_seed}-{args.first_seed + args.seeds - 1}"
    print(f"{args.rows:,} rows in ten days, {seeds}, epochs {args.epochs or 'auto'}")
    for score in SCORES:
        table = frame.pivot("strategy", index="day", values=score, aggregate_function="mean")
        cells = [[str(row[0]), *(f"{each:.4f}" for each in row[1:])] for row in table.rows()]
        print(f"\n{score}, AUC, mean of seeds\n{aligned(table.columns, cells)}")
    others = [name for name in args.strategies if name != SCRATCH]
    if SCRATCH in args.strategies and others:
        header = ["strategy", "score", "AUC − scratch's", "worst day", "cost of the last day"]
        cells = [compared(frame, name, score) for name in others for score in SCORES]
        print(f"\nagainst scratch on all days so far\n{aligned(header, cells)}")
        print("\n* : the 95 % interval over seeds excludes 0")
    if args.write:
        budget = {name: each for name, each in vars(args).items() if name != "write"}
        record.write(RESULTS, {**record.origin("polars"), "budget": budget, "days": lines})


if __name__ == "__main__":
    main()
