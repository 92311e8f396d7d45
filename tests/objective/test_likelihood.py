"""Log-probabilities of paths against a plain float64 reference."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyrank.objective.likelihood import log_outcomes, log_union
from polyrank.schema import DenseFeature, Schema, Task

LOGITS = st.lists(st.floats(-80, 80), min_size=1, max_size=4)


def chain(depth):
    """A funnel of tasks t0 → t1 → …, and the term of its last one on all rows."""
    tasks = [Task(f"t{i}", given=f"t{i - 1}" if i else None, space="all") for i in range(depth)]
    return list(Schema([DenseFeature("x")], tasks).objective)[-1]


def log_probability(paths, logits):
    return log_union(paths, log_outcomes(logits, list(logits)))


def tensors(values, dtype=torch.float32):
    return {
        f"t{i}": torch.tensor([value], dtype=dtype, requires_grad=True)
        for i, value in enumerate(values)
    }


def reference(values):
    """log p and log(1 − p) of a product of sigmoids, accurate in float64 at either end."""
    log_p = -sum(np.logaddexp(0.0, -np.float64(np.float32(value))) for value in values)
    return log_p, np.log(-np.expm1(log_p))


@given(LOGITS)
def test_product_and_complement_equal_float64(values):
    term, logits = chain(len(values)), tensors(values)
    log_p, log_not_p = reference(values)
    assert log_probability(term.yes, logits).item() == pytest.approx(log_p, rel=1e-5, abs=1e-5)
    assert log_probability(term.no, logits).item() == pytest.approx(log_not_p, rel=1e-5, abs=1e-5)


@given(LOGITS, st.sampled_from([0.0, 1.0]))
def test_gradients_equal_float64(values, label):
    """d/dz of −log p is −σ(−z); d/dz of −log(1−p) is p/(1−p)·σ(−z)."""
    term, logits = chain(len(values)), tensors(values)
    loss = -log_probability(term.yes if label else term.no, logits)
    loss.backward()
    log_p, log_not_p = reference(values)
    factor = -1.0 if label else np.exp(log_p - log_not_p)
    for name, value in zip(logits, values, strict=True):
        slope = factor * np.exp(-np.logaddexp(0.0, np.float64(np.float32(value))))
        assert logits[name].grad.item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_the_gradient_survives_where_the_product_underflows():
    logits = tensors([-40.0, -70.0])
    (-log_probability(chain(2).yes, logits)).backward()
    assert logits["t0"].grad.item() == pytest.approx(-1)
    assert logits["t1"].grad.item() == pytest.approx(-1)

    product = tensors([-40.0, -70.0])
    p = torch.sigmoid(product["t0"]) * torch.sigmoid(product["t1"])
    torch.nn.functional.binary_cross_entropy(p, torch.ones(1)).backward()
    assert abs(product["t0"].grad.item()) < 1e-30


def test_a_branching_event_is_a_sum_of_products():
    """P(a and exactly one of b, c) as two disjoint paths."""
    paths = (
        (("a", True), ("b", True), ("c", False)),
        (("a", True), ("b", False), ("c", True)),
    )
    logits = {name: torch.tensor([0.3 * i - 0.2]) for i, name in enumerate("abc")}
    a, b, c = (torch.sigmoid(logits[name]).item() for name in "abc")
    expected = a * (b * (1 - c) + (1 - b) * c)
    assert log_probability(paths, logits).exp().item() == pytest.approx(expected, rel=1e-6)
