"""Which model answers: shares of the traffic by a hash of a key, and models that only look on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import polars as pl

from polyrank.errors import ConfigError, did_you_mean
from polyrank.features.hashing import stable64
from polyrank.features.ids import plain_ids
from polyrank.serve.app.limits import Refused
from polyrank.serve.app.models import Models
from polyrank.serve.app.request import json_type


@dataclass(frozen=True, kw_only=True)
class Split:
    """How the requests of `POST /v1/score` are shared out.

    Args:
        shares: the share of each model but the first, which answers the rest.
        by: the column whose hash decides, so that a user always gets one model.
        shadows: models that score a request too, once it is answered; nobody waits for them.

    Examples:
        >>> split = Split(shares={"new": 0.1}, by="user")
        >>> sum(split.chosen(user) == "new" for user in range(1_000))
        111
        >>> split.chosen(7) == split.chosen("7") == split.chosen(7.0)
        True
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    by: str | None = None
    shadows: Sequence[str] = ()

    @classmethod
    def of(
        cls, models: Models, shares: Sequence[str], by: str | None, shadows: Sequence[str]
    ) -> Split:
        """Return the split of command-line options, checked; the key is the user's unless given.

        Raises:
            ConfigError: a model that is not there, a share that is none, or nothing to split by.
        """
        found: dict[str, float] = {}
        for each in shares:
            name, equals, text = each.rpartition("=")
            try:
                share = float(text)
            except ValueError:
                share = 0.0
            if not equals or not 0 < share < 1:
                raise ConfigError(
                    f"a share must be NAME=SHARE with a share above 0 and below 1, got {each!r}"
                )
            found[name] = share
        first = models.first.name
        for name in (*found, *shadows):
            if name not in models:
                raise ConfigError(f"no model {name!r} is served{did_you_mean(name, models)}")
            if name == first:
                raise ConfigError(
                    f"model {name!r} is the first: it answers what no share gives to others"
                )
            if name in found and name in shadows:
                raise ConfigError(f"model {name!r} has a share and is a shadow: choose one of them")
        if (total := sum(found.values())) > 1:
            raise ConfigError(f"the shares must add up to 1 at most, got {total:g}")
        if not found:
            if by is not None:
                raise ConfigError(f"nothing is split by {by!r}: give a model a share")
            return cls(shadows=tuple(shadows))
        by = by or models.first.current.engine.schema.keys.user
        if by is None:
            raise ConfigError(
                f"the schema of {first!r} has no user key: name the column to split the traffic by"
            )
        return cls(shares=found, by=by, shadows=tuple(shadows))

    def chosen(self, key: Any) -> str | None:
        """Return the model of a key by its share, or None for the first; null has the first.

        The hash is that of ids: 7, 7.0 and "7" are one key. It is salted with the names that have
        shares, so that the users of one experiment are no group in the next, and a share that is
        raised keeps its users.
        """
        if isinstance(key, int) and abs(key) >= 2**63:
            key = str(key)
        plain = plain_ids(pl.Series([key]))
        if plain.null_count():
            return None
        salt = "\0".join(self.shares).encode()
        hashed = blake2b(stable64(plain).tobytes() + salt, digest_size=8).digest()
        place, start = int.from_bytes(hashed, "little") / 2**64, 0.0
        for name, share in self.shares.items():
            if start <= place < (start := start + share):
                return name
        return None

    def model(self, given: Any) -> str | None:
        """Return the model of a parsed body, or None for the first.

        What is no request is the first's too, whose scorer says why.

        Raises:
            Refused: rows without the key, or with more than one, or a key that is no id.
        """
        if self.by is None or type(given) is not dict:
            return None
        context, rows = given.get("context"), given.get("rows", given.get("candidates"))
        if type(context) is dict and self.by in context:
            keys = [context[self.by]]
        elif type(rows) is dict:
            keys = rows.get(self.by, [])
        elif type(rows) is list and all(type(each) is dict for each in rows):
            keys = [each[self.by] for each in rows if self.by in each]
            keys = keys if len(keys) == len(rows) else []
        else:
            return None
        if type(keys) is not list or not keys:
            raise Refused(
                f"column {self.by!r} is missing, and a hash of it chooses the model: send it in "
                "the context or in every row, null where there is none"
            )
        for key in keys:
            if not isinstance(key, str | int | float | None):
                raise Refused(
                    f"column {self.by!r} chooses the model: it must be a text or a number, got "
                    f"{json_type(key)}"
                )
            if key != keys[0]:
                raise Refused(
                    f"column {self.by!r} chooses the model, and the rows have more than one value "
                    "of it: send a request for each"
                )
        return self.chosen(keys[0])
