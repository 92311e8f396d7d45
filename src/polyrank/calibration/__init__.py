"""Maps of logits, chosen on validation rows: one map per file."""

from __future__ import annotations

from polyrank.calibration.isotonic import Isotonic
from polyrank.calibration.map import CalibrationMap
from polyrank.calibration.platt import Platt
from polyrank.registry import Registry

# In the order in which they are compared.
MAPS: Registry[type[CalibrationMap]] = Registry(
    "calibration", {"platt": Platt, "isotonic": Isotonic}
)

__all__ = ["MAPS", "CalibrationMap", "Isotonic", "Platt"]
