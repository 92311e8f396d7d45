"""What every method keeps that takes the place of a likelihood: a new one is tested by existing."""

import pytest
import torch
from tests.contracts.of_funnel import COLUMNS, log, model

import polyrank as pr
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.debias import DEBIAS
from polyrank.delay import DELAY
from polyrank.objective.losses import Supervision
from polyrank.serve.export.write import export
from polyrank.train import step
from polyrank.train.loop import Trainer

DECLARED = {f"debias {kind}": {"debias": each()} for kind, each in DEBIAS.items()} | {
    f"delay {kind}": {"delay": each(time="buy_time", window="7d")} for kind, each in DELAY.items()
}
methods = pytest.mark.parametrize("method", DECLARED)


class Interrupt(Exception):
    pass


def schema(method):
    tasks = [
        pr.Task("click"), pr.Task("cart", given="click"),
        pr.Task("buy", given="cart", **DECLARED[method]),
    ]  # fmt: skip
    return pr.Schema([pr.SparseFeature("item")], tasks, pr.Keys(time="time"))


@pytest.mark.slow
@methods
def test_it_trains_resumes_saves_loads_and_exports(method, tmp_path):
    rows = log()

    def fit(folder, **options):
        return pr.fit(
            schema(method), model(dropout=0.2), train=rows, valid=rows, epochs=2, batch_size=64,
            seed=5, out=tmp_path / folder, **options,
        )  # fmt: skip

    def interrupt(progress):
        if progress.event == "epoch":
            raise Interrupt

    bundle = fit("whole")
    for term in bundle.schema.objective:
        assert bundle.history[f"train {term.name} loss"].is_finite().all()
    weights = bundle.ranker.named_weights()
    for head in bundle.schema.heads:
        assert f"head.{head.name}.output.weight" in weights
    with pytest.raises(Interrupt):
        fit("broken", progress=interrupt)
    resumed = fit("broken", resume=True).ranker.named_weights()
    assert all(torch.equal(each, resumed[name]) for name, each in weights.items())
    folder = tmp_path / "whole" / "bundle"
    unlabelled = rows.select("item")
    assert pr.load(folder).predict(unlabelled).equals(bundle.predict(unlabelled))
    export(bundle, folder, [rows])
    assert list(pr.Engine(folder).outputs) == COLUMNS
    assert {each.task for each in bundle.scorecard} == {"click", "cart", "buy"}
    assert set(bundle.calibrators) == {"click", "cart", "buy"}
    by_file = tmp_path / "rows.parquet"
    rows.write_parquet(by_file)
    assert bundle.evaluate(by_file).to_json() == bundle.evaluate(rows).to_json()


@methods
def test_every_head_that_it_declares_learns(method):
    rows = log()
    still, moved = (
        pr.fit(schema(method), model(), train=rows, epochs=1, batch_size=64, lr=lr).ranker
        for lr in (1e-12, 0.01)
    )
    for head in schema(method).heads:
        name = f"head.{head.name}.output.weight"
        assert not torch.allclose(still.named_weights()[name], moved.named_weights()[name])


@pytest.mark.slow
@methods
def test_compiled_steps_equal_the_eager_ones(method, monkeypatch):
    monkeypatch.setattr(step, "compiled", lambda graph: graph)
    frame, found = log(), []
    # With what it takes from the training rows.
    own = pr.fit(schema(method), model(), train=frame, epochs=1).schema
    vocab = Vocab.fit(frame, own)
    table = encode(frame, own, vocab)
    for compile in (False, True):
        torch.manual_seed(0)
        ranker = model().build(model().layout(own, vocab))
        training = pr.Training(epochs=2, batch_size=64, compile=compile)
        each = Trainer(
            ranker, training, Supervision.of(table), train=table, valid=None, seed=0
        )  # fmt: skip
        assert list(each.run())
        found.append(each.state())
    eager, graph = found
    assert eager.keys() == graph.keys()
    for name, tensor in eager.items():
        torch.testing.assert_close(graph[name], tensor, rtol=1e-4, atol=1e-5)
