"""Log-probabilities of unions of paths, from logits alone.

A probability is never formed, subtracted or clamped before its logarithm: for p = a·b, the loss on
the product computed as log(a·b) underflows, and its gradient with it, where logits are far from 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from polyrank.terms import Path


def log_probability(paths: tuple[Path, ...], logits: Mapping[str, Tensor]) -> Tensor:
    """Return log P(any of the paths), for disjoint paths.

    log p = logsumexp over paths of Σ logsigmoid(± logit).

    Args:
        paths: unions of conjunctions of (head, happened).
        logits: {head: (B,)}.

    Returns:
        (B,), at most 0 up to rounding.

    Example:
        >>> no = ((("click", False),), (("click", True), ("buy", False)))
        >>> logits = {"click": torch.zeros(1), "buy": torch.zeros(1)}
        >>> log_probability(no, logits).exp()
        tensor([0.7500])
    """
    summed = [
        torch.stack([logsigmoid(logits[head] if yes else -logits[head]) for head, yes in path]).sum(
            0
        )
        for path in paths
    ]
    return summed[0] if len(summed) == 1 else torch.logsumexp(torch.stack(summed), 0)
