"""The body of an answer: named outputs in the order of the rows, or the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic_core import to_json

from polyrank.serve.answer import Answer
from polyrank.serve.app.request import Asked


def body(asked: Asked, answer: Answer, score: np.ndarray | None) -> bytes:
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
