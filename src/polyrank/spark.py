"""Predictions of an exported bundle as a Spark function, without torch.

    predict = polyrank.spark.predict_udf("runs/first")
    scored = frame.withColumn("scores", predict()).select("user_id", "scores.*")

Each Python worker loads the bundle once, at its first rows. See docs/scale.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from polyrank.serve.extra import require
from polyrank.serve.workers import Exported, predict

if TYPE_CHECKING:
    from pyspark.sql import Column


@dataclass(frozen=True)
class PredictUDF:
    """A Spark function of rows to a struct of predictions, as `predict_udf` returns it.

    Args:
        udf: Spark's own user-defined function of one struct column, which `spark.udf.register`
            takes for SQL.
        inputs: the fields that it needs; it ignores others.
        outputs: the fields of the struct that it returns, a double each.
    """

    udf: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, rows: Column | None = None) -> Column:
        """Return the column of predictions, in the order of the rows.

        Args:
            rows: a struct column whose fields have the names of the inputs; by default it is made
                of the frame's columns of these names, so that Spark reads no others.
        """
        from pyspark.sql import functions

        if rows is None:
            rows = functions.struct(*(functions.col(_quoted(name)) for name in self.inputs))
        return self.udf(rows)


def predict_udf(
    bundle: str | Path, *, on_workers: str | None = None, threads: int = 1
) -> PredictUDF:
    """Return a Spark function that predicts with an exported bundle.

    The predictions are those of `polyrank predict` within 1e-6.

    Args:
        bundle: a run folder or a bundle folder that `polyrank export` has written to.
        on_workers: where the workers find it: an absolute path, or the name of an archive that
            `SparkContext.addArchive` hands out. By default the absolute path of `bundle`, which is
            then on a disk that all workers share.
        threads: of one engine; Spark runs a task for each core already.

    Raises:
        BundleError: not a bundle, or one that was not exported.
        PolyrankError: pyspark is not installed.

    Examples:
        >>> import polyrank.spark
        >>> predict = polyrank.spark.predict_udf("runs/first")  # doctest: +SKIP
        >>> frame.withColumn("scores", predict()).select("user_id", "scores.*")  # doctest: +SKIP
    """
    require("pyspark", what="polyrank.spark", extra="spark")
    from pyspark.sql.functions import arrow_udf

    exported = Exported.of(bundle, on_workers, threads)
    fields = ", ".join(f"{_quoted(name)} double" for name in exported.outputs)
    udf = arrow_udf(_typed(partial(_scores, exported)), f"struct<{fields}>")
    return PredictUDF(udf, exported.inputs, exported.outputs)


def _typed(scores: Any) -> Any:
    """Give a function the annotations by which Spark tells an iterator of arrays from an array."""

    def udf(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        return scores(batches)

    udf.__annotations__ = {"batches": Iterator[pa.Array], "return": Iterator[pa.Array]}
    return udf


def _scores(exported: Exported, batches: Iterator[pa.StructArray]) -> Iterator[pa.Array]:
    from pyspark import SparkFiles

    folder = exported.folder
    absolute = folder if Path(folder).is_absolute() else SparkFiles.get(folder)
    engine = exported.engine(absolute)
    for batch in batches:
        found = predict(engine, pa.RecordBatch.from_struct_array(batch))
        yield pa.StructArray.from_arrays([*found.values()], names=[*found])


def _quoted(name: str) -> str:
    """Quote a name as Spark's SQL does, so that a dot in it is no path."""
    return "`" + name.replace("`", "``") + "`"
