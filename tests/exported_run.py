"""Writes an exported run for tests whose interpreter has no torch.

    python exported_run.py FOLDER

exported/bundle        the bundle, exported
plain/bundle           the same, not exported
rows.parquet           rows with ids, texts, lists, missing values and a key, in 5 row groups
predicted.parquet      what `polyrank predict` writes for them
experiment.toml        what was trained
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

from polyrank.cli.app import run
from polyrank.config import Experiment

ROWS = 500
EXPERIMENT = """
name = "run"
seed = 1
[data]
train = "rows.parquet"
valid = "rows.parquet"
[features]
sparse = ["item.id", "city"]
sequence = ["seen"]
dense = ["price"]
[keys]
user = "user"
[[task]]
name = "click"
[[task]]
name = "buy"
given = "click"
[model]
tower = [4]
embed_dim = 4
[train]
epochs = 1
batch_size = 100
"""


def rows() -> pl.DataFrame:
    """Return rows; the integers are beyond 2^53, and some values are missing."""
    generator = np.random.default_rng(5)
    click = generator.integers(0, 2, ROWS)
    lengths = generator.integers(0, 5, ROWS)
    return pl.DataFrame(
        {
            "user": np.arange(ROWS) + 2**60,
            "item.id": pl.Series(generator.integers(0, 40, ROWS) + 2**60).set(
                pl.Series(np.arange(ROWS) % 17 == 0), None
            ),
            "city": generator.choice(["Zürich", "北京", "", None], ROWS).tolist(),
            "seen": [generator.choice(["a", "b", "c"], length).tolist() for length in lengths],
            "price": [None if n % 11 == 0 else n / 7 for n in range(ROWS)],
            "click": click,
            "buy": click * generator.integers(0, 2, ROWS),
        }
    )


def main(folder: Path) -> None:
    rows().write_parquet(folder / "rows.parquet", row_group_size=ROWS // 5)
    (folder / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    bundle = Experiment.load(folder / "experiment.toml").fit(out=folder / "exported")
    bundle.save(folder / "plain" / "bundle")
    log = str(folder / "rows.parquet")
    for arguments in (
        ["export", str(folder / "exported")],
        ["predict", str(folder / "exported"), log, "-o", str(folder / "predicted.parquet")],
    ):
        assert run(arguments) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
