"""Look-ups in mapped files: those of a process of its own, to the row."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as some

import polyrank as pr
from polyrank.data.vocab import Vocab
from polyrank.errors import BundleError
from polyrank.features.vocabulary import Vocabulary
from polyrank.serve.shared import sharing

IDS = {
    "int": some.one_of(some.integers(-(2**63), 2**63 - 1), some.integers(0, 50), some.none()),
    "string": some.one_of(some.text(max_size=4), some.none()),
}


def shared(vocabulary, folder):
    return sharing(Vocab([], {"a": vocabulary, "b": vocabulary}, {}), folder).tables["b"]


@pytest.mark.parametrize("kind", [*IDS])
@given(data=some.data())
def test_shared_look_ups_are_the_same(kind, data, tmp_path_factory):
    known = data.draw(some.lists(IDS[kind], min_size=1, unique=True))
    asked = data.draw(some.lists(some.one_of(some.sampled_from(known), IDS[kind]), min_size=1))
    dtype = pl.Int64 if kind == "int" else pl.String
    own = Vocabulary.fit([pl.Series(known, dtype=dtype)])
    found = shared(own, tmp_path_factory.mktemp("shared"))
    for encoded in ("encode_values", "encode"):
        values = asked if encoded == "encode_values" else pl.Series(asked, dtype=dtype)
        expected, given_ = (getattr(each, encoded)(values) for each in (own, found))
        if own.dtype == kind:
            assert expected is not None
        if expected is None:
            assert given_ is None
        else:
            np.testing.assert_array_equal(given_[0], expected[0])
            assert given_[1:] == expected[1:]


def test_texts_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("polyrank.features.vocabulary.hash", len, raising=False)
    own = Vocabulary.fit([pl.Series(["a", "b", "b", "c", "cc", "dd"])])
    found = shared(own, tmp_path)
    asked = ["c", "b", "x", "a", "dd", "cc", "xx", "", "xxx"]
    rows, unseen, _ = found.encode_values(asked)
    assert rows.tolist() == own.encode_values(asked)[0].tolist()
    assert unseen == 4


def test_a_process_with_other_hashes_of_texts_is_refused(tmp_path, monkeypatch):
    """It would find none of them."""
    texts, integers = (Vocabulary.fit([pl.Series(each)]) for each in (["a", "b"], [1, 2]))
    shared(texts, tmp_path / "texts")
    shared(integers, tmp_path / "integers")
    monkeypatch.setattr("polyrank.serve.shared.hash", len, raising=False)
    with pytest.raises(BundleError, match="start all that share it with one PYTHONHASHSEED, a n"):
        shared(texts, tmp_path / "texts")
    assert shared(integers, tmp_path / "integers").encode_values([2])[0].tolist() == (
        integers.encode_values([2])[0].tolist()
    )


def test_files_of_another_form_are_refused(tmp_path):
    own = Vocabulary.fit([pl.Series([1])])
    shared(own, tmp_path)
    (tmp_path / "index.json").write_text('{"format": 0}', encoding="utf-8")
    with pytest.raises(BundleError, match="has form 0, and this polyrank shares form 1: remove"):
        shared(own, tmp_path)


def test_what_is_kept_of_texts_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("polyrank.features.vocabulary._KNOWN", 10)
    texts = [f"text {number}" for number in range(100)] + ["x" * 1000]
    found = shared(own := Vocabulary.fit([pl.Series(texts)]), tmp_path)
    for text in [*texts, *texts, "unseen", None]:
        assert found.encode_values([text, text])[0].tolist() == (
            own.encode_values([text, text])[0].tolist()
        )
        assert len(found._known) <= 12
    assert "x" * 1000 not in found._known


def test_what_has_no_look_up_of_its_own_is_shared_too(tmp_path):
    for own in (Vocabulary("hash", size=9), Vocabulary("identity", size=9)):
        found = shared(own, tmp_path / own.dtype)
        np.testing.assert_array_equal(found.encode(pl.Series([1, 20]))[0],
                                      own.encode(pl.Series([1, 20]))[0])  # fmt: skip


def test_an_engine_maps_what_another_process_wrote(exported, engine, rows, tmp_path):
    """The first writes, the second of the same hash reads; both predict what an engine predicts."""
    table = {name: rows[name][:50] for name in engine.inputs}
    (tmp_path / "rows.json").write_text(json.dumps(table), encoding="utf-8")
    code = (
        "import json, sys, polyrank as pr; folder, shared, rows = sys.argv[1:]\n"
        "engine = pr.Engine(folder, shared=shared); rows = json.load(open(rows))\n"
        "print(json.dumps(engine.predict(rows).to_dict(as_series=False)))"
    )
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, exported, tmp_path / "shared",
             tmp_path / "rows.json"],
            capture_output=True, text=True, check=False, env=os.environ | {"PYTHONHASHSEED": "7"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1] == engine.predict(table).to_dict(as_series=False)
    files = {each.name for each in (tmp_path / "shared" / engine.version).iterdir()}
    assert {"int32.npy", "int64.npy", "index.json", "0.arrow"} <= files


def test_direct_look_ups_are_one_array_and_not_copied(tmp_path):
    schema = pr.Schema([pr.SparseFeature("a"), pr.SparseFeature("b")], [pr.Task("click")])
    frame = pl.DataFrame({"a": range(100), "b": range(50, 150)})
    vocab = Vocab.fit(frame, schema)
    found = sharing(vocab, tmp_path)
    codecs = found.codecs
    names, look_up = codecs["a"].together(codecs)
    assert names == ("a", "b")
    assert look_up.rows.base is not None  # part of the file
    asked = {"a": [5, 1000, 7], "b": [149, 60, 0]}
    expected = vocab.codecs["a"].together(vocab.codecs)[1](asked)
    for name, each in look_up(asked).items():
        np.testing.assert_array_equal(each.values, expected[name].values)
        assert each[1:] == expected[name][1:]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from polyrank.serve.app.models import Model
from polyrank.serve.engine import Engine

run, shared = map(Path, sys.argv[1:])
model = Model("default", Engine(run / "before", shared=shared), 100, path=run / "after",
              shared=shared)
real = np.save

def killed(file, array):
    real(file, array)
    file.truncate(10)
    os.kill(os.getpid(), signal.SIGKILL)

np.save = killed
model.reload()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_process_that_is_killed_within_a_reload_leaves_the_others_what_is_whole(
    exported, later, rows, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    run, folder = tmp_path / "run", tmp_path / "shared"
    shutil.copytree(exported, run / "before")
    shutil.copytree(later, run / "after")
    command = [sys.executable, "-c", KILLED, str(run), str(folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    half = folder / pr.Engine(later).version
    assert half.is_dir()
    assert not (half / "index.json").exists()
    code = """
import json, sys
from polyrank.serve.engine import Engine
path, shared, columns = sys.argv[1:]
print(Engine(path, shared=shared).predict(json.loads(columns)).write_json())
"""
    for path in (later, exported):
        columns = {name: rows[name][:50] for name in pr.Engine(path).inputs}
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(folder), json.dumps(columns)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout) == json.loads(pr.Engine(path).predict(columns).write_json())
    assert (half / "index.json").exists()
