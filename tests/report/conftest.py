"""A fitted bundle whose names would break a careless page, and evidence with every slot."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.metrics.score import Scorecard
from polyrank.report import Evidence, ExpertUse, gather

NASTY = "item</script><script>alert('x')</script>"


@dataclass(frozen=True)
class Found:
    """A finding as the audit reports it."""

    severity: str
    check: str
    column: str | None
    message: str
    numbers: dict = field(default_factory=dict)
    remedy: str = "leave the column out"


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
    model = pr.Model(trunk=pr.MMoE(experts=2, hidden=[4]), tower=[4], embed_dim=4)
    return pr.fit(schema, model, train=rows, valid=rows, epochs=2, batch_size=256, lr=0.01)


@pytest.fixture(scope="session")
def evidence(bundle, rows):
    """What every bundle gives."""
    return gather(bundle, rows, trained=datetime(2026, 11, 26, 12, tzinfo=UTC))


@pytest.fixture(scope="session")
def full(evidence) -> Evidence:
    """The same with every slot filled."""
    history = evidence.history.with_columns(
        pl.Series("gate click entropy", [0.69, 0.5]), pl.Series("gate buy entropy", [0.69, 0.1])
    )
    use = ExpertUse(
        name="",
        gates=("click", "buy"),
        experts=("expert 0", "expert 1"),
        weights=np.array([[0.9, 0.1], [0.4, 0.6]]),
        utilisation=np.array([0.7, 0.3]),
        dead=np.array([0.0, 0.25]),
        similarity=np.array([[1.0, 0.2], [0.2, 1.0]]),
    )
    segments = pl.DataFrame(
        {
            "score": ["click @ all"] * 2,
            "segment": [NASTY, "price"],
            "value": ["3", "[0, 1)"],
            "rows": [1200, 800],
            "positives": [40, 12],
            "auc": [0.51, None],
            "pcoc": [1.4, 0.9],
        }
    )
    findings = (
        Found("info", "constant column", "price", "one value in all rows", {"rows": 4000}),
        Found("error", "column equals label", NASTY, "equal to click", {"share": 1.0}),
    )
    fusion = pl.DataFrame(
        {"weight of buy": [0.0, 1.0, 2.0], "auc of click @ all": [0.7, 0.68, 0.6],
         "auc of buy @ all": [0.6, 0.7, 0.72]}
    )  # fmt: skip
    card = evidence.scorecard.to_json()
    for score in card["scores"]:
        for metric in score["metrics"].values():
            metric |= {"low": metric["value"] * 0.98, "high": metric["value"] * 1.03}
    return replace(
        evidence, scorecard=Scorecard.from_json(card), history=history, experts=(use,),
        segments=segments, findings=findings, fusion=fusion,
    )  # fmt: skip
