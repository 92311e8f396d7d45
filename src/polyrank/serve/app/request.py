"""The body of a scoring request: parsed once, into columns. No object a row outlives the parser.

One of three shapes, of which the first two are the same rows:

    {"rows": [{"item": 1, "price": 2.5}, …]}
    {"rows": {"item": [1, …], "price": [2.5, …]}}
    {"context": {"user": 7}, "candidates": …}          candidates are written as rows are
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from operator import itemgetter
from typing import Any

import msgspec
from pydantic_core import from_json

from polyrank.errors import did_you_mean
from polyrank.serve.app.limits import Refused

KEYS = ("rows", "context", "candidates", "top_k")
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}
# What a client sends may be of any size; what is compared with it and told to it is not.
_NAME_LETTERS = 100
_NAMES = 200


@dataclass(frozen=True, eq=False)
class Asked:
    """The rows of a request, as columns.

    Args:
        rows: their number.
        columns: a list of values for each needed column that differs between rows.
        shared: a value for each needed column that all rows have in common.
        top_k: how many of the best rows are wanted, None for all rows in their order.
        ignored: columns that were given and are not needed, sorted.
    """

    rows: int
    columns: Mapping[str, list[Any]]
    shared: Mapping[str, Any]
    top_k: int | None
    ignored: Sequence[str]

    def values(self, name: str) -> list[Any]:
        """Return a needed column, whether shared or not."""
        return self.columns[name] if name in self.columns else [self.shared[name]] * self.rows


def read(body: bytes, needed: Sequence[str], most_rows: int) -> Asked:
    """Return what a body asks.

    NaN is taken as JSON's null is: a missing value.

    Args:
        body: JSON, in UTF-8.
        needed: the columns that every row must have.
        most_rows: of one request.

    Raises:
        Refused: 400 for what is no JSON, 413 for too many rows, 422 for the rest.

    Example:
        >>> body = b'{"context": {"user": 7}, "candidates": [{"item": 1}]}'
        >>> asked = read(body, ["user", "item"], most_rows=9)
        >>> asked.rows, asked.columns, asked.shared
        (1, {'item': [1]}, {'user': 7})
    """
    given = _parsed(body)
    if type(given) is not dict:
        raise Refused(422, f"the body is {_kind(given)}, and an object is expected: {_SHAPES}")
    for key in given:
        if key not in KEYS:
            raise Refused(
                422, f"unknown key {_quoted(key)}{did_you_mean(key[:_NAME_LETTERS], KEYS)}"
            )
    if "rows" in given and ("context" in given or "candidates" in given):
        raise Refused(422, f"rows are given, and so is a context or candidates: {_SHAPES}")
    if "rows" in given:
        where, rows, context = "rows", given["rows"], {}
    elif "context" in given and "candidates" in given:
        where, rows, context = "candidates", given["candidates"], given["context"]
        if type(context) is not dict:
            raise Refused(422, f"context is {_kind(context)}, and an object is expected")
    else:
        lacking = {"context", "candidates"} - given.keys()
        what = f"{lacking.pop()} is missing" if len(lacking) == 1 else "there are no rows"
        raise Refused(422, f"{what}: {_SHAPES}")
    take = {list: _of_records, dict: _of_columns}.get(type(rows))
    if take is None:
        raise Refused(
            422, f"{where}: a list of records or an object of columns, however: {_kind(rows)}"
        )
    own = [name for name in needed if name not in context] if context else needed
    count, columns, extra = take(rows, _Wanted(where, needed, own, context), most_rows)
    shared = {name: context[name] for name in needed if name in context} if context else {}
    if both := sorted(extra & context.keys()):
        raise Refused(
            422,
            f"column {_quoted(both[0])} is in the context and in the candidates: leave one of "
            "them out",
        )
    ignored = extra if len(shared) == len(context) else extra | (context.keys() - shared.keys())
    return Asked(count, columns, shared, _top_k(given), sorted(ignored))


def _parsed(body: bytes) -> Any:
    """Return what a body says, NaN being a number."""
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        pass  # it is strict, and a third faster
    try:
        return from_json(body)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON in UTF-8: {error}") from None


_SHAPES = 'send {"rows": …} or {"context": {…}, "candidates": …}'
_Taken = tuple[int, dict[str, list[Any]], set[str]]  # rows, columns, names that are not needed


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What the rows must have: `own` is `needed` without what the context has."""

    where: str
    needed: Sequence[str]
    own: Sequence[str]
    context: Mapping[str, Any]

    def missing(self, name: str, place: str, given: Mapping[str, Any]) -> Refused:
        """Return what is told of a column that is not there."""
        both = f"neither in the context nor in {place}" if self.context else f"not in {place}"
        known = {each for names in (given, self.context) for each in islice(names, _NAMES)}
        others = [each[:_NAME_LETTERS] for each in known.difference(self.needed)]
        nearest = get_close_matches(name[:_NAME_LETTERS], sorted(others), n=1)
        hint = f" (it has {_quoted(nearest[0])}: is that meant?)" if nearest else ""
        return Refused(
            422, f"column {_quoted(name)} is {both}{hint}; where a feature has no value, write null"
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
    """Return what is wrong with the first record that has not every name."""
    for row, record in enumerate(records):
        if type(record) is not dict:
            return Refused(
                422, f"{wanted.where}: row {row} is {_kind(record)}, and a record is an object"
            )
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
    for name in own or table:  # where all is shared, the others say how many rows there are
        if type(table[name]) is not list:
            kind = _kind(table[name])
            raise Refused(422, f"{where}: column {_quoted(name)} is {kind}, not a list")
        lengths[name] = len(table[name])
    first, count = next(iter(lengths.items()), ("", 0))
    for name, length in lengths.items():
        if length != count:
            raise Refused(
                422,
                f"{where}: column {_quoted(name)} has {length:,} values, and {_quoted(first)} has "
                f"{count:,}: every column has one a row",
            )
    _check_count(count, most)
    extra = set() if len(table) == len(own) else table.keys() - set(own)
    return count, {name: table[name] for name in own}, extra


def _check_count(rows: int, most: int) -> None:
    if not rows:
        raise Refused(422, "no rows to score")
    if rows > most:
        raise Refused(
            413,
            f"{rows:,} rows, and a request may have {most:,}: send several requests, or score a "
            "file with `polyrank predict`",
        )


def _top_k(given: Mapping[str, Any]) -> int | None:
    if "top_k" not in given:
        return None
    value = given["top_k"]
    if type(value) is not int or value < 1:
        shown = str(value)[:20] if type(value) in (int, float) else _kind(value)
        raise Refused(422, f"top_k: a whole number of at least 1 is expected, however: {shown}")
    return value


def _kind(value: Any) -> str:
    return _KINDS[type(value)]


def _quoted(name: str) -> str:
    return repr(name if len(name) <= _NAME_LETTERS else name[:_NAME_LETTERS] + "…")
