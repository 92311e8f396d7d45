"""Pairs of a positive and a negative of one request."""

from __future__ import annotations

from dataclasses import dataclass

from polyrank.ranking.method import Ranking


@dataclass(frozen=True, kw_only=True)
class Pairwise(Ranking):
    """Pairwise logistic loss: of each positive, the mean over the negatives of its request.

    It is the mean over j of log(1 + e^(s_j − s_i)) for a positive i, where s is the logit of the
    term's probability. Every positive counts by its row's weight, however many negatives it meets.

    Example:
        >>> from polyrank.tasks import Task
        >>> Task("click", ranking="pairwise").ranking
        Pairwise(share=0.5)

    Reference:
        Burges et al., ICML 2005 (RankNet), eq. 3, with the pairs of a positive averaged.
    """

    name = "pairwise"
    loss = "polyrank.objective.requests:pairwise"
