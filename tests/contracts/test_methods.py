"""A made-up debiased loss: auxiliary heads, row weights, soft targets, terms of their own names."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

import polyrank as pr
from polyrank.data.statistics import fitted_labels, term_statistics
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.debias import Debias
from polyrank.errors import SchemaError
from polyrank.objective.losses import Supervision
from polyrank.registry import register, unregister
from polyrank.schema import Schema
from polyrank.serve.export.write import export
from polyrank.terms import Summand, term_of

ROWS = 600


@dataclass(frozen=True, kw_only=True)
class MadeUp(Debias):
    """Clicked rows weighted by 1 / P(click); others take a head's opinion as label."""

    name = "made_up"
    floor: float = 0.1

    def heads(self, task):
        return ("opinion",)

    def terms(self, schema, task):
        return (
            term_of(schema, task, task.given, self),
            term_of(schema, task, task.given, self, "opinion"),
            term_of(schema, task, "all"),
        )

    def summands(self, term, scores, labels):
        task, parent = term.population.task, term.population.conditions[-1]
        clicked, label = labels.yes[parent], labels.value[task].nan_to_num()
        opinion = scores.logits[f"{task}#opinion"]
        if term.part == "opinion":
            return (Summand(clicked, 1.0, cross_entropy(opinion, label, reduction="none")),)
        p = scores.log_probability((((parent, True),),)).exp().detach()
        weight = 1 / p.clamp(min=self.floor)
        soft = scores.cross_entropy(term, opinion.sigmoid().detach())
        return (
            Summand(clicked, weight, scores.cross_entropy(term, label)),
            Summand(labels.no[parent], 0.5 * weight, soft, counts=False),
        )


@pytest.fixture(autouse=True)
def plugin():
    register("debias", "made_up", MadeUp)
    yield
    unregister("debias", "made_up")


def schema(**options):
    tasks = [pr.Task("click"), pr.Task("buy", given="click", debias=MadeUp(**options))]
    return pr.Schema([pr.SparseFeature("item")], tasks)


def log():
    rng = np.random.default_rng(3)
    item = rng.integers(0, 9, ROWS)
    click = rng.random(ROWS) < 0.2 + 0.05 * item
    return pl.DataFrame(
        {
            "item": item,
            "click": click.astype(int),
            "buy": np.where(click, rng.random(ROWS) < 0.4, np.nan),
        }
    )


def test_the_terms_have_names_of_their_own_and_heads_are_not_tasks():
    found = schema(floor=0.2)
    assert [term.name for term in found.objective] == [
        "click @ all",
        "buy|click @ click [made_up]",
        "buy|click @ click [made_up opinion]",
        "buy @ all",
    ]
    assert [head.name for head in found.heads] == ["click", "buy", "buy#opinion"]
    table = found.to_table()
    assert table["tasks"][1]["debias"] == {"kind": "made_up", "floor": 0.2}
    assert Schema.from_json(found.to_json()) == found


def test_losses_and_gradients_are_those_of_the_formula():
    found, frame = schema(), log()
    table = encode(frame, found, Vocab.fit(frame, found))
    supervision = Supervision(found, term_statistics(table), fitted_labels(table))
    generator = torch.Generator().manual_seed(5)
    z = {
        head.name: torch.randn(ROWS, generator=generator, dtype=torch.float64).requires_grad_()
        for head in found.heads
    }
    labels = torch.from_numpy(table.labels).double()
    losses, rows = supervision.losses(z, labels, None)
    click, buy = labels[:, 0] == 1, labels[:, 1].nan_to_num()
    clicked = int(click.sum())
    weight = 1 / z["click"].detach().sigmoid().clamp(min=0.1)
    p = z["buy"].sigmoid()
    own = -(buy * p.log() + (1 - buy) * (1 - p).log())
    q = z["buy#opinion"].detach().sigmoid()
    soft = -(q * p.log() + (1 - q) * (1 - p).log())
    expected = ((weight * own)[click].sum() + 0.5 * (weight * soft)[~click].sum()) / clicked
    name = "buy|click @ click [made_up]"
    torch.testing.assert_close(losses[name], expected, rtol=1e-10, atol=0)
    assert {term: int(each) for term, each in rows.items()} == {
        "click @ all": ROWS, name: clicked,
        "buy|click @ click [made_up opinion]": clicked, "buy @ all": ROWS,
    }  # fmt: skip
    one = torch.autograd.grad(losses[name], list(z.values()), materialize_grads=True,
                              retain_graph=True)  # fmt: skip
    two = torch.autograd.grad(expected, list(z.values()), materialize_grads=True)
    for mine, its in zip(one, two, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-8, atol=1e-14)
    assert not one[0].any()  # the weight does not teach the click head
    assert not one[2].any()


def test_an_auxiliary_head_is_trained_and_saved_and_nothing_else(tmp_path):
    rows = log()
    found = schema()
    fit = {
        "train": rows,
        "valid": rows[:300],
        "epochs": 2,
        "batch_size": 64,
        "out": tmp_path / "run",
    }
    bundle = pr.fit(found, pr.Model(embed_dim=4, tower=[4]), **fit)
    weights = bundle.ranker.named_weights()
    assert "head.buy#opinion.output.weight" in weights
    start = pr.fit(found, pr.Model(embed_dim=4, tower=[4]), train=rows, epochs=1, lr=1e-12)
    before = start.ranker.named_weights()["head.buy#opinion.output.weight"]
    assert not torch.equal(weights["head.buy#opinion.output.weight"], before)
    assert "valid buy|click @ click [made_up opinion] loss" in bundle.history.columns
    columns = ["p_click", "p_buy_given_click", "p_buy"]
    assert bundle.predict(rows).columns == columns
    assert set(bundle.calibrators) == {"click", "buy"}
    assert {score.task for score in bundle.scorecard} == {"click", "buy"}
    again = pr.load(tmp_path / "run")
    assert again.predict(rows).equals(bundle.predict(rows))
    export(again, tmp_path / "run" / "bundle", [rows])
    assert list(pr.Engine(tmp_path / "run").outputs) == columns


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pr.Task("buy", given="click", debias="ipps"), "debias: unknown kind 'ipps'"),
        (lambda: pr.Task("buy", debias="made_up"), "debias needs an event that is given another"),
        (
            lambda: pr.Task("buy", given="click", space="click", debias="made_up"),
            "debias takes the place of space",
        ),
        (
            lambda: pr.Task("buy", given="click", hold_ancestors=True, debias="made_up"),
            "debias has terms of its own: leave hold_ancestors out",
        ),
        (
            lambda: pr.Task("spend", kind="regression", given="buy", debias="made_up"),
            "debias needs an event",
        ),
    ],
)
def test_what_cannot_be_debiased_is_refused(make, message):
    with pytest.raises(SchemaError, match=message):
        make()
