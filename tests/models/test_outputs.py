"""Output columns: what they are, and that a joint never exceeds its parent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.models.outputs import outputs
from polyrank.objective.kinds import sigmoid
from polyrank.schema import DenseFeature, Schema, Task

SCHEMA = Schema(
    [DenseFeature("x", encoding="standard")],
    [
        Task("spend", kind="regression", given="buy"),
        Task("buy", given="click"),
        Task("click"),
        Task("stars", kind="regression"),
    ],
)
logit = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(logit, logit), min_size=1, max_size=20))
def test_a_joint_never_exceeds_its_parent(pairs):
    click, buy = np.array(pairs, dtype=np.float32).T
    zero = np.zeros(len(pairs), dtype=np.float32)
    logits = {"click": click, "buy": buy, "spend": zero, "stars": zero}
    found = outputs(SCHEMA, logits, {"spend": (1.0, 1.0), "stars": (0.0, 1.0)})
    assert (found["p_buy"] <= found["p_click"]).all()
    assert (found["p_buy"] <= found["p_buy_given_click"]).all()
    for name in ("p_click", "p_buy", "p_buy_given_click"):
        assert ((found[name] >= 0) & (found[name] <= 1)).all()


def test_columns_come_in_task_order_and_own_units():
    logits = {
        name: np.array([value], dtype=np.float32)
        for name, value in {"click": 0.0, "buy": 1.0, "spend": 2.0, "stars": -1.0}.items()
    }
    found = outputs(SCHEMA, logits, {"spend": (100.0, 20.0), "stars": (3.0, 0.5)})
    p = 0.5 / (1 + np.exp(-1))
    assert {name: float(values[0]) for name, values in found.items()} == pytest.approx(
        {
            "spend_given_buy": 140.0,
            "spend": p * 140.0,
            "p_buy_given_click": 2 * p,
            "p_buy": p,
            "p_click": 0.5,
            "stars": 2.5,
        }
    )
    assert next(iter(found)) == "spend_given_buy"


def test_the_sigmoid_keeps_both_tails():
    x = np.array([-745.0, -40.0, 0.0, 40.0])
    np.testing.assert_allclose(sigmoid(x), np.exp(-np.logaddexp(0, -x)), rtol=1e-12)
