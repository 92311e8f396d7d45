"""A funnel small enough to train in a test."""

import numpy as np
import pytest

import polyrank as pr

# A network alone: nothing under it, nothing before its trunk.
PLAIN = {"interaction": False, "field_dropout": 0.0, "wide": False}


@pytest.fixture(scope="session")
def funnel():
    """Train and validation rows in which the item decides, and the schema."""
    generator = np.random.default_rng(3)
    size = 1200
    item = generator.integers(0, 20, size)
    click = (generator.random(size) < 0.1 + 0.04 * item).astype(int)
    buy = click * (generator.random(size) < 0.9 - 0.04 * item)
    rows = {
        "user": generator.integers(0, 50, size),
        "item": item,
        "price": generator.lognormal(size=size),
        "click": click,
        "buy": buy,
    }
    cut = 900
    return (
        {name: values[:cut] for name, values in rows.items()},
        {name: values[cut:] for name, values in rows.items()},
        pr.Schema(
            [
                pr.SparseFeature("user"),
                pr.SparseFeature("item"),
                pr.DenseFeature("price", encoding="standard"),
            ],
            [pr.Task("click"), pr.Task("buy", given="click", space="all")],
            pr.Keys(user="user"),
        ),
    )
