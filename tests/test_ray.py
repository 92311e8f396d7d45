"""Ray's workers, on a cluster of this machine (make ray)."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

import polyrank as pr
from polyrank import ray as polyrank_ray
from polyrank.errors import BundleError, ConfigError, PolyrankError

# Ray warns about itself, and leaves its processes to end on their own.
pytestmark = pytest.mark.filterwarnings(
    *(f"ignore::{kind}Warning" for kind in ("Deprecation", "Future", "Resource", "User"))
)
COLUMNS = ["p_click", "p_buy_given_click", "p_buy"]
here = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (make ray)")


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
@pytest.mark.parametrize(
    "call",
    [
        lambda: polyrank_ray.predict("run", None),
        lambda: polyrank_ray.train("experiment.toml", workers=1),
    ],
)
def test_the_extra_is_named_where_ray_is_missing(call):
    with pytest.raises(PolyrankError, match=r"^polyrank.ray needs ray: pip install 'polyrank\[ray"):
        call()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("run")
    script = Path(__file__).with_name("exported_run.py")
    subprocess.run([sys.executable, str(script), str(found)], check=True)
    return found


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray's processes then talk over loopback; by default they use the machine's own address.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray
        import ray.data

        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)  # of which 2 for actors
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
        ray.shutdown()


@pytest.fixture
def dataset(cluster, folder):
    cluster.data.DataContext.get_current().execution_options.preserve_order = True
    return cluster.data.read_parquet(str(folder / "rows.parquet"))


def frame(dataset):
    import pyarrow as pa

    return pl.DataFrame(pa.concat_tables(dataset.iter_batches(batch_format="pyarrow")))


@here
def test_predictions_and_their_order_are_those_of_predict(dataset, folder):
    class Spy(polyrank_ray.Scorer):
        def __call__(self, batch):
            assert not {"torch", "numba"} & set(sys.modules)
            return super().__call__(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polyrank_ray, "Scorer", Spy)
        scored = polyrank_ray.predict(folder / "exported", dataset, workers=2, batch_rows=30)
    found, rows = frame(scored), pl.read_parquet(folder / "rows.parquet")
    assert found.columns == ["user", *COLUMNS]
    assert found["user"].equals(rows["user"])
    expected = pl.read_parquet(folder / "predicted.parquet")
    for name in COLUMNS:
        assert (found[name] - expected[name]).abs().max() <= 1e-6


@here
def test_columns_are_kept_where_they_are_named_and_no_rows_give_none(dataset, folder):
    nothing = dataset.limit(0)
    scored = polyrank_ray.predict(folder / "exported", nothing, keep=["seen", "user", "seen"])
    assert scored.count() == 0
    scored = polyrank_ray.predict(folder / "exported", dataset, keep=["seen", "user", "seen"])
    found, rows = frame(scored), pl.read_parquet(folder / "rows.parquet")
    assert found.columns == ["seen", "user", *COLUMNS]
    assert found.select("seen", "user").equals(rows.select("seen", "user"))


@here
def test_what_a_worker_refuses_reaches_the_caller(dataset, folder):
    scored = polyrank_ray.predict(folder / "exported", dataset, keep=["usr"])
    message = "DataError: column 'usr' of keep is not in the data; did you mean 'user'"
    with pytest.raises(Exception, match=message):
        frame(scored)


@here
def test_refusals_come_before_any_worker_starts(folder):
    with pytest.raises(
        BundleError, match=r"plain has no model.onnx: run `polyrank export .*plain`"
    ):
        polyrank_ray.predict(folder / "plain", None)


@here
@pytest.mark.usefixtures("cluster")
def test_training_with_one_worker_is_that_of_this_process(folder, tmp_path):
    found = polyrank_ray.train(folder / "experiment.toml", workers=1, out=tmp_path / "run")
    rows = pl.read_parquet(folder / "rows.parquet")
    assert found.predict(rows).equals(pr.load(folder / "exported").predict(rows))
    with pytest.raises(ConfigError, match=r"run exists: resume it with --resume, replace it with"):
        polyrank_ray.train(folder / "experiment.toml", workers=1, out=tmp_path / "run")


@here
@pytest.mark.usefixtures("cluster")
def test_two_workers_train_one_model(folder, tmp_path):
    found = polyrank_ray.train(folder / "experiment.toml", workers=2, out=tmp_path / "run")
    assert set(found.history["ranks"]) == {2}
    assert set(found.history["rows"]) == {pl.read_parquet(folder / "rows.parquet").height}


@here
def test_what_cannot_be_trained_is_refused_before_any_worker_starts(folder):
    with pytest.raises(ConfigError, match="workers must be a whole number of at least 1, got 0"):
        polyrank_ray.train(folder / "experiment.toml", workers=0)
    with pytest.raises(ConfigError, match=r"none.toml cannot be read"):
        polyrank_ray.train(folder / "none.toml", workers=1)
