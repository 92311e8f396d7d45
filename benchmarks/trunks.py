"""Trunks and interactions beside the default: parameters, speed, and quality by seeds.

Every registered trunk and interaction, with its defaults, takes the place of the default's own; all
else is the library's defaults. Figures are of test rows, and differences to the default are paired
over seeds, with the 95 % interval of Student's t and a star where it excludes 0. Speed is of the
part behind the cut at x, forward and backward of one batch of 1,024 rows on one thread.

Then target attention beside mean pooling, on a generated log whose truth is whether the history
has an item of the candidate's group: the error of P(click) against the true probability.

Writes results/trunks.json after each run, and resumes from it; the second part writes
results/trunks-match.json at its end.

    python benchmarks/trunks.py [--seeds 5] [--sets census kuairand] [--kuairand FILE] [--show]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from parts.logs import LOGS, AbsentLogError
from parts.record import RESULTS, origin, write
from parts.runs import Job, Kept, finish, present
from parts.seeds import difference, shown, spread
from parts.settings import AS_IT_IS, Setting
from parts.trials import Log, log_of

import polyrank as pr
from polyrank.metrics.binary import soft_auc
from polyrank.models.model import INTERACTIONS, TRUNKS
from polyrank.text import aligned

DEFAULT = "default"
BATCH_ROWS, TIMED_STEPS = 1024, 40
METRICS = ("auc", "rmse")
# The generated log: groups of items, of which a user likes a few.
GROUPS, GROUP_ITEMS, LIKED, HISTORY = 20, 10, 4, 16


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sets", nargs="*", choices=[*LOGS], default=["census", "kuairand"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--rows", type=int, help="training rows of a generated log")
    parser.add_argument("--lines", nargs="+", help="run and show only these and the default")
    parser.add_argument("--again", nargs="+", default=[], help="lines to run anew: code changed")
    parser.add_argument("--kuairand", type=Path, help="the sample's file")
    parser.add_argument("--match-rows", type=int, default=200_000, help="0 leaves the match out")
    parser.add_argument("--ways", nargs="+", default=["mean", "sum", "last", "target"])
    parser.add_argument("--epochs", type=int, help="instead of the default number, to try it out")
    parser.add_argument("--show", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "trunks.json")
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> dict[str, Setting]:
    """Return the lines by name; a trunk or an interaction is named by its kind."""
    own = pr.Model().to_table()
    found = {DEFAULT: AS_IT_IS}
    found |= {
        f"trunk {kind}": Setting(model={"trunk": {"kind": kind}})
        for kind in TRUNKS
        if kind != own["trunk"]["kind"]
    }
    found["interaction none"] = Setting(model={"interaction": False})
    found |= {
        f"interaction {kind}": Setting(model={"interaction": {"kind": kind}})
        for kind in INTERACTIONS
        if kind != own["interaction"]["kind"]
    }
    found |= {
        f"interaction {kind}, parallel": Setting(
            model={"interaction": {"kind": kind, "structure": "parallel", "hidden": [64]}}
        )
        for kind in ("dcnv2", "gdcn")
    }
    if args.lines:
        found = {name: each for name, each in found.items() if name in (DEFAULT, *args.lines)}
    budget = Setting(training={} if args.epochs is None else {"epochs": args.epochs})
    return {name: each.but(budget) for name, each in found.items()}


def cost(log: Log, setting: Setting) -> tuple[int, float]:
    """Return the parameters behind the cut at x, and the milliseconds of a batch through them."""
    model, _ = setting.built()
    torch.manual_seed(0)
    ranker = model.build(model.layout(log.schema, log.vocab)).train()
    x = torch.randn(BATCH_ROWS, ranker.layout.width, requires_grad=True)
    margin = None if ranker.first is None else torch.zeros(BATCH_ROWS, len(ranker.first.heads))
    times = []
    for _ in range(TIMED_STEPS):
        started = perf_counter()
        logits = ranker(x, margin).logits
        torch.stack([each.square().mean() for each in logits.values()]).sum().backward()
        times.append(perf_counter() - started)
    return sum(each.numel() for each in ranker.dense_parameters()), 1000 * median(times[5:])


def costs(name: str, log: Log, lines: Mapping[str, Setting]) -> str:
    """Return the table of parameters and speed on a log's layout."""
    rows = []
    for line, setting in lines.items():
        parameters, ms = cost(log, setting)
        rows.append([line, f"{parameters:,}", f"{ms:.2f}"])
    return aligned([f"{name}: cost", "parameters", "ms a batch"], rows, (1, 2))


def quality(name: str, kept: Kept, lines: Mapping[str, Setting], seeds: int) -> list[str]:
    """Return a table a score: mean over seeds, and the difference to the default."""
    runs = {
        line: {
            seed: run["test"]
            for seed in range(1, seeds + 1)
            if (run := kept.runs.get(f"{name} | {line} | {seed}"))
        }
        for line in lines
    }
    if not runs[DEFAULT]:
        return []
    tables = []
    for score, figures in next(iter(runs[DEFAULT].values())).items():
        metric = next((each for each in METRICS if each in figures), None)
        if metric is None:
            continue
        rows = []
        for line, found in runs.items():
            both = sorted(found.keys() & runs[DEFAULT].keys())
            if not both:
                continue
            own, base = ([each[seed][score][metric] for seed in both]
                         for each in (found, runs[DEFAULT]))  # fmt: skip
            rows.append([line, spread(own), "" if line == DEFAULT else shown(base, own)])
        tables.append(aligned([f"{name}: {score}", f"test {metric}", "− default"], rows, (1, 2)))
    return tables


def match_log(rows: int, seed: int) -> dict[str, Any]:
    """Return a log whose truth is the match of history and item, with the true P(click).

    A history is 16 items of the user's four groups; the item is of one of them every other time. P
    is .3 + .5 q where the history has an item of the item's group, of quality q, else .1 + .1 q. No
    column says the groups.
    """
    random = np.random.default_rng(seed)
    quality = np.random.default_rng(GROUPS).random(GROUPS)
    liked = random.integers(0, GROUPS, (rows, LIKED))
    of_place = liked[np.arange(rows)[:, None], random.integers(0, LIKED, (rows, HISTORY))]
    history = of_place * GROUP_ITEMS + random.integers(0, GROUP_ITEMS, (rows, HISTORY))
    near = liked[np.arange(rows), random.integers(0, LIKED, rows)]
    group = np.where(random.random(rows) < 0.5, near, random.integers(0, GROUPS, rows))
    match = (of_place == group[:, None]).any(axis=1)
    p = np.where(match, 0.3 + 0.5 * quality[group], 0.1 + 0.1 * quality[group])
    return {
        "item": group * GROUP_ITEMS + random.integers(0, GROUP_ITEMS, rows),
        "history": history,
        "click": (random.random(rows) < p).astype(int),
        "true_p_click": p,
    }


def pooled(pooling: str, rows: int, seed: int, epochs: int | None) -> dict[str, float]:
    """Return the figures of one way of pooling against the true probabilities of test rows."""
    sizes = {"train": rows, "valid": max(rows // 8, 500), "test": max(rows // 4, 1000)}
    parts = {name: match_log(size, 3 * seed + at) for at, (name, size) in enumerate(sizes.items())}
    how: Any = pr.Target(query="item") if pooling == "target" else pooling
    history = pr.SequenceFeature("history", shared_with="item", pooling=how, max_length=HISTORY)
    schema = pr.Schema([pr.SparseFeature("item"), history], [pr.Task("click")])
    started = perf_counter()
    bundle = pr.fit(
        schema, pr.Model(), train=parts["train"], valid=parts["valid"], seed=seed,
        **({} if epochs is None else {"epochs": epochs}),
    )  # fmt: skip
    seconds = perf_counter() - started
    truth = parts["test"]["true_p_click"]
    found = bundle.predict(parts["test"])["p_click"].to_numpy()
    return {
        "mae": float(np.abs(found - truth).mean()),
        "auc": float(soft_auc(truth, found)),
        "oracle": float(soft_auc(truth, truth)),
        "seconds": seconds,
    }


def matches(args: argparse.Namespace) -> str:
    """Return the table of ways of pooling, seed by seed."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in args.ways}
    for seed in range(1, args.seeds + 1):
        for way, runs in found.items():
            runs.append(pooled(way, args.match_rows, seed, args.epochs))
            print(f"match, seed {seed}, {way}: soft auc {runs[-1]['auc']:.4f}", flush=True)
    write(args.out.with_stem(f"{args.out.stem}-match"), {**origin(), "runs": found})
    rows = []
    for way, runs in found.items():
        cells = [way, *(spread([run[name] for run in runs]) for name in ("mae", "auc"))]
        pair = [[run["auc"] for run in each] for each in (found["mean"], runs)]
        middle, half = difference(*pair)
        cells.append("" if way == "mean" else f"{middle:+.4f} ± {half:.4f}")
        rows.append([*cells, f"{mean(run['seconds'] for run in runs):.0f}"])
    oracle = mean(run["oracle"] for run in found["mean"])
    header = ["history and item match", "mae of p", "soft auc", "− mean pooling", "seconds"]
    table = aligned(header, rows, (1, 2, 3, 4))
    return f"{table}\nthe true probabilities have a soft auc of {oracle:.4f}"


def main() -> None:
    """Run what is missing, and print the tables."""
    args = options()
    torch.set_num_threads(1)
    lines, kept = settings_of(args), Kept(args.out, {})
    paths = {"kuairand": args.kuairand}
    sets, failed = present(args.sets, paths), []
    if not args.show:
        jobs = [
            Job(log=name, line=line, seed=seed, rows=args.rows, path=paths.get(name), setting=each)
            for seed in range(1, args.seeds + 1)
            for name in sets
            for line, each in lines.items()
        ]
        failed = finish(kept, kept.missing(jobs, args.again), args.workers)
    for name in sets:
        try:
            log = log_of(name, 1, args.rows, path=paths.get(name))
        except AbsentLogError as error:
            print(error)
            continue
        print(f"\n{costs(name, log, lines)}", flush=True)
        for table in quality(name, kept, lines, args.seeds):
            print(f"\n{table}", flush=True)
    if args.match_rows and not args.show:
        print(f"\n{matches(args)}")
    if failed:
        sys.exit("\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
