"""Training on a log of several times the memory allowed, beside the same log in memory.

A generated log of 20 columns of ids and 4 of numbers, sorted by its first column, is written as
Parquet: as many rows as take `--times` the limit once they are encoded. Each run is a process of
its own: one may take all memory; one lives in a memory cgroup with the limit, with the page cache
dropped first, and is told nothing of it. Both ingest the files, train one epoch of ESMM at batch
4096, and are watched by a cgroup: the peak counts files as well, of which the system keeps what
there is room for. They take turns. Needs Linux, root, and a memory controller (version 1 or 2);
skips with the reason where there is none.

Writes results/out_of_core.json.

    python benchmarks/out_of_core.py [--limit 750MiB] [--times 4 10] [--rounds 2]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
from parts.record import RESULTS, origin, write

import polyrank as pr
from polyrank.data.memory import bytes_of
from polyrank.data.stream import row_bytes
from polyrank.text import aligned

IDS = [100_000, 50_000, 10_000, 1_000, *[100] * 16]
NUMBERS, BATCH, CHUNK_ROWS = 4, 4096, 500_000
MIB = 1 << 20
WHOLE, LIMITED = "in-memory", "limited"
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def schema() -> pr.Schema:
    """Return the columns; numbers have the default encoding, and fill most of a row."""
    features = [pr.SparseFeature(f"c{at}") for at in range(len(IDS))]
    numbers = [pr.DenseFeature(f"x{at}") for at in range(NUMBERS)]
    return pr.Schema([*features, *numbers], [pr.Task("click"), pr.Task("buy", given="click")])


def generate(path: Path, rows: int, seed: int) -> None:
    """Write a log sorted by its first column, the hard case for a window."""
    truth, random = np.random.default_rng(0), np.random.default_rng([1, seed])
    effects = [truth.normal(0, 0.3, size).astype(np.float32) for size in IDS]
    writer = None
    for start in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - start)
        first, end = (at * IDS[0] // rows for at in (start, start + count))
        users = np.sort(random.integers(first, max(end, first + 1), count))
        codes = [users, *(random.integers(0, size, count) for size in IDS[1:])]
        z = -2.5 + sum(effect[code] for effect, code in zip(effects, codes, strict=True))
        click = random.random(count) < 1 / (1 + np.exp(-z))
        columns: dict[str, Any] = {f"c{at}": code.astype(np.int32) for at, code in enumerate(codes)}
        columns |= {
            f"x{at}": random.lognormal(size=count).astype(np.float32) for at in range(NUMBERS)
        }
        columns |= {"click": click, "buy": click & (random.random(count) < 0.2)}
        frame = pl.DataFrame(columns).with_columns(pl.col("click", "buy").cast(pl.Int8)).to_arrow()
        writer = writer or pa.parquet.ParquetWriter(path, frame.schema, compression="zstd")
        writer.write_table(frame)
    if writer is not None:
        writer.close()


@contextmanager
def memory_group(limit: int | None) -> Generator[Path]:
    """Make a memory cgroup, with a limit in bytes or with none."""
    name = f"polyrank-{os.getpid()}"
    version_2 = (V2 / "cgroup.controllers").is_file()
    folder = (V2 if version_2 else V1) / name
    try:
        folder.mkdir()
        if limit is not None:
            names = ["memory.max"] if version_2 else ["memory.limit_in_bytes"]
            for each in names:
                (folder / each).write_text(str(limit), encoding="ascii")
    except OSError as error:
        raise SystemExit(f"skipped: no memory cgroup can be made here ({error})") from None
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()


def peak(folder: Path) -> float:
    """Return the most memory that a cgroup took, in MiB."""
    for name in ("memory.peak", "memory.max_usage_in_bytes"):
        with suppress(OSError, ValueError):
            return int((folder / name).read_text(encoding="ascii")) / MIB
    return float("nan")


def run(folder: Path, name: str, limit: int | None) -> dict[str, Any]:
    """Ingest and train in a cgroup; return rates, the peak, and how busy the machine was."""
    shutil.rmtree(folder / ".polyrank-cache", ignore_errors=True)
    shutil.rmtree(folder / name, ignore_errors=True)
    subprocess.run(["sync"], check=True)
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    with memory_group(limit) as group:
        # The child joins before it imports anything, so that all of it counts.
        join = f"echo $$ > {group / 'cgroup.procs'} && exec {sys.executable} {__file__}"
        child = f"{join} --child {folder} {name}"
        started, load = perf_counter(), os.getloadavg()[0]
        found = subprocess.run(["sh", "-c", child], capture_output=True, text=True, check=False)
        about = {"seconds": perf_counter() - started, "peak MiB": peak(group),
                 "load": [load, os.getloadavg()[0]]}  # fmt: skip
    if found.returncode:
        return {"failed": found.returncode, "said": found.stderr[-2000:], **about}
    entry = next((folder / ".polyrank-cache").glob("*/manifest.json")).parent
    encoded = sum(path.stat().st_size for path in entry.glob("train.*.npy"))
    return {**json.loads(found.stdout.splitlines()[-1]), **about, "encoded MiB": encoded / MIB}


def child(folder: Path, name: str) -> None:
    """Ingest and train; print what was measured."""
    begun = perf_counter()
    trained: dict[str, Any] = {}

    def observe(progress: Any) -> None:
        trained.setdefault("ingest seconds", perf_counter() - begun)
        trained.setdefault("first", (progress.rows, process_time()))
        if progress.event == "epoch":
            trained["rows per second"] = progress.rows_per_second
            rows, seconds = trained.pop("first")
            spent = process_time() - seconds
            trained["rows per CPU second"] = (progress.rows - rows) / spent

    bundle = pr.fit(
        schema(), pr.ESMM(tower=[16, 8], embed_dim=8), train=folder / "train.parquet",
        valid=folder / "valid.parquet", epochs=1, batch_size=BATCH, lr=3e-3, out=folder / name,
        progress=observe, seed=1, memory="1TiB" if name == WHOLE else "auto",
    )  # fmt: skip
    card = bundle.scorecard
    assert card is not None
    print(json.dumps({**trained, "auc": card["click @ all"].value("auc"),
                      "memory": bundle.config["data"]["memory"]}))  # fmt: skip


def compared(limit: int, times: float, rounds: int, folder: Path) -> dict[str, Any]:
    """Run both in turns on a log of so many times the limit, and show a table."""
    rows = int(limit * times / row_bytes(schema()))
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "valid.parquet").is_file():
        generate(folder / "train.parquet", rows, 1)
        generate(folder / "valid.parquet", 100_000, 2)
    runs: dict[str, list[dict[str, Any]]] = {WHOLE: [], LIMITED: []}
    for at in range(rounds):
        for name, most in ((WHOLE, None), (LIMITED, limit)):
            found = run(folder, name, most)
            runs[name].append(found)
            print(f"{at + 1}/{rounds} {name}: {found}", flush=True)
    columns = ("ingest seconds", "rows per second", "rows per CPU second", "peak MiB", "auc")
    lines = []
    for name, each in runs.items():
        good = [one for one in each if "failed" not in one]
        values = [median(one[key] for one in good) if good else float("nan") for key in columns]
        lines.append([name, *(f"{v:,.4f}" if v < 1 else f"{v:,.0f}" for v in values)])
    encoded = next((one["encoded MiB"] for one in runs[WHOLE] if "failed" not in one), float("nan"))
    print(f"\n{rows:,} rows, {encoded:,.0f} MiB encoded; limit {limit / MIB:,.0f} MiB")
    print(aligned(["", *columns], lines, [*range(1, len(columns) + 1)]))
    ratios: dict[str, list[float]] = {}
    for column in ("rows per second", "rows per CPU second"):
        ratios[column] = [
            limited[column] / whole[column]
            for whole, limited in zip(runs[WHOLE], runs[LIMITED], strict=True)
            if "failed" not in limited and "failed" not in whole
        ]
        if ratios[column]:
            shown = ", ".join(f"{each:.3f}" for each in ratios[column])
            print(f"{column}, limited ÷ in memory: {median(ratios[column]):.3f} of {shown}")
    return {"times": times, "rows": rows, "encoded MiB": encoded, "runs": runs, "ratios": ratios}


def main() -> None:
    """Run all and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--limit", default="750MiB", help="of the cgroup")
    parser.add_argument("--times", type=float, nargs="+", default=[4.0, 10.0], help="encoded ÷ it")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the logs are kept; a temporary one")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(Path(args.child[0]), args.child[1])
        return
    limit = bytes_of(args.limit)
    assert limit is not None
    with tempfile.TemporaryDirectory() as temporary:
        found = [
            compared(limit, times, args.rounds, (args.folder or Path(temporary)) / f"{times:g}")
            for times in args.times
        ]
    about = {"limit MiB": limit / MIB, "logs": found}
    write(RESULTS / "out_of_core.json", {**origin("polars", "pyarrow"), **about})


if __name__ == "__main__":
    main()
