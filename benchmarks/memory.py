"""How much memory training uses, whether it stays flat, and what a row costs in a large table.

1. Training from the cache: `fit` on a log with the columns and vocabulary sizes of Ali-CCP, ESMM
   with embeddings of 16, in its own process, with rows that an earlier process cached. A watcher
   reads its memory from /proc (Linux only); the bar is 1.5 × (tables + parameters + optimiser
   state) above a process that has only imported the library. Mapped pages of the tables count as
   resident, though the system may drop them: the anonymous part is shown beside the total.
2. Memory over 100,000 steps of batch 20 on a small vocabulary.
3. Cost per row at batch 4096 with rows as in 1, alternating between 1 M and 20 M of them; the
   shuffle of an epoch is divided among its rows.

Writes results/memory.json.

    python benchmarks/memory.py [--rows ROWS] [--steps STEPS] [--large ROWS] [--seed SEED]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch
from parts import generated
from safetensors import safe_open

import polyrank as pr
from polyrank.data.table import Table
from polyrank.objective.losses import Supervision
from polyrank.text import aligned
from polyrank.train.heads import start
from polyrank.train.loop import Trainer
from polyrank.train.sources import Sources, encoded
from polyrank.train.training import Training

RESULTS = Path(__file__).parent / "results" / "memory.json"
FIELDS = ("VmRSS", "RssAnon", "RssFile")
MODEL = pr.ESMM(tower=[16, 8], embed_dim=16, dropout=0)
BATCH, BAR = 4096, 1.5
WINDOWS = 15
MIB = 2**20


def memory_mib(process: int | str = "self") -> dict[str, float]:
    """Return a process's resident memory: total, anonymous and file-backed."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in FIELDS}


# ----------------------------------------------------------------------- 1: training from the cache


def trained(folder: Path, out: str) -> None:
    """Train from the cache; print when each part begins."""
    marks = {"imports": (time.time(), memory_mib())}

    def observe(progress: pr.train.loop.Progress) -> None:
        marks.setdefault("training", (time.time(), memory_mib()))
        if progress.event == "epoch":
            marks["after the epoch"] = (time.time(), memory_mib())

    pr.fit(
        generated.schema(), MODEL, train=folder / "train.parquet", valid=folder / "valid.parquet",
        epochs=1, batch_size=BATCH, out=folder / out, progress=observe,
    )  # fmt: skip
    print(json.dumps(marks))


def watched(folder: Path, out: str) -> dict[str, Any]:
    """Run `trained` and read its memory every 10 ms."""
    command = [sys.executable, __file__, "--child", str(folder), out]
    seen: list[tuple[float, dict[str, float]]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            try:
                seen.append((time.time(), memory_mib(process.pid)))
            except (OSError, KeyError, ValueError):  # it has just ended
                break
            time.sleep(0.01)
        marks = json.loads(process.communicate()[0])
    if process.returncode:
        raise SystemExit("training failed")
    names = ["imports", "training", "after the epoch"]
    begins = [*(marks[name][0] for name in names), time.time()]
    peaks = {}
    for name, begin, end in zip(names, begins[:-1], begins[1:], strict=True):
        inside = [memory for when, memory in seen if begin <= when < end] or [marks[name][1]]
        peaks[name] = {field: max(each[field] for each in inside) for field in FIELDS}
    return {"imports": marks["imports"][1], "peaks": peaks}


def from_the_cache(folder: Path, rows: int, seed: int) -> dict[str, Any]:
    """Train twice on the same files; the second run, from the cache, is measured."""
    generated.write_parquet(folder / "train.parquet", rows, seed)
    generated.write_parquet(folder / "valid.parquet", rows // 20, seed, part=1)
    sources = Sources(folder / "train.parquet", folder / "valid.parquet")
    _, tables = encoded(generated.schema(), sources, beside=folder)
    tables_mib = sum(_bytes(table) for table in tables.values()) / MIB
    del tables
    found = watched(folder, "run")
    sizes: dict[str, float] = {}
    with safe_open(folder / "run" / "checkpoint" / "state.safetensors", framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            owner, each = name.split(".")[0], file.get_slice(name)
            width = int(each.get_dtype().lstrip("BFIU")) // 8
            sizes[owner] = sizes.get(owner, 0) + prod(each.get_shape()) * width / MIB
    optimiser = sum(sizes.get(owner, 0) for owner in ("embeddings", "dense", "balance"))
    return found | {"rows": rows, "tables": tables_mib, "parameters": sizes["model"],
                    "optimiser": optimiser}  # fmt: skip


def _bytes(table: Table) -> int:
    weight = 0 if table.weight is None else table.weight.nbytes
    return table.ids.nbytes + table.dense.nbytes + table.labels.nbytes + weight


def show_training(found: dict[str, Any]) -> str:
    """Return the table of the first measurement."""
    parts = [found[name] for name in ("tables", "parameters", "optimiser")]
    base, peaks = found["imports"], found["peaks"]
    lines = [
        [name, *(f"{each[field] - base[field]:,.0f}" for field in FIELDS)]
        for name, each in peaks.items()
    ]
    lines.append(["peak", *(f"{_peak(peaks, f) - base[f]:,.0f}" for f in FIELDS)])
    peak = _peak(peaks, "VmRSS") - base["VmRSS"]
    return (
        f"training from the cache, {found['rows']:,} rows, MiB above imports "
        f"({base['VmRSS']:,.0f})\n"
        + aligned(["", "resident", "anonymous", "of files"], lines, [1, 2, 3])
        + f"\ntables {parts[0]:,.0f} + parameters {parts[1]:,.0f} + optimiser state {parts[2]:,.0f}"
        f" = {sum(parts):,.0f} MiB; peak {peak / sum(parts):.2f} × that (bar {BAR})"
    )


def _peak(peaks: dict[str, dict[str, float]], field: str) -> float:
    return max(each[field] for each in peaks.values())


# -------------------------------------------------------------------- 2 and 3: tables made directly


def table_of(schema: pr.Schema, ids: np.ndarray, random: np.random.Generator) -> Table:
    """Return a table without numbers, keys or weights."""
    rows = ids.shape[1]
    click = random.random(rows) < 0.04
    labels = np.stack([click, click & (random.random(rows) < 0.1)], axis=1).astype(np.float32)
    empty = np.empty((rows, 0), np.float32)
    return Table(schema, ids, empty, labels, None, pl.DataFrame(), {}, {}, {})


def sparse_schema(names: list[str]) -> pr.Schema:
    """Return a schema of sparse features only."""
    return pr.Schema(
        [pr.SparseFeature(name) for name in names],
        [pr.Task("click"), pr.Task("buy", label="purchase", given="click")],
    )


def trainer_of(table: Table, sizes: dict[str, int], batch: int, epochs: int, seed: int) -> Trainer:
    """Return the trainer that `fit` would make for a table."""
    torch.manual_seed(seed)
    vocab = SimpleNamespace(rows={name: size + 1 for name, size in sizes.items()}, columns={})
    training = Training(epochs=epochs, batch_size=batch)
    ranker = MODEL.build(MODEL.layout(table.schema, vocab))
    start(ranker, table, "cpu")
    supervision = Supervision.of(table)
    return Trainer(ranker, training, supervision, train=table, valid=None, seed=seed)


def flat(steps: int, seed: int) -> list[tuple[int, float]]:
    """Return the resident memory at every tenth of many steps of batch 20."""
    random = np.random.default_rng(seed)
    sizes = {"user": 2_000, "item": 1_000, "shop": 50}
    rows = 20 * (steps // 10)
    ids = np.stack([random.integers(0, size + 1, rows) for size in sizes.values()])
    table = table_of(sparse_schema(list(sizes)), ids.astype(np.int32), random)
    found = []
    for progress in trainer_of(table, sizes, 20, 10, seed).run():
        if progress.event == "epoch":
            found.append((progress.epoch * progress.steps, memory_mib()["VmRSS"]))
            print(f"{found[-1][0]:,} steps", file=sys.stderr, flush=True)
    return found


def windows(trainer: Trainer) -> Iterator[tuple[float, float]]:
    """Yield the wall and CPU seconds per row of some steps; first those of shuffling, per row."""
    wall, processor = time.perf_counter(), time.process_time()
    next(trainer.train.batches(trainer.ranker.layout, 1, shuffle=True, seed=trainer.seed))
    rows = len(trainer.train)
    yield (time.perf_counter() - wall) / rows, (time.process_time() - processor) / rows
    seen, run = 0, trainer.run()
    while True:
        wall, processor = time.perf_counter(), time.process_time()
        progress = next(run)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        if progress.event == "step" and seen:  # else with a shuffle or a look at the weights
            yield wall / (progress.rows - seen), processor / (progress.rows - seen)
        seen = progress.rows if progress.event == "step" else 0


def row_cost(large: int, seed: int) -> dict[str, Any]:
    """Return µs per row, wall and CPU, in a table of 1 M rows and in a large one, in turn."""
    random = np.random.default_rng(seed)
    small, sizes = 1_000_000, generated.SIZES
    schema = sparse_schema(list(sizes))
    ids = np.stack([generated.zipf(random, size, small) + 1 for size in sizes.values()])
    ids = ids.astype(np.int32)
    tables = [table_of(schema, ids, random)]
    tables.append(table_of(schema, np.tile(ids, (1, large // small)), random))
    running = [windows(trainer_of(table, sizes, BATCH, WINDOWS + 1, seed)) for table in tables]
    shuffles = [next(each) for each in running]
    for each in running:
        next(each)  # warms up
    steps = [[next(each) for each in running] for _ in range(WINDOWS)]
    found = {}
    for index, table in enumerate(tables):
        middle = [median(pair[index][clock] for pair in steps) for clock in (0, 1)]
        found[f"{len(table):,}"] = {
            "wall": (middle[0] + shuffles[index][0]) * 1e6,
            "cpu": (middle[1] + shuffles[index][1]) * 1e6,
            "shuffle": shuffles[index][0] * 1e6,
        }
    # Of neighbouring windows, so that a busy machine is busy for both.
    found["ratio"] = {
        name: median(pair[1][clock] / pair[0][clock] for pair in steps)
        for clock, name in enumerate(("wall", "cpu"))
    }
    return found


# ------------------------------------------------------------------------------------------- all


def main() -> None:
    """Measure, print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=20_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "OUT"), help="internal")
    options = parser.parse_args()
    if options.child:
        trained(Path(options.child[0]), options.child[1])
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        training = from_the_cache(Path(name), options.rows, options.seed)
    print(show_training(training), flush=True)
    steps = flat(options.steps, options.seed)
    print("\nresident memory at batch 20")
    print(
        aligned(["steps", "MiB"], [[f"{n:,}", f"{m:,.1f}"] for n, m in steps], [0, 1]), flush=True
    )
    cost = row_cost(options.large, options.seed)
    print(f"\nµs a row at batch {BATCH:,}, medians of {WINDOWS} windows")
    header = ["rows", "wall", "CPU", "of wall, shuffle"]
    lines = [
        [rows, f"{each['wall']:.2f}", f"{each['cpu']:.2f}", f"{each['shuffle']:.3f}"]
        for rows, each in cost.items() if rows != "ratio"
    ]  # fmt: skip
    print(aligned(header, lines, [0, 1, 2, 3]))
    print(f"paired ratio: wall {cost['ratio']['wall']:.3f}, CPU {cost['ratio']['cpu']:.3f}")
    table = {
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"polyrank": pr.__version__, "polars": pl.__version__,
                     "numpy": np.__version__, "torch": torch.__version__},
        "seed": options.seed,
        "training": training,
        "flat": steps,
        "row_cost": cost,
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
