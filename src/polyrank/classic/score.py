"""One number a label column: prediction i against column i on all rows.

Letters: N rows.
"""

from __future__ import annotations

import numpy as np

from polyrank.metrics.binary import auc
from polyrank.metrics.undefined import Undefined


def column_score(
    kind: str, label: np.ndarray, prediction: np.ndarray
) -> tuple[float | None, str | None]:
    """Return the AUC or the mean squared error, or None and the reason why there is none.

    Rows whose label is NaN are left out.

    Shape:
        both (N,)

    Example:
        >>> column_score("binary", np.array([0.0, 1.0]), np.array([0.2, 0.1]))
        (0.0, None)
        >>> column_score("regression", np.array([1.0, 3.0]), np.array([1.0, 1.0]))
        (2.0, None)
    """
    seen = ~np.isnan(label)
    if not seen.any():
        return None, "no label is observed"
    if kind == "regression":
        return float(np.mean((prediction[seen] - label[seen]) ** 2)), None
    try:
        return auc(label[seen], prediction[seen]), None
    except Undefined as reason:
        return None, str(reason)
