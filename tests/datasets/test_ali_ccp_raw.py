"""The raw files of Ali-CCP: what is generated, and what is read, against a plain reader."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.data.read import Joined, read
from polyrank.datasets import ali_ccp_raw as module
from polyrank.datasets import find, load
from polyrank.datasets.ali_ccp import DENSE, SPARSE
from polyrank.datasets.ali_ccp_lines import code_of, lines_of, name_of
from polyrank.datasets.ali_ccp_parquet import SINGLE_FILE, convert
from polyrank.datasets.ali_ccp_raw import (
    BAGS,
    COMMON,
    COMMON_BAGS,
    SAMPLE,
    SAMPLE_BAGS,
    ali_ccp_raw,
)
from polyrank.errors import ConfigError, DataError

ROWS = 3_000


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    return folder, ali_ccp_raw(folder, rows=ROWS, seed=3)


@pytest.fixture(scope="module")
def converted(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("log") / "log"
    return folder, convert(raw[0], folder, seed=5)


def features_of(text):
    """Field, id and value of each feature, as Python reads them."""
    found = []
    for each in text.split("\x01") if text else []:
        field, rest = each.split("\x02")
        number, value = rest.split("\x03")
        found.append((field, int(number), float(np.float32(float(value)))))
    return found


def slowly(folder, split):
    """The rows of a split and its common rows, line by line."""
    common = {}
    for line in (folder / f"common_features_{split}.csv").read_text().splitlines():
        index, count, text = line.split(",")
        common[index] = features_of(text)
        assert len(common[index]) == int(count)
    rows = []
    for line in (folder / f"sample_skeleton_{split}.csv").read_text().splitlines():
        number, click, buy, index, count, text = line.split(",")
        features = features_of(text)
        assert len(features) == int(count)
        rows.append((int(number), int(click), int(buy), features, common[index]))
    return rows


def of_field(features, name):
    return [(number, value) for field, number, value in features if field == name]


def test_the_generated_files_have_the_format_and_are_known(raw):
    folder, counts = raw
    rows = {split: slowly(folder, split) for split in ("train", "test")}
    assert [len(each) for each in rows.values()] == [1500, 1500]
    every = [row for each in rows.values() for row in each]
    assert counts["rows"] == ROWS
    assert counts["clicks"] == sum(click for _, click, *_ in every)
    assert counts["buys"] == sum(buy for _, _, buy, *_ in every)
    assert counts["orphans"] == 2  # one in either split
    for _, _, _, own, common in every:
        for fields, features in (((*SAMPLE, *SAMPLE_BAGS), own), ((*COMMON, *COMMON_BAGS), common)):
            names = [field for field, *_ in features]
            assert set(names) <= set(fields)
            assert all(names.count(name) <= 1 for name in fields if name not in BAGS)
    assert any(len(of_field(own, "210")) > 1 for *_, own, _ in every)
    assert any(len(of_field(own, "853")) > 1 for *_, own, _ in every)
    lengths = [len(common) for *_, common in every]
    assert 400 < np.mean(lengths) < 650  # 518 in the full log
    owners = {}
    for *_, own, common in every:  # no id is of two fields
        for field, number, _ in own + common[:30]:
            assert owners.setdefault(number, field) == field


def test_the_truth_is_that_of_the_labels(tmp_path):
    ali_ccp_raw(tmp_path, rows=60_000, seed=1)
    for split in ("train", "test"):
        truth = pl.read_parquet(tmp_path / f"truth_{split}.parquet")
        path = tmp_path / f"sample_skeleton_{split}.csv"
        names = ["sample_id", "click", "buy", "index", "count", "features"]
        log = pl.read_csv(path, has_header=False, new_columns=names, quote_char=None)
        assert truth["sample_id"].equals(log["sample_id"])
        assert log["click"].mean() == pytest.approx(truth["true_p_click"].mean(), rel=0.08)
        assert truth["true_p_buy"].sum() == pytest.approx(log["buy"].sum(), rel=0.25)
        product = truth["true_p_click"] * truth["true_p_buy_given_click"]
        np.testing.assert_allclose(truth["true_p_buy"], product)


def test_the_files_depend_on_the_seed_alone(raw, tmp_path):
    folder, counts = raw
    assert ali_ccp_raw(tmp_path / "again", rows=ROWS, seed=3) == counts
    ali_ccp_raw(tmp_path / "other", rows=ROWS, seed=4)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "other" / path.name).read_bytes() != path.read_bytes()


def test_every_value_is_that_of_a_slow_reader(raw, converted):
    source, (folder, counts) = raw[0], converted
    tables = {
        name: pl.read_parquet(folder / f"{name}.parquet") for name in ("train", "valid", "test")
    }
    half = np.random.default_rng(5).random(len(slowly(source, "test"))) < 0.5
    tests = slowly(source, "test")
    expected = {
        "train": slowly(source, "train"),
        "valid": [row for row, mine in zip(tests, half, strict=True) if mine],
        "test": [row for row, mine in zip(tests, half, strict=True) if not mine],
    }
    for name, rows in expected.items():
        log = Joined(folder / f"{name}.parquet", folder / "common.parquet", "common")
        joined = read(log).collect()
        assert joined["click"].to_list() == [click for _, click, *_ in rows]
        assert joined["purchase"].to_list() == [buy for _, _, buy, *_ in rows]
        for field in SPARSE:
            both = [of_field(own + common, field) for *_, own, common in rows]
            last = [each[-1] if each else (None, None) for each in both]
            assert joined[field].to_list() == [number for number, _ in last]
            if f"D{field}" in DENSE:
                assert joined[f"D{field}"].to_list() == [value for _, value in last]
            if field in BAGS:
                assert joined[f"{field}.all"].to_list() == [[i for i, _ in each] for each in both]
                assert joined[f"{field}.values"].to_list() == [
                    [v for _, v in each] for each in both
                ]
    assert sum(table.height for table in tables.values()) == counts.rows == ROWS
    assert counts.orphans == 2
    assert (counts.repeated, counts.unknown) == (0, 0)
    common = pl.read_parquet(folder / "common.parquet")
    assert common.height == counts.common == 2 * raw[1]["users"]


@pytest.mark.parametrize("size", [700, 5_000, 1 << 20])
def test_chunks_change_nothing(raw, size):
    for name, columns in (("sample_skeleton_train.csv", 3), ("common_features_train.csv", 0)):
        path = raw[0] / name
        whole = list(lines_of(path, columns, lambda lines: lines, chunk_bytes=1 << 30))
        parts = list(lines_of(path, columns, lambda lines: lines, chunk_bytes=size))
        assert len(whole) == 1
        for each in ("index", "field", "id", "value"):
            found = np.concatenate([getattr(part, each) for part in parts])
            assert np.array_equal(found, getattr(whole[0], each))


names = st.sampled_from(["101", "109_14", "853", "x"])
decimals = st.one_of(
    st.floats(0, 1e6, width=32).map(str),
    st.floats(-1e30, 1e30).map(str),
    st.integers(0, 10**12).map(str),
    st.decimals(0, 10**9, places=6).map(str),
    st.sampled_from(["0.1234567890123456789", "1.", ".5", "1e3", "00.50"]),
)
features = st.lists(st.tuples(names, st.integers(0, 10**16 - 1), decimals), max_size=6)
line = st.tuples(st.integers(0, 10**9), st.integers(0, 2**64 - 1), features)


@given(st.lists(line, min_size=1, max_size=8), st.sampled_from(["\n", ""]))
def test_lines_are_pythons(lines, end):
    texts = [
        f"{number},{index:016x},{len(own)},"
        + "\x01".join(f"{field}\x02{each}\x03{value}" for field, each, value in own)
        for number, index, own in lines
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "made.csv"
        path.write_bytes(("\n".join(texts) + end).encode())
        parts = list(lines_of(path, 1, lambda each: each, chunk_bytes=64))
    own = [each for _, _, each in lines]
    flat = [each for row in own for each in row]
    assert np.concatenate([each.numbers[0] for each in parts]).tolist() == [n for n, *_ in lines]
    assert np.concatenate([each.index for each in parts]).tolist() == [i for _, i, _ in lines]
    assert np.concatenate([np.diff(each.offsets) for each in parts]).tolist() == list(map(len, own))
    codes = np.concatenate([each.field for each in parts]).tolist()
    assert [name_of(code) for code in codes] == [field for field, *_ in flat]
    assert codes == [code_of(field) for field, *_ in flat]
    assert np.concatenate([each.id for each in parts]).tolist() == [each for _, each, _ in flat]
    values = np.concatenate([each.value for each in parts]).tolist()
    assert values == [float(np.float32(float(value))) for *_, value in flat]


GOOD = "1,0,0,00000000000000aa,1,205\x027\x031.0"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("1,0,0,00000000000000aa,1", "line 2 has 4 commas and not 5"),
        ("1,0,0,00000000000000aa,2,205\x027\x031.0", "says that it has 2 features, and has others"),
        ("1,0,0,00000000000000aa,1,205\x027", "line 2 has a feature without id or value"),
        ("1,0,0,00000000000000aa,1,205\x037\x021.0", "is not field, id and value"),
        ("1,0,0,00000000000000aa,1,205205205\x027\x031.0", "a field of more than eight letters"),
        ("1,0,0,00000000000000aa,1,205\x02x\x031.0", "line 2 has an id that is no whole number"),
        ("1,0,0,00000000000000aa,1,205\x02\x031.0", "line 2 has an id that is no whole number"),
        ("1,0,0,00000000000000aa,1,205\x027\x03", "line 2 has a value that is no number"),
        ("1,0,0,00000000000000aa,1,205\x027\x03a.b", "line 2 has a value that is no number"),
        ("1,0,0,00000000000000aa,1,205\x027\x03.", "line 2 has a value that is no number"),
        ("1,0,0,00000000000000aa,1,205\x027\x03nan", "line 2 has a value that is not finite"),
        ("1,0,0,00000000000000aa,1,205\x027\x031e99", "line 2 has a value that is not finite"),
        ("1,0,0,aa,1,205\x027\x031.0", "line 2 has an index that has not 16 hexadecimal digits"),
        ("1,0,0,00000000000000AA,1,205\x027\x031.0", "index that has not 16 hexadecimal digits"),
        ("x,0,0,00000000000000aa,1,205\x027\x031.0", "a column before the features is no whole n"),
        ("1,0,2,00000000000000aa,1,205\x027\x031.0", "a purchase that is neither 0 nor 1"),
        ("1,0,0,00000000000000aa,1,999\x027\x031.0", "the field '999' is not one of those"),
    ],
)
def test_lines_of_another_form_are_refused_by_number(bad, message, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"common_features_{split}.csv").write_text("00000000000000aa,1,101\x025\x031.0\n")
        (folder / f"sample_skeleton_{split}.csv").write_text(f"{GOOD}\n{bad}\n")
    with pytest.raises(DataError, match=message):
        convert(folder, tmp_path / "log")
    assert not (tmp_path / "log").exists()


def small(folder, skeleton, common="00000000000000aa,1,101\x025\x031.0\n"):
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"common_features_{split}.csv").write_text(common)
        (folder / f"sample_skeleton_{split}.csv").write_text(skeleton * 8)


def test_what_most_readers_lose_in_silence_is_counted_and_said(tmp_path, caplog):
    other = "2,1,1,00000000000000bb,3,301\x021\x031.0\x01301\x022\x031.0\x01853\x023\x030.5\n"
    small(tmp_path / "raw", f"{GOOD}\r\n{other}")
    counts = convert(tmp_path / "raw", tmp_path / "log")
    assert (counts.repeated, counts.unknown, counts.rows) == (16, 16, 32)
    assert "16 values of fields with one value were not the last of a line" in caplog.text
    assert "16 rows name a common row that is not there" in caplog.text
    train = pl.read_parquet(tmp_path / "log" / "train.parquet")
    assert train["101"].to_list() == [5, None] * 8
    assert train["301"].to_list() == [None, 2] * 8
    assert train["common"].to_list() == [0, None] * 8
    assert train["853.all"].to_list() == [[], [3]] * 8


def test_two_common_rows_of_one_index_are_refused(tmp_path):
    common = "00000000000000aa,1,101\x025\x031.0\n" * 2
    small(tmp_path / "raw", f"{GOOD}\n", common)
    with pytest.raises(DataError, match="has two lines with one common_feature_index"):
        convert(tmp_path / "raw", tmp_path / "log")


def test_a_missing_file_and_a_folder_in_use_are_refused(raw, converted, tmp_path):
    with pytest.raises(DataError, match=r"has no sample_skeleton_train\.csv: name the folder"):
        convert(tmp_path, tmp_path / "log")
    with pytest.raises(
        ConfigError, match="exists: name another folder, or replace it with --force"
    ):
        convert(raw[0], converted[0])


def test_both_experiments_train(converted, tmp_path, capsys):
    folder, _ = converted
    for name in ("experiment.toml", SINGLE_FILE):
        experiment = Experiment.load(folder / name, ["train.epochs=1", "train.batch_size=512"])
        bundle = experiment.fit(out=tmp_path / name)
        assert bundle.scorecard is not None
    assert run(["explain", str(folder / "experiment.toml")]) == 0
    assert "109_14.all" in capsys.readouterr().out


def test_the_command_line_makes_and_converts(tmp_path, capsys):
    made, log = str(tmp_path / "made"), str(tmp_path / "log")
    assert run(["data", "make", "ali_ccp_raw", "--rows", "400", "--out", made, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["rows"] == 400
    assert run(["data", "make", "ali_ccp_raw", "--rows", "400", "--out", made]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert run(["data", "get", "ali_ccp", "--raw", made, "--out", log]) == 0
    assert "orphans:  2" in capsys.readouterr().out
    assert run(["data", "get", "census", "--raw", made]) == 1
    assert "--raw is for ali_ccp" in capsys.readouterr().err
    assert run(["data", "make", "ali_ccp_raw", "--preset", "latent", "--out", log + "2"]) == 1
    assert "unknown option 'preset'" in capsys.readouterr().err


def test_it_is_files_and_no_frames():
    with pytest.raises(ConfigError, match="data set 'ali_ccp_raw' is files of another format"):
        load("ali_ccp_raw")
    with pytest.raises(ConfigError, match="rows must be at least 100, for both splits, got 3"):
        ali_ccp_raw("nowhere", rows=3)
    assert find("ali_ccp_raw").options == ("rows", "seed")
    assert module.SPLITS == ("train", "test")
