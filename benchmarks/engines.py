"""Scoring one Parquet file with `polyrank predict`, two shards, Ray Data and Spark.

The model and the rows of `batch_predict.py`, with a row number. In turn, as whole processes:

- plain: `polyrank predict` with 2 threads;
- shards: `polyrank predict --shard 1/2` and `2/2` at the same time, one thread each;
- ray: a local cluster, `polyrank.ray.predict` with at most 2 actors, written as Parquet;
- spark: local[2], `polyrank.spark.predict_udf`, written as Parquet.

Seconds are shown of the whole process, and from the moment that Ray or Spark has started. All must
agree to 1e-6 in every row. Other work on the machine slows all of them: its load is shown.

    python benchmarks/engines.py [--rows 1000000] [--rounds 3] [--ray-python P] [--spark-python P]

Writes results/engines.json. Needs the extra [serve], and interpreters with the extras [ray] and
[spark], which may be others than this one; what an interpreter lacks is not measured.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
from batch_predict import COLUMNS, prepare, run
from parts.record import RESULTS, origin, write

from polyrank.text import aligned

RAY = """
import sys, time
from pathlib import Path

import ray, ray.data
import polyrank.ray

run, source, out, seconds = sys.argv[1:]
ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
started = time.perf_counter()
rows = ray.data.read_parquet(source)
polyrank.ray.predict(run, rows, keep=["row"], workers=2).write_parquet(out)
Path(seconds).write_text(str(time.perf_counter() - started))
"""
SPARK = """
import os, sys, time
from pathlib import Path

os.environ["PYSPARK_PYTHON"] = sys.executable
from pyspark.sql import SparkSession
import polyrank.spark

run, source, out, seconds = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.sql.files.maxPartitionBytes", 16 << 20).getOrCreate()
)
started = time.perf_counter()
predict = polyrank.spark.predict_udf(run)
rows = spark.read.parquet(source)
rows.select("row", predict().alias("scores")).select("row", "scores.*").write.parquet(out)
Path(seconds).write_text(str(time.perf_counter() - started))
"""


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="medians are shown")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray-python", default=sys.executable)
    parser.add_argument("--spark-python", default=sys.executable)
    return parser.parse_args()


def make(folder: Path, rows: int, seed: int) -> None:
    """Write the rows and the exported model."""
    prepare(folder, rows, 1, seed)
    log = folder / "rows.parquet"
    pl.read_parquet(log).with_row_index("row").write_parquet(folder / "log.parquet")


def commands(folder: Path, args: argparse.Namespace, number: int) -> dict[str, list[str]]:
    """Return the command of each contender; what it writes is numbered by the round."""
    bundle, source = str(folder / "onnxruntime"), str(folder / "log.parquet")
    out = {name: str(folder / f"{name}-{number}") for name in ("plain", "shards", "ray", "spark")}
    predict = [sys.executable, "-m", "polyrank", "predict", bundle, source]
    shards = f"""
import subprocess
jobs = [
    subprocess.Popen([*{predict!r}, "-o", {out["shards"]!r}, "--shard", each, "--threads", "1"])
    for each in ("1/2", "2/2")
]
assert all(job.wait() == 0 for job in jobs)
"""
    found = {
        "plain": [*predict, "-o", out["plain"], "--threads", "2"],
        "shards": [sys.executable, "-c", shards],
    }
    for name, python, script in (
        ("ray", args.ray_python, RAY),
        ("spark", args.spark_python, SPARK),
    ):
        module = {"ray": "ray", "spark": "pyspark"}[name]
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
            print(f"not measured: {name}: {python} has no {module}")
            continue
        seconds = str(folder / f"{name}.seconds")
        found[name] = [python, "-c", script, bundle, source, out[name], seconds]
    return found


def measure(folder: Path, args: argparse.Namespace, number: int) -> dict[str, dict[str, float]]:
    """Run every contender once, and compare what they wrote."""
    found = {}
    for name, command in commands(folder, args, number).items():
        load = os.getloadavg()[0]
        one = run(command, args.rows)
        inner = folder / f"{name}.seconds"
        seconds = float(inner.read_text()) if inner.exists() else one["seconds"]
        found[name] = {
            "seconds": one["seconds"], "rows_per_second": one["rows_per_second"],
            "started_seconds": seconds, "started_rows_per_second": args.rows / seconds,
            "load_before": load,
        }  # fmt: skip
    expected = pl.read_parquet(folder / f"plain-{number}" / "*.parquet").select(COLUMNS)
    for name in found:
        scored = pl.read_parquet(folder / f"{name}-{number}" / "*.parquet")
        if "row" in scored.columns:
            scored = scored.sort("row")
        apart = (scored.select(COLUMNS) - expected).select(pl.all().abs().max()).row(0)
        if scored.height != args.rows or max(apart) > 1e-6:
            sys.exit(f"{name} has {scored.height:,} rows and differs by {max(apart)}")
        found[name]["largest_difference"] = max(apart)
    return found


def show(rounds: list[dict[str, dict[str, float]]], rows: int) -> tuple[str, dict[str, Any]]:
    """Return the table and the medians."""
    found = {
        name: {key: median(one[name][key] for one in rounds) for key in each}
        for name, each in rounds[0].items()
    }
    lines = [
        [
            name, f"{each['seconds']:.1f}", f"{each['rows_per_second']:,.0f}",
            f"{each['started_seconds']:.1f}", f"{each['started_rows_per_second']:,.0f}",
            f"{each['largest_difference']:.1e}", f"{each['load_before']:.1f}",
        ]
        for name, each in found.items()
    ]  # fmt: skip
    header = [
        f"{rows:,} rows", "seconds", "rows/s", "started s", "started rows/s", "apart", "load",
    ]  # fmt: skip
    return aligned(header, lines, range(1, 7)), found


def main() -> None:
    """Prepare, measure in turn, print the table and save the figures."""
    args = options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = multiprocessing.get_context("spawn").Process(
            target=make, args=(folder, args.rows, args.seed)
        )
        prepared.start()
        prepared.join()
        if prepared.exitcode:
            sys.exit("the rows or the model could not be made")
        rounds = [measure(folder, args, number) for number in range(args.rounds)]
    table, medians = show(rounds, args.rows)
    print(table)
    packages = origin("onnxruntime", "polars", "pyarrow")
    kept = {"rows": args.rows, "seed": args.seed, "medians": medians, "rounds": rounds}
    write(RESULTS / "engines.json", packages | kept)


if __name__ == "__main__":
    main()
