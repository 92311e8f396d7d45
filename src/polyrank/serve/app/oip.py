"""Version 2 of the Open Inference Protocol: columns as tensors, in JSON or as bytes behind it.

Every column that a bundle needs is one input with the rows as its first dimension, every output of
`predict` one output; with a fusion there is `score` too. An input has the type that its ids have in
the vocabulary, and others that say the same are taken: 7 and "7" are one id. Tensors have neither
nulls nor lists of several lengths, so the values that stand for null and for padding in
`model-with-vocabulary.onnx` stand for them here.

======  =============  =============
type    null           padding
======  =============  =============
INT64   −2^63          −2^63 + 1
BYTES   U+FDD0         U+FDD1
FP64    NaN            −∞
======  =============  =============

Reference:
    KServe, "Open Inference Protocol (V2)", REST; Triton, "Binary tensor data extension".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from pydantic_core import to_json

from polyrank.errors import did_you_mean
from polyrank.features.ids import IdType
from polyrank.features.sparse import NULL, PADDING
from polyrank.serve.app.limits import Refused
from polyrank.serve.app.openapi import Json, closed, columns_of
from polyrank.serve.app.request import ScoreRequest, json_type, parsed, shortened
from polyrank.serve.app.scorer import Body, Scored, Scorer
from polyrank.serve.engine import Engine, Predictions
from polyrank.serve.explore import Explored

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data",)
SCORE = "score"
Datatype = Literal[
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16",
    "FP32", "FP64", "BYTES",
]  # fmt: skip
_NUMPY = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"} | {
    f"{sign}INT{8 * size}": f"<{'u' if sign else 'i'}{size}"
    for sign in ("", "U")
    for size in (1, 2, 4, 8)
}
_KINDS: Mapping[type, IdType] = {int: "int", str: "string", float: "float"}
_LETTERS = 300


class Tensor(msgspec.Struct):
    """An input of a request."""

    name: str
    shape: list[int]
    datatype: Datatype
    data: Any = None
    parameters: dict[str, Any] = {}  # msgspec copies it


class Wanted(msgspec.Struct):
    """An output that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class Infer(msgspec.Struct):
    """The JSON of a request."""

    inputs: list[Tensor]
    outputs: list[Wanted] | None = None
    id: str | None = None
    parameters: dict[str, Any] = {}


def infer(scorer: Scorer, model: str, header_length: str | None, body: bytes) -> Scored:
    """Score a request; `header_length` is the header that says where its JSON ends.

    Raises:
        Refused: 400 where it is not JSON, 413 for too many rows, else 422.
    """
    asked, binary = _asked(body, header_length)
    columns = _columns(asked, binary, scorer.engine)
    wanted = _wanted(asked, scorer.engine)

    def write(
        _: ScoreRequest, predicted: Predictions, score: np.ndarray | None, __: Explored | None
    ) -> Body:
        found = dict(predicted.outputs) | ({} if score is None else {SCORE: score})
        about = {"model_name": model, "model_version": scorer.engine.version}
        if asked.id is not None:
            about["id"] = asked.id
        return _written(about, {name: (found[name], raw) for name, raw in wanted.items()})

    return scorer.score({"rows": columns}, write=write)


def metadata(model: str, engine: Engine) -> Json:
    """Return the metadata of a model: its inputs and outputs."""
    inputs = [
        {"name": name, "datatype": _datatype(json), "shape": [-1, -1] if _lists(json) else [-1]}
        for name, json in columns_of(engine).items()
    ]
    outputs = [{"name": name, "datatype": "FP64", "shape": [-1]} for name in _outputs(engine)]
    return {"name": model, "platform": "polyrank_onnx", "inputs": inputs, "outputs": outputs}


def request_schema(engine: Engine) -> Json:
    """Return the schema of a request in JSON alone."""
    string, shape = {"type": "string"}, {"type": "array", "items": {"type": "integer"}}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"enum": list(columns_of(engine))},
            "shape": shape,
            "datatype": {"enum": list(get_args(Datatype))},
            "data": {"type": "array"},
        },
    }
    wanted = closed({"name": {"enum": list(_outputs(engine))}})
    properties = {
        "id": string,
        "inputs": {"type": "array", "items": tensor},
        "outputs": {"type": "array", "items": wanted},
    }
    example = [_example(name, json) for name, json in columns_of(engine).items()]
    return {
        "type": "object", "required": ["inputs"], "properties": properties,
        "example": {"inputs": example},
    }  # fmt: skip


def answer_schema() -> Json:
    """Return the schema of an answer in JSON alone."""
    string, numbers = {"type": "string"}, {"type": "array", "items": {"type": "number"}}
    shape = {"type": "array", "items": {"type": "integer"}}
    output = closed({"name": string, "datatype": string, "shape": shape, "data": numbers})
    properties = {
        "model_name": string, "model_version": string, "id": string,
        "outputs": {"type": "array", "items": output},
    }  # fmt: skip
    return closed(properties, optional=("id",))


def _asked(body: bytes, header_length: str | None) -> tuple[Infer, memoryview]:
    end = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length) > len(body):
            raise Refused(
                f"{HEADER_LENGTH} must be the bytes of the JSON, at most {len(body):,}, got "
                f"{shortened(header_length, 30)!r}",
                400,
            )
        end = int(header_length)
    given = parsed(body[:end])
    try:
        return msgspec.convert(given, Infer), memoryview(body)[end:]
    except msgspec.ValidationError as error:
        reason = shortened(str(error), _LETTERS)
        raise Refused(f"the request is not one of version 2: {reason}") from None


def _columns(asked: Infer, binary: memoryview, engine: Engine) -> dict[str, list[Any]]:
    known, found, start = columns_of(engine), {}, 0
    for tensor in asked.inputs:
        if tensor.name in found:
            raise Refused(f"input {_shown(tensor.name)} is there twice")
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            values = _from_json(tensor)
        else:
            if type(size) is not int or not 0 <= size <= len(binary) - start:
                raise Refused(
                    f"input {_shown(tensor.name)}: binary_data_size must be bytes that follow, "
                    f"got {shortened(str(size), 30)}"
                )
            values = _from_bytes(tensor, binary[start : start + size])
            start += size
        if tensor.name in known:
            found[tensor.name] = _shaped(tensor, values, lists=_lists(known[tensor.name]))
        else:
            found[tensor.name] = []
    if start != len(binary):
        raise Refused(f"{len(binary) - start:,} bytes behind the JSON belong to no input")
    others = [name for name in found if name not in known]
    if others:
        hint = did_you_mean(others[0][:100], known)
        raise Refused(f"the bundle has no input {_shown(others[0])}{hint}")
    for codec in engine.codecs.values():
        if codec.feature.lists and all(name in found for name in codec.feature.columns):
            _without_padding(codec.feature.columns, found)
    return {name: _with_nulls(values) for name, values in found.items()}


def _count(tensor: Tensor) -> int:
    if not 1 <= len(tensor.shape) <= 2 or min(tensor.shape) < 0:
        raise Refused(
            f"input {_shown(tensor.name)}: the shape must be [rows], or [rows, length] of lists, "
            f"got {shortened(str(tensor.shape), 50)}"
        )
    return math.prod(tensor.shape)


def _from_json(tensor: Tensor) -> list[Any]:
    count, data = _count(tensor), tensor.data
    if type(data) is not list:
        what = "has no data" if data is None else f"has {json_type(data)} as data"
        raise Refused(f"input {_shown(tensor.name)} {what}: send a list of its values")
    if len(tensor.shape) == 2 and data and all(type(row) is list for row in data):
        data = list(chain.from_iterable(data))
    types = (str,) if tensor.datatype == "BYTES" else (int, float, bool)
    for value in data:
        if value is not None and type(value) not in types:
            raise Refused(
                f"input {_shown(tensor.name)} is {tensor.datatype}, and holds {json_type(value)}"
            )
    _check_count(tensor, count, len(data), "values")
    return data


def _from_bytes(tensor: Tensor, raw: memoryview) -> list[Any]:
    count = _count(tensor)
    if tensor.datatype == "BYTES":
        values = list(_texts(tensor, raw))
        _check_count(tensor, count, len(values), "values")
        return values
    dtype = np.dtype(_NUMPY[tensor.datatype])
    _check_count(tensor, count * dtype.itemsize, len(raw), "bytes")
    return np.frombuffer(raw, dtype).tolist()


def _texts(tensor: Tensor, raw: memoryview) -> Iterator[str]:
    """Read texts, each behind its length in four bytes."""
    start = 0
    while start < len(raw):
        end = start + 4 + int.from_bytes(raw[start : start + 4], "little")
        if end > len(raw):
            raise Refused(f"input {_shown(tensor.name)} ends within a text")
        try:
            yield str(raw[start + 4 : end], "utf-8")
        except UnicodeDecodeError:
            raise Refused(f"input {_shown(tensor.name)} holds a text that is not UTF-8") from None
        start = end


def _check_count(tensor: Tensor, expected: int, found: int, what: str) -> None:
    if found != expected:
        raise Refused(
            f"input {_shown(tensor.name)}: shape {tensor.shape} of {tensor.datatype} has "
            f"{expected:,} {what}, got {found:,}"
        )


def _shaped(tensor: Tensor, values: list[Any], *, lists: bool) -> list[Any]:
    """Return one value for each row, or one list."""
    rows, *lengths = tensor.shape
    if lists and not lengths:
        raise Refused(f"input {_shown(tensor.name)} holds lists: its shape must be [rows, length]")
    if not lists and lengths not in ([], [1]):
        raise Refused(
            f"input {_shown(tensor.name)} has a value for each row: its shape must be [rows], got "
            f"{tensor.shape}"
        )
    if not lists:
        return values
    (length,) = lengths
    return [values[row * length : (row + 1) * length] for row in range(rows)]


def _without_padding(columns: Sequence[str], found: dict[str, list[Any]]) -> None:
    """Take padding out of lists, and with it the weights in its places."""
    ids, *others = columns
    kept = [[not _is(PADDING, value) for value in each] for each in found[ids]]
    for name in (ids, *others):
        if [len(each) for each in found[name]] != [len(each) for each in kept]:
            raise Refused(f"inputs {ids!r} and {name!r} must have one shape")
        found[name] = [
            [value for value, keep in zip(each, places, strict=True) if keep]
            for each, places in zip(found[name], kept, strict=True)
        ]


def _with_nulls(values: list[Any]) -> list[Any]:
    return [
        _with_nulls(each) if type(each) is list else None if _is(NULL, each) else each
        for each in values
    ]


def _is(constants: Mapping[Any, Any], value: Any) -> bool:
    kind = _KINDS.get(type(value))
    if kind is None:
        return False
    constant = constants[kind]
    return value == constant or (constant != constant and value != value)  # NaN differs from itself


def _wanted(asked: Infer, engine: Engine) -> dict[str, bool]:
    """Return the outputs to write, and whether as bytes."""
    outputs, every = _outputs(engine), bool(asked.parameters.get("binary_data_output", False))
    if asked.outputs is None:
        return dict.fromkeys(outputs, every)
    for each in asked.outputs:
        if each.name not in outputs:
            hint = did_you_mean(each.name[:100], outputs)
            raise Refused(f"the bundle has no output {_shown(each.name)}{hint}")
    return {each.name: bool(each.parameters.get("binary_data", every)) for each in asked.outputs}


def _written(about: Json, outputs: Mapping[str, tuple[np.ndarray, bool]]) -> Body:
    described, raw = [], []
    for name, (values, binary) in outputs.items():
        one: Json = {"name": name, "datatype": "FP64", "shape": [len(values)]}
        if binary:
            raw.append(np.asarray(values, "<f8").tobytes())
            one["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            one["data"] = values.tolist()
        described.append(one)
    head = to_json({**about, "outputs": described})
    if not raw:
        return Body(head)
    length = {HEADER_LENGTH: str(len(head))}
    return Body(b"".join([head, *raw]), "application/octet-stream", length)


def _outputs(engine: Engine) -> tuple[str, ...]:
    return (*engine.outputs, *([] if engine.fusion is None else [SCORE]))


def _lists(json: Json) -> bool:
    return "items" in json


def _datatype(json: Json) -> str:
    """Return the type of a column, from what it is in JSON; a text says what any other does."""
    types = json.get("items", json)["type"]
    return "BYTES" if "string" in types else "INT64" if "integer" in types else "FP64"


def _example(name: str, json: Json) -> Json:
    datatype = _datatype(json)
    shape = [1, 1] if _lists(json) else [1]
    data = {"BYTES": ["a"], "INT64": [1], "FP64": [1.5]}[datatype]
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def _shown(name: str) -> str:
    return repr(shortened(name, 100))
