"""Parts of a generated world: one file a part, each off by default, each with its truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from polyrank.datasets.parts.choice import Choice
from polyrank.datasets.parts.delay import Delay
from polyrank.datasets.parts.drift import Drift
from polyrank.datasets.parts.exposure import Exposure
from polyrank.datasets.parts.items import Items
from polyrank.datasets.parts.money import Money
from polyrank.datasets.parts.part import STAGES, Log, Part
from polyrank.datasets.parts.position import Position
from polyrank.datasets.parts.reactions import Reactions
from polyrank.datasets.parts.stars import Stars
from polyrank.datasets.parts.watch import Watch
from polyrank.errors import ConfigError, did_you_mean

# In the order in which those of one stage act.
PARTS: Mapping[str, type[Part]] = MappingProxyType(
    {
        each.name: each
        for each in (
            *(Drift, Position, Delay),
            *(Reactions, Stars, Items, Money, Watch, Choice),
            Exposure,
        )
    }
)


def chosen(parts: Sequence[str | Part]) -> tuple[Part, ...]:
    """Return parts, given by name or with options, in the order in which they act.

    Raises:
        ConfigError: an unknown name, with the nearest, or a part twice.

    Examples:
        >>> [each.name for each in chosen(["exposure", Position(power=0.5)])]
        ['position', 'exposure']
    """
    if isinstance(parts, str):
        parts = [parts]
    found: list[Part] = []
    for each in parts:
        if isinstance(each, str):
            if each not in PARTS:
                raise ConfigError(f"unknown part {each!r}{did_you_mean(each, PARTS)}")
            found.append(PARTS[each]())
        elif isinstance(each, Part):
            found.append(each)
        else:
            raise ConfigError(f"a part must be a name or a Part, got {each!r}")
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the part {name!r} is given twice")
    order = list(PARTS)
    return tuple(
        sorted(
            found,
            key=lambda each: (
                STAGES.index(each.stage),
                order.index(each.name) if each.name in order else len(order),
            ),
        )
    )


__all__ = [
    "PARTS",
    "Choice",
    "Delay",
    "Drift",
    "Exposure",
    "Items",
    "Log",
    "Money",
    "Part",
    "Position",
    "Reactions",
    "Stars",
    "Watch",
    "chosen",
]
