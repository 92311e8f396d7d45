"""What an optimiser of embedding rows is: a frozen spec that builds an engine.

It stands behind the cut at x: it takes the ids of a batch and x's gradient.

Letters: F id features, B rows of the batch, W columns of x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from polyrank.nn.embed import PackedEmbedder, TensorBag
from polyrank.train.optim.limits import check_numbers


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptimizer(ABC):
    """Base of the optimisers of embedding rows.

    Args:
        lr: step size; None takes the dense part's.
        l2: added to the gradient as l2 · row; None takes the dense part's weight decay.
    """

    lr: float | None = None
    l2: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "l2")

    @abstractmethod
    def build(self, embed: PackedEmbedder, l2: float) -> EmbeddingEngine:
        """Return the engine that updates an embedder."""


class EmbeddingEngine(ABC):
    """Updates an embedder from x's gradient; its state goes into checkpoints."""

    @abstractmethod
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        """Update the rows of one batch: ids (F, B), gradient (B, W) of x, the sequences' bags."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the state as named tensors."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
