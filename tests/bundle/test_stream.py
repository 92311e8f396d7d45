"""Batch scoring of files: order, keys, chunks, refusals."""

import polars as pl
import pytest

from polyrank.bundle import stream
from polyrank.bundle.stream import predict_file
from polyrank.errors import DataError


@pytest.fixture
def source(rows, tmp_path):
    frame = pl.DataFrame({name: values for name, values in rows.items() if name != "click"})
    frame.write_parquet(tmp_path / "rows.parquet")
    frame.write_csv(tmp_path / "rows.csv")
    return tmp_path / "rows.parquet"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("chunk", [7, 100, 1000])
def test_chunks_keep_order_and_keys(bundle, rows, source, tmp_path, monkeypatch, chunk, suffix):
    monkeypatch.setattr(stream, "CHUNK_ROWS", chunk)
    seen = []
    out = tmp_path / "out" / f"scored{suffix}"
    scored = predict_file(bundle, source.with_suffix(suffix), out, seen.append)
    read = pl.read_parquet if suffix == ".parquet" else pl.read_csv
    found = read(out)
    assert found.columns == ["user", "when", "w", *bundle.predict(rows).columns]
    assert found["when"].to_list() == list(range(500))
    assert found["user"].to_list() == rows["user"].tolist()
    expected = bundle.predict(rows)["p_buy"]
    assert (found["p_buy"] - expected).abs().max() <= 1e-6
    assert scored.rows == seen[-1] == 500
    assert scored.nulls["age"] == int((rows["age"] != rows["age"]).sum())
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_one_file_gives_the_same_bits_twice(bundle, source, tmp_path):
    for name in ("a.parquet", "b.parquet"):
        predict_file(bundle, source, tmp_path / name)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_unknown_extension_is_refused_before_scoring(bundle, source, tmp_path):
    with pytest.raises(DataError, match=r"unknown extension '.xlsx' \(known: .parquet, .csv\)"):
        predict_file(bundle, source, tmp_path / "out.xlsx")


def test_a_missing_feature_leaves_no_file(bundle, source, tmp_path):
    pl.read_parquet(source).rename({"city": "town"}).write_parquet(source)
    with pytest.raises(DataError, match="column 'city' is not in the data"):
        predict_file(bundle, source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_bad_row_far_down_leaves_no_file_and_names_the_column(bundle, source, tmp_path):
    frame = pl.read_csv(source.with_suffix(".csv"))
    price = frame["price"].to_list()
    price[-1] = float("inf")
    frame.with_columns(pl.Series("price", price)).write_parquet(source)
    with pytest.raises(DataError, match="'price' has 1 infinite value"):
        predict_file(bundle, source, tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "rows.parquet"]


def test_the_source_is_not_replaced(bundle, source):
    before = source.read_bytes()
    with pytest.raises(DataError, match=r"rows.parquet is what is scored: it would be replaced"):
        predict_file(bundle, source, source)
    assert source.read_bytes() == before


def test_an_empty_file_is_refused(bundle, source, tmp_path):
    pl.read_parquet(source).head(0).write_parquet(source)
    with pytest.raises(DataError, match="no rows to score"):
        predict_file(bundle, source, tmp_path / "out.parquet")
