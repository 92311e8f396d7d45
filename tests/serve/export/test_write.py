"""What export writes, and what it refuses."""

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from torch import nn

import polyrank as pr
from polyrank.bundle import format
from polyrank.errors import BundleError, ExportError
from polyrank.features.sparse import NULL, PADDING
from polyrank.serve.engine import Session
from polyrank.serve.export import write as module
from polyrank.serve.export.parity import Parity
from polyrank.serve.export.twin import Twin
from polyrank.serve.export.write import captured, export
from polyrank.serve.inputs import RAW_FILE, ROWS_FILE, Inputs


@dataclass(frozen=True, eq=False)
class Exported:
    """A bundle in memory and in its folder, and rows that it can score."""

    bundle: pr.Bundle
    folder: Path
    rows: pl.DataFrame
    parity: dict[str, Parity]


def drawn(size=120, seed=1):
    generator = np.random.default_rng(seed)
    click = generator.integers(0, 2, size)
    return pl.DataFrame(
        {
            "user": generator.integers(0, 20, size),
            "city": generator.choice(["Zürich", "北京", ""], size),
            "tags": [generator.choice(["a", "b", "c"], n).tolist()
                     for n in generator.integers(0, 4, size)],
            "price": np.where(generator.random(size) < 0.1, np.nan, generator.lognormal(size=size)),
            "click": click,
            "buy": click * generator.integers(0, 2, size),
        }
    )  # fmt: skip


def fitted(rows, *features, **options):
    features = features or (
        pr.SparseFeature("user"), pr.SparseFeature("city"), pr.SequenceFeature("tags"),
        pr.DenseFeature("price", encoding="log"),
    )  # fmt: skip
    schema = pr.Schema(features, [pr.Task("click"), pr.Task("buy", given="click")])
    options = {"trunk": pr.SharedBottom(), **options}
    model = pr.Model(tower=[4], embed_dim=4, **options)
    return pr.fit(schema, model, train=rows, epochs=1, batch_size=64, seed=2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    rows = drawn()
    bundle = fitted(rows)
    folder = tmp_path_factory.mktemp("serve") / "bundle"
    bundle.save(folder)
    parity = export(bundle, folder, [rows], vocabulary=True)
    return Exported(bundle, folder, rows, parity)


@pytest.fixture
def copied(exported, tmp_path):
    """The exported folder, to be changed."""
    return Path(shutil.copytree(exported.folder, tmp_path / "bundle"))


@pytest.fixture
def saved(exported, tmp_path):
    """The bundle as it was before it was exported."""
    exported.bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def content(folder):
    """Every file under a folder, to the byte."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


PLAIN = """
import json, sys
import numpy as np
import onnxruntime
folder = sys.argv[1]
found = {}
for name in ("model.onnx", "model-with-vocabulary.onnx"):
    session = onnxruntime.InferenceSession(f"{folder}/{name}")
    about = session.get_modelmeta().custom_metadata_map
    ids = json.loads(about["polyrank.inputs"])
    if name == "model.onnx":
        feeds = {"user": np.array([0, 1, 2]), "city": np.array([1, 2, 0]),
                 "tags": np.array([[1, 2], [-1, -1], [0, -1]])}
    else:
        null = {each["name"]: each["null"] for each in ids if "null" in each}
        fill = {each["name"]: each["padding"] for each in ids if "padding" in each}
        feeds = {"user": np.array([10**12, 3, null["user"]]),
                 "city": np.array(["Paris", "", null["city"]], dtype=object),
                 "tags": np.array([["a", "b"], [fill["tags"]] * 2, ["x", fill["tags"]]], object)}
    feeds["price"] = np.array([1.5, np.nan, -2.0], np.float32)
    assert [each.name for each in session.get_inputs()] == list(feeds)
    outputs = json.loads(about["polyrank.outputs"])
    assert [each.name for each in session.get_outputs()] == outputs
    found[name] = dict(zip(outputs, (each.tolist() for each in session.run(None, feeds))))
assert not any(name.partition(".")[0] in ("polyrank", "torch", "polars") for name in sys.modules)
print(json.dumps(found))
"""


def test_both_files_open_in_plain_onnxruntime(exported):
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(exported.folder)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    tables = exported.bundle.vocab.tables
    ids = {
        "user": [None, *tables["user"].values.head(2)],  # row 0: nobody had null
        "city": [*tables["city"].values.head(2), "?"],
        "tags": [tables["tags"].values.head(2).to_list(), [], ["?"]],
    }
    themselves = {
        "user": [10**12, 3, None],
        "city": ["Paris", "", None],
        "tags": [["a", "b"], [], ["x"]],
    }
    for name, columns in ((ROWS_FILE, ids), (RAW_FILE, themselves)):
        expected = exported.bundle.predict({**columns, "price": [1.5, None, -2.0]})
        for output, values in found[name].items():
            np.testing.assert_allclose(values, expected[output], rtol=0, atol=1e-6)


def test_the_metadata_say_what_goes_in_and_what_comes_out(exported):
    for name in (ROWS_FILE, RAW_FILE):
        model = onnx.load(exported.folder / name)
        about = {each.key: json.loads(each.value) for each in model.metadata_props}
        assert pr.Schema.from_table(about["polyrank.schema"]) == exported.bundle.schema
        assert about["polyrank.outputs"] == ["p_click", "p_buy_given_click", "p_buy"]
        inputs = {each["name"]: each for each in about["polyrank.inputs"]}
        assert list(inputs) == ["user", "city", "tags", "price"]
        assert inputs["price"] == {"name": "price", "type": "float32", "missing": "NaN"}
        sizes = {
            each.name: [dim.dim_param for dim in each.type.tensor_type.shape.dim]
            for each in (*model.graph.input, *model.graph.output)
        }
        assert sizes["tags"] == ["batch", "tags.length"]
        assert {name for name, size in sizes.items() if size == ["batch"]} == {
            "user", "city", "price", *about["polyrank.outputs"]
        }  # fmt: skip
        if name == ROWS_FILE:
            rows = exported.bundle.vocab.rows["city"]
            assert inputs["city"] == {"name": "city", "type": "int64", "rows": rows, "unseen": 0}
            assert inputs["tags"]["padding"] == -1
        else:
            assert inputs["user"]["null"] == NULL["int"]
            assert inputs["city"] == {"name": "city", "type": "string", "null": NULL["string"]}
            assert inputs["tags"]["padding"] == PADDING["string"]


def test_the_files_are_of_versions_that_are_widely_read_and_know_no_path(exported):
    for name in (ROWS_FILE, RAW_FILE):
        model = onnx.load(exported.folder / name)
        onnx.checker.check_model(model, full_check=True)
        versions = {each.domain: each.version for each in model.opset_import}
        assert versions == {"": 18} | ({"ai.onnx.ml": 4} if name == RAW_FILE else {})
        assert model.ir_version <= 10
        assert not model.functions
        content = (exported.folder / name).read_bytes()
        for trace in (str(Path(module.__file__).parents[3]), "site-packages", ".py", "Traceback"):
            assert trace.encode() not in content


def test_the_manifest_has_the_parity(exported):
    manifest = json.loads((exported.folder / "bundle.json").read_text())
    assert set(manifest["onnx"]) == {ROWS_FILE, RAW_FILE} < set(manifest["files"])
    for name, found in manifest["onnx"].items():
        assert found["rows"] == exported.parity[name].rows == 120
        assert found["differences"] == exported.parity[name].differences
        assert found["rounding"] == exported.parity[name].rounding
        assert 0 < max(found["rounding"].values()) < 3e-7
        assert found["allowed"] == dict.fromkeys(["p_click", "p_buy_given_click", "p_buy"], 1e-6)
        assert all(each <= 1e-6 for each in found["differences"].values())
    assert (
        pr.load(exported.folder)
        .predict(exported.rows)
        .equals(exported.bundle.predict(exported.rows))
    )


@pytest.mark.slow
def test_again_without_the_vocabulary_the_file_that_had_it_goes(exported, copied):
    export(exported.bundle, copied, [exported.rows.head(60), exported.rows.tail(60)])
    manifest = json.loads((copied / "bundle.json").read_text())
    assert set(manifest["onnx"]) == {ROWS_FILE}
    assert RAW_FILE not in manifest["files"]
    assert not (copied / RAW_FILE).exists()
    # and the same model is the same file
    assert (copied / ROWS_FILE).read_bytes() == (exported.folder / ROWS_FILE).read_bytes()
    exported.bundle.save(copied)
    assert not (copied / ROWS_FILE).exists()
    assert "onnx" not in json.loads((copied / "bundle.json").read_text())


def test_a_damaged_file_is_refused_when_the_bundle_is_read(copied):
    (copied / ROWS_FILE).write_bytes((copied / ROWS_FILE).read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match=r"is damaged: model.onnx is not the file"):
        pr.load(copied)


@pytest.mark.slow
def test_large_tables_lie_in_one_file_beside_both(exported, saved, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST_BYTES", 1000)
    export(exported.bundle, saved, [exported.rows], vocabulary=True)
    beside = f"{ROWS_FILE}.data"
    files = json.loads((saved / "bundle.json").read_text())["files"]
    assert {ROWS_FILE, RAW_FILE, beside} <= set(files)
    assert not (saved / f"{RAW_FILE}.data").exists()
    assert (saved / beside).stat().st_size > (saved / ROWS_FILE).stat().st_size / 10
    expected = exported.bundle.predict(exported.rows)
    columns = Inputs(exported.bundle.schema, exported.bundle.vocab).encoded(exported.rows)
    (feeds,) = columns.batches(1000)
    answer = Session(saved / ROWS_FILE).run(feeds)
    np.testing.assert_allclose(answer["p_buy"], expected["p_buy"], rtol=0, atol=1e-6)
    assert Session(saved / RAW_FILE).inputs == ("user", "city", "tags", "price")
    monkeypatch.undo()
    export(exported.bundle, saved, [exported.rows])
    assert not (saved / beside).exists()


def test_a_row_that_is_in_no_table_is_refused_and_meets_no_other(exported):
    columns = Inputs(exported.bundle.schema, exported.bundle.vocab).encoded(exported.rows.head(2))
    (feeds,) = columns.batches(2)
    session = Session(exported.folder / ROWS_FILE)
    for name in ("user", "tags"):
        beyond = np.full_like(feeds[name], exported.bundle.vocab.rows[name])
        with pytest.raises(Exception, match="out of data bounds"):
            session.run({**feeds, name: beyond})
    with pytest.raises(Exception, match="out of data bounds"):
        session.run({**feeds, "user": np.array([-1, 0])})


def test_the_tables_are_not_copied(exported):
    twin, ranker = Twin(exported.bundle), exported.bundle.ranker
    ours = {weight.data_ptr() for weight in ranker.parameters()}
    assert {weight.data_ptr() for weight in twin.parameters()} == ours


@pytest.mark.slow
def test_a_hashed_feature_is_exported_without_the_vocabulary_alone(tmp_path):
    rows = drawn()
    bundle = fitted(rows, pr.SparseFeature("user", hash=7))
    bundle.save(tmp_path / "bundle")
    before = content(tmp_path / "bundle")
    with pytest.raises(
        ExportError, match=r"feature 'user' is hashed, and ONNX has no operation for the hash: exp"
    ):
        export(bundle, tmp_path / "bundle", [rows], vocabulary=True)
    assert content(tmp_path / "bundle") == before
    assert export(bundle, tmp_path / "bundle", [rows])[ROWS_FILE].rows == 120


@dataclass(frozen=True)
class Gambler:
    """A trunk whose way depends on its data."""

    def build(self, layout, tasks):
        return GamblerModule(layout.width, [task.name for task in tasks])


class GamblerModule(nn.Module):
    def __init__(self, width, tasks):
        super().__init__()
        self.linear, self.tasks = nn.Linear(width, 3), tasks

    def forward(self, x):
        hidden = self.linear(x) if x.sum() > 0 else -self.linear(x)
        return dict.fromkeys(self.tasks, hidden)


def test_a_trunk_that_cannot_be_captured_is_named(tmp_path):
    rows = drawn()
    price = pr.DenseFeature("price", encoding="standard")
    bundle = fitted(rows, price, trunk=Gambler(), interaction=False)
    bundle.save(tmp_path / "bundle")
    before = content(tmp_path / "bundle")
    with pytest.raises(ExportError) as refused:
        export(bundle, tmp_path / "bundle", [rows])
    message = str(refused.value)
    assert message.startswith("trunk GamblerModule cannot be exported: ")
    assert "\n" not in message
    assert content(tmp_path / "bundle") == before


def test_a_folder_with_other_weights_is_refused(exported, saved):
    """A run that was begun again meanwhile would be served by the former's model."""
    other = fitted(exported.rows.head(64))
    before = content(saved)
    with pytest.raises(ExportError, match=r"bundle has other weights than the exported one: it wa"):
        export(other, saved, [exported.rows])
    assert content(saved) == before


def test_a_feature_named_like_an_output_is_refused(tmp_path):
    rows = drawn().rename({"price": "p_buy"})
    bundle = fitted(rows, pr.DenseFeature("p_buy"))
    with pytest.raises(ExportError, match=r"column 'p_buy' has the name of an output.*: rename"):
        export(bundle, tmp_path, [rows])


@pytest.mark.parametrize("chunks", [[], [drawn().head(0)]])
def test_no_rows_are_refused(exported, saved, chunks, monkeypatch):
    model = onnx.load(exported.folder / ROWS_FILE)
    monkeypatch.setattr(module, "captured", lambda *_: model)
    before = content(saved)
    with pytest.raises(ExportError, match=r"model.onnx: there were no rows to compare"):
        export(exported.bundle, saved, chunks)
    assert content(saved) == before


@pytest.mark.slow
def test_another_answer_is_refused_and_leaves_the_bundle_as_it_was(exported, copied, monkeypatch):
    class Wrong(Twin):
        def forward(self, inputs):
            return tuple(each + 2e-4 for each in super().forward(inputs))

    before = content(copied)
    monkeypatch.setattr(module, "Twin", Wrong)
    with pytest.raises(
        ExportError,
        match=r"model.onnx differs from the bundle: 'p_\w+' by up to 0.000\d+ "
        r"on 120 rows, and at most 1e-06 is allowed: nothing was exported",
    ):
        export(exported.bundle, copied, [exported.rows])
    assert content(copied) == before
    assert not list(copied.glob(".export-*"))


@pytest.mark.parametrize("step", ["temporary folder", "model", "move", "manifest"])
def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_left(
    exported, copied, monkeypatch, step
):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = onnx.load(copied / ROWS_FILE)
    monkeypatch.setattr(module, "captured", lambda *_: model)

    if step == "temporary folder":
        monkeypatch.setattr(module, "TemporaryDirectory", refuse)
    elif step == "model":
        monkeypatch.setattr(module.onnx, "save", refuse)
    elif step == "move":
        monkeypatch.setattr(Path, "replace", refuse)
    else:
        monkeypatch.setattr(format, "_put", refuse)
    with pytest.raises(BundleError, match=rf"the bundle {copied} could not be written: .*No space"):
        export(exported.bundle, copied, [exported.rows])
    monkeypatch.undo()
    assert not [each for each in copied.iterdir() if each.name.startswith(".")]
    assert pr.load(copied).predict(exported.rows).equals(exported.bundle.predict(exported.rows))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BundleError, match=r"model.onnx cannot be loaded by onnxruntime"):
        Session(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"the exported model cannot be loaded by onnxruntime"):
        Session(b"no model")


@pytest.mark.slow
def test_exporting_draws_nothing(exported):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    captured(exported.bundle)
    assert torch.equal(torch.rand(1), expected)
