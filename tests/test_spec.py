"""Plain tables: what reading refuses."""

import dataclasses

import pytest

from polyrank import spec
from polyrank.errors import BundleError, ConfigError, PolyrankError, SchemaError, did_you_mean
from polyrank.schema import Task


@dataclasses.dataclass(frozen=True)
class Point:
    at: tuple[int, ...]
    name: str | None = None
    weight: float = 1.0


def test_round_trip_without_none():
    table = spec.to_table(Point((1, 2)))
    assert table == {"at": [1, 2], "weight": 1.0}
    assert spec.from_table(Point, table, "point") == Point((1, 2))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"at": [1], "nme": "a"}, "point: unknown key 'nme'; did you mean 'name'"),
        ({}, "point: the key 'at' is missing"),
        ({"at": [1, "x"]}, r"point.at: \[1\] Input should be a valid integer.*however: 'x'"),
        ({"at": [1], "weight": "heavy"}, "point.weight: Input should be a valid number"),
        ([1], r"point: a table is expected, however: \[1\]"),
    ],
)
def test_wrong_tables_are_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        spec.from_table(Point, table, "point")


def test_a_values_own_refusal_names_the_table():
    with pytest.raises(SchemaError, match="task: a task's name is an identifier"):
        spec.from_table(Task, {"name": "1x"}, "task")


def test_an_unregistered_spec_cannot_be_written():
    with pytest.raises(ConfigError, match="trunk: Point is not registered"):
        spec.chosen({"task": Task}, Point((1,)), "trunk")


def test_the_hint_stays_short():
    many = [f"column_{i}" for i in range(100)]
    hint = did_you_mean("colum_7", many)
    assert "did you mean 'column_7'" in hint
    assert hint.endswith("… 80 more)")
    assert did_you_mean("x", []) == " (none is known)"


def test_every_error_is_a_polyrank_error():
    for error in (SchemaError, ConfigError, BundleError):
        assert issubclass(error, PolyrankError)
