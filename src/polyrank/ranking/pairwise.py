"""Pairs of a higher and a lower label of one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.ranking.method import Ranking


@dataclass(frozen=True, kw_only=True)
class Pairwise(Ranking):
    """Pairwise logistic loss: of each row, the mean over those of a lower label in its request.

    It is the mean over the j with y_j < y_i of log(1 + e^(s_j − s_i)), for each row i that has such
    a j. Of an event these are positives against negatives, and s is the logit of the term's
    probability; of other labels with an order (levels, counts, amounts, numbers), every pair of
    different labels is compared, by the score of the likelihood. A row counts by its weight,
    however many lower ones it meets.

    Examples:
        >>> from polyrank.tasks import Task
        >>> Task("click", ranking="pairwise").ranking
        Pairwise(share=0.5)
        >>> Task("stars", kind="ordinal", ranking="pairwise").ranking
        Pairwise(share=0.5)

    Reference:
        Burges et al., ICML 2005 (RankNet), with the pairs of a row averaged.
    """

    name = "pairwise"
    loss = "polyrank.objective.requests:pairwise"

    def compares(self, kind: Any) -> bool:
        """Events, and all that has an order."""
        return kind.is_event or kind.is_ordered
