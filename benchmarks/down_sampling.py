"""What down-sampled negatives do to probabilities, on a log with known truth.

A synthetic log (additive preset) gets a second root label, `like`, which a click makes more likely.
Then nine of ten training rows without a click are dropped. The same model is trained on the rest,
with the sampling declared and without; validation and test rows are complete. Prints, for each
score, PCOC against the mean true probability of the test rows: mean ± standard deviation over
seeds, and the worst |PCOC − 1|. Writes results/down_sampling.json.

    python benchmarks/down_sampling.py [seeds]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from statistics import mean
from time import perf_counter

import numpy as np
import polars as pl
import torch
from parts import record
from parts.seeds import spread

import polyrank as pr
from polyrank.datasets.marginals import sigmoid
from polyrank.datasets.synthetic import synthetic
from polyrank.text import aligned

ROWS, KEEP = 2_700_000, 0.1
LIKED_AFTER_CLICK = 2.0  # added to the logit of a like
FUNNEL = [pr.Task("click"), pr.Task("buy", given="click", space="all")]
CELLS = {"funnel": FUNNEL, "funnel and like": [*FUNNEL, pr.Task("like")]}
OUTPUTS = {"click @ all": "p_click", "buy @ all": "p_buy", "like @ all": "p_like"}
RESULTS = record.RESULTS / "down_sampling.json"


def liked(rows, generator):
    """Add the label `like` and its true probability given the features, the click averaged out."""
    click, p_click = rows["click"].to_numpy(), rows["true_p_click"].to_numpy()
    buy = rows["true_p_buy_given_click"].to_numpy()
    logit = 0.5 * np.log(buy / (1 - buy)) - 1
    after, else_ = sigmoid(logit + LIKED_AFTER_CLICK), sigmoid(logit)
    like = generator.random(len(rows)) < np.where(click == 1, after, else_)
    truth = p_click * after + (1 - p_click) * else_
    return rows.with_columns(
        pl.Series("like", like.astype(np.int8)), pl.Series("true_p_like", truth)
    )


def log(seed):
    """Return the sampled training rows, all validation and test rows, and the schema."""
    *splits, schema = synthetic(ROWS, seed=seed, preset="additive")
    generator = np.random.default_rng([seed, 1])
    train, valid, test = (liked(each.collect(), generator) for each in splits)
    kept = (train["click"].to_numpy() == 1) | (generator.random(len(train)) < KEEP)
    return train.filter(pl.Series(kept)), valid, test, schema


def train(rows, tasks, sampling, seed):
    """Train one cell and return its predictions on the test rows, and the seconds."""
    train, valid, test, schema = rows
    started = perf_counter()
    bundle = pr.fit(
        replace(schema, tasks=tasks),
        pr.Model(trunk=pr.Separate(), tower=[16, 8], embed_dim=8, dropout=0),
        train=train,
        valid=valid,
        sampling=sampling,
        seed=seed,
        batch_size=4096,
        lr=3e-3,
        epochs=6,
        schedule=pr.Cosine(),
    )
    # Raw: calibration on whole validation rows would mend what is not declared as well.
    return bundle.predict(test, raw=True), perf_counter() - started


def figures(predicted, test, tasks):
    """Return PCOC against the truth for each score; for `like` also by the root's odds."""
    found = {}
    for task in tasks:
        name = f"{task.name} @ all"
        p, truth = predicted[OUTPUTS[name]].to_numpy(), test[f"true_p_{task.name}"].to_numpy()
        found[name] = float(p.mean() / truth.mean())
        if task.name == "like":
            shifted = KEEP * p / (KEEP * p + 1 - p)
            found[f"{name}, odds times keep"] = float(shifted.mean() / truth.mean())
    return found


def show(runs, seeds):
    """Print a line for each cell and score: with the sampling declared, and without."""
    lines = []
    for cell in CELLS:
        found = {
            declared: [
                each["pcoc"]
                for each in runs
                if (each["cell"], each["declared"]) == (cell, declared)
            ]
            for declared in (True, False)
        }
        for name in found[False][0]:
            values = {key: [each[name] for each in cells] for key, cells in found.items()}
            if "odds" in name:
                values[True] = []  # a correction of the run that knows of no sampling
            declared = ["", ""]
            if values[True]:
                worst = max(abs(each - 1) for each in values[True])
                declared = [spread(values[True]), f"{worst:.4f}"]
            lines.append([cell, name, *declared, spread(values[False])])
    buys = min(each["training_buys"] for each in runs)
    rows = mean(each["training_rows"] for each in runs)
    print(
        f"{ROWS:,} rows, keep {KEEP:g}, {len(seeds)} seeds: {rows:,.0f} training rows are left, ",
        end="",
    )
    print(f"with {buys:,} buys or more; {mean(each['seconds'] for each in runs):.0f} s a fit")
    header = ["tasks", "test PCOC, to the truth", "declared", "worst |PCOC − 1|", "not declared"]
    print(aligned(header, lines, [2, 3, 4]))


def main():
    """Run every cell, print the table and save the figures."""
    torch.set_num_threads(1)
    seeds = list(range(1, 1 + int(sys.argv[1] if len(sys.argv) > 1 else 5)))
    runs = []
    for seed in seeds:
        rows = log(seed)
        for cell, tasks in CELLS.items():
            for declared in (True, False):
                sampling = pr.Sampling("click", KEEP) if declared else None
                predicted, seconds = train(rows, tasks, sampling, seed)
                runs.append(
                    {
                        "cell": cell,
                        "declared": declared,
                        "seed": seed,
                        "training_rows": len(rows[0]),
                        "training_buys": int(rows[0]["buy"].sum()),
                        "pcoc": figures(predicted, rows[2], tasks),
                        "seconds": seconds,
                    }
                )
        table = {**record.origin("polars"), "rows": ROWS, "keep": KEEP, "runs": runs}
        record.write(RESULTS, table)  # after each seed: an interrupted run keeps what it has
    show(runs, seeds)


if __name__ == "__main__":
    main()
