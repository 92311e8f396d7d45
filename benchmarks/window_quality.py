"""What a window costs in quality: its order of the rows beside the full permutation, five seeds.

Two generated logs, the hard cases for a window: one is sorted by user, who differ in their tastes;
one by time, with a click rate that falls to a third and items whose appeal changes on the way. Each
has the outcome of a row from users, items and two contexts, and held-out rows from all of it. The
memory allowed makes the window a quarter and a tenth of the training rows. The same seed trains
each order from the same weights, so that differences are paired.

Writes results/window_quality.json.

    python benchmarks/window_quality.py [--rows 300_000] [--seeds 1 2 3 4 5]
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any

import numpy as np
import polars as pl
from parts.record import RESULTS, origin, write

import polyrank as pr
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.text import aligned

USERS, ITEMS, CONTEXTS, TASTES = 20_000, 3_000, 50, 4
VALID_SHARE, EPOCHS, BATCH = 0.2, 2, 1024
SHARES = {"a quarter": 1 / 4, "a tenth": 1 / 10}
SCORES = ("click @ all", "buy @ all")
MODELS = {"default": pr.Model(), "ESMM": pr.ESMM(tower=[16, 8], embed_dim=8)}


def schema() -> pr.Schema:
    """Return the columns of both logs."""
    ids = [pr.SparseFeature(name) for name in ("user", "item", "place", "device")]
    numbers = [pr.DenseFeature("price"), pr.DenseFeature("hour")]
    return pr.Schema([*ids, *numbers], [pr.Task("click"), pr.Task("buy", given="click")])


def log(order: str, rows: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return training rows sorted by user or by time, and held-out rows of the same time."""
    random = np.random.default_rng(11)
    tastes = random.normal(size=(USERS, TASTES)), random.normal(0, 0.6, (ITEMS, TASTES))
    appeal = random.normal(0, 0.6, (2, ITEMS))  # at the beginning and at the end
    of_user = random.normal(0, 0.5, USERS)
    places = random.normal(0, 0.3, (CONTEXTS, CONTEXTS))
    total = int(rows / (1 - VALID_SHARE))
    time = np.sort(random.random(total))
    user, item = random.integers(0, USERS, total), random.integers(0, ITEMS, total)
    place, device = (random.integers(0, CONTEXTS, total) for _ in range(2))
    price, hour = random.lognormal(size=total), random.uniform(0, 24, total)
    drift = time if order == "time" else np.full(total, 0.5)
    z = (tastes[0][user] * tastes[1][item]).sum(1) + of_user[user] + places[place, device]
    z += (1 - drift) * appeal[0][item] + drift * appeal[1][item] - 1.2 * drift
    z += 0.4 * np.sin(hour / 24 * 2 * np.pi) - 0.3 * np.log(price) - 1.2
    click = random.random(total) < 1 / (1 + np.exp(-z))
    liked = of_user[user] + 0.5 * appeal[0][item] - 0.2 * np.log(price) - 1.2
    buy = click & (random.random(total) < 1 / (1 + np.exp(-liked)))
    frame = pl.DataFrame(
        {
            "user": user, "item": item, "place": place, "device": device, "price": price,
            "hour": hour, "click": click.astype(np.int8), "buy": buy.astype(np.int8),
        }
    )  # fmt: skip
    held = random.random(total) < VALID_SHARE
    train = frame.filter(~held)
    return train.sort("user", maintain_order=True) if order == "user" else train, frame.filter(held)


def auc(
    model: pr.Model, train: pl.DataFrame, valid: pl.DataFrame, memory: int, seed: int
) -> dict[str, float]:
    """Return the validation AUCs after the last epoch, by score."""
    bundle = pr.fit(
        schema(), model, train=train, valid=valid, epochs=EPOCHS, batch_size=BATCH, seed=seed,
        memory=memory, progress=False,
    )  # fmt: skip
    last = bundle.history.row(-1, named=True)
    return {score: last[f"valid {score} auc"] for score in SCORES}


def runs(rows: int, seeds: list[int], names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the AUCs of each run."""
    for by in ("user", "time"):
        train, valid = log(by, rows)
        own = encode(train, schema(), Vocab.fit(train, schema())).nbytes
        # A window takes half of the memory: see polyrank.data.memory.windowed.
        orders = {"all": 1 << 40} | {name: int(2 * own * x) for name, x in SHARES.items()}
        for seed in seeds:
            for name in names:
                for order, memory in orders.items():
                    found = auc(MODELS[name], train, valid, memory, seed)
                    yield {"sorted by": by, "model": name, "window": order, "seed": seed,
                           "memory MiB": round(memory / 2**20, 1), **found}  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    """Return means and deviations over seeds, and paired differences from the permutation."""
    lines = []
    for by in ("user", "time"):
        for model in dict.fromkeys(each["model"] for each in found):
            for score in SCORES:
                of = {
                    order: {
                        each["seed"]: each[score]
                        for each in found
                        if (each["sorted by"], each["model"], each["window"]) == (by, model, order)
                    }
                    for order in ("all", *SHARES)
                }
                for order, values in of.items():
                    off = [values[seed] - of["all"][seed] for seed in values if seed in of["all"]]
                    spread = stdev(values.values()) if len(values) > 1 else float("nan")
                    apart = stdev(off) if len(off) > 1 else float("nan")
                    shown = "" if order == "all" else f"{mean(off):+.5f} ± {apart:.5f}"
                    own = f"{mean(values.values()):.5f} ± {spread:.5f}"
                    lines.append([by, model, score, order, own, shown])
    head = ["sorted by", "model", "score", "window", "AUC", "minus that of all"]
    return aligned(head, lines, [4, 5])


def main() -> None:
    """Train all and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=300_000, help="training rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found = []
    for each in runs(args.rows, args.seeds, args.models):
        found.append(each)
        print(each, flush=True)
    print(table(found))
    about = {"rows": args.rows, "seeds": args.seeds, "runs": found}
    write(RESULTS / "window_quality.json", {**origin("polars"), **about})


if __name__ == "__main__":
    main()
