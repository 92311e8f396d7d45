"""A line of the log is one object, whatever went wrong."""

import json
import logging
import sys

from polyrank.serve.app.log import JsonLines


def test_a_traceback_is_in_the_line():
    try:
        raise ValueError("wrong")
    except ValueError:
        record = logging.LogRecord("web", logging.ERROR, "", 0, "uh\n", (), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["message"]) == ("error", "uh\n")
    assert found["traceback"].endswith("ValueError: wrong")


def test_what_a_client_chose_ends_no_line_and_moves_no_cursor():
    record = logging.LogRecord("web", logging.INFO, "", 0, "request", (), None)
    record.fields = {"path": "/\n\x85\u2028\x9b2J\x7f/北京"}
    line = JsonLines().format(record)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["path"] == record.fields["path"]
