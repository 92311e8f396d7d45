"""The defaults, and every trunk with them, beside the strongest baseline, on every log.

Baselines learn one score at a time: logistic regression, a factorisation machine and LightGBM, each
also "by product" (P(buy) = P(click)·P(buy|click) from two models), tuned on validation rows. For
each score the strongest of them is the one that is best on validation rows; every line is compared
with it by the paired difference over seeds, with the 95 % interval of Student's t. A line is
"below" where it is worse by more than .001 and the interval excludes 0, "above" where it is better
and the interval excludes 0, else "equal".

Beside the defaults there are the former ones, pinned; the defaults with each other trunk; and by
name the variants of variants.toml: the defaults without one thing, or with another one. `--grid`
adds every trunk × space × balance. On generated logs, new for each seed, figures are against the
true probabilities of 200,000 test rows, and the oracle has a line of its own.

Writes results/quality.json after each run and resumes from it: a run is done again where its
settings differ from those it was done with, or where `--again` names its line. Seeds are the outer
loop, so the file is always nearly balanced.

    python benchmarks/quality.py [--seeds 5] [--sets ids census] [--lines defaults] [--show]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from pathlib import Path
from statistics import mean
from typing import Any

from parts.baselines import BASELINES, BY_PRODUCT
from parts.logs import LOGS, USUAL
from parts.record import RESULTS
from parts.runs import ORACLE, Job, Kept, finish, known, present
from parts.seeds import difference, spread
from parts.settings import AS_IT_IS, FORMER, Setting, read_settings

import polyrank as pr
from polyrank.balance import BALANCES
from polyrank.models.model import TRUNKS
from polyrank.text import aligned

DEFAULTS, FORMERLY = "defaults", "former defaults"
VARIANTS = Path(__file__).with_name("variants.toml")
LEAST = 0.001  # by which a line must be worse to be called so
# Metrics that compare, by preference, and whether more is better.
METRICS = {"auc": 1, "rmse": -1}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sets", nargs="+", choices=[*LOGS], default=[*USUAL])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--rows", type=int, help="training rows of a generated log")
    parser.add_argument("--lines", nargs="+", help="run and show only these lines and baselines")
    parser.add_argument(
        "--baselines", nargs="+", choices=[*BASELINES], default=[*BASELINES], help="to beat"
    )
    parser.add_argument("--variants", nargs="*", default=[], help="of variants.toml; 'every'")
    parser.add_argument("--grid", action="store_true", help="every trunk × space × balance")
    parser.add_argument("--again", nargs="+", default=[], help="lines to run anew: code changed")
    parser.add_argument("--kuairand", type=Path, help="the sample's file")
    parser.add_argument("--coat", type=Path, help="the folder of the Coat ratings")
    parser.add_argument("--show", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality.json")
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> dict[str, Setting]:
    """Return the lines that are trained, by name."""
    trunk = pr.Model().to_table()["trunk"]["kind"]
    found = {FORMERLY: FORMER, DEFAULTS: AS_IT_IS}
    found |= {
        f"{DEFAULTS}, {name}": Setting(model={"trunk": {"kind": name}})
        for name in TRUNKS
        if name != trunk
    }
    if args.variants:
        only = None if args.variants == ["every"] else args.variants
        found |= read_settings(VARIANTS, only)
    if args.grid:
        found |= grid()
    if args.lines:
        found = {name: each for name, each in found.items() if name in args.lines}
    return found


def grid() -> dict[str, Setting]:
    """Return every trunk × space of conditional events × balance."""
    balances: dict[str, Any] = {name: {"kind": name} for name in BALANCES}
    balances["sum, plain"] = {"kind": "sum", "normalize": False}
    return {
        f"{trunk} · {space} · {name}": Setting(
            {"trunk": {"kind": trunk}}, {"balance": balance}, {"task": {"space": space}}
        )
        for trunk in TRUNKS
        for space in ("all", "parent")
        for name, balance in balances.items()
    }


def jobs_of(args: argparse.Namespace, sets: Sequence[str], lines: Mapping[str, Setting]) -> list:
    """Return the runs, seed by seed and log by log."""
    paths = {"kuairand": args.kuairand, "coat": args.coat}
    found = []
    for seed in range(1, args.seeds + 1):
        for name in sets:
            here = {"log": name, "seed": seed, "rows": args.rows, "path": paths.get(name)}
            if LOGS[name].generated:
                found.append(Job(line=ORACLE, **here))
            found += [
                Job(line=line, **here)
                for line, each in BASELINES.items()
                if line in args.baselines and (seed == 1 or each.random or LOGS[name].generated)
            ]
            found += [Job(line=line, setting=each, **here) for line, each in lines.items()]
    return found


@dataclass(frozen=True)
class Results:
    """Figures of one log: {line: {seed: {split: {score: {metric: value}}}}}."""

    name: str
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]]

    @classmethod
    def of(cls, kept: Kept, name: str, lines: Sequence[str], seeds: int) -> Results:
        """Read a log's lines; one fit serves all seeds where neither rows nor fit depend on it."""
        found: dict[str, Mapping[int, Mapping[str, Any]]] = {}
        for line in (ORACLE, *BASELINES, *lines):
            once = line in BASELINES and not BASELINES[line].random and not LOGS[name].generated
            runs = {
                seed: run
                for seed in range(1, seeds + 1)
                if (run := kept.runs.get(f"{name} | {line} | {1 if once else seed}"))
            }
            if runs:
                found[line] = runs
            products = {seed: {**run, **run["by product"]} for seed, run in runs.items()
                        if "by product" in run}  # fmt: skip
            if products:
                found[line + BY_PRODUCT] = products
        return cls(name, found)

    @property
    def baselines(self) -> list[str]:
        """The lines to beat."""
        return [line for line in self.runs if line.removesuffix(BY_PRODUCT) in BASELINES]

    @property
    def scores(self) -> list[tuple[str, str]]:
        """Each score and the metric that compares it."""
        some = next(iter(next(iter(self.runs.values())).values()))["test"]
        return [
            (score, next(metric for metric in METRICS if metric in figures))
            for score, figures in some.items()
            if figures.keys() & METRICS.keys()
        ]

    def values(self, line: str, split: str, score: str, metric: str) -> dict[int, float]:
        """Return a figure by seed, where it is known."""
        return {
            seed: run[split][score][metric]
            for seed, run in self.runs[line].items()
            if metric in run[split].get(score, {})
        }

    def strongest(self, score: str, metric: str) -> str | None:
        """Return the baseline that is best on validation rows; a product only for its own score."""
        found = {}
        for line in self.baselines:
            plain = line.removesuffix(BY_PRODUCT)
            values = self.values(line, "valid", score, metric)
            own = self.values(plain, "valid", score, metric)
            if values and (line == plain or values != own):
                found[line] = METRICS[metric] * mean(values.values())
        return max(found, key=found.__getitem__) if found else None

    def gain(self, line: str, against: str, score: str, metric: str) -> tuple[float, float] | None:
        """Return how much better a line is than another on test rows, and the half-width."""
        one, other = (self.values(each, "test", score, metric) for each in (against, line))
        both = sorted(one.keys() & other.keys())
        if not both:
            return None
        middle, half = difference([one[seed] for seed in both], [other[seed] for seed in both])
        return METRICS[metric] * middle, half


def verdict(gain: float, half: float) -> str:
    """Return "below", "equal" or "above"; a question mark where one seed has no interval."""
    if isinf(half):
        return "?"
    if abs(gain) <= half:
        return "equal"
    if gain > 0:
        return "above"
    return "below" if gain < -LEAST else "equal"


def table(found: Results, score: str, metric: str) -> str:
    """Return one score's table."""
    against = found.strongest(score, metric)
    lines = []
    for line in found.runs:
        values = found.values(line, "test", score, metric)
        plain = line.removesuffix(BY_PRODUCT)
        if not values or (line != plain and values == found.values(plain, "test", score, metric)):
            continue
        cells = [line, spread([*values.values()])]
        gain = None if against is None else found.gain(line, against, score, metric)
        if line == against:
            cells += ["baseline", ""]
        elif gain is None or line == ORACLE:
            cells += ["" if gain is None else f"{gain[0]:+.4f}", ""]
        else:
            half = "" if isinf(gain[1]) else f" ± {gain[1]:.4f}"
            cells += [f"{gain[0]:+.4f}{half}", verdict(*gain)]
        valid = found.values(line, "valid", score, metric)
        cells.append(f"{mean(valid.values()):.4f}" if valid else "")
        for other in ("loss", "pcoc"):
            figures = found.values(line, "test", score, other)
            cells.append(f"{mean(figures.values()):.4f}" if figures else "")
        lines.append(cells)
    header = [f"{found.name}: {score}", f"test {metric}", "better by", "", "valid",
              "norm. loss", "pcoc"]  # fmt: skip
    return aligned(header, lines, (1, 2, 4, 5, 6))


def costs(found: Results) -> str:
    """Return seconds, memory and the kept epoch of each line."""
    lines = []
    for line, runs in found.runs.items():
        if line == ORACLE or line.endswith(BY_PRODUCT):
            continue
        each = [*runs.values()]
        peaks = [run["peak_mib"] for run in each if run["peak_mib"] is not None]
        epochs = sorted(run["epoch"] for run in each if "epoch" in run)
        lines.append([
            line, str(len(each)), f"{mean(run['seconds'] for run in each):.0f}",
            str(max(peaks)) if peaks else "", " ".join(map(str, epochs)),
        ])  # fmt: skip
    header = [f"{found.name}: cost", "seeds", "seconds", "peak MiB", "kept epochs"]
    return aligned(header, lines, (1, 2, 3))


def summary(found: Sequence[Results], lines: Sequence[str]) -> str:
    """Return how many scores each line is above, equal and below on, and where it is below."""
    rows = []
    for line in lines:
        verdicts: dict[str, list[str]] = {"above": [], "equal": [], "below": [], "?": []}
        for log in found:
            for score, metric in log.scores:
                against = log.strongest(score, metric)
                if against is None or line not in log.runs:
                    continue
                gain = log.gain(line, against, score, metric)
                if gain is not None:
                    verdicts[verdict(*gain)].append(f"{log.name} {score} {gain[0]:+.4f}")
        if any(verdicts.values()):
            counts = [str(len(each)) for each in verdicts.values()]
            rows.append([line, *counts, "; ".join(verdicts["below"])])
    header = ["against the strongest baseline", "above", "equal", "below", "?", "below on"]
    return aligned(header, rows, (1, 2, 3, 4))


def main() -> None:
    """Run what is missing, and print the tables."""
    args = options()
    lines = known(settings_of(args))
    kept = Kept(args.out, {"budget": DEFAULTS})
    failed: list[str] = []
    if not args.show:
        jobs = jobs_of(args, present(args.sets, {"kuairand": args.kuairand, "coat": args.coat}),
                       lines)  # fmt: skip
        failed = finish(kept, kept.missing(jobs, args.again), args.workers)
    every = [Results.of(kept, name, [*lines], args.seeds) for name in args.sets]
    every = [found for found in every if found.runs]
    for found in every:
        for score, metric in found.scores:
            print(f"\n{table(found, score, metric)}")
        print(f"\n{costs(found)}", flush=True)
    print(f"\n{summary(every, [*lines])}")
    if failed:
        sys.exit("\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
