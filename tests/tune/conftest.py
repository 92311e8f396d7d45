"""A small experiment, in a folder of its own."""

import numpy as np
import polars as pl
import pytest

from polyrank.config import Experiment

TEXT = """
name = "tiny"
seed = 3
[data]
train = "train.parquet"
valid = "valid.parquet"
test = "test.parquet"
[features]
sparse = ["user", "item"]
dense = ["price"]
[[task]]
name = "click"
[[task]]
name = "buy"
given = "click"
[model]
trunk = { kind = "shared_bottom", hidden = [4] }
interaction = false
wide = false
tower = [4]
embed_dim = 4
[train]
epochs = 3
batch_size = 64
[tune]
trials = 6
finalists = 1
[tune.space]
model.trunk = false
model.interaction = false
model.embed_dim = false
model.field_dropout = false
model.trees = false
train.embeddings = { prior = false, decay = false }
train.lr = { low = 0.001, high = 0.1, log = true }
"""


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(2)
    size = 900
    item = generator.integers(0, 8, size)
    click = generator.random(size) < 0.2 + 0.08 * item
    frame = pl.DataFrame(
        {
            "user": generator.integers(0, 30, size),
            "item": item,
            "price": generator.lognormal(size=size),
            "click": click.astype(int),
            "buy": (click & (generator.random(size) < 0.5)).astype(int),
        }
    )
    for split, rows in (("train", (0, 500)), ("valid", (500, 200)), ("test", (700, 200))):
        frame.slice(*rows).write_parquet(tmp_path / f"{split}.parquet")
    (tmp_path / "exp.toml").write_text(TEXT)
    return tmp_path


@pytest.fixture
def experiment(folder):
    return Experiment.load(folder / "exp.toml")
