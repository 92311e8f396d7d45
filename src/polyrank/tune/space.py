"""Where to look: the default space of an experiment, and a space checked against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from polyrank.errors import ConfigError, PolyrankError, did_you_mean
from polyrank.schema import Schema
from polyrank.tune.spec import Choices, Dimension, Range, Tune, key_of, path_of

# {key: value} → the tables of the experiment with these changes, every default shown
Changed = Callable[[Mapping[str, Any]], Mapping[str, Any]]

# What moved validation losses of several logs in benchmarks/quality_tune.py (docs/evidence.md): how
# tasks share and how wide, the interaction, the dropouts, the step size, and how strongly
# embeddings are held. Wide rows are not among them: they gain nearly everywhere, and where
# validation rows said otherwise, test rows did not agree.
BOTTOMS = tuple({"kind": "shared_bottom", "hidden": [width]} for width in (64, 128, 256))
EXPERTS = (
    {"kind": "mmoe", "experts": 4, "hidden": [64]},
    {"kind": "mmoe", "experts": 8, "hidden": [128]},
    {"kind": "ple", "levels": 1, "hidden": [64]},
)
INTERACTIONS = (False, {"kind": "cross", "rank": 32}, {"kind": "dcnv2"})


def default_space(schema: Schema) -> dict[str, Dimension]:
    """Return the space that is searched unless a file says otherwise.

    Trees are in it where there are numbers that they could split by, and LightGBM.
    """
    several = len(schema.tasks) > 1
    found: dict[str, Dimension] = {
        "model.trunk": Choices((*BOTTOMS, *(EXPERTS if several else ()))),
        "model.interaction": Choices(INTERACTIONS),
        "model.embed_dim": Choices((8, 16, 32)),
        "model.dropout": Range(low=0.0, high=0.5),
        "model.field_dropout": Range(low=0.0, high=0.4),
        "train.lr": Range(low=1e-3, high=1e-2, log=True),
        "train.embeddings.prior": Range(low=0.3, high=30.0, log=True),
        "train.embeddings.decay": Range(low=0.2, high=20.0, log=True),
    }
    if schema.dense and find_spec("lightgbm") is not None:
        found["model.trees"] = Choices((False, {}))
    return found


@dataclass(frozen=True)
class Searched:
    """One key of a space, as this experiment has it.

    Args:
        key: of the file.
        where: values to choose among, with every option shown, or a range.
        own: the value of the file as it is; None where it has none.
    """

    key: str
    where: Dimension
    own: Any

    @property
    def has_own(self) -> bool:
        """Whether the file's own value is one that the search can choose."""
        if isinstance(self.where, Choices):
            return self.own in self.where.values
        number = isinstance(self.own, int | float) and not isinstance(self.own, bool)
        return number and self.where.low <= self.own <= self.where.high


def searched(tune: Tune, schema: Schema, changed: Changed) -> tuple[Searched, ...]:
    """Return the space of an experiment: the default one with the changes of `[tune]`.

    Every value, and both ends of every range, are tried in the experiment first.

    Raises:
        ConfigError: a key that it lacks, a value that it refuses, or nothing left to search.
    """
    as_given = changed({})
    default = {
        key: each
        for key, each in default_space(schema).items()
        if found_at(as_given, key) is not None
    }
    merged = {key_of(path_of(key)): each for key, each in {**default, **tune.space}.items()}
    found = []
    for key, where in merged.items():
        if where is False:
            continue
        values = where.values if isinstance(where, Choices) else (where.low, where.high)
        shown = []
        for value in values:
            try:
                shown.append(found_at(changed({key: value}), key))
            except PolyrankError as error:
                raise ConfigError(f"tune.space: {key} = {json.dumps(value)}: {error}") from None
        if isinstance(where, Choices):
            distinct = [each for at, each in enumerate(shown) if each not in shown[:at]]
            if len(distinct) < 2:
                raise ConfigError(f"tune.space: {key}: all values mean {json.dumps(distinct[0])}")
            where = Choices(tuple(distinct))
        found.append(Searched(key, where, found_at(as_given, key)))
    if not found:
        raise ConfigError("tune.space: every key is left out, so there is nothing to search")
    return tuple(found)


def found_at(tables: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key in the tables of an experiment; None where there is none."""
    value: Any = tables
    for part in path_of(key):
        if isinstance(value, list):
            value = {each["name"]: each for each in value if isinstance(each, Mapping)}
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def merged(tables: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of an experiment with changes; a table that is given replaces another.

    Raises:
        ConfigError: a key below what has none, such as `model.wide.folds` without wide rows.
    """
    found = deepcopy(dict(tables))
    for key in sorted(changes, key=len):  # a trunk before its width
        *above, last = path_of(key)
        inner: dict[str, Any] = found
        for at, part in enumerate(above):
            below = inner.setdefault(part, {})
            if isinstance(below, list):  # of tables with names, such as tasks
                below = {each["name"]: each for each in below}
                if above[at + 1] not in below:
                    raise ConfigError(
                        f"there is no {part} {above[at + 1]!r}{did_you_mean(above[at + 1], below)}"
                    )
            if not isinstance(below, dict):
                where = key_of(above[: at + 1])
                raise ConfigError(f"{where} is {label(below)}, which has no {last!r}")
            inner = below
        inner[last] = changes[key]
    return found


def label(value: Any) -> str:
    """Return a value of a key in few letters, as tables and axes have room.

    Examples:
        >>> label({"kind": "mmoe", "experts": 4, "hidden": [64]}), label(False), label(0.00312)
        ('mmoe experts 4 hidden 64', 'false', '0.00312')
    """
    if isinstance(value, Mapping):
        parts = [f"{name} {label(each)}" for name, each in value.items() if name != "kind"]
        return " ".join([*([value["kind"]] if "kind" in value else []), *parts])
    if isinstance(value, list | tuple):
        return "-".join(map(label, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
