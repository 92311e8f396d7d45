"""Losses over a request of graded labels: order and level, on a log with known truth.

Every shown row of the synthetic log (preset latent) gets stars, drawn from the truth of its part
`stars`, and a number of items, drawn from that of `items`: requests then have about ten grades.
One model is trained for either label by the likelihood alone, by half of it beside each loss over a
request, and by that loss alone; each seed has a log, a world and a start of its own. On test rows:
NDCG@10 by value and Kendall's τ-b of the grades that were drawn, and NDCG@10 by value of the
known expectation, which no draw blurs; and the error of the mean, as predicted ÷ observed. Prints
means ± standard deviations over seeds, and the mean difference of the last NDCG from the likelihood
alone of the same seed with its 95 % interval (t). Writes results/graded_requests.json.

    python benchmarks/graded_requests.py [seeds [rows]]
"""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from time import perf_counter

import numpy as np
import polars as pl
from parts import record
from parts.cells import every_cell, table

import polyrank as pr
from polyrank.datasets.synthetic import synthetic
from polyrank.metrics.amounts import graded_ndcg_at
from polyrank.metrics.concordance import tau_b

ROWS = 600_000
KINDS: dict[str, pr.LabelKind] = {
    "stars": pr.Ordinal(values=(1, 2, 3, 4, 5)),
    "items": pr.Count(),
}
LOSSES: dict[str, pr.Ranking | None] = {
    "pointwise": None,
    "pairwise": pr.Pairwise(),
    "softmax": pr.Softmax(),
    "pairwise alone": pr.Pairwise(share=1),
    "softmax alone": pr.Softmax(share=1),
}
FIGURES = ("ndcg@10", "tau_b", "ndcg@10 of truth", "predicted ÷ observed")
RESULTS = record.RESULTS / "graded_requests.json"


def log(seed, rows):
    """Return train, valid and test rows with grades everywhere, and the schema."""
    *splits, schema = synthetic(rows, seed=seed, parts=["stars", "items"])
    return [graded(each.collect(), seed, index) for index, each in enumerate(splits)], schema


def graded(frame, seed, split):
    """Draw the grades of all rows from their truth."""
    random = np.random.default_rng([seed, split])
    chance = random.random(frame.height)
    above = [f"true_p_stars_{level}_given_click" for level in (2, 3, 4, 5)]
    stars = 1 + sum((chance < frame[each].to_numpy()).astype(int) for each in above)
    items = random.poisson(frame["true_items_given_click"].to_numpy())
    return frame.with_columns(pl.Series("stars", stars), pl.Series("items", items))


def figures(bundle, test, outcome):
    """Return the figures of a task on test rows."""
    p, request = bundle.predict(test)[outcome].to_numpy(), test["request"]
    y, truth = (test[name].to_numpy() for name in (outcome, f"true_{outcome}_given_click"))
    ndcg = graded_ndcg_at(10)
    return {
        "ndcg@10": ndcg(y, p, key=request),
        "tau_b": tau_b(y, p),
        "ndcg@10 of truth": ndcg(truth, p, key=request),
        "predicted ÷ observed": float(p.mean() / y.mean()),
    }


def trained(splits, schema, outcome, loss, seed):
    """Train one cell; return its figures and the seconds."""
    train, valid, test = splits
    started = perf_counter()
    bundle = pr.fit(
        replace(schema, tasks=[pr.Task(outcome, kind=KINDS[outcome], ranking=LOSSES[loss])]),
        pr.Model(trunk=pr.Separate(), wide=False),  # wide rows are fitted by the likelihood
        train=train,
        valid=valid,
        seed=seed,
        stop=pr.Stop(score=f"{outcome} @ all", metric="value_ndcg@10"),
        progress=False,
    )
    seconds = perf_counter() - started
    return {**figures(bundle, test, outcome), "seconds": seconds}


def main():
    """Run every cell, save the figures and print a table for each outcome."""
    runs, seeds, rows = every_cell(RESULTS, ROWS, KINDS, LOSSES, log, trained)
    print(f"{rows:,} rows, {len(seeds)} seeds; {mean(e['seconds'] for e in runs):.0f} s a fit")
    for outcome in KINDS:
        print(f"\n{outcome}")
        print(table(runs, outcome, LOSSES, FIGURES, "ndcg@10 of truth", "pointwise"))


if __name__ == "__main__":
    main()
