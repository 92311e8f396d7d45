"""How good ranked lists are, one list a request: pure numpy, in float64.

Rows that tie in score have no order of their own, so each metric is the mean over their orders, in
closed form: a constant prediction gets what chance gives. Requests without a positive say nothing
and are left out, and so are rows whose request is missing. A row of weight 0 is no row of its
list; a request counts with the mean weight of its rows.

Each formula is a `Metric`, which takes labels of 0 and 1, any score that rises with the
probability, optionally sample weights, and the requests as `key`, all (rows,). Where no request has
a positive it raises `Undefined`; for columns of different shapes and values out of their domain,
`DataError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from polyrank.errors import ConfigError
from polyrank.metrics.areas import by_group_and_score, starts
from polyrank.metrics.metric import Groups, Metric, Rows


def _needs_hit(rows: Rows) -> str | None:
    hit = (rows.positive & (rows.codes["request"] >= 0)).any()
    return None if hit else f"no request with a positive among {rows.count}"


def _check_places(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k must be at least 1 place, got {k}")


RankingMetric = partial(
    Metric, kinds=("binary",), higher_is_better=True, key="request", needs=_needs_hit, ranks=True,
    groups_are="with a positive", scale="logit",
)  # fmt: skip


def ndcg_at(k: int) -> Metric:
    """Return NDCG@k: the mean over requests of the discounted gain of k places ÷ the best one.

    Examples:
        >>> round(ndcg_at(10)([0, 1, 0, 1], [0.9, 0.8, 0.1, 0.3], key=[7, 7, 8, 8]), 4)
        0.8155

    Reference:
        Järvelin and Kekäläinen, TOIS 2002; ties as in McSherry and Najork, ECIR 2008, section 2.6.
    """
    _check_places(k)

    def gains(rows: Rows) -> Groups:
        lists = _lists(rows)
        discount = 1 / np.log2(np.arange(2, k + 2))
        summed = np.concatenate([[0.0], np.cumsum(discount)])
        end = lists.place + lists.length
        share = (summed[np.minimum(end, k)] - summed[np.minimum(lists.place, k)]) / lists.length
        gain = np.add.reduceat(lists.positive * share, lists.first)
        return lists.groups(gain / summed[np.minimum(lists.positives, k)])

    return RankingMetric(gains, name=f"ndcg@{k}", title=f"NDCG@{k}")


def recall_at(k: int) -> Metric:
    """Return recall@k: the mean over requests of the share of positives in the first k places.

    A request with more than k positives cannot reach 1.

    Examples:
        >>> recall_at(1)([0, 1, 0, 1], [0.9, 0.8, 0.1, 0.3], key=[7, 7, 8, 8])
        0.5

    Reference:
        McSherry and Najork, ECIR 2008, section 2.3: recall over the orders of ties.
    """
    _check_places(k)

    def found(rows: Rows) -> Groups:
        lists = _lists(rows)
        share = np.clip(k - lists.place, 0, lists.length) / lists.length
        return lists.groups(np.add.reduceat(lists.positive * share, lists.first) / lists.positives)

    return RankingMetric(found, name=f"recall@{k}", title=f"recall@{k}")


@partial(RankingMetric, title="MRR")
def mrr(rows: Rows) -> Groups:
    """Return the mean reciprocal rank: over requests, 1 ÷ the place of the first positive.

    Examples:
        >>> mrr([0, 1, 0, 1], [0.9, 0.8, 0.1, 0.3], key=[7, 7, 8, 8])
        0.75

    Reference:
        Voorhees, TREC-8 1999; ties as in McSherry and Najork, ECIR 2008, section 2.4.
    """
    lists = _lists(rows)
    # Only the run of ties that holds the first positive decides.
    holding = np.flatnonzero(lists.positive)
    firsts = holding[starts(lists.owner[holding][1:] != lists.owner[holding][:-1])]
    place, size, hits = (each[firsts] for each in (lists.place, lists.length, lists.positive))
    # Within it, `before` negatives come first with probability
    # C(size - 1 - before, hits - 1) / C(size, hits).
    options = size - hits + 1
    start = np.cumsum(options) - options
    run = np.repeat(np.arange(len(firsts)), options)
    before = np.arange(len(run)) - start[run]
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size.max() + 1)))])

    def log_choices(n: np.ndarray, k: np.ndarray) -> np.ndarray:
        return factorial[n] - factorial[k] - factorial[n - k]

    chance = np.exp(
        log_choices(size[run] - 1 - before, hits[run] - 1) - log_choices(size, hits)[run]
    )
    expected = np.add.reduceat(chance / (place[run] + before + 1), start)
    return lists.groups(expected)


METRICS = (ndcg_at(10), recall_at(10), mrr)


@dataclass(frozen=True, eq=False)
class _Lists:
    """Runs of rows with one request and one score, the best first, of requests with a positive."""

    place: np.ndarray  # how many rows of the request stand before each run
    length: np.ndarray
    positive: np.ndarray  # how many rows of each run
    owner: np.ndarray  # the number of each run's request
    first: np.ndarray  # the first run of each request
    positives: np.ndarray  # of each request
    weight: np.ndarray | None  # of each request; None where all weigh the same
    code: np.ndarray  # of each request

    def groups(self, value: np.ndarray) -> Groups:
        return Groups(self.code, value, self.weight)


def _lists(rows: Rows) -> _Lists:
    positive, score, codes, w = rows.positive, rows.prediction, rows.codes["request"], rows.weight
    hit = np.zeros(int(codes.max(initial=0)) + 1, dtype=bool)
    hit[codes[positive & (codes >= 0)]] = True
    used = (codes >= 0) & hit[codes]
    positive, score = positive[used], score[used]
    order, codes = by_group_and_score(codes[used], -score)
    positive, score = positive[order].astype(np.int64), score[order]
    new_request = starts(codes[1:] != codes[:-1])
    runs = np.flatnonzero(new_request | starts(score[1:] != score[:-1]))
    requests = np.flatnonzero(new_request)
    owner = np.cumsum(new_request)[runs] - 1
    return _Lists(
        place=runs - requests[owner],
        length=np.diff(runs, append=len(codes)),
        positive=np.add.reduceat(positive, runs),
        owner=owner,
        first=np.searchsorted(runs, requests),
        positives=np.add.reduceat(positive, requests),
        weight=None
        if w is None
        else np.add.reduceat(w[used][order], requests) / np.diff(requests, append=len(codes)),
        code=codes[requests],
    )
