"""Days in which tastes wander and new items appear."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyrank.datasets.parts.part import Log, Part
from polyrank.datasets.world import Draw
from polyrank.spec import number, whole

DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class Drift(Part):
    """Drift over days: effects of one field wander, and items are new on some day.

    The log takes `days` days of equal numbers of rows, `day` 0, 1, …, and `time` accordingly. Each
    value of the first field of items (of rows, where items have none) has a random walk for either
    logit that starts at 0 and moves by N(0, spread²) a day: `true_drift` is that of click, and the
    truths of click and buy have it. An item is new with the probability `new`, from a day on that
    is drawn evenly, `item_day`; where it was drawn before, an old one stands in.

    Args:
        days: of the log.
        spread: standard deviation of a day's step.
        new: share of items that are not there on day 0.
    """

    name = "drift"
    stage = "draw"
    days: int = 10
    spread: float = 0.15
    new: float = 0.3

    def __post_init__(self) -> None:
        whole("drift: days", self.days, least=2)
        number("drift: spread", self.spread, least=0)
        number("drift: new", self.new, least=0, below=1)

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Move times, items and logits."""
        world, preset = log.world, log.world.preset
        at = np.searchsorted(log.request, log.request)  # the first row of each row's request
        time = int(log.time[0]) + DAY_S * self.days * at // log.rows
        day = (self.days * at // log.rows).astype(np.int32)
        popularity = world.popularity["item"]
        appears = to_world.integers(1, self.days, size=len(popularity))
        appears = np.where(to_world.random(len(popularity)) < self.new, appears, 0)
        appears[np.argmax(popularity)] = 0  # there is always one
        old = np.flatnonzero(appears == 0)
        edges = np.cumsum(popularity[old])
        place = np.searchsorted(edges[:-1] / edges[-1], to_log.random(log.rows), side="right")
        item = log.draw.owners["item"]
        item = np.where(appears[item] > day, old[place], item).astype(item.dtype)
        columns = {
            name: world.attributes[name][item] if world.columns[name].owner == "item" else each
            for name, each in log.draw.columns.items()
        }
        named = {each.owner: name for name, each in reversed(list(preset.fields.items()))}
        name = named.get("item") or named["row"]
        steps = self.spread * to_world.standard_normal((2, preset.fields[name].values, self.days))
        steps[:, :, 0] = 0.0
        shift = np.cumsum(steps, axis=2)[:, columns[name], day]
        log = log.adding(day=day, item_day=appears[item].astype(np.int32), true_drift=shift[0])
        draw = Draw({**log.draw.owners, "item": item}, columns)
        return replace(log, draw=draw, time=time.astype(np.int64), shift=shift)
