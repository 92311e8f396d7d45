"""What calibration does to a model with weighted positives, and to one that needs none.

The same trunk on `synthetic` logs with known truth (additive); the validation rows choose the epoch
and fit the maps. Prints, for test rows, figures before and after with paired differences over seeds
and 95 % intervals (Student's t). Writes results/calibration.json.

    python benchmarks/calibration.py [seeds]
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from statistics import mean

from parts import record
from parts.seeds import shown, spread

import polyrank as pr
from polyrank.datasets.synthetic import synthetic
from polyrank.text import aligned

ROWS = 300_000
FRACTIONS = (0.6, 0.2, 0.2)
# positive weights of click and buy, and the space of buy
MODELS = {
    "plain": (1.0, 1.0, "all"),
    "click × 10": (10.0, 1.0, "click"),
    "click × 10, buy × 10": (10.0, 10.0, "all"),
}
SCORES = ["click @ all", "buy @ all", "buy|click @ click"]
METRICS = ["auc", "log_loss", "pcoc", "ece"]


def train(model, seed):
    """Train one model and return what was chosen, and each score's figures before and after."""
    of_click, of_buy, space = MODELS[model]
    train, valid, test, schema = synthetic(ROWS, seed=seed, preset="additive", fractions=FRACTIONS)
    tasks = [
        pr.Task("click", positive_weight=of_click),
        pr.Task("buy", given="click", space=space, positive_weight=of_buy),
    ]
    bundle = pr.fit(
        replace(schema, tasks=tasks),
        pr.Model(trunk=pr.Separate(), tower=[16, 8], embed_dim=8, dropout=0),
        train=train,
        valid=valid,
        test=test,
        seed=seed,
        batch_size=1024,
        lr=3e-3,
        epochs=4,
    )
    figures = {}
    for name in SCORES:
        score = bundle.scorecard[name]
        after = {each: score.value(each) for each in METRICS}
        before = after if score.raw is None else {each: score.raw[each] for each in METRICS}
        figures[name] = {"before": before, "after": after}
    return {"calibrators": {t: c.to_table() for t, c in bundle.calibrators.items()}} | figures


def show(model, runs):
    """Print one model's table: one line per score and metric."""
    kinds = {task: " ".join(run["calibrators"][task]["kind"] for run in runs)
             for task in ("click", "buy")}  # fmt: skip
    print(f"\n{model}: " + "; ".join(f"{task}: {kind}" for task, kind in kinds.items()))
    lines = []
    for name in SCORES:
        for metric in METRICS:
            before, after = (
                [run[name][when][metric] for run in runs] for when in ("before", "after")
            )
            spreads = [spread(each, 5) for each in (before, after)]
            ratios = [b / a for a, b in zip(before, after, strict=True)]
            ratio = f"{mean(ratios):.2f}" if metric == "ece" else ""
            lines.append([name, metric, *spreads, shown(before, after, 5), ratio])
    header = ["test score", "metric", "before", "after", "after - before", "after ÷ before"]
    print(aligned(header, lines, range(2, len(header))))


def main():
    """Run every model and seed, print the tables and save the figures."""
    logging.disable()
    seeds = list(range(1, 1 + int(sys.argv[1] if len(sys.argv) > 1 else 5)))
    runs = {model: [train(model, seed) for seed in seeds] for model in MODELS}
    for model, found in runs.items():
        show(model, found)
    print("\n* : the 95 % interval over seeds excludes 0")
    table = record.origin() | {"rows": ROWS, "fractions": FRACTIONS, "seeds": seeds, "runs": runs}
    record.write(record.RESULTS / "calibration.json", table)


if __name__ == "__main__":
    main()
