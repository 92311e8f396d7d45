"""What the fuzz targets stand on: one saved, exported bundle, and a budget in minutes.

In the ordinary suite each target looks at a few examples. `make fuzz MINUTES=60` sets FUZZ_MINUTES:
each target then draws new ones until its minutes are over, keeps what it finds in .hypothesis, and
prints how many it ran.
"""

import os
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

import polyrank as pr
from polyrank.serve.export.write import export

MINUTES = float(os.environ.get("FUZZ_MINUTES", 0))
EXAMPLES = 10  # of each target in the ordinary suite
BATCH = 500  # of a long run, between two looks at the clock


@pytest.fixture
def fuzz(request, capsys) -> Callable[[SearchStrategy, Callable], None]:
    """Try a function on drawn examples: a few, or for as many minutes as there are."""

    def run(examples: SearchStrategy, check: Callable) -> None:
        tried = 0

        def counted(example):
            nonlocal tried
            tried += 1
            check(example)

        phases = [each for each in Phase if each is not Phase.explain]
        options = {
            "deadline": None,
            "suppress_health_check": list(HealthCheck),
            "phases": phases,
            "print_blob": True,
        }
        if not MINUTES:
            settings(max_examples=EXAMPLES, derandomize=True, database=None, **options)(
                given(examples)(counted)
            )()
            return
        end = time.monotonic() + 60 * MINUTES
        while time.monotonic() < end:
            settings(max_examples=BATCH, derandomize=False, **options)(given(examples)(counted))()
        with capsys.disabled():
            print(f"\n{request.node.name}: {tried:,} examples in {MINUTES:g} minutes")  # noqa: T201

    return run


@pytest.fixture(scope="session")
def rows():
    generator = np.random.default_rng(5)
    size = 200
    click = generator.integers(0, 2, size)
    return {
        "user": generator.integers(0, 20, size).tolist(),
        "city": generator.choice(["Zürich", "北京", "a/b"], size).tolist(),
        "url": [f"/{n}" for n in generator.integers(0, 30, size)],
        "seen": [generator.choice(["Zürich", "x"], n).tolist() for n in np.arange(size) % 4],
        "price": generator.lognormal(size=size).tolist(),
        "click": click.tolist(),
        "spend": np.where(click == 1, generator.normal(3, 1, size), np.nan).tolist(),
    }


@pytest.fixture(scope="session")
def schema():
    return pr.Schema(
        [
            pr.SparseFeature("user"),
            pr.SparseFeature("city"),
            pr.SparseFeature("url", hash=20),
            pr.SequenceFeature("seen", shared_with="city"),
            pr.DenseFeature("price", bins=4),
        ],
        [pr.Task("click"), pr.Task("spend", kind="regression", given="click")],
    )


@pytest.fixture(scope="session")
def folder(rows, schema, tmp_path_factory):
    """The folder of a bundle with a graph; not to be changed."""
    model = pr.Model(
        trunk=pr.MMoE(experts=2, hidden=[4]), tower=[4], embed_dim=4, trees=pr.Trees(rounds=2)
    )
    bundle = pr.fit(schema, model, train=rows, valid=rows, epochs=1, seed=1, progress=False)
    found = tmp_path_factory.mktemp("fuzz") / "bundle"
    bundle.save(found)
    export(bundle, found, [pl.DataFrame({name: rows[name] for name in schema.inputs})])
    return found
