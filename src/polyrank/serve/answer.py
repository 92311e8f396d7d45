"""What a model says of some rows, whoever runs it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of some rows.

    Args:
        outputs: the columns of `predict`: float64 (N,) each.
        unseen: ids that training did not see, by feature.
        nulls: missing values, by feature.
        ids: that were looked up and are not null, by feature; an engine counts them.
    """

    outputs: Mapping[str, np.ndarray]
    unseen: Mapping[str, int]
    nulls: Mapping[str, int]
    ids: Mapping[str, int] = field(default_factory=dict)
