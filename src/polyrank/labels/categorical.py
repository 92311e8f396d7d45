"""Which one of several, without an order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from polyrank.errors import SchemaError, did_you_mean
from polyrank.labels.kind import Curvature
from polyrank.labels.values import Valued, said

Others = Literal["error", "other"]


@dataclass(frozen=True, kw_only=True)
class Categorical(Valued):
    """One of several numbers that stand for something, such as which button was pressed.

    Its outputs are a probability for each value, which add up to 1.

    Args:
        values: the numbers; by default those of the training rows.
        others: of any other number: refuse the log with an "error", or let all be one more
            category, "other", that is last and has an output of its own.

    Examples:
        >>> import polyrank as pr
        >>> from polyrank.terms import output_columns
        >>> output_columns(pr.Task("button", kind=Categorical(values=[1, 2], others="other")))
        ('p_button_1', 'p_button_2', 'p_button_other')
    """

    name = "categorical"
    likelihood = "polyrank.objective.categorical:CategoricalLikelihood"
    default_metric = "cross_entropy"
    loss_title = "log loss of the category, nats"
    curvature = "softmax"
    charts = ("categories",)
    is_average = False
    symbol = "P({} = …)"

    others: Others = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.others not in get_args(Others):
            hint = did_you_mean(str(self.others), get_args(Others))
            raise SchemaError(f"kind {self.name!r}: unknown others {self.others!r}{hint}")

    @property
    def size(self) -> int:
        """How many categories there are."""
        return len(self.known) + (self.others == "other")

    @property
    def outputs(self) -> int:
        """A logit for each category."""
        return 1 if self.is_open else self.size

    @property
    def curvatures(self) -> tuple[Curvature | None, ...]:
        """One softmax of all outputs."""
        return (self.curvature,) * self.outputs

    def question(self, output: int) -> str:
        """Return `= 2`, or `= other`."""
        return f"= {self.categories[output]}"

    @property
    def is_factor(self) -> bool:
        """Probabilities are."""
        return True

    @property
    def categories(self) -> tuple[str, ...]:
        """Their names."""
        named = tuple(f"{each:g}" for each in self.known)
        return (*named, "other") if self.others == "other" else named

    @property
    def rule(self) -> str:
        """What its label may hold, in the words of a message."""
        return "finite numbers or null" if self.others == "other" else super().rule

    def stems(self, task: str) -> tuple[str, ...]:
        """`p_button_1` and so on."""
        if self.values is None:
            return (f"p_{task}",)
        found = tuple(f"p_{task}_{said(each)}" for each in self.values)
        return (*found, f"p_{task}_other") if self.others == "other" else found

    def allows(self, values: np.ndarray) -> np.ndarray:
        """The values; any finite number if others are a category."""
        return np.isfinite(values) if self.others == "other" else super().allows(values)

    def places(self, label: np.ndarray) -> np.ndarray:
        """Return the category of each label: int64 (rows,)."""
        found = super().places(label)
        if self.others == "other":
            found = np.where(super().allows(label), found, len(self.known))
        return found
