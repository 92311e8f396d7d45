"""From a log of 33 columns to a Table, to the cache and back, and to batches: rows/s and memory.

Logs with the columns and vocabulary sizes of Ali-CCP are generated first (`parts/generated.py`):
Parquet with ids 1 … n and with widely spaced ids, and CSV. Each measurement runs in its own
process, so its peak memory is its own; cases alternate, and medians are shown. Peaks include the
imports, whose size is shown beside them. Writes results/data_speed.json.

    python benchmarks/data_speed.py [--rows ROWS] [--csv-rows ROWS] [--rounds ROUNDS] [--seed SEED]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import polars as pl
import torch
from parts import generated

import polyrank as pr
from polyrank.data import cache
from polyrank.data.labels import check_leaks
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.text import aligned
from polyrank.train.sources import Sources, encoded

RESULTS = Path(__file__).parent / "results" / "data_speed.json"
SIZES = (20, 1024, 4096, 16384)
GATHER_SECONDS = 1.5


def memory_mib(field: str = "VmHWM") -> float:
    """Return a field of this process's memory; by default its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def ingest(path: Path, _folder: Path) -> dict[str, float]:
    """Encode a log as `fit` does, part by part."""
    schema, times = generated.schema(), [perf_counter()]
    rows = read(path, schema)
    vocab = Vocab.fit(rows, schema)
    times.append(perf_counter())
    check_leaks(rows, schema)
    times.append(perf_counter())
    table = encode(read(path, schema), schema, vocab)
    times.append(perf_counter())
    fit, leaks, coding = np.diff(times)
    return {
        "seconds": times[-1] - times[0], "fit": fit, "leaks": leaks, "encode": coding,
        "rows": len(table), "vocabulary": sum(vocab.rows.values()),
    }  # fmt: skip


def write(path: Path, folder: Path) -> dict[str, float]:
    """Write the encoded log to the cache."""
    schema = generated.schema()
    vocab, tables = encoded(schema, Sources(path))
    start = perf_counter()
    size = cache.store(folder / cache.NAME, "0" * 32, cache.Entry(vocab, tables))
    return {"seconds": perf_counter() - start, "rows": len(tables["train"]), "mb": size / 1e6}


def start(path: Path, folder: Path) -> dict[str, float]:
    """Start from the cache, or fill it."""
    begin = perf_counter()
    _, tables = encoded(generated.schema(), Sources(path), beside=folder)
    return {"seconds": perf_counter() - begin, "rows": len(tables["train"])}


def first_start(path: Path, folder: Path) -> dict[str, float]:
    """Start from the cache when the log's checksum is not known."""
    (folder / cache.NAME / "files.json").unlink(missing_ok=True)
    return start(path, folder)


def gather(path: Path, folder: Path) -> dict[str, float]:
    """Cut shuffled batches from a table of the cache, without the permutation's time."""
    schema = generated.schema()
    vocab, tables = encoded(schema, Sources(path), beside=folder)
    layout = pr.Model(embed_dim=16).layout(schema, vocab)
    found: dict[str, float] = {"rows": len(tables["train"]), "seconds": 0.0}
    for size in SIZES:
        batches = tables["train"].batches(layout, size, shuffle=True, unseen_rate=0.001)
        next(batches)
        begin, rows = perf_counter(), 0
        while (seconds := perf_counter() - begin) < GATHER_SECONDS:
            some = sum(len(batch) for batch in islice(batches, max(16_384 // size, 1)))
            if not some:
                break
            rows += some
        found[f"batch {size}"] = rows / seconds
    return found


CASES = {each.__name__: each for each in (ingest, write, start, first_start, gather)}


def child(case: str, path: Path, folder: Path) -> dict[str, float]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, "--case", case, str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr}")
    return json.loads(done.stdout)


def measure(logs: dict[str, Path], folder: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Run all cases in turn."""
    parquet = logs["Parquet, ids 1 … n"]
    child("start", parquet, folder)  # fills the cache
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        for name, path in logs.items():
            found.setdefault(name, []).append(child("ingest", path, folder))
        for name, case in (
            ("cache: write", "write"),
            ("cache: start", "start"),
            ("cache: start, log read for its checksum", "first_start"),
            ("batches", "gather"),
        ):
            place = folder / "write" if case == "write" else folder
            found.setdefault(name, []).append(child(case, parquet, place))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return found


def show(found: dict[str, list[dict[str, float]]]) -> str:
    """Return the tables of medians."""
    middle = {
        name: {key: median(each[key] for each in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    lines = [
        [name, f"{each['rows']:,.0f}", f"{each['seconds']:.2f}",
         f"{each['rows'] / each['seconds'] / 1e6:.2f}", f"{each['peak_mib']:,.0f}",
         f"{each['import_mib']:,.0f}",
         *(f"{each[part]:.2f}" if part in each else "" for part in ("fit", "leaks", "encode"))]
        for name, each in middle.items() if name != "batches"
    ]  # fmt: skip
    header = ["", "rows", "seconds", "M rows/s", "peak MiB", "imports MiB", "fit s", "leaks s",
              "encode s"]  # fmt: skip
    gathered = [[f"{size:,}", f"{middle['batches'][f'batch {size}'] / 1e6:.2f}"] for size in SIZES]
    return "\n\n".join(
        [
            aligned(header, lines, range(1, len(header))),
            aligned(["shuffled batches of", "M rows/s"], gathered, [0, 1]),
        ]
    )


def main() -> None:
    """Generate the logs, measure, print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--csv-rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", nargs=3, metavar=("CASE", "LOG", "FOLDER"), help="internal")
    options = parser.parse_args()
    if options.case:
        case, path, folder = options.case
        before = memory_mib()
        found = CASES[case](Path(path), Path(folder))
        print(json.dumps(found | {"peak_mib": memory_mib(), "import_mib": before}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logs = {
            "Parquet, ids 1 … n": folder / "close.parquet",
            "Parquet, ids far apart": folder / "apart.parquet",
            "CSV, ids 1 … n": folder / "log.csv",
        }
        close, apart, text = logs.values()
        generated.write_parquet(close, options.rows, options.seed)
        generated.write_parquet(apart, options.rows, options.seed, spread=1_000_003)
        pl.scan_parquet(close).head(options.csv_rows).sink_csv(text)
        found = measure(logs, folder, options.rounds)
    vocabulary = found["Parquet, ids 1 … n"][0]["vocabulary"]
    print(
        f"33 columns, {vocabulary:,} table rows, medians of {options.rounds}, seed {options.seed}; "
        f"{os.cpu_count()} cores, polars {pl.__version__}, numpy {np.__version__}\n"
    )
    print(show(found))
    table = {
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"polyrank": pr.__version__, "polars": pl.__version__,
                     "numpy": np.__version__, "torch": torch.__version__},
        "seed": options.seed,
        "runs": found,
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
