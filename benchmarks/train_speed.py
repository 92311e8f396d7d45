"""Training speed beside Torch-RecHub 0.9.0 and DeepCTR-Torch 0.3.0, and beside the machine's limit.

The same ESMM and the same MMoE, on the same rows of Ali-CCP's shape: 23 fields of ids, 1.4 million
embedding rows in all, Zipf(0.9), 4 % clicked (the sizes of 210, 109_14, 110_14, 127_14 and 150_14
are not published, and are chosen to make the sum right). From encoded arrays to updated weights,
loader included, metrics excluded, each library by its public interface. In each round every
contender trains for some seconds, in a new random order; the first steps (allocation, just-in-time
compilation) are reported separately. Cells are medians over rounds, in thousand rows per second;
the ratio is the median of each round's ratio to Torch-RecHub. The roofline moves a sample's bytes
at the triad's rate and then multiplies at the rate of the first layer's GEMM, both measured in each
round. Torch-RecHub runs without worker processes; with 4 of them it was 0.75 to 1.24 times as fast.

    python benchmarks/train_speed.py [--model ESMM] [--batch 20 1024] [--threads 2] [--quick]

Writes results/train_speed.json, or nothing with --quick. A full run takes about an hour. Needs the
extra [bench]; a peer that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from parts.contenders import DEFAULT, OURS, PEER, Contender, absent, contenders
from parts.log import VOCABULARY, Log, drawn, unique_share
from parts.machine import COSTS, Rates, measured, typical
from parts.ours import set_threads
from parts.record import RESULTS, origin, write

from polyrank.text import aligned

BATCHES = (20, 1024, 4096, 16384)
WARM_UP_SECONDS = 0.5


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", nargs="+", choices=[*COSTS], default=[*COSTS])
    parser.add_argument("--batch", nargs="+", type=int, default=[*BATCHES])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--contender", nargs="+", help="names, or parts of names; the default is "
                        f"the peers and polyrank with {', '.join(OURS)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each contender in a round")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="2 short rounds, for a first look")
    parser.add_argument("--out", type=Path, help="the results file")
    found = parser.parse_args()
    if found.quick:
        found.rounds, found.seconds, found.rows = 2, 0.3, 200_000
    elif found.out is None:
        found.out = RESULTS / "train_speed.json"
    if found.rows < max(found.batch):
        parser.error(f"--rows {found.rows} is no whole batch of {max(found.batch)}")
    return found


def chosen(names: list[str], wanted: list[str] | None) -> list[str]:
    """Return the contenders that were asked for."""
    if wanted is None:
        kinds = tuple(f"polyrank {kind}" for kind in OURS)
        return [name for name in names if name.split(",")[0] in (*kinds, PEER, "DeepCTR-Torch")]
    return [name for name in names if any(part in name for part in wanted)]


def cell(
    model: str, log: Log, batch: int, threads: int, args: argparse.Namespace
) -> tuple[dict[str, dict], Rates]:
    """Measure all contenders on one model and batch size, and the machine's rates in between."""
    set_threads(threads)
    known = contenders(model, log, batch, threads)
    running: dict[str, Contender] = {}
    figures: dict[str, dict] = {}
    for name in chosen([*known], args.contender):
        started = perf_counter()
        running[name] = known[name]()
        built = perf_counter()
        running[name].train(0.0)
        first = perf_counter()
        running[name].train(min(WARM_UP_SECONDS, args.seconds))
        figures[name] = {
            "build_seconds": built - started, "first_seconds": first - built, "rows_per_second": [],
            "round_seconds": [],
        }  # fmt: skip
    order = np.random.default_rng([args.seed, batch, threads])
    names = [*running]
    rates = []
    for _ in range(args.rounds):
        rates.append(measured(threads))
        order.shuffle(names)
        for name in names:
            gc.collect()
            rows, seconds = running[name].train(args.seconds)
            figures[name]["rows_per_second"].append(rows / seconds)
            figures[name]["round_seconds"].append(seconds)
    for each in figures.values():
        each["median"] = median(each["rows_per_second"])
        if PEER in figures:
            theirs = figures[PEER]["rows_per_second"]
            pairs = zip(each["rows_per_second"], theirs, strict=True)
            each["ratio"] = median(a / b for a, b in pairs)
    return figures, typical(rates)


def shown(figures: dict) -> str:
    """Return a cell's text."""
    rates = [rate / 1e3 for rate in figures["rows_per_second"]]
    digits = 0 if min(rates) >= 100 else 1 if min(rates) >= 10 else 2
    middle, low, high = (f"{each:.{digits}f}" for each in (median(rates), min(rates), max(rates)))
    ratio = f" {figures['ratio']:6.1f}×" if "ratio" in figures else ""
    return f"{middle} ({low}–{high}){ratio}"


def label(name: str) -> str:
    """Return a contender's name, with a mark on polyrank's default optimiser."""
    return name.replace(f"polyrank {DEFAULT}", f"polyrank {DEFAULT} (default)")


def show_speed(model: str, threads: int, cells: dict[int, dict]) -> None:
    """Print a model's table: one line per contender, one column per batch size."""
    names = dict.fromkeys(name for figures in cells.values() for name in figures)
    lines = [[label(name), *(shown(figures[name]) for figures in cells.values())] for name in names]
    print(f"\n{model}, {threads} thread(s): thousand rows per second, median (lowest–highest), "
          f"ratio to {PEER}")  # fmt: skip
    header = ["contender", *(f"batch {batch}" for batch in cells)]
    print(aligned(header, lines, range(1, len(header))), flush=True)
    first = {
        name: " / ".join(f"{figures[name]['first_seconds']:.2f}" for figures in cells.values())
        for name in names
    }
    print("seconds of the first steps, not counted: "
          + "; ".join(f"{label(name)} {each}" for name, each in first.items()))  # fmt: skip


def roofline(
    model: str, unique: float, rates: Rates, figures: dict[str, dict]
) -> dict[str, object]:
    """Return the limit at one batch size and the share of it that each contender reached."""
    limit = rates.samples(model, unique)
    reached = {name: each["median"] / limit for name, each in figures.items()}
    return {"unique": unique, "rows_per_second": limit, "reached": reached} | rates.to_table()


def show_roofline(model: str, threads: int, lines: dict[int, dict]) -> None:
    """Print the machine's rates, and the share of the limit that each contender reached."""
    names = dict.fromkeys(name for line in lines.values() for name in line["reached"])
    measures = {
        "triad, GB/s": lambda line: f"{line['triad'] / 1e9:.1f}",
        "random 64-byte rows, M/s": lambda line: f"{(line['random_rows'] or 0) / 1e6:.0f}",
        "GEMM, GFLOP/s": lambda line: f"{line['gemm'][model] / 1e9:.0f}",
        "unique rows of a batch": lambda line: f"{line['unique']:.2f}",
        "roofline, k rows/s": lambda line: f"{line['rows_per_second'] / 1e3:,.0f}",
    }
    table = [[name, *map(text, lines.values())] for name, text in measures.items()]
    table += [
        [label(name), *(f"{line['reached'][name]:.1%}" for line in lines.values())]
        for name in names
    ]
    header = [f"{model}, {threads} thread(s): limit", *(f"batch {batch}" for batch in lines)]
    print(f"\n{aligned(header, table, range(1, len(header)))}", flush=True)


def main() -> None:
    """Measure, print and save the figures."""
    args = options()
    for name, reason in absent().items():
        print(f"not measured: {name}: {reason}")
    log = drawn(args.rows, args.seed)
    print(f"{len(log):,} rows, {sum(VOCABULARY.values()):,} embedding rows, seed {args.seed}; "
          f"{args.rounds} rounds of {args.seconds:g} s", flush=True)  # fmt: skip
    table = {
        **origin("torch-rechub", "deepctr-torch", "numba"),
        "seed": args.seed, "rows": args.rows, "rounds": args.rounds, "seconds": args.seconds,
        "absent": absent(), "default": DEFAULT, "vocabulary": VOCABULARY, "runs": [],
    }  # fmt: skip
    for threads in args.threads:
        for model in args.model:
            cells: dict[int, dict] = {}
            lines: dict[int, dict] = {}
            for batch in args.batch:
                started = perf_counter()
                cells[batch], rates = cell(model, log, batch, threads, args)
                unique = unique_share(log, batch, args.seed)
                lines[batch] = roofline(model, unique, rates, cells[batch])
                gc.collect()
                sys.stderr.write(f"{model}, batch {batch}, {threads} thread(s): measured in "
                                 f"{perf_counter() - started:.0f} s\n")  # fmt: skip
            show_speed(model, threads, cells)
            show_roofline(model, threads, lines)
            run = {"model": model, "threads": threads, "cells": cells, "roofline": lines}
            table["runs"].append(run)
            if args.out is not None:
                write(args.out, table)


if __name__ == "__main__":
    main()
