"""What lies between a request and the engine."""

import json

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.errors import DataError
from polyrank.serve.app.limits import Refused
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.export.write import export


class Changed:
    """An engine of which something is replaced."""

    def __init__(self, engine, **changes):
        self._engine = engine
        vars(self).update(changes)

    def __getattr__(self, name):
        return getattr(self._engine, name)


@pytest.fixture
def record(engine, rows):
    return {name: rows[name][0] for name in [*engine.inputs, "margin"]}


def test_everything_may_be_in_the_context(engine, record):
    scorer = Scorer(engine, 10)
    shared = scorer(json.dumps({"context": record, "candidates": [{}] * 3}).encode())
    alone = scorer(json.dumps({"rows": [record] * 3}).encode())
    assert json.loads(shared.body) == json.loads(alone.body)
    assert (shared.rows, shared.ids, shared.nulls) == (3, alone.ids, alone.nulls)


def test_a_score_beyond_all_numbers_is_refused(engine, record):
    endless = Changed(engine, score=lambda *_: np.array([1.0, np.inf]))
    with pytest.raises(Refused, match="fusion: the score of row 1 is too large to represent"):
        Scorer(endless, 10)(json.dumps({"rows": [record] * 2}).encode())


def test_a_message_is_cut_where_it_quotes_too_much(engine, record):
    def fails(*_):
        raise DataError("x" * 10**6)

    with pytest.raises(Refused, match=r"^x{1000}…$"):
        Scorer(Changed(engine, predict_columns=fails), 10)(json.dumps({"rows": [record]}).encode())


def test_ids_are_counted_without_nulls_and_padding(tmp_path):
    schema = pr.Schema([pr.SequenceFeature("seen", padding_idx=0)], [pr.Task("click")])
    log = {"seen": [[1, 2, 0], [5]] * 9, "click": [0, 1] * 9}
    bundle = pr.fit(schema, pr.Model(tower=[4]), train=log, epochs=1)
    bundle.save(tmp_path / "bundle")
    export(bundle, tmp_path / "bundle", [pl.DataFrame({"seen": log["seen"]})])
    scorer = Scorer(pr.Engine(tmp_path), 10)
    lists = [[1, 2, 0], None, [], [None, 0, 5]]
    assert scorer(json.dumps({"rows": {"seen": lists}}).encode()).ids == {"seen": 3}
    shared = {"context": {"seen": lists[0]}, "candidates": [{}] * 3}
    assert scorer(json.dumps(shared).encode()).ids == {"seen": 6}
