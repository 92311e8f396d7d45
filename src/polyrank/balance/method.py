"""What a balance is: a frozen spec that builds a module with its own state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class BalanceTerm:
    """What a balance may know of a term.

    Args:
        name: `buy @ all`.
        weight: the task's.
        constant_loss: mean loss of the best constant on the training rows.
        exponent: 1 for a log-likelihood, ½ for a squared error.
        share: of the training rows that are the term's, by weight.
    """

    name: str
    weight: float
    constant_loss: float
    exponent: float
    share: float = 1.0


class Balance(ABC):
    """Base of the balances that a configuration can name."""

    @abstractmethod
    def build(self, terms: Sequence[BalanceTerm]) -> BalanceModule:
        """Return the module, with its state."""


class BalanceModule(nn.Module, ABC):
    """Losses to gradients; parameters of its own are stepped with the dense ones, undecayed."""

    @abstractmethod
    def backward(self, losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Tensor:
        """Add gradients to every leaf, and return the loss that was stepped: ().

        Args:
            losses: {term: ()}.
            shared: x and the ranker's shared parameters.
        """


class ScalarBalance(BalanceModule):
    """A balance that reduces to one scalar function of the losses, which `compile` can trace."""

    @abstractmethod
    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the loss that is stepped: {term: ()} → ()."""

    def backward(self, losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Tensor:
        """Add the gradients of the total, those of its own parameters included."""
        total = self.total(losses)
        total.backward()
        return total.detach()
