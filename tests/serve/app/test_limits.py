"""A limit is a number that limits something."""

import re

import pytest

from polyrank.errors import ConfigError
from polyrank.serve.app.limits import Limits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": 0}, "limit rows must be a whole number of at least 1, got 0"),
        ({"queue": 2.5}, "limit queue must be a whole number of at least 1, got 2.5"),
        (
            {"workers": True},
            "limit workers must be a whole number of at least 1, got True",
        ),
        ({"body_mb": 0}, "limit body_mb must be a number above 0, got 0"),
        (
            {"timeout_s": float("nan")},
            "limit timeout_s must be a number above 0, got nan",
        ),
        ({"timeout_s": "5"}, "limit timeout_s must be a number above 0, got '5'"),
        ({"inline_kb": -1}, "limit inline_kb must be a number of at least 0, got -1"),
        ({"drain_s": -1}, "limit drain_s must be a number of at least 0, got -1"),
    ],
)
def test_a_wrong_limit_is_refused(given, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Limits(**given)


def test_no_drain_is_one():
    assert Limits(drain_s=0).drain_s == 0
