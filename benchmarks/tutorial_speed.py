"""The classic tutorial as a whole process, under Torch-RecHub and under polyrank.classic.

The same script (ESMM, then MMOE, one epoch of batches of 20, validation and test), the same CSV
files: Ali-CCP's columns and full vocabularies, Zipf(0.9) ids; half of the rows are for training, a
quarter each for validation and test, as in the tutorial's sample. The script is unchanged: polyrank
runs it by `python -m polyrank.classic`, which serves the imports of torch_rechub. Seconds are those
of a whole process: imports, reading, training, evaluation and saving. Torch-RecHub's time grows
with the rows: at full vocabularies its optimiser alone takes tens of milliseconds per batch of 20.
With fewer rows the ratio is smaller, since imports and set-up weigh more; `--rows 200000` is the
measurement that counts. Labels are independent of the ids: this benchmark is about time, and
classic_quality.py is about quality.

    python benchmarks/tutorial_speed.py [--rows 20000] [--workers 4] [--only polyrank]

Writes results/tutorial_speed.json, unless one library is selected. Needs the extra [bench].
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl
from parts.log import VOCABULARY, Log, drawn
from parts.record import RESULTS, origin, write

from polyrank.datasets.ali_ccp import COLUMNS, DENSE
from polyrank.text import aligned

# The tutorial's calls and sizes; ctcvr_label is a label, not a feature, and ESMM has three tasks.
SCRIPT = """
import sys
from time import perf_counter

import pandas as pd
import torch
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import ESMM, MMOE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator

folder, batch, workers, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
torch.manual_seed(2022)
parts = [pd.read_csv(f"{folder}/ali_ccp_{split}_sample.csv") for split in ("train", "val", "test")]
ends = [len(parts[0]), len(parts[0]) + len(parts[1])]
data = pd.concat(parts).rename(columns={"purchase": "cvr_label", "click": "ctr_label"})
data["ctcvr_label"] = data["cvr_label"] * data["ctr_label"]
labels = ["cvr_label", "ctr_label", "ctcvr_label"]
dense = [name for name in data.columns if name.startswith("D")]
sparse = [name for name in data.columns if name not in dense + labels]
item = ["129", "205", "206", "207", "210", "216"]
user = [name for name in sparse if name not in item]


def train(model, names, columns):
    started = perf_counter()
    slices = [slice(0, ends[0]), slice(*ends), slice(ends[1], None)]
    x = [{name: data[name].values[rows] for name in names} for rows in slices]
    y = [data[columns].values[rows].copy() for rows in slices]
    train_dl, val_dl, test_dl = DataGenerator(x[0], y[0]).generate_dataloader(
        x_val=x[1], y_val=y[1], x_test=x[2], y_test=y[2], batch_size=batch, num_workers=workers
    )
    trainer = MTLTrainer(
        model, task_types=["classification"] * len(columns),
        optimizer_params={"lr": 1e-4, "weight_decay": 1e-5}, n_epoch=1, earlystop_patience=3,
        device="cpu", model_path=folder,
    )
    trainer.fit(train_dl, val_dl)
    auc = trainer.evaluate(trainer.model, test_dl)
    print(f"\\nRESULT {type(model).__name__} {perf_counter() - started:.3f} {auc}", flush=True)


def features(names, width):
    return [SparseFeature(name, vocab_size=data[name].max() + 1, embed_dim=width) for name in names]


esmm = ESMM(features(user, 16), features(item, 16), cvr_params={"dims": [16, 8]},
            ctr_params={"dims": [16, 8]})
train(esmm, sparse, labels)
every = [DenseFeature(name) for name in dense] + features(sparse, 4)
mmoe = MMOE(every, ["classification", "classification"], 8, expert_params={"dims": [16]},
            tower_params_list=[{"dims": [8]}, {"dims": [8]}])
train(mmoe, dense + sparse, labels[:2])
"""
LIBRARIES = {"Torch-RecHub": (), "polyrank": ("-m", "polyrank.classic")}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=20_000, help="of all three files")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4, help="num_workers of the tutorial")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*LIBRARIES])
    args = parser.parse_args()
    if args.rows < 1_000:
        parser.error("--rows is at least 1000: a split without a purchase ends Torch-RecHub")
    return args


def write_files(folder: Path, rows: int, seed: int) -> None:
    """Write the three files; the first training row has the last id of every vocabulary."""
    log: Log = drawn(rows, seed)
    for name, size in VOCABULARY.items():
        log.ids[name][0] = size - 1
    ends = rows // 2, rows // 2 + rows // 4
    for start in (0, *ends):  # no split without a purchase
        log.click[start] = log.buy[start] = 1
    random = np.random.default_rng([seed, 1])
    numbers = {name: random.random(rows).astype(np.float32).round(4) for name in DENSE}
    labels = {"click": log.click.astype(np.int8), "purchase": log.buy.astype(np.int8)}
    frame = pl.DataFrame({**labels, **log.ids, **numbers}).select(COLUMNS)
    for split, start, stop in zip(("train", "val", "test"), (0, *ends), (*ends, rows), strict=True):
        frame[start:stop].write_csv(folder / f"ali_ccp_{split}_sample.csv")


def run(library: str, folder: Path, args: argparse.Namespace) -> dict:
    """Run the script under a library; return the process's seconds and each model's."""
    script = folder / "tutorial.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, *LIBRARIES[library], str(script), str(folder)]
    numbers = [str(each) for each in (args.batch, args.workers, args.threads)]
    started = perf_counter()
    done = subprocess.run([*command, *numbers], capture_output=True, text=True, check=False)
    seconds = perf_counter() - started
    if done.returncode:
        sys.exit(f"{library} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line[:6] == "RESULT"]
    models = {name: {"seconds": float(spent), "auc": auc} for _, name, spent, auc in found}
    return {"seconds": seconds, "models": models}


def main() -> None:
    """Write the files, run both libraries in turn, print the table and save the figures."""
    args = options()
    if find_spec("torch_rechub") is None:
        print("not measured: Torch-RecHub: torch_rechub is not installed (the extra [bench])")
    names = [name for name in LIBRARIES if args.only in (None, name)]
    if find_spec("torch_rechub") is None:
        names = [name for name in names if name != "Torch-RecHub"]
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), args.rows, args.seed)
        found = {name: run(name, Path(folder), args) for name in names}
    lines = []
    for name, each in found.items():
        models = [f"{each['models'][model]['seconds']:.1f}" for model in ("ESMM", "MMOE")]
        lines.append([name, f"{each['seconds']:.1f}", *models])
    print(f"{args.rows:,} rows in all, half for training, 1 epoch of batches of {args.batch}, "
          f"num_workers {args.workers}, {args.threads} thread(s)")  # fmt: skip
    print(aligned(["seconds", "whole script", "ESMM", "MMOE"], lines, range(1, 4)))
    if len(found) == len(LIBRARIES):
        theirs, ours = (found[name]["seconds"] for name in LIBRARIES)
        print(f"the whole script is {theirs / ours:.1f} times as fast under polyrank")
        write(
            RESULTS / "tutorial_speed.json",
            origin("torch-rechub") | vars(args) | {"runs": found, "ratio": theirs / ours},
        )


if __name__ == "__main__":
    main()
