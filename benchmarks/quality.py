"""Every trunk × space × balance with one budget, beside logistic regression and LightGBM.

Five logs: sparse ids alone, fields of few values alone, and the synthetic log, new for every seed;
Census-Income; MovieLens 100K. The budget is the default `Training(epochs=…)` and `Model(trunk=…)`,
with 3 epochs of a generated log and 5 of the others; within each run the epoch is chosen by
validation loss, and nothing else is chosen. The baselines learn each score separately (a joint
label directly): logistic regression on the same encoded ids and numbers with its penalty, and
LightGBM with its number of trees, chosen on validation rows. Each cell is compared with the
stronger of the two on validation, by the paired difference over seeds with its 95 % interval
(Student's t). Writes results/quality.json after each run and resumes from it; seeds are the outer
loop, so the file is always balanced.

    python benchmarks/quality.py [--seeds 5] [--sets census] [--show]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from parts.baselines import baseline, lightgbm, logistic
from parts.record import RESULTS, origin, write
from parts.seeds import shown, spread
from parts.trials import Log, log_of, trial

import polyrank as pr
from polyrank.balance import Balance
from polyrank.models.model import TRUNKS
from polyrank.text import aligned
from polyrank.train.training import Training

BALANCES: dict[str, Balance] = {
    "sum": pr.Sum(),
    "sum, plain": pr.Sum(normalize=False),
    "uncertainty": pr.Uncertainty(),
    "gradnorm": pr.GradNorm(),
    "metabalance": pr.MetaBalance(),
}
# Spaces of the conditional task, and balances; ids alone are there for the trunks.
SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ids": (("all", "click"), ("sum",)),
    "fields": (("all", "click"), ("sum",)),
    "synthetic": (("all", "click"), tuple(BALANCES)),
    "census": (("all",), tuple(BALANCES)),
    "movielens_100k": (("all",), tuple(BALANCES)),
}
FIGURES = {
    "ids": ("click @ all auc", "buy @ all auc", "buy|click @ click auc"),
    "fields": ("click @ all auc", "buy @ all auc", "buy|click @ click auc"),
    "synthetic": ("click @ all auc", "buy @ all auc", "buy|click @ click auc"),
    "census": ("income @ all auc", "never_married @ all auc"),
    "movielens_100k": ("like @ all auc", "rating @ all rmse"),
}
GENERATED = ("ids", "fields", "synthetic")  # a new log for every seed
EPOCHS = {"ids": 3, "fields": 3, "synthetic": 3, "census": 5, "movielens_100k": 5}
# Chooses the best cell of a trunk, on validation rows.
PRIMARY = {
    "ids": "buy @ all auc", "fields": "buy @ all auc", "synthetic": "buy @ all auc",
    "census": "income @ all auc", "movielens_100k": "like @ all auc",
}  # fmt: skip
BASELINES = {"logistic regression": logistic, "LightGBM": lightgbm}


class Cell(NamedTuple):
    """One configuration: a trunk, the space of conditional tasks, and a balance."""

    trunk: str
    space: str
    balance: str


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=300_000, help="of a generated log")
    parser.add_argument("--show", action="store_true", help="print what is there, train nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality.json")
    return parser.parse_args()


def cells(name: str) -> list[Cell]:
    """Return the cells of a data set."""
    spaces, balances = SETS[name]
    return [
        Cell(trunk, space, balance) for trunk in TRUNKS for space in spaces for balance in balances
    ]


def measured(name: str, seed: int, args: argparse.Namespace, runs: dict) -> Iterator[str]:
    """Run what a data set and a seed still lack; yield each key when it is done."""
    log: Log | None = None
    wanted = [*BASELINES, *(" · ".join(cell) for cell in cells(name))]
    by_key = {" · ".join(cell): cell for cell in cells(name)}
    for what in wanted:
        key = f"{name} | {what} | {seed}"
        if key in runs:
            continue
        first = f"{name} | {what} | 1"
        if what == "logistic regression" and name not in GENERATED and first in runs:
            runs[key] = runs[first]  # the same rows and no random number: the same fit
            yield key
            continue
        log = log_of(name, seed, args.rows) if log is None else log
        if what in BASELINES:
            runs[key] = baseline(log, BASELINES[what], seed)
        else:
            cell = by_key[what]
            training = Training(epochs=EPOCHS[name], balance=BALANCES[cell.balance])
            model = pr.Model(trunk=TRUNKS[cell.trunk]())
            runs[key] = trial(log.supervised(cell.space), model, training, seed)
        yield key


def over_seeds(runs: dict, name: str, what: str, seeds: int) -> list[dict[str, Any]]:
    """Return the runs of one line of the table, seed by seed."""
    return [runs[f"{name} | {what} | {seed}"] for seed in range(1, seeds + 1)]


def strongest(runs: dict, name: str, figure: str, seeds: int) -> str:
    """Return the baseline that is better on validation rows."""
    sign = -1 if figure.endswith("rmse") else 1
    return max(
        BASELINES,
        key=lambda each: sign * mean(run[f"valid {figure}"]
                                     for run in over_seeds(runs, name, each, seeds)),
    )  # fmt: skip


def chosen(runs: dict, name: str, seeds: int) -> list[str]:
    """Return the baselines, and for each trunk the cell that is best on validation rows."""
    figure = PRIMARY[name]
    found: dict[str, tuple[float, str]] = {}
    for cell in cells(name):
        what = " · ".join(cell)
        value = mean(run[f"valid {figure}"] for run in over_seeds(runs, name, what, seeds))
        found[cell.trunk] = max(found.get(cell.trunk, (0.0, "")), (value, what))
    return [*BASELINES, *(what for _, what in found.values())]


def table(runs: dict, name: str, seeds: int, lines_of: list[str]) -> str:
    """Return a data set's table: one line per baseline or cell."""
    lines = []
    against = {figure: strongest(runs, name, figure, seeds) for figure in FIGURES[name]}
    for what in lines_of:
        found = over_seeds(runs, name, what, seeds)
        line = [what]
        for figure in FIGURES[name]:
            values = [run[f"test {figure}"] for run in found]
            line.append(spread(values))
            if what == against[figure]:
                line.append("baseline")
                continue
            base = [run[f"test {figure}"]
                    for run in over_seeds(runs, name, against[figure], seeds)]  # fmt: skip
            line.append(shown(base, values))
        lines.append([*line, f"{mean(run['seconds'] for run in found):.0f}"])
    header = ["trunk · space · balance"]
    for figure in FIGURES[name]:
        header += [figure, "difference"]
    header.append("seconds")
    return aligned(header, lines, range(1, len(header)))


def main() -> None:
    """Run what is missing, print the tables and save the figures."""
    args = options()
    torch.set_num_threads(1)
    runs: dict[str, Any] = {}
    if args.out.is_file():
        runs = json.loads(args.out.read_text(encoding="utf-8"))["runs"]
    for seed in range(1, args.seeds + 1) if not args.show else ():
        for name in args.sets:
            for key in measured(name, seed, args, runs):
                print(f"{key}: {runs[key]['seconds']:.0f} s", flush=True)
                budget = {
                    "training": Training().to_table(), "model": pr.Model().to_table(),
                    "rows": args.rows, "epochs": EPOCHS,
                }  # fmt: skip
                about = origin("scikit-learn", "lightgbm")
                write(args.out, {**about, "budget": budget, "runs": runs})
    for name in args.sets:
        every = [*BASELINES, *(" · ".join(cell) for cell in cells(name))]
        print(f"\n{name}\n{table(runs, name, args.seeds, every)}")
        best = chosen(runs, name, args.seeds)
        print(f"\n{name}, the best cell of each trunk by validation {PRIMARY[name]}")
        print(table(runs, name, args.seeds, best), flush=True)


if __name__ == "__main__":
    main()
