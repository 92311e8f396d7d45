"""Every door by which rows come in, and what each refusal says."""

import gzip
import re
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from polyrank.data import read as reading
from polyrank.data.read import by_column, collect, collect_chunks, column_names, read
from polyrank.errors import DataError
from polyrank.schema import DenseFeature, Keys, Schema, SparseFeature, Task

SCHEMA = Schema(
    features=[SparseFeature("item"), DenseFeature("price")],
    tasks=[Task("click")],
    keys=Keys(weight="weight"),
)


def refused(source, *parts):
    with pytest.raises(DataError) as caught:
        read(source).collect()
    for part in parts:
        assert part in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    frame = pl.DataFrame({"item": [1, 2], "price": [1, 2]})
    frame.write_parquet(tmp_path / "b.parquet")
    frame.with_columns(pl.col("item") + 10).write_parquet(tmp_path / "a.parquet")
    frame.write_csv(tmp_path / "c.csv")
    return tmp_path


# ----------------------------------------------------------------------------------------- frames


def test_polars_frames_come_as_they_are():
    frame = pl.DataFrame({"item": [1]})
    assert read(frame).collect().equals(frame)
    lazy = frame.lazy()
    assert read(lazy) is lazy


def test_pandas_frame_loses_its_index_and_keeps_its_types():
    frame = pd.DataFrame(
        {
            "text": ["a", np.nan],
            "nullable": pd.array([2**62 + 1, None], dtype="Int64"),
            "trap": [3.0, np.nan],
            "category": pd.Categorical(["u", "v"]),
            "unsigned": np.array([2**63, 1], dtype=np.uint64),
        },
        index=pd.Index(["p", "q"], name="text"),
    )
    found = read(frame).collect()
    assert found.columns == list(frame.columns)
    assert found["text"].to_list() == ["a", None]
    assert found["nullable"].to_list() == [2**62 + 1, None]
    assert found["trap"][0] == 3.0
    assert found["category"].cast(pl.String).to_list() == ["u", "v"]
    assert found["unsigned"].to_list() == [2**63, 1]


def test_pandas_column_of_several_types_is_refused():
    refused(pd.DataFrame({"item": [1, "x"]}), "pandas DataFrame", "item", "one type")


def test_pandas_columns_of_one_name_are_refused():
    refused(pd.DataFrame([[1, 2]], columns=["a", "a"]), "pandas DataFrame", "'a'")


def test_pandas_columns_named_by_integers():
    frame = pd.DataFrame({0: [1], 1: [2.5]})
    assert read(frame).collect().to_dict(as_series=False) == {"0": [1], "1": [2.5]}
    assert list(frame.columns) == [0, 1]
    mixed = pd.DataFrame({0: [1], "item": [2.5]})  # of these pyarrow warns
    assert read(mixed).collect().columns == ["0", "item"]


def test_arrow_table():
    assert read(pa.table({"item": [1, None]})).collect()["item"].to_list() == [1, None]


def test_another_type_is_refused():
    refused(7, "a path, a polars or pandas frame", "got builtins.int")


# ----------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1, 2], dtype=np.int32), [1, 2]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([b"a", b"b"]), ["a", "b"]),
        (np.array(["a", np.nan], dtype=object), ["a", None]),
        (np.array([1, None], dtype=object), [1, None]),
        (np.arange(4)[::2], [0, 2]),
        ([1, None], [1, None]),
        ((True, False), [True, False]),
        ([1, 2.5], [1.0, 2.5]),
        ([1, float("nan")], [1, None]),
        ([2**63, -1], ["9223372036854775808", "-1"]),
        ([10**40, None], [str(10**40), None]),
        (pd.Series(["a", pd.NA], dtype="string"), ["a", None]),
        (pd.Series([2**62 + 1, pd.NA], dtype="Int64"), [2**62 + 1, None]),
        (pd.array([2**62 + 1, None], dtype="Int64"), [2**62 + 1, None]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (pa.array([2**62 + 1, None]), [2**62 + 1, None]),
        (pa.chunked_array([[1], [None]]), [1, None]),
        ([UUID(int=1), None], [str(UUID(int=1)), None]),
        (np.array([UUID(int=1)], dtype=object), [str(UUID(int=1))]),
        (pl.Series([1, 2]), [1, 2]),
        (pd.Series([1, 2], index=[5, 6]), [1, 2]),
    ],
)
def test_arrays(values, expected):
    assert read({"item": values}).collect()["item"].to_list() == expected


def test_anything_that_numpy_takes_is_an_array():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.array([1, 2], dtype=dtype)

    assert read({"item": Tensor()}).collect()["item"].to_list() == [1, 2]


def test_a_tensor_with_gradients_is_its_numbers():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1.5, 2.5], requires_grad=True)
    assert read({"price": tensor}).collect()["price"].to_list() == [1.5, 2.5]
    refused({"price": tensor.bfloat16()}, "column 'price' cannot be read as an array", "BFloat16")


@pytest.mark.parametrize("values", [[object()], np.array([1 + 2j])])
def test_what_is_no_value_is_refused_by_column(values):
    refused(
        {"a": values}, "column 'a' cannot be read as an array", "must hold numbers, texts or times"
    )


def test_arrays_of_unequal_length_are_refused():
    refused({"a": [1], "b": [1, 2]}, "one length", "'a': 1, 'b': 2")


def test_array_of_three_dimensions_is_refused():
    refused({"a": np.ones((2, 3, 1))}, "must be a 1-D array, or a 2-D one of lists", "(2, 3, 1)")


def test_array_of_mixed_objects_is_refused():
    refused({"a": [1, "x"]}, "column 'a' cannot be read as an array")


# ------------------------------------------------------------------------------------------ files


def test_glob_is_concatenated_in_sorted_order(folder):
    assert read(folder / "*.parquet").collect()["item"].to_list() == [11, 12, 1, 2]
    assert read(str(folder / "c.csv")).collect()["item"].to_list() == [1, 2]


def test_csv_glob_and_gzip(folder):
    text = "item,price\n7,8\n"
    (folder / "d.csv").write_text(text)
    with gzip.open(folder / "e.csv.gz", "wt") as file:
        file.write(text)
    assert read(folder / "[cd].csv", SCHEMA).collect()["item"].to_list() == ["1", "2", "7"]
    assert read(folder / "e.csv.gz").collect()["item"].to_list() == [7]


def test_path_with_brackets_is_no_glob(folder):
    (folder / "c.csv").rename(folder / "log[1].csv")
    assert read(folder / "log[1].csv").collect().height == 2


def test_later_parquet_files_may_be_narrower(folder):
    pl.DataFrame({"item": [5], "price": [1], "more": [1]}).cast(pl.Int32).write_parquet(
        folder / "z.parquet"
    )
    found = read(folder / "*.parquet").collect()
    assert found["item"].to_list() == [11, 12, 1, 2, 5]
    assert found["item"].dtype == pl.Int64


def test_no_such_file(tmp_path):
    refused(tmp_path / "x*.csv", "no such file", "x*.csv", "glob")


def test_unknown_extension(tmp_path):
    (tmp_path / "log.json").write_text("{}")
    refused(tmp_path / "log.json", "unknown extension '.json'", "'.csv'", "'.parquet'")


def test_folder_is_refused_with_its_glob(tmp_path):
    refused(tmp_path, "is a folder", "*.parquet")


def test_two_formats_are_refused(folder):
    refused(folder / "*.*", "matches parquet and csv files", "name one kind")


def test_csv_without_a_schema_keeps_long_integers_too(tmp_path):
    (tmp_path / "log.csv").write_text(f"a,b,c\n1,{2**63},1.5\n2,{10**40},x\n")
    frame = read(tmp_path / "log.csv").collect()
    assert frame.rows() == [(1, str(2**63), "1.5"), (2, str(10**40), "x")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"hello"),
        ("a.csv", b""),
        ("a.csv.gz", gzip.compress(b"item\n1\n", mtime=0)[:12]),
    ],
)
def test_corrupt_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, name.split(".")[0])


def test_corrupt_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"hello")
    refused(tmp_path / "a.parquet", "a.parquet", "cannot be read as parquet")


def test_csv_numbers_are_float64_and_ids_are_not(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"item,price,click,weight\n{2**53 + 1},1,1,1\nNaN,,,\n7,nan,0,2\n")
    frame = read(path, SCHEMA).collect()
    assert frame["item"].to_list() == [str(2**53 + 1), None, "7"]
    assert dict(frame.schema) == {
        "item": pl.String,
        "price": pl.Float64,
        "click": pl.Float64,
        "weight": pl.Float64,
    }


def test_csv_ids_and_keys_are_text_to_the_letter(tmp_path):
    schema = Schema(
        features=[SparseFeature("zip"), SparseFeature("hour"), DenseFeature("age")],
        tasks=[Task("click")],
        keys=Keys(user="user", request="request", time="hour"),
    )
    path = tmp_path / "log.csv"
    path.write_text(
        "zip,user,request,hour,age,click,other\n"
        "00001,007,1.10,9,01,1,01\n10001,,1e5,10,2,0,2\n10001,true,1.1,11,3,0,3\n"
    )
    frame = read(path, schema).collect()
    assert frame["zip"].to_list() == ["00001", "10001", "10001"]
    assert frame["user"].to_list() == ["007", None, "true"]
    assert frame["request"].to_list() == ["1.10", "1e5", "1.1"]
    assert frame["hour"].to_list() == [9, 10, 11]  # a time has an order
    assert frame["age"].to_list() == [1.0, 2.0, 3.0]
    assert frame["other"].to_list() == [1, 2, 3]


def test_csv_user_that_is_a_dense_feature_is_a_number(tmp_path):
    schema = Schema([DenseFeature("user")], [Task("click")], keys=Keys(user="user"))
    (tmp_path / "log.csv").write_text("user,click\n007,1\n")
    assert read(tmp_path / "log.csv", schema).collect()["user"].to_list() == [7.0]


def test_csv_ids_beyond_64_bits_keep_their_digits(tmp_path):
    ids = [str(2**63), str(2**64 + 1), "1" * 45, "-3"]
    (tmp_path / "log.csv").write_text("item,price\n" + "".join(f"{each},1\n" for each in ids))
    assert read(tmp_path / "log.csv", SCHEMA).collect()["item"].to_list() == ids


def test_csv_empty_dense_column_is_a_number_and_text_stays_text(tmp_path):
    (tmp_path / "log.csv").write_text("item,price,click\na,,?\nb,,1\n")
    frame = read(tmp_path / "log.csv", SCHEMA).collect()
    assert frame["price"].dtype == pl.Float64
    assert frame["click"].to_list() == ["?", "1"]


def test_value_that_breaks_the_guess_names_column_and_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "INFERENCE_ROWS", 2)
    (tmp_path / "log.csv").write_text("item,price\n1,1\n2,1\n3,x\n")
    lazy = read(tmp_path / "log.csv", SCHEMA)
    with pytest.raises(DataError, match="column 'price' holds 'x', but its first 2 rows") as caught:
        collect(lazy, ["price"])
    assert "schema_overrides={'price': polars.String}" in str(caught.value)
    assert collect(lazy, ["item"]).height == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"item,price\n1,1,3\n", "a row has more fields than the header: put a field that holds"),
        (b"item,price\n\xff\xfe,1\n", "a text is not UTF-8: save the file as UTF-8"),
        (b'item,price\n1,1\n"a,2\nb,3\n', "a quote is not closed, or stands inside a field, in "
         "what begins with '\"a,2'"),
        (b'item,price\n1,1\na"b,2\nc,3\n', "a quote is not closed, or stands inside a field: "),
    ],
)  # fmt: skip
def test_broken_csv_names_the_file_and_the_fix(tmp_path, content, message):
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'log.csv'}: {message}")):
        collect(read(tmp_path / "log.csv", SCHEMA), ["item", "price"])


@pytest.mark.parametrize(
    ("name", "content", "found", "expected"),
    [
        ("log.csv", "item;price\n1;2,50\n", ";", ","),
        ("log.csv", "item;price\n1;2\n", ";", ","),
        ("log.csv", "item|price|click\n1|2|0\n", "|", ","),
        ("log.csv", "item\tprice\n1\t2\n", "\t", ","),
        ("log.tsv", "item,price\n1,2\n", ",", "\t"),
    ],
)
def test_other_separators_are_refused_with_the_line_that_reads_them(
    tmp_path, name, content, found, expected
):
    (tmp_path / name).write_text(content)
    for schema in (None, SCHEMA):
        with pytest.raises(DataError) as caught:
            read(tmp_path / name, schema)
        assert f"has {found!r} between the names of its header and no {expected!r}" in str(
            caught.value
        )
        assert f"polars.read_csv({name!r}, separator={found!r}).write_parquet" in str(caught.value)


def test_one_column_is_a_log_too(tmp_path):
    (tmp_path / "log.csv").write_text("item\na;b\n")
    assert read(tmp_path / "log.csv").collect()["item"].to_list() == ["a;b"]


def test_files_with_other_headers_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("item,price\n1,1\n")
    (tmp_path / "b.csv").write_text("price,item\n1,2\n")
    with pytest.raises(DataError, match=r"\*\.csv' cannot.* names differ: '(item|price)' in one f"):
        collect(read(tmp_path / "*.csv", SCHEMA), ["item"])


def test_parquet_files_of_other_types_are_named(folder):
    pl.DataFrame({"item": ["x"], "price": [1]}).write_parquet(folder / "b.parquet")
    with pytest.raises(
        DataError, match="column 'item' is String in one file and Int64 in the"
    ) as e:
        collect(read(folder / "*.parquet"), ["item"])
    assert str(e.value).startswith(f"{folder / 'a.parquet'}, {folder / 'b.parquet'}: ")


def test_parquet_files_without_a_column_are_named(folder):
    pl.DataFrame({"item": [1]}).write_parquet(folder / "b.parquet")
    with pytest.raises(
        DataError, match=r"b\.parquet: column 'price' of the first file is not in a"
    ):
        collect(read(folder / "*.parquet"), ["price"])


# ---------------------------------------------------------------------------------------- collect


def test_missing_column_names_the_nearest():
    message = re.escape("column 'clik' is not in the data; did you mean 'click'?")
    with pytest.raises(DataError, match=message):
        collect(pl.LazyFrame({"click": [1], "buy": [0]}), ["buy", "clik"])


def test_a_missing_column_names_the_file(tmp_path):
    pl.DataFrame({"click": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: column 'clik' is not in the data; did you"):
        collect(read(tmp_path / "a.parquet"), ["clik"])


def test_collect_reads_each_column_once():
    frame = pl.DataFrame({"a": [1], "b": [2], "c": [3]})
    assert collect(frame, ["c", "a", "c"]).columns == ["c", "a"]


def test_broken_scan_is_a_data_error(tmp_path):
    lazy = pl.scan_parquet(tmp_path / "gone.parquet")
    with pytest.raises(DataError, match=r"gone\.parquet"):
        column_names(lazy)


# -------------------------------------------------------------------------------- column by column


def test_parquet_files_are_left_to_be_read_by_column(tmp_path):
    frame = pl.DataFrame({"item": [1, 2], "click": [0, 1]})
    for name in ("a.parquet", "b.parquet"):
        frame.write_parquet(tmp_path / name)
    for source in (tmp_path / "a.parquet", tmp_path / "*.parquet"):
        scan = read(source)
        assert by_column(scan, ["click"]) is scan


def test_what_would_be_computed_anew_is_collected_once(tmp_path):
    frame = pl.DataFrame({"item": [1, 2], "click": [0, 1]})
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_csv(tmp_path / "log.csv")
    sources = [read(tmp_path / "log.csv"), frame, frame.lazy()]
    sources.append(read(tmp_path / "log.parquet").filter(pl.col("item") > 0))
    for source in sources:
        found = by_column(source, ["click"])
        assert isinstance(found, pl.DataFrame)
        assert found.to_dict(as_series=False) == {"click": [0, 1]}


def test_a_missing_column_is_named_before_any_is_read(tmp_path):
    pl.DataFrame({"item": [1]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="column 'itm' is not in the data; did you mean 'item'"):
        by_column(read(tmp_path / "log.parquet"), ["item", "itm"])


# ------------------------------------------------------------------------------ headers, separators


@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
def test_fields_of_a_tsv_are_parted_by_tabs(tmp_path, suffix):
    text = 'item\ttitle\n007\ta, b\n8\t"c\td"\n'
    content = gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode()
    (tmp_path / f"log{suffix}").write_bytes(content)
    schema = Schema([SparseFeature("item")], [Task("click")])
    frame = read(tmp_path / f"log{suffix}", schema).collect()
    assert frame.rows() == [("007", "a, b"), ("8", "c\td")]


@pytest.mark.parametrize("schema", [None, Schema([SparseFeature("b")], [Task("click")])])
@pytest.mark.parametrize(("suffix", "tab"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ",")])
def test_a_column_that_is_there_twice_is_refused_with_both_places(tmp_path, schema, suffix, tab):
    text = "a,b,c,b\n1,2,3,4\n".replace(",", tab).encode()
    (tmp_path / f"log{suffix}").write_bytes(gzip.compress(text) if suffix[-1] == "z" else text)
    with pytest.raises(DataError, match=r"has the column 'b' twice, as its columns 2 and 4"):
        read(tmp_path / f"log{suffix}", schema)


def test_a_column_may_be_named_as_polars_names_a_second_one(tmp_path):
    (tmp_path / "log.csv").write_text("a,a_duplicated_0\n1,2\n")
    assert read(tmp_path / "log.csv").collect().rows() == [(1, 2)]


def test_parquet_files_are_read_a_few_chunks_at_a_time(tmp_path, monkeypatch):
    """Batches of one scan are decoded far ahead, by the cores of the machine."""
    frame = pl.DataFrame({"n": range(1_000), "click": [0, 1] * 500})
    for place, start in enumerate((0, 300, 310)):
        end = (300, 310, 1_000)[place]
        frame[start:end].write_parquet(tmp_path / f"{place}.parquet", row_group_size=64)
    slices, plain = [], pl.LazyFrame.slice

    def sliced(self, offset, length=None):
        slices.append((offset, length))
        return plain(self, offset, length)

    monkeypatch.setattr(pl.LazyFrame, "slice", sliced)
    for most, expected in ((400, 28), (10, 105)):
        slices.clear()
        monkeypatch.setattr(reading, "MOST_SLICES", most)
        chunks = list(collect_chunks(read(tmp_path / "*.parquet"), ["click", "n"], 7))
        assert [each.height for each in chunks] == [7] * 142 + [6]
        assert pl.concat(chunks).equals(frame.select("click", "n"))
        assert {length for _, length in slices} == {expected}
        assert len(slices) == -(-1_000 // expected)
    short = read(tmp_path / "1.parquet")
    assert [each.height for each in collect_chunks(short, ["n"], 100)] == [10]


def test_a_panic_of_polars_is_a_damaged_file(tmp_path, monkeypatch):
    pl.DataFrame({"click": [0, 1]}).write_parquet(tmp_path / "log.parquet")
    frame = read(tmp_path / "log.parquet")

    def panic(*_, **__):
        raise pl.exceptions.PanicException("assertion failed: offset + length <= self.length")

    monkeypatch.setattr(pl.LazyFrame, "collect", panic)
    with pytest.raises(DataError, match=r"log\.parquet.*gave up on it, as on a damaged file"):
        collect(frame, ["click"])
