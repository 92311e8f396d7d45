"""The page of a search."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from polyrank.metrics.score import Score
from polyrank.metrics.scorecard import Scorecard
from polyrank.metrics.seeds import SeedScores
from polyrank.report.tuned import by_trial, importance, parallel, place, tuned_page
from polyrank.train.seeds import SeedRuns
from polyrank.tune.space import Searched
from polyrank.tune.spec import Choices, Range
from polyrank.tune.tuned import AS_GIVEN, Finalist, Trial, Tuned

SPACE = (
    Searched("train.lr", Range(low=1e-3, high=1e-1, log=True), 1e-2),
    Searched("model.trees", Choices((False, {"folds": 4})), False),
    Searched("model.trunk", Choices(({"kind": "<a>"}, {"kind": "b", "hidden": [8]})), None),
)


def trial(number, lr, value, state="complete", reason=""):
    changes = {"train.lr": lr, "model.trees": {"folds": 4}, "model.trunk": {"kind": "<a>"}}
    return Trial(
        number=number, changes=changes, value=value, state=state, reason=reason,
        epochs=() if value is None else (value - 0.1, value), seconds=1.5,
    )  # fmt: skip


def finalist(name, values, changes):
    return Finalist(name, changes, SeedRuns(Path("out"), dict.fromkeys(values)), values)


def scores(values):
    return SeedScores(
        {
            seed: Scorecard("test", (
                Score(name="click @ all", task="click", kind="binary", given=None, space="all",
                      rows=9, positives=4, label_mean=0.4, prediction_mean=0.5,
                      metrics={"auc": {"value": value}}, absent={}),
            ))
            for seed, value in enumerate(values)
        }
    )  # fmt: skip


FILE = finalist(AS_GIVEN, {0: 0.6, 1: 0.62, 2: 0.61}, {})
BETTER = finalist("trial-1", {0: 0.7, 1: 0.72, 2: 0.715}, {"train.lr": 0.05})
TRIALS = (
    trial(0, 1e-2, 0.61), trial(1, 5e-2, 0.71), trial(2, 1e-3, 0.5, "pruned"),
    trial(3, 1e-1, None, "failed", "the loss is nan"),
)  # fmt: skip


def tuned(winner=BETTER, tested=True, shares=True):
    tests = {AS_GIVEN: scores([0.58, 0.6, 0.59]), winner.name: scores([0.68, 0.7, 0.695])}
    return Tuned(
        folder=Path("out"), objective="click @ all auc", higher=True, space=SPACE, trials=TRIALS,
        importance={"train.lr": 0.75, "model.trees": 0.25} if shares else {},
        finalists=(FILE, BETTER), winner=winner, scores=tests if tested else {},
    )  # fmt: skip


def page(found):
    return tuned_page(found, written=datetime(2026, 3, 1, tzinfo=UTC))


def test_the_page_has_finalists_tests_and_trials_and_no_text_as_html():
    text = page(tuned())
    assert "<a>" not in text
    assert "winner: trial-1" in text
    assert "+0.1017 ± 0.0072 *" in text  # on validation rows
    assert text.count("the loss is nan") == 1
    assert "train.lr 0.05" in text
    assert "as-given" in text


def test_what_is_printed_says_the_same():
    text = str(tuned())
    assert text.startswith("4 trials (2 complete, 1 pruned, 1 failed), judged by click @ all auc")
    assert "winner: trial-1\n  train.lr = 0.05\n" in text
    assert re.search(r"click @ all +auc +0\.5900 +0\.6917 +\+0\.1017 ± 0\.0072 \*", text)
    assert "the file as it is holds\ntest rows: mean ± " in str(tuned(winner=FILE))


def test_it_says_where_nothing_is_known():
    assert "how much of this is luck" in page(tuned(tested=False))
    assert "No setting that was tried beats the file as it is" in page(tuned(winner=FILE))
    assert "Too few complete trials" in page(tuned(shares=False))


def test_charts_are_valid_and_have_what_they_show():
    found = tuned()
    trials = by_trial(TRIALS, "auc", higher=True).to_dict(validate=True)
    (points,) = trials["datasets"].values()  # a failed trial has no value
    assert [each["best"] for each in points] == [0.61, 0.71, 0.71]
    lower = by_trial(TRIALS, "loss", higher=False).to_dict(validate=True)
    assert [each["best"] for each in next(iter(lower["datasets"].values()))] == [0.61] * 3
    importance(found.importance).to_dict(validate=True)
    lines = parallel(found).to_dict(validate=True)["datasets"]
    first = next(iter(lines.values()))
    assert len(first) == 2 * 4  # complete trials × axes
    assert {each["rank"] for each in first if each["trial"] == 1} == {1.0}


def test_places_on_an_axis():
    assert place(SPACE[0], 1e-2) == pytest.approx(0.5)
    assert [place(SPACE[1], each) for each in (False, {"folds": 4})] == [0.0, 1.0]
