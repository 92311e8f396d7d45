"""Checksums of files: believed only as long as nothing could have changed."""

import hashlib
import os
from pathlib import Path

import pytest

from polyrank.data import checksums


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def settled(monkeypatch):
    """A clock on which each file was changed long ago."""
    monkeypatch.setattr(checksums.time, "time_ns", lambda: 1 << 62)


@pytest.fixture
def opened(monkeypatch):
    """The files that are read."""
    names = []
    original = hashlib.file_digest

    def noting(file, algorithm):
        names.append(Path(file.name).name)
        return original(file, algorithm)

    monkeypatch.setattr(checksums.hashlib, "file_digest", noting)
    return names


@pytest.mark.usefixtures("settled")
def test_an_untouched_file_is_not_read_again(tmp_path, opened):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"one")
    b.write_bytes(b"two")
    for _ in range(2):
        found = checksums.of_files([str(b), str(a)], tmp_path / "memory.json")
        assert found == [sha256(b"two"), sha256(b"one")]
    assert sorted(opened) == (["a", "b"] if os.name != "nt" else ["a", "a", "b", "b"])


def test_a_file_changed_a_moment_ago_is_read_again(tmp_path, opened):
    (tmp_path / "a").write_bytes(b"one")
    for _ in range(2):
        checksums.of_files([str(tmp_path / "a")], tmp_path / "memory.json")
    assert opened == ["a", "a"]


@pytest.mark.usefixtures("settled")
def test_equal_size_and_time_do_not_hide_a_change(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    times = file.stat()
    assert checksums.of_files([str(file)], tmp_path / "memory.json") == [sha256(b"one")]
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_mtime_ns == times.st_mtime_ns
    assert checksums.of_files([str(file)], tmp_path / "memory.json") == [sha256(b"two")]


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', '{"x": {"state": 1}}', "\x00"])
def test_a_damaged_memory_is_an_empty_one(tmp_path, text):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "memory.json").write_text(text)
    assert checksums.of_files([str(tmp_path / "a")], tmp_path / "memory.json") == [sha256(b"one")]


@pytest.mark.usefixtures("settled")
def test_files_that_are_gone_are_forgotten(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"one")
        checksums.of_files([str(tmp_path / name)], tmp_path / "memory.json")
        (tmp_path / name).unlink(missing_ok=name == "a")
    (tmp_path / "c").write_bytes(b"one")
    checksums.of_files([str(tmp_path / "c")], tmp_path / "memory.json")
    assert str(tmp_path / "a") not in (tmp_path / "memory.json").read_text()
