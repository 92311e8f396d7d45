"""Frozen dataclasses to plain tables and back, and what a number in one may be.

A table is what `tomllib` and `json` give: dictionaries, lists, strings and numbers. Reading takes
no type for another (2.5, "3" and true are no integers; but a list is a tuple, and an integer is a
number) and refuses an unknown key with the nearest known one. Writing shows every default and
leaves out only what is None. A numpy scalar is the plain number that it holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import inf, isfinite, nan
from numbers import Integral, Real
from operator import ge, gt, le, lt
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from polyrank.errors import ConfigError, PolyrankError, did_you_mean
from polyrank.registry import Registry, resolved

KINDS = "kinds"  # in the metadata of a field: "module:attribute" of the registry of what it holds
_HOLDS = {"of at least": ge, "above": gt, "at most": le, "below": lt}


def to_table(spec: Any) -> Any:
    """Return a dataclass (or a list, a tuple, a mapping of them) as plain tables, without None."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        pairs = ((field, getattr(spec, field.name)) for field in dataclasses.fields(spec))
        return {
            field.name: chosen(resolved(field.metadata[KINDS]), value)
            if KINDS in field.metadata and not isinstance(value, str)
            else to_table(value)
            for field, value in pairs
            if value is not None
        }
    if isinstance(spec, Mapping):
        return {name: to_table(value) for name, value in spec.items() if value is not None}
    if isinstance(spec, list | tuple):
        return [to_table(value) for value in spec]
    return _without_numpy(spec)


def from_table(cls: type, table: Mapping[str, Any], where: str) -> Any:
    """Read one dataclass, and those in its fields; `where` is the table's name in messages."""
    from pydantic import TypeAdapter, ValidationError

    declared = [field for field in dataclasses.fields(cls) if field.init]
    check_keys(table, [field.name for field in declared], where)
    hints = get_type_hints(cls)
    values = {}
    for field in declared:
        if field.name in table:
            value, hint, place = table[field.name], hints[field.name], f"{where}.{field.name}"
            words = any(get_origin(each) is Literal for each in get_args(hint))
            if KINDS in field.metadata and not (words and isinstance(value, str)):
                values[field.name] = choose(resolved(field.metadata[KINDS]), value, place)
                continue
            inner = _dataclass_of(hint)
            if inner is not None and not isinstance(value, inner):
                values[field.name] = from_table(inner, value, place)
                continue
            each = _element_of(hint)
            if each is not None and isinstance(value, list | tuple):
                values[field.name] = tuple(
                    part if isinstance(part, each) else from_table(each, part, f"{place}[{index}]")
                    for index, part in enumerate(value)
                )
                continue
            try:
                values[field.name] = TypeAdapter(hint).validate_python(_plain(value), strict=True)
            except ValidationError as error:
                raise ConfigError(f"{place}: {_explained(error)}") from None
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: the key {field.name!r} is missing")
    try:
        return cls(**values)
    except PolyrankError as error:
        raise type(error)(f"{where}: {error}") from None


def check_keys(table: Mapping[str, Any], known: list[str], where: str) -> None:
    """Refuse what is no table, and the first key of `table` that is not in `known`."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: expected a table, got {table!r}")
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}")


def choose(registry: Mapping[str, type], table: Mapping[str, Any], where: str) -> Any:
    """Read the spec that a table's `kind` names in a registry."""
    if isinstance(table, Mapping) and "class" in table:
        raise ConfigError(
            f"{where}: {table['class']!r} is a class of your own, which a file cannot name: "
            "register it, or use Python"
        )
    if not isinstance(table, Mapping) or "kind" not in table:
        raise ConfigError(f"{where}: expected a table with a kind, got {table!r}")
    kind = table["kind"]
    if not isinstance(kind, str):
        raise ConfigError(f"{where}: a kind must be a string, got {kind!r}")
    if kind not in registry:
        # A file or a bundle may come from where a plugin is installed that is missing here.
        plugin = "; if a plugin adds it, install that plugin" * isinstance(registry, Registry)
        raise ConfigError(f"{where}: unknown kind {kind!r}{did_you_mean(kind, registry)}{plugin}")
    rest = {key: value for key, value in table.items() if key != "kind"}
    return from_table(registry[kind], rest, where)


def chosen(registry: Mapping[str, type], spec: Any) -> dict[str, Any]:
    """Return the table that `choose` reads back into `spec`; an unregistered one is its class."""
    for kind, cls in registry.items():
        if type(spec) is cls:
            return {"kind": kind, **to_table(spec)}
    return {"class": type(spec).__qualname__}


def whole(
    where: str,
    value: Any,
    *,
    least: int | None = 1,
    most: int | None = None,
    error: type[PolyrankError] = ConfigError,
) -> int:
    """Return a whole number, numpy's as a plain one; a boolean is none.

    The message begins with `where` and gives the limits and the value.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        found = int(value)
        if (least is None or found >= least) and (most is None or found <= most):
            return found
    limits = [] if least is None else [f"at least {least:,}"]
    limits += [] if most is None else [f"at most {most:,}"]
    of = f" of {' and '.join(limits)}" if limits else ""
    raise error(f"{where} must be a whole number{of}, got {value!r}")


def number(
    where: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    error: type[PolyrankError] = ConfigError,
) -> float:
    """Return a finite number as a float; a boolean is none.

    The message begins with `where` and gives the limits and the value.
    """
    try:
        found = float(value) if isinstance(value, Real) and not isinstance(value, bool) else nan
    except OverflowError:  # an integer beyond any float
        found = inf
    known = {"of at least": least, "above": above, "at most": most, "below": below}
    limits = {word: limit for word, limit in known.items() if limit is not None}
    if isfinite(found) and all(_HOLDS[word](found, limit) for word, limit in limits.items()):
        return found
    shown = " and ".join(f"{word} {limit:g}" for word, limit in limits.items())
    what = f"number {shown}" if limits else "finite number"
    raise error(f"{where} must be a {what}, got {value!r}")


def _dataclass_of(hint: Any) -> type | None:
    """Return the dataclass D of a field whose type is D, or D | None."""
    options = [each for each in get_args(hint) if each is not type(None)] or [hint]
    alone = len(options) == 1 and get_origin(hint) in (None, UnionType)
    return options[0] if alone and dataclasses.is_dataclass(options[0]) else None


def _element_of(hint: Any) -> type | None:
    """Return the dataclass D of a field whose type is tuple[D, ...]."""
    element = get_args(hint)[0] if get_origin(hint) is tuple else None
    return element if dataclasses.is_dataclass(element) and isinstance(element, type) else None


def _without_numpy(value: Any) -> Any:
    # numpy is not imported to recognise its scalars: they are what has no dimension.
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _plain(value: Any) -> Any:
    """Return a value with tuples for lists: files have no tuples, and our fields no lists."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(each) for each in value)
    return _without_numpy(value)


def _explained(error: Any) -> str:
    # Of the types that a value may have, what comes furthest into it is what was meant.
    places = [[part for part in each["loc"] if isinstance(part, int)] for each in error.errors()]
    deepest = max(places, key=len)
    told = [each for each, at in zip(error.errors(), places, strict=True) if at == deepest]
    first, *others = dict.fromkeys(each["msg"].replace("tuple", "list") for each in told)
    others = [each.removeprefix("Input should be ") for each in others]
    place = "".join(f"[{part}]" for part in deepest)
    return f"{place} {' or '.join([first, *others])}, got {to_table(told[0]['input'])!r}".strip()
