"""From the bytes of a request to the bytes of its answer, wholly in one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from polyrank.errors import DataError
from polyrank.serve.answer import Answer
from polyrank.serve.app import request, response
from polyrank.serve.app.refused import Refused
from polyrank.serve.app.request import Asked
from polyrank.serve.engine import Engine

MOST_IDS = 100  # of a list of the context, for each row that a request may have
_MESSAGE_LETTERS = 1000  # of an error that may quote what the client sent


@dataclass(frozen=True, eq=False)
class Scored:
    """An answer, and what is counted of it.

    Args:
        body: JSON.
        rows: their number.
        ids: that were looked up, by feature.
        unseen: ids that training did not see, by feature.
        nulls: missing values, by feature.
    """

    body: bytes
    rows: int
    ids: Mapping[str, int]
    unseen: Mapping[str, int]
    nulls: Mapping[str, int]


class Scorer:
    """An engine that takes and gives JSON.

    Args:
        engine: that answers.
        most_rows: of one request.
    """

    def __init__(self, engine: Engine, most_rows: int) -> None:
        self.engine, self.most_rows = engine, most_rows
        self.needed = tuple(dict.fromkeys([*engine.inputs, *engine.fusion_columns]))

    def __call__(self, body: bytes) -> Scored:
        """Return the answer of a request.

        Raises:
            Refused: a request that cannot be answered.
        """
        asked = request.read(body, self.needed, self.most_rows)
        if asked.top_k is not None and self.engine.fusion is None:
            raise Refused(
                422,
                "top_k needs a score to rank by, and this bundle declares none: add a [fusion] "
                "table with a weight for each outcome to the experiment, train and export again, "
                "or leave top_k out and sort by an output",
            )
        try:
            answer = self._answer(asked)
            score = self._score(asked, answer)
        except DataError as error:
            message = str(error)
            if len(message) > _MESSAGE_LETTERS:
                message = message[:_MESSAGE_LETTERS] + "…"
            raise Refused(422, message) from None
        return Scored(
            response.body(asked, answer, score),
            asked.rows,
            answer.ids,
            answer.unseen,
            answer.nulls,
        )

    def _answer(self, asked: Asked) -> Answer:
        inputs = self.engine.inputs
        columns = {name: asked.columns[name] for name in inputs if name in asked.columns}
        shared = {name: asked.shared[name] for name in inputs if name in asked.shared}
        self._check_lists(shared, asked.rows)
        if not columns:  # the number of rows is that of some column
            columns = {inputs[0]: asked.values(inputs[0])}
            shared.pop(inputs[0])
        return self.engine.answer(columns, shared)

    def _check_lists(self, shared: Mapping[str, Any], rows: int) -> None:
        """Refuse a list of the context that is looked up for too many rows: the body is small."""
        for name, values in shared.items():
            if isinstance(values, list) and len(values) * rows > self.most_rows * MOST_IDS:
                raise Refused(
                    413,
                    f"column {name!r} of the context has {len(values):,} ids, for {rows:,} "
                    f"rows each, and a request may have {self.most_rows * MOST_IDS:,}: send fewer "
                    "candidates, or the last ids alone",
                )

    def _score(self, asked: Asked, answer: Answer) -> np.ndarray | None:
        columns = {name: _numbers(name, asked.values(name)) for name in self.engine.fusion_columns}
        score = self.engine.score(answer, columns)
        if score is not None and not np.isfinite(score).all():
            row = int(np.argmin(np.isfinite(score)))
            raise DataError(f"fusion: the score of row {row} is too large for a number")
        return score


def _numbers(name: str, values: Sequence[Any]) -> pl.Series:
    for row, value in enumerate(values):
        if not isinstance(value, int | float | None):
            raise DataError(
                f"fusion: column {name!r} is added up, and row {row} is no number: write it as one"
            )
    return pl.Series(name, values, dtype=pl.Float64, strict=False)
