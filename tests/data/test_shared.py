"""Lists that rows share: equal to the join that is never made, in memory and by chunks."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.data import shared as module
from polyrank.data import stream
from polyrank.data.check import check
from polyrank.data.read import Joined, read
from polyrank.data.statistics import look_ups
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.data.windows import windows
from polyrank.errors import DataError
from polyrank.layout import Layout
from polyrank.schema import Schema, SequenceFeature, SparseFeature, Task

SCHEMA = Schema(
    [
        SparseFeature("item"),
        SequenceFeature("seen", shared_with="item", weights="times", max_length=3),
        SequenceFeature("tags", pooling="last", min_count=2),
        SequenceFeature("own", pooling="sum"),
    ],
    [Task("click")],
)
ids = st.lists(st.integers(0, 5), max_size=5)


@st.composite
def logs(draw):
    """Rows with a key of users, some null, and the lists of each user."""
    users = draw(st.integers(1, 6))
    keys = draw(st.lists(st.none() | st.integers(0, users - 1), min_size=2, max_size=20))
    seen = draw(st.lists(st.none() | ids, min_size=users, max_size=users))
    tags = draw(st.lists(ids, min_size=users, max_size=users))
    number = draw(st.permutations(range(users)))
    rows = {
        "user": [None if key is None else f"u{key}" for key in keys],
        "item": [index % 3 for index in range(len(keys))],
        "own": [[index % 4] * (index % 3) for index in range(len(keys))],
        "click": [index % 2 for index in range(len(keys))],
    }
    lists = {
        "user": [f"u{each}" for each in number],
        "seen": seen,
        "times": [each and [0.5 + i for i in range(len(each))] for each in seen],
        "tags": tags,
    }
    types = {"seen": pl.List(pl.Int64), "times": pl.List(pl.Float64), "tags": pl.List(pl.Int64)}
    own = {"own": pl.List(pl.Int64), "user": pl.String}
    return Joined(
        pl.DataFrame(rows, schema_overrides=own),
        pl.DataFrame(lists, schema_overrides=types),
        "user",
    )


def same(one, other):
    """Two tables have the same rows, whether they share lists or not."""
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.labels, other.labels)
    every = slice(0, len(one))
    for bag, plain in zip(one.bags, other.bags, strict=True):
        taken, expected = bag.take(every), plain.take(every)
        assert np.array_equal(taken.ids, expected.ids)
        assert np.array_equal(taken.offsets, expected.offsets)
        assert (taken.weights is None) == (expected.weights is None)
        if taken.weights is not None:
            assert np.array_equal(taken.weights, expected.weights)


@pytest.mark.slow
@given(logs(), st.integers(1, 4))
def test_it_is_the_join_that_is_never_made(log, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LISTS", chunk)
        vocab, plain = Vocab.fit(log, SCHEMA), Vocab.fit(read(log), SCHEMA)
        for name, table in plain.tables.items():
            assert_frame_equal(vocab.tables[name].to_frame(), table.to_frame())
        table, joined = encode(log, SCHEMA, vocab), encode(read(log), SCHEMA, vocab)
    same(table, joined)
    assert [bag.rows is None for bag in table.bags] == [False, False, True]
    used = log.rows["user"].drop_nulls().n_unique()
    assert len(table.bags[0].offsets) == used + 2  # and one list for rows without any
    layout = Layout(SCHEMA, vocab, dict.fromkeys(vocab.tables, 4))
    for one, other in zip(
        table.batches(layout, 3, shuffle=True, unseen_rate=0.2),
        joined.batches(layout, 3, shuffle=True, unseen_rate=0.2),
        strict=True,
    ):
        for bag, expected in zip(one.bags, other.bags, strict=True):
            assert bag.rows is None
            assert np.array_equal(bag.ids, expected.ids)
            assert np.array_equal(bag.offsets, expected.offsets)
    rows = {name: each.rows for name, each in vocab.tables.items()}
    for name, counts in look_ups(joined, rows, 0.1).items():
        np.testing.assert_allclose(look_ups(table, rows, 0.1)[name], counts)


def drawn(rows, users, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 8, users)
    lists = pl.DataFrame(
        {
            "user": np.arange(users) * 7,
            "seen": [generator.integers(0, 30, n).tolist() for n in lengths],
            "times": [generator.random(n).tolist() for n in lengths],
            "tags": [generator.integers(0, 9, n).tolist() for n in lengths[::-1]],
        }
    )
    key = generator.integers(0, users, rows)
    frame = pl.DataFrame(
        {
            "user": pl.Series(key * 7, dtype=pl.Int32),
            "item": generator.integers(0, 30, rows),
            "own": [[each % 5] for each in range(rows)],
            "click": (generator.random(rows) < 0.1 + 0.05 * lengths[key]).astype(int),
        }
    )
    return frame, lists


def test_a_window_goes_on_to_share():
    log = Joined(*drawn(20_000, 50), "user")
    vocab = Vocab.fit(log, SCHEMA)
    table = encode(log, SCHEMA, vocab)
    joined = encode(read(log), SCHEMA, vocab)
    pairs = zip(windows(table, 8192, 64, 1, 0), windows(joined, 8192, 64, 1, 0), strict=True)
    for (one, order), (other, same_order) in pairs:
        assert np.array_equal(order, same_order)
        assert one.bags[0].ids is table.bags[0].ids
        same(one, other)


TEXT = """
    [data]
    train = "rows.parquet"
    valid = "rows.parquet"
    [data.shared]
    file = "lists.parquet"
    key = "user"
    [features]
    sparse = ["item"]
    sequence = ["seen", "tags", "own"]
    [features.seen]
    weights = "times"
    [[task]]
    name = "click"
    [model]
    embed_dim = 4
    [train]
    epochs = 1
"""


@pytest.fixture
def folder(tmp_path):
    frame, lists = drawn(3_000, 80)
    frame.write_parquet(tmp_path / "rows.parquet")
    lists.write_parquet(tmp_path / "lists.parquet")
    return tmp_path


@pytest.mark.slow
def test_an_experiment_trains_to_the_bits_of_the_join(folder):
    experiment = Experiment.from_text(TEXT, folder=folder)
    assert Experiment.from_text(experiment.to_toml()) == experiment
    bundle = experiment.fit(out=folder / "run")
    again = experiment.fit(out=folder / "again")  # from the cache
    log = Joined(folder / "rows.parquet", folder / "lists.parquet", "user")
    read(log).collect().write_parquet(folder / "joined.parquet")
    plain = TEXT.replace("rows.parquet", "joined.parquet").replace(
        '[data.shared]\n    file = "lists.parquet"\n    key = "user"', ""
    )
    joined = Experiment.from_text(plain, folder=folder).fit(out=folder / "plain")
    expected = joined.predict(folder / "joined.parquet")
    for found in (bundle, again):
        assert found.predict(log).equals(expected)
        assert found.predict(folder / "joined.parquet").equals(expected)
        assert found.evaluate(log).to_json() == joined.evaluate(read(log)).to_json()
        # a file of rows is joined with the lists of the run's own experiment
        assert found.predict(folder / "rows.parquet").equals(expected)
    assert run(["evaluate", str(folder / "run"), str(folder / "rows.parquet")]) == 0
    assert run(["export", str(folder / "run")]) == 0


def test_predict_joins_a_file_with_its_lists(folder, monkeypatch, capsys):
    monkeypatch.setattr("polyrank.serve.batch.CHUNK_ROWS", 1_000)
    monkeypatch.setattr("polyrank.serve.batch.PIECE_ROWS", 300)
    bundle = Experiment.from_text(TEXT, folder=folder).fit(out=folder / "run")
    path, lists, scored = folder / "rows.parquet", folder / "lists.parquet", folder / "a.parquet"

    def predict(*options, out=scored):
        return run(["predict", str(folder / "run"), str(path), "-o", str(out), *options])

    assert predict("--json") == 0
    counts = json.loads(capsys.readouterr().out)
    expected, outputs = bundle.predict(path), bundle.schema.outputs
    found = pl.read_parquet(scored)
    assert found["p_click"].to_numpy() == pytest.approx(expected["p_click"].to_numpy(), abs=1e-6)
    joined = bundle.predict_frame(read(Joined(path, lists, "user")).collect())
    assert (counts["rows"], counts["unseen"]) == (3_000, joined.unseen)
    assert predict(out=folder / "parts") == 0
    assert pl.read_parquet(folder / "parts/*.parquet").equals(found)
    for each in (1, 2):
        assert predict("--shard", f"{each}/2", out=folder / "shards") == 0
    assert pl.read_parquet(folder / "shards/*.parquet").equals(found)

    # Lists of another day, and lists that do not have all keys.
    table = pl.read_parquet(lists)
    table.with_columns(table["user"].reverse()).write_parquet(folder / "later.parquet")
    assert predict("--shared", str(folder / "later.parquet")) == 0
    later = bundle.predict(Joined(path, folder / "later.parquet", "user"))
    assert_frame_equal(pl.read_parquet(scored).select(outputs), later, abs_tol=1e-6)
    assert not later.equals(expected)
    # Part of a folder was scored with other lists: its rows are not continued.
    assert predict("--resume", "--shared", str(folder / "later.parquet"), out=folder / "parts") == 1
    table.head(40).write_parquet(folder / "fewer.parquet")
    capsys.readouterr()
    assert predict("--shared", str(folder / "fewer.parquet")) == 1
    assert "rows have a key 'user' that the shared lists do not have" in capsys.readouterr().err


def test_lists_are_named_only_where_rows_share_some(folder, capsys):
    read(Joined(folder / "rows.parquet", folder / "lists.parquet", "user")).collect().write_parquet(
        folder / "joined.parquet"
    )
    text = TEXT.replace("rows.parquet", "joined.parquet").replace(
        '[data.shared]\n    file = "lists.parquet"\n    key = "user"', ""
    )
    Experiment.from_text(text, folder=folder).fit(out=folder / "run")
    arguments = ["predict", str(folder / "run"), str(folder / "joined.parquet")]
    out = ["-o", str(folder / "a.parquet")]
    assert run([*arguments, *out, "--shared", str(folder / "lists.parquet")]) == 1
    assert "the run's experiment has no `[data] shared`" in capsys.readouterr().err


@pytest.mark.parametrize("split", [False, True])
def test_a_stream_gives_the_same_tables(folder, monkeypatch, caplog, split):
    monkeypatch.setattr(stream, "LEAST_CHUNK_ROWS", 500)
    monkeypatch.setattr(stream, "MOST_CHUNK_ROWS", 500)
    monkeypatch.setattr(module, "LISTS", 9)
    text = TEXT
    if split:
        text = TEXT.replace('train = "rows.parquet"\n    valid', "source")
    experiment = Experiment.from_text(text, folder=folder)
    whole = experiment.fit(out=folder / "whole")
    monkeypatch.setattr(stream, "row_bytes", lambda *_: 1 << 40)
    caplog.set_level("INFO")
    by_chunks = experiment.fit(out=folder / "by_chunks" / "run")
    assert "encoded by chunks" in caplog.text
    log = Joined(folder / "rows.parquet", folder / "lists.parquet", "user")
    assert by_chunks.predict(log).equals(whole.predict(log))


def test_what_cannot_be_joined_is_refused():
    frame, lists = drawn(30, 8)

    def refused(message, rows=frame, lists=lists, key="user", schema=SCHEMA):
        for call in (lambda log: Vocab.fit(log, schema), lambda log: encode(log, schema, None)):
            with pytest.raises(DataError, match=message):
                call(Joined(rows, lists, key))

    refused("the key 'usr' is not in the rows; did you mean 'user'", key="usr")
    refused("the key 'item' is not in the shared lists", key="item")
    refused("the key 'user' = 7 more than once", lists=pl.concat([lists, lists[1:2]]))
    refused("1 null keys 'user'", lists=lists.with_columns(user=pl.Series([None, *range(7)])))
    refused("column 'seen' .* is in the rows, and 'seen' in", rows=frame.with_columns(seen=[1]))
    refused("'item' is a column of the shared lists, and a sparse feature has one value a row",
            lists=lists.with_columns(item=1))  # fmt: skip
    refused(
        r"rows have a key 'user' that the shared lists do not have, the first", lists=lists[:-1]
    )
    refused("'user' is String in the rows and Int64", rows=frame.with_columns(user=pl.lit("x")))


def test_the_audit_names_the_lists_that_it_does_not_look_at(folder):
    audit = Experiment.from_text(TEXT, folder=folder).audit()
    found = {each.column for each in audit.findings if each.check == "shared-lists"}
    assert found == {"seen", "tags"}
    assert not audit.failed
    duplicates = [each for each in audit.findings if each.check == "duplicates"]
    assert len(duplicates) == 1  # the same file twice
    log = Joined(*drawn(30, 8), "user")
    with pytest.raises(DataError, match="all splits must share their lists by one key, got"):
        check(SCHEMA, {"train": log, "valid": read(log)})
