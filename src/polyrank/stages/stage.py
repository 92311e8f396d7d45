"""What a first stage is: fitted out of fold, added to the logit, and read by the network.

The network reads columns of x and adds to margins. Both come of a model that has not seen the row:
in training of one that never learned from the row's fold, so that the network meets there what it
will meet when it serves. Neither has a gradient.

Letters: B rows, T outputs of heads with a margin, C columns that the network reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor, nn

from polyrank.data.sampling import Sampling
from polyrank.data.table import Batch, Table
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError
from polyrank.features import Slot
from polyrank.labels.kind import Curvature
from polyrank.layout import Layout
from polyrank.nn.embed import Padded, TensorBag
from polyrank.objective.likelihood import Likelihood
from polyrank.ranks import ALONE, Ranks
from polyrank.schema import Schema, Task
from polyrank.stages.effects import FieldEffects


class ReadRows(NamedTuple):
    """Rows, one an id, that a first stage reads."""

    slots: tuple[Slot, ...]
    columns: int  # of a row


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """Base of the specs of first stages.

    Another package adds one by `polyrank.register("first_stage", kind, cls)`.

    Attributes:
        name: an identifier that no other first stage of a model has. Its weights, its state and its
            columns of x go by it; for polyrank's own it is the key in the `[model]` table too.
        by_ranks: whether several processes can fit it together, each on its share of the rows.
    """

    name: ClassVar[str]
    by_ranks: ClassVar[bool] = False

    @abstractmethod
    def reads(self, schema: Schema) -> int:
        """Return how many columns of x it gives."""

    def reads_of(self, schema: Schema, features: Collection[str]) -> Sequence[int]:
        """Return which of these columns speak of some features alone.

        They are not read where these have towers of their own. A stage whose columns speak of
        several features at once leaves those out that have one.
        """
        return ()

    def read_rows(self, schema: Schema) -> ReadRows:
        """Return what a training step reads of ids: no row of its own, where it has none."""
        return ReadRows((), 0)

    def memory(self, schema: Schema, rows: Mapping[str, int]) -> int:
        """Return the bytes that it takes in training, for tables of so many rows."""
        return 0

    def require(self) -> None:  # noqa: B027  most need nothing
        """Refuse to be fitted where a library is missing, by a ConfigError."""

    @property
    def numbers(self) -> bool:
        """Whether it reads the raw numbers of a Table."""
        return False

    @abstractmethod
    def build(self, layout: Layout) -> StageModule:
        """Return what holds the fitted stage."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageRun:
    """The run that a first stage is fitted in.

    Args:
        train: its training rows.
        valid: its validation rows.
        likelihoods: of each task.
        rates: base rate of each event where its parent happened, in the whole log.
        sampling: of the rows.
        seed: of the run.
        steps: per epoch.
        unseen_rate: probability with which a training id is replaced by row 0.
        batch_size: rows per step, of each process.
        threads: of whatever computes.
        ranks: the processes that train together; each sees its share of the rows.
    """

    train: Table
    valid: Table | None
    likelihoods: Mapping[str, Likelihood]
    rates: Mapping[str, float]
    sampling: Sampling | None
    seed: int
    steps: int
    unseen_rate: float
    batch_size: int
    threads: int
    ranks: Ranks = ALONE


class Margin(NamedTuple):
    """An output of a task's head that a first stage can estimate."""

    task: Task
    output: int  # its place in the head
    curvature: Curvature

    @property
    def name(self) -> str:
        """What it is called in logs and reports."""
        return margin_name(self.task, self.output)


def margin_name(task: Task, output: int) -> str:
    """Return the task's name, and of a head with several questions which one: `stars ≥ 2`."""
    return f"{task.name} {task.label_kind.question(output)}".strip()


def margins_of_tasks(schema: Schema, most: int) -> tuple[Margin, ...]:
    """Return the outputs whose likelihood has a curvature, of heads with at most so many of them.

    Examples:
        >>> import polyrank as pr
        >>> stars = Task("stars", kind=pr.Ordinal(values=[1, 2, 3]))
        >>> schema = Schema([pr.SparseFeature("item")], [Task("click"), stars])
        >>> [each.name for each in margins_of_tasks(schema, most=2)]
        ['click', 'stars ≥ 2', 'stars ≥ 3 if ≥ 2']
    """
    return tuple(each for task in schema.tasks for each in _margins(task, most))


def _margins(task: Task, most: int) -> list[Margin]:
    each = enumerate(task.label_kind.curvatures)
    found = [Margin(task, output, known) for output, known in each if known is not None]
    return found if len(found) <= most else []


class StageModule(nn.Module, ABC):
    """A fitted first stage: what serves, and is saved.

    Attributes:
        heads: the tasks of its margins, in order.
        outputs: the task and the output of each margin; by default the first one of each head.
        graph: "module:function" of what puts nodes that compute `given` into an exported graph,
            for a stage whose margins torch does not compute: called with the model, the stage and
            the name of the graph's input of margins, which it takes away.
    """

    graph: ClassVar[str | None] = None
    heads: tuple[str, ...]

    @property
    def outputs(self) -> tuple[tuple[str, int], ...]:
        return tuple((head, 0) for head in self.heads)

    @property
    def no_variance(self) -> str | None:
        """Why it cannot say how sure it is of its margins; None where `variance` says it."""
        return "it has no posterior"

    @abstractmethod
    def forward(
        self, ids: Tensor, bags: tuple[TensorBag, ...], given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the margins and the columns to read of rows of the packs: (B, T), (B, C).

        `given` is what `says` said of them.
        """

    def says(self, table: Table) -> np.ndarray | None:
        """Return what it says of a whole table at once, (N, T); None where it need not."""
        return None

    @abstractmethod
    def in_graph(
        self, ids: Tensor, sequences: Sequence[Padded], given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the same for ids local to each table and lists in matrices, for an export."""

    def variance(self, ids: Tensor, bags: tuple[TensorBag, ...]) -> Tensor:
        """Return the posterior variance of the margins of rows of the packs: float64 (B, T)."""
        raise NotImplementedError(f"{type(self).__name__} has no variance of its margins")

    def variance_graph(self) -> nn.Module:
        """Return what computes `variance` in an exported graph, of what `in_graph` takes first."""
        raise ConfigError(f"the variance of {type(self).__name__} cannot be exported")

    def to_table(self) -> dict[str, Any]:
        """Return what a bundle's manifest keeps of it, beside the weights."""
        return {}

    def to_files(self) -> dict[str, str]:
        """Return the texts that a bundle keeps of it."""
        return {}

    def load_files(self, table: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Restore what `to_table` and `to_files` returned."""

    @abstractmethod
    def learner(self, run: StageRun) -> StageLearner:
        """Return what fits it along a run."""

    def held_rows(self) -> dict[str, int]:
        """Return the weights of which there is a row an id, as in `state_dict`: rows of each."""
        return {}

    def make_whole(self, layout: Layout, gathered: Callable[[Tensor, int], Tensor]) -> None:
        """Hold all rows that processes held between them, in a layout that does.

        `gathered` takes the rows of a matrix that are held here, and how many all have.
        """

    def named_weights(self) -> dict[str, Tensor]:
        """Return views of its weights by their lasting names."""
        return {}

    def start_from(
        self, before: Mapping[str, Tensor], restarted: Collection[str], retained: float
    ) -> None:
        """Continue from the weights of a stage that was fitted on earlier rows.

        Args:
            before: its `named_weights`; tables of ids may have grown since, behind their rows.
            restarted: slots whose rows mean something else now.
            retained: share of what the earlier rows told that still counts.

        Raises:
            ConfigError: it cannot; what it learned of earlier rows would be lost.
        """
        raise ConfigError(
            f"the first stage {type(self).__name__} cannot learn on from earlier rows: train on "
            "all rows without start, or leave the stage out of the model"
        )

    def effects(self, vocab: Vocab, most: int) -> tuple[FieldEffects, ...]:
        """Return what it says of ids, by field and head, with up to `most` effects of each."""
        return ()

    def importance(self) -> Mapping[str, Mapping[str, float]]:
        """Return each feature's share in a head's margin, the largest first, where it knows."""
        return {}


class StageLearner(ABC):
    """Fits a first stage out of fold, step by step; its state goes into checkpoints."""

    def start(self) -> None:  # noqa: B027  most are fitted along the run
        """Fit what is fitted before the first step of a run."""

    @abstractmethod
    def alone(self, valid: Table) -> Tensor:
        """Return the margins of validation rows, (N, T), of the stage fitted without a network."""

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

    def held_rows(self) -> dict[str, int]:
        """Return what of the state has a row an id: how many rows of each tensor all have."""
        return {}

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the state as named tensors."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
