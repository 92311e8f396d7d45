"""A fitted bundle whose names would break a careless page, and evidence with every slot."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.calibration import Platt
from polyrank.calibration.fitting import Calibrator
from polyrank.data.check import Audit, Finding
from polyrank.debias import PropensityUse
from polyrank.metrics.score import Scorecard
from polyrank.models.expert_use import ExpertUse, GateUse
from polyrank.report import Evidence, gather
from polyrank.report.first_stages import FirstStagesUse, Gain
from polyrank.stages.effects import FieldEffects, IdEffect

NASTY = "item</script><script>alert('x')</script>"


@pytest.fixture(scope="session")
def rows():
    generator = np.random.default_rng(8)
    size = 4000
    item = generator.integers(0, 12, size)
    p_click = 0.02 + 0.3 * item / 12
    p_buy = 0.1 + 0.4 * (item % 3) / 3
    click = generator.random(size) < p_click
    buy = click & (generator.random(size) < p_buy)
    return {
        NASTY: item,
        "price": generator.lognormal(size=size),
        "user": generator.integers(0, 300, size),
        "click": click.astype(int),
        "buy": buy.astype(int),
        "spend": np.where(buy, generator.normal(20, 3, size), np.nan),
        "true_p_click": p_click,
        "true_p_buy_given_click": p_buy,
        "true_p_buy": p_click * p_buy,
    }


@pytest.fixture(scope="session")
def schema():
    return pr.Schema(
        [pr.SparseFeature(NASTY), pr.DenseFeature("price")],
        [
            pr.Task("click"),
            pr.Task("buy", given="click"),
            pr.Task("spend", kind="regression", given="buy"),
        ],
        pr.Keys(user="user"),
    )


@pytest.fixture(scope="session")
def bundle(schema, rows):
    """Its click is calibrated, by a map that nobody fitted."""
    mmoe = pr.MMoE(experts=2, hidden=[4])
    model = pr.Model(trunk=mmoe, tower=[4], embed_dim=4, wide=False, trees=False)
    fitted = pr.fit(
        schema, model, train=rows, valid=rows, epochs=2, batch_size=256, lr=0.01,
        fusion=pr.Fusion({"click": 1, "buy": 2, "price": 0.1}),
    )  # fmt: skip
    losses = {"none": 0.4, "platt": 0.3}
    click = Calibrator(Platt(0.9, -0.2), 4000, 700, losses)
    fitted = replace(fitted, calibrators={**fitted.calibrators, "click": click})
    return replace(fitted, scorecard=fitted.evaluate(rows, split="valid"))


@pytest.fixture(scope="session")
def evidence(bundle, rows):
    """What every bundle gives."""
    return gather(bundle, rows, trained=datetime(2026, 11, 26, 12, tzinfo=UTC), inspect=True)


@pytest.fixture(scope="session")
def full(evidence) -> Evidence:
    """The same with every slot filled, two levels of experts among them."""
    card = evidence.scorecard.to_json()
    for score in card["scores"]:
        for metric in score["metrics"].values():
            metric |= {"low": metric["value"] * 0.98, "high": metric["value"] * 1.03}
    audit = Audit(
        (
            Finding("info", "constant", "feature 'price' has one value", "price"),
            Finding("error", "label-equal", f"{NASTY} equals click", NASTY, remedy="remove it"),
        ),
        {"train": 4000},
    )
    return replace(
        evidence, scorecard=Scorecard.from_json(card), audit=audit, unaudited=None,
        experts=(*evidence.experts, LEVEL), first=FIRST, propensities=(WEIGHTS,),
    )  # fmt: skip


@pytest.fixture
def told(schema):
    """Evidence of first stages alone, for which nothing is fitted."""
    return Evidence("x", schema, {}, pl.DataFrame(), None, {}, None, first=FIRST)


LEVEL = ExpertUse(
    level="level 0",
    rows=200,
    experts=("click 0", "shared 0"),
    gates=(
        GateUse(
            name="click", weights={"click 0": 0.99, "shared 0": 0.01}, row_entropy=0.05,
            mean_entropy=0.08,
        ),
        GateUse(name="buy", weights={"shared 0": 1.0}, row_entropy=None, mean_entropy=None),
    ),
    utilisation=(0.495, 0.505),
    even=(0.25, 0.75),
    effective_experts=2.0,
    dead_rate=(0.0, 0.25),
    similarity=((1.0, None), (None, None)),
)  # fmt: skip

WEIGHTS = PropensityUse.of(
    "buy|click @ click", np.repeat([0.5, 0.2, 0.0005], [900, 300, 3]), floor=0.001
)

FIRST = FirstStagesUse(
    heads=("click", "spend"),
    stages={"click": ("wide", "trees"), "spend": ("trees",)},
    units={"spend": 3.0},
    effects=(
        FieldEffects(
            field=NASTY, head="click", prior=4.0, ids=200_000,
            deciles=tuple(np.geomspace(0.1, 30, 9).tolist()),
            largest=(
                IdEffect(id="</td><script>7", effect=1.0, precision=16.0, information=12.0),
                IdEffect(id="x" * 200, effect=-0.5, precision=8.0, information=4.0),
            ),
        ),
        FieldEffects(field="shop", head="click", prior=1.0, ids=0, deciles=(), largest=()),
        FieldEffects(
            field="price", head="spend", prior=1.0, ids=1, deciles=(2.0,) * 9,
            largest=(IdEffect(id="(0, 3]", effect=0.5, precision=3.0, information=2.0),),
        ),
    ),
    importance={"trees": {"click": {NASTY: 0.75, "price": 0.25}, "spend": {}}},
    margins={"click": (-1.0, -0.4, 0.1, 0.5, 1.2), "spend": (-0.1, 0.0, 0.0, 0.0, 0.2)},
    changes={"click": (-0.2, -0.1, 0.0, 0.1, 0.2), "spend": (0.0, 0.0, 0.0, 0.0, 0.0)},
    gains={"click @ all": Gain("auc", 0.7, 0.71), "spend|buy @ buy": Gain("rmse", 3.0, 2.9)},
)  # fmt: skip
