"""What a debiased loss is: terms of its own, auxiliary heads, and their parts of the loss.

Terms, which name their method, stand above it, and so do the tensors that it is given: what its
methods take and return is described in words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Debias(ABC):
    """A method for a conditional event; its fields are the options of `debias = { kind = … }`.

    It imports no torch: tensors reach it as arguments. It replaces the `space` of the task.

    Attributes:
        name: as files write it, and in the names of its terms: `buy|click @ click [ips]`.
    """

    name: ClassVar[str]

    def heads(self, task: Any) -> tuple[str, ...]:
        """Return the auxiliary heads of a `Task`; `imputation` becomes `buy#imputation`."""
        return ()

    @abstractmethod
    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        """Return the task's `Term`s, such as `term_of(schema, task, task.given, self)`."""

    @abstractmethod
    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Any, ...]:
        """Return the `Summand`s of one of these terms in a batch.

        A weight from path probabilities, or a soft target from another head, is detached here.

        Args:
            term: one of `terms`.
            scores: a `polyrank.objective.likelihood.BatchScores`.
            labels: a `polyrank.objective.likelihood.Labels`.
        """
