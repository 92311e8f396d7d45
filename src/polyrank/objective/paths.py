"""Log-probabilities of unions of paths, from logits alone.

A probability is never formed, subtracted or clamped before its logarithm: for p = a·b, the loss on
the product computed as log(a·b) underflows, and its gradient with it, where logits are far from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from polyrank.terms import Path

Outcomes = Mapping[tuple[str, bool], Tensor]


def log_outcomes(logits: Mapping[str, Tensor], heads: Sequence[str]) -> Outcomes:
    """Return log P(happened) and log P(not happened) of each head: {(head, happened): (B,)}.

    Both are computed from the logit: one as the other minus the logit would lose its tail.
    """
    if not heads:
        return {}
    stacked = torch.stack([logits[head] for head in heads])
    logs = logsigmoid(torch.cat([stacked, -stacked])).unbind(0)
    names = [(head, happened) for happened in (True, False) for head in heads]
    return dict(zip(names, logs, strict=True))


def log_union(paths: Sequence[Path], outcomes: Outcomes) -> Tensor:
    """Return log P(any of the paths), for disjoint paths, from what `log_outcomes` returned.

    log p = logsumexp over paths of Σ log P(outcome).

    Example:
        >>> no = ((("click", False),), (("click", True), ("buy", False)))
        >>> logits = {"click": torch.zeros(1), "buy": torch.zeros(1)}
        >>> log_union(no, log_outcomes(logits, ["click", "buy"])).exp()
        tensor([0.7500])
    """
    summed = [reduce(torch.add, [outcomes[step] for step in path]) for path in paths]
    return reduce(torch.logaddexp, summed)
