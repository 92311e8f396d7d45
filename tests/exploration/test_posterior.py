"""What is drawn from the posterior has the mean probability that is served."""

import numpy as np
import pytest

from polyrank.exploration.posterior import centre, deviation

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)


@pytest.mark.parametrize("z", [-6.0, -4.0, -1.5, 0.0, 2.5])
@pytest.mark.parametrize("sd", [0.0, 0.1, 0.5, 1.0])
def test_the_mean_probability_of_the_posterior_is_the_one_that_is_served(z, sd):
    drawn = 1 / (1 + np.exp(-(centre(np.array(z), np.array(sd)) + sd * NODES)))
    mean = WEIGHTS @ drawn / WEIGHTS.sum()
    # A term of sd⁴ is left out; without the centre, −6 with a deviation of 1 would be at −5.5.
    assert np.log(mean / (1 - mean)) == pytest.approx(z, abs=0.05 * sd**4 + 1e-9)


def test_the_deviation_undoes_the_attenuation_of_a_variance():
    true = np.array([0.01, 0.1, 0.5])
    found = deviation(true / (1 + np.pi / 8 * true)) ** 2
    # To first order: what is left is about (π/8)²·V³.
    assert (found <= true).all()
    assert (true - found <= (np.pi / 8) ** 2 * true**3).all()
