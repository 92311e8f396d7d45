"""Whether embedding optimisers that leave untouched rows alone learn as well as dense Adam.

Trains one model per data set with each embedding optimiser: ESMM on the synthetic log, whose truth
is known; MMoE on Census-Income and on MovieLens 100K. Only the embeddings' learning rate and l2
vary: the dense part has Adam at 1e-3 without decay throughout. Each optimiser has its own best pair
from a grid, which is extended if the best pair is at its edge: best by the validation loss that
also chooses the epoch within a run, as everywhere in polyrank, with a tuning seed that is not
reported. (The mean of the validation AUCs would be decided by the noise of the rarest score, of a
few hundred purchases.) Then every seed trains with every optimiser from the same weights in the
same order of rows. Prints the test figures and their paired differences to dense Adam with 95 %
intervals over seeds (Student's t); the log and its splits are the same for all seeds. The bar: for
the default optimiser no interval of an AUC reaches down to -0.003. Writes
results/quality_parity.json after each data set, and keeps those of the others.

    python benchmarks/quality_parity.py [--sets census] [--seeds 5] [--quick]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import polars as pl
import torch
from parts.ours import DEFAULT, embedding_optimizer, trainer_of
from parts.record import RESULTS, origin, write
from parts.seeds import difference as paired
from parts.seeds import spread

import polyrank as pr
from polyrank.data.table import Table
from polyrank.data.vocab import Vocab
from polyrank.datasets import load
from polyrank.text import aligned
from polyrank.train.fit import isolated
from polyrank.train.optim import EMBEDDINGS
from polyrank.train.sources import Sources, encoded
from polyrank.train.training import Training

REFERENCE = "adam"
KINDS = tuple(dict.fromkeys((REFERENCE, "lazy_adam", "rowwise_adagrad", DEFAULT)))
DENSE_LR = 1e-3
ADAGRAD_LR, ADAM_LR = (1e-2, 3e-2, 1e-1, 3e-1), (3e-4, 1e-3, 3e-3, 1e-2)
LR = {"rowwise_adagrad": ADAGRAD_LR, "adagrad": ADAGRAD_LR, "sgd": (1.0, 10.0, 100.0, 1000.0)}
L2 = (0.0, 1e-6, 1e-5, 1e-4)
# How often a grid whose best pair lies at its edge is extended there by one value.
EXTENSIONS = 2
LADDER = tuple(float(f"{digit}e{power}") for power in range(-6, 5) for digit in (1, 3))
DECADES = tuple(float(f"1e{power}") for power in range(-8, 1))
TUNING_SEED = 1001
BAR = -0.003


@dataclass(frozen=True)
class DataSet:
    """A data set with its model and its budget, the same for every optimiser."""

    model: pr.Model
    epochs: int
    batch_size: int
    load: Callable[[argparse.Namespace], tuple[pl.LazyFrame, pl.LazyFrame, pl.LazyFrame, pr.Schema]]


SETS = {
    "synthetic": DataSet(
        pr.ESMM(tower=[16, 8], embed_dim=16, dropout=0), 2, 4096,
        lambda args: load("synthetic", rows=args.rows, seed=1),
    ),
    "census": DataSet(
        pr.Model(trunk=pr.MMoE(experts=4, hidden=[64]), tower=[16], embed_dim=8, dropout=0.3,
                 norm="batch"),
        4, 1024, lambda _: load("census"),
    ),
    "movielens_100k": DataSet(
        pr.Model(trunk=pr.MMoE(experts=8, hidden=[16]), tower=[8], embed_dim=8, dropout=0),
        6, 1024, lambda _: load("movielens_100k"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """An embedding optimiser with its learning rate and l2."""

    kind: str
    lr: float
    l2: float


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--kinds", nargs="+", choices=[*EMBEDDINGS],
                        default=[kind for kind in KINDS if kind in EMBEDDINGS])  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_250_000, help="of the synthetic log; four "
                        "fifths are for training")  # fmt: skip
    parser.add_argument("--epochs", type=int, help="in place of each data set's own")
    parser.add_argument("--l2", nargs="+", type=float, help="the grid, as it is")
    parser.add_argument("--lr", nargs="+", type=float, help="the grid of every "
                        "optimiser, as it is")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small, for a first look; not kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality_parity.json")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.epochs, args.seeds, args.out = 100_000, 1, 2, None
        args.l2, args.lr = [0.0, 1e-5], [3e-3, 1e-2]
    if args.seeds < 2:
        parser.error("--seeds is at least 2")
    return args


class Runs:
    """Training runs on one data set, which is encoded once."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.spec = SETS[name]
        self.epochs = args.epochs or self.spec.epochs
        train, valid, test, self.schema = self.spec.load(args)
        self.vocab: Vocab
        self.tables: dict[str, Table]
        self.vocab, self.tables = encoded(self.schema, Sources(train, valid, test))

    def run(self, setting: Setting, seed: int) -> dict[str, float]:
        """Train once; return the kept epoch's validation loss and AUCs, and the test figures."""
        training = Training(
            epochs=self.epochs, batch_size=self.spec.batch_size, lr=DENSE_LR,
            embeddings=embedding_optimizer(setting.kind, setting.lr, setting.l2),
        )  # fmt: skip
        started = perf_counter()
        trainer = trainer_of(self.spec.model, self.vocab, self.tables, training, seed)
        with isolated(seed, training):
            for _ in trainer.run():
                pass
        trainer.keep_best()
        seconds = perf_counter() - started
        history = trainer.position.history
        bundle = pr.Bundle(
            self.schema, self.spec.model, self.vocab, trainer.supervision.fitted,
            trainer.ranker.eval(), {}, pl.DataFrame(list(history)), None,
        )  # fmt: skip
        card = bundle.score_labelled(self.tables["test"], "test")
        kept = history[trainer.position.best_epoch - 1]
        return {
            **{key: value for key, value in kept.items()
               if key.startswith("valid") and key.endswith(("auc", "total loss"))},
            **{f"test {score.name} {metric}": score.value(metric)
               for score in card for metric in ("auc", "rmse") if metric in score.metrics},
            "best epoch": trainer.position.best_epoch,
            "seconds": seconds,
        }  # fmt: skip


def choose(runs: Runs, kind: str, args: argparse.Namespace) -> tuple[Setting, list[dict]]:
    """Return an optimiser's best setting in the grid, and the grid's figures."""
    rates, decays = sorted(args.lr or LR.get(kind, ADAM_LR)), sorted(args.l2 or L2)
    found: dict[tuple[float, float], dict] = {}
    for _ in range(1 + (0 if args.lr or args.l2 else EXTENSIONS)):
        for lr, l2 in product(rates, decays):
            if (lr, l2) not in found:
                found[lr, l2] = tried(runs, Setting(kind, lr, l2))
        best = max(
            (each for each in found.values() if "valid total loss" in each),
            key=lambda each: -each["valid total loss"],
        )
        edges = [name for name, values in (("lr", rates), ("l2", decays))
                 if best[name] in (values[0], values[-1]) and best[name] > 0]  # fmt: skip
        if not edges:
            break
        rates = wider(rates, best["lr"], LADDER)
        decays = wider(decays, best["l2"], DECADES)
    edge = f"; at the edge of what was tried: {', '.join(edges)}" if edges else ""
    print(f"  {kind}: lr {best['lr']:g}, l2 {best['l2']:g}, validation loss "
          f"{best['valid total loss']:.5f} of {len(found)} pairs{edge}", flush=True)  # fmt: skip
    return Setting(kind, best["lr"], best["l2"]), list(found.values())


def tried(runs: Runs, setting: Setting) -> dict[str, Any]:
    """Return the figures of one pair of the grid."""
    pair = {"lr": setting.lr, "l2": setting.l2}
    try:
        found = runs.run(setting, TUNING_SEED)
    except pr.TrainingError as error:
        return pair | {"failed": str(error)}
    return pair | found


def wider(values: list[float], best: float, ladder: tuple[float, ...]) -> list[float]:
    """Return the values, with one more beyond the end if the best lies there."""
    if best == values[-1]:
        return [*values, *(each for each in ladder if each > best)][: len(values) + 1]
    if best == values[0]:
        return [*[each for each in ladder if each < best][-1:], *values]
    return values


def difference(one: list[float], other: list[float]) -> dict[str, float]:
    """Return the paired difference over seeds with its 95 % interval."""
    middle, half = paired(one, other)
    return {"mean": middle, "low": middle - half, "high": middle + half}


def compare(seeds: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return each optimiser's differences to the reference by figure."""
    if REFERENCE not in seeds:
        return {}
    figures = [key for key in seeds[REFERENCE][0] if key.startswith("test")]
    theirs = {key: [run[key] for run in seeds[REFERENCE]] for key in figures}
    return {
        kind: {key: difference(theirs[key], [run[key] for run in found]) for key in figures}
        for kind, found in seeds.items()
        if kind != REFERENCE
    }


def show(name: str, runs: Runs, found: dict[str, Any]) -> None:
    """Print a data set's table: one line per figure and optimiser."""
    lines = []
    for key in (key for key in next(iter(found["seeds"].values()))[0] if key.startswith("test")):
        for kind, each in found["seeds"].items():
            values = [run[key] for run in each]
            line = [key.removeprefix("test "), kind + " (default)" * (kind == DEFAULT),
                    spread(values), "", ""]  # fmt: skip
            if gap := found["differences"].get(kind, {}).get(key):
                line[3] = f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"
                if key.endswith("auc"):
                    line[4] = "yes" if gap["low"] > BAR else "no"
            lines.append(line)
    rows = ", ".join(f"{split} {len(table):,}" for split, table in runs.tables.items())
    print(f"\n{name}: {rows}; {runs.epochs} epochs of batch {runs.spec.batch_size}")
    header = ["test figure", "embeddings", "mean ± sd", f"minus {REFERENCE} [95 %]", f"> {BAR:g}"]
    print(aligned(header, lines, [2, 3]))
    seconds = {kind: mean(run["seconds"] for run in each) for kind, each in found["seeds"].items()}
    print("seconds a run: " + ", ".join(f"{kind} {each:.1f}" for kind, each in seconds.items()),
          flush=True)  # fmt: skip


def main() -> None:
    """Tune, train, print and save the figures."""
    args = options()
    torch.set_num_threads(1)
    for kind in KINDS:
        if kind not in EMBEDDINGS:
            print(f"not measured: {kind}: this polyrank has no such embedding optimiser")
    table = {"sets": {}}
    if args.out is not None and args.out.is_file():
        table = json.loads(args.out.read_text(encoding="utf-8"))
    for name in args.sets:
        started = perf_counter()
        print(f"\n{name}: the grid", flush=True)
        runs = Runs(name, args)
        chosen = {kind: choose(runs, kind, args) for kind in args.kinds}
        seeds = {
            kind: [runs.run(setting, seed) for seed in range(1, args.seeds + 1)]
            for kind, (setting, _) in chosen.items()
        }
        found = {
            **origin("numba"), "default": DEFAULT, "model": runs.spec.model.to_table(),
            "rows": {split: len(each) for split, each in runs.tables.items()},
            "epochs": runs.epochs, "batch_size": runs.spec.batch_size, "dense_lr": DENSE_LR,
            "tuning_seed": TUNING_SEED,
            "chosen": {kind: {"lr": each.lr, "l2": each.l2} for kind, (each, _) in chosen.items()},
            "grid": {kind: grid for kind, (_, grid) in chosen.items()},
            "seeds": seeds, "differences": compare(seeds),
            "seconds": perf_counter() - started,
        }  # fmt: skip
        show(name, runs, found)
        table["sets"][name] = found
        if args.out is not None:
            write(args.out, table)


if __name__ == "__main__":
    main()
