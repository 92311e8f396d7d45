"""The rows of a scored request as a frame, with the columns that were allowed and no others.

=============================  ===============================================================
column                         type
=============================  ===============================================================
number, list of numbers        Float64, List(Float64)
id, list of ids                String, List(String): 7 and "7" are one id, and requests mix them
key that the model needs not   String, null where a request has none
output, `score`                Float64
`request_id`, `version`        String; `version` names the bundle
`row`                          Int64, within the request
`explored`, `propensity`       Float64 of a request that explores, null of others
`time`                         Datetime in UTC, of the answer
=============================  ===============================================================

A column of the model that has one of the last six names is the model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from polyrank.data.arrays import from_arrays
from polyrank.errors import ConfigError, did_you_mean
from polyrank.features.ids import as_type, plain_ids
from polyrank.files import writing
from polyrank.serve.app.models import Loaded, Models
from polyrank.serve.app.openapi import Json, columns_of
from polyrank.serve.app.sampling import Sampling
from polyrank.serve.app.scorer import Scored
from polyrank.serve.engine import Engine

SCORE = "score"
TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True, eq=False)
class Sampled:
    """A scored request that is kept, and the bytes of its body."""

    loaded: Loaded
    scored: Scored
    request_id: str
    time: datetime
    bytes: int


def columns_known(engine: Engine) -> tuple[str, ...]:
    """Return the columns that can be kept of a request to a bundle."""
    score = () if engine.fusion is None else (SCORE,)
    known = (*columns_of(engine), *engine.schema.keys.columns, *engine.outputs, *score, *_FACTS)
    return tuple(dict.fromkeys(known))


def check(sampling: Sampling, models: Models) -> None:
    """Refuse a column that no model has, and a folder that cannot be made.

    Raises:
        ConfigError: either of them.
    """
    known = {name for each in models.values() for name in columns_known(each.current.engine)}
    for name in sampling.columns:
        if name not in known:
            raise ConfigError(
                f"column {name!r} to log is neither needed by a model nor a key of its schema, and "
                f"no output{did_you_mean(name, sorted(known))}"
            )
    with writing(f"the folder {sampling.folder} of logged rows", ConfigError):
        Path(sampling.folder).mkdir(parents=True, exist_ok=True)


def frame_of(sampled: Sampled, columns: Sequence[str]) -> pl.DataFrame:
    """Return the rows of a request: those of `columns` that its bundle knows.

    Raises:
        DataError: a value that is neither a number nor a text in a column that the model does not
            need, or both in one column.
        PolarsError: a value of another type than its column.
    """
    engine, scored = sampled.loaded.engine, sampled.scored
    needed, given = columns_of(engine), scored.given
    outputs = dict(scored.outputs) | ({} if scored.score is None else {SCORE: scored.score})
    found = []
    for name in columns:
        if name in needed:
            found.append(_typed(name, _values(given, name, scored.rows), needed[name]))
        elif name in outputs:
            found.append(pl.Series(name, outputs[name], pl.Float64))
        elif name in engine.schema.keys.columns:
            found.append(_texts(name, _values(given, name, scored.rows)))
        elif name in _FACTS:
            found.append(_FACTS[name](sampled).alias(name))
    return pl.DataFrame(found)


def _explored(each: Sampled, name: str) -> pl.Series:
    values = getattr(each.scored.explored, name, None)
    if values is None:
        return pl.repeat(None, each.scored.rows, dtype=pl.Float64, eager=True)
    return pl.Series(values, dtype=pl.Float64)


_FACTS = {
    "explored": lambda each: _explored(each, "score"),
    "propensity": lambda each: _explored(each, "propensity"),
    "request_id": lambda each: pl.repeat(each.request_id, each.scored.rows, eager=True),
    "row": lambda each: pl.int_range(each.scored.rows, eager=True),
    "time": lambda each: pl.repeat(each.time, each.scored.rows, dtype=TIME, eager=True),
    "version": lambda each: pl.repeat(each.loaded.version, each.scored.rows, eager=True),
}


def _values(given: Mapping[str, Any], name: str, rows: int) -> Sequence[Any]:
    """Return a column of a parsed request, null where it has none; the request was scored."""
    context, table = given.get("context", {}), given.get("rows", given.get("candidates"))
    if name in context:
        return [context[name]] * rows
    if type(table) is list:
        return [record.get(name) for record in table]
    values = table.get(name)
    # Nobody has looked at a column that the model does not need.
    return values if type(values) is list and len(values) == rows else [None] * rows


def _typed(name: str, values: Sequence[Any], json: Json) -> pl.Series:
    lists, types = "items" in json, json.get("items", json)["type"]
    if "number" in types and "string" not in types:
        dtype = pl.List(pl.Float64) if lists else pl.Float64
        return from_arrays({name: values})[name].cast(dtype)
    if not lists:
        return _texts(name, values)
    flat = _texts(name, list(chain.from_iterable(each or () for each in values))).to_list()
    found, start = [], 0
    for each in values:
        end = start + len(each or ())
        found.append(None if each is None else flat[start:end])
        start = end
    return pl.Series(name, found, pl.List(pl.String))


def _texts(name: str, values: Sequence[Any]) -> pl.Series:
    return as_type(plain_ids(from_arrays({name: values})[name]), "string")
