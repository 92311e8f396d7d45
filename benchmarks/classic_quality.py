"""polyrank.classic beside Torch-RecHub 0.9.0: same rows, same calls, every space.

Each seed generates a log with the columns of Ali-CCP and known truth. ESMM, MMOE and PLE are built
and trained by the same calls in both libraries; test rows are scored by the same metrics.
Prints mean ± standard deviation over seeds and the paired difference with its 95 % interval
(Student's t). Writes results/classic_quality.json. Needs the extra [bench], best in an environment
of its own.

    python benchmarks/classic_quality.py [seeds]
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import mean
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import torch
from parts.seeds import shown, spread

import polyrank
from polyrank import classic
from polyrank.datasets.ali_ccp import DENSE, SPARSE, ali_ccp
from polyrank.metrics.binary import auc, soft_auc
from polyrank.text import aligned

ROWS = 200_000
ITEM = ["129", "205", "206", "207", "210", "216"]
EPOCHS, BATCH, LR, DECAY = 2, 1024, 1e-3, 1e-5
RESULTS = Path(__file__).parent / "results" / "classic_quality.json"


def theirs():
    """Return Torch-RecHub's object for each name in `classic`."""
    from torch_rechub.basic import features
    from torch_rechub.models import multi_task
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator

    return SimpleNamespace(
        SparseFeature=features.SparseFeature,
        DenseFeature=features.DenseFeature,
        ESMM=multi_task.ESMM,
        MMOE=multi_task.MMOE,
        PLE=multi_task.PLE,
        MTLTrainer=MTLTrainer,
        DataGenerator=DataGenerator,
    )


def model_of(library, name, sizes, width):
    """Build one model by the documented calls."""
    sparse = {n: library.SparseFeature(n, vocab_size=size, embed_dim=width) for n, size in
              sizes.items()}  # fmt: skip
    every = [*sparse.values(), *(library.DenseFeature(n) for n in DENSE)]
    two, towers = ["classification"] * 2, [{"dims": [8]}, {"dims": [8]}]
    if name == "ESMM":
        user = [feature for n, feature in sparse.items() if n not in ITEM]
        item = [sparse[n] for n in ITEM]
        tower = {"dims": [16, 8]}
        return library.ESMM(user, item, cvr_params=tower, ctr_params=dict(tower))
    if name == "MMOE":
        return library.MMOE(every, two, 8, expert_params={"dims": [16]}, tower_params_list=towers)
    return library.PLE(
        every, two, n_level=2, n_expert_specific=2, n_expert_shared=2,
        expert_params={"dims": [16]}, tower_params_list=towers,
    )  # fmt: skip


def scored(model, loader):
    """Return a model's outputs on a loader's rows in order: their `predict` takes no labels."""
    model.eval()
    with torch.no_grad():
        parts = [model(x) for x, _ in loader]
    return torch.cat(parts).double().numpy()


def run(library, name, splits, sizes, seed):
    """Train one model, and return its test AUCs and seconds."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  what they shuffle by
    tasks = 3 if name == "ESMM" else 2
    x, y = {}, {}
    names = [*sizes] if name == "ESMM" else [*sizes, *DENSE]
    for split, frame in splits.items():
        x[split] = {n: frame[n].to_numpy().copy() for n in names}
        click, buy = frame["click"].to_numpy(), frame["purchase"].to_numpy()
        y[split] = np.stack([buy, click, buy * click][:tasks], axis=1).astype(np.float32)
    model = model_of(library, name, sizes, 16 if name == "ESMM" else 4)
    started = perf_counter()
    loaders = library.DataGenerator(x["train"], y["train"]).generate_dataloader(
        x_val=x["valid"], y_val=y["valid"], x_test=x["test"], y_test=y["test"], batch_size=BATCH
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = library.MTLTrainer(
            model, task_types=["classification"] * tasks, n_epoch=EPOCHS, model_path=folder,
            optimizer_params={"lr": LR, "weight_decay": DECAY}, earlystop_patience=EPOCHS,
        )  # fmt: skip
        trainer.fit(loaders[0], loaders[1], seed=seed)
        predicted = scored(trainer.model, loaders[2])
    seconds = perf_counter() - started
    test = splits["test"]
    click, buy = (test[n].to_numpy().astype(np.float64) for n in ("click", "purchase"))
    clicked, truth = click == 1, test["true_p_buy_given_click"].to_numpy()
    # MMOE and PLE have two roots: their first output is the purchase on all rows.
    joint = predicted[:, 2] if tasks == 3 else predicted[:, 0]
    given = predicted[:, 0] if tasks == 3 else predicted[:, 0] / np.maximum(predicted[:, 1], 1e-9)
    return {
        "click @ all": auc(click, predicted[:, 1]),
        "buy @ all": auc(buy * click, joint),
        "buy|click @ click": auc(buy[clicked], given[clicked]),
        "buy|click @ all": soft_auc(truth, given),
        "seconds": seconds,
    }


def compare(runs, name):
    """Return the table lines of one model: theirs, ours, paired difference."""
    lines = []
    for figure in runs["theirs", name][0]:
        old, new = ([each[figure] for each in runs[side, name]] for side in ("theirs", "ours"))
        if figure == "seconds":
            ratio = mean(a / b for a, b in zip(old, new, strict=True))
            lines.append([name, figure, f"{mean(old):.1f}", f"{mean(new):.1f}", f"{ratio:.1f}×"])
            continue
        lines.append([name, figure, spread(old), spread(new), shown(old, new)])
    return lines


def main():
    """Run both libraries in turn, print the table and save the figures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seeds = list(range(1, 1 + int(sys.argv[1] if len(sys.argv) > 1 else 5)))
    sides = {"theirs": theirs(), "ours": classic}
    runs = {(side, name): [] for name in ("ESMM", "MMOE", "PLE") for side in sides}
    for seed in seeds:
        *frames, _ = ali_ccp(rows=ROWS, seed=seed)
        splits = dict(zip(("train", "valid", "test"), (f.collect() for f in frames), strict=True))
        sizes = {n: max(int(f[n].max()) for f in splits.values()) + 1 for n in SPARSE}
        for side, name in runs:  # in turn, so that a busy machine is busy for both
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                found = run(sides[side], name, splits, sizes, seed)
            runs[side, name].append(found)
    lines = [line for name in ("ESMM", "MMOE", "PLE") for line in compare(runs, name)]
    header = ["model", "test auc", "Torch-RecHub 0.9.0", "polyrank.classic", "ours - theirs"]
    print(
        f"{ROWS:,} rows, seeds {seeds[0]}-{seeds[-1]}, {EPOCHS} epochs of batch {BATCH}, lr {LR:g}"
    )
    print(aligned(header, lines, range(2, 5)))
    RESULTS.parent.mkdir(exist_ok=True)
    table = {
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"polyrank": polyrank.__version__, "torch": torch.__version__,
                     "torch-rechub": "0.9.0"},
        "seeds": seeds,
        "runs": {f"{side} {name}": found for (side, name), found in runs.items()},
    }  # fmt: skip
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
