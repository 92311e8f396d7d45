"""A warm start of every trunk, balance and optimiser; test_labels.py has the kinds of label."""

import logging

import numpy as np
import pytest
import torch

import polyrank as pr
from polyrank.balance import BALANCES
from polyrank.data.read import read
from polyrank.models.model import TRUNKS
from polyrank.train.optim import DENSE, EMBEDDINGS
from polyrank.train.start import Start

FEATURES = [
    pr.SparseFeature("user", hash=20),
    pr.SparseFeature("item"),
    pr.SequenceFeature("history", shared_with="item"),
    pr.DenseFeature("price"),
]
TASKS = [pr.Task("click"), pr.Task("buy", given="click", space="all")]
SCHEMA = pr.Schema(FEATURES, TASKS)


def later(rows):
    """Rows in other order, with items that come and go."""
    moved = {name: list(column)[::-1] for name, column in rows.items()}
    columns = {name: np.asarray(moved[name]) for name in moved if name != "history"}
    return moved | columns | {"item": columns["item"] + 7}


def check(rows, model, tmp_path, caplog, schema=SCHEMA, **options):
    """Start from a run, and from what that gave: nothing is lost, and the optimisers go on."""
    options = {"batch_size": 64, "epochs": 1, "cache": False, **options}
    out = tmp_path / "first"
    first = pr.fit(schema, model, train=rows, out=out, **options)
    origin = Start.of(out).opened()
    vocab = type(first.vocab).fit(read(later(rows)), first.schema, origin.before)
    grown = model.build(model.layout(first.schema, vocab))
    origin.begin(grown, vocab)
    old, new = first.ranker.named_weights(), grown.named_weights()
    assert old.keys() == new.keys()
    assert all(torch.equal(new[name][: len(each)], each) for name, each in old.items() if each.ndim)
    with caplog.at_level(logging.INFO):
        second = pr.fit(schema, model, train=later(rows), start=out, **options)
    assert "the optimisers start anew" not in caplog.text
    assert second.vocab.rows["item"] > first.vocab.rows["item"]
    second.save(tmp_path / "second")
    loaded = pr.load(tmp_path / "second")
    assert loaded.predict(rows).equals(second.predict(rows))
    assert [each.rows for each in loaded.learned] == [len(rows["item"])] * 2


@pytest.mark.parametrize("kind", TRUNKS)
def test_every_trunk(kind, rows, tmp_path, caplog):
    check(rows, pr.Model(trunk=TRUNKS[kind](), tower=[5], embed_dim=4), tmp_path, caplog)


@pytest.mark.parametrize("kind", BALANCES)
def test_every_balance(kind, rows, tmp_path, caplog):
    model = pr.Model(trunk=pr.SharedBottom(hidden=[8]), embed_dim=4)
    check(rows, model, tmp_path, caplog, balance=BALANCES[kind]())


@pytest.mark.slow
@pytest.mark.parametrize("kind", EMBEDDINGS)
@pytest.mark.parametrize("dense", DENSE)
def test_every_optimiser(kind, dense, rows, tmp_path, caplog):
    model = pr.Model(trunk=pr.SharedBottom(hidden=[8]), embed_dim=4)
    check(rows, model, tmp_path, caplog, embeddings=EMBEDDINGS[kind](), dense=DENSE[dense]())
