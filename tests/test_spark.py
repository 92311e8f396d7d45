"""Spark's workers, on a cluster of this machine, by an interpreter without torch (make spark)."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from polyrank import spark as polyrank_spark
from polyrank.errors import BundleError, PolyrankError

COLUMNS = ["p_click", "p_buy_given_click", "p_buy"]
# The interpreter that trains and exports what is scored here.
TRAINER = os.environ.get("POLYRANK_WITH_TORCH", sys.executable)
here = pytest.mark.skipif(
    find_spec("pyspark") is None, reason="pyspark is not installed (make spark)"
)
# Spark leaves its processes to end on their own.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.mark.skipif(find_spec("pyspark") is not None, reason="pyspark is installed")
def test_the_extra_is_named_where_spark_is_missing():
    message = r"^polyrank.spark needs pyspark: pip install 'polyrank\[spark\]'$"
    with pytest.raises(PolyrankError, match=message):
        polyrank_spark.predict_udf("run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("run")
    script = Path(__file__).with_name("exported_run.py")
    subprocess.run([TRAINER, str(script), str(found)], check=True)
    return found


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("SPARK_LOCAL_DIRS", str(tmp_path_factory.mktemp("spark")))
        session = (
            SparkSession.builder.master("local[2]")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.shuffle.partitions", "2")
            .config("spark.sql.files.maxPartitionBytes", "4096")  # several tasks, and both workers
            .config("spark.sql.execution.arrow.maxRecordsPerBatch", "30")
            .getOrCreate()
        )
        yield session
        session.stop()


@pytest.fixture
def rows(session, folder):
    return session.read.parquet(str(folder / "rows.parquet"))


def as_polars(frame):
    return pl.DataFrame(frame.toArrow())


@here
def test_predictions_are_those_of_predict_and_every_column_stays(rows, folder):
    predict = polyrank_spark.predict_udf(folder / "exported")
    assert predict.outputs == tuple(COLUMNS)
    scored = rows.withColumn("scores", predict())
    assert scored.columns == [*rows.columns, "scores"]
    found = as_polars(scored.select("user", "scores.*")).sort("user")
    expected = pl.read_parquet(folder / "predicted.parquet")
    assert found.columns == expected.columns
    assert found["user"].equals(expected["user"])
    for name in COLUMNS:
        assert (found[name] - expected[name]).abs().max() <= 1e-6


@here
def test_a_struct_and_sql_do_as_well(session, rows, folder):
    from pyspark.sql import functions

    predict = polyrank_spark.predict_udf(folder / "exported")
    expected = as_polars(rows.select("user", predict().alias("s"))).sort("user")
    given = rows.select("user", predict(functions.struct("*")).alias("s"))
    assert as_polars(given).sort("user").equals(expected)
    session.udf.register("scores", predict.udf)
    rows.createOrReplaceTempView("log")
    asked = session.sql("SELECT user, scores(struct(*)) AS s FROM log")
    assert as_polars(asked).sort("user").equals(expected)


@here
def test_an_archive_takes_the_bundle_to_the_workers(session, rows, folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "first"), "zip", folder / "exported" / "bundle")
    session.sparkContext.addArchive(f"{archive}#first")
    direct = polyrank_spark.predict_udf(folder / "exported")
    shipped = polyrank_spark.predict_udf(folder / "exported", on_workers="first")
    found = as_polars(rows.select(direct().alias("a"), shipped().alias("b")))
    assert found["a"].equals(found["b"].rename("a"))


@here
def test_a_worker_loads_the_bundle_once_and_no_torch(rows, folder):
    from pyspark.sql import functions

    @functions.arrow_udf("string")
    def seen(users: pa.Array) -> pa.Array:
        from polyrank.serve import workers

        found = workers._engine.cache_info()
        heavy = [name for name in ("torch", "numba") if name in sys.modules]
        return pa.array([json.dumps([found.misses, found.currsize, heavy])] * len(users))

    predict = polyrank_spark.predict_udf(folder / "exported")
    for _ in range(2):  # Spark keeps its workers for the next job
        rows.select(predict()).toArrow()
    found = [json.loads(row[0]) for row in rows.select(seen("user")).collect()]
    assert max(loads for loads, *_ in found) >= 1
    assert all(loads == bundles and not heavy for loads, bundles, heavy in found)


@here
def test_what_a_worker_refuses_reaches_the_caller(rows, folder):
    from pyspark.errors import PythonException
    from pyspark.sql import functions

    predict = polyrank_spark.predict_udf(folder / "exported")
    wrong = rows.withColumn("seen", functions.lit("a"))
    with pytest.raises(PythonException, match=r"DataError: .*'seen'"):
        wrong.select(predict()).toArrow()


@here
def test_refusals_come_before_any_worker_starts(folder):
    with pytest.raises(
        BundleError, match=r"plain has no model.onnx: run `polyrank export .*plain`"
    ):
        polyrank_spark.predict_udf(folder / "plain")
