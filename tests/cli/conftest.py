"""An experiment on disk, and a way to run the command in this process."""

import json

import numpy as np
import polars as pl
import pytest

from polyrank.cli.app import run

EXPERIMENT = """
name = "tiny"
seed = 3
[data]
train = "train.parquet"
valid = "valid.csv"
test = "test.parquet"
[features]
sparse = ["user", "item"]
dense = ["price"]
[keys]
user = "user"
[[task]]
name = "click"
[[task]]
name = "buy"
label = "purchase"
given = "click"
[model]
trunk = { kind = "mmoe", experts = 2, hidden = [8] }
tower = [4]
embed_dim = 4
[train]
epochs = 2
batch_size = 64
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    generator = np.random.default_rng(2)
    size = 600
    click = generator.integers(0, 2, size)
    frame = pl.DataFrame(
        {
            "user": generator.integers(0, 30, size),
            "item": generator.choice(["a", "b", "c", "d"], size),
            "price": generator.lognormal(size=size),
            "click": click,
            "purchase": click * generator.integers(0, 2, size),
        }
    )
    frame.head(400).write_parquet(tmp_path / "train.parquet")
    frame.slice(400, 100).write_csv(tmp_path / "valid.csv")
    frame.tail(100).write_parquet(tmp_path / "test.parquet")
    (tmp_path / "exp.toml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys):
    """Run a command line: exit code, standard output (parsed under --json), standard error."""

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        if "--json" in arguments and code == 0:
            out = json.loads(out)
        return code, out, err

    return call
