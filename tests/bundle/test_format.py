"""The bundle's folder: ordinary files, whole or not at all, refused when damaged."""

import json
import pickle  # noqa: TID251  only to watch that it is not used
import shutil
import tomllib
from dataclasses import replace

import polars as pl
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

import polyrank as pr
from polyrank.bundle import format
from polyrank.errors import BundleError


@pytest.fixture
def saved(bundle, tmp_path):
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_it_is_read_with_ordinary_tools(saved, bundle):
    names = {file.relative_to(saved).as_posix() for file in saved.rglob("*") if file.is_file()}
    assert names == {
        "bundle.json", "config.toml", "history.parquet", "weights.safetensors", "scorecard.json",
            "profile.json",
        "vocab/user.parquet", "vocab/city.parquet",
    }  # fmt: skip
    manifest = json.loads((saved / "bundle.json").read_text())
    assert manifest["format"] == format.FORMAT
    assert manifest["polyrank"] == pr.__version__
    assert pr.Schema.from_table(manifest["schema"]) == bundle.schema
    assert manifest["tables"]["home"] == "city"
    assert manifest["hash_version"] == 1
    assert manifest["targets"]["spend"]["mean"] == pytest.approx(300_000, rel=0.01)
    assert tomllib.loads((saved / "config.toml").read_text())["seed"] == 1
    vocab = pl.read_parquet(saved / "vocab" / "city.parquet")
    assert vocab.columns == ["row", "value", "count"]
    assert "北京" in vocab["value"].to_list()
    weights = load_file(saved / "weights.safetensors")
    assert weights["embed.city"].shape == (len(vocab) + 1, 3)
    assert weights["embed.slot"].shape == (4, 16)
    assert weights["embed.url"].shape == (51, 16)
    assert {"trunk.gate.click.weight", "head.buy.output.weight", "embed.age"} <= set(weights)
    assert "embed.home" not in weights


def test_loading_unpickles_nothing(saved, bundle, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("loading a bundle must not run code of the file")

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    assert pr.load(saved).schema == bundle.schema


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "vocab/user.parquet", "history.parquet", "config.toml"]
)
def test_a_missing_or_damaged_file_is_refused_by_name(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"is damaged: {name} is not the file that was written"):
        pr.load(saved)
    (saved / name).unlink()
    with pytest.raises(BundleError, match=f"is damaged: {name} is missing"):
        pr.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m | {"format": format.FORMAT + 1, "polyrank": "9.0"},
            f"has format {format.FORMAT + 1}, written by polyrank 9.0;.*upgrade",
        ),
        (lambda m: m | {"format": 1}, f"has format 1, .* reads format {format.FORMAT}: train a"),
        (lambda m: {k: v for k, v in m.items() if k != "format"}, "bundle.json: KeyError"),
        (lambda m: m | {"files": 3}, "does not list its files"),
        (lambda m: {k: v for k, v in m.items() if k != "model"}, "bundle.json: KeyError..model"),
        (lambda m: m | {"targets": []}, "bundle.json: AttributeError"),
        (lambda m: m | {"targets": {"spend": {"mean": "much", "deviation": 1}}}, "ValueError"),
        (lambda m: m | {"encodings": {}}, "bundle.json: KeyError..age"),
        (
            lambda m: m | {"hash_version": 2},
            "'url' was hashed by version 2 of the hash, and this polyrank has version 1: upgrade",
        ),
        (lambda m: {k: v for k, v in m.items() if k != "hash_version"}, "KeyError..hash_version"),
        (lambda m: m | {"model": {"trunk": {"kind": "mlp"}}}, "unknown kind 'mlp'"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_read_is_refused(saved, change, message):
    manifest = json.loads((saved / "bundle.json").read_text())
    (saved / "bundle.json").write_text(json.dumps(change(manifest)))
    with pytest.raises(BundleError, match=message):
        pr.load(saved)


def test_a_manifest_that_is_no_json_is_refused(saved):
    (saved / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match=r"bundle.json"):
        pr.load(saved)


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"does not exist"):
        pr.load(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"is no bundle: bundle.json is missing"):
        pr.load(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(BundleError, match=r"a run without a bundle: it has not finished.*--resume"):
        pr.load(tmp_path)


def test_saving_replaces_a_bundle_and_nothing_else(saved, bundle, tmp_path):
    bundle.save(saved)
    assert pr.load(saved).schema == bundle.schema
    (tmp_path / "thesis").mkdir()
    with pytest.raises(BundleError, match=r"exists and is not a bundle: it is left as it is"):
        bundle.save(tmp_path / "thesis")
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "thesis"}


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_failed_save_leaves_the_old_bundle(saved, bundle, tmp_path, monkeypatch, kind):
    def full(*_):
        raise kind("No space left on device")

    monkeypatch.setattr(format.tensors, "save_file", full)
    with pytest.raises(BundleError, match=r"could not be written: .*No space left"):
        bundle.save(saved)
    monkeypatch.undo()
    assert pr.load(saved).schema == bundle.schema
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_a_run_folder_is_found_too(saved, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.move(saved, tmp_path / "run" / "bundle")
    assert format.find(tmp_path / "run") == tmp_path / "run" / "bundle"


def test_two_saves_are_equal_files(saved, bundle, tmp_path):
    bundle.save(tmp_path / "again")
    for name in ("bundle.json", "weights.safetensors", "config.toml"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_texts_of_first_stages_come_back(saved, tmp_path):
    parts = format.read(saved)
    assert parts.stages == {}
    texts = {"trees/click.txt": "tree\nß\n", "trees/buy.txt": "tree\n"}
    manifest = {key: each for key, each in parts.manifest.items() if key != "files"}
    format.write(tmp_path / "other", replace(parts, manifest=manifest, stages=texts))
    assert (tmp_path / "other" / "stages" / "trees" / "buy.txt").read_bytes() == b"tree\n"
    assert format.read(tmp_path / "other").stages == texts
    assert format.read(tmp_path / "other", weights=False).stages == {}
    (tmp_path / "other" / "stages" / "trees" / "click.txt").write_text("tree\n")
    with pytest.raises(BundleError, match=r"damaged: stages/trees/click.txt is not the file"):
        format.read(tmp_path / "other")


@pytest.mark.parametrize(
    "name", ["../other/vocab/a.parquet", "/etc/vocab/a", "stages//a", "a\\b", ""]
)
def test_a_listed_file_outside_of_the_folder_is_refused(name, saved):
    manifest = json.loads((saved / "bundle.json").read_text())
    manifest["files"][name] = "0"
    (saved / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="which is not a file of its folder") as refused:
        pr.load(saved)
    assert repr(name) in str(refused.value)
