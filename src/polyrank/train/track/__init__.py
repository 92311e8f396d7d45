"""Trackers: where others look at runs while they train. One file a tracker."""

from __future__ import annotations

from polyrank.registry import Registry
from polyrank.train.track.tracker import (
    Tracked,
    Tracker,
    Tracking,
    check_tracker,
    tracked,
    tracker_of,
)

TRACKERS: Registry[type[Tracker]] = Registry(
    "tracker",
    {
        "tensorboard": "polyrank.train.track.tensorboard:TensorBoard",
        "mlflow": "polyrank.train.track.mlflow:MLflow",
    },
)

__all__ = ["TRACKERS", "Tracked", "Tracker", "Tracking", "check_tracker", "tracked", "tracker_of"]
