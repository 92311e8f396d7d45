"""Which one setting should be the default: candidates × logs, without the proof's test rows.

Each candidate of a TOML file is trained on every log with tuning seeds that quality.py never uses.
A generated log is new for each of these seeds, so its test rows, with their true probabilities, may
choose; of real logs only validation rows do, on which the epoch was chosen as well. Prints the mean
over heads of the normalised log loss (each head where its parent happened) and the mean AUC over
scores: the first candidate's value, then the others' differences from it in thousandths, with a
star where the 95 % interval over seeds excludes 0; then the mean, the least and the greatest over
logs.

Writes results/quality_tune.json after each run and resumes from it; a candidate whose settings
changed is run again.

    python benchmarks/quality_tune.py [candidates.toml] [--sets ids] [--only NAME …] [--scores]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from math import isinf
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any

from parts.logs import LOGS, USUAL
from parts.record import RESULTS
from parts.runs import Job, Kept, finish, known, present
from parts.seeds import difference
from parts.settings import read_settings

from polyrank.text import aligned

TUNING_SEED = 1001
CANDIDATES = Path(__file__).with_name("candidates.toml")
# What `figures_of` gives → one of them
Figure = Callable[[Any], float]


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("candidates", type=Path, nargs="?", default=CANDIDATES)
    parser.add_argument("--sets", nargs="+", choices=[*LOGS], default=[*USUAL])
    parser.add_argument("--only", nargs="+", help="these candidates; the first is compared with")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--rows", type=int, help="training rows of a generated log")
    parser.add_argument("--again", nargs="+", default=[], help="candidates to run anew")
    parser.add_argument("--kuairand", type=Path, help="the sample's file")
    parser.add_argument("--coat", type=Path, help="the folder of the Coat ratings")
    parser.add_argument("--scores", action="store_true", help="each score as well")
    parser.add_argument("--show", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality_tune.json")
    return parser.parse_args()


def figures_of(run: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return the scores of a split, and the means by which candidates are compared."""
    scores = run[split]
    return {
        "loss": mean(scores[name]["loss"] for name in run["heads"]),
        "auc": mean(each["auc"] for each in scores.values() if "auc" in each),
        "scores": scores,
    }


def matrix(runs: Mapping[str, Mapping[str, Mapping[int, Any]]], title: str, figure: Figure) -> str:
    """Return a line a candidate, a column a log.

    Args:
        runs: {log: {candidate: {seed: figures}}}.
        title: of the first column.
        figure: what to compare.
    """
    candidates = list(dict.fromkeys(name for each in runs.values() for name in each))
    lines = []
    for candidate in candidates:
        cells, gains = [candidate], []
        for of_log in runs.values():
            first = next(iter(of_log.values()), {})
            own = of_log.get(candidate, {})
            both = sorted(first.keys() & own.keys())
            if not both:
                cells.append("")
                continue
            one, other = ([figure(each[seed]) for seed in both] for each in (first, own))
            if own is first:
                cells.append(f"{mean(one):.4f}")
                continue
            middle, half = difference(one, other)
            gains.append(middle)
            star = "*" if not isinf(half) and abs(middle) > half else ""
            cells.append(f"{1000 * middle:+.2f}{star}")
        lines.append([*cells, *_overall(gains)])
    header = [title, *runs, "mean", "least", "most"]
    return aligned(header, lines, range(1, len(header)))


def _overall(gains: list[float]) -> Iterable[str]:
    if not gains:
        return ("", "", "")
    return (f"{1000 * each:+.2f}" for each in (mean(gains), min(gains), max(gains)))


def print_scores(name: str, runs: Mapping[str, Mapping[int, Any]], metric: str) -> None:
    """Print a log's matrix: a column a score; nothing where no score has the metric."""
    columns: dict[str, dict[str, dict[int, float]]] = {}
    for line, of_line in runs.items():
        for seed, run in of_line.items():
            for score, figures in run["scores"].items():
                if metric in figures:
                    columns.setdefault(score, {}).setdefault(line, {})[seed] = figures[metric]
    if columns:
        print(f"\n{matrix(columns, f'{name}: {metric}', float)}")


def main() -> None:
    """Run what is missing, and print the matrices."""
    args = options()
    settings = known(read_settings(args.candidates, args.only))
    paths = {"kuairand": args.kuairand, "coat": args.coat}
    seeds = [TUNING_SEED + each for each in range(args.seeds)]
    kept = Kept(args.out, {"tuning": True})
    sets = present(args.sets, paths)
    # A log's candidates follow each other, so that a process reads and encodes it once.
    jobs = [
        Job(name, line, seed, args.rows, paths.get(name), setting)
        for seed in seeds
        for name in sets
        for line, setting in settings.items()
    ]
    failed = [] if args.show else finish(kept, kept.missing(jobs, args.again), args.workers)
    runs: dict[str, dict[str, dict[int, Any]]] = {name: {} for name in sets}
    for job in jobs:
        if found := kept.runs.get(job.key):
            split = "test" if LOGS[job.log].generated else "valid"
            runs[job.log].setdefault(job.line, {})[job.seed] = figures_of(found, split)
    runs = {name: each for name, each in runs.items() if each}
    print(f"\n{matrix(runs, 'mean normalised log loss', itemgetter('loss'))}")
    print(f"\n{matrix(runs, 'mean AUC', itemgetter('auc'))}")
    for name, each in runs.items() if args.scores else ():
        for metric in ("loss", "auc", "rmse"):
            print_scores(name, each, metric)
    if failed:
        sys.exit("\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
