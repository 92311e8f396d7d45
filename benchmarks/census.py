"""Which dense encoding, and whether to normalise losses, on Census-Income: the default's evidence.

Trains the census demo's model for each encoding and each balance over seeds, with one budget; the
epoch is chosen on validation rows, and so is what the table is sorted by. Writes
results/census.json. The data is fetched once, as by `polyrank data get census`.

    python benchmarks/census.py [seeds]
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter

import polars as pl
import torch

import polyrank as pr
from polyrank.datasets import load
from polyrank.text import aligned

CELLS = {
    "standard": {"encoding": "standard"},
    "log": {"encoding": "log"},
    "piecewise_linear, 32": {"encoding": "piecewise_linear", "bins": 32},
    "piecewise_linear, 64": {"encoding": "piecewise_linear", "bins": 64},
    "bins, 32": {"encoding": "bins", "bins": 32},
    "bins, 64": {"encoding": "bins", "bins": 64},
    "bins, 128": {"encoding": "bins", "bins": 128},
    "bins, 64, normalized": {"encoding": "bins", "bins": 64, "normalize": True},
}
SCORES = ["income @ all", "never_married @ all"]
RESULTS = Path(__file__).parent / "results" / "census.json"


def train(frames, seed, encoding, bins=32, normalize=False):
    """Train one cell and return its validation and test AUCs."""
    train, valid, test, schema = frames
    features = [
        replace(feature, encoding=encoding, bins=bins)
        if isinstance(feature, pr.DenseFeature)
        else feature
        for feature in schema.features
    ]
    started = perf_counter()
    bundle = pr.fit(
        replace(schema, features=features),
        pr.Model(
            trunk=pr.MMoE(experts=4, hidden=[64]), tower=[16], embed_dim=8, dropout=0.3,
            norm="batch",
        ),
        train=train, valid=valid, test=test, seed=seed, epochs=8, lr=3e-3,
        embeddings=pr.LazyAdam(l2=1e-4), schedule=pr.Cosine(),
        balance=pr.Sum(normalize=normalize),
    )  # fmt: skip
    best = bundle.history.filter(pl.col("best")).tail(1)
    figures = {f"valid {name}": best[f"valid {name} auc"].item() for name in SCORES}
    figures |= {f"test {name}": bundle.scorecard.value(name, "auc") for name in SCORES}
    return figures | {"seconds": perf_counter() - started}


def main():
    """Run every cell, print the table and keep the figures."""
    torch.set_num_threads(1)
    seeds = list(range(1, 1 + int(sys.argv[1] if len(sys.argv) > 1 else 5)))
    frames = load("census")
    runs = {
        name: [train(frames, seed, **options) for seed in seeds] for name, options in CELLS.items()
    }
    names = [f"{split} {score}" for split in ("valid", "test") for score in SCORES]
    lines = [
        [cell]
        + [f"{mean(r[n] for r in found):.4f} ± {stdev(r[n] for r in found):.4f}" for n in names]
        + [f"{mean(r['seconds'] for r in found):.0f}"]
        for cell, found in sorted(
            runs.items(), key=lambda item: -mean(run[names[0]] for run in item[1])
        )
    ]
    header = ["encoding", *(f"{name} auc" for name in names), "seconds"]
    print(aligned(header, lines, range(1, len(header))))
    RESULTS.parent.mkdir(exist_ok=True)
    table = {
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"polyrank": pr.__version__, "torch": torch.__version__},
        "seeds": seeds,
        "runs": runs,
    }
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
