"""A generated impression log whose truth is known, with the columns of Ali-CCP.

Only such a log can score a conversion rate on impressions that nobody clicked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polyrank.datasets.marginals import Marginals, marginal, sigmoid
from polyrank.datasets.parts import Log, Part, chosen
from polyrank.datasets.parts.part import STAGES, Labels
from polyrank.datasets.world import Draw, Field, Number, Preset, World
from polyrank.errors import ConfigError, did_you_mean
from polyrank.meter import metered
from polyrank.schema import DenseFeature, Keys, Schema, SparseFeature, Task

if TYPE_CHECKING:
    from polyrank.datasets import Frames

START_S = 1_500_000_000
GAP_S = 14  # requests come 1 to 13 seconds apart
USER, ITEM = "101", "205"


def synthetic(
    rows: int = 1_000_000,
    *,
    seed: int = 0,
    preset: str = "latent",
    hidden: float = 0.0,
    users: int = 20_000,
    items: int = 8_000,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    parts: Sequence[str | Part] = (),
) -> Frames:
    """Return a generated log of clicks and purchases, with its truth, in three splits.

    4 % of the impressions are clicked, and 10 % of the clicks are purchases. A hidden cause U,
    standard normal and unknown to every feature, enters both logits of an impression:
    click ~ σ(a + hidden·U), and buy given click ~ σ(b + hidden·U). At `hidden` = 1, P(buy | click)
    is about twice what a forced click would give; beyond ±4 it is refused.

    Beside the schema's columns each frame has the truth of every impression, U averaged out:
    `true_p_click`, `true_p_buy` (click and buy), `true_p_buy_given_click` (their ratio: what a log
    can teach) and `do_p_buy_given_click` (what a forced click would give; the same without a
    hidden cause).

    The preset `latent` has user and item factors, ids, fields and skewed numbers, and no model
    reaches its oracle; `additive` has eight fields whose effects add up, so a right model does. The
    world does not depend on `rows`. The splits follow each other in time, in whole requests.

    `parts`, by name or with options, are what else the world has: see `PARTS` and
    docs/datasets.md. Each draws from a generator of its own, so that one part leaves the draws of
    the log and of other parts as they are.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{did_you_mean(preset, PRESETS)}")
    counts = split_rows(rows, fractions)
    plan = PRESETS[preset](items)
    with_parts = chosen(parts)
    world, rng = World.seeded(plan, users, items, hidden, seed)
    splits: list[_Split] = []
    requests, time = 0, START_S
    for count in metered(counts, "drawing impressions", total=rows, size=int):
        splits.append(_drawn(world, count, hidden, rng, requests, time))
        requests, time = int(splits[-1].request[-1]) + 1, int(splits[-1].time[-1])
    log = _joined(world, splits)
    for stage in STAGES:
        if stage == "event":
            log = _with_events(log, splits, hidden)
        for part in with_parts:
            if part.stage == stage:
                log = part.apply(log, *part.generators(seed))
    frame = _frame(log)
    train, valid, test = (frame[start:end].lazy() for start, end in pairwise((0, *log.ends)))
    return train, valid, test, schema_of(plan, with_parts)


def schema_of(plan: Preset, parts: Sequence[Part] = ()) -> Schema:
    """Return the schema of a log of this plan: ids where they have an effect, fields, numbers."""
    sparse = sorted([*plan.fields, *([USER, ITEM] if plan.ids else [])])
    return Schema(
        features=[
            *(SparseFeature(name) for name in sparse),
            *(DenseFeature(name, encoding="log") for name in sorted(plan.numbers)),
            *(feature for part in parts for feature in part.features),
        ],
        tasks=[
            Task("click"),
            Task("buy", given="click"),
            *(task for part in parts for task in part.tasks),
        ],
        keys=Keys(user=USER, request="request", time="time"),
    )


def latent(items: int) -> Preset:
    """Return the plan with factors, ids, fields and numbers."""
    return Preset(
        fields={
            "121": Field("user", 98, 0.06),
            "122": Field("user", 14, 0.06),
            "124": Field("user", 3, 0.03),
            "125": Field("user", 8, 0.05),
            "126": Field("user", 4, 0.02),
            "127": Field("user", 4, 0.03),
            "128": Field("user", 3, 0.02),
            "129": Field("user", 5, 0.03),
            "206": Field("item", max(4, items // 80), 0.10),
            "207": Field("item", max(4, items // 4), 0.05),
            "216": Field("item", max(4, items // 16), 0.06),
            "301": Field("request", 4, 0.05),
            "508": Field("request", 24, 0.04),
            "509": Field("row", 60, 0.05),
        },
        numbers={
            "D109_14": Number("user", 30.0, 1.2, 0.10, 0.05),
            "D127_14": Number("user", 4.0, 0.8, 0.0, 0.03),
            "D508": Number("row", 1.5, 1.0, 0.05, 0.05),
            "D509": Number("item", 60.0, 0.9, 0.02, 0.04),
        },
        ids=0.06,
        factors=0.12,
        known={"121": 0.3, "122": 0.3, "206": 0.4, "216": 0.2},
    )


def additive(items: int) -> Preset:
    """Return the plan with eight fields of few values and nothing else; items play no part."""
    del items
    return Preset(
        fields={
            "122": Field("user", 14, 0.15),
            "124": Field("user", 3, 0.10),
            "125": Field("user", 8, 0.13),
            "127": Field("user", 4, 0.12),
            "129": Field("user", 5, 0.12),
            "206": Field("row", 20, 0.14),
            "301": Field("request", 4, 0.11),
            "508": Field("row", 24, 0.13),
        },
    )


PRESETS = {"latent": latent, "additive": additive}


def split_rows(rows: int, fractions: Sequence[float]) -> list[int]:
    """Return the rows of each split, rounded so that they sum to `rows`."""
    three = len(fractions) == 3 and all(isfinite(each) and each > 0 for each in fractions)
    if not three or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(
            f"fractions must be three numbers above 0 that sum to 1, got {tuple(fractions)}"
        )
    ends = [0, *(round(rows * share) for share in accumulate(fractions))]
    counts = [end - start for start, end in pairwise(ends)]
    if min(counts) < 1:
        raise ConfigError(f"{rows} rows leave a split empty: fractions {tuple(fractions)}")
    return counts


@dataclass(frozen=True, eq=False)
class _Split:
    """The impressions of a split and all that chance decides of them, (rows,) each."""

    draw: Draw
    cause: np.ndarray  # hidden·U
    click: np.ndarray  # uniform: clicked where it is below the probability
    buy: np.ndarray
    request: np.ndarray
    time: np.ndarray


def _drawn(
    world: World, rows: int, hidden: float, rng: np.random.Generator, requests: int, time: int
) -> _Split:
    """Return a split after `requests` requests, the last one at `time`."""
    draw = world.draw(rows, rng)
    cause = hidden * rng.standard_normal(rows)
    click, buy = rng.random(rows), rng.random(rows)
    request = draw.owners["request"]
    times = time + np.cumsum(rng.integers(1, GAP_S, size=int(request[-1]) + 1))
    return _Split(draw, cause, click, buy, requests + request, times[request])


def _joined(world: World, splits: Sequence[_Split]) -> Log:
    """Return the splits as one log, whose click and buy are still open."""

    def joined(name: str, of: str) -> np.ndarray:
        return np.concatenate([getattr(each.draw, of)[name] for each in splits])

    first = splits[0].draw
    return Log(
        world,
        Draw(
            {name: joined(name, "owners") for name in first.owners},
            {name: joined(name, "columns") for name in first.columns},
        ),
        tuple(accumulate(each.draw.rows for each in splits)),
        np.concatenate([each.request for each in splits]),
        np.concatenate([each.time for each in splits]),
    )


def _with_events(log: Log, splits: Sequence[_Split], hidden: float) -> Log:
    """Return a log with its logits, its clicks and its purchases.

    Logits and probabilities are computed a split at a time: a product of matrices and an
    exponential may round otherwise at another length.
    """
    logits: list[np.ndarray] = []
    truths: list[Marginals] = []
    for start, end in pairwise((0, *log.ends)):
        each = log.world.logits(log.draw[start:end])
        logits.append(each if log.shift is None else each + log.shift[:, start:end])
        truths.append(marginal(logits[-1][0], logits[-1][1], hidden))
    clicks = [
        split.click < sigmoid(a + split.cause) for split, (a, _) in zip(splits, logits, strict=True)
    ]
    buys = [
        click & (split.buy < sigmoid(b + split.cause))
        for split, click, (_, b) in zip(splits, clicks, logits, strict=True)
    ]
    truth = Marginals(
        *(
            np.concatenate([getattr(each, name) for each in truths])
            for name in ("p_click", "p_buy", "p_buy_given_click", "do_buy")
        )
    )
    events = {"click": clicks, "buy": buys}
    labels = Labels({name: np.concatenate(each).astype(float) for name, each in events.items()})
    return replace(log, logits=np.concatenate(logits, axis=1), truth=truth, labels=labels)


def _frame(log: Log) -> pl.DataFrame:
    """Return a log as a frame: keys, features, click and buy with their truth, then parts'."""
    draw, plan, truth = log.draw, log.world.preset, log.probabilities
    columns: dict[str, np.ndarray] = {
        "request": (1 + log.request).astype(np.int32),
        "time": log.time.astype(np.int64),
        USER: draw.owners["user"] + 1,
    }
    if plan.ids:
        columns[ITEM] = draw.owners["item"] + 1
    for name in sorted(plan.fields):
        columns[name] = draw.columns[name] + 1
    for name in sorted(plan.numbers):
        columns[name] = draw.columns[name]
    labels = log.labels.values
    columns |= {
        "click": labels["click"],
        "buy": labels["buy"],
        "true_p_click": truth.p_click,
        "true_p_buy": truth.p_buy,
        "true_p_buy_given_click": truth.p_buy_given_click,
        "do_p_buy_given_click": truth.do_buy,
        **labels,
        **log.columns,
    }
    whole = [name for name in labels if name not in log.labels.numbers]
    return (
        pl.DataFrame(columns)
        .with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
        .with_columns(pl.col(whole).cast(pl.Int8))
    )
