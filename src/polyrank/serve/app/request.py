"""The body of a scoring request, parsed once, into columns: no object per row outlives the parser.

One of three shapes, of which the first two are the same rows:

    {"rows": [{"item": 1, "price": 2.5}, …]}
    {"rows": {"item": [1, …], "price": [2.5, …]}}
    {"context": {"user": 7}, "candidates": …}          candidates in either form

Each may have `top_k`, and `explore` with the options of a way of exploring.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from operator import itemgetter
from typing import Any

import msgspec
from pydantic_core import from_json

from polyrank import spec
from polyrank.errors import PolyrankError, did_you_mean
from polyrank.exploration import EXPLORATIONS, Exploration
from polyrank.serve.app.limits import Refused

KEYS = ("rows", "context", "candidates", "top_k", "explore")
_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}
# A client may send names of any size and number; what they are compared with, and its error, is
# bounded.
_NAME_LETTERS = 100
_NAMES = 200
_LETTERS = 1000


@dataclass(frozen=True, eq=False)
class ScoreRequest:
    """The rows of a request, as columns: those needed of the rows, and of the context."""

    rows: int
    columns: Mapping[str, list[Any]]
    shared: Mapping[str, Any]
    top_k: int | None  # of the best rows; None for all in their order
    explore: Exploration | None
    ignored: Sequence[str]  # columns given and not needed, sorted

    def values(self, name: str) -> list[Any]:
        """Return a needed column, shared or not."""
        return self.columns[name] if name in self.columns else [self.shared[name]] * self.rows


def read(body: bytes, needed: Sequence[str], most_rows: int) -> ScoreRequest:
    """Parse a body, or refuse it: 400 if it is not JSON, 413 for too many rows, 422 for the rest.

    NaN is a missing value, as null is. `needed` are the columns that every row must have.
    """
    return taken(parsed(body), needed, most_rows)


def taken(
    given: Any, needed: Sequence[str], most_rows: int, beside: Collection[str] = ()
) -> ScoreRequest:
    """Return the request that a parsed body is, or refuse it; `beside` are not called ignored."""
    if type(given) is not dict:
        raise Refused(f"the body must be an object, got {json_type(given)}: {_SHAPES}")
    for key in given:
        if key not in KEYS:
            raise Refused(f"unknown key {_quoted(key)}{did_you_mean(key[:_NAME_LETTERS], KEYS)}")
    if "rows" in given and ("context" in given or "candidates" in given):
        raise Refused(f"got both rows and a context or candidates: {_SHAPES}")
    if "rows" in given:
        where, rows, context = "rows", given["rows"], {}
    elif "context" in given and "candidates" in given:
        where, rows, context = "candidates", given["candidates"], given["context"]
        if type(context) is not dict:
            raise Refused(f"context must be an object, got {json_type(context)}")
    else:
        lacking = {"context", "candidates"} - given.keys()
        what = f"{lacking.pop()} is missing" if len(lacking) == 1 else "rows are missing"
        raise Refused(f"{what}: {_SHAPES}")
    take = {list: _of_records, dict: _of_columns}.get(type(rows))
    if take is None:
        raise Refused(
            f"{where} must be a list of records or an object of columns, got {json_type(rows)}"
        )
    own = [name for name in needed if name not in context] if context else needed
    count, columns, extra = take(rows, _Wanted(where, needed, own, context), most_rows)
    shared = {name: context[name] for name in needed if name in context} if context else {}
    if both := sorted(extra & context.keys()):
        raise Refused(
            f"column {_quoted(both[0])} is both in the context and in the candidates: leave one "
            "out",
        )
    ignored = extra if len(shared) == len(context) else extra | (context.keys() - shared.keys())
    return ScoreRequest(
        count, columns, shared, _top_k(given), _explore(given), sorted(ignored.difference(beside))
    )


def parsed(body: bytes) -> Any:
    """Return the JSON of a body, or refuse it with 400."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):  # DecodeError was none of ValueError
        pass  # a third faster, and stricter: it refuses NaN
    try:
        return from_json(body)
    except ValueError as error:
        raise Refused(f"the body is not JSON in UTF-8: {error}", 400) from None


_SHAPES = 'send {"rows": …} or {"context": {…}, "candidates": …}'
_Taken = tuple[int, dict[str, list[Any]], set[str]]  # rows, columns, names not needed


@dataclass(frozen=True, eq=False)
class _Wanted:
    """The columns that the rows must have: `own` is `needed` without those of the context."""

    where: str
    needed: Sequence[str]
    own: Sequence[str]
    context: Mapping[str, Any]

    def missing(self, name: str, place: str, given: Mapping[str, Any]) -> Refused:
        both = f"both the context and {place}" if self.context else place
        known = {each for names in (given, self.context) for each in islice(names, _NAMES)}
        others = [each[:_NAME_LETTERS] for each in known.difference(self.needed)]
        nearest = get_close_matches(name[:_NAME_LETTERS], sorted(others), n=1)
        hint = f" (misspelled as {_quoted(nearest[0])}?)" if nearest else ""
        return Refused(
            f"column {_quoted(name)} is missing from {both}{hint}; write null where a feature has "
            "no value",
        )


def _of_records(records: list[Any], wanted: _Wanted, most: int) -> _Taken:
    _check_count(len(records), most)
    own = wanted.own
    try:
        if len(own) > 1:
            values = zip(*map(itemgetter(*own), records), strict=True)
            columns = dict(zip(own, map(list, values), strict=True))
        else:
            columns = {name: list(map(itemgetter(name), records)) for name in own}
    except (KeyError, TypeError):
        raise _faulty(records, wanted) from None
    if not own and any(type(record) is not dict for record in records):
        raise _faulty(records, wanted)
    if set(map(len, records)) == {len(own)}:
        return len(records), columns, set()
    return len(records), columns, set().union(*records).difference(own)


def _faulty(records: list[Any], wanted: _Wanted) -> Refused:
    for row, record in enumerate(records):
        if type(record) is not dict:
            return Refused(f"{wanted.where}: row {row} must be an object, got {json_type(record)}")
        for name in wanted.own:
            if name not in record:
                return wanted.missing(name, f"row {row} of {wanted.where}", record)
    raise AssertionError("every record has every name")


def _of_columns(table: dict[str, Any], wanted: _Wanted, most: int) -> _Taken:
    own, where = wanted.own, wanted.where
    for name in own:
        if name not in table:
            raise wanted.missing(name, where, table)
    lengths = {}
    for name in own or table:  # if all is shared, the ignored columns say how many rows there are
        if type(table[name]) is not list:
            raise Refused(
                f"{where}: column {_quoted(name)} must be a list, got {json_type(table[name])}",
            )
        lengths[name] = len(table[name])
    first, count = next(iter(lengths.items()), ("", 0))
    for name, length in lengths.items():
        if length != count:
            raise Refused(
                f"{where}: column {_quoted(name)} has length {length:,} and {_quoted(first)} has "
                f"length {count:,}: each column needs one value per row",
            )
    _check_count(count, most)
    extra = set() if len(table) == len(own) else table.keys() - set(own)
    return count, {name: table[name] for name in own}, extra


def _check_count(rows: int, most: int) -> None:
    if not rows:
        raise Refused("no rows to score")
    if rows > most:
        raise Refused(
            f"a request may have {most:,} rows, got {rows:,}: split it, or score a file with "
            "`polyrank predict`",
            413,
        )


def _top_k(given: Mapping[str, Any]) -> int | None:
    if "top_k" not in given:
        return None
    value = given["top_k"]
    if type(value) is not int or value < 1:
        shown = str(value)[:20] if type(value) in (int, float) else json_type(value)
        raise Refused(f"top_k must be a whole number of at least 1, got {shown}")
    return value


def _explore(given: Mapping[str, Any]) -> Exploration | None:
    if "explore" not in given:
        return None
    table = given["explore"]
    if type(table) is not dict:
        raise Refused(
            f'explore must be an object such as {{"kind": "thompson", "seed": 1}}, got '
            f"{json_type(table)}"
        )
    try:
        return spec.choose(EXPLORATIONS, table, "explore")
    except PolyrankError as error:
        raise Refused(shortened(str(error), _LETTERS)) from None


def json_type(value: Any) -> str:
    """Return the type of a parsed value, with its article."""
    return _TYPES[type(value)]


def shortened(text: str, letters: int) -> str:
    """Return a text of at most so many letters and an ellipsis."""
    return text if len(text) <= letters else text[:letters] + "…"


def _quoted(name: str) -> str:
    return repr(shortened(name, _NAME_LETTERS))
