"""Paired differences: exact zeros, known differences, the t interval against scipy, coverage.

And in words: verdicts by direction, and what is said of chance.
"""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from polyrank.errors import ConfigError
from polyrank.metrics.binary import auc, ne
from polyrank.metrics.comparison import (
    Comparison,
    Difference,
    Group,
    Sample,
    Spread,
    over_seeds,
    paired,
    student_t,
)
from polyrank.metrics.regression import rmse

ROWS = 1500


def _log(seed=0, rows=ROWS):
    generator = np.random.default_rng(seed)
    p = generator.beta(1, 4, rows)
    return (generator.random(rows) < p).astype(float), p, generator


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_a_run_differs_from_itself_by_exactly_nothing(seed, users, weights):
    label, p, generator = _log(seed, 600)
    user = pl.Series(generator.integers(0, 150, 600)) if users else None
    weight = generator.uniform(0.5, 2, 600) if weights else None
    runs = [Sample("one", 1, p), Sample("same", 1, p.copy())]
    _, differences, absent = paired("click @ all", "binary", label, runs, user=user, weight=weight)
    assert set(absent) == (set() if users else {"gauc"})
    assert len(differences) == (4 if users else 3)
    for each in differences:
        assert (each.value, each.rows.low, each.rows.high) == (0, 0, 0)
        assert not each.significant


def test_the_value_is_the_difference_of_the_metrics():
    label, p, generator = _log()
    worse = np.clip(p + generator.normal(0, 0.1, ROWS), 0.001, 0.999)
    groups, differences, _ = paired(
        "click @ all", "binary", label, [Sample("base", 0, worse), Sample("other", 0, p)]
    )
    found = {each.metric: each for each in differences}
    assert found["auc"].value == pytest.approx(auc(label, p) - auc(label, worse))
    assert found["ne"].value == pytest.approx(ne(label, p) - ne(label, worse))
    assert found["auc"].value > 0 > found["ne"].value
    assert found["auc"].significant
    assert found["ne"].significant
    assert found["auc"].seeds is None
    assert {(each.name, each.metric) for each in groups} == {
        (name, metric) for name in ("base", "other") for metric in ("auc", "pr_auc", "ne")
    }


def test_pairing_is_narrower_than_two_intervals():
    label, p, generator = _log()
    close = np.clip(p + generator.normal(0, 0.01, ROWS), 0.001, 0.999)
    _, differences, _ = paired(
        "click @ all", "binary", label, [Sample("base", 0, p), Sample("other", 0, close)]
    )
    alone = 2 * 1.96 * 0.014  # what either AUC varies by on so many rows
    assert differences[0].rows.high - differences[0].rows.low < alone / 3


def test_the_row_interval_covers_the_difference_it_estimates():
    """AUC of p against that of p with noise, whose difference many rows give."""
    label, p, generator = _log(99, 400_000)
    blurred = p + generator.normal(0, 0.15, len(p))
    truth = auc(label, blurred) - auc(label, p)
    covered = 0
    for start in range(0, 200_000, 1000):
        rows = slice(start, start + 1000)
        runs = [Sample("p", 0, p[rows]), Sample("blurred", 0, np.clip(blurred[rows], 0, 1))]
        _, differences, _ = paired("c", "binary", label[rows], runs, replicates=60)
        covered += differences[0].rows.low <= truth <= differences[0].rows.high
    assert 0.9 < covered / 200 < 0.99


def test_the_mean_over_seeds_is_what_is_compared():
    label, p, generator = _log()
    runs = [
        Sample(name, seed, np.clip(p + generator.normal(0, noise, ROWS), 0.001, 0.999))
        for name, noise in (("base", 0.2), ("other", 0.02))
        for seed in (1, 2, 3)
    ]
    groups, differences, _ = paired("click @ all", "binary", label, runs)
    by_name = {each.name: each for each in groups if each.metric == "auc"}
    values = [auc(label, run.prediction) for run in runs]
    assert by_name["base"].values == dict(zip((1, 2, 3), values[:3], strict=True))
    assert by_name["other"].sd == pytest.approx(np.std(values[3:], ddof=1))
    expected = stats.ttest_rel(values[3:], values[:3]).confidence_interval(0.95)
    assert differences[0].value == pytest.approx(np.mean(values[3:]) - np.mean(values[:3]))
    assert (differences[0].seeds.low, differences[0].seeds.high) == pytest.approx(expected)
    assert differences[0].seeds.source == "paired seeds"


@pytest.mark.parametrize(
    ("one", "two", "pairing"),
    [
        ({1: 0.71, 2: 0.72, 3: 0.70}, {1: 0.74, 2: 0.73, 3: 0.75}, True),
        ({1: 0.71, 2: 0.72, 3: 0.70}, {4: 0.74, 5: 0.73}, False),
        ({1: 0.71, 2: 0.72}, {1: 0.74, 2: 0.73, 3: 0.7, 4: 0.8}, False),
    ],
)
def test_the_interval_over_seeds_is_students_or_welchs(one, two, pairing):
    found = over_seeds(Group("s", "auc", "a", one), Group("s", "auc", "b", two))
    a, b = list(one.values()), list(two.values())
    test = stats.ttest_rel(b, a) if pairing else stats.ttest_ind(b, a, equal_var=False)
    assert (found.low, found.high) == pytest.approx(test.confidence_interval(0.95), rel=1e-6)
    assert found.source == ("paired seeds" if pairing else "seeds")


def test_seeds_that_all_agree_have_an_interval_without_width():
    same = Group("s", "auc", "a", {1: 0.7, 2: 0.7})
    for values in ({1: 0.8, 2: 0.8}, {3: 0.8, 4: 0.8}):
        found = over_seeds(same, Group("s", "auc", "b", values))
        assert found.low == found.high == pytest.approx(0.1)


def test_one_seed_a_side_has_no_interval_over_seeds():
    two, one = Group("s", "auc", "a", {1: 0.7, 2: 0.8}), Group("s", "auc", "b", {1: 0.7})
    assert over_seeds(two, one) is None
    assert one.sd is None


@given(st.floats(1, 1000))
def test_student_t_is_scipys(freedom):
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


def test_significant_means_in_every_interval():
    """Better on these rows, by much, but one of three seeds disagrees."""
    label, p, generator = _log()
    worse = [np.clip(p + generator.normal(0, 0.15, ROWS), 0.001, 0.999) for _ in range(3)]
    runs = [Sample("base", seed, worse[seed]) for seed in range(3)]
    runs += [Sample("other", seed, each) for seed, each in enumerate([p, p, worse[0] / 2])]
    _, differences, _ = paired("click @ all", "binary", label, runs)
    first = differences[0]
    assert first.rows.excludes_zero
    assert not first.seeds.excludes_zero
    assert not first.significant


def test_seeds_that_agree_on_a_few_rows_are_not_enough():
    label = np.array([1.0] * 10 + [0.0] * 190)
    p = np.linspace(0.9, 0.1, 200)
    runs = [Sample("base", seed, p[::-1]) for seed in (1, 2)]
    runs += [Sample("other", seed, p) for seed in (1, 2)]
    _, differences, _ = paired("c", "binary", label, runs)
    assert differences[0].seeds.excludes_zero
    assert not differences[0].significant


def test_a_regression_is_compared_by_rmse():
    generator = np.random.default_rng(0)
    y = generator.normal(size=200)
    one, two = y + generator.normal(size=200), y + 0.1 * generator.normal(size=200)
    _, differences, absent = paired(
        "spend|buy @ buy", "regression", y, [Sample("a", 0, one), Sample("b", 0, two)]
    )
    assert [each.metric for each in differences] == ["rmse"]
    assert differences[0].value == pytest.approx(rmse(y, two) - rmse(y, one))
    assert differences[0].significant
    assert absent == {}


def test_too_few_positives_give_a_difference_without_an_interval():
    label = np.array([1.0] * 10 + [0.0] * 190)
    p = np.linspace(0.9, 0.1, 200)
    _, differences, _ = paired("c", "binary", label, [Sample("a", 0, p), Sample("b", 0, p[::-1])])
    assert differences[0].value < 0
    assert differences[0].rows is None
    assert differences[0].reason == "10 positives; an interval takes 50"
    assert not differences[0].significant


def test_one_class_compares_nothing_and_says_why():
    p = np.full(100, 0.5)
    groups, differences, absent = paired(
        "c", "binary", np.zeros(100), [Sample("a", 0, p), Sample("b", 0, p)]
    )
    assert (groups, differences) == ([], [])
    assert absent["auc"] == "no positive among 100 rows"
    assert absent["gauc"] == "no user key"


def test_one_name_has_groups_and_no_differences():
    label, p, _ = _log()
    groups, differences, _ = paired("c", "binary", label, [Sample("a", seed, p) for seed in (1, 2)])
    assert len(groups) == 3
    assert differences == []


def test_two_runs_of_one_name_and_seed_are_refused():
    label, p, _ = _log()
    with pytest.raises(ConfigError, match="two runs have the name 'a' and the seed 1"):
        paired("c", "binary", label, [Sample("a", 1, p), Sample("a", 1, p)])


def _comparison(*differences, names=("base", "other")):
    groups = tuple(
        Group("click @ all", metric, name, {1: 0.5}) for metric in ("auc", "ne") for name in names
    )
    return Comparison(
        "test", 100, {name: {f"runs/{name}": 1} for name in names}, {"click @ all": "binary"},
        groups, tuple(differences), {"click @ all": {"gauc": "no user key"}},
    )  # fmt: skip


def _difference(metric, low, high):
    spread = None if low is None else Spread(low, high, "rows")
    value = 0.0 if low is None else (low + high) / 2
    reason = "10 positives; an interval takes 50" if low is None else None
    return Difference("click @ all", metric, "base", "other", value, spread, None, reason)


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [
        ("auc", 0.1, 0.2, "better"),
        ("auc", -0.2, -0.1, "worse"),
        ("ne", 0.1, 0.2, "worse"),
        ("ne", -0.2, -0.1, "better"),
        ("ne", -0.1, 0.1, "not significant"),
        ("ne", 0.0, 0.0, "not significant"),
        ("auc", None, None, "too few rows"),
    ],
)
def test_a_verdict_knows_the_direction(metric, low, high, verdict):
    difference = _difference(metric, low, high)
    assert _comparison(difference).verdict(difference) == verdict


def test_nothing_significant_is_said_plainly():
    found = _comparison(_difference("auc", -0.1, 0.1), _difference("ne", -0.1, 0.1))
    assert str(found.conclusion) == (
        "no difference is significant at 95 %; 2 comparisons were made, and where nothing differs "
        "about 1 in 20 (here 0.1) looks significant by chance"
    )


def test_what_is_significant_is_counted_beside_what_chance_gives():
    found = _comparison(_difference("auc", 0.1, 0.2), _difference("ne", -0.1, 0.1))
    assert found.conclusion.startswith("1 difference is significant at 95 %; 2 comparisons were")
    found = _comparison(_difference("auc", 0.1, 0.2))
    assert "; 1 comparison was made" in found.conclusion


def test_without_intervals_nothing_can_be_called_significant():
    found = _comparison(_difference("auc", None, None))
    assert found.conclusion == (
        "the rows are too few for an interval, so no difference can be called significant"
    )
    assert "no interval over rows, click @ all: 10 positives; an interval takes 50" in found.remarks


def test_it_prints_a_line_a_group_and_its_reasons():
    text = str(_comparison(_difference("auc", 0.1, 0.2), _difference("ne", -0.1, 0.1)))
    assert "click @ all  auc     base   0.5000" in text
    assert "+0.1500  +0.1000 … +0.2000" in text
    assert "– gauc of click @ all: no user key" in text
    assert "100 test rows; base (1 run); other (1 run); the first is the baseline" in text


def test_its_json_is_plain():
    table = _comparison(_difference("auc", 0.1, 0.2)).to_json()
    assert table["differences"] == [
        {
            "score": "click @ all", "metric": "auc", "name": "other",
            "value": pytest.approx(0.15), "rows": {"low": 0.1, "high": 0.2, "source": "rows"},
            "seeds": None, "significant": True, "verdict": "better",
        }
    ]  # fmt: skip
    assert table["absent"] == {"click @ all": {"gauc": "no user key"}}
    assert table["baseline"] == "base"


def test_a_notebook_shows_the_table():
    html = _comparison(_difference("auc", 0.1, 0.2), names=("base", "<other>"))._repr_html_()
    assert "&lt;other&gt; (1 run)" in html
    assert "<th>95 % over rows</th>" in html
    assert "1 comparison was made" in html
