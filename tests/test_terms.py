"""Tasks compile to terms: names, probabilities, labels, rows, paths."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.schema import DenseFeature, Schema, Task
from polyrank.terms import joint_label, populations

FUNNEL = [
    Task("click"),
    Task("cart", given="click", space="all"),
    Task("buy", given="cart", space=("all", "click", "cart")),
    Task("like"),
    Task("spend", kind="regression", given="buy"),
    Task("stars", kind="regression"),
]


def schema(tasks):
    return Schema([DenseFeature("x")], tasks)


def test_the_objective_prints_as_designed():
    built = schema([Task("click"), Task("buy", given="click", space="all")])
    assert str(built.objective) == (
        "term         probability            label        rows  kind\n"
        "click @ all  P(click)               click        all   binary\n"
        "buy @ all    P(click)·P(buy|click)  click & buy  all   binary"
    )
    naive = schema([Task("click"), Task("buy", given="click", space="click")])
    assert str(naive.objective).splitlines()[-1] == (
        "buy|click @ click  P(buy|click)  buy    click  binary"
    )


def test_what_is_held_stands_in_brackets():
    built = schema(
        [
            Task("click"),
            Task("cart", given="click", hold_ancestors=True),
            Task("buy", given="cart", hold_ancestors=True),
        ]
    )
    assert str(built.objective) == (
        "term         probability                           label               rows  kind\n"
        "click @ all  P(click)                              click               all   binary\n"
        "cart @ all   [P(click)]·P(cart|click)              click & cart        all   binary\n"
        "buy @ all    [P(click)·P(cart|click)]·P(buy|cart)  click & cart & buy  all   binary\n"
        "[…] is held constant: the term does not train these heads"
    )
    task = Task("buy", given="cart", space=("all", "click", "cart"), hold_ancestors=True)
    terms = list(schema([*built.tasks[:2], task]).objective)
    assert [term.held for term in terms] == [(), ("click",), ("click", "cart"), ("cart",), ()]
    assert terms[3].probability == "[P(cart|click)]·P(buy|cart)"
    assert terms[4].probability == "P(buy|cart)"
    assert built.objective._repr_html_().endswith("the term does not train these heads</p>")
    assert "held" not in str(schema(FUNNEL).objective)
    assert "held" not in schema(FUNNEL).objective._repr_html_()


def test_a_longer_funnel_with_values():
    lines = [(t.name, t.probability, t.label, t.population.space) for t in schema(FUNNEL).objective]
    assert lines == [
        ("click @ all", "P(click)", "click", "all"),
        ("cart @ all", "P(click)·P(cart|click)", "click & cart", "all"),
        ("buy @ all", "P(click)·P(cart|click)·P(buy|cart)", "click & cart & buy", "all"),
        ("buy|click @ click", "P(cart|click)·P(buy|cart)", "cart & buy", "click"),
        ("buy|cart @ cart", "P(buy|cart)", "buy", "cart"),
        ("like @ all", "P(like)", "like", "all"),
        ("spend|buy @ buy", "E[spend|buy]", "spend", "buy"),
        ("stars @ all", "E[stars]", "stars", "all"),
    ]


def test_every_population_is_scored_whatever_was_supervised():
    names = [each.name for each in populations(schema(FUNNEL))]
    assert names == [
        "click @ all",
        "cart @ all", "cart|click @ click",
        "buy @ all", "buy|click @ click", "buy|cart @ cart",
        "like @ all", "spend|buy @ buy", "stars @ all",
    ]  # fmt: skip
    assert {term.name for term in schema(FUNNEL).objective} <= set(names)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_paths_are_disjoint_and_exhaustive(depth):
    """Every outcome of the heads lies on exactly one path, on yes iff all happened."""
    tasks = [Task(f"t{i}", given=f"t{i - 1}" if i else None, space="all") for i in range(depth)]
    term = list(schema(tasks).objective)[-1]
    for outcome in itertools.product([False, True], repeat=depth):
        happened = {f"t{i}": value for i, value in enumerate(outcome)}

        def on(path, happened=happened):
            return all(happened[head] == sign for head, sign in path)

        yes, no = sum(map(on, term.yes)), sum(map(on, term.no))
        assert (yes, no) == ((1, 0) if all(outcome) else (0, 1))


ternary = st.sampled_from([0.0, 1.0, math.nan])


@given(st.lists(st.tuples(ternary, ternary, ternary), min_size=1, max_size=9))
def test_the_joint_label_is_a_three_valued_and(rows):
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    copies = [column.copy() for column in columns]
    for found, row in zip(joint_label(columns), rows, strict=True):
        if 0.0 in row:
            assert found == 0
        elif any(math.isnan(value) for value in row):
            assert math.isnan(found)
        else:
            assert found == 1
    for column, copy in zip(columns, copies, strict=True):
        np.testing.assert_array_equal(column, copy)
