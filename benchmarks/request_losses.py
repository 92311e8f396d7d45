"""Losses over a request beside the likelihood: ranking and calibration, on a log with known truth.

The synthetic log (preset latent, with the part `choice`) has two outcomes: `chosen`, of which every
request has one, and `click`, of which most requests have none. One model is trained for either by
the likelihood alone, by half of it beside each loss over a request, and by pairs or softmax alone;
each seed has a log, a world and a start of its own. On test rows: NDCG@10, log loss, PCOC, ECE, and
the root mean squared error of the probability to the truth, raw and after the calibration that
`fit` chooses on validation rows. Prints means ± standard deviations over seeds, and the mean
difference from the likelihood alone of the same seed with its 95 % interval (t). Writes
results/request_losses.json.

    python benchmarks/request_losses.py [seeds [rows]]
"""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from time import perf_counter

import numpy as np
from parts import record
from parts.cells import every_cell, table

import polyrank as pr
from polyrank.datasets.synthetic import synthetic
from polyrank.metrics.registry import metric

ROWS = 600_000
OUTCOMES = ("chosen", "click")
LOSSES: dict[str, pr.Ranking | None] = {
    "pointwise": None,
    "pairwise": pr.Pairwise(),
    "softmax": pr.Softmax(),
    "jrc": pr.JRC(),
    "pairwise alone": pr.Pairwise(share=1),
    "softmax alone": pr.Softmax(share=1),
}
FIGURES = ("ndcg@10", "log_loss", "pcoc", "ece", "rmse to truth")
RESULTS = record.RESULTS / "request_losses.json"


def log(seed, rows):
    """Return train, valid and test rows, and the schema of both outcomes."""
    *splits, schema = synthetic(rows, seed=seed, parts=["choice"])
    return [each.collect() for each in splits], schema


def figures(bundle, test, outcome, *, raw):
    """Return the figures of a task on test rows, raw or calibrated."""
    column = f"p_{outcome}"
    p = bundle.predict(test, raw=raw)[column].to_numpy()
    found = {
        name: metric("binary", name)(test[outcome].to_numpy(), p, key=test["request"])
        for name in FIGURES[:-1]
    }
    found["rmse to truth"] = float(np.sqrt(np.mean((p - test[f"true_{column}"].to_numpy()) ** 2)))
    return found


def trained(splits, schema, outcome, loss, seed):
    """Train one cell; return its figures, raw and calibrated, and the seconds."""
    train, valid, test = splits
    started = perf_counter()
    bundle = pr.fit(
        replace(schema, tasks=[pr.Task(outcome, ranking=LOSSES[loss])]),
        pr.Model(trunk=pr.Separate(), wide=False),  # wide rows are fitted by the likelihood
        train=train,
        valid=valid,
        seed=seed,
        stop=pr.Stop(score=f"{outcome} @ all", metric="ndcg@10"),
        progress=False,
    )
    seconds = perf_counter() - started
    both = {name: figures(bundle, test, outcome, raw=name == "raw") for name in ("raw", "fitted")}
    return {**both, "seconds": seconds}


def main():
    """Run every cell, save the figures and print a table for each outcome, raw and calibrated."""
    runs, seeds, rows = every_cell(RESULTS, ROWS, OUTCOMES, LOSSES, log, trained)
    print(f"{rows:,} rows, {len(seeds)} seeds; {mean(e['seconds'] for e in runs):.0f} s a fit")
    for outcome in OUTCOMES:
        for form, words in (("raw", "raw"), ("fitted", "calibrated")):
            print(f"\n{outcome}, {words}")
            print(table(runs, outcome, LOSSES, FIGURES, "ndcg@10", "pointwise", form))


if __name__ == "__main__":
    main()
