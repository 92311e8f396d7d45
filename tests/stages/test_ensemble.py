"""Our trees give LightGBM's sums, bit for bit, whatever lies on a threshold."""

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.errors import BundleError
from polyrank.stages.ensemble import ZERO, Ensemble, rounded_down

TINY = [0.0, -0.0, 1e-36, -1e-36, float(ZERO), -float(ZERO), 2e-35, -2e-35, 1e-45]


def grown(seed, *, missing=True, rounds=12, rows=400, regression=False):
    """A matrix with categories, numbers that collide, tiny numbers and NaN; and a booster of it."""
    rng = np.random.default_rng(seed)
    x = np.empty((rows, 5), np.float32)
    x[:, 0] = rng.integers(0, 40, rows)  # more than one word of categories
    x[:, 1] = rng.integers(0, 3, rows)
    x[:, 2] = rng.normal(size=rows).round(1)
    x[:, 3] = rng.choice([*TINY, 1.0, -1.0], rows)
    x[:, 4] = rng.lognormal(0, 20, rows)
    if missing:
        x[rng.random(rows) < 0.2, 2] = np.nan
        x[rng.random(rows) < 0.2, 4] = np.nan
    effect = rng.normal(size=40)[x[:, 0].astype(int)] + (x[:, 3] > 0) + np.nan_to_num(x[:, 2])
    effect += 2 * np.isnan(x[:, 4])
    label = effect if regression else (effect + rng.logistic(size=rows) > 0).astype(float)
    parameters = {
        "objective": "regression" if regression else "binary", "num_leaves": 9, "verbosity": -1,
        "min_data_in_leaf": 3, "min_data_per_group": 5, "learning_rate": 0.3, "seed": seed,
    }  # fmt: skip
    data = lightgbm.Dataset(x, label, categorical_feature=[0, 1], params=parameters)
    return x, lightgbm.train(parameters, data, rounds)


def near(x, ensemble, rng):
    """Rows on and beside every threshold, tiny ones, and what training has not seen."""
    y = x[rng.integers(0, len(x), 1500)].copy()
    for node in np.flatnonzero(ensemble.first < 0):
        at, threshold = ensemble.columns[node], ensemble.thresholds[node]
        around = [threshold, np.nextafter(threshold, np.float32(np.inf)),
                  np.nextafter(threshold, np.float32(-np.inf))]  # fmt: skip
        y[rng.integers(0, len(y), 3), at] = around
    for at in (2, 3, 4):
        y[rng.integers(0, len(y), 60), at] = np.nan
        y[rng.integers(0, len(y), 60), at] = rng.choice(TINY, 60)
        y[rng.integers(0, len(y), 4), at] = [3.4e38, -3.4e38, 1e-40, -1e-40]
    for at in (0, 1):
        y[rng.integers(0, len(y), 40), at] = rng.choice([0, 3, 31, 32, 39, 40, 63, 64, 65535], 40)
    return y


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("regression", [True, False])
def test_the_sums_are_those_of_lightgbm(missing, regression):
    for seed in range(4):
        x, booster = grown(seed, missing=missing, regression=regression)
        ensemble = Ensemble.read(booster.model_to_string())
        assert (ensemble.first >= 0).any()
        assert (ensemble.first < 0).any()
        rows = near(x, ensemble, np.random.default_rng(seed))
        for each in (x, rows):
            expected = booster.predict(each, raw_score=True)
            np.testing.assert_array_equal(ensemble.margins(each), expected)


@settings(max_examples=300)
@given(
    st.floats(-3.4e38, 3.4e38) | st.sampled_from([*TINY, 1e300, -1e300, 0.1]),
    st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(TINY),
)
def test_a_rounded_threshold_parts_float32_as_lightgbm_does(threshold, value):
    found = rounded_down(np.array([threshold]))[0]
    number = np.float32(value)
    with np.errstate(over="ignore"):  # after the largest number comes infinity
        after = np.nextafter(number, np.float32(np.inf))
    # LightGBM reads a float32 as a double, and 0 for all that is at most as large as ZERO.
    for each in (number, after, found):
        read = 0.0 if abs(each) <= ZERO else float(each)
        assert (each <= found) == (read <= threshold)


def test_a_constant_is_a_model_that_lightgbm_reads():
    ensemble = Ensemble.constant(-1.25, 3)
    x = np.zeros((4, 3), np.float32)
    np.testing.assert_array_equal(ensemble.margins(x), np.full(4, -1.25))
    booster = lightgbm.Booster(model_str=ensemble.text)
    np.testing.assert_array_equal(booster.predict(x, raw_score=True), np.full(4, -1.25))
    assert (ensemble.trees, ensemble.bias, ensemble.gain()) == (1, -1.25, {})


def test_gains_are_those_of_lightgbm():
    _, booster = grown(0)
    gains = Ensemble.read(booster.model_to_string()).gain()
    expected = booster.feature_importance("gain")
    found = [gains.get(at, 0.0) for at in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # the text has 6 digits of each split


def test_members_are_the_categories_of_the_text():
    _, booster = grown(1)
    ensemble = Ensemble.read(booster.model_to_string())
    node = int(np.flatnonzero(ensemble.first >= 0)[0])
    tables = booster.trees_to_dataframe()
    texts = set(tables.loc[tables["decision_type"] == "==", "threshold"])
    assert "||".join(map(str, ensemble.members(node))) in texts


def test_float64_is_refused():
    with pytest.raises(TypeError, match="trees read float32, got float64"):
        Ensemble.constant(0.0, 1).margins(np.zeros((1, 1)))


def test_damaged_texts_are_refused():
    _, booster = grown(0, rounds=2)
    text = booster.model_to_string()
    for bad, message in {
        "": "no LightGBM model of version v4",
        text.replace("version=v4", "version=v5"): "no LightGBM model of version v4",
        text[:900]: "is cut off",
        text.replace("threshold=", "thresholds="): "cannot be read: KeyError",
        text.replace("is_linear=0", "is_linear=1"): "linear models",
        text.replace("left_child=1", "left_child=x"): "cannot be read: ValueError",
    }.items():
        with pytest.raises(BundleError, match=message):
            Ensemble.read(bad)
