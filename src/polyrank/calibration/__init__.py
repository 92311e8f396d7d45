"""Maps of predictions, chosen on validation rows: one map per file."""

from __future__ import annotations

from polyrank.calibration.conformal import Conformal
from polyrank.calibration.isotonic import Isotonic
from polyrank.calibration.isotonic_mean import IsotonicMean
from polyrank.calibration.map import CalibrationMap
from polyrank.calibration.platt import Platt
from polyrank.registry import Registry

# In the order in which they are compared.
MAPS: Registry[type[CalibrationMap]] = Registry(
    "calibration",
    {each.name: each for each in (Platt, Isotonic, IsotonicMean, Conformal)},
)

__all__ = ["MAPS", "CalibrationMap", "Conformal", "Isotonic", "IsotonicMean", "Platt"]
