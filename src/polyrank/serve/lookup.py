"""Plain lists as the exported graph takes them, for a few values at a time.

A frame costs microseconds per column whatever it holds; a request of a hundred rows has a hundred
values. What the types of the values alone tell apart is looked up in plain Python and numpy by the
codec of its feature. Everything else (texts among integers, 7.0 for 7, booleans, hashes) is read
as a column of a file is, which is also what all of this is tested to be equal to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import polars as pl

from polyrank.data.arrays import from_arrays
from polyrank.errors import DataError
from polyrank.features.kind import Codec, Encoded, Feature, Together

FEW_ROWS = 1024  # from here on a column is encoded faster as it is than as a list


class Lookups:
    """What encodes columns of plain values as `Codec.read` does each of them.

    The inputs `together` are looked up at once where they are lists of such values.
    """

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        self._codecs = codecs
        kinds: dict[type[Codec], dict[str, Codec]] = {}
        for name, codec in codecs.items():
            kinds.setdefault(type(codec), {})[name] = codec
        groups = (next(iter(alike.values())).together(alike) for alike in kinds.values())
        self._groups: list[tuple[Sequence[str], Together]] = [each for each in groups if each]
        self.together = frozenset(name for names, _ in self._groups for name in names)

    def __call__(self, columns: Mapping[str, Sequence[Any] | pl.Series]) -> dict[str, Encoded]:
        """Return the inputs by name, from columns of one length."""
        found: dict[str, Encoded] = {}
        for group, look_up in self._groups:
            lists = {name: values for name in group if type(values := columns.get(name)) is list}
            if lists:
                found |= look_up(lists) or {}
        for name, values in columns.items():
            if name not in found:
                found[name] = _one(self._codecs[name], values)
        return found


def _one(codec: Codec, values: Sequence[Any] | pl.Series) -> Encoded:
    if isinstance(values, pl.Series):
        found = codec.read_values(values.to_list()) if len(values) <= FEW_ROWS else None
        return codec.read(values) if found is None else found
    found = codec.read_values(values)
    return codec.read(_column(codec.feature, values)) if found is None else found


def _column(feature: Feature, values: Sequence[Any]) -> pl.Series:
    name = feature.name
    if type(values) is list:
        _check_flat(feature, values)
    try:
        return from_arrays({name: values})[name]
    except DataError:
        kinds = sorted({type(each).__name__ for each in values if each is not None})
        raise DataError(
            f"column {name!r} must hold values of one type, got {', '.join(kinds)}: convert them, "
            "and write null where a value is missing"
        ) from None


def _check_flat(feature: Feature, values: list[Any]) -> None:
    """Refuse lists and objects where ids and numbers belong.

    A frame would refuse them too, after it has found a type for each level: those of 800 letters
    took it half a second.
    """
    kinds = set(map(type, values))
    if feature.lists:
        lists = (value for value in values if type(value) is list)
        kinds = (kinds - {list}) | set(map(type, chain.from_iterable(lists)))
    for kind, what in ((dict, "objects"), (list, "lists")):
        if kind in kinds:
            where = " in lists" if feature.lists and kind is list else ""
            raise DataError(f"feature {feature.name!r} holds {what}{where}, and {feature.expects}")
