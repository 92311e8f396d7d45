"""The facts of watch time: what is allowed, clipped, remarked and fitted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

import polyrank as pr
from polyrank.errors import ConfigError, SchemaError
from polyrank.labels import WatchTime
from polyrank.labels.watch_time import KNOTS, rank_in

NAN = np.nan


def float32(values):
    return np.array(values, np.float32)


def percentile_rank(values, weight=None):
    """The mean rank of each value among all, within 0 and 1, from the definition."""
    weight = np.ones(len(values)) if weight is None else weight
    below = np.array([weight[values < each].sum() for each in values])
    equal = np.array([weight[values == each].sum() for each in values])
    return (below + equal / 2) / weight.sum()


def test_options_are_refused_by_what_is_known():
    with pytest.raises(SchemaError, match=r"unknown method 'd2g'; did you mean 'd2q'\?"):
        WatchTime(method="d2g")
    with pytest.raises(SchemaError, match=r"unknown over 'drop'.*known: 'clip', 'error'"):
        WatchTime(over="drop")
    with pytest.raises(SchemaError, match=r"groups must be a whole number of at least 1, got 0"):
        WatchTime(groups=0)
    with pytest.raises(SchemaError, match=r"duration must name a column, got ''"):
        WatchTime(duration="")


def test_a_file_with_an_unknown_option_is_refused_by_its_place():
    kind = {"kind": "watch_time", "method": "d2g"}
    with pytest.raises(
        ConfigError, match=r"task.kind.method: .*'d2q', 'pcr' or 'censored', got 'd2g'"
    ):
        pr.Task.from_table({"name": "play", "kind": kind})
    with pytest.raises(ConfigError, match=r"unknown key 'length'.*known: 'duration', 'method'"):
        pr.Task.from_table({"name": "play", "kind": {"kind": "watch_time", "length": "x"}})


def test_a_task_names_it_with_its_options_in_a_file():
    table = {"name": "play", "kind": {"kind": "watch_time", "duration": "length", "method": "pcr"}}
    task = pr.Task.from_table(table)
    assert task.label_kind == WatchTime(duration="length", method="pcr")
    assert pr.Task.from_table(task.to_table()) == task
    assert pr.Task("play", kind="watch_time").label_kind == WatchTime()


def test_play_above_a_known_duration_is_clipped():
    kind = WatchTime()
    label, duration = float32([5, 5, 5, 5, NAN, 3]), float32([4, 0, NAN, -1, 4, 4])
    observed = kind.observed(label, {"duration": duration})
    np.testing.assert_array_equal(observed, [4, 5, 5, 5, NAN, 3])


def test_remarks_count_loops_and_unknown_durations_of_observed_labels():
    label, duration = float32([5, 5, 5, NAN, NAN, 4]), float32([4, 0, NAN, 0, 4, 4])
    above, unknown = WatchTime(over="error").remarks(label, {"duration": duration})
    assert (above.check, above.rows.tolist()) == ("above-duration", [True, *[False] * 5])
    assert above.refused
    assert not unknown.refused
    assert unknown.rows.tolist() == [False, True, True, False, False, False]
    assert not WatchTime().remarks(label, {"duration": duration})[0].refused


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_groups_have_equally_many_rows_where_durations_differ(seed, groups):
    rng = np.random.default_rng(seed)
    duration = float32(rng.permutation(np.arange(1, 71)))
    kind = WatchTime(groups=groups)
    fitted = kind.fit(rng.uniform(0, 1, 70), np.ones(70), {"duration": duration})
    found = kind.row_groups(fitted, {"duration": duration})
    counts = np.bincount(found.codes, minlength=len(found.names))
    assert counts[0] == 0
    assert len(found.names) == groups + 1
    assert counts[1:].min() >= 70 // groups
    assert counts.max() <= -(-70 // groups)


def test_groups_are_named_by_their_durations_the_unknown_first():
    kind = WatchTime(groups=3)
    duration = float32([1, 2, 3, 4, 5, 6, 0])
    fitted = kind.fit(np.ones(7), np.ones(7), {"duration": duration})
    found = kind.row_groups(fitted, {"duration": float32([0, NAN, 2, 2.5, 4, 99])})
    assert found.title == "duration"
    assert found.names == ("unknown", "≤ 2", "2 – 4", "> 4")
    assert found.codes.tolist() == [0, 0, 1, 2, 2, 3]


def test_one_duration_is_one_group_and_none_at_all_is_none():
    for duration, names in (([7, 7, 7], ("unknown", "known")), ([0, NAN, 0], ("unknown", "known"))):
        fitted = WatchTime().fit(np.ones(3), np.ones(3), {"duration": float32(duration)})
        assert fitted["edges"] == []
        assert WatchTime().row_groups(fitted, {"duration": float32([1])}).names == names


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 40, 1000, 100_000]))
def test_ranks_are_percentile_ranks_of_the_training_rows(seed, values):
    """Ties have their mean rank; of more rows than knots it is linear between two of them."""
    rng = np.random.default_rng(seed)
    label = float32(rng.integers(0, values, 300)).astype(np.float64)
    weight = rng.integers(1, 4, 300).astype(np.float64)
    duration = float32(np.full(300, 2.0 * values))
    fitted = WatchTime(groups=1).fit(label, weight, {"duration": duration})
    knots = np.array(fitted["quantiles"])
    found = rank_in(knots, np.ones(300, np.int64), label)
    np.testing.assert_allclose(found, percentile_rank(label, weight), atol=2 / (KNOTS - 1))
    order = np.argsort(label, kind="stable")
    assert (np.diff(found[order]) >= 0).all()


def test_values_outside_the_training_rows_have_the_first_and_the_last_rank():
    knots = np.linspace(2, 3, KNOTS)[None]
    np.testing.assert_allclose(rank_in(knots, np.zeros(2, np.int64), np.array([0.0, 9.0])), [0, 1])


def test_a_row_of_weight_zero_is_no_row():
    rng = np.random.default_rng(3)
    label, duration = rng.uniform(0, 9, 60), float32(rng.uniform(9, 12, 60))
    weight = (np.arange(60) % 2).astype(np.float64)
    for method in ("d2q", "pcr", "censored"):
        kind, odd = WatchTime(method=method, groups=3), weight > 0
        one = kind.fit(label, weight, {"duration": duration})
        assert one == kind.fit(label[odd], weight[odd], {"duration": duration[odd]})


def test_unknown_durations_are_a_group_and_their_longest_time_stands_for_the_duration():
    kind = WatchTime(groups=1)
    label = np.array([1.0, 2.0, 30.0, 50.0])
    fitted = kind.fit(label, np.ones(4), {"duration": float32([4, 4, 0, NAN])})
    assert fitted["unknown"] == 50
    assert (fitted["quantiles"][0][0], fitted["quantiles"][0][-1]) == (30, 50)
    assert (fitted["quantiles"][1][0], fitted["quantiles"][1][-1]) == (1, 2)


def test_without_unknown_durations_all_training_rows_answer_for_them():
    kind = WatchTime(groups=1)
    fitted = kind.fit(np.array([1.0, 2.0]), np.ones(2), {"duration": float32([4, 6])})
    assert fitted["unknown"] == 5
    assert fitted["quantiles"][0] == fitted["quantiles"][1]


@pytest.mark.parametrize("method", ["d2q", "pcr"])
def test_a_share_is_standardised_on_the_training_rows(method):
    rng = np.random.default_rng(5)
    label, duration = rng.uniform(0, 9, 400), float32(rng.uniform(3, 12, 400))
    kind, weight = WatchTime(method=method, groups=4), rng.uniform(0.5, 2, 400)
    label = np.minimum(label, duration).astype(np.float64)
    fitted = kind.fit(label, weight, {"duration": duration})
    if method == "pcr":
        share = label / duration
    else:
        group = kind.row_groups(fitted, {"duration": duration}).codes
        share = rank_in(np.array(fitted["quantiles"]), group, label)
    mean = np.average(share, weights=weight)
    assert fitted["mean"] == pytest.approx(mean)
    deviation = np.average((share - mean) ** 2, weights=weight) ** 0.5
    assert fitted["deviation"] == pytest.approx(deviation)
    assert fitted["constant_loss"] == pytest.approx(1)
    none = kind.fit(np.zeros(3), np.ones(3), {"duration": duration[:3]})
    assert (none["deviation"], none["constant_loss"]) == (1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_censored_constant_is_the_most_likely_one(seed):
    rng = np.random.default_rng(seed)
    duration = float32(rng.uniform(1, 60, 1500))
    latent = 20 * np.expm1(rng.normal(0.6, 1.0, 1500))
    label = float32(np.clip(latent, 0, duration)).astype(np.float64)
    weight = rng.uniform(0.5, 2, 1500)
    fitted = WatchTime(method="censored").fit(label, weight, {"duration": duration})
    y, end = np.log1p(label / fitted["scale"]), np.log1p(duration / fitted["scale"])

    def loss(parameters, unit=fitted["deviation"]):
        mean, deviation = parameters[0], np.exp(parameters[1])
        seen = -stats.norm.logpdf(y, mean, deviation) - np.log(unit)
        above = -stats.norm.logsf((end - mean) / deviation)
        none = -stats.norm.logcdf(-mean / deviation)
        losses = np.where(label >= duration, above, np.where(label <= 0, none, seen))
        return np.average(losses, weights=weight)

    best = optimize.minimize(loss, [0.0, 0.0], method="BFGS")
    assert fitted["mean"] == pytest.approx(best.x[0], abs=2e-3)
    assert fitted["deviation"] == pytest.approx(np.exp(best.x[1]), rel=2e-3)
    assert fitted["constant_loss"] == pytest.approx(best.fun, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 3.0, 9.0])
def test_a_censored_constant_of_equal_labels_is_finite(value):
    duration = float32([9, 9, 9])
    fitted = WatchTime(method="censored").fit(np.full(3, value), np.ones(3), {"duration": duration})
    assert np.isfinite([fitted[name] for name in ("scale", "mean", "deviation")]).all()
    assert fitted["deviation"] > 0
    assert np.isfinite(fitted["constant_loss"])


@pytest.mark.parametrize("method", ["d2q", "pcr", "censored"])
def test_no_rows_at_all_fit_something_finite(method):
    empty = np.empty(0)
    fitted = WatchTime(method=method).fit(empty, empty, {"duration": float32([])})
    assert (fitted["edges"], fitted["unknown"], fitted["constant_loss"]) == ([], 1.0, 0.0)
