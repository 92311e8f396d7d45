"""An exported bundle with every kind of column, and the rows it was learnt from."""

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.serve.export import export


@pytest.fixture(scope="session")
def rows():
    generator = np.random.default_rng(5)
    size = 400
    click = generator.integers(0, 2, size)
    buy = click * generator.integers(0, 2, size)
    lengths = generator.integers(0, 5, size)
    return {
        "user": (generator.integers(-5, 40, size) * 10**12).tolist(),
        "city": generator.choice(["Zürich", "北京", "a/b", "", None], size).tolist(),
        "slot": generator.integers(0, 4, size).tolist(),
        "url": [f"/{n}" for n in generator.integers(0, 300, size)],
        "seen": [generator.choice(["Zürich", "a/b", "x"], length).tolist() for length in lengths],
        "age": [None if n < 20 else n for n in generator.integers(15, 80, size).tolist()],
        "price": generator.lognormal(size=size).tolist(),
        "margin": generator.normal(size=size).tolist(),
        "click": click.tolist(),
        "buy": buy.tolist(),
        "spend": np.where(buy == 1, generator.normal(300, 5, size), np.nan).tolist(),
    }


@pytest.fixture(scope="session")
def bundle(rows):
    schema = pr.Schema(
        [
            pr.SparseFeature("user", min_count=2),
            pr.SparseFeature("city"),
            pr.SparseFeature("slot", vocab_size=4),
            pr.SparseFeature("url", hash=50),
            pr.SequenceFeature("seen", shared_with="city"),
            pr.DenseFeature("age", bins=5),
            pr.DenseFeature("price", encoding="log"),
        ],
        [
            pr.Task("click"),
            pr.Task("buy", given="click"),
            pr.Task("spend", kind="regression", given="buy"),
        ],
        pr.Keys(user="user"),
    )
    model = pr.Model(trunk=pr.MMoE(experts=2, hidden=[8]), tower=[4], embed_dim=4)
    fusion = pr.Fusion({"click": 1.0, "buy": 2.0, "margin": 0.1})
    return pr.fit(schema, model, train=rows, valid=rows, epochs=2, seed=1, fusion=fusion)


@pytest.fixture(scope="session")
def exported(bundle, rows, tmp_path_factory):
    """The folder of the bundle, with model.onnx; not to be changed."""
    folder = tmp_path_factory.mktemp("served") / "bundle"
    bundle.save(folder)
    names = [feature.name for feature in bundle.schema.features]
    export(bundle, folder, [pl.DataFrame({name: rows[name] for name in names})])
    return folder


@pytest.fixture(scope="session")
def engine(exported):
    return pr.Engine(exported)
