"""The regret of exploring against always showing what the model thinks best.

A world drawn here, whose truth is known: the logit of a click is −2.5 plus a user's effect plus an
item's. Each round, some items go and as many new ones come; a request is a user with a slate of
candidates drawn from the items that are there. A policy shows one of them, and sees whether it is
clicked. After a round its model goes on from its last one with the rows that the policy itself has
shown (a warm start), or is fitted again on all of them. All policies of a seed have the same first
model (of a round that was shown at random), the same requests and the same luck: a candidate that
two of them show is clicked for both or for none.

`unseen_rate` is 0: id dropout would teach the row of unseen ids what rows have been shown, which
are those of good items, and every new item would start above its worth. `--unseen-rate .001`, the
default of `fit`, shows what comes of it.

The regret of a request is the click probability of the best candidate, less that of the one shown.
Printed are the mean regret over all rounds but the random one, in the last third of them, and the
difference to greedy with its 95 % interval over seeds; and what the model says of new items, the
mean error of their logits. Writes results/exploration.json.

    python benchmarks/exploration.py [--seeds 10] [--rounds 12] [--requests 3_000] [--candidates 20]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl
from parts.record import RESULTS, origin, write
from parts.seeds import shown, spread

import polyrank as pr
from polyrank.exploration import Exploration, Sure
from polyrank.exploration.posterior import variance
from polyrank.text import aligned

USERS = 500
BASE, OF_USERS, OF_ITEMS = -2.5, 0.7, 1.0
SCHEMA = pr.Schema([pr.SparseFeature("user"), pr.SparseFeature("item")], [pr.Task("click")])
MODEL = pr.Model(trunk=pr.SharedBottom(hidden=[8]), tower=[8], embed_dim=4)
Refit = Literal["warm", "all"]


def policies(seed: int) -> dict[str, Exploration]:
    """Return the policies, the first one greedy."""
    return {
        "greedy": pr.UCB(alpha=0),
        "thompson": pr.Thompson(seed=seed),
        "thompson, scale .5": pr.Thompson(seed=seed, scale=0.5),
        "ucb, alpha .5": pr.UCB(alpha=0.5),
        "ucb, alpha 1": pr.UCB(alpha=1),
    }


@dataclass(frozen=True)
class Round:
    """The requests of a round: users (Q,), slates (Q, K), p of a click, and its luck, (Q, K)."""

    user: np.ndarray
    item: np.ndarray
    p: np.ndarray
    luck: np.ndarray

    def rows(self, place: np.ndarray) -> pl.DataFrame:
        """Return what is logged where the candidate at `place` of each request is shown."""
        at = np.arange(len(place)), place
        click = (self.luck[at] < self.p[at]).astype(np.int64)
        return pl.DataFrame({"user": self.user, "item": self.item[at], "click": click})

    def regret(self, place: np.ndarray) -> float:
        """Return the mean regret of a request."""
        return float((self.p.max(1) - self.p[np.arange(len(place)), place]).mean())


def world(seed: int, args: argparse.Namespace) -> list[Round]:
    """Draw the rounds, the one that is shown at random first."""
    rounds, requests = args.rounds, args.requests
    rng = np.random.default_rng(seed)
    of_users = rng.normal(0, OF_USERS, USERS)
    of_items = rng.normal(0, OF_ITEMS, args.items + args.new * rounds)
    found = []
    for number in range(rounds + 1):
        user = rng.integers(0, USERS, requests)
        slates = [rng.choice(args.items, args.candidates, replace=False) for _ in range(requests)]
        item = args.new * number + np.array(slates)
        p = 1 / (1 + np.exp(-(BASE + of_users[user][:, None] + of_items[item])))
        found.append(Round(user, item, p, rng.random(p.shape)))
    return found


def predicted(bundle: pr.Bundle, each: Round) -> Sure:
    """Return what a model says of the candidates, flat; as in `Engine.explore`, the uncertainty of
    the user's effect, which all candidates share, is left out.
    """
    rows = {"user": each.user.repeat(each.item.shape[1]), "item": each.item.ravel()}
    found = bundle.predict(pl.DataFrame(rows), raw=True, uncertainty=True)
    p, sd = found["p_click"].to_numpy(), found["p_click_sd"].to_numpy()
    weights = bundle.ranker.named_weights()
    user, *_ = bundle.vocab.tables["user"].encode(pl.Series(rows["user"]))
    known = weights["wide.precision.user"].double().numpy()[user, 0]
    known[user == 0] = weights["wide.prior.user"].item()
    return Sure(np.log(p / (1 - p)), sd * np.sqrt(1 - 1 / known / variance(sd)))


def regrets(seed: int, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return the figures of each policy in each round."""
    options = {
        "batch_size": 256, "epochs": 2, "seed": seed, "threads": args.threads,
        "unseen_rate": args.unseen_rate,
    }  # fmt: skip
    start, *rounds = world(seed, args)
    log = start.rows(np.zeros(len(start.user), dtype=np.int64))  # slates are in random order
    first = pr.fit(SCHEMA, MODEL, train=log, cache=False, **options)
    found: dict[str, dict[str, list[float]]] = {}
    for name in policies(seed):
        bundle, rows = first, log
        own = found.setdefault(name, {"regret": [], "error of new": []})
        for number, each in enumerate(rounds):
            sure = predicted(bundle, each)
            moved = policies(1_000 * seed + number)[name].moved({"click": sure})["click"]
            place = moved.reshape(each.item.shape).argmax(1)
            own["regret"].append(each.regret(place))
            error = sure.logit.reshape(each.p.shape) - np.log(each.p / (1 - each.p))
            new = each.item >= args.items + args.new * number
            own["error of new"].append(float(error[new].mean()) if new.any() else 0.0)
            shown_rows = each.rows(place)
            if args.refit == "warm":
                bundle = pr.fit(
                    SCHEMA, MODEL, train=shown_rows, start=bundle, cache=False, **options
                )
            else:
                rows = pl.concat([rows, shown_rows])
                bundle = pr.fit(SCHEMA, MODEL, train=rows, cache=False, **options)
    at_random = [each.regret(np.zeros(len(each.user), dtype=np.int64)) for each in rounds]
    return found | {"random": {"regret": at_random}}


def table(found: Mapping[str, list[dict[str, list[float]]]]) -> str:
    """Return what is printed, of each policy's figures by seed and round."""

    def means(name: str, figure: str, late: bool) -> list[float]:
        rounds = [each[figure] for each in found[name]]
        return [float(np.mean(each[2 * len(each) // 3 if late else 0 :])) for each in rounds]

    lines = []
    for name, seeds in found.items():
        line = [name]
        for late in (False, True):
            own, greedy = means(name, "regret", late), means("greedy", "regret", late)
            line += [spread(own), "" if name == "greedy" else shown(greedy, own)]
        told = "error of new" in seeds[0]
        lines.append([*line, spread(means(name, "error of new", True), 2) if told else ""])
    head = ["policy", "regret", "minus greedy's", "last third", "minus greedy's", "error of new"]
    return aligned(head, lines)


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--items", type=int, default=100, help="that are there in a round")
    parser.add_argument("--new", type=int, default=5, help="of them, and as many go")
    parser.add_argument("--unseen-rate", type=float, default=0.0)
    parser.add_argument("--refit", choices=get_args(Refit), default="warm")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level="ERROR")
    found: dict[str, list[dict[str, list[float]]]] = {}
    for seed in range(1, args.seeds + 1):
        for name, each in regrets(seed, args).items():
            found.setdefault(name, []).append(each)
        print(f"seed {seed}", flush=True)
    print(f"\n{table(found)}\n")
    settings = {name: value for name, value in vars(args).items() if name != "threads"}
    write(RESULTS / "exploration.json", {**origin("numba"), **settings, "policies": found})


if __name__ == "__main__":
    main()
