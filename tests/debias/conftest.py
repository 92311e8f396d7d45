"""A funnel whose last event is debiased, with logits and labels in float64."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

from polyrank.data.statistics import fitted_labels, term_statistics
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.objective.losses import Supervision
from polyrank.schema import Keys, Schema, SparseFeature, Task

FUNNEL = ("click", "cart", "buy")


@dataclass
class Batch:
    """Rows that are both a batch and the training rows of its supervision."""

    supervision: Supervision
    z: dict[str, torch.Tensor]  # leaves
    labels: torch.Tensor
    weight: torch.Tensor | None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        self.names = tuple(task.name for task in self.supervision.schema.tasks)

    def losses(self, labels=None, **more):
        labels = self.labels if labels is None else labels
        return self.supervision.losses(self.z, labels, self.weight, **more)[0]

    def gradients(self, loss):
        return dict(
            zip(
                self.z,
                torch.autograd.grad(
                    loss, list(self.z.values()), retain_graph=True, materialize_grads=True
                ),
                strict=True,
            )
        )


def funnel(debias, depth=1, **task):
    """Return a schema: click → buy, or click → cart → buy."""
    names = ("click", "buy") if depth == 1 else FUNNEL
    tasks = [Task(names[0])]
    for name, parent in zip(names[1:-1], names[:-2], strict=True):
        tasks.append(Task(name, given=parent))
    tasks.append(Task(names[-1], given=names[-2], debias=debias, **task))
    return Schema([SparseFeature("item")], tasks, Keys(weight="weight"))


def drawn(names, count, seed, missing=0.1):
    """Return labels (count, L) of a funnel; some are not observed."""
    rng = np.random.default_rng(seed)
    happened, columns = np.ones(count, bool), []
    for rate in np.linspace(0.5, 0.4, len(names)):
        happened = happened & (rng.random(count) < rate)
        label = happened.astype(float)
        label[rng.random(count) < missing] = np.nan
        columns.append(label)
    for before, after in pairwise(columns):
        after[before == 0] = 0.0  # no orphans
    return np.array(columns).T


@pytest.fixture
def make_batch():
    def make(
        debias, *, depth=1, weighted=False, count=400, seed=3, spread=1.5, missing=0.1, **task
    ):
        schema = funnel(debias, depth, **task)
        names = [each.name for each in schema.tasks]
        labels, rng = drawn(names, count, seed, missing), np.random.default_rng(seed + 1)
        weight = rng.uniform(0.5, 2.0, count).astype(np.float32) if weighted else np.ones(count)
        frame = pl.DataFrame(
            {"item": [1] * count, "weight": weight, **dict(zip(names, labels.T, strict=True))}
        )
        table = encode(frame, schema, Vocab.fit(frame, schema))
        supervision = Supervision(schema, term_statistics(table), fitted_labels(table))
        z = {
            head.name: torch.from_numpy(rng.normal(-0.5, spread, count)).requires_grad_()
            for head in schema.heads
        }
        weights = torch.from_numpy(weight.astype(np.float64)) if weighted else None
        return Batch(supervision, z, torch.from_numpy(labels), weights)

    return make
