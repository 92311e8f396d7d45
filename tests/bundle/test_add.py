"""Files that are added to a bundle: whole, or not at all, whatever interrupts."""

import json
import os
from pathlib import Path

import pytest

import polyrank as pr
from polyrank.bundle import format
from polyrank.errors import BundleError


class Killed(BaseException):
    """What no handler catches, as a killed process runs none."""


@pytest.fixture
def saved(bundle, tmp_path):
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def staged(saved, **contents):
    folder = saved / "staged"
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in contents}


def manifest(saved):
    return json.loads((saved / format.MANIFEST).read_text())


def test_added_files_are_named_and_checked(saved, bundle):
    before = manifest(saved)
    format.add(saved, staged(saved, one="1", two="2"), {"onnx": {"one": 1}})
    assert manifest(saved)["files"].keys() == before["files"].keys() | {"one", "two"}
    assert manifest(saved)["onnx"] == {"one": 1}
    assert pr.load(saved).schema == bundle.schema
    (saved / "two").write_text("3")
    with pytest.raises(BundleError, match=r"is damaged: two is not the file that was written"):
        pr.load(saved)
    (saved / "two").unlink()
    with pytest.raises(BundleError, match=r"is damaged: two is missing"):
        pr.load(saved)


def test_a_second_time_replaces_and_what_is_not_named_again_goes(saved):
    format.add(saved, staged(saved, one="1", two="2"), {"onnx": {"one": 1}})
    (saved / "three").write_text("left by a process that was killed")
    format.add(
        saved, staged(saved, one="new"), {"onnx": {"one": 2}}, instead_of=["one", "two", "three"]
    )
    assert (saved / "one").read_text() == "new"
    assert not (saved / "two").exists()
    assert not (saved / "three").exists()
    assert manifest(saved)["onnx"] == {"one": 2}
    pr.load(saved)


STEPS = ["_put", "replace", "replace", "_put"]


@pytest.mark.parametrize("kind", [Killed, OSError])
@pytest.mark.parametrize("at", range(len(STEPS)))
def test_whatever_step_is_the_last_the_bundle_can_be_read(saved, bundle, monkeypatch, kind, at):
    format.add(saved, staged(saved, one="1", two="2"), {"onnx": {"one": 1}})
    files = staged(saved, one="new", two="newer")
    put, replace, steps = format._put, Path.replace, []

    def interrupted(step, call):
        def wrapped(*arguments):
            own = step == "_put" or arguments[0].parent.name == "staged"
            if own:
                steps.append(step)
                if len(steps) == at + 1:
                    raise kind("No space left on device")
            return call(*arguments)

        return wrapped

    monkeypatch.setattr(format, "_put", interrupted("_put", put))
    monkeypatch.setattr(Path, "replace", interrupted("replace", replace))
    with pytest.raises(BundleError if kind is OSError else Killed, match="No space"):
        format.add(saved, files, {"onnx": {"one": 2}})
    monkeypatch.undo()
    assert steps == STEPS[: at + 1]
    assert pr.load(saved).schema == bundle.schema
    assert manifest(saved).get("onnx") == ({"one": 1} if at == 0 else None)
    format.add(saved, staged(saved, one="new", two="newer"), {"onnx": {"one": 2}})
    assert manifest(saved)["onnx"] == {"one": 2}
    pr.load(saved)


def test_the_same_files_are_there_all_along(saved, monkeypatch):
    format.add(saved, staged(saved, one="1", two="2"), {"onnx": {"one": 1}})
    seen = []
    put = format._put
    monkeypatch.setattr(format, "_put", lambda path, new: (seen.append(new), put(path, new)))
    format.add(saved, staged(saved, one="1", two="2"), {"onnx": {"one": 2}})
    assert [each["onnx"] for each in seen] == [{"one": 2}]


def test_a_reader_that_was_overtaken_reads_again(saved, monkeypatch):
    format.add(saved, staged(saved, one="1"), {"onnx": {"one": 1}})
    checksum, done = format._checksum, []

    def overtaken(file):
        if file == saved / "one" and not done:
            done.append(file)
            format.add(saved, staged(saved, one="new"), {"onnx": {"one": 2}})
        return checksum(file)

    monkeypatch.setattr(format, "_checksum", overtaken)
    parts = format.read(saved)
    assert done
    assert parts.manifest["onnx"] == {"one": 2}


def test_two_that_add_at_once_take_turns(saved, monkeypatch):
    """Else one would remove the file that the other has just named."""
    fcntl = pytest.importorskip("fcntl")
    put, held = format._put, []

    def locked():
        folder = os.open(saved, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(folder)
        return False

    monkeypatch.setattr(format, "_put", lambda *new: (held.append(locked()), put(*new)))
    format.add(saved, staged(saved, one="1"), {"onnx": {"one": 1}})
    format.add(saved, staged(saved, one="new"), {"onnx": {"one": 2}})
    assert held == [True] * 3
    assert not locked()


def test_what_is_no_bundle_is_left_alone(tmp_path):
    with pytest.raises(BundleError, match=r"is no bundle: bundle.json is missing"):
        format.add(tmp_path, {}, {})


def test_saving_again_drops_what_was_added(saved, bundle):
    format.add(saved, staged(saved, one="1"), {"onnx": {"one": 1}})
    bundle.save(saved)
    assert "onnx" not in manifest(saved)
    assert not (saved / "one").exists()


def test_all_files_of_a_bundle_may_be_read_by_whom_its_folder_lets(saved):
    modes = {file.stat().st_mode & 0o777 for file in saved.rglob("*") if file.is_file()}
    assert len(modes) == 1
