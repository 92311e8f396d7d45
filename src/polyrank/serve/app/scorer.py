"""From the bytes of a request to the bytes of its answer, wholly in one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from pydantic_core import to_json

from polyrank.errors import DataError
from polyrank.schema import SequenceFeature
from polyrank.serve.app import request
from polyrank.serve.app.limits import Refused
from polyrank.serve.app.request import Asked
from polyrank.serve.engine import Answer, Engine

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
        self.needed = tuple(dict.fromkeys([*engine.features, *engine.fusion_columns]))
        self._lists = {
            each.name: each.padding_idx
            for each in engine.schema.features
            if isinstance(each, SequenceFeature)
        }

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
            _body(asked, answer, score),
            asked.rows,
            self._ids(asked, answer),
            answer.unseen,
            answer.nulls,
        )

    def _answer(self, asked: Asked) -> Answer:
        features = self.engine.features
        columns = {name: asked.columns[name] for name in features if name in asked.columns}
        shared = {name: asked.shared[name] for name in features if name in asked.shared}
        self._check_lists(shared, asked.rows)
        if not columns:  # the number of rows is that of some column
            columns = {features[0]: asked.values(features[0])}
            shared.pop(features[0])
        return self.engine.answer(columns, shared)

    def _check_lists(self, shared: Mapping[str, Any], rows: int) -> None:
        """Refuse a list of the context that is looked up for too many rows: the body is small."""
        for name in self._lists:
            values = shared.get(name)
            ids = len(values) * rows if isinstance(values, list) else 0
            if ids > self.most_rows * MOST_IDS:
                raise Refused(
                    413,
                    f"column {name!r} of the context has {len(values or ()):,} ids, for {rows:,} "
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

    def _ids(self, asked: Asked, answer: Answer) -> dict[str, int]:
        found = {}
        for name in answer.unseen:
            if name not in self._lists:
                found[name] = asked.rows - answer.nulls[name]
                continue
            lists = asked.values(name) if name in asked.columns else [asked.shared[name]]
            each = _elements(lists, self._lists[name])
            found[name] = each if name in asked.columns else each * asked.rows
        return found


def _elements(lists: Sequence[Sequence[Any] | None], padding: int | None) -> int:
    """Return how many ids some lists hold; a null is none."""
    present = [each for each in lists if each is not None]
    found = sum(map(len, present)) - sum(each.count(None) for each in present)
    if padding is not None:
        found -= sum(each.count(padding) for each in present)
    return found


def _numbers(name: str, values: Sequence[Any]) -> pl.Series:
    for row, value in enumerate(values):
        if not isinstance(value, int | float | None):
            raise DataError(
                f"fusion: column {name!r} is added up, and row {row} is no number: write it as one"
            )
    return pl.Series(name, values, dtype=pl.Float64, strict=False)


def _body(asked: Asked, answer: Answer, score: np.ndarray | None) -> bytes:
    """Return an answer as JSON.

    Args:
        asked: the request.
        answer: of its rows.
        score: the fused score, None where none is declared.

    Shape:
        score: (N,)
    """
    found: dict[str, Any] = {"rows": asked.rows}
    outputs = answer.outputs
    if score is None:
        found["outputs"] = {name: values.tolist() for name, values in outputs.items()}
    else:
        order = best(score)
        if asked.top_k is None:
            found["outputs"] = {name: values.tolist() for name, values in outputs.items()}
            found["score"] = score.tolist()
            found["order"] = order.tolist()
        else:
            found["top"] = _top(order[: asked.top_k], score, outputs)
    found["unseen"] = {name: count for name, count in answer.unseen.items() if count}
    if asked.ignored:
        found["ignored"] = asked.ignored
    return to_json(found)


def best(score: np.ndarray) -> np.ndarray:
    """Return row numbers, the best first; of equal scores, the lower number.

    Example:
        >>> best(np.array([0.5, 2.0, 2.0]))
        array([1, 2, 0])
    """
    return np.argsort(-score, kind="stable")


def _top(
    rows: np.ndarray, score: np.ndarray, outputs: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    columns = [rows, score[rows], *(values[rows] for values in outputs.values())]
    names = ["row", "score", *outputs]
    lists = (column.tolist() for column in columns)
    return [dict(zip(names, each, strict=True)) for each in zip(*lists, strict=True)]
