"""Who gets which model: a property of the key, whatever it is written as."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

import polyrank as pr
from polyrank.errors import ConfigError
from polyrank.serve.app.limits import Refused
from polyrank.serve.app.models import Model, Models
from polyrank.serve.app.split import Split

KEYS = some.one_of(some.integers(), some.text(), some.floats(), some.booleans(), some.none())


@pytest.fixture(scope="module")
def models(engine):
    return Models([Model(name, engine, 100) for name in ("old", "new", "next")])


@given(key=KEYS)
def test_a_key_has_one_model_and_keeps_it_when_its_share_grows(key):
    small, large = (Split(shares={"new": share}, by="user") for share in (0.2, 0.6))
    assert small.chosen(key) == small.chosen(key)
    if small.chosen(key) == "new":
        assert large.chosen(key) == "new"
    for text in [str(key)] if isinstance(key, int) and not isinstance(key, bool) else []:
        assert small.chosen(text) == small.chosen(key)


def test_the_shares_are_what_was_told():
    split = Split(shares={"new": 0.1, "next": 0.3}, by="user")
    found = [split.chosen(f"user {number}") for number in range(2_000)]
    # of 2,000 draws, five standard deviations
    assert found.count("new") / 2_000 == pytest.approx(0.1, abs=5 * (0.09 / 2_000) ** 0.5)
    assert found.count("next") / 2_000 == pytest.approx(0.3, abs=5 * (0.21 / 2_000) ** 0.5)
    assert split.chosen(None) is split.chosen(float("nan")) is None


def test_experiments_do_not_share_their_users():
    first, second = (Split(shares={name: 0.5}, by="user") for name in ("new", "next"))
    both = sum(
        first.chosen(user) == "new" and second.chosen(user) == "next" for user in range(1000)
    )
    assert both / 1000 == pytest.approx(0.25, abs=5 * (0.1875 / 1000) ** 0.5)


@pytest.mark.parametrize(
    "body",
    [
        {"context": {"user": 7}, "candidates": [{"a": 1}]},
        {"rows": [{"user": 7}, {"user": 7}]},
        {"rows": {"user": [7, 7]}},
        {"context": {}, "candidates": {"user": [7]}},
        {"context": {}, "candidates": [{"user": "7"}]},
    ],
)
def test_a_key_is_found_in_every_shape(body):
    split = Split(shares={"new": 0.5}, by="user")
    assert split.model(body) == split.chosen(7)


@pytest.mark.parametrize("body", [[], 3, {}, {"rows": 3}, {"rows": [3]}, {"rowz": []}])
def test_what_is_no_request_is_left_to_the_scorer(body):
    assert Split(shares={"new": 0.5}, by="user").model(body) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"rows": [{"a": 1}]}, "column 'user' is missing, and a hash of it chooses the model"),
        ({"rows": [{"user": 1}, {}]}, "column 'user' is missing"),
        ({"rows": {"user": 3}}, "column 'user' is missing"),
        ({"rows": [{"user": 1}, {"user": 2}]}, "have more than one value of it: send a request"),
        ({"rows": [{"user": [1]}]}, "must be a text or a number, got a list"),
        ({"context": {"user": {}}, "candidates": []}, "must be a text or a number, got an object"),
    ],
)
def test_a_request_without_one_key_is_refused(body, message):
    with pytest.raises(Refused, match=re.escape(message)):
        Split(shares={"new": 0.5}, by="user").model(body)


def test_the_options_of_a_command_line(models):
    found = Split.of(models, ["new=.25"], None, ["next"])
    assert found == Split(shares={"new": 0.25}, by="user", shadows=("next",))
    assert Split.of(models, ["new=.25"], "session", []).by == "session"
    assert Split.of(models, [], None, []) == Split()


@pytest.mark.parametrize(
    ("shares", "by", "shadows", "message"),
    [
        (["new"], None, [], "a share must be NAME=SHARE with a share above 0 and below 1, got 'n"),
        (["new=1"], None, [], "above 0 and below 1, got 'new=1'"),
        (["new=half"], None, [], "above 0 and below 1, got 'new=half'"),
        (["new=nan"], None, [], "above 0 and below 1, got 'new=nan'"),
        (["nex=.1"], None, [], "no model 'nex' is served; did you mean 'next'?"),
        ([], None, ["nwe"], "no model 'nwe' is served; did you mean 'new'?"),
        (["old=.1"], None, [], "model 'old' is the first: it answers what no share gives to"),
        (["new=.1"], None, ["new"], "model 'new' has a share and is a shadow: choose one of them"),
        (["new=.6", "next=.6"], None, [], "the shares must add up to 1 at most, got 1.2"),
        ([], "user", [], "nothing is split by 'user': give a model a share"),
    ],
)
def test_an_option_that_says_nothing_is_refused(models, shares, by, shadows, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Split.of(models, shares, by, shadows)


def test_without_a_user_the_column_must_be_named():
    class Nobody:
        schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
        inputs, fusion_columns = ("item",), ()

    nobody = Models([Model(name, Nobody(), 100) for name in ("old", "new")])
    with pytest.raises(ConfigError, match="the schema of 'old' has no user key: name the column"):
        Split.of(nobody, ["new=.1"], None, [])
