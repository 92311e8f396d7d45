"""The `[tune]` table: how long to search, by what to judge, and where to look."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from polyrank import spec
from polyrank.errors import ConfigError, did_you_mean

SECTIONS = ("model", "train", "features", "task")
# Of a task, what says how it is learned: all else says what the outcome is, which a search must not
# change.
OF_TASK = ("space", "hold_ancestors", "weight", "positive_weight", "debias", "ranking")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Choices:
    """Values of a key among which the search chooses.

    Examples:
        >>> Choices((16, 32)).to_table()
        [16, 32]
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ConfigError(f"a list of values needs at least two, got {list(self.values)!r}")

    def to_table(self) -> Any:
        """Return what the file says."""
        return spec.to_table(self.values)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers of a key from `low` to `high`, both included; whole ones if both are whole.

    Args:
        low: the least.
        high: the most.
        log: whether each factor counts alike, as of step sizes, rather than each difference.

    Examples:
        >>> Range(low=1e-3, high=1e-2, log=True).whole, Range(low=1, high=4).whole
        (False, True)
    """

    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        low = "low of a logarithmic range" if self.log else "low"
        spec.number(low, self.low, above=0 if self.log else None)
        spec.number("high", self.high)
        if not self.low < self.high:
            raise ConfigError(f"low must be below high, got {self.low!r} and {self.high!r}")

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def to_table(self) -> Any:
        """Return what the file says."""
        return spec.to_table(self)


Dimension = Choices | Range


@dataclass(frozen=True, kw_only=True)
class Tune:
    """A search for better settings; equals the `[tune]` table. See docs/tune.md.

    Args:
        trials: settings that are tried, each with one seed on validation rows.
        score: by which they are judged, `buy @ all`; by default that of `stop`, else the normalized
            validation loss by which `train` keeps an epoch.
        metric: of the score; by default its kind's first.
        prune: whether a trial ends early that is below the median of the others at its epoch.
        finalists: best trials that are trained again with all seeds, beside the file as it is.
        seeds: of each finalist; the best mean on validation rows wins.
        space: {"train.lr": a `Range`, `Choices` or, to leave out a default one, False}.

    Raises:
        ConfigError: a number below its least, or a key that a search must not change.

    Examples:
        >>> tune = Tune.from_table({"trials": 20, "space": {"model": {"embed_dim": [8, 16]}}})
        >>> tune.space
        {'model.embed_dim': Choices(values=(8, 16))}
        >>> Tune.from_table(tune.to_table()) == tune
        True
    """

    trials: int = 30
    score: str | None = None
    metric: str | None = None
    prune: bool = True
    finalists: int = 3
    seeds: int = 3
    space: Mapping[str, Choices | Range | Literal[False]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("trials", 2), ("finalists", 1), ("seeds", 3)):
            found = spec.whole(name, getattr(self, name), least=least)
            object.__setattr__(self, name, found)
        if self.metric is not None and self.score is None:
            raise ConfigError(f"metric {self.metric!r} is of a score: give score as well")
        for key in self.space:
            check_key(key)

    def to_table(self) -> dict[str, Any]:
        """Return the table that `from_table` reads back."""
        space = {
            key: each.to_table() if isinstance(each, Choices | Range) else False
            for key, each in self.space.items()
        }
        return spec.to_table(replace(self, space={})) | {"space": space}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Tune:
        """Read a table.

        Raises:
            ConfigError: an unknown key, or a value of a wrong type.
        """
        spec.check_keys(table, [each.name for each in fields(cls)], "tune")
        rest = {key: value for key, value in table.items() if key != "space"}
        given = table.get("space", {})
        if not isinstance(given, Mapping):
            raise ConfigError(f"tune.space: expected a table, got {given!r}")
        space = dict(_dimensions(given, ()))
        return replace(spec.from_table(cls, rest, "tune"), space=space)


def check_key(key: str) -> None:
    """Refuse a key that is none, or that says which rows or outcomes are compared."""
    path = path_of(key)
    where = f"tune.space: {key}"
    if path[0] not in SECTIONS:
        raise ConfigError(
            f"{where}: only what is learned, and how, may be searched"
            f"{did_you_mean(path[0], SECTIONS)}"
        )
    if len(path) < (3 if path[0] in ("features", "task") else 2):
        example = {"task": "task.buy.space", "features": "features.price.bins"}
        raise ConfigError(f"{where}: name a key in it, such as {example.get(path[0], 'train.lr')}")
    if path[0] == "task" and path[2] not in OF_TASK:
        raise ConfigError(
            f"{where}: a search must not change what the outcome is{did_you_mean(path[2], OF_TASK)}"
        )


def path_of(key: str) -> tuple[str, ...]:
    """Return the parts of a key of a TOML file.

    Examples:
        >>> path_of('features."my.price".bins')
        ('features', 'my.price', 'bins')
    """
    try:
        table = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        raise ConfigError(f"tune.space: {key!r} is no key such as train.lr") from None
    path = []
    while isinstance(table, dict):
        ((part, table),) = table.items()
        path.append(part)
    return tuple(path)


def key_of(path: Sequence[str]) -> str:
    """Return the key with these parts, quoted where it must be.

    Examples:
        >>> key_of(["features", "my.price", "bins"])
        'features."my.price".bins'
    """
    return ".".join(each if _BARE.fullmatch(each) else _quoted(each) for each in path)


def _quoted(part: str) -> str:
    escaped = part.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _dimensions(
    table: Mapping[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[str, Choices | Range | Literal[False]]]:
    """Yield each key of nested or dotted tables with where to look."""
    for name, value in table.items():
        # A name at the top may be a whole dotted key; below it, and as TOML nests, it is one part.
        path = path_of(name) if not above and "." in name else (*above, name)
        key = key_of(path)
        if isinstance(value, Mapping) and not {"low", "high", "log"} & value.keys():
            yield from _dimensions(value, path)
        elif isinstance(value, Mapping):
            yield key, spec.from_table(Range, value, f"tune.space: {key}")
        elif isinstance(value, list | tuple):
            try:
                yield key, Choices(tuple(value))
            except ConfigError as error:
                raise ConfigError(f"tune.space: {key}: {error}") from None
        elif value is False:
            yield key, False
        else:
            raise ConfigError(
                f"tune.space: {key}: expected a list of values, a range such as "
                f"{{ low = 0.001, high = 0.01, log = true }}, or false, got {value!r}"
            )
