"""Which defaults a first model should have: lr, l2 and initial deviation of embeddings, dropout.

Every setting is tried with MMoE and with separate towers on four logs (ids alone, the synthetic
log, Census-Income, MovieLens 100K) and judged by the validation loss of the kept epoch; everything
else has its default. A setting's regret on a log is its loss relative to the best found there; the
mean over logs, trunks and seeds ranks the settings. Coordinates are searched one after the other,
each from the best of those before it, and one moves only where that gains more than a seed's noise.
No test row is read. Writes results/defaults.json after each trial, and resumes from it.

    python benchmarks/defaults.py [--seeds 1] [--rows 240000]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from parts.record import RESULTS, origin, write
from parts.trials import Log, log_of, trial

import polyrank as pr
from polyrank.nn import embed
from polyrank.text import aligned
from polyrank.train.training import Training

LOGS = ("ids", "synthetic", "census", "movielens_100k")
TRUNKS = {"mmoe": pr.MMoE(), "separate": pr.Separate()}
TUNING_SEED = 1001
START = {"lr": 1e-3, "l2": 0.0, "deviation": 0.01, "dropout": 0.0}
# The order of the search: what matters most first.
GRID: Mapping[str, tuple[float, ...]] = {
    "l2": (0.0, 1e-6, 1e-5, 1e-4, 1e-3),
    "lr": (3e-4, 1e-3, 3e-3),
    "deviation": (1e-4, 1e-3, 0.01, 0.05),
    "dropout": (0.0, 0.1, 0.3),
}
LEAST_GAIN = 0.001  # of mean regret
AGAIN = ("l2",)  # what depends most on the others is searched once more


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=240_000, help="of a generated log, in training")
    parser.add_argument("--out", type=Path, default=RESULTS / "defaults.json")
    return parser.parse_args()


class Search:
    """Trials by setting, kept in a file."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.seeds = [TUNING_SEED + each for each in range(args.seeds)]
        self.trials: dict[str, dict[str, Any]] = {}
        if args.out.is_file():
            self.trials = json.loads(args.out.read_text(encoding="utf-8"))["trials"]
        self.logs: dict[tuple[str, int], Log] = {}

    def losses(self, setting: Mapping[str, float]) -> dict[str, float]:
        """Return the validation loss of a setting by log, trunk and seed."""
        return {
            f"{name} {trunk} {seed}": self.loss(name, trunk, seed, setting)
            for name in LOGS
            for trunk in TRUNKS
            for seed in self.seeds
        }

    def loss(self, name: str, trunk: str, seed: int, setting: Mapping[str, float]) -> float:
        """Return one trial's validation loss, from the file if it was run before."""
        key = f"{name} {trunk} {seed} {json.dumps(setting)}"
        if key not in self.trials:
            if (name, seed) not in self.logs:
                self.logs[name, seed] = log_of(name, seed, self.args.rows)
            model = pr.Model(trunk=TRUNKS[trunk], dropout=setting["dropout"])
            rows = pr.LazyAdam(lr=setting["lr"], l2=setting["l2"])
            embed.INITIAL_STD = setting["deviation"]
            training = Training(lr=setting["lr"], embeddings=rows)
            self.trials[key] = trial(self.logs[name, seed], model, training, seed)
            write(self.args.out, {**origin(), "start": START, "grid": GRID, "trials": self.trials})
        return self.trials[key]["valid loss"]


def main() -> None:
    """Search, and print each coordinate's table and the chosen settings."""
    search = Search(options())
    torch.set_num_threads(1)
    setting = dict(START)
    for name in (*GRID, *AGAIN):
        tried = {value: search.losses({**setting, name: value}) for value in GRID[name]}
        cells = list(next(iter(tried.values())))
        best = {cell: min(losses[cell] for losses in tried.values()) for cell in cells}
        regrets = {
            value: {cell: losses[cell] / best[cell] - 1 for cell in cells}
            for value, losses in tried.items()
        }
        chosen = min(regrets, key=lambda value: mean(regrets[value].values()))
        gain = mean(regrets[setting[name]].values()) - mean(regrets[chosen].values())
        chosen = chosen if gain > LEAST_GAIN else setting[name]
        groups = [(log, trunk) for log in LOGS for trunk in TRUNKS]
        lines = [
            [f"{value:g}" + " *" * (value == chosen), f"{mean(found.values()):.3%}"]
            + [
                f"{mean(v for cell, v in found.items() if cell.startswith(f'{log} {trunk} ')):.2%}"
                for log, trunk in groups
            ]
            for value, found in regrets.items()
        ]
        header = [name, "mean regret", *(f"{log} {trunk}" for log, trunk in groups)]
        print(f"\nfrom {setting}")
        print(aligned(header, lines, range(1, len(header))), flush=True)
        setting[name] = chosen
    print(f"\nchosen: {setting}")


if __name__ == "__main__":
    main()
