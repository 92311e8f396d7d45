"""Runs that one process does, or several together: as a script, one of the several.

    python of_ranks.py RANK COUNT FOLDER NAME …

Each writes FOLDER/NAME.RANK.json, or the message of what it raised.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polyrank as pr
from polyrank.balance import BALANCES
from polyrank.errors import PolyrankError, TrainingError
from polyrank.train.optim import RowOptimizer

STEPS, SIZE = 8, 24  # of an epoch, and rows a step of all processes together
PLAIN: dict[str, Any] = {"wide": False, "interaction": False, "field_dropout": 0.0, "dropout": 0.0}
TASKS = [pr.Task("click"), pr.Task("buy", given="click", space="all")]


RANKED = [pr.Task("click", ranking="softmax"), pr.Task("buy", given="click", ranking="jrc")]


class Steps(RowOptimizer):
    """No compiled rule: it runs in torch."""

    state_columns = {"count": 1}  # noqa: RUF012

    def numbers(self, lr, steps):
        return (lr,)

    def step(self, weight, gradient, state, numbers):
        state[0].add_(1)
        weight.sub_(gradient, alpha=numbers[0])


def log(rows: int, seed: int = 0) -> dict[str, Any]:
    """Rows of users and items, lists of tags, a number, weights, and outcomes that depend on them.

    Each row is known by its number, in `row`.
    """
    random = np.random.default_rng(seed)
    user, item = random.integers(0, 30, rows), random.integers(0, 12, rows)
    age = random.normal(size=rows)
    chance = 1 / (1 + np.exp(-np.sin(user) - np.cos(item) - age / 2))
    click = random.random(rows) < chance
    return {
        "row": np.arange(rows), "user": user, "item": item, "age": age,
        "tags": [random.integers(0, 9, length).tolist() for length in random.integers(0, 4, rows)],
        "request": np.arange(rows) // 5,
        "weight": random.integers(1, 4, rows), "click": click.astype(int),
        "buy": (click & (random.random(rows) < chance)).astype(int),
        "spend": np.where(click, chance * 9 + random.normal(size=rows), np.nan),
        "stars": 1 + (chance > 0.3) + (chance > 0.6), "button": user % 3,
    }  # fmt: skip


TAGS = pr.SequenceFeature("tags")
ATTENDED = pr.SequenceFeature("tags", pooling=pr.Target(query="item"), max_length=3)


def schema(*, tags: pr.SequenceFeature = TAGS, **options: Any) -> pr.Schema:
    """The columns of the log, its numbers in bins."""
    features = [
        pr.SparseFeature("user"), pr.SparseFeature("item"), tags,
        pr.DenseFeature("age", encoding=["standard", "bins"]),
    ]  # fmt: skip
    tasks = options.pop("tasks", TASKS)
    ranked = any(task.ranking is not None for task in tasks)
    keys = pr.Keys(weight="weight", request="request" if ranked else None)
    return pr.Schema(features, tasks, keys, **options)


def fitted(
    count: int,
    *,
    model: pr.Model | None = None,
    tasks: list[pr.Task] | None = None,
    rows: int = STEPS * SIZE,
    size: int = SIZE,
    valid: int = SIZE,
    memory: str | int = "auto",
    tags: pr.SequenceFeature = TAGS,
    **options: Any,
) -> dict[str, Any]:
    """Return what a run of `count` processes gave: its history and some predictions."""
    bundle = pr.fit(
        schema(tasks=tasks or TASKS, tags=tags), model or plain(),
        train=log(rows), valid=log(valid, seed=1), memory=memory,
        **{"epochs": 2, "batch_size": size // count, "seed": 3, "progress": False, "lr": 0.01,
           "unseen_rate": 0.0} | options,
    )  # fmt: skip
    predicted = bundle.predict({**log(40, seed=2)})
    clocks = ("seconds", "rows_per_second")
    history = [
        {k: v for k, v in each.items() if k not in clocks} for each in bundle.history.to_dicts()
    ]
    return {"history": history, "predicted": predicted.to_dict(as_series=False)}


def held(count: int, **options: Any) -> dict[str, Any]:
    return fitted(count, tables="sharded", **options)


def plain() -> pr.Model:
    return pr.Model(tower=[8], **PLAIN)


def wide() -> pr.Model:
    return pr.Model(tower=[8], **PLAIN | {"wide": pr.Wide()})


def mmoe() -> pr.Model:
    return pr.Model(trunk=pr.MMoE(experts=3, hidden=[8]), tower=[4], **PLAIN)


def stem() -> pr.Model:
    """Sets of tables: one of each task beside the shared one."""
    return pr.Model(trunk=pr.STEM(hidden=[8]), tower=[4], **PLAIN)


def full(count: int) -> dict[str, Any]:
    """Let the last process's disk be full from the end of the first epoch on, then go on."""
    folder = Path(tempfile.gettempdir()) / f"polyrank-full-{os.environ['POLYRANK_TEST_GROUP']}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: pr.Progress) -> None:
        if progress.event == "epoch" and torch.distributed.get_rank() == count - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        held(count, out=folder, progress=fill)
        raise AssertionError("the checkpoint was written")
    except TrainingError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    torch.distributed.barrier()
    left = sorted(file.name for file in (folder / "checkpoint").iterdir())
    found = held(count, out=folder, resume=True)
    torch.distributed.barrier()
    shutil.rmtree(folder, ignore_errors=True)
    return {**found, "straight": held(count), "said": said, "left": left}


def debiased(debias: pr.Debias) -> list[pr.Task]:
    return [pr.Task("click"), pr.Task("buy", given="click", debias=debias)]


SPEND = [pr.Task("click"), pr.Task("spend", given="click", kind="regression")]
SEVERAL = [
    pr.Task("click"), pr.Task("stars", kind="ordinal"), pr.Task("button", kind="categorical"),
]  # fmt: skip
RUNS: dict[str, Callable[[int], dict[str, Any]]] = {
    "sum": lambda count: fitted(count, epochs=26),  # 208 steps
    "uncertainty": lambda count: fitted(count, balance=pr.Uncertainty()),
    **{
        kind: lambda count, kind=kind: fitted(count, model=mmoe(), balance=BALANCES[kind]())
        for kind in BALANCES
        if kind not in ("sum", "uncertainty")
    },
    "penalty": lambda count: fitted(
        count, model=pr.Model(trunk=pr.AITM(), tower=[4], **PLAIN),
        tasks=[pr.Task("click"), pr.Task("buy")],
    ),
    "adagrad": lambda count: fitted(count, embeddings=pr.Adagrad(lr=0.1, prior=1.0, decay=0.1)),
    "every row": lambda count: fitted(count, embeddings=pr.DenseAdam(l2=0.01)),
    "in torch": lambda count: fitted(count, embeddings=Steps(lr=1.0, prior=1.0, decay=0.1)),
    "wide": lambda count: fitted(count, model=wide()),
    "wide, gaussian": lambda count: fitted(
        count, model=wide(), tasks=SPEND
    ),
    "wide, several outputs": lambda count: fitted(
        count, model=wide(), tasks=SEVERAL
    ),
    "ranking": lambda count: fitted(count, tasks=RANKED),
    "ranking, idle": lambda count: fitted(count, tasks=RANKED, rows=2 * SIZE + 5),
    # The last step has rows for the first process alone.
    "idle": lambda count: fitted(count, rows=2 * SIZE + 5),
    "idle, wide": lambda count: fitted(
        count, rows=2 * SIZE + 5, model=wide()
    ),
    # Fewer validation rows than processes.
    "one row": lambda count: fitted(count, valid=1),
    "debiased": lambda count: fitted(count, tasks=debiased(pr.DR(floor=0.1))),
    "self-normalised": lambda count: fitted(count, tasks=debiased(pr.SNIPS(floor=0.1))),
    "norm": lambda count: fitted(count, model=pr.Model(tower=[8], norm="batch", **PLAIN)),
    "dropout": lambda count: fitted(
        count, model=pr.Model(tower=[8], **PLAIN | {"dropout": 0.5}), unseen_rate=0.1
    ),
    # Tables that the processes hold between them.
    "held": lambda count: held(count, epochs=26),
    "held, adagrad": lambda count: held(
        count, embeddings=pr.Adagrad(lr=0.1, prior=1.0, decay=0.1)
    ),
    "held, every row": lambda count: held(count, embeddings=pr.DenseAdam(l2=0.01)),
    "held, in torch": lambda count: held(count, embeddings=Steps(lr=1.0, prior=1.0, decay=0.1)),
    "held, wide": lambda count: held(count, model=wide()),
    "held, idle, wide": lambda count: held(
        count, rows=2 * SIZE + 5, model=wide()
    ),
    "held, wide, several outputs": lambda count: held(
        count, model=wide(), tasks=SEVERAL
    ),
    "stem": lambda count: fitted(count, model=stem()),
    "held, stem": lambda count: held(count, model=stem()),
    "target": lambda count: fitted(count, tags=ATTENDED),
    "held, target": lambda count: held(count, tags=ATTENDED),
    "held, one row": lambda count: held(count, valid=1),
    # Large tables and batches, so that the model has something to count.
    "exchanged": lambda count: fitted(count, rows=4000, size=1000),
    "held, exchanged": lambda count: held(count, rows=4000, size=200),
    "held, wide, exchanged": lambda count: held(count, rows=4000, size=200, model=wide()),
    "compiled": lambda count: fitted(count, compile=True),
    "full": full,
}  # fmt: skip


def main() -> None:
    rank, count, folder, *names = sys.argv[1:]
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=int(rank), world_size=int(count)
    )
    for name in names:
        try:
            found = RUNS[name](int(count))
        except PolyrankError as error:
            found = {"error": str(error)}
        text = json.dumps(found)
        Path(folder, f"{name}.{rank}.json").write_text(text, encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
