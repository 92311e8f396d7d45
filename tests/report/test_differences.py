"""The page of compared runs: what it says, what it draws, and that a browser draws it."""

import re
import shutil
import subprocess
from datetime import UTC, datetime

import pytest

from polyrank.metrics.comparison import Comparison, Difference, Group, Spread
from polyrank.report import write_comparison
from polyrank.report.differences import comparison_page, forest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
NASTY = "b</script><script>alert('x')</script>"
WRITTEN = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.fixture
def found():
    scores = ("click @ all", "buy|click @ click")
    groups = [
        Group(score, metric, name, {1: 0.7 + shift, 2: 0.71 + shift})
        for score in scores
        for metric in ("auc", "ne")
        for shift, name in enumerate(("base", NASTY))
    ]
    differences = [
        Difference(
            "click @ all", "auc", "base", NASTY, 0.012,
            Spread(0.004, 0.02, "rows"), Spread(-0.001, 0.025, "paired seeds"),
        ),
        Difference(
            "click @ all", "ne", "base", NASTY, -0.01, Spread(-0.02, -0.003, "rows"),
            Spread(-0.015, -0.005, "seeds"),
        ),
        Difference(
            "buy|click @ click", "auc", "base", NASTY, 0.1, None, None,
            "10 positives; an interval takes 50",
        ),
    ]  # fmt: skip
    runs = {"base": {"runs/a": 1, "runs/b": 2}, NASTY: {"runs/c": 1, "runs/d": 2}}
    kinds = dict.fromkeys(scores, "binary")
    return Comparison("test", 5000, runs, kinds, tuple(groups), tuple(differences), {})


def test_it_says_what_the_table_says(found):
    page = comparison_page(found, written=WRITTEN)
    text = re.sub("<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "1 difference is significant at 95 %; 2 comparisons were made" in text
    assert "No interval over rows, buy|click @ click: 10 positives; an interval takes 50." in text
    assert "5,000 test rows · base: 2 runs" in text
    assert "+.0040 to +.0200" in text
    assert ">better<" in text
    assert "Lower is better" in text
    assert page.count('class="chart"') == 2
    assert NASTY not in page


def test_one_name_has_a_page_of_its_seeds(found):
    alone = Comparison(
        found.split, found.rows, {"base": found.runs["base"]}, found.kinds, found.groups[:1], (), {}
    )
    page = comparison_page(alone, written=WRITTEN)
    assert "<h1>seeds of base</h1>" in page
    assert ".7050 ± .0071" in page
    assert 'class="chart"' not in page


def test_the_plot_has_a_line_an_interval_and_names_the_better_side(found):
    for index, sides in enumerate((("worse", "better"), ("better", "worse"))):
        chart = forest([found.differences[index]], higher_is_better=index == 0)
        table = chart.to_dict()  # which validates it
        assert f"← {sides[0]} · difference" in str(table)
        lines = next(each for each in table["datasets"].values() if "low" in each[0])
        assert [line["source"] for line in lines] == ["test rows", "seeds"]


def test_it_is_written_whole(found, tmp_path):
    path = write_comparison(found, tmp_path / "deep" / "page.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]


@pytest.mark.chromium
@pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")
def test_a_browser_draws_it_without_a_word(found, tmp_path):
    path = write_comparison(found, tmp_path / "page.html")
    answer = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--enable-logging=stderr", "--virtual-time-budget=20000",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert 'data-charts="drawn"' in answer.stdout
    assert len(re.findall('<svg[^>]*class="marks"', answer.stdout)) == 2
    assert "CONSOLE" not in answer.stderr
