"""Balances that weigh gradients by their inner products.

Letters: T terms, P of them present in a batch, B rows, W columns of x, S numbers in the trunk's
shared parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyrank.balance.method import BalanceModule, BalanceTerm
from polyrank.ranks import ALONE, Ranks


class Present(NamedTuple):
    """The terms that have a gradient at what is shared in a batch.

    Args:
        gram: inner products of the gradients of their losses, multiplied by nothing: (P, P).
        factors: of their losses, all above 0: (P,).
        losses: their values, where the balance is `by_value`, else 0: (P,).
        eps: to which the gradients are known, relative to their size.
    """

    gram: np.ndarray
    factors: np.ndarray
    losses: np.ndarray
    eps: float


class GradientBalance(BalanceModule):
    """At what terms share, a weighted sum of their gradients; elsewhere the plain one.

    The weights come from the Gram matrix of the terms' gradients at x and the trunk's shared
    parameters together. A term without a gradient there, such as one without rows in the batch,
    is left out of it. Parameters of one task get the gradient of Σ factor · loss: a weight of a
    term at what is shared, which may be 0 or negative, says nothing about them.

    Args:
        factors: what each loss is multiplied by, by term.
    """

    by_ranks = True
    by_value = False

    def __init__(self, factors: Mapping[str, float]) -> None:
        super().__init__()
        self.terms = tuple(factors)
        self.factors = np.array(list(factors.values()))

    @abstractmethod
    def weights(self, present: Present) -> np.ndarray:
        """Return what the gradient of each present term's own loss is multiplied by: (P,)."""

    def backward(self, losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Tensor:
        """Add the gradients of the sum, and set those of the shared tensors to the balanced ones.

        Each term goes back once, all the way: what it leaves at the shared tensors is taken away,
        and what it leaves elsewhere adds up.
        """
        factors = self.factors.tolist()
        rows, rest = [], []
        for name, factor in zip(self.terms, factors, strict=True):
            for tensor in shared:
                tensor.grad = None
            losses[name].backward(torch.full_like(losses[name], factor), retain_graph=True)
            found = [torch.zeros_like(t) if t.grad is None else t.grad for t in shared]
            rows.append(found[0].reshape(-1))
            rest.append(_flat(found[1:], found[0]))
        of_x, of_rest = torch.stack(rows), torch.stack(rest)
        first, others = self.combined(of_x, of_rest, losses)
        shared[0].grad = first.view_as(shared[0])
        sizes = [each.numel() for each in shared[1:]]
        for tensor, each in zip(shared[1:], others.split(sizes), strict=True):
            tensor.grad = each.view_as(tensor)
        stacked = torch.stack([losses[name].detach() for name in self.terms])
        return (stacked * torch.tensor(factors, device=stacked.device)).sum()

    def combined(
        self, of_x: Tensor, of_rest: Tensor, losses: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the balanced gradients at x, (B · W,), and at the other shared tensors, (S,).

        Given are those of factor · loss of each term: (T, B · W) and (T, S).
        """
        gram = joined_gram(of_x, of_rest, self.ranks)
        weights = self._over_factors(gram, losses, torch.finfo(of_x.dtype).eps)
        chosen = torch.tensor(weights, dtype=of_x.dtype, device=of_x.device)
        return chosen @ of_x, chosen @ of_rest

    def _over_factors(
        self, gram: np.ndarray, losses: Mapping[str, Tensor], eps: float
    ) -> np.ndarray:
        """Return the weights of the gradients of factor · loss, whose inner products are given."""
        if not np.isfinite(gram).all():  # as some loss is, which the loop names
            return np.ones(len(self.terms))
        at = np.flatnonzero(np.diag(gram) > 0)
        weights = np.zeros(len(self.terms))
        if len(at):
            factors = self.factors[at]
            own = gram[np.ix_(at, at)] / np.outer(factors, factors)
            values = np.zeros(len(at))
            if self.by_value:
                values = np.array([float(losses[self.terms[i]].detach()) for i in at])
            weights[at] = self.weights(Present(own, factors, values, eps)) / factors
        return weights


def joined_gram(of_x: Tensor, of_rest: Tensor, ranks: Ranks = ALONE) -> np.ndarray:
    """Return the inner products of gradients over all processes, float64: (T, T).

    Of x, (T, B · W), each process has rows of its own; the others, (T, S), are of parameters, whose
    gradients add up.
    """
    gram = of_x @ of_x.T
    if ranks.several:
        of_rest = of_rest.clone()
        ranks.total([gram, of_rest])
    found = gram + of_rest @ of_rest.T
    return found.cpu().double().numpy()


def term_gram(losses: Sequence[Tensor], shared: Sequence[Tensor], ranks: Ranks) -> np.ndarray:
    """Return the inner products of losses' gradients at the shared tensors, float64: (T, T).

    The graph is kept, and no gradient is left anywhere.
    """
    found = [
        torch.autograd.grad(each, shared, retain_graph=True, materialize_grads=True)
        for each in losses
    ]
    of_x = torch.stack([each[0].reshape(-1) for each in found])
    of_rest = torch.stack([_flat(each[1:], of_x) for each in found])
    return joined_gram(of_x, of_rest, ranks)


def _flat(gradients: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat([each.reshape(-1) for each in gradients]) if gradients else like.new_empty(0)


def cosines(gram: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return the cosine between the gradients of each two terms that have any, by their names.

    Examples:
        >>> cosines(np.array([[4.0, -1.0], [-1.0, 1.0]]), ["click @ all", "buy @ all"])
        {'click @ all · buy @ all': -0.5}
    """
    norms = np.sqrt(np.diag(gram))
    return {
        f"{names[i]} · {names[j]}": float(gram[i, j] / (norms[i] * norms[j]))
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if norms[i] > 0 and norms[j] > 0
    }


def weight_factors(terms: Sequence[BalanceTerm]) -> dict[str, float]:
    """Return the tasks' weights, for a balance that the losses' scale does not change."""
    return {term.name: term.weight for term in terms}


def sized(weights: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the weights of a direction, with Σ |w| as for the sum of losses: (P,) → (P,).

    Methods that only choose a direction then step as far as `Sum`, whatever the gradients' size,
    so that learning rates and decays keep their meaning.
    """
    total = np.abs(weights).sum()
    return weights * (factors.sum() / total) if total > 0 else weights
