"""Output columns: what they are, and that a joint never exceeds its parent."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyrank.models.outputs import outputs
from polyrank.objective.likelihood import likelihoods
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


def columns_of(logits, spend, stars):
    """The output columns of logits, with the scales of both regressions."""
    fitted = {
        "spend": dict(zip(("mean", "deviation"), spend, strict=True)),
        "stars": dict(zip(("mean", "deviation"), stars, strict=True)),
    }
    tensors = {name: torch.from_numpy(z.astype(np.float64)) for name, z in logits.items()}
    found = outputs(SCHEMA, tensors, likelihoods(SCHEMA, fitted), {})
    return {name: values.numpy() for name, values in found.items()}


logit = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(logit, logit), min_size=1, max_size=20))
def test_a_joint_never_exceeds_its_parent(pairs):
    click, buy = np.array(pairs, dtype=np.float32).T
    zero = np.zeros(len(pairs), dtype=np.float32)
    logits = {"click": click, "buy": buy, "spend": zero, "stars": zero}
    found = columns_of(logits, (1.0, 1.0), (0.0, 1.0))
    assert (found["p_buy"] <= found["p_click"]).all()
    assert (found["p_buy"] <= found["p_buy_given_click"]).all()
    for name in ("p_click", "p_buy", "p_buy_given_click"):
        assert ((found[name] >= 0) & (found[name] <= 1)).all()


def test_columns_come_in_task_order_and_own_units():
    logits = {
        name: np.array([value], dtype=np.float32)
        for name, value in {"click": 0.0, "buy": 1.0, "spend": 2.0, "stars": -1.0}.items()
    }
    found = columns_of(logits, (100.0, 20.0), (3.0, 0.5))
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


def test_a_probability_keeps_both_tails():
    x = np.array([-700.0, -40.0, 0.0, 40.0])
    logits = {"click": x, "buy": 0 * x, "spend": 0 * x, "stars": 0 * x}
    found = columns_of(logits, (0.0, 1.0), (0.0, 1.0))["p_click"]
    np.testing.assert_allclose(found, np.exp(-np.logaddexp(0, -x)), rtol=1e-12)


@pytest.mark.parametrize("task", ["click", "buy", "spend"])
def test_a_nan_logit_is_nan_in_all_outputs_below(task):
    logits = {name: np.zeros(2) for name in SCHEMA.by_name}
    logits[task][1] = np.nan
    found = columns_of(logits, (0.0, 1.0), (0.0, 1.0))
    below = {"click": {"p_click", "p_buy", "spend"},
             "buy": {"p_buy_given_click", "p_buy", "spend"},
             "spend": {"spend_given_buy", "spend"}}  # fmt: skip
    assert {name for name, each in found.items() if np.isnan(each[1])} == below[task]
    assert not any(np.isnan(each[0]) for each in found.values())
