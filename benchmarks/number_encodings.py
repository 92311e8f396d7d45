"""Which encoding of dense features, and whether to normalise losses: the evidence for the defaults.

Trains one model with one budget on Census-Income, and another on the synthetic log, for each
encoding and several seeds; the epoch is chosen on validation rows, whose AUC also sorts the tables.
Writes results/number_encodings.json. Census is fetched once, as by `polyrank data get`.

    python benchmarks/number_encodings.py [seeds]
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from time import perf_counter

import polars as pl
import torch
from parts.seeds import spread

import polyrank as pr
from polyrank.datasets import load
from polyrank.text import aligned

CELLS = {
    "none": {"encoding": "none"},
    "standard": {"encoding": "standard"},
    "log": {"encoding": "log"},
    "piecewise_linear, 32": {"encoding": "piecewise_linear", "bins": 32},
    "piecewise_linear, 64": {"encoding": "piecewise_linear", "bins": 64},
    "bins, 32": {"encoding": "bins", "bins": 32},
    "bins, 64": {"encoding": "bins", "bins": 64},
    "bins, 128": {"encoding": "bins", "bins": 128},
    "bins, 64, normalized": {"encoding": "bins", "bins": 64, "normalize": True},
}
SETS = {
    "census": {
        "scores": ["income @ all", "never_married @ all"],
        "model": pr.Model(
            trunk=pr.MMoE(experts=4, hidden=[64]), tower=[16], embed_dim=8, dropout=0.3,
            norm="batch",
        ),
        "training": {
            "epochs": 8, "lr": 3e-3, "embeddings": pr.LazyAdam(l2=1e-4), "schedule": pr.Cosine(),
        },
    },
    "synthetic": {
        "scores": ["click @ all", "buy @ all"],
        "model": pr.Model(trunk=pr.Separate(), tower=[16, 8], dropout=0),
        "training": {
            "epochs": 2, "lr": 1e-3, "batch_size": 4096, "embeddings": pr.LazyAdam(l2=1e-4),
        },
    },
}  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "number_encodings.json"


def train(name, seed, encoding, bins=64, normalize=False):
    """Train one cell and return its validation and test AUCs."""
    options = {} if name == "census" else {"seed": seed}
    train, valid, test, schema = load(name, **options)
    features = [
        replace(feature, encoding=encoding, bins=bins)
        if isinstance(feature, pr.DenseFeature)
        else feature
        for feature in schema.features
    ]
    started = perf_counter()
    bundle = pr.fit(
        replace(schema, features=features), SETS[name]["model"], train=train, valid=valid,
        test=test, seed=seed, balance=pr.Sum(normalize=normalize), **SETS[name]["training"],
    )  # fmt: skip
    best = bundle.history.filter(pl.col("best")).tail(1)
    figures = {f"valid {s}": best[f"valid {s} auc"].item() for s in SETS[name]["scores"]}
    figures |= {f"test {s}": bundle.scorecard.value(s, "auc") for s in SETS[name]["scores"]}
    return figures | {"seconds": perf_counter() - started}


def show(name, runs):
    """Print one data set's table, sorted by the validation AUC of its first score."""
    names = [f"{split} {score}" for split in ("valid", "test") for score in SETS[name]["scores"]]
    lines = [
        [cell]
        + [spread([r[n] for r in found]) for n in names]
        + [f"{mean(r['seconds'] for r in found):.0f}"]
        for cell, found in sorted(
            runs.items(), key=lambda item: -mean(run[names[0]] for run in item[1])
        )
    ]
    header = [name, *(f"{each} auc" for each in names), "seconds"]
    print(aligned(header, lines, range(1, len(header))), end="\n\n")


def main():
    """Run every cell, print the tables and save the figures."""
    torch.set_num_threads(1)
    seeds = list(range(1, 1 + int(sys.argv[1] if len(sys.argv) > 1 else 5)))
    found = {}
    for name in SETS:
        found[name] = {
            cell: [train(name, seed, **options) for seed in seeds]
            for cell, options in CELLS.items()
        }
        show(name, found[name])
    RESULTS.parent.mkdir(exist_ok=True)
    table = {
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"polyrank": pr.__version__, "torch": torch.__version__},
        "seeds": seeds,
        "runs": found,
    }
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
