"""Scoring files with `polyrank predict`, and with pandas and Torch-RecHub.

An MMoE of two tasks with Ali-CCP's columns and full vocabularies (`parts/generated.py`: 23 columns
of ids and 8 of numbers) is trained on a slice that has every id, saved and exported. Then a Parquet
file is scored by whole processes, in turn: `polyrank predict` in onnxruntime and in torch, and
pandas.read_parquet with Torch-RecHub's MMOE of the same tables and layers (random weights; numbers
go in as they are), its PredictDataset, a DataLoader of batches of 4,096 without worker processes,
and MTLTrainer.predict. All write Parquet. Torch-RecHub takes the ids as rows of its tables, so it
is spared the vocabulary in which polyrank looks up each id.

Seconds, rows/s and memory are those of the whole process, imports included; CPU seconds are shown
beside them, because other work on the machine slows only the former. Torch-RecHub handles rows one
by one in Python, so its time grows with the rows: it scores only --peer-rows of them.

    python benchmarks/batch_predict.py [--rows 5000000] [--peer-rows 500000] [--rounds 1]

Writes the entry for its number of rows in results/batch_predict.json, unless one contender is
selected. Needs the extras [serve, bench].
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from parts import generated
from parts.record import RESULTS, origin, write

from polyrank.datasets.ali_ccp import DENSE, SPARSE
from polyrank.text import aligned

WIDTH, EXPERTS, HIDDEN, TOWER = 4, 8, 16, 8
CHECKED_ROWS = 100_000
COLUMNS = ["p_click", "p_buy_given_click", "p_buy"]
PEER = "pandas + Torch-RecHub"
PEER_SCRIPT = """
import sys

import pandas as pd
import torch
from torch.utils.data import DataLoader
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import MMOE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import PredictDataset

source, out, threads, sizes, dense, width, experts, hidden, tower = eval(sys.argv[1])
torch.set_num_threads(threads)
features = [DenseFeature(name) for name in dense] + [
    SparseFeature(name, vocab_size=size + 1, embed_dim=width) for name, size in sizes.items()
]
types = ["classification"] * 2
model = MMOE(features, types, experts, {"dims": [hidden]}, [{"dims": [tower]}, {"dims": [tower]}])
trainer = MTLTrainer(model, types, device="cpu", model_path=".")
data = pd.read_parquet(source)
x = {name: data[name].values for name in [*sizes, *dense]}
loader = DataLoader(PredictDataset(x), batch_size=4096, shuffle=False, num_workers=0)
found = trainer.predict(model, loader)
pd.DataFrame(found, columns=["click", "buy"]).to_parquet(out)
"""


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--peer-rows", type=int, default=500_000, help="at most, for Torch-RecHub")
    parser.add_argument("--rounds", type=int, default=1, help="medians are shown")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["onnxruntime", "torch", PEER])
    args = parser.parse_args()
    if args.rows < 1 or args.peer_rows < 1 or args.rounds < 1:
        parser.error("--rows, --peer-rows and --rounds are at least 1")
    return args


def prepare(folder: Path, rows: int, peer_rows: int, seed: int) -> None:
    """Write the rows, and the model twice: saved and exported."""
    import polyrank as pr
    from polyrank.serve.export.write import export

    source = folder / "rows.parquet"
    generated.write_parquet(source, rows, seed)
    first = pl.scan_parquet(source)
    first.head(min(peer_rows, rows)).sink_parquet(folder / "peer.parquet")
    model = pr.Model(
        trunk=pr.MMoE(experts=EXPERTS, hidden=[HIDDEN]), tower=[TOWER], embed_dim=WIDTH,
        norm="batch", dropout=0,
    )  # fmt: skip
    train = every_id(np.random.default_rng(seed))
    bundle = pr.fit(generated.schema(), model, train=train, epochs=1, batch_size=4096, seed=seed)
    for name in ("torch", "onnxruntime"):
        bundle.save(folder / name / "bundle")
    export(bundle, folder / "onnxruntime" / "bundle", [first.head(CHECKED_ROWS).collect()])


def every_id(random: np.random.Generator) -> pl.DataFrame:
    """Return training rows that contain every id of every vocabulary."""
    rows = max(generated.SIZES.values())
    click = random.random(rows) < 0.04
    return pl.DataFrame(
        {
            "click": click.astype(np.int8),
            "purchase": (click & (random.random(rows) < 0.1)).astype(np.int8),
            **{
                name: random.permutation(np.arange(rows) % generated.SIZES[name]) + 1
                for name in SPARSE
            },
            **{name: random.lognormal(size=rows).astype(np.float32) for name in DENSE},
        }
    )


def commands(folder: Path, args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of each contender."""
    source = str(folder / "rows.parquet")
    found = {
        name: [
            sys.executable, "-m", "polyrank", "predict", str(folder / name), source,
            "-o", str(folder / f"{name}.parquet"), "--threads", str(args.threads),
        ]
        for name in ("onnxruntime", "torch")
    }  # fmt: skip
    sizes = {name: generated.SIZES[name] for name in SPARSE}
    peer = (
        str(folder / "peer.parquet"), str(folder / "theirs.parquet"), args.threads, sizes,
        [*DENSE], WIDTH, EXPERTS, HIDDEN, TOWER,
    )  # fmt: skip
    found[PEER] = [sys.executable, "-c", PEER_SCRIPT, repr(peer)]
    return {name: each for name, each in found.items() if args.only in (None, name)}


def run(command: list[str], rows: int) -> dict[str, float]:
    """Run a process; return its seconds, CPU seconds and peak memory."""
    with tempfile.TemporaryFile() as said:
        started = perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(
                f"{command[:5]} ended with {process.returncode}:\n{said.read().decode()[-3000:]}"
            )
    return {
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def differences(folder: Path) -> dict[str, float]:
    """Return the largest difference between the two engines in each column, if their rows agree."""
    ours, torchs = (
        pl.scan_parquet(folder / f"{name}.parquet") for name in ("onnxruntime", "torch")
    )
    pairs = pl.concat([ours, torchs.rename(lambda name: f"{name} of torch")], how="horizontal")
    apart = [(pl.col(name) - pl.col(f"{name} of torch")).abs().max() for name in COLUMNS]
    return pairs.select(apart).collect().row(0, named=True)


def show(found: Mapping[str, Any], rows: Mapping[str, int], threads: int) -> str:
    """Return the table."""
    lines = [
        [
            name, f"{rows[name]:,}", f"{each['seconds']:.1f}", f"{each['rows_per_second']:,.0f}",
            f"{each['cpu_seconds']:.1f}", f"{each['peak_mib']:,.0f}",
        ]
        for name, each in found.items()
    ]  # fmt: skip
    header = [f"{threads} thread(s)", "rows", "seconds", "rows/s", "CPU seconds", "peak MiB"]
    return aligned(header, lines, range(1, 6))


def main() -> None:
    """Prepare, let the contenders score in turn, print the table and save the figures."""
    args = options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = commands(folder, args)
        if PEER in wanted and find_spec("torch_rechub") is None:
            print(f"not measured: {PEER}: torch_rechub is not installed (the extra [bench])")
            del wanted[PEER]
        # In a process of its own: a process that starts another leaves its own peak in it.
        prepared = multiprocessing.get_context("spawn").Process(
            target=prepare, args=(folder, args.rows, args.peer_rows, args.seed)
        )
        prepared.start()
        prepared.join()
        if prepared.exitcode:
            sys.exit("the rows or the model could not be made")
        rows = {
            each: min(args.peer_rows, args.rows) if each == PEER else args.rows for each in wanted
        }
        rounds = [
            {each: run(command, rows[each]) for each, command in wanted.items()}
            for _ in range(args.rounds)
        ]
        apart = differences(folder) if {"onnxruntime", "torch"} <= set(wanted) else {}
    found = {
        each: {key: median(one[each][key] for one in rounds) for key in rounds[0][each]}
        for each in wanted
    }
    print(show(found, rows, args.threads))
    if apart:
        print(f"onnxruntime and torch differ by {max(apart.values()):.1e} at most")
    if PEER in found and "onnxruntime" in found:
        ratio = found["onnxruntime"]["rows_per_second"] / found[PEER]["rows_per_second"]
        print(f"onnxruntime scores {ratio:.0f} times as many rows/s as {PEER}")
    if args.only is None:
        keep(args, {"medians": found, "rounds": rounds, "differences": apart})


def keep(args: argparse.Namespace, found: Mapping[str, Any]) -> None:
    """Replace the figures for the same number of rows; keep all others."""
    path = RESULTS / "batch_predict.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    packages = origin("torch-rechub", "pandas", "onnxruntime", "polars", "pyarrow")
    write(path, kept | {f"{args.rows:,} rows": packages | vars(args) | found})


if __name__ == "__main__":
    main()
