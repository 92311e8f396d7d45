"""The raw Ali-CCP: reading its files, an epoch on 23 single values, and one with every list.

Four files are generated in the raw format. Then, each in a process of its own:

- `ingest` turns them into Parquet: rows a second, and the peak of memory;
- `single` trains one epoch of ESMM (towers 16-8, embeddings of 16) on the 23 fields of one value;
- `lists` trains it on 17 fields and all six lists with weights, and compares the look-ups a second
  with those of the compiled kernels alone, look-up and update, on batches that lie ready;
- `check` compares rows of the Parquet files, lists included, with a plain reader's.

Seconds of the whole process and of its own CPU are printed side by side, and the load: on a machine
that others use, only the second says what an idle one would take. Writes results/ali_ccp_raw.json.

    python benchmarks/ali_ccp_raw.py [--rows 10_000_000] [--folder FOLDER] [--steps 500]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl
import torch
from parts.record import RESULTS, origin, write

from polyrank.config import Experiment
from polyrank.data.read import Joined, read
from polyrank.data.table import Table, encode
from polyrank.data.vocab import Vocab
from polyrank.datasets.ali_ccp_parquet import SINGLE_FILE, convert
from polyrank.datasets.ali_ccp_raw import BAGS, ali_ccp_raw
from polyrank.datasets.write import FILE
from polyrank.nn.embed import PackedEmbedder, TensorBag
from polyrank.objective.losses import Supervision
from polyrank.train import loop
from polyrank.train.fit import isolated
from polyrank.train.heads import start
from polyrank.train.loop import Trainer
from polyrank.train.optim import LazyAdam

FULL_ROWS, BATCH = 42_300_135, 4096
READY = 24  # batches that lie ready for the kernels
ESMM = [
    "model.trunk.kind=separate", "model.interaction=false", "model.tower=[16, 8]",
    "model.embed_dim=16", "model.dropout=0.1", "model.field_dropout=0.0", "model.wide=false",
    "model.entire_space=true", f"train.batch_size={BATCH}", "train.epochs=1",
]  # fmt: skip


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return an answer, and the seconds that it took."""
    wall, cpu = perf_counter(), process_time()
    found = call()
    return found, {"seconds": perf_counter() - wall, "cpu_seconds": process_time() - cpu}


def ingest(folder: Path) -> dict[str, Any]:
    """Turn the raw files into Parquet."""
    counts, took = timed(lambda: convert(folder / "raw", folder / "log", force=True))
    rows = counts.rows
    return {
        **took, "rows_per_second": rows / took["seconds"],
        "rows_per_cpu_second": rows / took["cpu_seconds"],
        "full_log_minutes": 2 * FULL_ROWS / rows * took["seconds"] / 60, "counts": counts.to_json(),
    }  # fmt: skip


def loaded(folder: Path, file: str, changes: list[str]) -> tuple[Experiment, Vocab, Table, dict]:
    """Return an experiment and its encoded training rows."""
    experiment = Experiment.load(folder / "log" / file, changes)
    source = experiment.sources().train
    source = source if isinstance(source, Joined) else read(source, experiment.schema)

    def encoded() -> tuple[Vocab, Table]:
        vocab = Vocab.fit(source, experiment.schema)
        return vocab, encode(source, experiment.schema, vocab, split="train", orphans="drop")

    (vocab, table), took = timed(encoded)
    return experiment, vocab, table, took | {"table_bytes": table.nbytes}


def trained(experiment: Experiment, vocab: Vocab, table: Table, steps: int) -> dict[str, float]:
    """Return the speed of an epoch, over its first steps but those that compile."""
    training, schema = experiment.training, experiment.schema
    with isolated(experiment.seed, training):
        ranker = experiment.model.build(experiment.model.layout(schema, vocab))
        start(ranker, table, training.device)
        supervision = Supervision.of(table)
        trainer = Trainer(ranker, training, supervision, train=table, valid=None, seed=1)
        marks = []
        loop.REPORT_STEPS = max(steps // 5, 1)
        for each in trainer.run():
            marks.append((perf_counter(), process_time(), each.rows))
            if each.event == "epoch" or each.step >= steps:
                break
    (wall, cpu, first), (end, end_cpu, last) = marks[0], marks[-1]
    return {
        "rows_per_second": (last - first) / (end - wall),
        "rows_per_cpu_second": (last - first) / (end_cpu - cpu),
        "rows": last - first,
    }  # fmt: skip


def single(folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """Train on the 23 fields of one value."""
    changes = [*ESMM, f"train.threads={threads}"]
    experiment, vocab, table, took = loaded(folder, SINGLE_FILE, changes)
    return {"encode": took, **trained(experiment, vocab, table, steps), "all_rows": len(table)}


def lists(folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """Train with every list, and let the kernels do their part alone."""
    changes = ["features.dense=[]", *ESMM, f"train.threads={threads}"]
    experiment, vocab, table, took = loaded(folder, FILE, changes)
    # Before and after, for a machine that others use changes its speed.
    before = kernels_alone(experiment, vocab, table)
    found = trained(experiment, vocab, table, steps)
    after = kernels_alone(experiment, vocab, table)
    alone = {name: 2 / (1 / each + 1 / after[name]) for name, each in before.items()}
    each = alone.pop("look_ups_a_row")
    reached = found["rows_per_second"] * each
    return {
        "encode": took, **found, "all_rows": len(table), "look_ups_a_row": each,
        "look_ups_per_second": reached, "kernels": alone,
        "share_of_kernels": reached / alone["look_ups_per_second"],
        "share_of_kernels_cpu": found["rows_per_cpu_second"] * each
        / alone["look_ups_per_cpu_second"],
    }  # fmt: skip


def kernels_alone(experiment: Experiment, vocab: Vocab, table: Table) -> dict[str, float]:
    """Return the look-ups a second of look-up and update on batches that lie ready."""
    layout = experiment.model.layout(experiment.schema, vocab)
    training = experiment.training
    with isolated(experiment.seed, training):
        embed = PackedEmbedder(layout)
        engine = LazyAdam(prior=0, decay=0).build(embed, 0.0)
        batches = table.batches(layout, BATCH, shuffle=True, seed=1)
        ready = []
        for batch in islice(batches, READY):
            bags = [TensorBag.of(bag) for bag in batch.bags]
            ready.append((torch.from_numpy(batch.ids), torch.from_numpy(batch.dense), bags))
        gradient = torch.randn(BATCH, layout.width) * 1e-3
        x = None
        found = []
        for round_ in range(3):
            wall, cpu = perf_counter(), process_time()
            for ids, dense, bags in ready:
                x = embed.look_up(ids, dense, bags, x)
                engine.step(ids, gradient, 1e-3, bags)
            if round_:  # the first compiles
                found.append((perf_counter() - wall, process_time() - cpu))
    total = sum(ids.numel() + sum(len(bag.ids) for bag in bags) for ids, _, bags in ready)
    seconds, cpu_seconds = min(found)
    return {
        "look_ups_per_second": total / seconds, "look_ups_per_cpu_second": total / cpu_seconds,
        "look_ups_a_row": total / (BATCH * len(ready)),
    }  # fmt: skip


def check(folder: Path, rows: int = 2_000) -> dict[str, int]:
    """Compare the first training rows with what a plain reader makes of the raw files."""
    with (folder / "raw" / "sample_skeleton_train.csv").open() as file:
        wanted = [line.rstrip("\n").split(",") for line in islice(file, rows)]
    indices = {line[3] for line in wanted}
    common = {}
    with (folder / "raw" / "common_features_train.csv").open() as file:
        for line in file:
            index, _, text = line.rstrip("\n").split(",")
            if index in indices:
                common[index] = text
    log = folder / "log"
    frame = read(log / "train.parquet").head(rows).collect()
    numbers = frame["common"].unique()
    own = read(log / "common.parquet").filter(pl.col("common").is_in(numbers.to_list())).collect()
    joined = frame.join(own, on="common", how="left", maintain_order="left")
    values = 0
    for line, row in zip(wanted, joined.iter_rows(named=True), strict=True):
        features: dict[str, list[tuple[int, float]]] = {}
        for each in f"{line[5]}\x01{common[line[3]]}".split("\x01"):
            field, rest = each.split("\x02")
            number, value = rest.split("\x03")
            pair = int(number), float(np.float32(float(value)))
            features.setdefault(field, []).append(pair)
        assert [row["click"], row["purchase"]] == [int(line[1]), int(line[2])]
        for field, pairs in features.items():
            assert row[field] == pairs[-1][0]
            if field in BAGS:
                assert row[f"{field}.all"] == [number for number, _ in pairs]
                assert row[f"{field}.values"] == [value for _, value in pairs]
            values += len(pairs)
    return {"rows": rows, "values": values}


def main() -> None:
    """Run all parts, each in a process of its own, or one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="kept; a temporary one by default")
    parser.add_argument("--steps", type=int, default=500, help="of an epoch that are timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=["ingest", "single", "lists", "check"])
    args = parser.parse_args()
    if args.part:
        calls = {
            "ingest": lambda: ingest(args.folder),
            "single": lambda: single(args.folder, args.steps, args.threads),
            "lists": lambda: lists(args.folder, args.steps, args.threads),
            "check": lambda: check(args.folder),
        }
        found = calls[args.part]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**found, "peak_bytes": peak, "load": os.getloadavg()}))
        return
    folder = args.folder or Path(tempfile.mkdtemp(prefix="ali-ccp-"))
    try:
        if not (folder / "raw").exists():
            ali_ccp_raw(folder / "raw", rows=args.rows)
        results: dict[str, Any] = {}
        for part in ("ingest", "check", "single", "lists"):
            options = ["--folder", folder, "--steps", args.steps, "--threads", args.threads]
            command = [sys.executable, __file__, "--part", part, *map(str, options)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[part] = json.loads(done.stdout.splitlines()[-1])
            print(part, json.dumps(results[part], indent=1), flush=True)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)
    settings = {"rows": args.rows, "steps": args.steps, "threads": args.threads, "batch": BATCH}
    write(RESULTS / "ali_ccp_raw.json", {**origin("numba", "polars"), **settings, **results})


if __name__ == "__main__":
    main()
