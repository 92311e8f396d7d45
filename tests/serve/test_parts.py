"""A folder of parts: what is in it, and that an interruption leaves no trace in it."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.errors import DataError
from polyrank.serve import batch
from polyrank.serve.batch import PartsFolder, Predictor, predict_parts
from polyrank.serve.engine import Predictions

SCHEMA = pr.Schema([pr.DenseFeature("price")], [pr.Task("click")], pr.Keys(user="user"))
ROWS, CHUNK, PART = 100, 10, 30
IDENTITY = {"bundle": "0123456789abcdef", "engine": "onnxruntime"}


def predict(frame):
    price = frame["price"].to_numpy()
    return Predictions({"p_click": price / (1 + price)}, {}, {"price": frame.height})


class Asked:
    """An answer that keeps the rows that it was asked for, and is interrupted at one of them."""

    def __init__(self, until=None, error=DataError):
        self.prices, self.until, self.error = [], until, error

    def __call__(self, frame):
        if self.until is not None and len(self.prices) >= self.until:
            raise self.error("interrupted")
        self.prices += frame["price"].to_list()
        return predict(frame)


def predictor(predict=predict, threads=1, **identity):
    return Predictor(SCHEMA, predict, threads, IDENTITY | identity)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def manifest(folder):
    return json.loads((folder / "parts.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(batch, "CHUNK_ROWS", CHUNK)
    monkeypatch.setattr(batch, "PART_CHUNKS", PART // CHUNK)


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
    predict_parts(predictor(), source, tmp_path / "whole")
    return content(tmp_path / "whole")


def test_parts_hold_the_rows_in_order_and_say_what_they_are(frame, source, tmp_path):
    scored = predict_parts(predictor(threads=2), source, tmp_path / "deep" / "out")
    folder = tmp_path / "deep" / "out"
    names = [f"part-0000{number}.parquet" for number in range(4)]
    assert [*content(folder)] == [*names, "parts.json"]
    parts = [pl.read_parquet(folder / name) for name in names]
    assert [part.height for part in parts] == [PART, PART, PART, ROWS - 3 * PART]
    expected = frame.select("user").hstack(pl.DataFrame(dict(predict(frame).outputs)))
    assert pl.concat(parts).equals(expected)
    assert scored == batch.Counts(ROWS, {}, {"price": ROWS}, resumed=0)
    found = manifest(folder)
    assert found["finished"] is True
    assert found["rows"] == ROWS
    assert found["nulls"] == {"price": ROWS}
    assert [each["rows"] for each in found["parts"].values()] == [part.height for part in parts]
    assert {name: found["head"][name] for name in IDENTITY} == IDENTITY
    assert found["head"]["columns"] == {"user": "String", "p_click": "Float64"}
    assert found["head"]["source"][0]["file"] == "rows.parquet"


def test_the_last_part_may_be_full(frame, tmp_path):
    frame.head(2 * PART).write_parquet(tmp_path / "rows.parquet")
    predict_parts(predictor(), str(tmp_path / "rows.parquet"), tmp_path / "out")
    assert [*content(tmp_path / "out")] == [
        "part-00000.parquet",
        "part-00001.parquet",
        "parts.json",
    ]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("error", [DataError, KeyboardInterrupt])
@pytest.mark.parametrize("until", range(0, ROWS, CHUNK))
def test_interrupted_anywhere_and_resumed_gives_the_same_bytes(
    frame, source, whole, tmp_path, until, error, threads
):
    out = tmp_path / "out"
    with pytest.raises(error):
        predict_parts(predictor(Asked(until, error), threads), source, out)
    before = manifest(out)
    assert before["finished"] is False
    assert [*content(out)] == [*before["parts"], "parts.json"]  # and no half part
    rest = Asked()
    scored = predict_parts(predictor(rest), source, out, resume=True)
    assert scored.resumed == before["rows"]
    assert rest.prices == frame["price"].to_list()[before["rows"] :]
    assert (scored.rows, scored.nulls) == (ROWS, {"price": ROWS})
    assert content(out) == whole


def test_an_interruption_between_a_part_and_its_entry_costs_that_part(
    source, whole, tmp_path, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartsFolder, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict_parts(predictor(), source, tmp_path / "out")
    assert [*content(tmp_path / "out")] == ["part-00000.parquet", "parts.json"]
    assert predict_parts(predictor(), source, tmp_path / "out", resume=True).resumed == 0
    assert content(tmp_path / "out") == whole


CHILD = """
import sys, threading
from polyrank.serve import batch
sys.path.insert(0, sys.argv[1])
from test_parts import CHUNK, PART, predict, predictor
batch.CHUNK_ROWS, batch.PART_CHUNKS = CHUNK, PART // CHUNK
asked = []
def stops(frame):
    asked.append(frame)
    if len(asked) == 6:  # the second part is half written
        print("stopped", flush=True)
        threading.Event().wait()
    return predict(frame)
batch.predict_parts(predictor(stops), sys.argv[2], sys.argv[3])
"""


def test_a_process_that_is_killed_is_resumed(source, whole, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), source, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "stopped\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert manifest(out)["rows"] == PART
    left = [name for name in content(out) if name.startswith(".part-00001.parquet.")]
    assert len(left) == 1
    scored = predict_parts(predictor(), source, out, resume=True)
    assert scored.resumed == PART
    assert content(out) == whole


def test_a_disk_that_is_full_keeps_the_finished_parts(source, whole, tmp_path):
    out = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills(frame):
        if manifest(out)["parts"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        return predict(frame)

    try:
        with pytest.raises(DataError) as caught:
            predict_parts(predictor(fills), source, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == f"{out} could not be written: File too large"
    assert [*content(out)] == ["part-00000.parquet", "parts.json"]
    predict_parts(predictor(), source, out, resume=True)
    assert content(out) == whole


def test_what_is_finished_is_not_scored_again(source, whole, tmp_path):
    nobody = Asked(until=0)
    scored = predict_parts(predictor(nobody), source, tmp_path / "whole", resume=True)
    assert (scored.rows, scored.resumed) == (ROWS, ROWS)
    assert content(tmp_path / "whole") == whole


def test_resume_begins_where_there_is_nothing(source, whole, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".parts.json.0123abcd").write_text("{")
    for name in ("empty", "killed", "new"):
        predict_parts(predictor(), source, tmp_path / name, resume=True)
        assert content(tmp_path / name) == whole


def test_parts_that_are_there_are_not_touched_unless_told(source, whole, tmp_path):
    message = (
        r"whole already has parts: continue with --resume, replace them with --force, or "
        r"choose another --out"
    )
    with pytest.raises(DataError, match=message):
        predict_parts(predictor(), source, tmp_path / "whole")
    assert content(tmp_path / "whole") == whole


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_force_replaces_the_parts_and_nothing_else(frame, source, tmp_path, engine):
    out = tmp_path / "whole"
    (out / "notes.txt").write_text("mine")
    (out / "part-00009.parquet").write_text("mine too")
    frame.head(40).write_parquet(source)
    predict_parts(predictor(engine=engine), source, out, force=True)
    parts = [f"part-0000{number}.parquet" for number in (0, 1, 9)]
    assert [*content(out)] == ["notes.txt", *parts, "parts.json"]
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "part-00009.parquet").read_text() == "mine too"
    assert manifest(out)["rows"] == 40
    assert manifest(out)["head"]["engine"] == engine


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"bundle": "fedcba9876543210"}, r"another bundle \(was '0123456789abcdef', is 'fed"),
        ({"engine": "torch"}, r"another engine \(was 'onnxruntime', is 'torch'\)"),
        ({"raw": True}, r"another raw \(was missing, is True\)"),
    ],
)
def test_another_scorer_is_refused(source, whole, tmp_path, identity, message):
    remedy = r".*: --resume needs the same; use --force or another --out"
    with pytest.raises(DataError, match=message + remedy):
        predict_parts(predictor(**identity), source, tmp_path / "whole", resume=True)
    assert content(tmp_path / "whole") == whole


def test_another_source_is_refused_by_file(frame, source, tmp_path):
    for number in range(3):
        frame.write_parquet(tmp_path / f"day-{number}.parquet")
    pattern = str(tmp_path / "day-*.parquet")
    with pytest.raises(DataError):
        predict_parts(predictor(Asked(2 * PART)), pattern, tmp_path / "out")
    frame.head(99).write_parquet(tmp_path / "day-1.parquet")
    message = r"another source \(file 2 of 3: sha256 was '.{11}…', is '.{11}…'\)"
    with pytest.raises(DataError, match=message):
        predict_parts(predictor(), pattern, tmp_path / "out", resume=True)
    message = r"another source \(3 files before and 1 now\)"
    with pytest.raises(DataError, match=message):
        predict_parts(predictor(), source, tmp_path / "out", resume=True)


def test_a_copy_of_the_source_is_the_same(frame, source, whole, tmp_path):
    with pytest.raises(DataError):
        predict_parts(predictor(Asked(2 * PART)), source, tmp_path / "out")
    frame.head(0).write_parquet(source)
    frame.write_parquet(source, row_group_size=17)
    predict_parts(predictor(), source, tmp_path / "out", resume=True)
    assert content(tmp_path / "out") == whole


@pytest.mark.usefixtures("whole")
def test_another_size_of_parts_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "PART_CHUNKS", 4)
    with pytest.raises(DataError, match=r"another rows per part \(was 30, is 40\)"):
        predict_parts(predictor(), source, tmp_path / "whole", resume=True)


def test_parts_that_are_not_as_they_were_written_are_refused(source, whole, tmp_path):
    part = tmp_path / "whole" / "part-00001.parquet"
    part.write_bytes(b"short")
    with pytest.raises(DataError, match=r"part-00001.parquet has 5 bytes and was written with "):
        predict_parts(predictor(), source, tmp_path / "whole", resume=True)
    part.unlink()
    with pytest.raises(DataError, match=r"part-00001.parquet is missing: start again with --force"):
        predict_parts(predictor(), source, tmp_path / "whole", resume=True)
    predict_parts(predictor(), source, tmp_path / "whole", force=True)
    assert content(tmp_path / "whole") == whole


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}])
def test_a_folder_of_something_else_is_left_as_it_is(source, tmp_path, options):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000.parquet").write_text("mine")
    with pytest.raises(
        DataError, match=r"out is not empty and has no parts of polyrank \(no parts"
    ):
        predict_parts(predictor(), source, tmp_path / "out", **options)
    assert content(tmp_path / "out") == {"part-00000.parquet": b"mine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"parts.json cannot be read \(Expecting"),
        ("[]", r"parts.json cannot be read"),
        ('{"format": 1}', r"format 1; this polyrank has format 2"),
        ('{"format": 3}', r"format 3; this polyrank has format 2"),
        ('{"format": 2, "head": {}}', r"parts.json cannot be read \('parts'\)"),
        (
            '{"format": 2, "parts": {"../rows.parquet": {"rows": 1, "bytes": 1}}}',
            r"its parts are not numbered from 0",
        ),
    ],
)
@pytest.mark.parametrize("options", [{"resume": True}, {"force": True}])
def test_a_manifest_that_cannot_be_read_removes_nothing(source, tmp_path, text, message, options):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "parts.json").write_text(text)
    with pytest.raises(DataError, match=message):
        predict_parts(predictor(), source, tmp_path / "out", **options)
    assert content(tmp_path / "out") == {"parts.json": text.encode()}


def test_other_refusals(frame, source, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(DataError, match=r"note is a file: parts need a folder"):
        predict_parts(predictor(), source, tmp_path / "note")
    with pytest.raises(
        DataError, match=r"resume continues after existing parts and force removes them"
    ):
        predict_parts(predictor(), source, tmp_path / "out", resume=True, force=True)
    inside = tmp_path / "out" / "part-00000.parquet"
    predict_parts(predictor(), source, tmp_path / "out")
    frame.write_parquet(inside)
    with pytest.raises(DataError, match=r"out contains the source .*: choose another folder"):
        predict_parts(predictor(), str(inside), tmp_path / "out", force=True)
    assert pl.read_parquet(inside).equals(frame)
    frame.head(0).write_parquet(source)
    with pytest.raises(DataError, match=r"there are no rows to score"):
        predict_parts(predictor(), source, tmp_path / "none")
    frame.drop("price").write_parquet(source)
    with pytest.raises(DataError, match=r"rows.parquet: column 'price' is not in the data"):
        predict_parts(predictor(), source, tmp_path / "none")
    assert not (tmp_path / "none").exists()
