"""`torchrun -m polyrank train`: killed processes, and other numbers of them that go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from safetensors.numpy import load_file
from tests.train.of_ranks import log

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")

SETTINGS = """
name = "together"
seed = 4
[data]
train = "train.parquet"
valid = "valid.parquet"
[features]
sparse = ["user", "item"]
dense = ["age"]
[[task]]
name = "click"
[[task]]
name = "buy"
given = "click"
[train]
epochs = 3
batch_size = 8
checkpoint = { steps = 7 }
"""
EPOCH = 1600
SHARDED = ("--set", 'train.tables="sharded"')
WEIGHTS = Path("bundle") / "weights.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of an experiment, and its run by two processes that nobody disturbs."""
    path = tmp_path_factory.mktemp("torchrun")
    (path / "exp.toml").write_text(SETTINGS)
    for split, rows, seed in (("train", EPOCH, 0), ("valid", 300, 1)):
        frame = pl.DataFrame(log(rows, seed)).drop("tags", "spend")
        frame.write_parquet(path / f"{split}.parquet")
    done = started(path, 2, "straight").communicate(timeout=300)
    assert (path / "straight" / "scorecard.json").is_file(), done[1]
    return path


def started(folder: Path, count: int, out: str, *options: str, restarts: int = 0):
    """Start processes as a user does; the launcher's own output goes to stderr."""
    launch = [
        "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
        f"--nproc-per-node={count}", f"--max-restarts={restarts}", "-m", "polyrank",
    ]  # fmt: skip
    if count == 1:
        launch = ["-m", "polyrank"]
    return subprocess.Popen(
        [sys.executable, *launch, "train", "exp.toml", "--out", out, "--json", *options],
        cwd=folder, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    """Return the processes that one started, by what Linux says of it."""
    return [
        int(each)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for each in (thread / "children").read_text().split()
    ]


def rank_of(pid: int) -> int:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return int(dict(each.split(b"=", 1) for each in entries if b"=" in each)[b"RANK"])


def killed(process: subprocess.Popen, folder: Path, rank: int | None) -> None:
    """Kill a process of a run, or all, in the middle of its second epoch."""
    file, end = folder / "log.jsonl", time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        lines = file.read_text().splitlines() if file.is_file() else []
        # The line of a checkpoint is written before it, and before the last one is sure to count.
        if sum('"checkpoint"' in line and '"epoch": 2,' in line for line in lines) > 2:
            break
    for worker in children(process.pid):
        if rank in (rank_of(worker), None):
            os.kill(worker, signal.SIGKILL)
    if rank is None:
        process.kill()


def printed(output: str) -> dict:
    """Return the one JSON of an output, in which Gloo, of torch 2.9, names its connections."""
    lines = output.splitlines(keepends=True)
    return json.loads("".join(line for line in lines if not line.startswith("[Gloo]")))


def epochs(folder: Path) -> list[dict]:
    """Return the records of the log, but for their clocks."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    clocks = ("seconds", "rows_per_second")
    return [
        {k: v for k, v in line.items() if k not in clocks}
        for line in lines
        if line["event"] == "epoch"
    ]


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


def test_the_log_and_the_output_are_of_all_processes(folder):
    records = epochs(folder / "straight")
    assert [(each["ranks"], each["rows"]) for each in records] == [(2, EPOCH)] * 3


@pytest.fixture(scope="module")
def sharded(folder):
    """A run by two processes that hold the tables between them."""
    done = started(folder, 2, "sharded", *SHARDED).communicate(timeout=300)
    assert (folder / "sharded" / "scorecard.json").is_file(), done[1]
    return "sharded"


def test_a_run_that_shards_its_tables_ends_with_all_of_them(folder, sharded):
    """One that replicates them sums up a few things of wide rows in another order."""
    for one, two in zip(epochs(folder / "straight"), epochs(folder / sharded), strict=True):
        for key in (key for key in one if key.endswith(" loss")):
            assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6), key
    straight, found = (load_file(folder / run / WEIGHTS) for run in ("straight", sharded))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in straight.items()}
    hidden = [file.name for file in (folder / sharded).rglob(".*")]
    assert hidden == []
    kept = sorted(file.name for file in (folder / sharded / "checkpoint").iterdir())
    assert kept == [
        "rows-3-0-0-of-2.safetensors", "rows-3-0-1-of-2.safetensors", "state.safetensors"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "tables"), [(1, "replicated"), (None, "sharded"), (0, "sharded")],
    ids=["one", "all, sharded", "the first, sharded"],
)  # fmt: skip
def test_a_run_of_which_processes_are_killed_is_resumed_to_the_same_bits(
    folder, sharded, rank, tables
):
    out, options = f"killed-{rank}-{tables}", SHARDED if tables == "sharded" else ()
    straight = sharded if options else "straight"
    process = started(folder, 2, out, *options)
    killed(process, folder / out, rank)
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    if rank:  # the launcher says who, and the others say so if they live to see it
        assert f"rank      : {rank} (local_rank: {rank})" in errors
        said = "another process of this run has ended or cannot be reached"
        assert said in errors or "SIGTERM" in errors
    assert len(epochs(folder / out)) == 1
    output, errors = started(folder, 2, out, "--resume", *options).communicate(timeout=200)
    assert output, errors
    assert printed(output)["run"] == out  # printed once
    assert epochs(folder / out) == epochs(folder / straight)
    assert weights(folder / out) == weights(folder / straight)


@pytest.mark.slow
def test_torchrun_goes_on_by_itself(folder):
    process = started(folder, 2, "restarted", restarts=1)
    killed(process, folder / "restarted", 0)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert printed(output)["run"] == "restarted"
    assert weights(folder / "restarted") == weights(folder / "straight")


@pytest.fixture(scope="module")
def undrawn(folder):
    """A sharded run without draws that was killed within an epoch; and one process's epochs."""
    drawn = ("model.dropout", "model.field_dropout", "train.unseen_rate")
    still = [part for each in drawn for part in ("--set", f"{each}=0.0")]
    still += SHARDED
    process = started(folder, 2, "undrawn", *still)
    killed(process, folder / "undrawn", None)
    process.communicate(timeout=200)
    alone = started(folder, 1, "alone", *still, "--set", "train.batch_size=16")
    alone.communicate(timeout=200)
    return still, epochs(folder / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_other_numbers_of_processes_go_on(folder, undrawn, count):
    """Where the epoch is ended, it is of the same joined batches; then epochs are their own."""
    (still, whole), out = undrawn, f"by-{count}"
    shutil.copytree(folder / "undrawn", folder / out)
    errors = started(folder, count, out, *still, "--resume").communicate(timeout=200)[1]
    records = epochs(folder / out)
    assert [each["ranks"] for each in records] == [2, count, count], errors
    assert [each["rows"] for each in records] == [EPOCH] * 3
    steps = [each["step"] for each in records]
    assert steps == [EPOCH // 16, EPOCH // 16, -(-EPOCH // (8 * count))]
    for at, tolerance in ((0, 1e-5), (1, 1e-3)):  # decay is by the steps of a whole epoch
        for key, value in records[at].items():
            if key.startswith("train ") and key.endswith(" loss"):
                assert value == pytest.approx(whole[at][key], rel=tolerance), key
