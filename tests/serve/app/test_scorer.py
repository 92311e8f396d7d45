"""What lies between a request and the engine."""

import json

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.errors import DataError
from polyrank.serve.app.limits import Refused
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.explore import Explorer
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


def explored(folder, count, **given):
    """The answer to some rows of a bundle that was exported with deviations."""
    engine = pr.Engine(folder)
    return engine, lambda rows: json.loads(
        Scorer(engine, count)(json.dumps({"rows": rows, **given}).encode()).body
    )


def some_rows(engine, rows, count):
    return [{name: rows[name][i] for name in [*engine.inputs, "margin"]} for i in range(count)]


@pytest.mark.parametrize("how", [{"kind": "thompson", "seed": 5, "draws": 40}, {"kind": "ucb"}])
def test_rows_are_explored_beside_what_the_model_says(sure, rows, how):
    engine, ask = explored(sure, 20, explore=how)
    some = some_rows(engine, rows, 20)
    answer = ask(some)
    plain = json.loads(Scorer(engine, 20)(json.dumps({"rows": some}).encode()).body)
    found = answer.pop("explored")
    assert answer == plain
    frame = pl.DataFrame({name: [row[name] for row in some] for name in engine.inputs})
    margin = {"margin": pl.Series("margin", [row["margin"] for row in some])}
    chosen = pr.Thompson(seed=5, draws=40) if how["kind"] == "thompson" else pr.UCB()
    expected = engine.explore(engine.predict_frame(frame), chosen, margin)
    np.testing.assert_allclose(found["score"], expected.score, rtol=1e-12)
    assert found["order"] == expected.order.tolist()
    assert (found["by"], found["first"]) == ("score", 1)
    if how["kind"] == "ucb":
        assert found["propensity"] is found["propensity_from"] is None
        assert all(np.array(found["score"]) > np.array(plain["score"]))
    else:
        assert found["propensity_from"] == "draws"
        assert sum(found["propensity"]) == pytest.approx(1)


def test_the_best_rows_are_those_of_the_exploration_with_both_scores(sure, rows):
    engine, ask = explored(sure, 20, explore={"kind": "thompson", "seed": 5, "draws": 40})
    some = some_rows(engine, rows, 20)
    every = ask(some)
    _, best = explored(sure, 20, top_k=3, explore={"kind": "thompson", "seed": 5, "draws": 40})
    answer = best(some)
    assert answer["explored"] == {"by": "score", "first": 3, "propensity_from": "draws"}
    assert [each["row"] for each in answer["top"]] == every["explored"]["order"][:3]
    for each in answer["top"]:
        assert each["score"] == every["score"][each["row"]]
        assert each["explored"] == every["explored"]["score"][each["row"]]
        assert 1 / 41 <= each["propensity"] <= 1
        assert each["p_click"] == every["outputs"]["p_click"][each["row"]]


def test_a_bundle_without_a_fusion_ranks_by_what_is_explored(sure, rows):
    engine = pr.Engine(sure)
    some = some_rows(engine, rows, 8)
    engine.fusion, engine.fusion_columns = None, ()
    engine.explorer = Explorer(engine.schema, None, engine.explorer.sure, engine.explorer.maps)
    how = {"kind": "thompson", "seed": 1, "by": "p_click"}
    body = json.dumps({"rows": some, "top_k": 2, "explore": how}).encode()
    answer = json.loads(Scorer(engine, 10)(body).body)
    assert answer["explored"] == {"by": "p_click", "first": 2, "propensity_from": "integral"}
    assert list(answer["top"][0])[:3] == ["row", "explored", "propensity"]
    assert "score" not in answer["top"][0]


def test_what_the_context_is_unsure_of_is_no_row_s_own(sure, bundle, rows):
    engine = pr.Engine(sure)
    some = some_rows(engine, rows, 6)
    first, shared = bundle.ranker.first, ("user", "slot")
    stage = first.stage["wide"]
    for row in some:
        context = {name: row[name] for name in shared}
        own = {name: [each[name] for each in some] for name in engine.inputs if name not in shared}
        predicted = engine.predict_columns(own, context)
        (batch,) = bundle.encode(pl.DataFrame([row])).batches(bundle.ranker.layout, 1)
        ids = torch.from_numpy(batch.ids)[stage.fields] + stage.packed[: len(stage.fields)]
        names = [slot.name for slot in stage.slots]
        for column, task in enumerate(stage.heads[:2]):
            expected = sum(
                1 / float(stage._precision_of(k, ids[k])[0, column])
                for k in map(names.index, shared)
            )
            found = engine.explorer.precisions.common(task, predicted.rows, predicted.shared)
            assert found == pytest.approx(expected, rel=1e-6)


def test_exploration_without_deviations_is_refused_with_the_remedy(engine, record):
    body = json.dumps({"rows": [record], "explore": {"kind": "ucb"}}).encode()
    with pytest.raises(
        Refused, match="the exported model has no deviations: run `polyrank export RUN --uncertain"
    ):
        Scorer(engine, 10)(body)
