"""Files and folders that are replaced whole, and locks that keep others out."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from polyrank.files import is_locked, locked, replacing, replacing_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_another_and_leaves_nothing_beside_it(tmp_path):
    for text in ("old", "new"):
        with replacing(tmp_path / "note") as temporary:
            temporary.write_text(text)
        assert (tmp_path / "note").read_text() == text
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "note") as temporary:
        temporary.write_text(str(1 // 0))
    assert (tmp_path / "note").read_text() == "new"
    assert names(tmp_path) == ["note"]


def test_a_folder_takes_the_place_of_another(tmp_path):
    for text in ("old", "new"):
        with replacing_folder(tmp_path / "run") as temporary:
            (temporary / "note").write_text(text)
        assert (tmp_path / "run" / "note").read_text() == text
    assert names(tmp_path) == ["run"]


def test_after_an_exception_the_old_folder_is_there_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "run"):
        raise ZeroDivisionError
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: broken(rename, path, to))
    with (
        pytest.raises(OSError, match="the disk is gone"),
        replacing_folder(tmp_path / "run") as new,
    ):
        (new / "note").touch()
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == []


def broken(rename, path, to):
    """Rename all but a finished folder."""
    if (path / "note").exists():
        raise OSError("the disk is gone")
    return rename(path, to)


@pytest.mark.parametrize("wait", [False, True])
def test_one_of_many_threads_holds_a_lock(tmp_path, wait):
    pytest.importorskip("fcntl")
    together, holders, refused = Barrier(8), [], []

    def enter(number):
        together.wait()
        try:
            with locked(tmp_path / ".run.lock", wait=wait):
                holders.append(number)
                assert holders == [number]
                holders.remove(number)
        except BlockingIOError:
            refused.append(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(8)))
    assert len(refused) < (1 if wait else 8)
    assert names(tmp_path) == []


def test_a_killed_process_keeps_nobody_out(tmp_path):
    pytest.importorskip("fcntl")
    lock = tmp_path / ".run.lock"
    code = f"""
from pathlib import Path
from polyrank.files import locked
with locked(Path({str(lock)!r})):
    print("held", flush=True)
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError), locked(lock, wait=False):
        pass
    process.kill()
    process.communicate()
    assert lock.exists()
    with locked(lock, wait=False):
        pass
    assert not lock.exists()


def test_who_asks_whether_a_lock_is_held_leaves_nothing(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
    assert names(tmp_path) == []
