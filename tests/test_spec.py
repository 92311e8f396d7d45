"""Plain tables: what reading refuses."""

import dataclasses
import math
import re
from datetime import date

import numpy as np
import pytest

from polyrank import errors, spec
from polyrank.errors import BundleError, ConfigError, PolyrankError, SchemaError, did_you_mean
from polyrank.metrics.undefined import Undefined
from polyrank.registry import Registry
from polyrank.schema import Task
from polyrank.serve.app.limits import Refused


@dataclasses.dataclass(frozen=True)
class Point:
    at: tuple[int, ...]
    name: str | None = None
    weight: float = 1.0
    often: bool = False


def test_round_trip_without_none():
    table = spec.to_table(Point((1, 2)))
    assert table == {"at": [1, 2], "weight": 1.0, "often": False}
    assert spec.from_table(Point, table, "point") == Point((1, 2))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"at": [1], "nme": "a"}, "point: unknown key 'nme'; did you mean 'name'"),
        ({}, "point: the key 'at' is missing"),
        ({"at": [1, "x"]}, r"point.at: \[1\] Input should be a valid integer.*got 'x'"),
        ({"at": [1], "weight": "heavy"}, "point.weight: Input should be a valid number"),
        ([1], r"point: expected a table, got \[1\]"),
        ({"at": [2.0]}, r"point.at: \[0\] Input should be a valid integer, got 2.0"),
        ({"at": [True]}, r"point.at: \[0\] Input should be a valid integer, got True"),
        ({"at": "12"}, r"point.at: Input should be a valid list, got '12'"),
        ({"at": [[1]]}, r"point.at: \[0\] Input should be a valid integer, got \[1\]"),
        ({"at": [1], "weight": True}, "point.weight: Input should be a valid number"),
        ({"at": [1], "weight": "1"}, "point.weight: Input should be a valid number"),
        ({"at": [1], "name": 3}, "point.name: Input should be a valid string, got 3"),
        ({"at": [1], "name": date(2020, 1, 2)}, "point.name: Input should be a valid string"),
        ({"at": [1], "often": 1}, "point.often: Input should be a valid boolean, got 1"),
    ],
)
def test_wrong_tables_are_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        spec.from_table(Point, table, "point")


@pytest.mark.parametrize("table", [3, "mmoe", [1], None, True])
def test_what_is_no_table_is_refused(table):
    message = re.escape(f"train: expected a table, got {table!r}")
    with pytest.raises(ConfigError, match=message):
        spec.check_keys(table, ["epochs"], "train")
    with pytest.raises(ConfigError, match=message):
        spec.from_table(Point, table, "train")
    with pytest.raises(ConfigError, match="train: expected a table with a kind, got "):
        spec.choose({"point": Point}, table, "train")


def test_numpy_scalars_are_written_and_read_as_plain_values():
    point = Point((np.int64(1), 2), weight=np.float32(0.5), often=np.bool_(True), name=np.str_("a"))
    table = spec.to_table(point)
    assert table == {"at": [1, 2], "name": "a", "weight": 0.5, "often": True}
    values = [*table["at"], table["name"], table["weight"], table["often"]]
    assert [type(value) for value in values] == [int, int, str, float, bool]
    read = spec.from_table(Point, {"at": [np.int64(1)], "weight": np.float64(0.5)}, "point")
    assert (type(read.at[0]), type(read.weight)) == (int, float)


@pytest.mark.parametrize("weight", [2, math.inf, math.nan])
def test_what_is_a_number_is_taken(weight):
    found = spec.from_table(Point, {"at": [], "weight": weight}, "point").weight
    assert type(found) is float
    assert found == weight or math.isnan(weight)


@pytest.mark.parametrize("kind", [["point"], 3, None])
def test_a_kind_is_a_name(kind):
    with pytest.raises(ConfigError, match="model: a kind must be a string, got "):
        spec.choose({"point": Point}, {"kind": kind}, "model")


def test_a_values_own_refusal_names_the_table():
    with pytest.raises(SchemaError, match="task: a task's name must be an identifier"):
        spec.from_table(Task, {"name": "1x"}, "task")


def test_an_unregistered_spec_is_written_as_its_class_and_not_read():
    table = spec.chosen({"task": Task}, Point((1,)))
    assert table == {"class": "Point"}
    with pytest.raises(
        ConfigError,
        match="trunk: 'Point' is a class of your own, which a file cannot name",
    ):
        spec.choose({"task": Task}, table, "trunk")


def test_an_unknown_kind_may_be_a_plugins():
    known = {"point": Point}
    hint = r"trunk: unknown kind 'POINT'; did you mean 'point'\? \(known: 'point'\)$"
    with pytest.raises(ConfigError, match=hint):
        spec.choose(known, {"kind": "POINT"}, "trunk")
    with pytest.raises(ConfigError, match=r"\(known: 'point'\); if a plugin adds it, install that"):
        spec.choose(Registry("trunk", known), {"kind": "mine"}, "trunk")


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("MMOE", ["ple", "mmoe"], "mmoe"),
        ("epoch", ["train.epochs", "model.tower"], "train.epochs"),
        ("like", ["rating @ all", "like @ all", "like|click @ click"], "like @ all"),
        ("a", ["b.a", "A @ all", "A", "a"], "A"),
    ],
)
def test_the_nearest_name_ignores_case_and_takes_a_part_for_the_whole(name, known, nearest):
    assert f"did you mean {nearest!r}?" in did_you_mean(name, known)


def test_the_hint_stays_short():
    many = [f"column_{i}" for i in range(100)]
    hint = did_you_mean("colum_7", many)
    assert "did you mean 'column_7'" in hint
    assert hint.endswith("… 80 more)")
    assert did_you_mean("x", []) == " (none is known)"


def test_the_tree_of_errors_shows_every_one():
    def names(error):
        return {error.__name__}.union(*map(names, error.__subclasses__()))

    assert {Undefined, Refused} <= set(PolyrankError.__subclasses__())
    assert names(PolyrankError) == set(
        re.findall(r"^(?:│   )?(?:[├└]── )?(\w+Error|Undefined|Refused)\b", errors.__doc__, re.M)
    )


def test_every_error_is_a_polyrank_error():
    for error in (SchemaError, ConfigError, BundleError):
        assert issubclass(error, PolyrankError)


@pytest.mark.parametrize(("value", "plain"), [(3, 3), (np.int32(3), 3), (1, 1)])
def test_whole_numbers_become_plain(value, plain):
    found = spec.whole("bins", value)
    assert (found, type(found)) == (plain, int)


@pytest.mark.parametrize("value", [True, 2.0, "2", None, np.array([2])])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(SchemaError, match="bins must be a whole number, got "):
        spec.whole("bins", value, least=None, error=SchemaError)


@pytest.mark.parametrize(
    ("limits", "value", "message"),
    [
        ({}, 0, "must be a whole number of at least 1, got 0"),
        ({"least": 0, "most": 9999}, 10_000, "of at least 0 and at most 9,999, got 10000"),
        ({"least": None, "most": 9}, 10, "must be a whole number of at most 9, got 10"),
    ],
)
def test_whole_numbers_have_limits(limits, value, message):
    with pytest.raises(ConfigError, match=message):
        spec.whole("bins", value, **limits)


@pytest.mark.parametrize(
    ("limits", "value", "message"),
    [
        ({}, math.nan, "rate must be a finite number, got nan"),
        ({}, 10**400, "rate must be a finite number, got 1000"),
        ({"above": 0}, 0, "rate must be a number above 0, got 0"),
        ({"above": 0}, math.inf, "rate must be a number above 0, got inf"),
        ({"least": 0, "below": 1}, 1.0, "a number of at least 0 and below 1, got 1.0"),
        ({"above": 0, "most": 1}, 2, "a number above 0 and at most 1, got 2"),
        ({}, True, "rate must be a finite number, got True"),
        ({}, "1", "rate must be a finite number, got '1'"),
    ],
)
def test_numbers_have_limits(limits, value, message):
    with pytest.raises(ConfigError, match=message):
        spec.number("rate", value, **limits)


def test_numbers_become_floats():
    assert spec.number("rate", np.float32(0.5), least=0.5, most=0.5) == 0.5
    assert type(spec.number("rate", 1)) is float
