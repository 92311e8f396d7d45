"""Training in two processes beside one: rows per second, and what is exchanged.

The log of `train_speed.py` (Ali-CCP's shape: 23 fields of ids, 1.4 million embedding rows), a
thread a process, `batch_size` rows of each process. In each round both are started anew, one after
the other; the first epoch (allocation, just-in-time compilation) is left out. Cells are medians
over rounds, the ratio is the median of each round's.

    python benchmarks/ranks.py [--ranks 1 2] [--batch 4096] [--rounds 3] [--quick]

Writes results/ranks.json, or nothing with --quick.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from parts.contenders import LR, PLAIN, WIDTH
from parts.log import VOCABULARY, drawn
from parts.record import RESULTS, origin, write

import polyrank as pr
from polyrank.text import aligned
from polyrank.train.explain import explain
from polyrank.train.sources import Sources
from polyrank.train.training import REPLICATED, SHARDED

MODELS = {
    "ESMM": pr.ESMM(tower=[16, 8], embed_dim=WIDTH["ESMM"], dropout=0),
    "MMoE": pr.Model(trunk=pr.MMoE(experts=8, hidden=[16]), tower=[8], embed_dim=WIDTH["MMoE"],
                     dropout=0, **PLAIN),
    "default": pr.Model(),
}  # fmt: skip


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", nargs="+", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--tables", nargs="+", choices=[REPLICATED, SHARDED], default=[REPLICATED, SHARDED]
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=600_000, help="of the log")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round, for a first look")
    parser.add_argument("--worker", type=Path, help="used by the script itself")
    found = parser.parse_args()
    if found.quick:
        found.rounds, found.rows = 1, 100_000
    return found


def schema_of(model: str) -> pr.Schema:
    """Return the columns; ESMM's purchases are learned on all rows."""
    space = "all" if model == "ESMM" else None
    return pr.Schema(
        [pr.SparseFeature(name, vocab_size=size) for name, size in VOCABULARY.items()],
        [pr.Task("click"), pr.Task("buy", given="click", space=space)],
    )


def source(rows: int) -> Sources:
    """Return the log."""
    log = drawn(rows, seed=0)
    return Sources({**log.ids, "click": log.click, "buy": log.buy})


def work(args: argparse.Namespace) -> None:
    """Train as one of the processes; the first writes the history."""
    (model,), (batch,) = args.model, args.batch
    bundle = pr.fit(
        schema_of(model), MODELS[model], train=source(args.rows).train, epochs=args.epochs,
        batch_size=batch, lr=LR, seed=0, progress=False, tables=args.tables[0],
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        args.worker.write_text(json.dumps(bundle.history.to_dicts()), encoding="utf-8")


def trained(
    model: str, batch: int, ranks: int, tables: str, args: argparse.Namespace
) -> list[dict]:
    """Return the epochs, but for the first, of a run by some processes."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "history.json"
        launch = [sys.executable]
        if ranks > 1:
            launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        subprocess.run(
            [*launch, __file__, "--worker", str(file), "--model", model, "--batch", str(batch),
             "--tables", tables, "--rows", str(args.rows), "--epochs", str(args.epochs)],
            check=True, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return json.loads(file.read_text(encoding="utf-8"))[1:]


def main() -> None:
    """Measure, print and save the figures."""
    args = options()
    if args.worker is not None:
        work(args)
        return
    table = {**origin("numba"), "rows": args.rows, "rounds": args.rounds, "runs": []}
    lines = []
    for model in args.model:
        for batch in args.batch:
            # One process holds its tables alone.
            ways = [
                (ranks, tables)
                for ranks in args.ranks
                for tables in (args.tables if ranks > 1 else [REPLICATED])
            ]
            found: dict[tuple[int, str], list[list[dict]]] = {way: [] for way in ways}
            for _ in range(args.rounds):
                for (ranks, tables), each in found.items():
                    each.append(trained(model, batch, ranks, tables, args))
            rates = {
                way: [median(epoch["rows_per_second"] for epoch in each) for each in rounds]
                for way, rounds in found.items()
            }
            for (ranks, tables), each in rates.items():
                training = pr.Training(batch_size=batch, threads=1, tables=tables)
                pairs = zip(each, rates[ways[0]], strict=True)
                run = {
                    "model": model, "batch": batch, "ranks": ranks, "tables": tables,
                    "rows_per_second": each,
                    "ratio": median(a / b for a, b in pairs),
                }  # fmt: skip
                sent, said = "", ""
                if ranks > 1:
                    last = found[ranks, tables][-1][-1]
                    steps = -(-args.rows // (batch * ranks))
                    run["exchanged_bytes_a_step"] = last["exchanged_bytes"] / steps
                    plan = explain(
                        schema_of(model), MODELS[model], training, source(args.rows), ranks=ranks
                    ).together
                    assert plan is not None
                    run["by_the_model"] = sum(plan.exchanged_bytes.values())
                    sent = f"{run['exchanged_bytes_a_step'] / 1e6:.2f}"
                    said = f"{run['by_the_model'] / 1e6:.2f}"
                table["runs"].append(run)
                lines.append([model, f"{batch:,}", str(ranks), tables if ranks > 1 else "",
                              f"{median(each) / 1e3:.0f}",
                              f"{run['ratio']:.2f}", sent, said])  # fmt: skip
    header = [
        "model",
        "batch of each",
        "processes",
        "tables",
        "k rows/s",
        "ratio",
        "MB a step",
        "as said",
    ]
    print(aligned(header, lines, range(1, len(header))))
    if not args.quick:
        write(RESULTS / "ranks.json", table)


if __name__ == "__main__":
    main()
