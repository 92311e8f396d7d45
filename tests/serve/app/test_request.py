"""Every shape of a request becomes the same columns, and every fault has its message."""

import json
import re

import numpy as np
import pytest

import polyrank as pr
from polyrank.serve.app.limits import Refused
from polyrank.serve.app.request import read

NEEDED = ("user", "item", "price")


def ask(given, most_rows=10):
    return read(json.dumps(given).encode(), NEEDED, most_rows)


def row(**changed):
    return {"user": 7, "item": "a", "price": 1.5} | changed


def test_records_and_columns_are_the_same_rows():
    records = ask({"rows": [row(), row(item="b", price=None)]})
    columns = ask({"rows": {"user": [7, 7], "item": ["a", "b"], "price": [1.5, None]}})
    assert records.rows == columns.rows == 2
    assert records.columns == columns.columns
    assert records.columns == {"user": [7, 7], "item": ["a", "b"], "price": [1.5, None]}
    assert records.ignored == columns.ignored == []


@pytest.mark.parametrize(
    "candidates",
    [[{"item": "a", "price": 1}, {"price": 2, "item": "b"}], {"item": ["a", "b"], "price": [1, 2]}],
)
def test_a_context_is_shared_by_all_candidates(candidates):
    asked = ask({"context": {"user": 7}, "candidates": candidates})
    assert asked.rows == 2
    assert asked.shared == {"user": 7}
    assert asked.columns == {"item": ["a", "b"], "price": [1, 2]}
    assert asked.values("user") == [7, 7]


@pytest.mark.parametrize("candidates", [[{}, {}, {}], [{"id": 1}] * 3, {"id": [1, 2, 3]}])
def test_the_context_may_hold_every_column(candidates):
    asked = ask({"context": row(), "candidates": candidates})
    assert (asked.rows, asked.columns, asked.shared) == (3, {}, row())


def test_one_own_column_is_taken_as_several_are():
    context = {"user": 7, "price": 1.5}
    assert ask({"context": context, "candidates": [{"item": "a"}]}).columns == {"item": ["a"]}


def test_ignored_columns_are_listed():
    asked = ask({"rows": [row(), row(request="r", id=3)]})
    assert asked.ignored == ["id", "request"]
    asked = ask(
        {"context": {"user": 7, "page": 2}, "candidates": {"item": [1], "price": [2], "id": [1]}}
    )
    assert asked.ignored == ["id", "page"]


def test_nan_is_accepted():
    asked = read(b'{"rows": [{"user": 7, "item": "a", "price": NaN}]}', NEEDED, 10)
    assert np.isnan(asked.columns["price"][0])


def test_top_k_is_kept():
    assert ask({"rows": [row()], "top_k": 3}).top_k == 3
    assert ask({"rows": [row()]}).top_k is None


def test_a_way_of_exploring_is_read():
    asked = ask({"rows": [row()], "explore": {"kind": "thompson", "seed": 7, "by": "p_click"}})
    assert asked.explore == pr.Thompson(seed=7, by="p_click")
    assert ask({"rows": [row()], "explore": {"kind": "ucb", "alpha": 2}}).explore == pr.UCB(alpha=2)
    assert ask({"rows": [row()]}).explore is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (True, 'explore must be an object such as {"kind": "thompson", "seed": 1}, got true or f'),
        ({}, "explore: expected a table with a kind, got {}"),
        ({"kind": "thomson"}, "explore: unknown kind 'thomson'; did you mean 'thompson'"),
        ({"kind": "thompson"}, "explore: the key 'seed' is missing"),
        ({"kind": "thompson", "sed": 1}, "explore: unknown key 'sed'; did you mean 'seed'"),
        ({"kind": "ucb", "seed": 1}, "explore: unknown key 'seed'"),
        ({"kind": "thompson", "seed": "x" * 5000}, "explore.seed: Input should be a valid intege"),
        ({"kind": "thompson", "seed": 1.5}, "explore.seed: Input should be a valid integer, got 1"),
        ({"kind": "thompson", "seed": -1}, "explore: seed must be a whole number of at least 0"),
        ({"kind": "ucb", "alpha": 1e9}, "explore: alpha must be a number of at least 0 and at mo"),
        ({"kind": "ucb", "by": 3}, "explore.by: Input should be a valid string"),
    ],
)
def test_what_is_no_way_of_exploring_is_refused(given, message):
    with pytest.raises(Refused, match=re.escape(message)) as refused:
        ask({"rows": [row()], "explore": given})
    assert refused.value.status == 422
    assert len(str(refused.value)) <= 1001


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON in UTF-8: EOF"),
        (b"item=3", "the body is not JSON in UTF-8"),
        (b'{"rows": [', "the body is not JSON in UTF-8: EOF"),
        (b'{"rows": [{"item": "\xff"}]}', "the body is not JSON in UTF-8"),
        ('{"rows": []}'.encode("utf-16"), "the body is not JSON in UTF-8"),
        (b'{"rows": ["\\ud800"]}', "the body is not JSON in UTF-8"),
        (b"[" * 100_000, "the body is not JSON in UTF-8: recursion limit"),
        (
            b'{"rows": [' + b"1" * 10_000 + b"]}",
            "the body is not JSON in UTF-8: number",
        ),
    ],
)
def test_what_is_not_json_is_400(body, message):
    with pytest.raises(Refused, match=message) as refused:
        read(body, NEEDED, 10)
    assert refused.value.status == 400


SHAPES = r'send {"rows": …} or {"context": {…}, "candidates": …}'


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], f"the body must be an object, got a list: {SHAPES}"),
        (None, f"the body must be an object, got null: {SHAPES}"),
        ({}, f"rows are missing: {SHAPES}"),
        ({"context": {}}, f"candidates is missing: {SHAPES}"),
        ({"candidates": []}, f"context is missing: {SHAPES}"),
        (
            {"rows": [], "context": {}},
            f"got both rows and a context or candidates: {SHAPES[:9]}",
        ),
        ({"row": []}, "unknown key 'row'; did you mean 'rows'? (known: 'rows', 'context', "),
        ({"rows": 3}, "rows must be a list of records or an object of columns, got a number"),
        ({"rows": "x"}, "rows must be a list of records or an object of columns, got a string"),
        (
            {"context": {}, "candidates": True},
            "candidates must be a list of records or an object of columns, got true or false",
        ),
        ({"context": [], "candidates": []}, "context must be an object, got a list"),
        ({"rows": []}, "no rows to score"),
        ({"context": row(), "candidates": {}}, "no rows to score"),
        ({"rows": {"user": [], "item": [], "price": []}}, "no rows to score"),
        ({"rows": [row(), 3]}, "rows: row 1 must be an object, got a number"),
        ({"rows": ["user"]}, "rows: row 0 must be an object, got a string"),
        (
            {"context": row(), "candidates": ["ab"]},
            "candidates: row 0 must be an object, got a string",
        ),
        (
            {"rows": [row(), {"user": 7, "itm": "a", "price": 1}]},
            "column 'item' is missing from row 1 of rows (misspelled as 'itm'?); write null where "
            "a feature has no value",
        ),
        (
            {"context": {"user": 7}, "candidates": [{"item": 1}]},
            "column 'price' is missing from both the context and row 0 of candidates;",
        ),
        (
            {"context": {"usr": 7}, "candidates": [{"item": 1, "price": 2}]},
            "missing from both the context and row 0 of candidates (misspelled as 'usr'?)",
        ),
        (
            {"rows": {"user": [7], "item": ["a"], "prize": [1]}},
            "column 'price' is missing from rows (misspelled as 'prize'?)",
        ),
        ({"rows": {**row()}}, "rows: column 'user' must be a list, got a number"),
        (
            {"rows": {"user": [7, 7], "item": ["a"], "price": [1, 2]}},
            "rows: column 'item' has length 1 and 'user' has length 2: each column needs one value "
            "per row",
        ),
        (
            {"context": {"user": 7}, "candidates": [row()]},
            "column 'user' is both in the context and in the candidates: leave one out",
        ),
        (
            {"context": {"user": 7, "page": 1}, "candidates": [{"item": 1, "price": 2, "page": 3}]},
            "column 'page' is both in the context and in the candidates",
        ),
        (
            {"rows": [row()], "top_k": 0},
            "top_k must be a whole number of at least 1, got 0",
        ),
        (
            {"rows": [row()], "top_k": 2.5},
            "top_k must be a whole number of at least 1, got 2.5",
        ),
        (
            {"rows": [row()], "top_k": True},
            "top_k must be a whole number of at least 1, got true",
        ),
        (
            {"rows": [row()], "top_k": "3"},
            "top_k must be a whole number of at least 1, got a string",
        ),
    ],
)
def test_what_cannot_be_rows_is_422(given, message):
    with pytest.raises(Refused, match=re.escape(message)) as refused:
        ask(given)
    assert refused.value.status == 422


@pytest.mark.parametrize("rows", [[row()] * 3, {name: [1] * 3 for name in NEEDED}])
def test_too_many_rows_are_413(rows):
    assert ask({"rows": rows}, most_rows=3).rows == 3
    with pytest.raises(
        Refused, match="a request may have 2 rows, got 3: split it, or score a"
    ) as refused:
        ask({"rows": rows}, most_rows=2)
    assert refused.value.status == 413


def test_a_message_does_not_grow_with_what_was_sent():
    for given in (
        {"x" * 10**6: 1},
        {"rows": [{"y" * 10**6: 1}]},
        {"rows": [{f"{n}": n for n in range(10**5)}]},
    ):
        with pytest.raises(Refused) as refused:
            ask(given)
        assert len(str(refused.value)) < 3000
