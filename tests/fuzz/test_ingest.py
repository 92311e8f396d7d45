"""A CSV, TSV or Parquet file is read, audited and encoded, or a PolyrankError says why not."""

from contextlib import suppress
from io import BytesIO

import polars as pl
from hypothesis import strategies as st
from tests.fuzz.test_bundles import damaged

import polyrank as pr
from polyrank.data.check.log import check as audit
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import PolyrankError

SCHEMA = pr.Schema(
    [pr.SparseFeature("item"), pr.DenseFeature("price", bins=4)],
    [pr.Task("click"), pr.Task("spend", kind="regression", given="click")],
    pr.Keys(user="user"),
)
NAMES = [*SCHEMA.inputs, "click", "spend", "user"]
CELLS = st.one_of(
    st.sampled_from(["", "0", "1", "NaN", "nan", "inf", "-1", "1e400", "007", "3.5", "null", '"']),
    st.sampled_from(['""', '"a,b"', "9223372036854775808", "true", " 1", "北京", "\ufeff", "a\tb"]),
    st.text(max_size=5),
)
DTYPES = [pl.Int8, pl.UInt64, pl.Float32, pl.String, pl.Boolean, pl.Date, pl.Binary, pl.Categorical]


def ingested(file):
    """Read as `fit` does: proposal, audit, vocabulary, rows."""
    with suppress(PolyrankError):
        pr.infer(read(str(file)))
    with suppress(PolyrankError):
        audit(SCHEMA, {"train": read(str(file), SCHEMA)})
    with suppress(PolyrankError):
        frame = read(str(file), SCHEMA)
        encode(frame, SCHEMA, Vocab.fit(frame, SCHEMA), orphans="zero")


def test_texts(fuzz, tmp_path):
    row = st.lists(CELLS, min_size=len(NAMES), max_size=len(NAMES)) | st.lists(CELLS, max_size=7)
    header = st.just(NAMES) | st.permutations(NAMES) | st.lists(st.sampled_from(NAMES), max_size=6)
    ending = st.sampled_from(["\n", "\r\n", "\r"])

    def check(example):
        suffix, header, rows, end, tail = example
        mark = "\t" if suffix == ".tsv" else ","
        file = tmp_path / f"log{suffix}"
        text = end.join(mark.join(cells) for cells in [header, *rows])
        file.write_bytes(text.encode("utf-8", "surrogatepass") + tail)
        ingested(file)

    rows = st.lists(row, max_size=6)
    suffix = st.sampled_from([".csv", ".tsv"])
    fuzz(st.tuples(suffix, header, rows, ending, st.binary(max_size=3)), check)


def test_parquet(fuzz, tmp_path):
    column = st.tuples(
        st.sampled_from(DTYPES), st.lists(st.none() | st.integers(-2, 3), min_size=4, max_size=4)
    )
    damage = st.none() | st.tuples(
        st.booleans(), st.integers(0, 2**12), st.binary(max_size=4), st.integers(0, 4)
    )

    def check(example):
        columns, listed, how = example
        series = []
        for name, (dtype, values) in zip(NAMES, columns, strict=True):
            found = pl.Series(name, values, pl.Int64)
            with suppress(pl.exceptions.PolarsError):
                found = found.cast(pl.String).cast(dtype, strict=False)
            series.append(found)
        frame = pl.DataFrame(series)
        if listed:
            frame = frame.with_columns(pl.concat_list(pl.col(NAMES[0])).alias(NAMES[0]))
        written = BytesIO()
        frame.write_parquet(written)
        data = written.getvalue()
        file = tmp_path / "log.parquet"
        file.write_bytes(data if how is None else damaged(data, *how))
        ingested(file)

    columns = st.tuples(*[column] * len(NAMES))
    fuzz(st.tuples(columns, st.booleans(), damage), check)
