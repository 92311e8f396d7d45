"""A generated impression log whose truth is known, with the columns of Ali-CCP.

Only such a log can score a conversion rate on impressions that nobody clicked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polyrank.datasets.marginals import marginal, sigmoid
from polyrank.datasets.world import Draw, Field, Number, Preset, World
from polyrank.errors import ConfigError, did_you_mean
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
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{did_you_mean(preset, PRESETS)}")
    counts = split_rows(rows, fractions)
    plan = PRESETS[preset](items)
    world, rng = World.seeded(plan, users, items, hidden, seed)
    frames: list[pl.LazyFrame] = []
    requests, time = 0, START_S
    for count in counts:
        draw = world.draw(count, rng)
        frame = _labelled(draw, world, hidden, rng, requests, time)
        requests, time = frame["request"][-1], frame["time"][-1]
        frames.append(frame.lazy())
    train, valid, test = frames
    return train, valid, test, schema_of(plan)


def schema_of(plan: Preset) -> Schema:
    """Return the schema of a log of this plan: ids where they have an effect, fields, numbers."""
    sparse = sorted([*plan.fields, *([USER, ITEM] if plan.ids else [])])
    return Schema(
        features=[
            *(SparseFeature(name) for name in sparse),
            *(DenseFeature(name, encoding="log") for name in sorted(plan.numbers)),
        ],
        tasks=[Task("click"), Task("buy", given="click")],
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


def _labelled(
    draw: Draw,
    world: World,
    hidden: float,
    rng: np.random.Generator,
    requests: int,
    time: int,
) -> pl.DataFrame:
    """Return a draw as a frame with keys, labels and truth, after `requests` up to `time`."""
    a, b = world.logits(draw)
    truth = marginal(a, b, hidden)
    cause = hidden * rng.standard_normal(draw.rows)
    click = rng.random(draw.rows) < sigmoid(a + cause)
    buy = click & (rng.random(draw.rows) < sigmoid(b + cause))
    request = draw.owners["request"]
    times = time + np.cumsum(rng.integers(1, GAP_S, size=int(request[-1]) + 1))
    columns: dict[str, np.ndarray] = {
        "request": (requests + 1 + request).astype(np.int32),
        "time": times[request].astype(np.int64),
        USER: draw.owners["user"] + 1,
    }
    if world.preset.ids:
        columns[ITEM] = draw.owners["item"] + 1
    for name in sorted(world.preset.fields):
        columns[name] = draw.columns[name] + 1
    for name in sorted(world.preset.numbers):
        columns[name] = draw.columns[name]
    columns |= {
        "click": click.astype(np.int8),
        "buy": buy.astype(np.int8),
        "true_p_click": truth.p_click,
        "true_p_buy": truth.p_buy,
        "true_p_buy_given_click": truth.p_buy_given_click,
        "do_p_buy_given_click": truth.do_buy,
    }
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float32).fill_nan(None))
