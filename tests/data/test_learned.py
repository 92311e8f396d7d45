"""What a model has learned from is told by time, or by what the rows and the files hold."""

from datetime import date

import polars as pl
import pytest

import polyrank as pr
from polyrank.data.learned import Learned, fingerprint, learned_of, refuse_learned
from polyrank.errors import DataError

FEATURES = [pr.SparseFeature("item"), pr.SequenceFeature("seen"), pr.DenseFeature("price")]
TIMED = pr.Schema(FEATURES, [pr.Task("click")], pr.Keys(time="day"))
UNTIMED = pr.Schema(FEATURES, [pr.Task("click")])


def rows(day=1, item="a"):
    return pl.DataFrame(
        {
            "item": [item, "b", None],
            "seen": [[1, 2], [], None],
            "price": [1.0, None, 2.5],
            "click": [0, 1, 1],
            "day": [day] * 3,
        }
    )


def test_a_span_of_time():
    found = learned_of(rows(day=date(2026, 3, 1)), TIMED)
    assert found == Learned(rows=3, time="day", first="2026-03-01", last="2026-03-01")
    refuse_learned(learned_of(rows(day=date(2026, 3, 2)), TIMED), [found])
    message = "begin at day '2026-03-01', and the model has learned rows up to '2026-03-01'"
    with pytest.raises(DataError, match=message):
        refuse_learned(found, [found])


def test_a_time_of_another_type_or_another_name():
    old = learned_of(rows(day=1), TIMED)
    with pytest.raises(DataError, match="was such as 1, and is now such as 'monday'"):
        refuse_learned(learned_of(rows(day="monday"), TIMED), [old])
    other = Learned(rows=3, time="hour", first=2, last=3)
    with pytest.raises(DataError, match="known by their time 'day', and the new ones have 'hour'"):
        refuse_learned(other, [old])


def test_a_time_that_is_missing():
    with pytest.raises(DataError, match="the time 'day' is null in 3 training rows"):
        learned_of(rows(day=None), TIMED)
    with pytest.raises(DataError, match="known by their time, and the new ones by what they hold"):
        refuse_learned(learned_of(rows(), UNTIMED), [learned_of(rows(), TIMED)])


def test_rows_and_files_are_known_by_what_they_hold(tmp_path):
    old, new = learned_of(rows(), UNTIMED), learned_of(rows(item="c"), UNTIMED)
    refuse_learned(new, [old])
    with pytest.raises(DataError, match="1 of 1 files or frames of training rows were learned"):
        refuse_learned(learned_of(rows(day=9), UNTIMED), [old])  # which no schema reads
    for number, each in enumerate([rows(), rows(item="c")]):
        each.write_parquet(tmp_path / f"{number}.parquet")
    one = learned_of(str(tmp_path / "0.parquet"), UNTIMED)
    with pytest.raises(DataError, match="1 of 2 files"):
        refuse_learned(learned_of(str(tmp_path / "*.parquet"), UNTIMED), [one])
    refuse_learned(learned_of(tmp_path / "1.parquet", UNTIMED), [one])


@pytest.mark.parametrize("column", ["item", "seen", "price", "click"])
def test_a_fingerprint_tells_every_column(column):
    changed = {
        "item": ["a", "b", "b"], "seen": [[1], [2], None], "price": [1.0, 0.0, 2.5],
        "click": [0, 1, 0],
    }  # fmt: skip
    other = rows().with_columns(pl.Series(column, changed[column]))
    assert fingerprint(other.lazy(), UNTIMED) != fingerprint(rows().lazy(), UNTIMED)
