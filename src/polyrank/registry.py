"""Open axes: what a name in a file stands for, and how another package adds a name.

A plugin adds to an axis by a call, `register("trunk", "mine", "my_package.trunks:Mine")`. So that
the TOML file and every verb know it, the package declares an entry point in the group
`polyrank.plugins` that names the module which makes that call; the module imports no torch, and
names what does as a string. Entry points are read the first time a name is not among polyrank's
own. A bundle names kinds and never modules: loading one imports what is installed, and nothing
else.

    [project.entry-points."polyrank.plugins"]
    my_package = "my_package.polyrank_plugin"
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from polyrank.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

GROUP = "polyrank.plugins"
AXES = (
    "trunk",
    "interaction",
    "first_stage",
    "balance",
    "row_optimizer",
    "schedule",
    "feature",
    "label",
    "debias",
    "delay",
    "ranking",
    "metric",
    "calibration",
    "exploration",
    "tracker",
)
T = TypeVar("T")

_added: dict[str, dict[str, Any]] = {axis: {} for axis in AXES}
_own: dict[str, set[str]] = {axis: set() for axis in AXES}  # of the axes imported so far


def register(axis: str, name: str, what: Any) -> None:
    """Add a name to an axis, for this process.

    Args:
        axis: one of `AXES`.
        name: as files write it.
        what: the class or object, or "module:attribute", which is imported when it is needed.

    Raises:
        ConfigError: an unknown axis, or a name that stands for something else already.

    Examples:
        >>> register("balance", "mine", "my_package.balances:Mine")
        >>> unregister("balance", "mine")
    """
    if axis not in AXES:
        raise ConfigError(f"unknown axis {axis!r}{did_you_mean(axis, AXES)}")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{axis}: a name must be a non-empty string, got {name!r}")
    if name in _own[axis]:
        raise ConfigError(f"{axis} {name!r} is polyrank's own: take another name")
    if _added[axis].get(name, what) != what:
        raise ConfigError(f"{axis} {name!r} is already {_added[axis][name]!r}, got {what!r}")
    _added[axis][name] = what


def unregister(axis: str, name: str) -> None:
    """Take back what `register` added."""
    _added[axis].pop(name, None)


class Registry(Mapping[str, T], Generic[T]):
    """The kinds of one axis by name: polyrank's own, then those of plugins.

    Each is given as the thing itself or as "module:attribute".

    Examples:
        >>> squares = Registry("balance", {"sum": "builtins:sum"})
        >>> squares["sum"] is sum, "median" in squares
        (True, False)
    """

    def __init__(self, axis: str, own: Mapping[str, T | str]) -> None:
        self.axis = axis
        self._own = dict(own)
        _own[axis] |= self._own.keys()
        for name in self._own.keys() & _added[axis].keys():  # added before the axis was imported
            logger.warning("%s %r is polyrank's own: what a plugin added is not used", axis, name)
            unregister(axis, name)

    def __getitem__(self, name: str) -> T:
        return resolved(self._own[name] if name in self._own else self._plugged()[name])

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._plugged()

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (name for name in self._plugged() if name not in self._own)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _plugged(self) -> Mapping[str, Any]:
        load_plugins()
        return _added[self.axis]


def resolved(what: Any) -> Any:
    """Return what "module:attribute" names, or anything else as it is."""
    if not isinstance(what, str):
        return what
    module, _, attribute = what.partition(":")
    return getattr(import_module(module), attribute)


@cache
def load_plugins() -> None:
    """Import the installed plugins, once; one that cannot be imported is logged by name."""
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001  whatever another package raises
            message = "plugin %r cannot be loaded, so its kinds are unknown: %r"
            logger.warning(message, point.name, error)
