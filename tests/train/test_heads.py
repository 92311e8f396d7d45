"""Where training starts: towers that could never learn are drawn again, others keep their bits."""

import logging

import pytest
import torch
from tests.train.conftest import PLAIN

import polyrank as pr
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.models.outputs import inputs
from polyrank.nn.mlp import MLP
from polyrank.train.heads import start

MODEL = pr.Model(trunk=pr.Separate(), tower=[6, 4], embed_dim=4, **PLAIN)


@pytest.fixture
def built(funnel):
    train, _, schema = funnel
    frame = read(train)
    vocab = Vocab.fit(frame, schema)
    torch.manual_seed(1)
    return MODEL.build(MODEL.layout(schema, vocab)), encode(frame, schema, vocab)


def test_a_dead_tower_is_drawn_again_and_named(built, caplog):
    caplog.set_level(logging.INFO)
    ranker, table = built
    with torch.no_grad():
        ranker.head["buy"].tower.linear[1].bias.fill_(-100.0)
    click = ranker.head["click"].tower
    kept = {name: weight.clone() for name, weight in click.state_dict().items()}
    start(ranker, table, "cpu")
    assert "the tower of task 'buy' started dead and was drawn again" in caplog.text
    assert "'click'" not in caplog.text
    x = inputs(ranker, next(table.batches(ranker.layout, 100)), "cpu").x
    assert ranker(x).logits["buy"].std() > 0
    for name, weight in click.state_dict().items():
        assert torch.equal(weight, kept[name])


def test_a_live_model_keeps_its_bits(built):
    ranker, table = built
    before = {name: weight.clone() for name, weight in ranker.named_weights().items()}
    start(ranker, table, "cpu")
    for name, weight in ranker.named_weights().items():
        assert torch.equal(weight, before[name]) or name.endswith("output.bias")


def test_rows_that_are_all_alike_are_no_sign_of_death(built):
    ranker, _ = built
    assert ranker.redraw_dead(torch.zeros(5, ranker.layout.width)) == {}


def test_a_tower_that_cannot_be_woken_is_named(built, caplog, monkeypatch):
    ranker, table = built
    with torch.no_grad():
        ranker.head["buy"].tower.linear[1].bias.fill_(-100.0)
    monkeypatch.setattr(MLP, "redraw", lambda _: None)
    start(ranker, table, "cpu")
    assert "task 'buy' starts with one prediction for all rows" in caplog.text


def test_no_model_of_many_seeds_starts_constant(built):
    ranker, table = built
    for seed in range(60):
        torch.manual_seed(seed)
        model = pr.Model(trunk=pr.Separate(), tower=[2], embed_dim=2, **PLAIN)
        ranker = model.build(model.layout(ranker.layout.schema, ranker.layout.vocab))
        start(ranker, table, "cpu")
        x = inputs(ranker, next(table.batches(ranker.layout, 900)), "cpu").x
        assert all(z.std() > 0 for z in ranker(x).logits.values()), seed


def test_batch_norm_and_no_layers_cannot_die():
    x = torch.randn(8, 3)
    normed = MLP(3, [2], norm="batch").eval()
    torch.nn.init.constant_(normed.linear[0].bias, -100.0)
    assert not normed.is_dead(x)
    assert not MLP(3, []).is_dead(x)
    plain = MLP(3, [2])
    torch.nn.init.constant_(plain.linear[0].bias, -100.0)
    assert plain.is_dead(x)
