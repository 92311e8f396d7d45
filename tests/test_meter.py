"""Loops that are metered, and the bars that show them: on a terminal, and nowhere else."""

import io
import logging
import sys

import pytest

from polyrank import meter
from polyrank.meter import Bar, Stage, bars, metered, watched, watching


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_loop_that_nobody_watches_is_the_loop():
    assert not watching()
    assert list(metered([1, 2], "counting")) == [1, 2]


def test_a_watcher_is_told_after_each_item_and_at_the_end():
    seen = []
    with watched(seen.append):
        assert watching()
        for item in metered([2, 3], "adding", total=5, size=int):
            assert seen[-1].done == (0 if item == 2 else 2)
    assert [(each.done, each.total, each.ended) for each in seen] == [
        (0, 5, False), (2, 5, False), (5, 5, False), (5, 5, True)
    ]  # fmt: skip
    assert not watching()


def test_a_loop_within_a_loop_is_a_step_of_it():
    seen = []
    with watched(seen.append):
        for _ in metered([1, 2], "outer", unit="features"):
            assert list(metered("ab", "inner")) == ["a", "b"]
        assert list(metered("a", "after")) == ["a"]
    assert {each.what for each in seen} == {"outer", "after"}


def test_a_loop_that_breaks_is_over():
    seen = []
    with watched(seen.append):
        for _ in (found := metered([1, 2], "outer")):
            break
        found.close()
        assert seen[-1].ended
        with pytest.raises(ZeroDivisionError):
            list(metered((1 / each for each in [0]), "failing"))
        assert seen[-1].ended
        list(metered([1], "next"))
    assert seen[-1].what == "next"


def test_rates_are_in_rows_or_counted():
    assert Stage("x", 1000, None, "rows", 0.5).rate == "2,000 rows/s"
    assert Stage("x", 0, None, "rows", 0.0).rate == ""
    assert Stage("x", 3, 20, "features", 1.0).rate == "3 of 20"
    assert Stage("x", 3, None, "features", 1.0).rate == "3"


def looped(monkeypatch, stream, width=80):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(meter, "PATIENCE_S", 0.0)
    monkeypatch.setenv("COLUMNS", str(width))
    handler = logging.StreamHandler(stream)
    logging.getLogger("polyrank").addHandler(handler)
    try:
        with bars():
            for each in metered(range(3), "auditing the log", unit="features"):
                if each == 1:
                    logging.getLogger("polyrank").warning("beware")
        assert handler.stream is stream
        assert sys.stderr is stream
    finally:
        logging.getLogger("polyrank").removeHandler(handler)
    return stream.getvalue()


def test_a_terminal_has_a_bar_and_warnings_above_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = looped(monkeypatch, Terminal())
    assert "auditing the log" in text
    assert "of 3" in text
    assert "beware\n" in text.replace("\r", "")


def test_a_pipe_has_no_bar(monkeypatch):
    assert looped(monkeypatch, io.StringIO()) == "beware\n"


def test_a_short_loop_is_not_shown(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with bars():
        list(metered(range(3), "auditing"))
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("width", "shown"), [(80, False), (200, True)])
def test_a_narrow_terminal_leaves_out_the_note_and_cuts_the_name(width, shown):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    bar = Bar(console)
    with bar.drawn():
        bar.show("a very long name " * 4, 1, 4, "1,234,567 rows/s", "click @ all auc 0.7")
    text = console.file.getvalue()
    assert ("click @ all auc 0.7" in text) is shown
    assert ("…" in text) is not shown
    assert "1,234,567 rows/s" in text


def test_the_time_that_remains_is_that_of_what_is_shown():
    from rich.console import Console

    bar = Bar(Console(file=io.StringIO(), width=200, force_terminal=True))
    (task,) = bar._progress.tasks
    bar.show("encoding", 20, 20)
    assert task.finished
    bar.show("training", 0, None)
    assert not task.finished
    assert (task.completed, task.total) == (0, None)
    bar.show("training", 1, 10)
    assert not task.finished
    assert (task.completed, task.total) == (1, 10)
