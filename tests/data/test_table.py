"""Encoding of whole rows, and the batches cut from them."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError, SchemaError
from polyrank.labels import Regression, WatchTime
from polyrank.layout import Layout
from polyrank.metrics.inputs import key_codes
from polyrank.registry import register, unregister
from polyrank.schema import DenseFeature, Keys, Schema, SparseFeature, Task

SCHEMA = Schema(
    features=[
        SparseFeature("item"),
        DenseFeature("price", encoding="standard"),
        DenseFeature("age", encoding="bins", bins=2),
        SparseFeature("shop", embed_dim=8),
        DenseFeature("stock", encoding="piecewise_linear", bins=2),
        SparseFeature("last", shared_with="item"),
    ],
    tasks=[Task("click"), Task("buy", given="click")],
    keys=Keys(user="user", time="day", weight="weight"),
)
COLUMNS = {
    "item": [1, 2, 2, None],
    "price": [1.0, 3.0, None, 2.0],
    "age": [10, 20, None, 20],
    "shop": ["a", "b", "a", "a"],
    "stock": [0, 1, 2, 4],
    "last": [1, 2, 1, 1],
    "click": [1, 0, None, 1],
    "buy": [1, None, 0, 0],
    "weight": [1, 2, 0, 1],
    "user": ["u", "v", "u", "w"],
    "day": [3, 1, 2, 4],
    "true_p_buy": [0.1, 0.2, 0.3, 0.4],
    "unused": [object()] * 4,
}
LOG = pl.DataFrame({name: values for name, values in COLUMNS.items() if name != "unused"})
VOCAB = Vocab.fit(LOG, SCHEMA)
LAYOUT = Layout(SCHEMA, VOCAB, {"item": 4, "age": 4, "shop": 8})


def encoded(**changes):
    columns = {name: values for name, values in COLUMNS.items() if name != "unused"} | changes
    frame = pl.DataFrame({name: values for name, values in columns.items() if values is not None})
    return encode(frame, SCHEMA, VOCAB, split="train")


def large(rows=20_000):
    """A table long enough to count dropped ids in; item and last have 90 ids, none of them rare."""
    rng = np.random.default_rng(0)
    schema = Schema(
        [
            SparseFeature("item"),
            DenseFeature("age", encoding="bins"),
            SparseFeature("raw", vocab_size=50),
        ],
        [Task("click")],
    )
    log = pl.DataFrame(
        {
            "item": rng.integers(0, 90, rows),
            "age": rng.normal(size=rows),
            "raw": rng.integers(1, 50, rows),
            "click": rng.integers(0, 2, rows),
        }
    )
    vocab = Vocab.fit(log, schema)
    layout = Layout(schema, vocab, {"item": 4, "age": 4, "raw": 4})
    return encode(log, schema, vocab), layout


# ----------------------------------------------------------------------------------------- encode


def test_columns_by_hand():
    table = encoded()
    assert len(table) == 4
    # id features: item, shop, last, age; item and last share {1: 4 times, 2: 3 times, null: once}
    assert table.ids.dtype == np.int32
    assert table.ids.tolist() == [[1, 2, 2, 3], [1, 2, 1, 1], [1, 2, 1, 1], [1, 2, 0, 2]]
    assert table.dense.dtype == np.float32
    assert table.dense.shape == (4, 2 + 2)
    deviation = np.std([1, 3, 2])
    assert table.dense[:, 0] == pytest.approx(np.array([-1, 1, 0, 0]) / deviation)
    assert table.dense[:, 1].tolist() == [0, 0, 1, 0]
    # edges of stock: 0, 1, 4
    assert table.dense[:, 2] == pytest.approx([0, 1, 1, 1])
    assert table.dense[:, 3] == pytest.approx([0, 0, 1 / 3, 1])
    assert table.labels.dtype == np.float32
    assert np.array_equal(table.labels, [[1, 1], [0, np.nan], [np.nan, 0], [1, 0]], equal_nan=True)
    assert table.weight.dtype == np.float32
    assert table.weight.tolist() == [1, 2, 0, 1]
    assert table.keys.columns == ["user", "day"]
    assert set(table.truth) == {"p_buy"}
    assert table.truth["p_buy"].dtype == np.float64
    assert table.unseen == {"item": 0, "shop": 0, "last": 0}
    assert table.nulls == {"item": 1, "age": 1, "shop": 0, "last": 0, "price": 1, "stock": 0}


def test_raw_numbers_are_kept_where_they_are_asked_for():
    features = [DenseFeature("p", encoding="log"), SparseFeature("item"), DenseFeature("q")]
    schema = Schema(features, [Task("click")])
    rows = {"p": [1.5, None, 1e-36], "item": [1, 2, 1], "q": [3, 4, 2**24 + 1], "click": [0, 1, 1]}
    frame = pl.DataFrame(rows)
    vocab = Vocab.fit(frame, schema)
    found = encode(frame, schema, vocab, numbers=True).numbers
    # In the order of schema.features, as float32, before any encoding.
    expected = np.array([[1.5, 3], [np.nan, 4], [1e-36, 2**24]], np.float32)
    np.testing.assert_array_equal(found, expected, strict=True)
    without = encode(frame, schema, vocab)
    assert without.numbers.shape == (3, 0)
    asked = encode(frame, schema, vocab, labels=False, numbers=True)
    np.testing.assert_array_equal(asked.numbers, expected, strict=True)


def test_columns_by_name():
    table = encoded()
    columns = table.columns()
    assert list(columns) == [feature.name for feature in SCHEMA.features]
    assert columns["shop"].tolist() == [1, 2, 1, 1]
    assert np.array_equal(columns["stock"], table.dense[:, 2:])
    assert np.shares_memory(columns["stock"], table.dense)


def test_without_labels_only_inputs_are_read():
    frame = LOG.drop("click", "buy", "weight", "user", "true_p_buy")
    table = encode(frame.lazy(), SCHEMA, VOCAB, labels=False)
    assert table.labels.shape == (4, 0)
    assert table.labels.dtype == np.float32
    assert table.weight is None
    assert table.keys.columns == ["day"]
    assert table.truth == {}
    assert np.array_equal(table.ids, encoded().ids)
    (batch,) = table.batches(LAYOUT, 9)
    assert batch.labels.shape == (4, 0)


def test_unseen_ids_are_counted_by_feature():
    table = encoded(item=[1, 7, 8, None], shop=["x", "a", "a", None])
    assert table.unseen == {"item": 2, "shop": 1, "last": 0}
    assert table.nulls["item"] == table.nulls["shop"] == 1
    assert table.columns()["item"].tolist() == [1, 0, 0, 3]


def test_no_rows():
    with pytest.raises(DataError, match="no rows in valid"):
        encode(LOG.clear(), SCHEMA, VOCAB, split="valid")


def test_no_rows_to_predict():
    with pytest.raises(DataError, match=r"^there are no rows to predict$"):
        encode(LOG.clear(), SCHEMA, VOCAB, split="rows", labels=False)


def test_orphans_follow_the_rule():
    frame = LOG.with_columns(click=pl.Series([0, 0, None, 1]))
    with pytest.raises(DataError, match="test: 1 row with 'buy' = 1"):
        encode(frame, SCHEMA, VOCAB, split="test")
    dropped = encode(frame, SCHEMA, VOCAB, orphans="drop")
    assert len(dropped) == len(dropped.keys) == len(dropped.truth["p_buy"]) == 3
    assert encode(frame, SCHEMA, VOCAB, orphans="zero").labels[0].tolist() == [0, 0]


def test_the_inputs_lose_the_rows_that_the_labels_lose():
    frame = LOG.with_columns(click=pl.Series([1, 0, None, 1]), buy=pl.Series([1, 1, 0, 0]))
    table, whole = encode(frame, SCHEMA, VOCAB, orphans="drop"), encoded()
    assert np.array_equal(table.ids, whole.ids[:, [0, 2, 3]])
    assert np.array_equal(table.dense, whole.dense[[0, 2, 3]])
    assert table.keys["day"].to_list() == [3, 2, 4]


def test_every_source_gives_the_same_table(tmp_path):
    LOG.write_parquet(tmp_path / "log.parquet")
    LOG.write_csv(tmp_path / "log.csv")
    whole = encoded()
    for name in ("log.parquet", "log.csv"):
        frame = read(tmp_path / name, SCHEMA)
        table = encode(frame, SCHEMA, Vocab.fit(frame, SCHEMA))
        assert np.array_equal(table.ids, whole.ids)
        assert np.array_equal(table.dense, whole.dense)
        assert np.array_equal(table.labels, whole.labels, equal_nan=True)


def test_csv_ids_do_not_depend_on_what_else_the_file_holds(tmp_path):
    schema = Schema([SparseFeature("zip"), SparseFeature("raw", vocab_size=9)], [Task("click")])
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("zip,raw,click\n00001,1,1\n00002,8,0\nK1A0B1,2.0,0\n,3,1\n")
    test.write_text("zip,raw,click\n00002,8,1\n1,9,0\n00001,01,0\n,,0\n")
    vocab = Vocab.fit(read(train, schema), schema)
    table = encode(read(test, schema), schema, vocab)
    values = vocab.tables["zip"].values.to_list()
    assert table.ids[0].tolist() == [
        values.index("00002") + 1, 0, values.index("00001") + 1, values.index(None) + 1
    ]  # fmt: skip
    assert table.unseen == {"zip": 1, "raw": 2}
    assert table.ids[1].tolist() == [8, 0, 0, 0]
    assert table.nulls == {"zip": 1, "raw": 1}


def test_a_lazy_frame_is_run_once_to_fit_and_once_to_encode():
    runs = []
    frame = LOG.lazy().map_batches(lambda rows: runs.append(rows.height) or rows)
    vocab = Vocab.fit(frame, SCHEMA)
    assert runs == [4]
    encode(frame, SCHEMA, vocab)
    assert runs == [4, 4]


def test_only_orphans():
    frame = LOG[:1].with_columns(click=0)
    with pytest.raises(DataError, match="no rows in train after its orphans were dropped"):
        encode(frame, SCHEMA, VOCAB, split="train", orphans="drop")


def test_labels_are_checked():
    with pytest.raises(DataError, match="train: label 'click' of task 'click' must hold 0, 1"):
        encoded(click=[1, 2, 0, 0])


def test_missing_label_is_named():
    with pytest.raises(DataError, match="column 'click' is not in the data"):
        encoded(click=None)


def test_large_user_ids_stay_apart_where_one_is_null():
    users = [2**53, 2**53 + 1, None, 2**53]
    assert encoded(user=users).user.to_list() == users
    assert key_codes("user", encoded(user=users).user).tolist() == [0, 1, 2, 0]


def test_a_table_without_users_has_none():
    assert encoded(user=None).user is None
    schema = Schema([SparseFeature("item")], [Task("click")])
    assert encode(LOG, schema, Vocab.fit(LOG, schema)).user is None


def test_requests_are_a_key_like_users():
    schema = Schema([SparseFeature("item")], [Task("click")], Keys(request="user"))
    vocab = Vocab.fit(LOG, schema)
    assert encode(LOG, schema, vocab).request.to_list() == ["u", "v", "u", "w"]
    assert encode(LOG.drop("user"), schema, vocab, labels=False).request is None
    assert encoded().request is None


def test_missing_key_is_logged_once_labels_are_read(caplog):
    assert encoded(user=None).keys.columns == ["day"]
    assert "train: the key column 'user' is not in the data" in caplog.text


@pytest.mark.parametrize("value", [-1.0, None, float("nan"), float("inf")])
def test_weights_that_cannot_be_are_refused(value):
    message = r"train: the weight 'weight' must hold finite numbers of at least 0, but 1 of"
    with pytest.raises(DataError, match=message) as caught:
        encoded(weight=[1.0, 0.0, value, 1.0])
    assert f"the first {value} in row 2" in str(caught.value)


def test_text_weight_is_refused():
    with pytest.raises(DataError, match="train: the weight 'weight' must hold numbers, got String"):
        encoded(weight=["1"] * 4)


def test_infinite_dense_value_is_refused():
    with pytest.raises(DataError, match="column 'price' has 2 infinite values"):
        encoded(price=[1.0, float("inf"), -float("inf"), 0.0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1"] * 4, "train: the truth 'true_p_buy' must hold numbers, got String"),
        (
            [0.1, None, 0.2, None],
            "'true_p_buy' must hold probabilities, but 2 of .*, the first None in row 1",
        ),
        (
            [0.1, 0.2, 1.5, 1.0],
            "1 of its values are not, the first 1.5 in row 2",
        ),
        ([0.1, 0.2, 0.3, float("nan")], "the first nan in row 3"),
        ([-0.1, 0.2, 0.3, 0.4], "the first -0.1 in row 0"),
        ([None] * 4, "4 of its values are not"),
    ],
)
def test_truth_that_is_no_probability_is_refused(values, message):
    with pytest.raises(DataError, match=message):
        encoded(true_p_buy=pl.Series(values))


def test_truth_is_not_read_to_predict():
    frame = LOG.with_columns(true_p_buy=pl.lit("?"))
    assert encode(frame, SCHEMA, VOCAB, labels=False).truth == {}


def test_truth_of_a_regression_is_not_read_and_says_so(caplog):
    schema = Schema(
        [DenseFeature("x", encoding="standard")],
        [Task("buy"), Task("spend", None, "regression", "buy")],
    )
    log = pl.DataFrame({"x": [1.0], "buy": [1], "spend": [2.0], "true_spend": ["?"]})
    with caplog.at_level("INFO"):
        table = encode(log.with_columns(true_p_buy=0.5), schema, Vocab.fit(log, schema))
    assert set(table.truth) == {"p_buy"}
    assert "data: 'true_spend' is no probability: not read" in caplog.text


def test_truth_of_every_output():
    frame = LOG.with_columns(true_p_click=0.5, true_p_buy_given_click=0.2, true_other=1.0)
    table = encode(frame, SCHEMA, VOCAB)
    assert list(table.truth) == ["p_click", "p_buy_given_click", "p_buy"]


@given(st.permutations(range(4)))
def test_encoding_does_not_depend_on_the_order_of_rows(order):
    first = encoded()
    second = encode(LOG[list(order)], SCHEMA, Vocab.fit(LOG[list(order)], SCHEMA))
    assert np.array_equal(second.ids, first.ids[:, order])
    assert np.array_equal(second.dense, first.dense[order])
    assert np.array_equal(second.labels, first.labels[order], equal_nan=True)


# ---------------------------------------------------------------------------------------- batches


def test_batches_hold_the_rows_in_order_with_offsets():
    table = encoded()
    batches = list(table.batches(LAYOUT, 3))
    assert [len(batch) for batch in batches] == [3, 1]
    first = batches[0]
    # width 4 packs item (rows 0-3), then age; shop has a pack of its own
    assert LAYOUT.offsets.tolist() == [0, 0, 0, 4]
    assert first.ids.tolist() == [[1, 2, 2], [1, 2, 1], [1, 2, 1], [5, 6, 4]]
    for batch in batches:
        assert (batch.ids.dtype, batch.dense.dtype, batch.labels.dtype) == (
            np.int32,
            np.float32,
            np.float32,
        )
        assert batch.ids.flags.c_contiguous
        assert batch.ids.shape == (4, len(batch))
    assert np.array_equal(np.concatenate([batch.dense for batch in batches]), table.dense)
    assert np.concatenate([batch.weight for batch in batches]).tolist() == table.weight.tolist()


def test_table_is_not_changed_by_its_batches():
    table, layout = large(1000)
    before = table.ids.copy()
    for shuffle in (False, True):
        list(table.batches(layout, 100, shuffle=shuffle, unseen_rate=0.5))
    assert np.array_equal(table.ids, before)


def same(first, second):
    return all(np.array_equal(a.ids, b.ids) for a, b in zip(first, second, strict=True))


def test_shuffle_is_a_permutation_that_seed_and_epoch_decide():
    table, layout = large(1000)

    def batches(**changes):
        return list(table.batches(layout, 64, shuffle=True, **({"seed": 1, "epoch": 2} | changes)))

    ids = np.concatenate([batch.ids for batch in batches()], axis=1)
    dense = np.concatenate([batch.labels for batch in batches()])
    rows = table.ids + layout.offsets[:, None]
    order = np.random.default_rng([1, 2]).permutation(1000)
    assert np.array_equal(ids, rows[:, order])
    assert np.array_equal(dense, table.labels[order])
    assert same(batches(), batches())
    assert not same(batches(), batches(seed=2))
    assert not same(batches(), batches(epoch=3))


def test_ids_are_dropped_at_the_rate_and_never_bins():
    table, layout = large()
    plain = table.ids + layout.offsets[:, None]
    ids = np.concatenate(
        [batch.ids for batch in table.batches(layout, 512, unseen_rate=0.05)], axis=1
    )
    changed = ids != plain
    assert np.array_equal(
        ids[changed], np.broadcast_to(layout.offsets[:, None], ids.shape)[changed]
    )
    assert not changed[2].any()
    for field in (0, 1):  # 20,000 cells: the standard deviation of the share is .0015
        assert changed[field].mean() == pytest.approx(0.05, abs=0.008)


@pytest.mark.parametrize(("rate", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_ends_of_the_rate(rate, share):
    table, layout = large(100)
    (batch,) = table.batches(layout, 100, unseen_rate=rate)
    assert (batch.ids[0] == layout.offsets[0]).mean() == share


def test_dropped_ids_depend_on_seed_epoch_and_batch_alone():
    table, layout = large(1000)

    def batches(**changes):
        return list(table.batches(layout, 100, unseen_rate=0.1, **changes))

    assert same(batches(), batches())
    assert not same(batches(), batches(seed=1))
    assert not same(batches(), batches(epoch=1))
    plain = table.ids + layout.offsets[:, None]
    dropped = [batch.ids != plain[:, 100 * i : 100 * i + 100] for i, batch in enumerate(batches())]
    assert not np.array_equal(dropped[0], dropped[1])


def test_batch_of_no_rows_is_refused():
    with pytest.raises(DataError, match="at least 1 row, got size 0"):
        next(encoded().batches(LAYOUT, 0))


def test_tables_and_batches_are_compared_as_objects():
    table = encoded()
    assert table in [table]
    assert table != encoded()  # arrays would have no truth value
    first, second = table.batches(LAYOUT, 2)
    assert first != second


# ---------------------------------------------------------------- columns that labels are read with


@dataclass(frozen=True, kw_only=True)
class Watched(Regression):
    """Seconds, read with how long the video is."""

    name = "watched"

    @property
    def reads(self):
        return ("length",)


WATCHED = Task("seconds", kind=Watched())


@pytest.fixture
def watched():
    register("label", "watched", Watched)
    yield
    unregister("label", "watched")


VIDEOS = pl.DataFrame({"item": [1, 2, 1], "length": [9, None, 30], "seconds": [3.5, None, 0.0]})


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("labels", [True, False])
def test_a_column_that_a_label_is_read_with_is_in_tables_and_batches(labels):
    schema = Schema([SparseFeature("item")], [WATCHED])
    vocab = Vocab.fit(VIDEOS, schema)
    table = encode(VIDEOS if labels else VIDEOS.drop("seconds"), schema, vocab, labels=labels)
    np.testing.assert_array_equal(table.extras, np.array([[9], [np.nan], [30]], np.float32))
    layout = Layout(schema, vocab, {"item": 2})
    order = np.random.default_rng([1, 0]).permutation(3)
    batches = list(table.batches(layout, 2, shuffle=True, seed=1))
    found = np.concatenate([batch.extras for batch in batches])
    np.testing.assert_array_equal(found, table.extras[order])


def test_without_such_a_column_batches_have_none():
    (batch,) = encoded().batches(LAYOUT, 9)
    assert batch.extras is None


@pytest.mark.usefixtures("watched")
def test_such_a_column_must_hold_numbers():
    schema = Schema([SparseFeature("item")], [WATCHED])
    vocab = Vocab.fit(VIDEOS, schema)
    with pytest.raises(DataError, match="column 'length' must hold numbers, got String"):
        encode(VIDEOS.with_columns(length=pl.lit("long")), schema, vocab, labels=False)


@pytest.mark.usefixtures("watched")
def test_such_a_column_may_be_a_feature_of_numbers_too():
    schema = Schema([SparseFeature("item"), DenseFeature("length")], [WATCHED])
    assert schema.inputs == ("item", "length")
    assert Schema([SparseFeature("item")], [WATCHED]).inputs == ("item", "length")


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    ("features", "tasks", "message"),
    [
        (["length"], [WATCHED], "'length' is a sparse feature, and a kind of label reads it"),
        (["item"], [WATCHED, Task("length")], "'length' is read at prediction by a kind of label"),
    ],
)
def test_such_a_column_is_no_id_and_no_label(features, tasks, message):
    with pytest.raises(SchemaError, match=message):
        Schema([SparseFeature(name) for name in features], tasks)


def test_id_dropout_reaches_exact_values_and_no_bins():
    schema = Schema(
        [DenseFeature("price", encoding=["bins", "values", "none"], min_count=1)], [Task("click")]
    )
    frame = read({"price": [1.0, 2.0, 3.0, None] * 25, "click": [0, 1] * 50})
    vocab = Vocab.fit(frame, schema)
    table = encode(frame, schema, vocab)
    layout = Layout(schema, vocab, dict.fromkeys(schema.tables, 4))
    (batch,) = table.batches(layout, 100, unseen_rate=1.0)
    first = layout.offsets.tolist()
    assert batch.ids.tolist() == [table.ids[0].tolist(), [first[1]] * 100]
    assert table.columns()["price#none"].tolist() == batch.dense.tolist()


def played(over="clip"):
    kind = WatchTime(duration="length", over=over)
    schema = Schema([SparseFeature("item")], [Task("play", kind=kind)])
    log = pl.DataFrame(
        {"item": [1, 2, 3, 4], "play": [5.0, 9.0, 4.0, None], "length": [7.0, 6.0, 0.0, 3.0]}
    )
    return log, schema, Vocab.fit(log, schema)


def test_watch_time_is_learned_up_to_its_duration_and_what_is_clipped_is_counted(caplog):
    log, schema, vocab = played()
    with caplog.at_level("INFO"):
        table = encode(log, schema, vocab, split="train")
    np.testing.assert_array_equal(table.labels[:, 0], [5, 6, 4, np.nan])
    np.testing.assert_array_equal(table.extras[:, 0], [7, 6, 0, 3])
    assert (
        "train: 1 row of label 'play' (task 'play') with a watch time above the duration "
        "'length': they count as watched to the end, once (over = 'clip')"
    ) in caplog.text
    assert "1 row of label 'play' (task 'play') with an unknown duration 'length'" in caplog.text


def test_watch_time_above_its_duration_is_refused_if_it_is_an_error():
    log, schema, vocab = played("error")
    with pytest.raises(
        DataError, match=r"train: 1 row .* the duration 'length', the first in row 1"
    ):
        encode(log, schema, vocab, split="train")
    assert len(encode(log, schema, vocab, labels=False)) == 4


def test_a_duration_that_is_missing_from_the_data_is_named():
    log, schema, vocab = played()
    with pytest.raises(DataError, match="length"):
        encode(log.drop("length"), schema, vocab, labels=False)


def test_a_negative_watch_time_is_refused():
    log, schema, vocab = played()
    log = log.with_columns(play=pl.lit(-1.0))
    with pytest.raises(DataError, match=r"finite numbers of at least 0 or null .*got -1 in 4 rows"):
        encode(log, schema, vocab)
