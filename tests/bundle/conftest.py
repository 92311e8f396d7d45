"""A bundle with every kind of column, and the rows it was trained on."""

import numpy as np
import pytest

import polyrank as pr


@pytest.fixture(scope="session")
def rows():
    generator = np.random.default_rng(5)
    size = 500
    click = generator.integers(0, 2, size)
    buy = click * generator.integers(0, 2, size)
    return {
        "url": [f"/{n}" for n in generator.integers(0, 300, size)],
        "user": generator.integers(-5, 40, size) * 10**12,
        "city": generator.choice(["Zürich", "北京", "a/b", ""], size),
        "slot": generator.integers(0, 4, size),
        "age": np.where(generator.random(size) < 0.2, np.nan, generator.integers(18, 80, size)),
        "price": generator.lognormal(size=size),
        "click": click,
        "buy": buy,
        "spend": np.where(buy == 1, generator.normal(300_000, 5_000, size), np.nan),
        "when": np.arange(size),
        "w": generator.random(size) + 0.5,
    }


@pytest.fixture(scope="session")
def bundle(rows):
    schema = pr.Schema(
        [
            pr.SparseFeature("user", min_count=2),
            pr.SparseFeature("city", embed_dim=3),
            pr.SparseFeature("slot", vocab_size=4),
            pr.SparseFeature("home", shared_with="city"),
            pr.SparseFeature("url", hash=50),
            pr.DenseFeature("age", encoding="bins", bins=5),
            pr.DenseFeature("price", encoding="piecewise_linear", bins=4),
        ],
        [
            pr.Task("click"),
            pr.Task("buy", given="click"),
            pr.Task("spend", kind="regression", given="buy"),
        ],
        pr.Keys(user="user", time="when", weight="w"),
    )
    rows["home"] = rows["city"][::-1]
    model = pr.Model(trunk=pr.MMoE(), norm="batch")
    return pr.fit(schema, model, train=rows, valid=rows, epochs=2, seed=1)
