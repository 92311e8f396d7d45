"""One log into training, validation and test rows."""

import datetime
import re
from itertools import chain

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.data.split import split
from polyrank.errors import DataError

FRACTIONS = (0.6, 0.2, 0.2)


def parts(columns, *arguments, **options):
    frame = pl.DataFrame(columns)
    found = split(frame.lazy(), *arguments, **options)
    return [part.collect() for part in found]


def values(columns, column, *arguments, **options):
    return [part[column].to_list() for part in parts(columns, *arguments, **options)]


# ----------------------------------------------------------------------------------------- random


def test_random_rows_are_all_there_once_and_in_order():
    rows = list(range(100))
    found = values({"row": rows, "x": rows}, "x", "random", FRACTIONS, seed=3)
    assert [len(part) for part in found] == [60, 20, 20]
    assert sorted(chain(*found)) == rows
    assert all(part == sorted(part) for part in found)
    assert found[0] != rows[:60]


def test_random_depends_on_the_seed_alone():
    rows = {"x": list(range(50))}
    assert values(rows, "x", "random", seed=1) == values(rows, "x", "random", seed=1)
    assert values(rows, "x", "random", seed=1) != values(rows, "x", "random", seed=2)


def test_columns_stay_as_they_were():
    for part in parts({"row": [1, 2, 3], "row_": [1, 2, 3]}, "random"):
        assert part.columns == ["row", "row_"]


def test_part_of_0_is_empty():
    found = values({"x": list(range(7))}, "x", "random", (0.7, 0.3, 0.0))
    assert [len(part) for part in found] == [5, 2, 0]
    found = values({"x": list(range(7))}, "x", "random", (0.7, 0.0, 0.3))
    assert [len(part) for part in found] == [5, 0, 2]


def test_one_row_is_for_training():
    assert values({"x": [1]}, "x", "random", (0.1, 0.1, 0.8)) == [[1], [], []]


# ------------------------------------------------------------------------------------------- user


@given(st.lists(st.one_of(st.none(), st.integers(0, 9)), min_size=1, max_size=40), st.randoms())
def test_users_are_whole_and_independent_of_order(users, random):
    found = [set(part) for part in values({"user": users}, "user", "user", FRACTIONS, "user")]
    assert not found[0] & found[1]
    assert not (found[0] | found[1]) & found[2]
    assert found[0] | found[1] | found[2] == set(users)
    random.shuffle(users)
    again = [set(part) for part in values({"user": users}, "user", "user", FRACTIONS, "user")]
    assert again == found


def test_users_are_counted_and_drawn():
    users = [user for user in range(100) for _ in range(user % 3 + 1)]
    found = [set(part) for part in values({"user": users}, "user", "user", FRACTIONS, "user", 1)]
    assert [len(part) for part in found] == [60, 20, 20]
    assert found[0] != set(range(60))
    other = values({"user": users}, "user", "user", FRACTIONS, "user", 2)
    assert set(other[0]) != found[0]


def test_integer_users_are_split_alike_as_numbers_and_as_text():
    users = [user % 37 for user in range(100)]
    numbers = values({"user": users}, "user", "user", FRACTIONS, "user")
    texts = values({"user": [str(user) for user in users]}, "user", "user", FRACTIONS, "user")
    assert texts == [[str(user) for user in part] for part in numbers]
    both = values({"user": ["7", "7.0", *map(str, range(9))]}, "user", "user", FRACTIONS, "user")
    assert [("7" in part, "7.0" in part) for part in both].count((True, True)) == 1


def test_text_users():
    users = ["a", "b", "c", "a", None]
    found = values({"user": users}, "user", "user", FRACTIONS, "user")
    assert sorted(chain(*found), key=str) == sorted(users, key=str)


# ------------------------------------------------------------------------------------------- time


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.randoms())
def test_time_trains_on_the_earliest_and_never_cuts_a_time(times, random):
    columns = {"time": times}
    try:
        found = values(columns, "time", "time", FRACTIONS, "time")
    except DataError:
        share = times.count(min(times)) / len(times)
        assert share / 2 >= 0.6
        return
    bounds = [time for part in found if part for time in (min(part), max(part))]
    assert bounds == sorted(bounds)
    assert sum(len(set(part)) for part in found) == len(set(times))
    assert sorted(chain(*found)) == sorted(times)
    random.shuffle(times)
    again = values({"time": times}, "time", "time", FRACTIONS, "time")
    assert [sorted(part) for part in again] == [sorted(part) for part in found]


def test_distinct_times_are_cut_at_the_fractions():
    times = list(range(10))
    assert values({"t": times}, "t", "time", FRACTIONS, "t") == [times[:6], times[6:8], times[8:]]


def test_dates_and_order_of_rows():
    days = [datetime.date(2020, 1, day) for day in (3, 1, 2, 1, 1)]
    found = values({"day": days, "x": [0, 1, 2, 3, 4]}, "x", "time", FRACTIONS, "day")
    assert found == [[1, 3, 4], [2], [0]]


def test_first_time_of_too_many_rows():
    with pytest.raises(DataError, match="'day' leaves no training rows: 100% of the rows"):
        parts({"day": [1, 1, 1]}, "time", (0.3, 0.3, 0.4), "day")


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_null_time_is_refused_with_the_count(missing):
    with pytest.raises(DataError, match="'day' is null in 1 row; leave them out"):
        parts({"day": [1.0, missing]}, "time", FRACTIONS, "day")


def test_text_times_that_are_all_numbers_are_ordered_as_numbers():
    texts = ["9", "10", "8", "11", "10.0"]
    assert values({"t": texts}, "t", "time", FRACTIONS, "t") == [["9", "8"], ["10", "10.0"], ["11"]]
    days = ["2020-01-10", "2020-01-09", "2020-01-08"]
    assert values({"t": days}, "t", "time", (0.4, 0.3, 0.3), "t") == [[day] for day in days[::-1]]


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%.3f+08:00"]
)
@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime, pl.Datetime("ms", "UTC")])
def test_dates_and_iso_text_are_split_alike(form, dtype):
    days = [datetime.date(2023, 12, 1) + datetime.timedelta(day) for day in range(60)][::-1]
    times = pl.Series("day", days).cast(dtype)
    typed = split(pl.DataFrame({"day": times, "x": range(60)}), "time", FRACTIONS, "day")
    text = times.cast(pl.Datetime).dt.strftime(form)
    texts = split(pl.DataFrame({"day": text, "x": range(60)}), "time", FRACTIONS, "day")
    for one, other in zip(typed, texts, strict=True):
        assert one.collect()["x"].equals(other.collect()["x"])
    assert typed[0].collect()["x"].min() == 24


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        (["2024-01-31", "31/01/2024"], "'31/01/2024', '2024-01-31'"),
        (["2024-1-5", "2024-1-6"], "got '2024-1-5'"),
        (["2024-01-05", "2024-01-05T09:30"], "'2024-01-05', '2024-01-05T09:30'"),
        (["2024-01-05T09:30+01:00", "2024-01-05T09:30Z"], "'2024-01-05T09:30"),
        (["noon", "1"], "got '1'"),
    ],
)
def test_text_whose_order_is_not_that_of_time_is_refused(times, shown):
    with pytest.raises(
        DataError, match=rf"the times in 't' must be numbers, dates, or ISO.*{shown}"
    ):
        parts({"t": times}, "time", FRACTIONS, "t")


def test_a_column_may_be_named_rows():
    times = list(range(10))
    assert values({"rows": times}, "rows", "time", FRACTIONS, "rows")[0] == times[:6]


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "fractions", [(0.8, 0.2), (0.8, 0.3, -0.1), (0.8, 0.1, 0.2), (float("nan"), 0.5, 0.5)]
)
def test_fractions_are_three_parts_of_one(fractions):
    with pytest.raises(
        DataError, match=re.escape(f"sum to 1 (train, valid, test), got {list(fractions)}")
    ):
        parts({"x": [1]}, "random", fractions)


def test_training_fraction_is_above_0():
    with pytest.raises(DataError, match="the training fraction must be above 0"):
        parts({"x": [1]}, "random", (0, 0.5, 0.5))


def test_unknown_split_names_the_nearest():
    with pytest.raises(DataError, match="unknown split 'users'; did you mean 'user'"):
        parts({"x": [1]}, "users")


@pytest.mark.parametrize("by", ["user", "time"])
def test_column_is_needed(by):
    with pytest.raises(DataError, match=f"a split by {by} needs column"):
        parts({"x": [1]}, by)


def test_missing_column_names_the_nearest():
    with pytest.raises(DataError, match="column 'usr' is not in the data; did you mean 'user'"):
        parts({"user": [1]}, "user", column="usr")


@pytest.mark.parametrize("by", ["random", "user", "time"])
def test_no_rows(by):
    with pytest.raises(DataError, match="no rows to split"):
        parts({"x": []}, by, column="x")


def test_files_are_split_without_being_read(tmp_path):
    path = tmp_path / "log.csv"
    pl.DataFrame({"x": range(1000)}).write_csv(path)
    found = [part.collect()["x"].to_list() for part in split(pl.scan_csv(path), "random")]
    assert [len(part) for part in found] == [800, 100, 100]
    assert sorted(chain(*found)) == list(range(1000))
