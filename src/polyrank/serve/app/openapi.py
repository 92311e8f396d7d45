"""What the OpenAPI document says of a bundle: its requests and its answers as JSON Schema."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from polyrank.exploration import EXPLORATIONS
from polyrank.serve.engine import Engine
from polyrank.serve.explore import SCORE

Json = dict[str, Any]
_COUNT: Json = {"type": "integer", "minimum": 0}
_STRING: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_TOP_K: Json = {"type": "integer", "minimum": 1}
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


def columns_of(engine: Engine) -> dict[str, Json]:
    """Return the schema of a value of each column that a bundle needs."""
    columns = {name: codec.json for name, codec in engine.codecs.items()}
    beside = {k: each for codec in engine.codecs.values() for k, each in codec.beside.items()}
    columns |= {name: each.json for name, each in beside.items()}
    return {name: columns.get(name, _NUMBER) for name in [*engine.inputs, *engine.fusion_columns]}


def request_schema(engine: Engine, key: str | None = None) -> Json:
    """Return the schema of a body of `POST /v1/score`; `key` chooses the model of a request."""
    columns = columns_of(engine)
    if key is not None and key not in columns:
        columns[key] = {"type": ["string", "number", "null"]}
    beside = {k: each for codec in engine.codecs.values() for k, each in codec.beside.items()}
    example = {name: codec.example for name, codec in engine.codecs.items()}
    example |= {name: each.example for name, each in beside.items()}
    example |= dict.fromkeys(engine.fusion_columns, 1.0)
    example |= {name: None for name in columns if name not in example}
    every = {"type": "object", "required": list(columns), "properties": columns}
    some = {"type": "object", "properties": columns}
    more: Json = {} if engine.fusion is None else {"top_k": _TOP_K}
    exploring = _exploring(engine)
    shapes = {
        "rows": {"rows": {"oneOf": _tables(every)}},
        "ranking": {"context": some, "candidates": {"oneOf": _tables(some)}},
    }
    return {
        "oneOf": [
            {"title": title, **closed({**keys, **each}, optional=("top_k",))}
            for title, keys in shapes.items()
            for each in ([more, {"top_k": _TOP_K, **exploring}] if exploring else [more])
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
    best = {"row": _COUNT, **dict.fromkeys(engine.outputs, _NUMBER)}
    shapes = [all_rows]
    if engine.fusion is not None:
        all_rows |= {"score": _NUMBERS, "order": {"type": "array", "items": _COUNT}}
        best["score"] = _NUMBER
        shapes.append({"top": {"type": "array", "items": closed(best)}})
    if engine.explorer.sure:
        about: Json = {
            "by": {"enum": list(_ranked_by(engine))},
            "first": {"type": "integer", "minimum": 1},
            "propensity_from": {"enum": ["integral", "draws", None]},
        }
        each: Json = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
        of_rows = {
            "score": _NUMBERS,
            "propensity": {"type": ["array", "null"], "items": each},
            "order": {"type": "array", "items": _COUNT},
        }
        top = closed({**best, "explored": _NUMBER, "propensity": each})
        shapes.append({**all_rows, "explored": closed({**about, **of_rows})})
        shapes.append({"top": {"type": "array", "items": top}, "explored": closed(about)})
    found = [closed({**counted, **each}, optional=("ignored",)) for each in shapes]
    return found[0] if len(found) == 1 else {"oneOf": found}


def _ranked_by(engine: Engine) -> tuple[str, ...]:
    """Return what rows may be ranked by when they are explored."""
    return engine.explorer.moving if engine.fusion is None else (SCORE,)


def _exploring(engine: Engine) -> Json:
    """Return the key `explore` of a request; nothing of a bundle without deviations."""
    if not engine.explorer.sure:
        return {}
    known, kinds = _ranked_by(engine), []
    for kind, method in EXPLORATIONS.items():
        by = {"enum": [*known, *([None] if len(known) == 1 else [])]}
        properties = {"kind": {"const": kind}, **method.json, "by": by}
        needed = ("kind", *method.required, *(["by"] if len(known) > 1 else []))
        kinds.append(closed(properties, optional=[n for n in properties if n not in needed]))
    return {"explore": {"oneOf": kinds}}


def responses(answer: Json) -> dict[int, Json]:
    """Return the answers of a scoring route by status, with the schema of 200."""
    error = closed(dict.fromkeys(["error", "request_id"], _STRING))
    refused = {status: response(text, error) for status, text in _STATUSES.items()}
    return {200: response("The rows' outputs.", answer), **refused}


def _tables(record: Json) -> list[Json]:
    properties = {
        name: {"type": "array", "items": each, "minItems": 1}
        for name, each in record["properties"].items()
    }
    return [
        {"type": "array", "items": record, "minItems": 1},
        {**record, "properties": properties},
    ]


def closed(properties: Json, optional: Collection[str] = ()) -> Json:
    """Return an object with these properties and no others, all but the optional ones required."""
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        "additionalProperties": False,
    }


def response(
    description: str, schema: Json | None = None, media_type: str = "application/json"
) -> Json:
    """Return an answer, of any JSON unless a schema is given."""
    content = {} if schema is None else {"schema": schema}
    return {"description": description, "content": {media_type: content}}
