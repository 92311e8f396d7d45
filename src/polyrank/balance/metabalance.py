"""MetaBalance: auxiliary gradients as large as the target's.

Letters: T terms, S shared tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyrank import spec
from polyrank.balance.method import Balance, BalanceModule, BalanceTerm, joined_norms
from polyrank.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class MetaBalance(Balance):
    """Auxiliary gradients are scaled towards the target's magnitude, one shared tensor at a time.

    At each shared tensor (x, each of the trunk's shared parameters) and step t, term i has the
    gradient G_i and the moving magnitude m_i = beta · m_i + (1 − beta) · ‖G_i‖, from 0. The step is

    Σ weight_i · (relax · (m_target / m_i) · G_i + (1 − relax) · G_i)

    which leaves the target's own gradient as it is. Parameters of one task get the plain weighted
    gradient. The tasks' weights are applied after the scaling, so they still say how much a task
    counts. Where the target or the term has not had a gradient yet, there is nothing to scale by,
    and G_i is taken as it is. Larger gradients are shrunk and smaller ones enlarged.

    Args:
        target: the term that matters, by name: `buy @ all`; None takes the first.
        relax: 1 makes the magnitudes equal, 0 leaves them.
        beta: share of the past in the moving magnitude.

    Raises:
        ConfigError: at `build`, an unknown target.

    Examples:
        >>> import torch
        >>> terms = [BalanceTerm(name, 1.0, 1.0, 1.0) for name in ("buy @ all", "click @ all")]
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> losses = {"buy @ all": x.sum(), "click @ all": 9 * x.sum()}
        >>> MetaBalance(relax=1.0).build(terms).backward(losses, [x])
        tensor(10.)
        >>> x.grad
        tensor([[2.]])

    Reference:
        He et al., WWW 2022, algorithm 1 with the relax factor, strategy C.
    """

    target: str | None = None
    relax: float = 0.7
    beta: float = 0.9

    def __post_init__(self) -> None:
        spec.number("MetaBalance: relax", self.relax, least=0, most=1)
        spec.number("MetaBalance: beta", self.beta, least=0, below=1)

    def build(self, terms: Sequence[BalanceTerm]) -> MetaBalanceModule:
        names = [term.name for term in terms]
        if self.target is not None and self.target not in names:
            hint = did_you_mean(self.target, names)
            raise ConfigError(f"MetaBalance: unknown target {self.target!r}{hint}")
        target = 0 if self.target is None else names.index(self.target)
        return MetaBalanceModule(terms, target, self.relax, self.beta)


class MetaBalanceModule(BalanceModule):
    """Holds the moving magnitude of each term at each shared tensor: (T, S)."""

    by_ranks = True

    magnitude: Tensor
    importance: Tensor

    def __init__(
        self, terms: Sequence[BalanceTerm], target: int, relax: float, beta: float
    ) -> None:
        super().__init__()
        self.terms = [term.name for term in terms]
        self.target, self.relax, self.beta = target, relax, beta
        # Without columns until the first step says how many shared tensors there are.
        self.register_buffer("magnitude", torch.zeros(len(terms), 0))
        importance = torch.tensor([term.weight for term in terms])
        self.register_buffer("importance", importance, persistent=False)
        self.register_load_state_dict_pre_hook(_take_columns)

    def backward(self, losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Tensor:
        """Add the weighted gradients, and set those of the shared tensors to the balanced ones."""
        gradients = [
            torch.autograd.grad(losses[name], shared, retain_graph=True, materialize_grads=True)
            for name in self.terms
        ]
        factors = self._factors(joined_norms(gradients, self.ranks)).unbind(1)
        stacked = torch.stack([losses[name] for name in self.terms])
        total = (self.importance * stacked).sum()
        total.backward()
        for tensor, factor, each in zip(shared, factors, zip(*gradients, strict=True), strict=True):
            tensor.grad = torch.tensordot(factor, torch.stack(each), dims=1)
        return total.detach()

    def _factors(self, norms: Tensor) -> Tensor:
        """Return what each term's gradient is multiplied by at each shared tensor: (T, S)."""
        past = self.magnitude if self.magnitude.shape == norms.shape else torch.zeros_like(norms)
        self.magnitude = self.beta * past + (1 - self.beta) * norms
        target = self.magnitude[self.target]
        known = (self.magnitude > 0) & (target > 0)
        ratio = torch.where(known, target / self.magnitude, torch.ones_like(norms))
        return self.importance[:, None] * (self.relax * ratio + (1 - self.relax))


def _take_columns(module: torch.nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Make room for a state that is loaded before the first step."""
    assert isinstance(module, MetaBalanceModule)
    found = state.get(f"{prefix}magnitude")
    if found is not None:
        module.magnitude = module.magnitude.new_zeros(found.shape)
