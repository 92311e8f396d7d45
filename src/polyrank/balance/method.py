"""What a balance is: a frozen spec that builds a module with its own state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from polyrank.errors import ConfigError
from polyrank.ranks import ALONE, Ranks

Normalize = bool | Literal["rows"]


@dataclass(frozen=True)
class BalanceTerm:
    """What a balance may know of a term.

    Args:
        name: `buy @ all`.
        weight: the task's.
        constant_loss: mean loss of the best constant on the training rows.
        exponent: 1 for a log-likelihood, ½ for a squared error.
        share: of the training rows that are the term's, by weight.
        is_density: whether its loss is the logarithm of a density, which may be 0 or below it.
    """

    name: str
    weight: float
    constant_loss: float
    exponent: float
    share: float = 1.0
    is_density: bool = False

    def scale(self, normalize: Normalize) -> float:
        """Return what the loss is multiplied by before the weight: see `Sum`."""
        if normalize == "rows":
            return self.share
        if normalize:
            refuse_densities([self], "with normalize = true")
        # A constant target has loss 0 whatever is done: nothing to divide by.
        return 1 / self.constant_loss if normalize and self.constant_loss > 0 else 1.0


def refuse_densities(terms: Sequence[BalanceTerm], balance: str) -> None:
    """Refuse terms whose loss no balance can divide by, since it may be 0 or below.

    Raises:
        ConfigError: a term's loss is the logarithm of a density.
    """
    for term in terms:
        if term.is_density:
            raise ConfigError(
                f"balance {balance} divides by losses, and that of {term.name!r} is the logarithm "
                "of a density, which may be 0 or below: use one that weighs by rows (sum) or by "
                "gradients (metabalance)"
            )


def check_normalize(where: str, value: object) -> None:
    """Refuse what is no way to scale a loss."""
    if value not in (True, False, "rows"):
        raise ConfigError(f'{where}: normalize must be true, false or "rows", got {value!r}')


def check_several(where: str, terms: Sequence[BalanceTerm]) -> None:
    """Refuse a single term, which there is nothing to balance with."""
    if len(terms) < 2:
        found = ", ".join(repr(term.name) for term in terms) or "none"
        raise ConfigError(
            f"{where} needs two terms or more to balance, got {found}: use sum, or add a task"
        )


class Balance(ABC):
    """Base of the balances that a configuration can name."""

    @abstractmethod
    def build(self, terms: Sequence[BalanceTerm]) -> BalanceModule:
        """Return the module, with its state."""


class BalanceModule(nn.Module, ABC):
    """Losses to gradients; parameters of its own are stepped with the dense ones, undecayed.

    Where several processes train together, the values of losses are those of the joined batch, but
    each process has the gradients of its own rows; they are added up after `backward`. What a
    balance decides by gradients it must know of all: `joined_norms`.

    Attributes:
        by_ranks: whether it does.
        by_value: whether gradients depend on the values of losses; if not, values are added up
            together with the gradients, with one message less.
        ranks: the processes.
        seed: the run's, for a balance that draws; the same in all processes.
    """

    by_ranks: ClassVar[bool] = False
    by_value: ClassVar[bool] = True
    ranks: Ranks = ALONE
    seed: int = 0

    @abstractmethod
    def backward(self, losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Tensor:
        """Add gradients to every leaf, and return the loss that was stepped: ().

        Args:
            losses: {term: ()}.
            shared: x and the ranker's shared parameters.
        """

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Take the mean training loss of each term in the epoch that has ended.

        It is the same in all processes. State that changes must change in place.
        """


def joined_norms(gradients: Sequence[Sequence[Tensor]], ranks: Ranks = ALONE) -> Tensor:
    """Return the norm of each term's gradient at each shared tensor, over all processes: (T, S).

    The first shared tensor is x, of which each process has rows of its own; the others are
    parameters, whose gradients add up.
    """
    if not ranks.several:
        return torch.stack([torch.stack([g.norm() for g in each]) for each in gradients])
    summed = [[each[0].square().sum(), *(g.clone() for g in each[1:])] for each in gradients]
    ranks.total([g for each in summed for g in each])
    return torch.stack(
        [torch.stack([each[0].sqrt(), *(g.norm() for g in each[1:])]) for each in summed]
    )


class ScalarBalance(BalanceModule):
    """A balance that reduces to one scalar function of the losses, which `compile` can trace."""

    by_ranks = True

    @abstractmethod
    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the loss that is stepped: {term: ()} → ()."""

    def backward(self, losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Tensor:
        """Add the gradients of the total, those of its own parameters included."""
        total = self.total(losses)
        total.backward()
        return total.detach()
