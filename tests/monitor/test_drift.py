"""PSI and its null against the paper's chi-square, planted drifts, and false alarms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from polyrank.monitor.drift import ALPHA, drifts, holm, p_value, psi
from polyrank.monitor.profile import Facet, Profile, bins


def test_psi_equals_its_sum_written_out():
    before, now = np.array([40, 60, 0]), np.array([10, 80, 10])
    p, q = (before + 0.5) / 101.5, (now + 0.5) / 101.5
    assert psi(before, now) == pytest.approx(sum((q - p) * np.log(q / p)), rel=1e-12)


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=8))
def test_psi_of_equal_counts_is_zero_and_symmetric_of_others(counts):
    one = np.array(counts)
    assert psi(one, one) == pytest.approx(0, abs=1e-12)
    assert psi(one, one[::-1]) == pytest.approx(psi(one[::-1], one), rel=1e-9, abs=1e-12)


def test_the_null_is_the_chi_square_of_the_paper_where_counts_are_large():
    # The p-value of 20,000 draws has a standard error of at most .0035.
    generator = np.random.default_rng(1)
    before = np.array([4000, 3000, 2000, 1000])
    for now in ([815, 590, 395, 200], [780, 640, 390, 190], [840, 600, 380, 180]):
        scale = 1 / before.sum() + 1 / sum(now)
        expected = stats.chi2.sf(float(psi(before, np.array(now))) / scale, 3)
        draws = np.mean([p_value(before, np.array(now), generator, 2000) for _ in range(10)])
        assert draws == pytest.approx(expected, abs=0.12 * expected + 0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_holm(p_values):
    found, count = holm(p_values), len(p_values)
    # Rejected at level a: the ordered ones as long as p(i) <= a / (count - i).
    for level in (0.01, 0.05, 0.2):
        rejected = 0
        for place, each in enumerate(sorted(p_values)):
            if each * (count - place) > level:
                break
            rejected += 1
        assert sum(each <= level for each in found) == rejected


def world(generator, rows):
    """Return the raw properties of rows: numbers, ids (0 unseen, -1 null), lengths, scores."""
    return {
        "price": generator.normal(size=rows),
        "age": generator.exponential(size=rows),
        "item": generator.geometric(0.05, rows),
        "length": generator.poisson(4, rows).astype(float),
        "p_click": generator.beta(2, 20, rows),
    }


def counted(rows, values):
    generator = np.random.default_rng(3)
    chosen = world(generator, rows)
    facets = []
    for name in values:
        if name == "item":
            top = list(range(1, 21))
            names = [*map(str, top), "other ids", "unseen", "null"]
            made = Facet(name=name, of="id", rows=top, categories=names, counts=[0] * 23)
        else:
            made = bins(name, "number", chosen[name])
        facets.append(made)
    return facets


def profile(rows, generator):
    values = world(generator, rows)
    facets = tuple(
        Facet(
            name=each.name, of=each.of, edges=each.edges, rows=each.rows,
            categories=each.categories, counts=each.count(values[each.name]).tolist(),
        )
        for each in counted(rows, values)
    )  # fmt: skip
    return Profile(split="valid", rows=rows, facets=facets)


def found(profile, values, seed=0):
    counts = [each.count(values[each.name]) for each in profile.facets]
    return {each.facet.name for each in drifts(profile, counts, seed=seed) if each.found}


def shift_mean(values, _):
    values["price"] += 0.3


def widen(values, _):
    values["price"] *= 1.5


def new_ids(values, _):
    values["item"][: len(values["item"]) // 20] = 0


def popularity(values, _):
    values["item"][values["item"] == 7] = 2
    values["item"][values["item"] == 5] = 1


def nulls(values, _):
    values["age"][: len(values["age"]) // 20] = np.nan


def longer_lists(values, generator):
    values["length"] += generator.integers(0, 2, len(values["length"]))


def score_shift(values, _):
    odds = values["p_click"] / (1 - values["p_click"]) * np.exp(0.4)
    values["p_click"] = odds / (1 + odds)


PLANTED = {
    shift_mean: "price", widen: "price", new_ids: "item", popularity: "item", nulls: "age",
    longer_lists: "length", score_shift: "p_click",
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_drift_is_found_and_named(plant):
    generator = np.random.default_rng(5)
    before = profile(4000, generator)
    now = world(generator, 2000)
    plant(now, generator)
    assert PLANTED[plant] in found(before, now)


def test_false_alarms_of_clean_rows_stay_below_five_percent():
    # 120 replicates: were the rate 5 %, more than 13 alarms would have a probability below .005.
    most = int(stats.binom.isf(0.005, 120, ALPHA))
    alarms = 0
    for seed in range(120):
        generator = np.random.default_rng(seed)
        before = profile(1000, generator)
        alarms += bool(found(before, world(generator, 500), seed))
    assert alarms <= most


def test_what_moved_is_named():
    facet = Facet(
        name="a", of="number", edges=[1.0], categories=["<= 1", "> 1", "missing"],
        counts=[500, 500, 0],
    )  # fmt: skip
    before = Profile(split="valid", rows=1000, facets=(facet,))
    (one,) = drifts(before, [np.array([480, 420, 100])])
    assert one.found
    assert one.moved == "missing: 0.0% at fit, 10.0% now"
