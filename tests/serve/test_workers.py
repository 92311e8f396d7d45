"""What workers of Ray and Spark do with a batch, without either."""

import shutil

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from polyrank.errors import BundleError, ConfigError, DataError
from polyrank.serve import workers
from polyrank.serve.workers import Exported, predict


@pytest.fixture
def found(exported):
    return Exported.of(exported, None, 1)


@pytest.fixture
def batch(rows):
    return pl.DataFrame(rows).to_arrow()


def test_the_bundle_is_described(found, exported, engine):
    assert found == Exported.of(str(exported), None, 1)
    assert found.folder == str(exported)
    assert found.inputs == tuple(engine.inputs)
    assert found.outputs == tuple(engine.outputs)
    assert found.keys == ("user",)


@pytest.mark.parametrize("kind", [pa.Table, pa.RecordBatch])
def test_predictions_are_those_of_the_engine(found, engine, batch, rows, kind):
    if kind is pa.RecordBatch:
        (batch,) = batch.combine_chunks().to_batches()
    answer = predict(found.engine(), batch)
    expected = engine.predict(rows)
    assert [*answer] == expected.columns
    for name, each in answer.items():
        assert each.type == pa.float64()
        assert np.array_equal(each.to_numpy(), expected[name].to_numpy())


def test_no_rows_give_no_predictions(found, batch):
    answer = predict(found.engine(), batch.slice(0, 0))
    assert {name: (len(each), each.type) for name, each in answer.items()} == dict.fromkeys(
        found.outputs, (0, pa.float64())
    )


def test_a_process_loads_the_bundle_once(found, monkeypatch):
    first = found.engine()
    monkeypatch.setattr(workers, "Engine", None)
    assert found.engine() is first
    assert found.engine(found.folder) is first


def test_a_missing_feature_is_named(found, batch):
    renamed = batch.rename_columns(
        [{"price": "prices"}.get(name, name) for name in batch.column_names]
    )
    with pytest.raises(DataError, match="column 'price' is not in the data; did you mean 'prices'"):
        predict(found.engine(), renamed)


def test_keys_are_kept_unless_others_are_named(found):
    assert found.kept(["price", "user"], None) == ["user"]
    assert found.kept(["price"], None) == []
    assert found.kept(["price", "user"], ["price", "price"]) == ["price"]
    assert found.kept(["price", "user"], []) == []
    with pytest.raises(DataError, match="column 'usr' of keep is not in the data; did you mean 'u"):
        found.kept(["price", "user"], ["usr"])
    with pytest.raises(DataError, match="column 'p_buy' of the data has the name of an output"):
        found.kept(["p_buy"], ["p_buy"])


def test_another_bundle_on_a_worker_is_refused(found, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "bundle")
    copied = Exported.of(exported, str(tmp_path / "bundle"), 1)
    assert copied.engine().folder == tmp_path / "bundle"
    manifest = tmp_path / "bundle" / "bundle.json"
    manifest.write_text(manifest.read_text() + "\n")
    workers._engine.cache_clear()
    with pytest.raises(BundleError, match="on this worker is not the one that the work was"):
        copied.engine()
    assert found.engine().folder == exported


def test_refusals(bundle, tmp_path):
    bundle.save(tmp_path / "plain")
    with pytest.raises(
        BundleError, match=r"plain has no model.onnx: run `polyrank export .*plain`"
    ):
        Exported.of(tmp_path / "plain", None, 1)
    with pytest.raises(BundleError, match="does not exist"):
        Exported.of(tmp_path / "none", None, 1)
    with pytest.raises(ConfigError, match="load a bundle from its folder, got Bundle: save"):
        Exported.of(bundle, None, 1)
    with pytest.raises(ConfigError, match="threads must be a whole number of at least 1, got 0"):
        Exported.of(tmp_path / "plain", None, 0)
