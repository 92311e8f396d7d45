"""Batch scoring of files: order, keys, chunks, refusals, full disks."""

import resource

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.errors import DataError
from polyrank.serve import batch
from polyrank.serve.batch import Predictor, predict_file
from polyrank.serve.engine import Predictions

SCHEMA = pr.Schema(
    [pr.SparseFeature("item"), pr.DenseFeature("price")],
    [pr.Task("click"), pr.Task("buy", given="click")],
    pr.Keys(user="user", request="request", time="when"),
)
ROWS = 500


def predict(frame):
    price = frame["price"].to_numpy()
    if np.isinf(price).any():
        raise DataError("column 'price' has 1 infinite value")
    click = price / (1 + price)
    buy = frame["item"].to_numpy() / ROWS
    outputs = {"p_click": click, "p_buy_given_click": buy, "p_buy": click * buy}
    return Predictions(outputs, {"item": 1}, {"item": 0, "price": 2})


PREDICTOR = Predictor(SCHEMA, predict)


@pytest.fixture
def frame():
    generator = np.random.default_rng(5)
    return pl.DataFrame(
        {
            "item": generator.integers(0, ROWS, ROWS, dtype=np.int32),
            "when": pl.datetime_range(
                pl.datetime(2024, 1, 1), interval="1h", eager=True, end=pl.datetime(2024, 1, 21, 19)
            ),
            "price": generator.lognormal(size=ROWS),
            "user": pl.Series([None, *generator.integers(0, 2**40, ROWS - 1)], dtype=pl.UInt64),
        }
    )


@pytest.fixture
def source(frame, tmp_path):
    frame.write_parquet(tmp_path / "rows.parquet", row_group_size=90)
    frame.write_csv(tmp_path / "rows.csv")
    return tmp_path / "rows.parquet"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("chunk", [7, 100, 1000])
def test_order_keys_and_their_types_are_kept(frame, source, tmp_path, monkeypatch, chunk, threads):
    monkeypatch.setattr(batch, "CHUNK_ROWS", chunk)
    out = tmp_path / "out" / "scored.parquet"
    scored = predict_file(Predictor(SCHEMA, predict, threads), source, out)
    found = pl.read_parquet(out)
    assert found.select("user", "when").equals(frame.select("user", "when"))
    assert found.drop("user", "when").equals(pl.DataFrame(predict(frame).outputs))
    assert found.columns == ["user", "when", "p_click", "p_buy_given_click", "p_buy"]
    chunks = -(-ROWS // chunk)
    assert scored == batch.Counts(ROWS, {"item": chunks}, {"item": 0, "price": 2 * chunks})
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize(("name", "separator"), [("scored.csv", ","), ("scored.tsv", "\t")])
def test_text_goes_in_and_out(frame, source, tmp_path, monkeypatch, chunk, name, separator):
    monkeypatch.setattr(batch, "CHUNK_ROWS", chunk)
    texts = Predictor(SCHEMA, lambda rows: predict(rows.cast({"item": pl.Int32})))
    predict_file(texts, source.with_suffix(".csv"), tmp_path / name)
    found = pl.read_csv(tmp_path / name, separator=separator, try_parse_dates=True)
    assert found["user"].to_list() == frame["user"].to_list()
    assert found["p_buy"].equals(pl.Series("p_buy", predict(frame).outputs["p_buy"]))


def test_how_the_rows_were_read_does_not_show_in_the_bytes(frame, tmp_path):
    # Texts that fill more than one page of a Parquet file, whose ends depend on their pieces.
    generator = np.random.default_rng(1)
    texts = [generator.bytes(10_000).hex() for _ in range(ROWS)]
    frame = frame.with_columns(pl.Series("user", texts))
    predict_file(PREDICTOR, frame, tmp_path / "a.parquet")
    pieces = pl.concat([frame[:7], frame[7:111], frame[111:]], rechunk=False)
    predict_file(PREDICTOR, pieces, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_unknown_extension_is_refused_before_scoring(source, tmp_path):
    message = (
        r"unknown extension '.xlsx' \(known: .parquet, .csv, .tsv; none for a folder of parts\)"
    )
    with pytest.raises(DataError, match=message):
        predict_file(PREDICTOR, source, tmp_path / "out.xlsx")


def test_a_missing_feature_leaves_no_file_and_names_the_files(source, tmp_path):
    pl.read_parquet(source).rename({"price": "prices"}).write_parquet(source)
    message = r"rows.parquet: column 'price' is not in the data; did you mean 'prices'"
    with pytest.raises(DataError, match=message):
        predict_file(PREDICTOR, source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_bad_row_far_down_leaves_no_file_and_says_where(frame, source, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "CHUNK_ROWS", 100)
    price = frame["price"].to_list()
    price[-1] = float("inf")
    frame.with_columns(pl.Series("price", price)).write_parquet(source)
    message = r"^in rows 400 to 499: column 'price' has 1 infinite value$"
    with pytest.raises(DataError, match=message):
        predict_file(PREDICTOR, source, tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "rows.parquet"]


@pytest.mark.parametrize("pattern", ["rows.parquet", "*.parquet"])
def test_the_source_is_not_replaced(source, pattern):
    before = source.read_bytes()
    with pytest.raises(DataError, match=r"rows.parquet is also the source, which it would replace"):
        predict_file(PREDICTOR, source.parent / pattern, source)
    assert source.read_bytes() == before


def test_an_empty_file_is_refused(frame, source, tmp_path):
    frame.head(0).write_parquet(source)
    with pytest.raises(DataError, match="there are no rows to score"):
        predict_file(PREDICTOR, source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_a_disk_that_is_full_leaves_nothing_and_is_said_of_the_output(
    source, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(batch, "CHUNK_ROWS", 50)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        with pytest.raises(DataError) as caught:
            predict_file(PREDICTOR, source, tmp_path / "out" / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    where = tmp_path / "out" / name
    assert str(caught.value).startswith(f"{where} could not be written: File too large")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_that_cannot_be_written_is_named_as_it_was_given(source, tmp_path):
    out = tmp_path / "rows.csv" / "out.parquet"
    with pytest.raises(DataError) as caught:
        predict_file(PREDICTOR, source, out)
    assert str(caught.value).startswith(f"{out} could not be written: ")
    (tmp_path / "taken.parquet").mkdir()
    with pytest.raises(DataError, match=r"taken\.parquet could not be written: Is a directory$"):
        predict_file(PREDICTOR, source, tmp_path / "taken.parquet")


def test_a_chunk_that_fails_is_the_last(source, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "CHUNK_ROWS", 10)
    asked = []

    def fails(frame):
        asked.append(frame.height)
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        predict_file(Predictor(SCHEMA, fails), source, tmp_path / "out.parquet")
    assert len(asked) <= 2
