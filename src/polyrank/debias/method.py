"""What a debiased loss is: terms of its own, auxiliary heads, and their parts of the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from polyrank.terms import Summand, Term

if TYPE_CHECKING:
    from polyrank.objective.likelihood import BatchScores, Labels
    from polyrank.schema import Schema, Task


@dataclass(frozen=True, kw_only=True)
class Debias(ABC):
    """A method for a conditional event; its fields are the options of `debias = { kind = … }`.

    It imports no torch: tensors reach it as arguments. It replaces the `space` of the task.

    Attributes:
        name: as files write it, and in the names of its terms: `buy|click @ click [ips]`.
    """

    name: ClassVar[str]

    def heads(self, task: Task) -> tuple[str, ...]:
        """Return the auxiliary heads it needs; `imputation` becomes the head `buy#imputation`."""
        return ()

    @abstractmethod
    def terms(self, schema: Schema, task: Task) -> tuple[Term, ...]:
        """Return the terms of the task, such as `term_of(schema, task, task.given, self)`."""

    @abstractmethod
    def summands(self, term: Term, scores: BatchScores, labels: Labels) -> tuple[Summand, ...]:
        """Return the parts of the loss of one of these terms.

        A weight from path probabilities, or a soft target from another head, is detached here.
        """
