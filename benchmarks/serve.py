"""How fast a bundle answers over HTTP, beside the handler that people write; on 2 cores.

The model: an MMoE on the 31 features of Ali-CCP with full vocabularies, 1.5 M ids; click, buy given
click, and a fused score (`parts/served.py`). A request ranks 100 items for one user: 64 different
ones, in JSON. Three measurements, each bounded in count and time:

1. The engine alone, in a process without torch: µs of a call.
2. HTTP over loopback at some concurrencies: `polyrank serve`, asked in three shapes (full rows as
   records; the same as columns; a context and its candidates), and FastAPI with a pydantic model a
   row, a dictionary look-up a cell and the same weights in eager torch on one thread, asked with
   full rows (`parts/naive_server.py`). Both run uvicorn with httptools and uvloop, a process each,
   and no access log. Before anything is timed, every request's answers must agree within 1e-6.
   The four take turns in blocks of some seconds. Cells are medians over the blocks; the ratio of
   rows a second is the median of each round's ratio to FastAPI. The load (`parts/load.py`) is a
   third process on the same 2 cores, made to cost little: its own share of a core is shown.
3. With --soak and instead of these: good and faulty requests at concurrency 16 for so many seconds,
   each with the status that it must get, and the server's memory each second.

    python benchmarks/serve.py [--rounds 5] [--seconds 4] [--concurrency 1 8 32] [--quick]
    python benchmarks/serve.py --soak 600

Writes results/serve.json or results/serve_soak.json, or nothing with --quick. Needs the extra
[serve] and fastapi (extra [bench]); and Linux, for epoll and /proc.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from parts import naive_server, served
from parts.load import BENCHMARKS, Found, Sent, measured
from parts.record import RESULTS, origin, write
from parts.server import Server, serving
from parts.soak import PATH, mixed, soak

import polyrank as pr
from polyrank.text import aligned

THEIRS = "FastAPI, records"
RECORDS, RANKING, COLUMNS = (
    f"polyrank, {shape}" for shape in ("records", "context + candidates", "columns")
)
MOST_REQUESTS = 50_000  # of a block
MOST_OFF, MOST_SCORE_OFF = 1e-6, 1e-5  # a score is a sum of logs, which are large
BAR_P50_MS, BAR_P99_MS, BAR_ENGINE_US, BAR_RATIO, BAR_SPREAD = 3.0, 10.0, 500.0, 4.0, 0.05
PACKAGES = ("onnxruntime", "starlette", "fastapi", "uvicorn", "pydantic", "httptools", "uvloop",
            "polars")  # fmt: skip


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each block")
    parser.add_argument("--soak", type=int, metavar="SECONDS", help="the long load instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="2 short rounds, for a first look")
    parser.add_argument("--out", type=Path, help="the results file")
    found = parser.parse_args()
    if found.soak is not None and found.soak < 10:
        parser.error(f"--soak {found.soak}: 10 seconds at least")
    if found.quick:
        found.rounds, found.seconds = 2, 1.0
    elif found.out is None:
        found.out = RESULTS / ("serve.json" if found.soak is None else "serve_soak.json")
    return found


def bodies(requests: Sequence[served.Request]) -> dict[str, list[Sent]]:
    """Return what each contender is asked, the same requests in its shape."""

    def sent(name: str, path: str, each: Mapping[str, Any]) -> Sent:
        return Sent(name, path, json.dumps(each).encode())

    records = [{"rows": each.rows} for each in requests]
    columns = [{"rows": each.columns} for each in requests]
    ranking = [{"context": each.context, "candidates": each.candidates} for each in requests]
    return {
        RECORDS: [sent(RECORDS, PATH, each) for each in records],
        THEIRS: [sent(THEIRS, naive_server.PATH, each) for each in records],
        RANKING: [sent(RANKING, PATH, each) for each in ranking],
        COLUMNS: [sent(COLUMNS, PATH, each) for each in columns],
    }


def answered(server: Server, sent: Sent) -> dict[str, Any]:
    """Return the JSON that a server answers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        head = {"Content-Type": "application/json"}
        connection.request("POST", sent.path, sent.body, head)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != sent.status:
        raise SystemExit(f"{sent.kind}: status {answer.status}: {text[:1000].decode()}")
    return json.loads(text)


def check(
    requests: Sequence[served.Request],
    asked: Mapping[str, Sequence[Sent]],
    servers: Mapping[str, Server],
    bundle: Path,
) -> dict[str, float]:
    """Return how far each contender's probabilities are from the engine's; refuse what differs."""
    engine = pr.Engine(bundle)
    largest = {}
    for name, each in asked.items():
        off = score_off = 0.0
        for request, sent in zip(requests, each, strict=True):
            columns = request.columns
            expected = engine.predict(columns)
            found = answered(servers[name], sent)
            if name == THEIRS:
                table = found["predictions"]
                outputs = {key: [row[key] for row in table] for key in table[0]}
                score = outputs.pop("score")
            else:
                outputs, score = found["outputs"], found["score"]
            for key in expected.columns:
                differences = np.abs(expected[key].to_numpy() - np.array(outputs[key]))
                off = max(off, float(differences.max()))
            p_click, p_buy = (expected[key].to_numpy() for key in ("p_click", "p_buy"))
            fused = served.FUSION["click"] * np.log(p_click) + served.FUSION["buy"] * np.log(p_buy)
            score_off = max(score_off, float(np.abs(fused - np.array(score)).max()))
        if off > MOST_OFF or score_off > MOST_SCORE_OFF:
            raise SystemExit(
                f"{name} answers otherwise: probabilities by {off:.2g}, scores by {score_off:.2g}"
            )
        largest[name] = off
    return largest


def engine_alone(bundle: Path, seed: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return the µs of a call by shape."""
    numbers = (str(seed), str(seconds))
    command = [sys.executable, "-m", "parts.engine_alone", str(bundle), *numbers]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the engine alone: {done.stderr}")
    return {
        shape: {
            "calls": len(each),
            "p50_us": median(each),
            "p99_us": float(np.quantile(each, 0.99)),
        }
        for shape, each in json.loads(done.stdout).items()
    }


def over_http(
    asked: Mapping[str, Sequence[Sent]], servers: Mapping[str, Server], args: argparse.Namespace
) -> dict[int, dict[str, list[Found]]]:
    """Load the contenders in turn, at each concurrency."""
    found: dict[int, dict[str, list[Found]]] = {}
    for concurrency in args.concurrency:
        blocks = found[concurrency] = {name: [] for name in asked}
        for number in range(args.rounds + 1):
            for name, each in asked.items():
                block = measured(
                    servers[name].port, each, concurrency=concurrency, most=MOST_REQUESTS,
                    seconds=args.seconds if number else min(args.seconds, 1.0),
                )  # fmt: skip
                if block.unexpected:
                    raise SystemExit(f"unexpected answers: {block.unexpected}")
                if number:  # the first is a warm-up
                    blocks[name].append(block)
            sys.stderr.write(f"concurrency {concurrency}: round {number} of {args.rounds}\n")
    return found


def summary(blocks: Mapping[str, Sequence[Found]]) -> dict[str, dict[str, float]]:
    """Return the medians of each contender's blocks, and its rows a second beside FastAPI's."""
    rates = {
        name: [served.CANDIDATES * each.requests / each.seconds for each in found]
        for name, found in blocks.items()
    }
    return {
        name: {
            "requests_per_second": median(rates[name]) / served.CANDIDATES,
            "rows_per_second": median(rates[name]),
            "p50_ms": median(each.p50_ms for each in found),
            "p99_ms": median(each.p99_ms for each in found),
            "client": median(each.client for each in found),
            "ratio": median(a / b for a, b in zip(rates[name], rates[THEIRS], strict=True)),
        }
        for name, found in blocks.items()
    }


def met(whether: bool) -> str:
    """Return the word for a bar."""
    return "met" if whether else "MISSED"


def show_engine(found: Mapping[str, Mapping[str, float]]) -> None:
    """Print the engine's table."""
    lines = [
        [shape, f"{each['calls']:,}", f"{each['p50_us']:.0f}", f"{each['p99_us']:.0f}"]
        for shape, each in found.items()
    ]
    print(aligned(["the engine alone", "calls", "p50 µs", "p99 µs"], lines, [1, 2, 3]))
    worst = max(each["p50_us"] for shape, each in found.items() if shape.startswith("answer"))
    print(f"bar: p50 of 100 raw rows ≤ {BAR_ENGINE_US:.0f} µs: {met(worst <= BAR_ENGINE_US)}",
          flush=True)  # fmt: skip


def show_http(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> None:
    """Print a table a concurrency, and the bars."""
    for concurrency, contenders in found.items():
        lines = [
            [name, f"{each['requests_per_second']:,.0f}", f"{each['rows_per_second']:,.0f}",
             f"{each['p50_ms']:.2f}", f"{each['p99_ms']:.2f}", f"{each['ratio']:.2f}×",
             f"{each['client']:.0%}"]
            for name, each in contenders.items()
        ]  # fmt: skip
        header = [f"concurrency {concurrency}", "requests/s", "rows/s", "p50 ms", "p99 ms",
                  "rows/s to FastAPI", "load's share of a core"]  # fmt: skip
        print(f"\n{aligned(header, lines, range(1, len(header)))}")
    if 1 in found:
        p50, p99 = (found[1][RANKING][key] for key in ("p50_ms", "p99_ms"))
        fast = p50 <= BAR_P50_MS and p99 <= BAR_P99_MS
        print(f"bar: 1 context × 100 candidates, concurrency 1: p50 ≤ {BAR_P50_MS:g} ms and p99 ≤ "
              f"{BAR_P99_MS:g} ms: {met(fast)}")  # fmt: skip
    for name in (RECORDS, RANKING):
        least = min(each[name]["ratio"] for each in found.values())
        print(f"bar: {name}: at least {BAR_RATIO:g}× FastAPI's rows/s at every concurrency: "
              f"{met(least >= BAR_RATIO)} ({least:.2f}×)", flush=True)  # fmt: skip


def compare(bundle: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the engine and both servers."""
    alone = engine_alone(bundle, args.seed, 4 * args.seconds)
    show_engine(alone)
    requests = served.requests(args.seed)
    asked = bodies(requests)
    sizes = {name: round(median(len(sent.body) for sent in each)) for name, each in asked.items()}
    with ExitStack() as stack:
        ours = stack.enter_context(serving(["-m", "polyrank", "serve", str(bundle), "--port", "0"]))
        theirs = stack.enter_context(serving(["-m", "parts.naive_server", str(bundle)]))
        servers = {name: theirs if name == THEIRS else ours for name in asked}
        off = check(requests, asked, servers, bundle)
        blocks = over_http(asked, servers, args)
        memory = {"polyrank": ours.memory_mib, "FastAPI": theirs.memory_mib}
    figures = {concurrency: summary(each) for concurrency, each in blocks.items()}
    show_http(figures)
    print("bytes of a request: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    print("MiB resident: " + ", ".join(f"{name} {size:,.0f}" for name, size in memory.items()))
    return {
        "rounds": args.rounds, "seconds": args.seconds, "candidates": served.CANDIDATES,
        "requests": served.REQUESTS, "bytes": sizes, "largest_difference": off,
        "memory_mib": memory, "engine": alone, "http": figures,
        "blocks": {
            concurrency: {name: [asdict(block) for block in each] for name, each in found.items()}
            for concurrency, found in blocks.items()
        },
    }  # fmt: skip


def long_load(bundle: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Soak our server."""
    sent = mixed(served.requests(args.seed), args.seed)
    with serving(["-m", "polyrank", "serve", str(bundle), "--port", "0"]) as server:
        soaked = soak(server, sent, args.soak)
    found, after = soaked.found, soaked.memory_mib[soaked.warm_up :]
    lines = [[kind, f"{count:,}"] for kind, count in sorted(found.statuses.items())]
    print(aligned(["request, status", "answers"], lines, [1]))
    print(f"{found.requests:,} requests in {found.seconds:.0f} s, p50 {found.p50_ms:.1f} ms, p99 "
          f"{found.p99_ms:.1f} ms, longest {found.longest_ms:.1f} ms")  # fmt: skip
    print(f"resident memory after {soaked.warm_up} s: first {after[0]:,.1f}, lowest "
          f"{min(after):,.1f}, highest {max(after):,.1f}, last {after[-1]:,.1f} MiB")  # fmt: skip
    print(f"bar: flat within {BAR_SPREAD:.0%}: {met(soaked.spread <= BAR_SPREAD)} "
          f"({soaked.spread:.2%})")  # fmt: skip
    print(f"bar: no unexpected answer: {met(not found.unexpected)} {found.unexpected or ''}")
    return {"soak": asdict(soaked) | {"spread": soaked.spread}}


def main() -> None:
    """Make the model, measure, print and keep the figures."""
    args = options()
    with tempfile.TemporaryDirectory() as name:
        bundle = Path(name) / "bundle"
        served.write_bundle(bundle, args.seed)
        found = compare(bundle, args) if args.soak is None else long_load(bundle, args)
    if args.out is not None:
        write(args.out, {**origin(*PACKAGES), "seed": args.seed, **found})


if __name__ == "__main__":
    main()
