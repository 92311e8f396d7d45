"""From the bytes of a request to the bytes of its answer, all in one thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from pydantic_core import to_json

from polyrank.errors import ConfigError, DataError
from polyrank.serve.app import request
from polyrank.serve.app.limits import Refused
from polyrank.serve.app.request import ScoreRequest, json_type, shortened
from polyrank.serve.engine import Engine, Predictions
from polyrank.serve.explore import Explored

MOST_IDS = 100  # times the most rows: ids that a list of the context may have over all rows
_MESSAGE_LETTERS = 1000  # an error may quote what the client sent


class Body(NamedTuple):
    """What is sent."""

    content: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] = {}


@dataclass(frozen=True, eq=False)
class Scored:
    """The answer to a request, and its counts: those of ids and values by feature."""

    given: Mapping[str, Any]  # the parsed request
    answer: Body
    rows: int
    ids: Mapping[str, int]
    unseen: Mapping[str, int]
    nulls: Mapping[str, int]
    outputs: Mapping[str, np.ndarray]  # by column of `predict`, (rows,)
    score: np.ndarray | None  # (rows,), where the bundle declares a fusion
    explored: Explored | None  # where the request asks for it

    @property
    def body(self) -> bytes:
        """The bytes of the answer."""
        return self.answer.content


Writer = Callable[[ScoreRequest, Predictions, "np.ndarray | None", "Explored | None"], Body]


@dataclass(frozen=True)
class Compared:
    """How the answer of a shadow differs from the one that was given.

    Args:
        rows: of the request.
        differences: sum over rows of |shadow − given|, by output that both have.
        same_first: whether both put the same row first; None where one of them does not rank.
    """

    rows: int
    differences: dict[str, float]
    same_first: bool | None


def compared(given: Scored, shadow: Scored) -> Compared:
    """Compare two answers to one request."""
    differences = {
        name: float(np.abs(values - given.outputs[name]).sum())
        for name, values in shadow.outputs.items()
        if name in given.outputs
    }
    same = None
    if given.score is not None and shadow.score is not None:
        same = bool(np.argmax(given.score) == np.argmax(shadow.score))
    return Compared(given.rows, differences, same)


class Scorer:
    """An engine that takes and gives JSON, at most so many rows per request."""

    def __init__(self, engine: Engine, most_rows: int) -> None:
        self.engine, self.most_rows = engine, most_rows
        self.needed = tuple(dict.fromkeys([*engine.inputs, *engine.fusion_columns]))

    def __call__(self, body: bytes) -> Scored:
        """Score a request's body."""
        return self.score(request.parsed(body))

    def score(
        self, given: Any, beside: Collection[str] = (), write: Writer | None = None
    ) -> Scored:
        """Score a parsed body; columns `beside` those needed are of use to somebody else."""
        asked = request.taken(given, self.needed, self.most_rows, beside)
        ranked = self.engine.fusion is not None or asked.explore is not None
        if asked.top_k is not None and not ranked:
            raise Refused(
                "top_k needs a score to rank by, and this bundle declares no fusion: add a "
                "[fusion] table with a weight for each outcome to the experiment, train and export "
                "again; or leave top_k out and sort by an output",
            )
        try:
            predicted = self._predict(asked)
            columns = self._fused(asked)
            score = self._score(columns, predicted)
            explored = None
            if asked.explore is not None:
                explored = self.engine.explore(
                    predicted, asked.explore, columns, first=asked.top_k or 1
                )
        except (DataError, ConfigError) as error:
            raise Refused(shortened(str(error), _MESSAGE_LETTERS)) from None
        answer = (write or _body)(asked, predicted, score, explored)
        return Scored(
            given, answer, asked.rows, predicted.ids, predicted.unseen, predicted.nulls,
            predicted.outputs, score, explored,
        )  # fmt: skip

    def _predict(self, asked: ScoreRequest) -> Predictions:
        inputs = self.engine.inputs
        columns = {name: asked.columns[name] for name in inputs if name in asked.columns}
        shared = {name: asked.shared[name] for name in inputs if name in asked.shared}
        for name, values in shared.items():  # a small body, and much to look up
            codec = self.engine.codecs.get(name)
            if codec is not None and not codec.feature.ragged:
                continue  # read once, whatever the rows
            if isinstance(values, list) and len(values) * asked.rows > self.most_rows * MOST_IDS:
                raise Refused(
                    f"column {name!r} of the context has {len(values):,} ids for each of "
                    f"{asked.rows:,} rows, more than the {self.most_rows * MOST_IDS:,} ids that a "
                    "request may have: send fewer candidates, or only the last ids",
                    413,
                )
        if not columns:  # a column must say how many rows there are
            columns = {inputs[0]: asked.values(inputs[0])}
            shared.pop(inputs[0])
        return self.engine.predict_columns(columns, shared)

    def _fused(self, asked: ScoreRequest) -> dict[str, pl.Series]:
        """Return the raw columns that the fused score reads."""
        return {name: _numbers(name, asked.values(name)) for name in self.engine.fusion_columns}

    def _score(self, columns: Mapping[str, pl.Series], predicted: Predictions) -> np.ndarray | None:
        score = self.engine.score(predicted, columns)
        if score is not None and not np.isfinite(score).all():
            row = int(np.argmin(np.isfinite(score)))
            raise DataError(f"fusion: the score of row {row} is too large to represent")
        return score


def _numbers(name: str, values: Sequence[Any]) -> pl.Series:
    for row, value in enumerate(values):
        if not isinstance(value, int | float | None):
            raise DataError(
                f"fusion: column {name!r} must be a number in every row, got {json_type(value)} in "
                f"row {row}"
            )
    return pl.Series(name, values, dtype=pl.Float64, strict=False)


def _body(
    asked: ScoreRequest,
    predicted: Predictions,
    score: np.ndarray | None,
    explored: Explored | None,
) -> Body:
    """Return an answer as JSON: the outputs in the order of the rows, or the best rows."""
    found: dict[str, Any] = {"rows": asked.rows}
    columns = {} if score is None else {"score": score}
    if asked.top_k is None:
        found["outputs"] = {name: values.tolist() for name, values in predicted.outputs.items()}
        if score is not None:
            found |= {"score": score.tolist(), "order": _best_first(score).tolist()}
        if explored is not None:
            found["explored"] = _about(explored) | {
                name: None if values is None else values.tolist()
                for name, values in _of_rows(explored).items()
            }
            found["explored"]["order"] = explored.order.tolist()
    else:
        if explored is not None:
            found["explored"] = _about(explored)
            columns |= {
                "explored" if name == "score" else name: values
                for name, values in _of_rows(explored).items()
            }
        order = _best_first(score) if explored is None else explored.order
        best = order[: asked.top_k]
        columns |= predicted.outputs
        picked = [best.tolist()] + [
            [None] * len(best) if values is None else values[best].tolist()
            for values in columns.values()
        ]
        names = ["row", *columns]
        found["top"] = [dict(zip(names, row, strict=True)) for row in zip(*picked, strict=True)]
    found["unseen"] = {name: count for name, count in predicted.unseen.items() if count}
    if asked.ignored:
        found["ignored"] = asked.ignored
    return Body(to_json(found))


def _best_first(score: np.ndarray | None) -> np.ndarray:
    assert score is not None
    return np.argsort(-score, kind="stable")  # of equal scores, the lower row number first


def _about(explored: Explored) -> dict[str, Any]:
    """Return what is said of an exploration once, whatever the rows."""
    return {
        "by": explored.by,
        "first": explored.first,
        "propensity_from": explored.propensity_from,
    }


def _of_rows(explored: Explored) -> dict[str, np.ndarray | None]:
    return {"score": explored.score, "propensity": explored.propensity}
