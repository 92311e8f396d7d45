"""What a loss over a request is: a spec without torch, and the name of its loss in `objective/`.

Terms, which name their method, stand above it: what its methods take and return is described in
words.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar

from polyrank import spec
from polyrank.errors import SchemaError
from polyrank.registry import resolved


@dataclass(frozen=True, kw_only=True)
class Ranking(ABC):
    """A loss that compares the rows of one request; its fields are the options of `ranking`.

    A request whose labels are all equal, or of a single row, gives nothing.

    Args:
        share: of the task's weight. The rest is the likelihood's, row by row, which keeps
            probabilities calibrated; at 1 the likelihood is left out, and the level of the logits
            is arbitrary.

    Attributes:
        name: as files write it, and in the names of its terms: `click @ all [pairwise]`.
        loss: "module:function" of its loss, (term, scores, labels) → `Summand`s.

    Raises:
        SchemaError: a share that is no number above 0 and at most 1.
    """

    name: ClassVar[str]
    loss: ClassVar[str]
    share: float = 0.5

    def __post_init__(self) -> None:
        where = f"ranking {self.name!r}: share"
        share = spec.number(where, self.share, above=0, most=1, error=SchemaError)
        object.__setattr__(self, "share", share)

    def compares(self, kind: Any) -> bool:
        """Whether its loss knows labels of a `LabelKind`, or of a class of them."""
        return kind.is_event

    def heads(self, task: Any) -> tuple[str, ...]:
        """Return the auxiliary heads of a `Task`; `level` becomes `click#level`."""
        return ()

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Any, ...]:
        """Return the `Summand`s of one of its terms in a batch.

        Args:
            term: whose population says which rows of a request are compared.
            scores: a `polyrank.objective.likelihood.BatchScores`.
            labels: a `polyrank.objective.likelihood.Labels`, with the requests of the rows.
        """
        return resolved(self.loss)(term, scores, labels)
