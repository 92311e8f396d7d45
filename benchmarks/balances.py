"""Balances: what a step costs beside the sum's, and what they bring.

Cost: ESMM with T terms (a click and T − 1 events of its clickers, all learned on all rows) on rows
of Ali-CCP's vocabularies, in batches of 1024, one thread. Each round trains every balance for some
steps, in a new random order; a cell is the median over rounds of the ratio to the sum's time in the
same round. The bar is 1 + .6 T.

Results: the defaults with each balance, on census, on a generated log of several roots, where
hiding pulls against the others, and on KuaiRand; paired differences to the sum over seeds, with the
95 % interval of Student's t, on test rows. Beside them the mean cosine of the gradients of each two
terms over the epochs, under the sum.

    python benchmarks/balances.py cost [--terms 2 4 8] [--balances pcgrad] [--quick]
    python benchmarks/balances.py results [--seeds 5] [--sets census reactions] [--kuairand FILE]

Writes results/balances_cost.json (not with --quick) and results/balances.json, from which it goes
on after an interruption.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from parts.log import VOCABULARY
from parts.logs import LOGS
from parts.ours import set_threads, trainer_of
from parts.record import RESULTS, origin, write
from parts.runs import Job, Kept, finish, known, present
from parts.seeds import shown, spread
from parts.settings import Setting

import polyrank as pr
from polyrank.balance import BALANCES
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.text import aligned
from polyrank.train import loop
from polyrank.train.loop import Trainer
from polyrank.train.training import Training

SETS = ("census", "reactions", "kuairand")
SUM = "sum"
BATCH = 1024
METRICS = ("auc", "loss")


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("cost", "results"))
    parser.add_argument("--balances", nargs="+", choices=[*BALANCES], default=[*BALANCES])
    parser.add_argument("--terms", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40, help="of each balance in a round")
    parser.add_argument("--quick", action="store_true", help="3 short rounds, for a first look")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", choices=[*LOGS], default=[*SETS])
    parser.add_argument("--rows", type=int, help="training rows of a generated log")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--kuairand", type=Path, help="the sample's file")
    parser.add_argument("--show", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--out", type=Path, help="the results file")
    found = parser.parse_args()
    if SUM not in found.balances:
        found.balances = [SUM, *found.balances]
    if found.quick:
        found.rounds, found.steps = 3, 8
    return found


# -- cost --------------------------------------------------------------------------------------


def trainers(terms: int, balances: list[str], steps: int) -> dict[str, Trainer]:
    """Return a trainer of each balance on one table of `steps` batches."""
    random = np.random.default_rng(0)
    rows = steps * BATCH
    ids = {name: random.integers(0, size, rows) for name, size in VOCABULARY.items()}
    click = random.random(rows) < 0.3
    events = {f"event_{i}": click & (random.random(rows) < 0.3) for i in range(1, terms)}
    tasks = [pr.Task("click"), *(pr.Task(e, given="click", space="all") for e in events)]
    schema = pr.Schema([pr.SparseFeature(name) for name in ids], tasks)
    labels = {"click": click.astype(int), **{e: v.astype(int) for e, v in events.items()}}
    frame = read({**ids, **labels})
    vocab = Vocab.fit(frame, schema)
    tables = {"train": encode(frame, schema, vocab)}
    model = pr.ESMM(tower=[64, 32], embed_dim=16)
    return {
        name: trainer_of(
            model, vocab, tables,
            Training(epochs=1000, batch_size=BATCH, balance=BALANCES[name]()), 0,
        )
        for name in balances
    }  # fmt: skip


def seconds(trainer: Trainer) -> float:
    """Return the time of the next epoch's steps."""
    return next(each for each in trainer.run() if each.event == "epoch").seconds


def cost(args: argparse.Namespace) -> None:
    """Print and keep the cost of a step of each balance."""
    set_threads(1)
    # Cosines are measured at 8 steps an epoch, which is nothing in one of thousands.
    loop.measured_steps = lambda _: range(0)
    random, cells = np.random.default_rng(0), {}
    for terms in args.terms:
        running = trainers(terms, args.balances, args.steps)
        for each in running.values():
            seconds(each)  # the first steps allocate
        found: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(args.rounds):
            for name in random.permutation([*running]).tolist():
                found[name].append(seconds(running[name]))
        base = found[SUM]
        for name, values in found.items():
            ratio = median(v / b for v, b in zip(values, base, strict=True))
            cells[f"{name} {terms}"] = {
                "ms": 1000 * median(values) / args.steps, "ratio": ratio, "bar": 1 + 0.6 * terms,
            }  # fmt: skip
    lines = []
    for name in args.balances:
        line = [name]
        for terms in args.terms:
            each = cells[f"{name} {terms}"]
            over = " over" if each["ratio"] > each["bar"] else ""
            line += [f"{each['ms']:.2f}", f"{each['ratio']:.2f}{over}"]
        lines.append(line)
    header = ["balance"]
    for terms in args.terms:
        header += [f"T = {terms}: ms", f"÷ sum (bar {1 + 0.6 * terms:.1f})"]
    print(aligned(header, lines, range(1, len(header))))
    if not args.quick:
        out = args.out or RESULTS / "balances_cost.json"
        write(out, {**origin(), "batch": BATCH, "rounds": args.rounds, "cells": cells})


# -- results -----------------------------------------------------------------------------------


def results(args: argparse.Namespace) -> None:
    """Run what is missing, and print the differences to the sum."""
    settings = known({
        name: Setting(training={"balance": {"kind": name}}) for name in args.balances
    })  # fmt: skip
    kept = Kept(args.out or RESULTS / "balances.json", {"budget": "defaults"})
    failed: list[str] = []
    if not args.show:
        paths = {"kuairand": args.kuairand}
        jobs = [
            Job(log=log, line=line, seed=seed, rows=args.rows, path=paths.get(log), setting=each)
            for seed in range(1, args.seeds + 1)
            for log in present(args.sets, paths)
            for line, each in settings.items()
        ]
        failed = finish(kept, kept.missing(jobs), args.workers)
    for log in args.sets:
        show(log, kept, args)
    if failed:
        sys.exit("\n" + "\n".join(failed))


def show(log: str, kept: Kept, args: argparse.Namespace) -> None:
    """Print one log's tables."""
    runs: dict[str, dict[int, Any]] = {
        line: {
            seed: run
            for seed in range(1, args.seeds + 1)
            if (run := kept.runs.get(f"{log} | {line} | {seed}"))
        }
        for line in args.balances
    }
    if not runs[SUM]:
        return
    some = next(iter(runs[SUM].values()))
    for score, figures in some["test"].items():
        metric = next((each for each in (*METRICS, "rmse") if each in figures), None)
        if metric is None:
            continue
        lines = []
        for line, by_seed in runs.items():
            both = sorted(by_seed.keys() & runs[SUM].keys())
            if not both:
                continue
            own, base = (
                [each[seed]["test"][score][metric] for seed in both]
                for each in (by_seed, runs[SUM])
            )
            lines.append([line, spread(own), "" if line == SUM else shown(base, own)])
        print(f"\n{aligned([f'{log}: {score}', f'test {metric}', 'against sum'], lines, (1, 2))}")
    compared = [run["cosines"] for run in runs[SUM].values() if run.get("cosines")]
    for pair in compared[0] if compared else ():
        values = [each[pair] for each in compared if pair in each]
        print(f"{log}: mean cosine {pair}: {mean(values):+.3f}", flush=True)


def main() -> None:
    """Measure what was asked for."""
    args = options()
    {"cost": cost, "results": results}[args.what](args)


if __name__ == "__main__":
    main()
