"""The request and the answer of a bundle as JSON Schema."""

from __future__ import annotations

from typing import Any

from polyrank.serve.engine import Engine

Json = dict[str, Any]
_COUNT: Json = {"type": "integer", "minimum": 0}
_STRING: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_NUMBERS: Json = {"type": "array", "items": _NUMBER}
_STATUSES = {
    400: "The body is not JSON in UTF-8.",
    408: "The body did not arrive in time.",
    413: "The body or its number of rows is over the limit.",
    422: "The bundle cannot score the rows; the error says why.",
    429: "The queue of requests is full.",
    500: "Unexpected error; the server's log has it under the request's id.",
    503: "The answer took too long.",
}


def request_schema(engine: Engine) -> Json:
    """Return the schema of a body of `POST /v1/score`."""
    columns: Json = {name: codec.json for name, codec in engine.codecs.items()}
    columns |= {name: _NUMBER for name in engine.fusion_columns if name not in columns}
    example = {name: codec.example for name, codec in engine.codecs.items()}
    example |= dict.fromkeys(engine.fusion_columns, 1.0)
    some = {"type": "object", "properties": columns}
    every = {**some, "required": list(columns)}
    more = {} if engine.fusion is None else {"top_k": {"type": "integer", "minimum": 1}}
    shapes = {
        "rows": {"rows": {"oneOf": _tables(every)}},
        "ranking": {"context": some, "candidates": {"oneOf": _tables(some)}},
    }
    return {
        "oneOf": [
            {"title": title, **_closed({**keys, **more}, optional="top_k")}
            for title, keys in shapes.items()
        ],
        "example": {"rows": [example]},
    }


def answer_schema(engine: Engine) -> Json:
    """Return the schema of an answer of `POST /v1/score`."""
    counted = {
        "rows": {"type": "integer", "minimum": 1},
        "unseen": {"type": "object", "additionalProperties": _COUNT},
        "ignored": {"type": "array", "items": _STRING},
    }
    outputs = dict.fromkeys(engine.outputs, _NUMBERS)
    all_rows: Json = {"outputs": {"type": "object", "properties": outputs}}
    if engine.fusion is None:
        return _closed({**counted, **all_rows}, optional="ignored")
    all_rows |= {"score": _NUMBERS, "order": {"type": "array", "items": _COUNT}}
    best = {"row": _COUNT, **dict.fromkeys(["score", *engine.outputs], _NUMBER)}
    top = {"top": {"type": "array", "items": _closed(best)}}
    shapes = ({**counted, **all_rows}, {**counted, **top})
    return {"oneOf": [_closed(each, optional="ignored") for each in shapes]}


def responses(engine: Engine) -> dict[int, Json]:
    """Return the responses of `POST /v1/score`, by status."""
    error = _closed(dict.fromkeys(["error", "request_id"], _STRING))
    texts = {200: "The rows' outputs.", **_STATUSES}
    schemas = {200: answer_schema(engine), **dict.fromkeys(_STATUSES, error)}
    return {
        status: {"description": text, "content": {"application/json": {"schema": schemas[status]}}}
        for status, text in texts.items()
    }


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
