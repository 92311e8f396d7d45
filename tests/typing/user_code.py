"""What a user writes, as mypy and pyright see it: `make typing`. Never run.

A line with `ignore` is a mistake that both must find.
"""

from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import polars as pl

import polyrank as pr

schema = pr.Schema(
    features=[pr.SparseFeature("user"), pr.DenseFeature("age", encoding="log")],
    tasks=[pr.Task("click"), pr.Task("buy", given="click", debias=pr.IPS())],
    keys=pr.Keys(user="user"),
)
model = pr.Model(trunk=pr.MMoE(experts=4, hidden=[16]), tower=[8])
bundle = pr.fit(
    schema, model, train="train.parquet", valid=Path("valid.parquet"), epochs=2,
    balance=pr.PCGrad(), embeddings=pr.LazyAdam(lr=3e-3),
    stop=pr.Stop(score="buy @ all", metric="auc", patience=2),
)  # fmt: skip

of_a_path: pl.DataFrame = bundle.predict("test.parquet")
of_pandas: pd.DataFrame = bundle.predict(pd.DataFrame({"user": [1], "age": [3.0]}))
scorecard: pr.Scorecard = bundle.evaluate("test.parquet")
again: pr.Bundle = pr.load("runs/first")
proposed: pr.Schema = pr.infer("log.csv").schema
probabilities: list[float] = of_a_path["p_click"].to_list()

pr.Task("click", kin="binary")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
pr.fit(schema)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
wrong: int = bundle.predict("test.parquet")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
bundle.evalate("test.parquet")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
