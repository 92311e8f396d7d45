"""A positive against all rows of its request."""

from __future__ import annotations

from dataclasses import dataclass

from polyrank.ranking.method import Ranking


@dataclass(frozen=True, kw_only=True)
class Softmax(Ranking):
    """Listwise softmax: −log(e^(s_i) / Σ over the request of e^(s_j)) of each positive i.

    s is the logit of the term's probability; the sum is over the rows of the term's population
    whose label is observed. Every positive counts by its row's weight.

    Reference:
        Cao et al., ICML 2007 (ListNet), eq. 5 for a distribution on the positives; Bruch et al.,
        ICTIR 2019, eq. 3.
    """

    name = "softmax"
    loss = "polyrank.objective.requests:softmax"
