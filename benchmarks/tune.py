"""`tune` against the defaults: what a search of so many trials gains on test rows.

Each log is an experiment with the library's defaults; the search sees training and validation rows
alone. Its winner, and the file as it is, are trained with the same seeds, and their test scores are
compared seed by seed (95 % intervals, Student's t). Each score is shown by its kind's first metric.
"above" and "below" say that an interval excludes 0.

Searches lie in --work and go on where they were interrupted; results/tune.json is written after
each log. For a generated log, --rows is that of training.

    python benchmarks/tune.py [--sets ids census] [--trials 30] [--finalists 3] [--seeds 5]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from parts.logs import LOGS, AbsentLogError, raw_log
from parts.record import RESULTS, origin, write

from polyrank.config import Data, Experiment
from polyrank.labels import LABELS
from polyrank.metrics.registry import direction
from polyrank.text import aligned
from polyrank.train.training import Training
from polyrank.tune.spec import Tune
from polyrank.tune.tuned import AS_GIVEN, Trial, Tuned

SETS = ("synthetic", "census", "kuairand", "movielens_100k", "coat")
LOG_SEED = 2001  # of generated logs: no other benchmark has it


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sets", nargs="+", choices=[*LOGS], default=[*SETS])
    parser.add_argument("--rows", type=int, help="training rows of a generated log")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--finalists", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="instead of the default's")
    parser.add_argument("--kuairand", type=Path, help="the sample's file")
    parser.add_argument("--coat", type=Path, help="the folder of the Coat ratings")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "polyrank-tune")
    parser.add_argument("--out", type=Path, default=RESULTS / "tune.json")
    return parser.parse_args()


def experiment(name: str, folder: Path, args: argparse.Namespace) -> Experiment:
    """Return a log's experiment with defaults, its rows written beside it."""
    path = {"kuairand": args.kuairand, "coat": args.coat}.get(name)
    raw = raw_log(name, LOG_SEED, args.rows, path)
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: folder / f"{split}.parquet" for split in raw.frames}
    for split, frame in raw.frames.items():
        if not files[split].exists():
            frame.write_parquet(files[split])
    tuning = Tune(trials=args.trials, finalists=args.finalists, seeds=args.seeds)
    training = Training() if args.epochs is None else Training(epochs=args.epochs)
    data = Data(**{split: str(file) for split, file in files.items()})
    return Experiment(
        schema=raw.schema, data=data, training=training, name=name, seed=1, tuning=tuning
    )


def measured(found: Tuned, seconds: float) -> dict[str, Any]:
    """Return what is kept of a search."""
    kinds = {score.name: score.kind for score in next(iter(found.scores[AS_GIVEN].cards.values()))}
    lines = {}
    for score, kind in kinds.items():
        metric = LABELS[kind].default_metric
        both = [found.scores[each].value(score, metric) for each in (AS_GIVEN, found.winner.name)]
        difference = next((d for s, m, d in found.tests if (s, m) == (score, metric)), None)
        lines[score] = {
            "metric": metric,
            "higher": direction(kind, metric),
            "as given": list(both[0].values.values()),
            "winner": list(both[1].values.values()),
            "difference": None if difference is None else difference.value,
            "half": None if difference is None else difference.half,
        }
    return {
        "seconds": round(seconds, 1),
        "seconds of trials": round(sum(each.seconds for each in found.trials), 1),
        "states": [each.state for each in found.trials],
        "winner": found.winner.name,
        "changes": dict(found.winner.changes),
        "valid": {each.name: list(each.values.values()) for each in found.finalists},
        "importance": dict(found.importance),
        "test": lines,
    }


def verdict(line: Mapping[str, Any]) -> str:
    """Return whether the winner's score differs from the file's by more than its interval."""
    if line["difference"] is None:
        return "the file as it is won"
    if abs(line["difference"]) <= line["half"]:
        return "equal"
    return "above" if (line["difference"] > 0) == line["higher"] else "below"


def shown(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line a score of each log."""
    lines = []
    for name, run in runs.items():
        for score, each in run["test"].items():
            means = [f"{sum(each[who]) / len(each[who]):.4f}" for who in ("as given", "winner")]
            gain = "" if each["half"] is None else f"{each['difference']:+.4f} ± {each['half']:.4f}"
            lines.append([f"{name}: {score}", each["metric"], *means, gain, verdict(each)])
    header = ["test rows", "metric", "defaults", "tuned", "difference", ""]
    return aligned(header, lines, right=[2, 3, 4])


def told(trial: Trial) -> None:
    """Print a finished trial."""
    print(trial, flush=True)


def main() -> None:
    """Search each log, and print the table."""
    args = options()
    torch.set_num_threads(1)
    asked = {
        name: getattr(args, name) for name in ("rows", "trials", "finalists", "seeds", "epochs")
    }
    runs: dict[str, Any] = {}
    for name in args.sets:
        try:
            one = experiment(name, args.work / name, args)
        except AbsentLogError as error:
            print(f"skipped: {error}")
            continue
        print(f"\n{name}", flush=True)
        started = perf_counter()
        out = args.work / name / "tune"
        found = one.tune(out=out, resume=out.exists(), progress=False, told=told)
        runs[name] = measured(found, perf_counter() - started)
        write(args.out, {**origin("polars", "optuna"), **asked, "runs": runs})
        print(f"{runs[name]['seconds']:.0f} s; {runs[name]['winner']}: {runs[name]['changes']}")
    print(f"\n{shown(runs)}")
    scores = [verdict(each) for run in runs.values() for each in run["test"].values()]
    print(f"\n{', '.join(f'{scores.count(each)} {each}' for each in dict.fromkeys(scores))}")


if __name__ == "__main__":
    main()
