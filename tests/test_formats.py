"""Today's code reads one small file of each saved form, as it was written when its FORMAT was new.

A change of a form raises its FORMAT, and this file, run as a script, writes the new ones:

    python tests/test_formats.py
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from safetensors import safe_open

import polyrank as pr
from polyrank.bundle import format
from polyrank.data import cache
from polyrank.train.sources import Sources, encoded

FOLDER = Path(__file__).parent / "formats"
STATE = Path("checkpoint", "state.safetensors")
ROWS = pl.DataFrame(
    {
        "item": [1, 2, 3, 4] * 10,
        "page": ["/a", "/b"] * 20,
        "seen": [[1], [], [2, 3], [4]] * 10,
        "price": [float(number % 7) for number in range(40)],
        "age": [float(number) for number in range(40)],
        "user": [number % 5 for number in range(40)],
        "click": [0, 1, 1, 1] * 10,
        "buy": [0, 0, 1, 1] * 10,
        "spend": [None, None, 3.5, 9.0] * 10,
    }
)
SCHEMA = pr.Schema(
    [
        pr.SparseFeature("item"),
        pr.SparseFeature("page", hash=20),
        pr.SequenceFeature("seen", shared_with="item"),
        pr.DenseFeature("price", encoding="bins", bins=4),
        pr.DenseFeature("age", encoding=["standard", "bins", "values"], bins="auto", min_count=1),
    ],
    [
        pr.Task("click"),
        pr.Task("buy", given="click", space="all"),
        pr.Task("spend", kind="regression", given="buy"),
    ],
    pr.Keys(user="user"),
)
MODEL = pr.Model(
    trunk=pr.MMoE(experts=2, hidden=[3]), tower=[2], embed_dim=2,
    interaction=pr.Cross(rank=2), wide=pr.Wide(folds=2), trees=pr.Trees(folds=2, rounds=3),
)  # fmt: skip


class Stopped(Exception):
    pass


def fitted(progress=False, **options):
    rows = {"train": ROWS, "valid": ROWS}
    return pr.fit(SCHEMA, MODEL, **rows, epochs=2, seed=1, progress=progress, **options)


def interrupted(out):
    """Train one epoch of a run of two."""

    def stop(progress):
        raise Stopped(progress)

    with suppress(Stopped):
        fitted(stop, out=out)


def entry():
    vocab, tables = encoded(SCHEMA, Sources(ROWS))
    return cache.Entry(vocab, tables, (("polyrank.data", 30, "a warning"),))


def test_a_bundle(tmp_path):
    bundle = pr.load(FOLDER / "bundle")
    manifest = json.loads((FOLDER / "bundle" / format.MANIFEST).read_text())
    assert manifest["format"] == format.FORMAT
    assert bundle.schema == MODEL.supervised(SCHEMA)
    assert bundle.model == MODEL
    bundle.save(tmp_path / "again")
    again = json.loads((tmp_path / "again" / format.MANIFEST).read_text())
    assert again.keys() == manifest.keys()


def test_bundles_of_this_and_every_released_format_predict_as_they_did():
    for folder in [FOLDER, *sorted((FOLDER / "released").glob("*"))]:
        known = pl.read_parquet(folder / "predicted.parquet")
        for name, column in pr.load(folder / "bundle").predict(ROWS).to_dict().items():
            assert column.to_list() == pytest.approx(known[name].to_list(), rel=1e-5), folder


def test_a_checkpoint(tmp_path):
    interrupted(tmp_path / "run")
    shutil.copyfile(FOLDER / STATE, tmp_path / "run" / STATE)
    bundle = fitted(out=tmp_path / "run", resume=True)
    with safe_open(FOLDER / STATE, framework="np") as file:
        (first,) = json.loads(file.metadata()["position"])["history"]
    assert bundle.history.height == 2
    assert bundle.history["seconds"][0] == first["seconds"]


def test_a_cache():
    (key,) = (path.name for path in (FOLDER / "cache").iterdir())
    found, expected = cache.load(FOLDER / "cache", key, SCHEMA), entry()
    assert found.messages == expected.messages
    assert found.vocab.rows == expected.vocab.rows
    for name in ("ids", "dense"):
        one, two = (getattr(each.tables["train"], name) for each in (found, expected))
        assert one.tolist() == two.tolist()
    assert found.tables["train"].keys.equals(expected.tables["train"].keys)


def write():
    for form in ("bundle", "checkpoint", "cache"):  # and what was released stays
        shutil.rmtree(FOLDER / form, ignore_errors=True)
    bundle = fitted()
    bundle.save(FOLDER / "bundle")
    bundle.predict(ROWS).write_parquet(FOLDER / "predicted.parquet")
    with TemporaryDirectory() as folder:
        interrupted(Path(folder) / "run")
        shutil.copytree(Path(folder) / "run" / STATE.parent, FOLDER / STATE.parent)
    (FOLDER / "cache").mkdir()
    cache.store(FOLDER / "cache", cache.key_of(SCHEMA, []), entry())


if __name__ == "__main__":
    write()
