"""What a run shows: a line per epoch, a bar on a terminal, and nothing elsewhere unless asked."""

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

import polyrank as pr
from polyrank.train.progress import Progress, progress_bar


def epoch(number, **valid):
    return Progress(
        "epoch", number, 3, 10, 10, 100, 1.0, {"click @ all": 0.5}, {}, valid=valid, best=True
    )


def test_an_epoch_says_of_which_rows():
    valid = {"click @ all loss": 0.6, "total loss": 0.61, "click @ all auc": 0.7}
    assert str(epoch(2, **valid)) == (
        "epoch 2 of 3: validation total loss 0.6100, click @ all auc 0.7000 · best so far"
    )
    assert str(epoch(1)) == "epoch 1 of 3: training click @ all loss 0.5000"


@contextmanager
def terminal(monkeypatch):
    """Make standard error a terminal; give the lines that it is left with at the end."""
    ours, theirs = pytest.importorskip("pty").openpty()
    stream = os.fdopen(theirs, "w", buffering=1)
    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
        written = pool.submit(everything, ours)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "100")
        patch.setattr(sys, "stderr", stream)
        lines = []
        yield lines
        stream.close()
        lines += screen(written.result())


def everything(file):
    found = b""
    while True:
        try:
            some = os.read(file, 65536)
        except OSError:  # the other end is closed
            some = b""
        if not some:
            os.close(file)
            return found.decode()
        found += some


def screen(written):
    """The lines that a terminal is left with: what is erased or written over is gone."""
    lines, row, column, position = [""], 0, 0, 0
    while position < len(written):
        character = written[position]
        position += 1
        if character == "\x1b" and written[position] == "[":
            end = next(i for i in range(position, len(written)) if written[i].isalpha())
            argument, position = written[position + 1 : end], end + 1
            if written[end] == "K":
                lines[row] = "" if argument == "2" else lines[row][:column]
            elif written[end] == "A":
                row = max(row - int(argument or 1), 0)
        elif character == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif character == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    return [line for line in lines if line]


def test_the_bar_leaves_no_line_and_warnings_have_their_own(monkeypatch):
    logger = logging.getLogger("polyrank")
    with terminal(monkeypatch) as lines:
        handler = logging.StreamHandler(sys.stderr)
        logger.addHandler(handler)
        try:
            with progress_bar("tiny") as observe:
                for number in (1, 2):
                    logger.warning("beware of %d", number)
                    observe(epoch(number, **{"total loss": 0.5}))
            assert handler.stream is sys.stderr
        finally:
            logger.removeHandler(handler)
    line = "tiny epoch {} of 3: validation total loss 0.5000 · best so far"
    assert lines == ["beware of 1", line.format(1), "beware of 2", line.format(2)]


def test_fit_shows_the_bar_on_a_terminal_unless_told_otherwise(funnel, monkeypatch):
    train, valid, schema = funnel
    options = {"train": train, "valid": valid, "epochs": 1}
    with terminal(monkeypatch) as lines:
        for progress in (False, None):
            pr.fit(schema, pr.Model(tower=[4]), **options, progress=progress)
    (line,) = lines
    assert line.startswith("fit epoch 1 of 1: validation total loss ")


def test_fit_is_quiet_elsewhere(funnel, capsys):
    train, _, schema = funnel
    pr.fit(schema, pr.Model(tower=[4]), train=train, epochs=1)
    assert capsys.readouterr().err == ""
    pr.fit(schema, pr.Model(tower=[4]), train=train, epochs=1, progress=True)
    assert capsys.readouterr().err.startswith("fit epoch 1 of 1: training click @ all loss ")
