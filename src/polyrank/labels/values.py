"""Labels of a few values, of which each kind knows the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from polyrank.errors import DataError, SchemaError
from polyrank.labels.kind import LabelKind

MOST = 1_000  # values, each with an output of its own


@dataclass(frozen=True, kw_only=True)
class Valued(LabelKind):
    """A label that is one of a list of numbers; without a list, of those of the training rows.

    Args:
        values: the numbers.

    Raises:
        SchemaError: fewer than 2 values, or what is no list of distinct finite numbers.
    """

    allowed = "one of its values or null"

    values: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.values is not None:
            object.__setattr__(self, "values", self._checked(self.values))

    def _checked(self, given: Any) -> tuple[float, ...]:
        where = f"kind {self.name!r}: values"
        if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
            raise SchemaError(f"{where} must be a list of numbers, got {given!r}")
        try:
            found = np.array(given, dtype=np.float32)
        except (TypeError, ValueError):
            raise SchemaError(f"{where} must be numbers, got {list(given)!r}") from None
        if not np.isfinite(found).all() or len(np.unique(found)) != len(found):
            raise SchemaError(f"{where} must be finite and distinct, got {list(given)!r}")
        if not 2 <= len(found) <= MOST:
            raise SchemaError(f"{where} must be 2 to {MOST:,}, got {len(found):,}")
        # In float32, as a table keeps labels; whole numbers stay whole in files and names.
        plain = (float(each) for each in np.sort(found))
        return tuple(int(each) if each == int(each) else each for each in plain)

    @property
    def is_open(self) -> bool:
        """Whether the training rows are still to say which values there are."""
        return self.values is None

    def closed(self, found: np.ndarray) -> Self:
        """Return the kind with the values that training rows have, if none were given."""
        if not self.is_open:
            return self
        if not 2 <= len(found) <= MOST:
            raise DataError(
                f"kind {self.name!r} takes 2 to {MOST:,} values, and the training rows have "
                f"{len(found):,}: declare another kind, such as 'regression'"
            )
        return replace(self, values=tuple(found.tolist()))

    @property
    def known(self) -> tuple[float, ...]:
        """The values, from the lowest to the highest.

        Raises:
            SchemaError: they are not known yet.
        """
        if self.values is None:
            raise SchemaError(
                f"kind {self.name!r} has no values yet: the training rows say them, or its option "
                "`values`"
            )
        return self.values

    @property
    def size(self) -> int:
        """How many values it tells apart."""
        return len(self.known)

    @property
    def rule(self) -> str:
        """What its label may hold, in the words of a message."""
        if self.values is None:
            return "finite numbers or null"
        shown = ", ".join(f"{each:g}" for each in self.values[:8])
        more = f", … {len(self.values) - 8:,} more" if len(self.values) > 8 else ""
        return f"one of the values {shown}{more}, or null"

    def allows(self, values: np.ndarray) -> np.ndarray:
        """The values; any finite number before they are known."""
        if self.values is None:
            return np.isfinite(values)
        return np.isin(values.astype(np.float32), np.array(self.values, np.float32))

    def absent(self, label: np.ndarray) -> tuple[str, ...]:
        """Return the given values that no row has."""
        values = np.array(self.values or (), np.float32)
        found = np.isin(values, label.astype(np.float32))
        return tuple(f"{each:g}" for each in values[~found])

    def places(self, label: np.ndarray) -> np.ndarray:
        """Return the place of each label among the values: int64 (rows,).

        The label is one of them.
        """
        return np.searchsorted(np.array(self.known), label - _HALF_ULP * np.abs(label))

    def shares(self, label: np.ndarray, weight: np.ndarray) -> list[float]:
        """Return the share of each value, smoothed by one row, so that none is 0.

        The label is float64 (rows,), the weight likewise.
        """
        counts = np.bincount(self.places(label), weight, minlength=self.size)
        rows, total = int((weight > 0).sum()), counts.sum()
        found = counts / total if total > 0 else np.zeros(self.size)
        return ((found * rows + 1 / self.size) / (rows + 1)).tolist()

    def fit(
        self, label: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Return `shares` of the values."""
        return {"shares": self.shares(label, weight)}


# A label in float32 and its value in float64 may differ by a rounding.
_HALF_ULP = 2.0**-23


def said(value: float) -> str:
    """Return a number as part of a column's name.

    Examples:
        >>> said(3), said(-0.5)
        ('3', 'minus_0_5')
    """
    return f"{value:g}".replace("-", "minus_").replace(".", "_").replace("+", "")
