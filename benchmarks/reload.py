"""Whether serving lasts: bundles replaced under load, and two processes beside one; on Linux.

1. Reloads. Two bundles of one schema, fitted on other rows, so that rows of vocabularies, weights
   and every number differ: an answer that is to the byte that of the bundle which it names is of
   that bundle alone. They take turns in the folder of `polyrank serve`, by rename, each with
   SIGHUP; every tenth is damaged and must be refused. A load at concurrency 16 checks every answer
   (`parts/marked.py`). At each reload the server's resident memory is read.
2. Kills. SIGKILL at a random moment of a reload: the folder is whole, and a server starts on it.
3. Workers, with the model of `serve.py` (`parts/served.py`; a smaller one with --quick): requests
   a second of the servers' own time on the processors, of one process and of two, in turns; what
   the second adds to memory (proportional set size); and one of two restarted by SIGTERM under load
   again and again.

    python benchmarks/reload.py [--reloads 1000] [--kills 20] [--rounds 5] [--seconds 5] [--quick]

Writes results/reload.json, or nothing with --quick.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
from parts import served
from parts.load import Sent, measured, started
from parts.marked import checking, ended
from parts.record import RESULTS, origin, write
from parts.server import Server, serving

import polyrank as pr
from polyrank.files import replacing_folder
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.export.write import export

CONCURRENCY = 16
DAMAGED = 10  # every so manieth bundle
WARM_UP = 0.1  # share of the reloads left out of the memory figures
MOST_REQUESTS = 10_000_000
PATH = "/v1/score"
BAR_SPREAD, BAR_RATE, BAR_MEMORY = 0.05, 0.95, 0.30
PACKAGES = ("onnxruntime", "starlette", "uvicorn", "httptools", "uvloop", "polars", "pyarrow")


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each block")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few and small, for a first look")
    parser.add_argument("--out", type=Path, default=RESULTS / "reload.json")
    found = parser.parse_args()
    if found.quick:
        found.reloads, found.kills, found.rounds, found.seconds = 20, 2, 1, 1.0
        found.out = None
    return found


def marked(folder: Path, seed: int) -> pl.DataFrame:
    """Write a small exported bundle into a folder, and return rows to ask for."""
    random = np.random.default_rng(seed)
    size = 20_000
    user = random.integers(0, 4000, size)
    item = random.integers(0, 2000, size)
    click = random.random(size) < 1 / (1 + np.exp(2 - (user % 7) / 3 - (item % 5) / 4))
    log = pl.DataFrame(
        {
            "user": user, "item": item, "city": [f"city {n}" for n in user % 500],
            "price": random.lognormal(size=size), "click": click.astype(int),
            "buy": (click & (random.random(size) < 0.2)).astype(int),
        }
    )  # fmt: skip
    schema = pr.Schema(
        [pr.SparseFeature("user"), pr.SparseFeature("item"), pr.SparseFeature("city"),
         pr.DenseFeature("price")],
        [pr.Task("click"), pr.Task("buy", given="click")],
        pr.Keys(user="user"),
    )  # fmt: skip
    model = pr.Model(tower=[16], embed_dim=8)
    bundle = pr.fit(schema, model, train=log, epochs=1, batch_size=1024, seed=seed)
    bundle.save(folder)
    rows = log.select(schema.inputs)
    export(bundle, folder, [rows.head(2000)])
    return rows


def placed(bundle: Path, run: Path, *, damaged: bool = False) -> None:
    """Put a bundle into a run's folder by rename; its files are links, so nothing is copied."""
    with replacing_folder(run / "bundle") as new:
        shutil.copytree(bundle, new, dirs_exist_ok=True, copy_function=os.link)
        if damaged:
            whole = (bundle / "model.onnx").read_bytes()
            (new / "model.onnx").unlink()
            (new / "model.onnx").write_bytes(whole[: len(whole) // 2])


def counted(port: int, name: str) -> float:
    """Return a metric of a server, of all its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(each.rsplit(" ", 1)[1]) for each in lines if each.startswith(name))


def reloads(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Replace bundles under load."""
    bundles = [work / "a", work / "b"]
    rows, _ = (marked(each, args.seed + number) for number, each in enumerate(bundles))
    batches = [rows[n * 50 : (n + 1) * 50].to_dict(as_series=False) for n in range(32)]
    bodies = [json.dumps({"rows": each}).encode() for each in batches]
    expected = {
        (engine := pr.Engine(each)).version: [Scorer(engine, 1000)(body).body for body in bodies]
        for each in bundles
    }
    sent = [Sent("columns", PATH, each) for each in bodies]
    run = work / "run"
    run.mkdir()
    placed(bundles[0], run)
    memory, seconds = [], []
    loaded = refused = 0
    command = ["-m", "polyrank", "serve", str(run), "--port", "0"]
    with (
        serving(command) as server,
        checking(work, server.port, sent, expected, CONCURRENCY) as child,
    ):
        for number in range(args.reloads):
            damaged = number % DAMAGED == DAMAGED - 1
            placed(bundles[(loaded + 1) % 2], run, damaged=damaged)
            loaded, refused = loaded + (not damaged), refused + damaged
            outcome, count = ("refused", refused) if damaged else ("loaded", loaded)
            name = f'polyrank_reloads_total{{model="default",outcome="{outcome}"}}'
            begun = time.perf_counter()
            os.kill(server.process, signal.SIGHUP)
            while counted(server.port, name) < count:
                if time.perf_counter() - begun > 60:
                    raise SystemExit(f"reload {number}: no outcome in 60 s")
                time.sleep(0.01)
            seconds.append(time.perf_counter() - begun)
            memory.append(server.memory_mib)
            if (number + 1) % 100 == 0:
                sys.stderr.write(f"{number + 1} reloads, {memory[-1]:,.1f} MiB\n")
        found = ended(child)
    return {
        "loaded": loaded, "refused": refused, "seconds_median": median(seconds),
        "memory_mib": memory, "load": asdict(found),
    }  # fmt: skip


def kills(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Kill a server within its reloads; the folder that it reads stays whole."""
    run, bundles = work / "run", [work / "a", work / "b"]
    random = np.random.default_rng(args.seed)
    placed(bundles[0], run)
    whole = 0
    for number in range(args.kills):
        with serving(["-m", "polyrank", "serve", str(run), "--port", "0"]) as server:
            placed(bundles[number % 2], run)
            os.kill(server.process, signal.SIGHUP)
            time.sleep(random.uniform(0, 0.2))
            os.kill(server.process, signal.SIGKILL)
        whole += pr.Engine(run).version == pr.Engine(bundles[number % 2]).version
    return {"kills": args.kills, "whole": whole}


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    tasks = Path(f"/proc/{process}/task")
    texts = [(each / "children").read_text(encoding="ascii") for each in tasks.iterdir()]
    return [int(each) for each in " ".join(texts).split()]


def processor_seconds(process: int) -> float:
    """Return what a process and its children have used, those that ended too."""
    total = 0
    for each in (process, *children(process)):
        fields = Path(f"/proc/{each}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def answering(process: int) -> list[int]:
    """Return the processes of a server that answer: its workers, or itself."""
    return children(process) or [process]


def proportional_mib(process: int) -> float:
    """Return the proportional set size of a process in MiB."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    (line,) = [line for line in text.splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) / 1024


def rate(server: Server, sent: list[Sent], seconds: float) -> tuple[float, float]:
    """Return requests a second of the server's time, and a second of the clock."""
    before = processor_seconds(server.process)
    found = measured(server.port, sent, concurrency=CONCURRENCY, seconds=seconds,
                     most=MOST_REQUESTS)  # fmt: skip
    used = processor_seconds(server.process) - before
    if found.unexpected:
        raise SystemExit(f"unexpected answers: {found.unexpected}")
    return found.requests / used, found.requests / found.seconds


def workers(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare two processes with one."""
    bundle = work / "a" if args.quick else work / "served"
    if args.quick:
        rows = marked(work / "again", args.seed).head(3200)
        bodies = [
            json.dumps({"rows": each.to_dict(as_series=False)}).encode()
            for each in rows.iter_slices(100)
        ]
    else:
        served.write_bundle(bundle, args.seed)
        bodies = [
            json.dumps({"context": each.context, "candidates": each.candidates}).encode()
            for each in served.requests(args.seed)
        ]
    sent = [Sent("ranking", PATH, body) for body in bodies]
    command = ["-m", "polyrank", "serve", str(bundle), "--port", "0"]
    with serving(command) as one, serving([*command, "--workers", "2"]) as two:
        for server in (one, two):
            rate(server, sent, min(args.seconds, 1.0))  # a warm-up
        rounds = []
        for number in range(args.rounds):
            both = {"one": one, "two": two} if number % 2 == 0 else {"two": two, "one": one}
            rounds.append({name: rate(each, sent, args.seconds) for name, each in both.items()})
        ratios = [each["two"][0] / each["one"][0] for each in rounds]
        restarts = restarted(two, sent, args)
    memory = {}
    for name, count in {"one": "1", "two": "2"}.items():  # nobody else maps what they map
        with serving([*command, "--workers", count]) as server:
            rate(server, sent, min(args.seconds, 1.0))
            memory[name] = {
                "workers": [proportional_mib(each) for each in answering(server.process)],
                "parent": proportional_mib(server.process) if count == "2" else 0.0,
            }
    return {"rounds": rounds, "ratio": median(ratios), "memory_mib": memory, "restarts": restarts}


def restarted(server: Server, sent: list[Sent], args: argparse.Namespace) -> dict[str, Any]:
    """End one of two workers by SIGTERM again and again, under load."""
    count = max(2, args.rounds)
    limits = {"concurrency": CONCURRENCY, "seconds": 600.0, "most": MOST_REQUESTS}
    with started(server.port, sent, **{**limits, "seconds": 8.0 * count}) as child:
        for _ in range(count):
            time.sleep(1.0)
            before = children(server.process)
            os.kill(before[0], signal.SIGTERM)
            deadline = time.monotonic() + 60
            while before[0] in children(server.process) or len(children(server.process)) < 2:
                if time.monotonic() > deadline:
                    raise SystemExit("a worker was not started again in 60 s")
                time.sleep(0.05)
            while counted(server.port, "polyrank_bundle{") < 2:
                time.sleep(0.05)
        output, _ = child.communicate(timeout=600)
    found = json.loads(output)
    return {"restarts": count, "requests": found["requests"], "unexpected": found["unexpected"]}


def met(whether: bool) -> str:
    """Return the word for a bar."""
    return "met" if whether else "MISSED"


def show(found: Mapping[str, Any]) -> None:
    """Print the figures and the bars."""
    show_reloads(found["reloads"])
    whole, kills_ = found["kills"]["whole"], found["kills"]["kills"]
    print(f"bar: whole after a kill: {met(whole == kills_)} ({whole} of {kills_})")
    show_workers(found["workers"])


def show_reloads(part: Mapping[str, Any]) -> None:
    """Print what came of the reloads."""
    load, memory = part["load"], part["memory_mib"]
    after = memory[int(WARM_UP * len(memory)) :]
    spread = (max(after) - min(after)) / after[0]
    print(f"{part['loaded']:,} bundles loaded and {part['refused']:,} damaged ones refused under "
          f"load, {part['seconds_median'] * 1e3:,.0f} ms each (median)")  # fmt: skip
    print(f"answers by version: {load['answers']}; p50 {load['p50_ms']:.1f} ms, p99 "
          f"{load['p99_ms']:.1f} ms, longest {load['longest_ms']:.1f} ms")  # fmt: skip
    fine = not (load["lost"] or load["wrong"] or load["statuses"])
    print(f"bar: none lost, none of half a bundle: {met(fine)} (lost {load['lost']}, wrong "
          f"{load['wrong']}, other statuses {load['statuses'] or 0})")  # fmt: skip
    print(f"bar: memory flat within {BAR_SPREAD:.0%}: {met(spread <= BAR_SPREAD)} ({spread:.1%}; "
          f"first {after[0]:,.1f}, highest {max(after):,.1f}, last {after[-1]:,.1f} MiB)",
          flush=True)  # fmt: skip


def show_workers(part: Mapping[str, Any]) -> None:
    """Print two workers beside one."""
    for each in part["rounds"]:
        shown = [f"{name} {own:,.0f} ({clock:,.0f})" for name, (own, clock) in sorted(each.items())]
        print(f"requests a second of the server's time (of the clock): {', '.join(shown)}")
    ratio = part["ratio"]
    print(f"bar: two ≥ {BAR_RATE:g} × one: {met(ratio >= BAR_RATE)} ({ratio:.3f}, median)")
    one, two = (sum(part["memory_mib"][name]["workers"]) for name in ("one", "two"))
    share, parent = (two - one) / one, part["memory_mib"]["two"]["parent"]
    print(f"MiB, proportional: one {one:,.1f}; two {two:,.1f}, and their parent {parent:,.1f}")
    fine = share <= BAR_MEMORY
    print(f"bar: the second worker adds ≤ {BAR_MEMORY:.0%} of one: {met(fine)} ({share:.1%})")
    again = part["restarts"]
    lost = again["unexpected"]
    print(f"bar: no request lost in {again['restarts']} restarts: {met(not lost)} "
          f"({again['requests']:,} answered, {lost or 'none lost'})", flush=True)  # fmt: skip


def main() -> None:
    """Measure, print and keep the figures."""
    args = options()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        found = {"reloads": reloads(work, args), "kills": kills(work, args),
                 "workers": workers(work, args)}  # fmt: skip
    show(found)
    if args.out is not None:
        write(args.out, {**origin(*PACKAGES), "seed": args.seed, **found})


if __name__ == "__main__":
    main()
