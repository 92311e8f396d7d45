"""What labels may hold, the rule for orphans, and features that state a label."""

import re

import polars as pl
import pytest

from polyrank.data.labels import apply_orphans, check_labels, check_leaks, find_leaks
from polyrank.errors import DataError
from polyrank.schema import DenseFeature, Keys, Schema, SparseFeature, Task

NAN = float("nan")
FUNNEL = [Task("click"), Task("cart", given="click"), Task("buy", given="cart")]


def schema_of(*tasks, features=("x",), keys=None):
    return Schema([DenseFeature(name) for name in features], tasks, keys or Keys())


# ----------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, None],
        [0.0, 1.0, NAN, None],
        [True, False],
        [None, None],
        pl.Series([1], dtype=pl.UInt8),
    ],
)
def test_binary_labels(values):
    check_labels(pl.DataFrame({"click": values}), schema_of(Task("click")))


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0, 2, -1, 2], "got -1, 2 in 3 rows;"),
        ([0.5, NAN, 1], "got 0.5 in 1 row;"),
        ([float("inf"), 0], "got inf in 1 row;"),
        (list(range(10)), "got 2, 3, 4, 5, 6, … 3 more values in 8 rows;"),
    ],
)
def test_other_binary_labels_are_refused_with_the_values(values, shown):
    with pytest.raises(DataError) as caught:
        check_labels(pl.DataFrame({"click": values}), schema_of(Task("click")), "valid")
    message = str(caught.value)
    assert message.startswith("valid: label 'click' of task 'click' must hold 0, 1 or null")
    assert shown in message


def test_text_label_is_refused():
    with pytest.raises(
        DataError, match="train: label 'clicked' of task 'click' is a column of String"
    ):
        check_labels(
            pl.DataFrame({"clicked": ["0"]}), schema_of(Task("click", label="clicked")), "train"
        )


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e39])
def test_infinite_regression_label_is_refused(value):
    task = Task("spend", kind="regression")
    check_labels(pl.DataFrame({"spend": [-3.5, NAN, None]}), schema_of(task))
    with pytest.raises(
        DataError, match=r"label 'spend' of task 'spend' must hold finite numbers .* in 1 row"
    ):
        check_labels(pl.DataFrame({"spend": [value, 1.0]}), schema_of(task))


# ---------------------------------------------------------------------------------------- orphans

log = pl.DataFrame(
    {
        "user": ["a", "b", "c", "d", "e"],
        "click": [1, 0, None, 0, 0],
        "cart": [1, 1, 1, 1, 0],
        "buy": [1, 1, 1, 0, 1],
    }
)


def test_orphans_are_an_error_by_default():
    schema = schema_of(*FUNNEL, keys=Keys(user="user", time="absent"))
    with pytest.raises(DataError) as caught:
        apply_orphans(log, schema, split="valid")
    assert str(caught.value).startswith(
        "valid: 2 rows with 'cart' = 1 where its parent 'click' = 0: row 1, user b, click 0, "
        "cart 1, buy 1; row 3, user d, click 0, cart 1, buy 0; fix the log, or set orphans "
    )
    assert str(caught.value).endswith(
        " to 'drop' (leave the rows out) or 'zero' (the child did not happen)"
    )


def test_only_the_first_three_rows_are_shown():
    many = pl.DataFrame({"click": [0] * 9, "buy": [1] * 9})
    with pytest.raises(DataError, match="9 rows with 'buy' = 1") as caught:
        apply_orphans(many, schema_of(Task("click"), Task("buy", given="click")))
    assert "row 2," in str(caught.value)
    assert "row 3," not in str(caught.value)


def test_orphans_dropped(caplog):
    found = apply_orphans(log, schema_of(*FUNNEL), "drop", "train")
    assert found["user"].to_list() == ["a", "c"]
    assert (
        "train: 2 rows with 'cart' = 1 where 'click' = 0: dropped; the first: row 1, click 0, "
        "cart 1, buy 1; row 3, click 0, cart 1, buy 0" in caplog.text
    )
    assert (
        "train: 1 row with 'buy' = 1 where 'cart' = 0: dropped; the first: row 4, click 0, "
        "cart 0, buy 1" in caplog.text
    )


def test_a_column_named_row_is_shown_beside_the_rows_number():
    frame = pl.DataFrame({"click": [0], "row": [1]})
    with pytest.raises(DataError, match="row 0, click 0, row 1"):
        apply_orphans(frame, schema_of(Task("click"), Task("row", given="click")))


def test_orphans_zeroed_with_their_children(caplog):
    tasks = FUNNEL[::-1]  # whatever the order of tasks
    found = apply_orphans(log, schema_of(*tasks), "zero")
    assert found["cart"].to_list() == [1, 0, 1, 0, 0]
    assert found["buy"].to_list() == [1, 0, 1, 0, 0]
    assert (
        "2 rows with 'cart' = 1 where 'click' = 0: 'cart' set to 0; the first: row 1, "
        in caplog.text
    )
    assert (
        "2 rows with 'buy' = 1 where 'cart' = 0: 'buy' set to 0; the first: row 1, " in caplog.text
    )


def test_log_without_orphans_is_left_alone():
    tasks = [Task("click"), Task("buy", given="click")]
    frame = pl.DataFrame({"click": [NAN, None, 1, 0, 0], "buy": [1, 1, 1, 0, None]})
    for rule in ("error", "drop", "zero"):
        assert apply_orphans(frame, schema_of(*tasks), rule) is frame


def test_regression_child_is_no_orphan():
    tasks = [Task("buy"), Task("spend", kind="regression", given="buy")]
    frame = pl.DataFrame({"buy": [0], "spend": [1]})
    assert apply_orphans(frame, schema_of(*tasks)) is frame


def test_unknown_rule_names_the_nearest():
    with pytest.raises(DataError, match="unknown value of orphans: 'zeros'; did you mean 'zero'"):
        apply_orphans(log, schema_of(*FUNNEL), "zeros")


# ------------------------------------------------------------------------------------------ leaks

PAIR = [Task("click"), Task("buy", given="click")]


def leaks(columns, tasks=PAIR, sparse=False):
    kind = SparseFeature if sparse else DenseFeature
    labels = {task.column for task in tasks}
    schema = Schema([kind(name) for name in columns if name not in labels], tasks)
    return [(leak.feature, leak.label) for leak in find_leaks(pl.DataFrame(columns), schema)]


LABELS = {"click": [1, 1, 0, 0], "buy": [1, 0, None, 0]}


@pytest.mark.parametrize(
    ("feature", "label"),
    [
        ([1, 1, 0, 0], "the label 'click' of task 'click'"),
        ([True, True, False, False], "the label 'click' of task 'click'"),
        (["1", "1", "0", "0.0"], "the label 'click' of task 'click'"),
        (
            pl.Series(["1", "1", "0", "0"], dtype=pl.Categorical),
            "the label 'click' of task 'click'",
        ),
        ([1, 0, None, 0], "the label 'buy' of task 'buy'"),
        ([1, 0, 7, 0], "the label 'buy' of task 'buy'"),  # 7 where nothing was observed
    ],
)
def test_feature_equal_to_a_label(feature, label):
    found = leaks({"x": feature, **LABELS}, sparse=True)
    assert ("x", label) in found


def test_feature_equal_to_a_joint_label_only():
    columns = {"click": [1, 1, 0, 0], "buy": [1, 0, 1, None], "x": [1, 0, 0, 0]}
    assert leaks(columns) == [("x", "the joint label of task 'buy' (click & buy)")]


@pytest.mark.parametrize(
    "feature",
    [
        [1, 1, 0, 1],
        [1, 1, None, 0],
        ["1", "1", "x", "0"],
        pl.Series([1, 1, 0, 0]).cast(pl.Datetime),
        pl.Series([[1], [1], [0], [0]]),
    ],
)
def test_feature_unlike_any_label(feature):
    assert leaks({"x": feature, "click": [1, 1, 0, 0]}, PAIR[:1], sparse=True) == []


def test_constant_label_cannot_leak():
    assert leaks({"x": [0, 0], "click": [0, 0]}, PAIR[:1]) == []
    assert leaks({"x": [0, 0], "click": [None, None]}, PAIR[:1]) == []


def test_feature_equal_to_a_regression_label():
    task = Task("spend", kind="regression")
    found = leaks({"x": [1.5, None, 3], "spend": [1.5, NAN, 3]}, [task])
    assert found == [("x", "the label 'spend' of task 'spend'")]


def test_rows_after_the_first_ones_are_read():
    label = [0, 1] * 6000
    assert leaks({"x": label, "click": label}, PAIR[:1])
    assert not leaks({"x": [*label[:-1], 0], "click": label}, PAIR[:1])


def test_leak_is_refused_by_name():
    schema = schema_of(Task("click"), features=["x", "y"])
    frame = pl.LazyFrame({"x": [1, 0], "y": [1, 1], "click": [1, 0]})
    message = (
        "feature 'x' equals the label 'click' of task 'click' on all 2 labelled rows: a model "
        "would read the label; remove 'x' from the features"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        check_leaks(frame, schema)
    check_leaks(frame.with_columns(x=pl.lit(1)), schema)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [0]], r"train: label 'click' of task 'click' is a column of List\(Int64\); write"),
        ([{"a": 1}, {"a": 0}], "train: label 'click' of task 'click' is a column of Struct"),
        (
            [float("inf"), 0.0],
            "train: label 'click' of task 'click' must hold 0, 1 or null .*got inf",
        ),
        (
            [-float("inf"), 0.0],
            "train: label 'click' of task 'click' must hold 0, 1 or null .*got -inf",
        ),
    ],
)
def test_labels_that_cannot_be_are_refused_before_they_are_compared(values, message):
    frame = pl.DataFrame({"x": [1, 0], "click": values, "buy": [0, 0]})
    with pytest.raises(DataError, match=message):
        check_leaks(frame, schema_of(*PAIR))


def test_a_bad_label_after_the_first_rows_is_refused_before_it_is_compared():
    label = [0.0, 1.0] * 6000
    frame = pl.DataFrame({"x": label, "click": [*label[:-1], float("inf")], "buy": [0] * 12000})
    with pytest.raises(DataError, match=r"'click' must hold 0, 1 or null .*got inf"):
        check_leaks(frame, schema_of(*PAIR))
