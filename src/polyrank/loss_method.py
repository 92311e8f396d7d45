"""What may take the place of a task's likelihood: terms, auxiliary heads, parts of the loss.

Terms, which name their method, stand above it, and so do the tensors that it is given: what its
methods take and return is described in words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from polyrank import spec
from polyrank.errors import SchemaError


@dataclass(frozen=True)
class Summand:
    """A part of a term's loss: Σ factor · value over some of the batch's rows.

    Args:
        rows: bool tensor (B,).
        factor: a number, or a weight per row (B,) without a gradient; without the weight of
            positives, which is of training alone.
        value: tensor (B,), finite in all rows.
        positive: whether these rows are the term's positives.
        counts: whether its rows count as the term's; not where another summand has them too.
        over: bool tensor (B,), for self-normalised weights: the sum is divided by Σ factor over
            these rows of the batch, instead of by what the term's loss is divided by.
    """

    rows: Any
    factor: Any
    value: Any
    positive: bool = False
    counts: bool = True
    over: Any = None


@dataclass(frozen=True, kw_only=True)
class LossMethod(ABC):
    """A method that supervises a task; its fields are the options of `AXIS = { kind = … }`.

    It imports no torch: tensors reach it as arguments.

    Attributes:
        axis: the option of a task that names it, such as "debias".
        name: as files write it, and in the names of its terms: `buy|click @ click [ips]`.
    """

    axis: ClassVar[str]
    name: ClassVar[str]

    def heads(self, task: Any) -> tuple[str, ...]:
        """Return the auxiliary heads of a `Task`; `imputation` becomes `buy#imputation`."""
        return ()

    def start(self, head: str, rate: float) -> float:
        """Return the probability that an auxiliary head starts at, by the rate of the task's label.

        By default it is that rate, as for a head that predicts the label too.
        """
        del head
        return rate

    @abstractmethod
    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        """Return the task's `Term`s, such as `schema.term(task, task.given, self)`."""

    def _where(self, option: str) -> str:
        return f"{self.axis} {self.name!r}: {option}"

    def _check(self, option: str, **limits: float) -> None:
        """Make an option a float within its limits; SchemaError where it is none."""
        value = spec.number(self._where(option), getattr(self, option), error=SchemaError, **limits)
        object.__setattr__(self, option, value)

    @abstractmethod
    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        """Return the `Summand`s of one of these terms in a batch.

        A weight from path probabilities, or a soft target from another head, is detached here.

        Args:
            term: one of `terms`.
            scores: a `polyrank.objective.likelihood.BatchScores`.
            labels: a `polyrank.objective.likelihood.Labels`.
        """
