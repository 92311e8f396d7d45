"""Losses over a request: one method a file, and its loss in `objective/requests.py`."""

from __future__ import annotations

from polyrank.ranking.jrc import JRC
from polyrank.ranking.method import Ranking
from polyrank.ranking.pairwise import Pairwise
from polyrank.ranking.softmax import Softmax
from polyrank.registry import Registry

RANKING: Registry[type[Ranking]] = Registry(
    "ranking", {each.name: each for each in (Pairwise, Softmax, JRC)}
)

__all__ = ["JRC", "RANKING", "Pairwise", "Ranking", "Softmax"]
