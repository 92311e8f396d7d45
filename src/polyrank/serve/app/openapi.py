"""The request and the answer as JSON Schema, written from what the bundle needs."""

from __future__ import annotations

from typing import Any

from polyrank.serve.engine import Engine

Json = dict[str, Any]
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBERS: Json = {"type": "array", "items": {"type": "number"}}
_ERROR: Json = {
    "type": "object",
    "required": ["error", "request_id"],
    "properties": {"error": {"type": "string"}, "request_id": {"type": "string"}},
    "additionalProperties": False,
}
_STATUSES = {
    400: "The body is no JSON in UTF-8.",
    408: "The body did not arrive in time.",
    413: "The body, or the number of its rows, is above the limit.",
    422: "The rows are not what the bundle needs; the message says what is wrong.",
    429: "Too many requests wait.",
    500: "Something unexpected happened; the server's log has it under the request's id.",
    503: "The answer took too long.",
}


def request_schema(engine: Engine) -> Json:
    """Return what `POST /v1/score` takes."""
    columns = _columns(engine)
    every = {"type": "object", "required": list(columns), "properties": columns}
    some = {"type": "object", "properties": columns}
    more = {} if engine.fusion is None else {"top_k": {"type": "integer", "minimum": 1}}
    shapes = {
        "rows": {"rows": {"oneOf": _tables(every)}},
        "ranking": {"context": some, "candidates": {"oneOf": _tables(some)}},
    }
    return {
        "oneOf": [
            {
                "title": title,
                "type": "object",
                "required": list(keys),
                "properties": {**keys, **more},
                "additionalProperties": False,
            }
            for title, keys in shapes.items()
        ],
        "example": {"rows": [_example(engine)]},
    }


def answer_schema(engine: Engine) -> Json:
    """Return what `POST /v1/score` answers."""
    counted = {
        "rows": {"type": "integer", "minimum": 1},
        "unseen": {"type": "object", "additionalProperties": _COUNT},
        "ignored": {"type": "array", "items": {"type": "string"}},
    }
    outputs = dict.fromkeys(engine.outputs, _NUMBERS)
    all_rows: Json = {"outputs": {"type": "object", "properties": outputs}}
    if engine.fusion is None:
        return _closed({**counted, **all_rows}, optional="ignored")
    all_rows |= {"score": _NUMBERS, "order": {"type": "array", "items": _COUNT}}
    best = {
        "row": _COUNT,
        "score": {"type": "number"},
        **{name: {"type": "number"} for name in engine.outputs},
    }
    top = {"top": {"type": "array", "items": _closed(best)}}
    return {
        "oneOf": [
            _closed({**counted, **all_rows}, optional="ignored"),
            _closed({**counted, **top}, optional="ignored"),
        ]
    }


def responses(engine: Engine) -> dict[int | str, Json]:
    """Return the documented answers of `POST /v1/score`, by status."""
    good = {"description": "The rows' outputs.", "content": _json(answer_schema(engine))}
    found: dict[int | str, Json] = {200: good}
    for status, text in _STATUSES.items():
        found[status] = {"description": text, "content": _json(_ERROR)}
    return found


def _columns(engine: Engine) -> Json:
    found: Json = {name: codec.json for name, codec in engine.codecs.items()}
    return found | {name: {"type": "number"} for name in engine.fusion_columns if name not in found}


def _example(engine: Engine) -> Json:
    found = {name: codec.example for name, codec in engine.codecs.items()}
    return found | dict.fromkeys(engine.fusion_columns, 1.0)


def _tables(record: Json) -> list[Json]:
    properties = {
        name: {"type": "array", "items": each, "minItems": 1}
        for name, each in record["properties"].items()
    }
    return [
        {"type": "array", "items": record, "minItems": 1},
        {**record, "properties": properties},
    ]


def _closed(properties: Json, optional: str | None = None) -> Json:
    return {
        "type": "object",
        "required": [name for name in properties if name != optional],
        "properties": properties,
        "additionalProperties": False,
    }


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
