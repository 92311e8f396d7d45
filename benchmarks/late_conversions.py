"""Late conversions where the truth is known: what each way to learn from a log cut today leaves.

The generated log takes 30 days; a purchase comes 3 days after its impression in the middle of all
(exponential, with a mean that the features move), and the log is read at its last impression. The
event is a purchase within 7 days. Test rows are later impressions, and their probability is known:
P(buy)·(1 − e^(−7 days ÷ mean delay)).

Learned by:

- `complete`: labels as they will be known in the end, which nobody has today;
- `naive`: purchases that are known today, all else as none;
- `negatives masked`: the same without the young rows that show no purchase;
- every kind of `delay`.

A tenth of the rows, drawn at random, are validation rows with the labels of their method. Prints,
over seeds, mean p_buy ÷ mean truth on test rows, calibrated and not, the mean absolute error and
the AUC, with 95 % intervals (Student's t): of the ratio's distance from 1, and of each figure's
distance from that of `complete` of the same seed. Writes results/late_conversions.json with
--write.

    python benchmarks/late_conversions.py --seeds 5 --write
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from time import perf_counter

import numpy as np
import polars as pl
from parts import record
from parts.seeds import shown, spread

import polyrank as pr
from polyrank.datasets.parts import Delay
from polyrank.datasets.synthetic import synthetic
from polyrank.delay import DELAY
from polyrank.metrics.registry import metric
from polyrank.text import aligned

RESULTS = record.RESULTS / "late_conversions.json"
DAYS, MEAN_DAYS, WINDOW_DAYS = 30, 3, 7
TRAIN = 0.8  # of the rows: the 30 days
COMPLETE, RATIO = "complete", "mean p_buy ÷ truth"
LABELS = (COMPLETE, "naive", "negatives masked")  # without a delay, by column


def log(rows: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, pr.Schema, int]:
    """Return the rows until today, the test rows with `truth`, the schema, and the window in s."""
    part = Delay(share=MEAN_DAYS / DAYS * TRAIN)
    fractions = (TRAIN - 0.01, 0.01, 1 - TRAIN)  # read at the end of both
    train, valid, test, schema = synthetic(rows, seed=seed, fractions=fractions, parts=[part])
    frame, later = pl.concat([train, valid]).collect(), test.collect()
    day = (frame["time"].max() - frame["time"].min()) / DAYS
    window = round(WINDOW_DAYS * day)
    age = pl.col("time").max() - pl.col("time")
    known = (pl.col("buy") == 1) & (pl.col("buy_delay_s") <= window)
    frame = frame.with_columns(
        complete=_drawn_in_time(frame, window, seed),
        naive=known.fill_null(value=False).cast(pl.Float64),
    ).with_columns(
        pl.when((age >= window) | (pl.col("naive") == 1) | (pl.col("click") == 0))
        .then("naive")
        .alias("negatives masked")
    )
    share = -np.expm1(-window / later["true_buy_delay_s"].to_numpy())
    later = later.with_columns(truth=pl.col("true_p_buy") * pl.Series(share))
    return frame, later, schema, window


def _drawn_in_time(frame: pl.DataFrame, window: int, seed: int) -> pl.Series:
    """Return whether each purchase comes within the window, drawn where it is not known yet."""
    mean, elapsed = frame["true_buy_delay_s"].to_numpy(), frame["elapsed_s"].to_numpy()
    random = np.random.default_rng(seed).random(frame.height)
    # A delay has no memory: what is missing at the cut still takes an exponential time.
    rest = random < -np.expm1(-np.maximum(window - elapsed, 0) / mean)
    known = frame["buy_delay_s"].fill_null(np.inf).to_numpy() <= window
    late = (frame["buy_eventually"] == 1).to_numpy() & (frame["buy"] == 0).to_numpy() & rest
    return pl.Series((known | late).astype(float))


def task(name: str, window: int) -> pr.Task:
    """Return how P(buy|click) is learned."""
    if name in LABELS:
        return pr.Task("buy", label=name, given="click")
    return pr.Task("buy", given="click", delay=DELAY[name](time="buy_time", window=window))


def measured(rows: int, epochs: int | str, name: str, seed: int, tiny: bool) -> dict[str, float]:
    """Train on a log cut today and return what is wrong with p_buy on test rows."""
    frame, later, schema, window = log(rows, seed)
    schema = pr.Schema(schema.features, [pr.Task("click"), task(name, window)], schema.keys)
    small = {"wide": False, "trees": False, "tower": [8], "embed_dim": 4} if tiny else {}
    held = np.random.default_rng(seed).random(frame.height) < 0.1
    bundle = pr.fit(
        schema, pr.Model(**small), train=frame.filter(~held), valid=frame.filter(held), seed=seed,
        epochs=epochs, progress=False,
    )  # fmt: skip
    truth, found = later["truth"].to_numpy(), {}
    bought = (later["buy_eventually"] == 1) & (later["buy_delay_s"] <= window)
    label, auc = bought.fill_null(value=False).cast(pl.Float64), metric("binary", "auc")
    for kind, raw in (("", False), (", uncalibrated", True)):
        p = bundle.predict(later, raw=raw)["p_buy"].to_numpy()
        found |= {
            f"{RATIO}{kind}": float(p.mean() / truth.mean()),
            f"mean absolute error{kind}": float(np.abs(p - truth).mean()),
            f"auc{kind}": float(auc(label.to_numpy(), p)),
        }
    return found


def table(runs: Mapping[str, list[dict[str, float]]]) -> str:
    """Return a line a figure and method.

    Of the ratio to the truth: how far it is from 1, which a model of few purchases is in either
    direction, and how far from that of `complete` of the same seed, which the labels alone explain.
    """
    lines = []
    for figure in next(iter(runs.values()))[0]:
        for name, found in runs.items():
            values = [run[figure] for run in found]
            off = shown([1.0] * len(values), values) if "÷" in figure else ""
            paired = ""
            if name != COMPLETE and COMPLETE in runs:
                paired = shown([run[figure] for run in runs[COMPLETE]], values)
            lines.append([figure, name, spread(values), off, paired])
    header = ["figure", "learned by", "value", "- 1", "- complete"]
    return aligned(header, lines, [2, 3, 4])


def options() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the log and its test rows")
    parser.add_argument("--epochs", type=int, help="by default by the number of rows")
    parser.add_argument("--only", nargs="*", help="what to learn by")
    parser.add_argument("--tiny", action="store_true", help="a small network, to try this out")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    return parser.parse_args()


def main() -> None:
    """Run every method, print the table and keep the figures."""
    args = options()
    names = [name for name in (*LABELS, *DELAY) if args.only is None or name in args.only]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    kept, started = [], perf_counter()
    for seed in range(1, args.seeds + 1):
        for name in names:
            figures = measured(args.rows, args.epochs or "auto", name, seed, args.tiny)
            runs[name].append(figures)
            kept.append({"learned by": name, "seed": seed, **figures})
            print(f"{seed} {name}: {figures[RATIO]:.4f}", flush=True)
    seconds = (perf_counter() - started) / max(args.seeds * len(names), 1)
    print(f"{args.rows:,} rows, seeds 1-{args.seeds}, {seconds:.0f} s a run")
    print(table(runs))
    print("\n* : the 95 % interval over seeds excludes 0")
    if args.write:
        budget = {"rows": args.rows, "epochs": args.epochs}
        record.write(RESULTS, {**record.origin("polars"), "budget": budget, "runs": kept})


if __name__ == "__main__":
    main()
