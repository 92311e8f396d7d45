"""The probability of a logit."""

import numpy as np
import pytest
import torch

from polyrank.labels import Binary
from polyrank.labels.binary import sigmoid
from polyrank.objective.binary import BinaryLikelihood


def probability(logits):
    (found,) = BinaryLikelihood(Binary(), {}).predict(torch.as_tensor(logits), {})
    return found.numpy()


def test_rows_of_one_logit_have_one_probability_wherever_they_stand():
    """Else ties of an AUC are broken by the place in a batch."""
    logits = np.random.default_rng(0).normal(size=500) * 3
    found = probability(np.repeat(logits, 1003)).reshape(500, 1003)
    assert (found == found[:, :1]).all()


@pytest.mark.parametrize("scale", [1, 30, 1000])
def test_it_is_the_sigmoid_in_both_tails(scale):
    logits = np.random.default_rng(1).normal(size=10_001) * scale
    np.testing.assert_allclose(probability(logits), sigmoid(logits), rtol=1e-14, atol=1e-300)
    assert np.isnan(probability(np.array([np.nan]))).all()
