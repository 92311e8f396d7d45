"""LightGBM on Census-Income, the baseline to beat, on both halves of the official test rows.

One model per task with common settings, 300 trees, native categories. Needs the extra [bench].

    python benchmarks/lightgbm_census.py
"""

from __future__ import annotations

import lightgbm
import numpy as np
import polars as pl

from polyrank.datasets import load
from polyrank.metrics.binary import auc
from polyrank.schema import SparseFeature
from polyrank.text import aligned

SETTINGS = {
    "objective": "binary", "learning_rate": 0.05, "num_leaves": 63, "min_data_per_group": 50,
    "cat_smooth": 20, "seed": 1, "num_threads": 1, "verbose": -1,
}  # fmt: skip


def matrix(frame, features, codes):
    """Return numeric columns: categories by their code, -1 for those unseen in training."""
    columns = []
    for feature in features:
        series = frame[feature.name]
        if feature.name in codes:
            series = series.cast(pl.String).replace_strict(
                codes[feature.name], default=-1, return_dtype=pl.Float64
            )
        columns.append(series.cast(pl.Float64).fill_null(-1).to_numpy())
    return np.stack(columns, axis=1)


def main():
    """Train one model per task and print the AUC of each half and of both."""
    *frames, schema = load("census")
    train, valid, test = (frame.collect() for frame in frames)
    features = schema.features
    sparse = [index for index, each in enumerate(features) if isinstance(each, SparseFeature)]
    codes = {}
    for index in sparse:
        values = train[features[index].name].cast(pl.String).drop_nulls().unique().sort()
        codes[features[index].name] = {value: code for code, value in enumerate(values)}
    x, both = matrix(train, features, codes), pl.concat([valid, test])
    lines = []
    for task in schema.tasks:
        rows = lightgbm.Dataset(x, train[task.column].to_numpy(), categorical_feature=sparse)
        model = lightgbm.train(SETTINGS, rows, num_boost_round=300)
        scores = [
            auc(part[task.column].to_numpy(), model.predict(matrix(part, features, codes)))
            for part in (valid, test, both)
        ]
        lines.append([task.name, *(f"{score:.4f}" for score in scores)])
    print(aligned(["auc", "validation half", "test half", "both"], lines, [1, 2, 3]))


if __name__ == "__main__":
    main()
