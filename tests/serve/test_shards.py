"""Shards of a log: every row once, the same bits as in one run, and no shard in another's way."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyrank as pr
from polyrank.errors import ConfigError, DataError
from polyrank.serve import batch
from polyrank.serve.batch import Predictor, predict_file, predict_shard
from polyrank.serve.engine import Predictions
from polyrank.serve.shards import Shard

SCHEMA = pr.Schema([pr.DenseFeature("price")], [pr.Task("click")], pr.Keys(user="user"))
ROWS, CHUNK = 95, 10
IDENTITY = {"bundle": "0123456789abcdef", "engine": "onnxruntime"}


def predict(frame):
    """Depend on the place of a row in its chunk, as a kernel's rounding may."""
    price = frame["price"].to_numpy()
    found = price / (1 + price) + np.arange(frame.height) * 1e-9
    return Predictions({"p_click": found}, {}, {"price": frame.height})


def predictor(predict=predict, threads=1, **identity):
    return Predictor(SCHEMA, predict, threads, IDENTITY | identity)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(batch, "CHUNK_ROWS", CHUNK)


@pytest.fixture
def frame():
    generator = np.random.default_rng(3)
    names = [f"Zürich {number}" for number in generator.integers(0, 50, ROWS)]
    return pl.DataFrame({"price": generator.lognormal(size=ROWS), "user": names})


@pytest.fixture
def source(frame, tmp_path):
    frame.write_parquet(tmp_path / "rows.parquet", row_group_size=17)
    return str(tmp_path / "rows.parquet")


@pytest.fixture
def whole(source, tmp_path):
    predict_file(predictor(), source, tmp_path / "whole.parquet")
    return pl.read_parquet(tmp_path / "whole.parquet")


@given(st.integers(0, 10_000), st.integers(1, 500), st.integers(1, 40))
def test_every_row_is_in_one_shard_and_a_chunk_is_never_divided(total, chunk, count):
    found = [Shard(number, count).rows(total, chunk) for number in range(1, count + 1)]
    assert [row for each in found for row in each] == [*range(total)]
    assert all(not each or each.start % chunk == 0 for each in found)
    chunks = [-(-len(each) // chunk) for each in found]
    assert max(chunks) - min(chunks) <= 1


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "-1/3", "1/0", "a/b", "1/3 ", "1.0/3"])
def test_what_is_no_shard_is_refused(text):
    message = rf"K-th of N parts with K from 1 to N, such as 2/8, got '{text}'$"
    with pytest.raises(ConfigError, match=message):
        Shard.parse(text)


@pytest.mark.parametrize("count", [1, 9, 10, 99_999, 100_000, 1_000_000])
def test_names_sort_as_the_rows_do(count):
    numbers = sorted({1, 2, 9, 10, 99_999, 100_000, count} & {*range(1, count + 1)})
    names = [Shard(number, count).part for number in numbers]
    assert names == sorted(names)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 15])
def test_the_parts_joined_by_name_are_the_file_to_the_bit(source, whole, tmp_path, count, threads):
    out = tmp_path / "deep" / "out"
    found = [
        predict_shard(predictor(threads=threads), source, out, Shard(number, count))
        for number in reversed(range(1, count + 1))
    ]
    assert pl.read_parquet(out / "*.parquet").equals(whole)
    assert sum(each.rows for each in found) == ROWS
    assert sum(each.nulls.get("price", 0) for each in found) == ROWS
    names = [path.name for path in sorted(out.iterdir())]
    assert names == [*(Shard(each, count).part for each in range(1, count + 1)), "shards.json"]


def test_several_files_are_one_log(frame, whole, tmp_path):
    for number, (start, rows) in enumerate([(0, 33), (33, 0), (33, 40), (73, 22)]):
        frame.slice(start, rows).write_parquet(tmp_path / f"day-{number}.parquet")
    for number in (1, 2, 3):
        predict_shard(
            predictor(), str(tmp_path / "day-*.parquet"), tmp_path / "out", Shard(number, 3)
        )
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").equals(whole)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_text_is_divided_as_parquet_is(frame, whole, tmp_path, suffix):
    source = tmp_path / f"rows{suffix}"
    frame.write_csv(source, separator="\t" if suffix == ".tsv" else ",")
    for number in (1, 2, 3):
        predict_shard(predictor(), str(source), tmp_path / "out", Shard(number, 3))
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").equals(whole)


def test_a_shard_reads_only_the_row_groups_of_its_rows(frame, tmp_path):
    source = tmp_path / "rows.parquet"
    frame.write_parquet(source, row_group_size=CHUNK)
    start = Shard(2, 2).rows(ROWS, CHUNK).start
    group = pyarrow.parquet.ParquetFile(source).metadata.row_group(start // CHUNK)
    columns = [group.column(each) for each in range(group.num_columns)]
    begins = min(each.dictionary_page_offset or each.data_page_offset for each in columns)
    spoiled = source.read_bytes()[begins:]
    source.write_bytes(b"\xff" * begins + spoiled)
    with pytest.raises(DataError):
        predict_shard(predictor(), str(source), tmp_path / "first", Shard(1, 2))
    predict_shard(predictor(), str(source), tmp_path / "out", Shard(2, 2))
    found = pl.read_parquet(tmp_path / "out" / Shard(2, 2).part)
    assert found["user"].equals(frame["user"][start:])


def test_a_shard_without_rows_writes_an_empty_part_with_the_columns(source, whole, tmp_path):
    scored = predict_shard(predictor(), source, tmp_path / "out", Shard(1, 100))
    assert scored == batch.Counts(0, {}, {})
    part = pl.read_parquet(tmp_path / "out" / Shard(1, 100).part)
    assert part.height == 0
    assert part.schema == whole.schema


def test_a_wrong_row_is_named_by_its_place_in_the_log(source, tmp_path):
    def refuses(_):
        raise DataError("column 'price' has 1 infinite value")

    message = r"^in rows 80 to 89: column 'price' has 1 infinite value$"
    with pytest.raises(DataError, match=message):
        predict_shard(predictor(refuses), source, tmp_path / "out", Shard(5, 5))
    assert [*content(tmp_path / "out")] == ["shards.json"]
    predict_shard(predictor(), source, tmp_path / "out", Shard(5, 5))


def test_a_part_that_is_there_is_not_touched_unless_told(source, tmp_path):
    out, shard, other = tmp_path / "out", Shard(2, 3), Shard(1, 3)
    for each in (shard, other):
        predict_shard(predictor(), source, out, each)
    before = content(out)
    message = (
        r"part-00002-of-00003.parquet already exists: keep it with --resume, replace it with "
        r"--force, or choose another --out"
    )
    with pytest.raises(DataError, match=message):
        predict_shard(predictor(), source, out, shard)

    def nobody(_):
        raise AssertionError

    rows = len(shard.rows(ROWS, CHUNK))
    kept = predict_shard(predictor(nobody), source, out, shard, resume=True)
    assert kept == batch.Counts(rows, {}, {}, resumed=rows)
    (out / shard.part).write_bytes(b"short")
    (out / f".{shard.part}.0123abcd").write_text("of a killed process")
    (out / f".{other.part}.0123abcd").write_text("of one that runs")
    replaced = predict_shard(predictor(), source, out, shard, force=True)
    assert replaced.resumed == 0
    assert content(out) == before | {f".{other.part}.0123abcd": b"of one that runs"}
    with pytest.raises(DataError, match="resume keeps an existing part and force replaces it"):
        predict_shard(predictor(), source, out, shard, resume=True, force=True)


def test_resume_scores_a_part_that_is_not_there(source, whole, tmp_path):
    for number in (1, 2):
        predict_shard(predictor(), source, tmp_path / "out", Shard(number, 2), resume=True)
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").equals(whole)


@pytest.mark.parametrize(
    ("identity", "shard", "message"),
    [
        ({"bundle": "fedcba9876543210"}, "2/2", r"another bundle \(was '0123456789abcdef', is"),
        ({"engine": "torch"}, "2/2", r"another engine \(was 'onnxruntime', is 'torch'\)"),
        ({"raw": True}, "2/2", r"another raw \(was missing, is True\)"),
        ({}, "2/3", r"another shards \(was 2, is 3\)"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}])
def test_shards_of_another_run_are_refused(source, tmp_path, identity, shard, message, options):
    out = tmp_path / "out"
    predict_shard(predictor(), source, out, Shard(1, 2))
    before = content(out)
    remedy = r".*: all shards need the same; choose another --out, or remove the folder"
    with pytest.raises(DataError, match=message + remedy):
        predict_shard(predictor(**identity), source, out, Shard.parse(shard), **options)
    assert content(out) == before


def test_another_source_is_refused(frame, source, tmp_path):
    predict_shard(predictor(), source, tmp_path / "out", Shard(1, 2))
    frame.head(94).write_parquet(source)
    with pytest.raises(DataError, match=r"another source \(file 1 of 1: bytes was \d+, is \d+\)"):
        predict_shard(predictor(), source, tmp_path / "out", Shard(2, 2))


def test_a_run_that_began_at_the_same_moment_is_noticed(source, tmp_path):
    out = tmp_path / "out"

    def meanwhile(frame):
        manifest = json.loads((out / "shards.json").read_text())
        manifest["head"]["bundle"] = "fedcba9876543210"
        (out / "shards.json").write_text(json.dumps(manifest))
        return predict(frame)

    with pytest.raises(DataError, match=r"another bundle \(was 'fedcba9876543210', is '0123"):
        predict_shard(predictor(meanwhile), source, out, Shard(1, 2))
    assert [*content(out)] == ["shards.json"]


CHILD = """
import sys, threading
from polyrank.serve import batch
from polyrank.serve.shards import Shard
sys.path.insert(0, sys.argv[1])
from test_shards import CHUNK, predict, predictor
batch.CHUNK_ROWS = CHUNK
asked = []
def stops(frame):
    asked.append(frame)
    if len(asked) == 4:  # the part is half written
        print("stopped", flush=True)
        threading.Event().wait()
    return predict(frame)
batch.predict_shard(predictor(stops), sys.argv[2], sys.argv[3], Shard(1, 2))
"""


def test_a_process_that_is_killed_is_run_again(source, whole, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), source, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "stopped\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    left = [name for name in content(out) if name.startswith(f".{Shard(1, 2).part}.")]
    assert len(left) == 1
    for number in (2, 1):
        predict_shard(predictor(), source, out, Shard(number, 2))
    assert [*content(out)] == [Shard(1, 2).part, Shard(2, 2).part, "shards.json"]
    assert pl.read_parquet(out / "*.parquet").equals(whole)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}])
def test_a_folder_of_something_else_is_left_as_it_is(source, tmp_path, options):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000.parquet").write_text("mine")
    with pytest.raises(
        DataError, match=r"out is not empty and has no shards of polyrank \(no shards"
    ):
        predict_shard(predictor(), source, tmp_path / "out", Shard(1, 2), **options)
    assert content(tmp_path / "out") == {"part-00000.parquet": b"mine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"shards.json cannot be read \(Expecting"),
        ("[]", r"shards.json cannot be read"),
        ('{"format": 2}', r"format 2; this polyrank has format 1"),
        ('{"format": 1}', r"shards.json cannot be read \('head'\)"),
    ],
)
def test_a_manifest_that_cannot_be_read_changes_nothing(source, tmp_path, text, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "shards.json").write_text(text)
    with pytest.raises(DataError, match=message):
        predict_shard(predictor(), source, tmp_path / "out", Shard(1, 2), force=True)
    assert content(tmp_path / "out") == {"shards.json": text.encode()}


def test_other_refusals(frame, source, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(DataError, match=r"note is a file: parts need a folder"):
        predict_shard(predictor(), source, tmp_path / "note", Shard(1, 2))
    inside = tmp_path / "out" / Shard(1, 2).part
    predict_shard(predictor(), source, tmp_path / "out", Shard(1, 2))
    with pytest.raises(DataError, match=r"contains the source .*: choose another folder"):
        predict_shard(predictor(), str(inside), tmp_path / "out", Shard(2, 2), force=True)
    frame.head(0).write_parquet(source)
    with pytest.raises(DataError, match=r"there are no rows to score"):
        predict_shard(predictor(), source, tmp_path / "none", Shard(1, 2))
    frame.drop("price").write_parquet(source)
    for number in (1, 20):  # the first has no rows
        with pytest.raises(DataError, match=r"rows.parquet: column 'price' is not in the data"):
            predict_shard(predictor(), source, tmp_path / "none", Shard(number, 20))
    assert not (tmp_path / "none").exists()
