"""A small log with several kinds of task, shared by the contracts."""

import numpy as np
import pytest

collect_ignore = ["plugin"]  # a package of its own, imported by its entry point


@pytest.fixture(scope="session")
def rows():
    generator = np.random.default_rng(0)
    size = 257  # the last batch of 64 has one row
    click = (generator.random(size) < 0.5).astype(float)
    buy = click * (generator.random(size) < 0.5)
    return {
        "user": generator.integers(0, 40, size),
        "item": generator.integers(0, 30, size),
        "history": [generator.integers(0, 30, length) for length in generator.integers(0, 5, size)],
        "price": generator.lognormal(size=size),
        "click": click,
        "buy": buy,
        "spend": np.where(buy == 1, generator.normal(100, 20, size), np.nan),
    }
