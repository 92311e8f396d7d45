"""What a first stage says of single ids: the largest effects, and how far each field is shrunk.

Letters: R rows of a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

DECILES = np.arange(1, 10) / 10


@dataclass(frozen=True, kw_only=True)
class IdEffect:
    """The effect of one id on one head; a logit, or in deviations of a label that is a number.

    Args:
        id: as the log has it.
        effect: the posterior's mean.
        precision: of the posterior, all other effects given: its variance is 1 ÷ precision.
        information: the part of the precision that training rows gave; the rest is the prior's.
    """

    id: str
    effect: float
    precision: float
    information: float


@dataclass(frozen=True, kw_only=True)
class FieldEffects:
    """The effects of one field's ids on one head.

    Args:
        field: name of its slot.
        head: name of its task.
        prior: the precision of an effect before any row is seen.
        ids: how many training rows told anything of.
        deciles: of the information of these; () without any.
        largest: the largest of these effects, by size.
    """

    field: str
    head: str
    prior: float
    ids: int
    deciles: tuple[float, ...]
    largest: tuple[IdEffect, ...]

    @classmethod
    def of(
        cls,
        field: str,
        head: str,
        effect: np.ndarray,
        precision: np.ndarray,
        prior: np.floating,
        *,
        names: Callable[[np.ndarray], Sequence[str]],
        most: int,
    ) -> FieldEffects:
        """Sum up a slot of any size; only `most` of its rows get a name.

        Args:
            field: name of the slot.
            head: name of the task.
            effect: of each row.
            precision: of each row's posterior.
            prior: as float32, so that it cancels in the precision of an id that was never seen.
            names: gives the ids of some rows.
            most: how many effects to keep.

        Shape:
            effect, precision: float32 (R,)

        Examples:
            >>> effect = np.array([0, -2, 1], np.float32)
            >>> precision = np.array([4, 5, 20], np.float32)
            >>> found = FieldEffects.of("item", "click", effect, precision, np.float32(4), most=1,
            ...                         names=lambda rows: [f"item {row}" for row in rows])
            >>> found.ids, found.largest[0].id, found.largest[0].information
            (2, 'item 1', 1.0)
        """
        information = precision - prior
        told = np.flatnonzero(information > 0)
        if not len(told):
            return cls(field=field, head=head, prior=float(prior), ids=0, deciles=(), largest=())
        size = np.abs(effect[told])
        kept = min(most, len(told))
        # A whole sort of millions of ids would take longer than all other figures of a page.
        at = np.argpartition(size, len(told) - kept)[len(told) - kept :]
        rows = told[at[np.lexsort((at, -size[at]))]]
        largest = tuple(
            IdEffect(
                id=name, effect=float(effect[row]), precision=float(precision[row]),
                information=float(information[row]),
            )
            for name, row in zip(names(rows), rows, strict=True)
        )  # fmt: skip
        deciles = tuple(np.quantile(information[told].astype(np.float64), DECILES).tolist())
        return cls(
            field=field, head=head, prior=float(prior), ids=len(told), deciles=deciles,
            largest=largest,
        )  # fmt: skip

    @property
    def deviation(self) -> float:
        """The standard deviation of the prior: how far the ids differ."""
        return 1 / sqrt(self.prior)

    def kept(self, information: float) -> float:
        """Return the share of what an id's rows say that is left after shrinkage.

        Examples:
            >>> found = FieldEffects(
            ...     field="item", head="click", prior=5.0, ids=0, deciles=(), largest=())
            >>> found.kept(15.0)
            0.75
        """
        return information / (self.prior + information)
