"""By which columns scores are cut, and which scores those are."""

import numpy as np
import polars as pl

from polyrank.metrics.dimensions import score_segments
from polyrank.metrics.segments import columns
from polyrank.schema import DenseFeature, Schema, Task


def test_a_schema_of_regressions_has_no_segments():
    schema = Schema([DenseFeature("x")], [Task("spend", kind="regression")])
    column = {"spend": np.ones(3)}
    found = score_segments(schema, column, column, {"x": pl.Series("x", [1.0, 2.0, 3.0])})
    assert found.height == 0
    assert found.schema == {"score": pl.String, **columns()}
