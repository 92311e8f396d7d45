"""From a table to logits, and from logits to the named columns of `predict`.

Letters: N rows of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import torch
from torch import Tensor

from polyrank.data.table import Batch, Table
from polyrank.models.ranker import Ranker
from polyrank.nn.embed import TensorBag
from polyrank.objective.likelihood import Likelihood
from polyrank.schema import Schema
from polyrank.terms import output_columns

CHUNK_ROWS = 16384


def logits_of(
    ranker: Ranker, table: Table, device: str = "cpu", *, chunks: int | None = None
) -> dict[str, Tensor]:
    """Return every head's logits on every row, in evaluation mode, on the CPU: {head: (N,)}.

    `chunks` takes only the first so many, of `CHUNK_ROWS` rows each.
    """
    rows = len(table) if chunks is None else min(len(table), chunks * CHUNK_ROWS)
    found: dict[str, Tensor] = {}
    ranker.eval()
    with torch.inference_mode():
        start = 0
        for batch in islice(table.batches(ranker.layout, CHUNK_ROWS), chunks):
            logits = ranker(inputs(ranker, batch, device)).logits
            for task in ranker.layout.schema.by_name:
                each = logits[task]
                if task not in found:
                    found[task] = torch.empty(rows, *each.shape[1:], dtype=each.dtype)
                found[task][start : start + len(batch)].copy_(each)
            start += len(batch)
    return found


def inputs(ranker: Ranker, batch: Batch, device: str) -> Tensor:
    """Return x of a batch: (B, W)."""
    ids, dense, _, _ = tensors(batch, device)
    return ranker.embed(ids, dense, bag_tensors(batch, device))


def tensors(batch: Batch, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return a batch's ids, dense columns, labels and weights as tensors on a device."""
    ids, dense, labels = (
        torch.from_numpy(array).to(device) for array in (batch.ids, batch.dense, batch.labels)
    )
    weight = None if batch.weight is None else torch.from_numpy(batch.weight).to(device)
    return ids, dense, labels, weight


def bag_tensors(batch: Batch, device: str) -> tuple[TensorBag, ...]:
    """Return a batch's bags as tensors on a device."""
    return tuple(
        (torch.from_numpy(bag.ids).to(device), torch.from_numpy(bag.offsets).to(device))
        for bag in batch.bags
    )


def outputs(
    schema: Schema,
    logits: Mapping[str, Tensor],
    likelihoods: Mapping[str, Likelihood],
    extras: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the output columns in task order: each head given its parent, then each joint.

    A joint is the product of its head and its parent's joint, so that a probability never exceeds
    its parent's. The only way from logits to outputs: an exported graph is traced through it.

    Args:
        schema: the tasks.
        logits: float64, calibrated where they are.
        likelihoods: of each task.
        extras: raw columns that kinds of label read, by name.

    Shape:
        logits (N,) or (N, outputs), extras (N,) → {column: float64 (N,)}

    Example:
        >>> from polyrank.objective.likelihood import likelihoods
        >>> from polyrank.schema import DenseFeature, Task
        >>> schema = Schema([DenseFeature("x")], [Task("click"), Task("buy", given="click")])
        >>> zero = torch.zeros(1, dtype=torch.float64)
        >>> columns = outputs(schema, {"click": zero, "buy": zero}, likelihoods(schema, {}), {})
        >>> {name: float(column) for name, column in columns.items()}
        {'p_click': 0.5, 'p_buy_given_click': 0.5, 'p_buy': 0.25}
    """
    columns: dict[str, dict[str, Tensor]] = {}
    joints: dict[str, Tensor] = {}
    names = [task.name for task in schema.tasks]
    for name in sorted(names, key=lambda each: len(schema.ancestors(each))):  # parents first
        task = schema.by_name[name]
        values = likelihoods[name].predict(logits[name], extras)
        found = [
            column
            for value in values
            for column in ((value, joints[task.given] * value) if task.given else (value,))
        ]
        joints[name] = found[1] if task.given else found[0]
        columns[name] = dict(zip(output_columns(task), found, strict=True))
    return {column: values for name in names for column, values in columns[name].items()}
