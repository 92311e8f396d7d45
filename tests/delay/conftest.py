"""A log of late purchases, as arrays, as a table and as a batch in float64."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch

from polyrank.data.delays import with_cut
from polyrank.data.statistics import term_statistics
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.delay import DELAY
from polyrank.objective.losses import Supervision
from polyrank.schema import Keys, Schema, SparseFeature, Task

DAY = 86_400
WINDOW = 5 * DAY


@dataclass
class Batch:
    """Rows that are both a batch and the training rows of its supervision."""

    supervision: Supervision
    z: dict[str, torch.Tensor]  # leaves
    labels: torch.Tensor
    weight: torch.Tensor
    log: pl.DataFrame

    def losses(self, labels=None, **more):
        labels = self.labels if labels is None else labels
        return self.supervision.losses(self.z, labels, self.weight, **more)[0]

    def gradients(self, loss):
        found = torch.autograd.grad(
            loss, list(self.z.values()), retain_graph=True, materialize_grads=True
        )
        return dict(zip(self.z, found, strict=True))


def drawn(count, seed, missing=0.1):
    """Return 20 days of click → buy; purchases come 2 days late, and some labels are unknown."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(0, 20 * DAY, count)).astype(float)
    time[0], time[-1] = 0, 20 * DAY
    click = np.where(rng.random(count) < 0.6, 1.0, 0.0)
    bought = time + rng.exponential(2 * DAY, count)
    buy = (click == 1) & (rng.random(count) < 0.5) & (bought <= time[-1])
    label = buy.astype(float)
    unknown = ~buy & (rng.random(count) < missing)
    label[unknown] = np.nan
    click[(rng.random(count) < missing) & ~buy & unknown] = np.nan
    return pl.DataFrame(
        {
            "item": np.ones(count, int), "time": time, "click": click, "buy": label,
            "buy_time": np.where(buy, bought, np.nan), "weight": rng.uniform(0.5, 2, count),
        }
    )  # fmt: skip


def batch_of(log, delay, *, seed=4, spread=1.5, **task):
    schema = Schema(
        [SparseFeature("item")],
        [Task("click"), Task("buy", given="click", delay=delay, **task)],
        Keys(time="time", weight="weight"),
    )
    schema = with_cut(schema, log)
    table = encode(log, schema, Vocab.fit(log, schema))
    rng = np.random.default_rng(seed)
    z = {
        head.name: torch.from_numpy(rng.normal(-0.5, spread, len(log))).requires_grad_()
        for head in schema.heads
    }
    weight = torch.tensor(log["weight"].to_list(), dtype=torch.float64)
    labels = torch.from_numpy(table.labels).double()
    return Batch(Supervision(schema, term_statistics(table)), z, labels, weight, log)


@pytest.fixture
def make_batch():
    def make(kind, *, count=400, seed=3, missing=0.1, **options):
        task = {name: options.pop(name) for name in ("space", "positive_weight") if name in options}
        spread = options.pop("spread", 1.5)
        delay = DELAY[kind](time="buy_time", window=WINDOW, **options)
        return batch_of(drawn(count, seed, missing), delay, spread=spread, **task)

    return make
