"""A limit is a number that limits something."""

import re

import pytest

from polyrank.errors import ConfigError
from polyrank.serve.app.limits import Limits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": 0}, "limit rows: a whole number of at least 1 is expected, however: 0"),
        ({"queue": 2.5}, "limit queue: a whole number of at least 1 is expected, however: 2.5"),
        (
            {"workers": True},
            "limit workers: a whole number of at least 1 is expected",
        ),
        ({"body_mb": 0}, "limit body_mb: a number above 0 is expected, however: 0"),
        (
            {"timeout_s": float("nan")},
            "limit timeout_s: a number above 0 is expected",
        ),
        ({"timeout_s": "5"}, "limit timeout_s: a number above 0 is expected, however: '5'"),
        ({"at_once_kb": -1}, "limit at_once_kb: a number of at least 0 is expected, however: -1"),
        ({"drain_s": -1}, "limit drain_s: a number of at least 0 is expected, however: -1"),
    ],
)
def test_a_wrong_limit_is_refused(given, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Limits(**given)


def test_no_drain_is_one():
    assert Limits(drain_s=0).drain_s == 0
