"""A comparison in words: verdicts by direction, and what is said of chance."""

import pytest

from polyrank.metrics.comparison import Comparison
from polyrank.metrics.paired import Difference, Group, Spread


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
