"""Lists of ids as ragged arrays: flattening, gathering, encoding, batches."""

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError
from polyrank.features.bags import Bag, flattened, offsets_of
from polyrank.layout import Layout
from polyrank.schema import DenseFeature, Schema, SequenceFeature, SparseFeature, Task

TASKS = [Task("click")]
lists = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=12)


def bag_of(rows):
    ids = np.array([each for row in rows for each in row], dtype=np.int32)
    return Bag(ids, offsets_of(np.array([len(row) for row in rows], dtype=np.int64)))


def rows_of(bag):
    return [bag.ids[a:b].tolist() for a, b in zip(bag.offsets, bag.offsets[1:], strict=False)]


# ------------------------------------------------------------------------------------------ gather


@given(lists, st.data())
def test_taking_rows_is_pythons(rows, data):
    numbers = st.lists(st.integers(0, max(len(rows) - 1, 0)), max_size=20 if rows else 0)
    order = data.draw(numbers)
    taken = bag_of(rows).take(np.array(order, dtype=np.int64))
    assert rows_of(taken) == [rows[number] for number in order]
    assert taken.ids.dtype == np.int32
    assert taken.offsets.dtype == np.int64


@given(lists, st.integers(0, 14), st.integers(0, 14))
def test_a_slice_of_rows_is_pythons(rows, start, stop):
    assert rows_of(bag_of(rows).take(slice(start, stop))) == rows[start:stop]


@pytest.mark.parametrize("rows", [slice(0, 1), np.array([0])])
def test_what_is_taken_is_a_copy(rows):
    bag = bag_of([[1, 2], [3]])
    bag.take(rows).ids[:] = 0
    assert bag.ids.tolist() == [1, 2, 3]
    assert len(bag) == 2
    assert bag.nbytes == 3 * 4 + 3 * 8


# --------------------------------------------------------------------------------------- flattening


@given(st.lists(st.none() | st.lists(st.none() | st.integers(-2, 2), max_size=4), max_size=10))
def test_flattening_is_pythons(rows):
    values, offsets, nulls, weights = flattened(
        pl.Series("a", rows, dtype=pl.List(pl.Int64)), padding=0
    )
    kept = [[each for each in row or [] if each != 0] for row in rows]
    assert values.to_list() == [each for row in kept for each in row]
    assert offsets.tolist() == offsets_of(np.array([len(row) for row in kept], np.int64)).tolist()
    assert nulls == sum(row is None for row in rows)
    assert values.name == "a"
    assert weights is None


pairs = st.lists(st.tuples(st.integers(-2, 2), st.floats(-9, 9, width=32)), max_size=5)


@given(st.lists(st.none() | pairs, max_size=10), st.none() | st.integers(1, 4))
def test_weights_and_the_longest_list_are_pythons(rows, most):
    ids = pl.Series("a", [row and [i for i, _ in row] for row in rows], dtype=pl.List(pl.Int64))
    numbers = [row and [w for _, w in row] for row in rows]
    weights = pl.Series("w", numbers, dtype=pl.List(pl.Float64))
    found = flattened(ids, padding=0, weights=weights, most=most)
    kept = [[pair for pair in row or [] if pair[0] != 0] for row in rows]
    kept = [row[-most:] if most else row for row in kept]
    assert found.ids.to_list() == [i for row in kept for i, _ in row]
    assert found.weights.tolist() == [w for row in kept for _, w in row]
    assert found.weights.dtype == np.float32
    assert np.diff(found.offsets).tolist() == [len(row) for row in kept]


IDS = pl.Series("a", [[1], [2, 3], None])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            ["1", "2 3", ""],
            "the weights 'w' of sequence feature 'a' must be .* numbers, got String",
        ),
        ([["1"], ["2", "3"], None], r"must be a column of lists of numbers, got List\(String\)"),
        ([[1.0], [2.0], []], "1 lists do not, the first in row 1 with 1 weights for 2 ids"),
        ([None, [2.0], [1.0]], "3 lists do not, the first in row 0 with 0 weights for 1 ids"),
        ([[1.0], [None, 3.0], []], "1 of 3 are null, NaN or too large, the first in row 1"),
        ([[float("nan")], [2.0, float("inf")], []], "2 of 3 are null, NaN or too large, .* row 0"),
        ([[1.0], [2.0, 1e300], []], "1 of 3 are null, NaN or too large, the first in row 1"),
    ],
)
def test_weights_that_are_not_one_number_for_each_id_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        flattened(IDS, weights=pl.Series("w", weights))


def test_weights_may_be_integers_and_are_no_booleans():
    found = flattened(IDS, weights=pl.Series("w", [[1], [2, 3], None]))
    assert found.weights.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match=r"must be a column of lists of numbers, got List\(Bool"):
        flattened(IDS, weights=pl.Series("w", [[True], [True, False], []]))


@pytest.mark.parametrize("column", [["0", "5"], [0.0, 5.0], [0, 5]])
def test_padding_is_found_in_whatever_type(column):
    assert len(flattened(pl.Series([column]), padding=0)[0]) == 1


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pl.Series("hist", ["1 2"]),
            "'hist' must be a column of lists of ids, got String: split a ",
        ),
        (pl.Series("hist", [1]), "'hist' must be .*, got Int64: .*declare the column as a SparseF"),
    ],
)
def test_a_column_without_lists_is_refused(column, message):
    with pytest.raises(DataError, match=message):
        flattened(column)


def test_lists_of_lists_are_refused():
    schema = Schema([SequenceFeature("hist")], TASKS)
    with pytest.raises(DataError, match=r"'hist': an id must be .* got a column of List"):
        Vocab.fit(pl.LazyFrame({"hist": [[[1]]]}), schema)


# ------------------------------------------------------------------------------------------ reading


def test_every_source_of_lists_is_one_column(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [[3, 1], [], None, [7]]
    frame = pl.DataFrame({"hist": rows})
    frame.write_parquet(tmp_path / "rows.parquet")
    ragged = np.empty(4, dtype=object)
    ragged[:] = [np.array([3, 1]), np.array([], dtype=np.int64), None, np.array([7])]
    sources = [
        frame,
        tmp_path / "rows.parquet",
        frame.to_arrow(),
        pa.table({"hist": pa.array(rows)}),
        pandas.DataFrame({"hist": ragged}),
        {"hist": rows},
        {"hist": tuple(rows)},
        {"hist": ragged},
        {"hist": frame["hist"]},
    ]
    for source in sources:
        assert read(source).collect()["hist"].to_list() == rows


@pytest.mark.parametrize("dtype", [np.int32, np.float32, "U1", object])
def test_the_rows_of_a_2d_array_are_lists(dtype):
    values = np.array([[1, 2, 0], [3, 0, 0]]).astype(dtype)
    assert read({"hist": values}).collect()["hist"].to_list() == values.tolist()
    assert read({"hist": values[:, :0]}).collect()["hist"].to_list() == [[], []]
    fixed = pl.DataFrame({"hist": np.array([[1, 2], [3, 4]])})
    assert flattened(fixed["hist"])[0].to_list() == [1, 2, 3, 4]


def test_a_2d_tensor_holds_lists():
    torch = pytest.importorskip("torch")
    assert read({"hist": torch.tensor([[1, 2]])}).collect()["hist"].to_list() == [[1, 2]]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, None], [float("nan")]], [[1, None], [None]]),
        ([[2**63], [1]], [[str(2**63)], ["1"]]),
        ([[], []], [[], []]),
        ([None, ["a", "b"]], [None, ["a", "b"]]),
        ([np.array([1, 2]), [2**53 + 1]], [[1, 2], [2**53 + 1]]),
        ([np.array([0.5]), np.array([2**53 + 1])], [[0.5], [float(2**53)]]),
    ],
)
def test_elements_of_lists_are_read_as_a_column_is(rows, expected):
    assert read({"hist": rows}).collect()["hist"].to_list() == expected


def test_lists_beside_plain_values_are_refused():
    with pytest.raises(DataError, match="column 'hist' cannot be read as an array"):
        read({"hist": [[1], 2]})


def test_lists_of_a_csv_file_are_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("hist,click\n1 2,0\n")
    schema = Schema([SequenceFeature("hist")], TASKS)
    with pytest.raises(DataError, match=r"'hist' is a column of a text file, which has no lists"):
        read(tmp_path / "rows.csv", schema)
    frame = read(tmp_path / "rows.csv").with_columns(pl.col("hist").str.split(" "))
    assert rows_of(encode(frame, schema, Vocab.fit(frame, schema)).bags[0]) == [[1, 2]]


# ----------------------------------------------------------------------------------------- encoding

SCHEMA = Schema(
    [
        SparseFeature("item"),
        SparseFeature("shop", embed_dim=2),
        SequenceFeature("seen", shared_with="item"),
        SequenceFeature("tags", pooling="last", padding_idx=0),
        DenseFeature("age", encoding="bins", bins=2),
    ],
    TASKS,
)
LOG = pl.DataFrame(
    {
        "item": [5, 5, 5, 6, 8],
        "shop": ["a", "b", "a", "b", "a"],
        "seen": [[6, 6], None, [], [7, None], [5]],
        "tags": [["x", "0"], ["y"], ["0"], ["x", "y"], []],
        "age": [1.0, 2.0, None, 3.0, 4.0],
        "click": [0, 1, 0, 1, 1],
    }
)
VOCAB = Vocab.fit(LOG, SCHEMA)
LAYOUT = Layout(SCHEMA, VOCAB, {"item": 4, "shop": 2, "tags": 4, "age": 4})


def test_a_shared_vocabulary_counts_the_union():
    # 5 four times, 6 three times, then 7, 8 and null once, null first
    assert VOCAB.tables["item"].values.to_list() == [5, 6, None, 7, 8]
    assert VOCAB.tables["tags"].values.to_list() == ["x", "y"]


def test_bags_by_hand():
    table = encode(LOG, SCHEMA, VOCAB)
    assert [rows_of(bag) for bag in table.bags] == [
        [[2, 2], [], [], [4, 3], [1]],
        [[1], [2], [], [1, 2], []],
    ]
    assert table.unseen == {"item": 0, "shop": 0, "seen": 0, "tags": 0}
    assert table.nulls["seen"] == 2  # a list and an element
    other = LOG.with_columns(pl.Series("seen", [["6", "99"], ["98", "6.0"], [], None, ["5"]]))
    table = encode(other, SCHEMA, VOCAB)
    assert rows_of(table.bags[0]) == [[2, 0], [0, 2], [], [], [1]]
    assert table.unseen["seen"] == 2
    assert list(table.columns()) == ["item", "shop", "seen", "tags", "age"]
    assert table.columns()["seen"] is table.bags[0]


def test_ids_may_be_rows_themselves():
    schema = Schema([SequenceFeature("seen", 5, 4, padding_idx=0)], TASKS)
    frame = read({"seen": np.array([[4, 0, 0], [0, 5, 1]]), "click": [0, 1]})
    table = encode(frame, schema, Vocab.fit(frame, schema))
    assert rows_of(table.bags[0]) == [[4], [0, 1]]
    assert table.unseen == {"seen": 1}


def test_no_list_at_all_is_a_bag_of_nothing():
    for column in (pl.Series([None] * 5), pl.Series([[]] * 5)):
        table = encode(LOG.with_columns(tags=column), SCHEMA, VOCAB)
        assert rows_of(table.bags[1]) == [[]] * 5


@pytest.mark.slow
@given(st.permutations(range(5)))
def test_encoding_does_not_depend_on_the_order_of_rows(order):
    shuffled = LOG[order]
    table = encode(shuffled, SCHEMA, Vocab.fit(shuffled, SCHEMA))
    expected = encode(LOG, SCHEMA, VOCAB)
    for found, bag in zip(table.bags, expected.bags, strict=True):
        assert rows_of(found) == rows_of(bag.take(np.array(order)))


def test_orphans_that_are_dropped_take_their_lists_along():
    schema = Schema(SCHEMA.features, [*TASKS, Task("buy", given="click")])
    log = LOG.with_columns(buy=pl.Series([1, 0, 0, 1, 0]))
    table = encode(log, schema, VOCAB, orphans="drop")
    assert rows_of(table.bags[0]) == [[], [], [4, 3], [1]]


def weighted(rows, **options):
    """Lists of pairs of an id and its weight, encoded."""
    schema = Schema([SequenceFeature("a", weights="w", **options)], TASKS)
    columns = {
        "a": [[i for i, _ in row] for row in rows],
        "w": [[w for _, w in row] for row in rows],
    }
    frame = pl.DataFrame(
        {**columns, "click": [0] * len(rows)},
        schema_overrides={"a": pl.List(pl.Int64), "w": pl.List(pl.Float64)},
    )
    return encode(frame, schema, Vocab.fit(frame, schema))


def test_weights_are_encoded_beside_the_ids():
    table = weighted([[(5, 0.5), (5, 2.0)], [], [(7, -1.0)]])
    assert rows_of(table.bags[0]) == [[1, 1], [], [2]]
    assert table.bags[0].weights.tolist() == [0.5, 2.0, -1.0]
    assert table.bags[0].take(np.array([2, 0])).weights.tolist() == [-1.0, 0.5, 2.0]
    assert table.bags[0].take(slice(1, 3)).weights.tolist() == [-1.0]
    assert table.bags[0].nbytes == 3 * 4 + 4 * 8 + 3 * 4


def test_the_last_ids_of_a_long_list_are_kept_and_counted():
    table = weighted([[(5, 1.0), (6, 2.0), (0, 9.0)], [(5, 3.0)]], max_length=1, padding_idx=0)
    assert rows_of(table.bags[0]) == [[2], [1]]
    assert table.bags[0].weights.tolist() == [2.0, 3.0]


# ------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_batches_hold_the_rows_lists_with_offsets(shuffle, size):
    table = encode(LOG, SCHEMA, VOCAB)
    order = np.random.default_rng([3, 1]).permutation(5) if shuffle else np.arange(5)
    batches = list(table.batches(LAYOUT, size, shuffle=shuffle, seed=3, epoch=1))
    assert [len(batch) for batch in batches] == [len(bag) for b in batches for bag in b.bags[:1]]
    for index, bag in enumerate(table.bags):
        found = [row for batch in batches for row in rows_of(batch.bags[index])]
        offset = LAYOUT.bag_offsets[index]
        rows = rows_of(bag)
        assert found == [[each + offset for each in rows[number]] for number in order]
        assert all(batch.bags[index].ids.dtype == np.int32 for batch in batches)
    # one pack of width 4: item (rows 0-5), age, tags; the sequence of items has the item's rows
    assert LAYOUT.bag_offsets.tolist() == [0, 6 + VOCAB.rows["age"]]
    assert [(pack.fields, pack.bags) for pack in LAYOUT.packs] == [((0, 2), (0, 1)), ((1,), ())]
    assert list(LAYOUT.slices) == ["item", "age", "seen", "tags", "shop"]
    assert LAYOUT.slices["tags"] == slice(12, 16)
    assert LAYOUT.width == 18


def long_lists(rows=4000):
    generator = np.random.default_rng(0)
    schema = Schema([SequenceFeature("a"), SequenceFeature("b"), SparseFeature("c")], TASKS)
    log = {
        name: [generator.integers(0, 9, n) for n in generator.integers(0, 9, rows)] for name in "ab"
    }
    frame = read({**log, "c": generator.integers(0, 9, rows), "click": np.arange(rows) % 2})
    vocab = Vocab.fit(frame, schema)
    return encode(frame, schema, vocab), Layout(schema, vocab, dict.fromkeys("abc", 4))


def test_each_cell_of_a_bag_is_dropped_at_the_rate():
    table, layout = long_lists()
    before = [bag.ids.copy() for bag in table.bags]
    batches = list(table.batches(layout, 500, unseen_rate=0.05))
    dropped = []
    for index, bag in enumerate(table.bags):
        ids = np.concatenate([batch.bags[index].ids for batch in batches])
        offset = layout.bag_offsets[index]
        changed = ids != bag.ids + offset
        assert (ids[changed] == offset).all()
        assert changed.mean() == pytest.approx(0.05, abs=0.008)
        dropped.append(np.flatnonzero(changed))
        assert np.array_equal(bag.ids, before[index])
    assert not np.array_equal(dropped[0], dropped[1])


def test_dropped_cells_depend_on_seed_epoch_and_batch_alone():
    table, layout = long_lists(1000)

    def ids(**changes):
        batches = table.batches(layout, 100, unseen_rate=0.1, **changes)
        return [batch.bags[1].ids for batch in batches]

    def same(first, second):
        return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    assert same(ids(), ids())
    assert not same(ids(), ids(seed=1))
    assert not same(ids(), ids(epoch=1))


def test_sparse_ids_are_drawn_as_they_are_without_sequences():
    table, layout = long_lists(1000)
    schema = Schema(table.schema.features[:1], TASKS)
    alone = replace(table, schema=schema, bags=())
    plain = Layout(schema, layout.vocab, {"c": 4})
    for one, other in zip(
        table.batches(layout, 100, shuffle=True, unseen_rate=0.2),
        alone.batches(plain, 100, shuffle=True, unseen_rate=0.2),
        strict=True,
    ):
        assert np.array_equal(one.ids - layout.offsets[0], other.ids)


def test_no_bag_is_dropped_without_a_rate():
    table, layout = long_lists(50)
    (batch,) = table.batches(layout, 50)
    assert np.array_equal(batch.bags[0].ids, table.bags[0].ids + layout.bag_offsets[0])
