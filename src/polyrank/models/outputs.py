"""From a table to logits, and from logits to the named columns of `predict`.

Letters: N rows of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyrank.data.table import Batch, Table
from polyrank.models.ranker import Inputs, Ranker
from polyrank.nn.embed import TensorBag
from polyrank.objective.likelihood import Likelihood
from polyrank.schema import Schema
from polyrank.terms import composed

CHUNK_ROWS = 16384


class Tensors(NamedTuple):
    """A batch as tensors on a device; see `Batch`, also for the shapes."""

    ids: Tensor
    dense: Tensor
    bags: tuple[TensorBag, ...]
    labels: Tensor
    weight: Tensor | None
    extras: Tensor | None
    given: Mapping[str, Tensor]
    requests: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, device: str) -> Tensors:

        def moved(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            moved(batch.ids),
            moved(batch.dense),
            tuple(TensorBag.of(bag, device) for bag in batch.bags),
            moved(batch.labels),
            None if batch.weight is None else moved(batch.weight),
            None if batch.extras is None else moved(batch.extras),
            {name: moved(each) for name, each in batch.given.items()},
            None if batch.requests is None else moved(batch.requests),
        )


def logits_of(
    ranker: Ranker,
    table: Table,
    device: str = "cpu",
    *,
    chunks: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Return the logits of every head on every row, in evaluation mode, on the CPU.

    {head: (N,) or (N, outputs)}; `chunks` takes only the first so many, of `CHUNK_ROWS` rows each;
    `dtype` is that of trunk and heads.
    """
    rows = len(table) if chunks is None else min(len(table), chunks * CHUNK_ROWS)
    found: dict[str, Tensor] = {}
    ranker.eval()
    if not table.given:
        table = ranker.told(table)
    with torch.inference_mode():
        start = 0
        for batch in islice(table.batches(ranker.layout, CHUNK_ROWS), chunks):
            given = inputs(ranker, batch, device)
            logits = ranker(*(None if t is None else t.to(dtype) for t in given)).logits
            for head, each in logits.items():
                if head not in found:
                    found[head] = torch.empty(rows, *each.shape[1:], dtype=each.dtype)
                found[head][start : start + len(batch)].copy_(each)
            start += len(batch)
    return found


def margins_of(ranker: Ranker, table: Table, device: str = "cpu") -> dict[str, Tensor]:
    """Return the margins that first stages add on every row, by head, as logits are.

    There are none without first stages; an output without a margin has NaN.
    """
    first = ranker.first
    if first is None:
        return {}
    if not table.given:
        table = ranker.told(table)
    found = torch.empty(len(table), len(first.outputs))
    with torch.inference_mode():
        start = 0
        for batch in table.batches(ranker.layout, CHUNK_ROWS):
            tensors = Tensors.of(batch, device)
            margin, _ = first(tensors.ids, tensors.bags, tensors.given)
            found[start : start + len(batch)] = margin
            start += len(batch)
    return first.by_head(found)


def inputs(ranker: Ranker, batch: Batch, device: str) -> Inputs:
    """Return what the network takes of a batch, as it is served."""
    found = Tensors.of(batch, device)
    return ranker.inputs(found.ids, found.dense, found.bags, found.given)


def outputs(
    schema: Schema,
    logits: Mapping[str, Tensor],
    likelihoods: Mapping[str, Likelihood],
    extras: Mapping[str, Tensor],
    maps: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Return float64 output columns in task order: each head given its parent, then each joint.

    The only way from logits to outputs: an exported graph is traced through it.

    Args:
        schema: the tasks.
        logits: of each head, uncalibrated.
        likelihoods: of each task.
        extras: the columns that kinds of label read.
        maps: calibration, by task, of what its kind of label says is `calibrated`.
    """
    return composed(
        schema,
        {
            name: _predicted(likelihoods[name], logits[name], extras, maps.get(name))
            for name in schema.by_name
        },
    )


def _predicted(
    likelihood: Likelihood,
    logits: Tensor,
    extras: Mapping[str, Tensor],
    apply: Callable[[Any], Any] | None,
) -> tuple[Tensor, ...]:
    """Return a head's outputs, calibrated where there is a map."""
    if apply is None:
        return likelihood.predict(logits, extras)
    if likelihood.kind.calibrated == "logit":
        return likelihood.predict(apply(logits), extras)
    values = likelihood.predict(logits, extras)
    if likelihood.kind.calibrated == "quantiles":
        return tuple(apply(values))
    return (apply(values[0]), *values[1:])
