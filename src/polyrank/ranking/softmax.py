"""The rows of a request against each other, by their gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.ranking.method import Ranking


@dataclass(frozen=True, kw_only=True)
class Softmax(Ranking):
    """Listwise softmax: −g_i · log(e^(s_i) / Σ over the request of e^(s_j)) of each row i.

    Of an event, g is 1 for a positive and 0 for a negative, and s is the logit of the term's
    probability. Of levels, counts and amounts, g_i = (y_i − y_0) / max over the request of
    (y_j − y_0), where y_0 is the lowest level, and 0 of counts and amounts; s is the score of the
    likelihood. The loss is smallest where the softmax of s is g / Σ g; of counts, whose score is
    the log of their mean, that is the likelihood of their shares, given their total. The largest
    gain of a request is 1, so neither the unit nor one long request decides. The sum is over the
    rows of the term's population whose label is observed. A row counts by its weight.

    Reference:
        Cao et al., ICML 2007 (ListNet), with the gains as the target; Bruch et al., ICTIR 2019.
    """

    name = "softmax"
    loss = "polyrank.objective.requests:softmax"

    def compares(self, kind: Any) -> bool:
        """Events, and what has a lowest label, above which a label is a gain."""
        return kind.is_event or kind.has_zero
