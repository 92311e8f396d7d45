"""What a first stage is: fitted out of fold, added to the logit, and read by the network.

The network reads columns of x and adds to margins. Both come of a model that has not seen the row:
in training of one that never learned from the row's fold, so that the network meets there what it
will meet when it serves. Neither has a gradient.

Letters: B rows, T heads with a margin, C columns that the network reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from polyrank.data.sampling import Sampling
from polyrank.data.table import Batch, Table
from polyrank.layout import Layout
from polyrank.nn.embed import TensorBag
from polyrank.objective.likelihood import Likelihood
from polyrank.schema import Schema


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """Base of the specs of first stages.

    Attributes:
        name: its key in the `[model]` table.
    """

    name: ClassVar[str]

    @abstractmethod
    def reads(self, schema: Schema) -> int:
        """Return how many columns of x it gives."""

    @abstractmethod
    def build(self, layout: Layout) -> StageModule:
        """Return what holds the fitted stage."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageRun:
    """The run that a first stage is fitted in.

    Args:
        train: its training rows.
        likelihoods: of each task.
        rates: base rate of each event where its parent happened, in the whole log.
        sampling: of the rows.
        seed: of the run.
        steps: per epoch.
        epochs: of the run.
        unseen_rate: probability with which a training id is replaced by row 0.
    """

    train: Table
    likelihoods: Mapping[str, Likelihood]
    rates: Mapping[str, float]
    sampling: Sampling | None
    seed: int
    steps: int
    epochs: int
    unseen_rate: float


class StageModule(nn.Module, ABC):
    """A fitted first stage: what serves, and is saved.

    Attributes:
        heads: the tasks of its margins, in order.
    """

    heads: tuple[str, ...]

    @abstractmethod
    def forward(self, ids: Tensor, bags: tuple[TensorBag, ...]) -> tuple[Tensor, Tensor]:
        """Return the margins and the columns to read of rows of the packs: (B, T), (B, C)."""

    @abstractmethod
    def learner(self, run: StageRun) -> StageLearner:
        """Return what fits it along a run."""

    @abstractmethod
    def named_weights(self) -> dict[str, Tensor]:
        """Return views of its weights by their lasting names."""


class StageLearner(ABC):
    """Fits a first stage out of fold, step by step; its state goes into checkpoints."""

    @abstractmethod
    def step(self, batch: Batch, x: Tensor, column: int) -> Tensor:
        """Return the margins of a training batch, and learn from it.

        Args:
            batch: of the training rows, after id dropout.
            x: where what the network reads is written, from `column` on.
            column: the first one of its own.

        Shape:
            x: (B, W) → (B, T)
        """

    @abstractmethod
    def end_epoch(self) -> None:
        """Bring what serves up to date."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the state as named tensors."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
