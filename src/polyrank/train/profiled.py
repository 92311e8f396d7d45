"""The profile of a run's rows, for monitoring."""

from __future__ import annotations

import logging
from typing import Any

import polars as pl

from polyrank.bundle.model import Bundle
from polyrank.data.read import Joined, collect, count_rows, read
from polyrank.monitor.profile import MOST_ROWS, Profile, profile
from polyrank.train.sources import Sources

logger = logging.getLogger(__name__)


def profiled(bundle: Bundle, sources: Sources) -> Profile | None:
    """Return the profile of validation rows, or of training rows where there are none.

    Of more than 50,000 rows, that many are taken at equal distances. Categories are chosen on
    training rows; where these are counted too, on every other one. Where negatives were sampled,
    the rows are not like those to come, and there is no profile.
    """
    split = "train" if sources.valid is None else "valid"
    if sources.sampling is not None and {split, "train"} & set(sources.sampling.splits):
        logger.info("no profile for monitoring: the log's negatives were sampled")
        return None
    train = _some(sources.train, bundle)
    if split == "valid":
        chosen, counted = train, _some(sources.valid, bundle)
    elif train.height < 2:
        return None
    else:
        chosen, counted = train.gather_every(2), train.gather_every(2, 1)
    predicted = [bundle.score(bundle.encode_quietly(each)) for each in (counted, chosen)]
    # Bins are of rows that the model was not fitted on, where there are any.
    predictions = predicted[0], predicted[0] if split == "valid" else predicted[1]
    return profile(bundle.vocab, chosen, counted, predictions, split)


def _some(source: Any, bundle: Bundle) -> pl.DataFrame:
    schema = bundle.schema
    frame = source.lazy(schema) if isinstance(source, Joined) else read(source, schema)
    distance = -(-count_rows(frame) // MOST_ROWS)
    return collect(frame.gather_every(max(distance, 1)), schema.inputs)
