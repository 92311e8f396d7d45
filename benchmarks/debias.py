"""Debiased conversion against the plain model, where the truth is known.

Logs:

- `generated`: the synthetic log behind a logging policy. Rows that it did not show have no labels;
  the funnel is exposed → click → buy, and P(buy|click) is learned where both happened. The policy
  is random ("off"), or shows what a past model scored high ("on"), so that what is seen is chosen
  by what moves purchases too. Mean absolute error of P(buy|click) on test rows that were clicked,
  that were not, and on all.
- `coat` (--coat FOLDER): ratings of self-chosen coats; the test rates coats drawn at random. A
  choice plays the click, a rating of at least 3 the purchase.
- `kuairand` (--kuairand FILE): a click plays the click, a like (not a hate) the purchase. Likes are
  known for all rows and hidden in training where nobody clicked; the test rows are the last in
  time. Selection by what no feature shows is part of it.

All terms are plain means (`normalize = false`), so that a method is not judged by how much its task
weighs in the shared embeddings: by default a term weighs by its rows, and weighted rows stand for
all rows. The plain model with that default is one more line.

Prints a table a log, mean ± standard deviation over seeds, and paired differences from the
clicked-rows model with 95 % intervals (Student's t). Writes results/debias.json with --write. With
--vary each option of the methods that weigh their terms is moved from its default, one at a time:
results/debias_options.json.

    python benchmarks/debias.py --seeds 5 --coat COAT --kuairand TSV --write
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
import torch
from parts import record
from parts.seeds import shown, spread

import polyrank as pr
from polyrank.datasets.parts import Exposure
from polyrank.datasets.synthetic import synthetic
from polyrank.debias import DEBIAS
from polyrank.metrics.registry import metric
from polyrank.text import aligned

RESULTS = record.RESULTS / "debias.json"
PLAIN = "clicked rows"
STRENGTHS = {"off": 0.0, "on": 1.5}  # of the policy's score
LIKED = 3  # the least rating that counts as a purchase
MEANS = pr.Sum(normalize=False)
# Options to vary, one at a time; all others stay at their defaults. --vary
VARIED = {
    "escm2_ips": {"counterfactual": (0.01, 0.1), "joint": (0.1,)},
    "escm2_dr": {"counterfactual": (0.01, 0.1), "joint": (0.1,)},
    "dcmt": {"constraint": (0.0001, 0.001, 0.01), "joint": (0.1,)},
    "ddpo": {"debiased": (10,), "conversion": (1,), "joint": (0.1,)},
    "nise": {"largest": (0.1,)},
}


@dataclass(frozen=True)
class Contender:
    """How P(buy|click) is learned."""

    options: Mapping[str, Any]  # of the task
    balance: pr.Sum = MEANS

    @property
    def task(self) -> pr.Task:
        """The task."""
        return pr.Task("buy", given="click", **self.options)


Log = Callable[[Contender, int], dict[str, float]]


def contenders(floor: float) -> dict[str, Contender]:
    """Return the plain estimators, then every method, by name."""
    found = {
        PLAIN: Contender({}),
        "clicked rows, weighed by rows": Contender({}, pr.Sum()),
        "entire space": Contender({"space": "all"}),
    }
    for name, method in DEBIAS.items():
        options = {"floor": floor} if issubclass(method, pr.PropensityWeighted) else {}
        found[name] = Contender({"debias": method(**options)})
    return found | {"mrdr": Contender({"debias": pr.DR(floor=floor, mrdr=True)})}


def varied(floor: float) -> dict[str, Contender]:
    """Return the plain estimator, and each method of `VARIED` by its options, by name."""
    every = contenders(floor)
    found = {PLAIN: every[PLAIN]}
    for name, options in VARIED.items():
        found[name] = every[name]
        method = every[name].task.debias
        for option, values in options.items():
            for value in values:
                changed = replace(method, **{option: value})
                found[f"{name}, {option} = {value:g}"] = Contender({"debias": changed})
    return found


def model() -> pr.Model:
    """Return one network for all: shared embeddings, a tower a task, no first stages."""
    return pr.Model(trunk=pr.Separate(), tower=[32, 16], embed_dim=8, wide=False, trees=False)


def weights_of(bundle: pr.Bundle) -> dict[str, float]:
    """Return the effective and the clipped share of the kept epoch's weights, where there are."""
    kept = bundle.history.filter(pl.col("best")).tail(1).to_dicts()[0]
    return {
        key.rpartition(" @ ")[2].partition(" ")[2]: value
        for key, value in kept.items()
        if key.startswith("buy|click") and key.endswith(("effective share", "clipped share"))
    }


def generated(
    rows: int, strength: float, epochs: int, contender: Contender, seed: int
) -> dict[str, float]:
    """Train on a generated log and return its errors on test rows."""
    policy = Exposure(strength=strength)
    train, valid, test, schema = synthetic(rows, seed=seed, parts=[policy])
    tasks = [pr.Task("exposed"), pr.Task("click", given="exposed"), contender.task]
    names = {each.name for each in tasks}
    features = [each for each in schema.features if each.name not in names]
    bundle = pr.fit(
        pr.Schema(features=features, tasks=tasks), model(), train=train, valid=valid, seed=seed,
        epochs=epochs, batch_size=4096, balance=contender.balance,
    )  # fmt: skip
    frame = test.collect()
    clicked = ((frame["click"] == 1) & (frame["exposed"] == 1)).to_numpy()
    truth = frame["true_p_buy_given_click"].to_numpy()
    found = weights_of(bundle)
    for kind, raw in (("", False), (" uncalibrated", True)):
        p = bundle.predict(frame, raw=raw)["p_buy_given_click"].to_numpy()
        error = np.abs(p - truth)
        found |= {
            f"mae clicked{kind}": float(error[clicked].mean()),
            f"mae unclicked{kind}": float(error[~clicked].mean()),
            f"mae all{kind}": float(error.mean()),
            f"bias all{kind}": float((p - truth).mean()),
        }
    return found


def measured(label: np.ndarray, p: np.ndarray, where: str) -> dict[str, float]:
    """Return the AUC and the log loss of predictions on some rows."""
    return {
        f"{name} {where}": float(metric("binary", name)(label, p)) for name in ("auc", "log_loss")
    }


def one_hot(path: Path) -> np.ndarray:
    """Return a file of one-hot rows: (rows, columns)."""
    return np.loadtxt(path, dtype=int)


def coat(folder: Path, epochs: int, contender: Contender, seed: int) -> dict[str, float]:
    """Train on all pairs of users and coats, of which the chosen ones are rated."""
    frames, names = [], []
    for owner in ("user", "item"):
        features = one_hot(folder / f"{owner}_features.ascii")
        groups = [
            line.partition(":")[0]
            for line in (folder / f"{owner}_features_map.txt").read_text().split("\n")
            if line
        ]
        columns = {owner: np.arange(len(features))}
        for group in dict.fromkeys(groups):
            own = features[:, [at for at, each in enumerate(groups) if each == group]]
            columns[f"{owner}_{group}"] = own.argmax(axis=1)
        frames.append(pl.DataFrame(columns))
        names += list(columns)
    chosen, drawn = (
        pl.read_csv(folder / f"{name}.txt", has_header=False, new_columns=["user", "item", "stars"])
        for name in ("user", "random")
    )
    pairs = frames[0].join(frames[1], how="cross")
    pairs = pairs.join(chosen, on=["user", "item"], how="left").with_columns(
        click=pl.col("stars").is_not_null().cast(pl.Int8),
        buy=(pl.col("stars") >= LIKED).cast(pl.Float64),
    )
    held = np.random.default_rng(seed).random(pairs.height) < 0.1
    schema = pr.Schema(
        features=[pr.SparseFeature(name) for name in names],
        tasks=[pr.Task("click"), contender.task],
    )
    bundle = pr.fit(
        schema, model(), train=pairs.filter(~held), valid=pairs.filter(held), seed=seed,
        epochs=epochs, batch_size=1024, balance=contender.balance,
    )  # fmt: skip
    random = drawn.join(frames[0], on="user").join(frames[1], on="item")
    p = bundle.predict(random)["p_buy_given_click"].to_numpy()
    label = (random["stars"] >= LIKED).to_numpy().astype(float)
    return measured(label, p, "at random") | weights_of(bundle)


def kuairand(path: Path, epochs: int, contender: Contender, seed: int) -> dict[str, float]:
    """Train on the first rows in time, likes hidden where nobody clicked."""
    frame = pl.read_csv(path, separator="\t").sort("time_ms")
    frame = frame.with_columns(
        click=pl.col("is_click"), hour=pl.col("hourmin") // 100,
        seconds=pl.when(pl.col("duration_ms") > 0).then(pl.col("duration_ms") / 1000),
    ).with_columns(buy=pl.when(pl.col("click") == 1).then(pl.col("label")))  # fmt: skip
    ends = [round(share * frame.height) for share in (0.7, 0.8)]
    train, valid, test = frame[: ends[0]], frame[ends[0] : ends[1]], frame[ends[1] :]
    features = [
        *(pr.SparseFeature(name) for name in ("user_id", "video_id", "hour")),
        pr.DenseFeature("seconds", encoding="log"),
    ]
    schema = pr.Schema(features=features, tasks=[pr.Task("click"), contender.task])
    bundle = pr.fit(
        schema,
        model(),
        train=train,
        valid=valid,
        seed=seed,
        epochs=epochs,
        batch_size=1024,
        balance=contender.balance,
    )
    p, label = bundle.predict(test)["p_buy_given_click"].to_numpy(), test["label"].to_numpy()
    clicked = test["click"].to_numpy() == 1
    found = weights_of(bundle)
    for where, rows in (
        ("clicked", clicked), ("unclicked", ~clicked), ("all", np.ones_like(clicked)),
    ):  # fmt: skip
        found |= measured(label[rows].astype(float), p[rows], where)
    return found


def logs(args: argparse.Namespace) -> Iterator[tuple[str, Log]]:
    """Yield the logs that were asked for, each with what trains and measures on it."""
    for name, strength in STRENGTHS.items():
        yield (
            f"generated, policy {name}",
            partial(generated, args.rows, strength, args.epochs),
        )
    if args.coat:
        yield "coat", partial(coat, args.coat, args.epochs)
    if args.kuairand:
        yield "kuairand", partial(kuairand, args.kuairand, args.epochs)


def table(runs: Mapping[str, list[dict[str, float]]]) -> str:
    """Return the figures of a log: a line a figure and method, with the paired difference."""
    figures = list(dict.fromkeys(name for found in runs.values() for run in found for name in run))
    lines = []
    for figure in figures:
        for name, found in runs.items():
            if figure not in found[0]:
                continue
            values = [run[figure] for run in found]
            paired = ""
            if name != PLAIN and figure in runs.get(PLAIN, [{}])[0]:
                paired = shown([run[figure] for run in runs[PLAIN]], values)
            lines.append([figure, name, spread(values), paired])
    return aligned(["figure", "learned by", "value", f"- {PLAIN}"], lines, [2, 3])


def options() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method and log")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the generated log")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--floor", type=float, default=pr.IPS().floor, help="of propensities")
    parser.add_argument("--only", nargs="*", help="methods to run, beside the plain model")
    parser.add_argument("--vary", action="store_true", help="the methods' own options")
    parser.add_argument("--logs", nargs="*", help="of these alone")
    parser.add_argument("--coat", type=Path, help="folder of Coat")
    parser.add_argument("--kuairand", type=Path, help="file of explicit feedback of KuaiRand")
    parser.add_argument("--write", action="store_true", help="write the results file")
    return parser.parse_args()


def main() -> None:
    """Run every method on every log, print the tables and keep the figures."""
    args = options()
    torch.set_num_threads(1)
    kept = []
    every = varied(args.floor) if args.vary else contenders(args.floor)
    results = record.RESULTS / "debias_options.json" if args.vary else RESULTS
    chosen = {
        name: each
        for name, each in every.items()
        if args.only is None or name in (PLAIN, *args.only)
    }
    for log, run in logs(args):
        if args.logs is not None and log not in args.logs:
            continue
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
        started = perf_counter()
        for seed in range(1, args.seeds + 1):
            for name, contender in chosen.items():
                figures = run(contender, seed)
                runs[name].append(figures)
                kept.append({"log": log, "learned by": name, "seed": seed, **figures})
        seconds = (perf_counter() - started) / (args.seeds * len(chosen))
        print(f"\n{log}: seeds 1-{args.seeds}, floor {args.floor:g}, {seconds:.0f} s a run")
        print(table(runs), flush=True)
    print("\n* : the 95 % interval over seeds excludes 0")
    if args.write:
        budget = {"rows": args.rows, "epochs": args.epochs, "floor": args.floor}
        record.write(results, {**record.origin("polars"), "budget": budget, "runs": kept})


if __name__ == "__main__":
    main()
