"""The pieces of the twin against what they stand for, bit for bit."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyrank.calibration import Isotonic
from polyrank.serve.export.twin import Knots

LOGITS = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1e-300, 700.0, -800.0])


# A slope of a map is a finite number: knots are float32 logits and at least 1e-6 apart.
PLACES = st.integers(-50_000_000, 50_000_000).map(lambda each: each / 1e6)
KNOTS = st.lists(PLACES, min_size=1, max_size=12, unique=True).map(sorted)


@given(KNOTS, st.data())
def test_knots_are_those_of_isotonic(x, data):
    steps = st.lists(st.floats(1e-3, 10), min_size=len(x), max_size=len(x))
    y = np.cumsum(data.draw(steps))
    found = Isotonic(tuple(x), tuple(y.tolist()))
    z = np.array([*data.draw(st.lists(LOGITS)), *x, x[0] - 1, x[-1] + 1])
    expected = found.apply(z)
    np.testing.assert_allclose(Knots(found)(torch.from_numpy(z)).numpy(), expected, 1e-12, 1e-12)
