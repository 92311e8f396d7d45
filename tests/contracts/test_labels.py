"""Every registered kind of label keeps the same promises: a new one is tested by existing."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import polyrank as pr
from polyrank.calibration import MAPS
from polyrank.calibration.scale import SCALES
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError
from polyrank.labels import (
    LABELS,
    Categorical,
    Count,
    Quantile,
    Regression,
    WatchTime,
    WeightedLogistic,
)
from polyrank.metrics.predicted import scored_columns
from polyrank.metrics.registry import metrics_of
from polyrank.objective.likelihood import targets_of
from polyrank.objective.losses import Supervision
from polyrank.serve.export.write import export
from polyrank.stages.stage import StageRun
from polyrank.stages.wide_fit import WideFit
from polyrank.terms import output_columns, populations
from polyrank.train.heads import base_rates

ROWS = 400
CANDIDATES = np.array([0.0, 1.0, 2.0, 3.0, 0.25, -1.5, 7.0])
MODEL = pr.Model(trunk=pr.SharedBottom(hidden=[8]), tower=[4], embed_dim=4)
# Kinds with options that change what is learned, beside the registered ones without any.
VARIANTS = {
    "regression huber": Regression(loss="huber"),
    "regression log1p": Regression(transform="log1p"),
    "count negative binomial": Count(distribution="negative_binomial"),
    "categorical other": Categorical(values=[1, 2], others="other"),
    "quantile of one": Quantile(levels=[0.7]),
    "watch_time pcr": WatchTime(method="pcr"),
    "watch_time censored": WatchTime(method="censored"),
    "weighted_logistic event": WeightedLogistic(event="happened", negatives="no_event"),
}
kinds = pytest.mark.parametrize("kind", [*LABELS, *VARIANTS])


def spec_of(kind):
    spec = VARIANTS[kind] if kind in VARIANTS else LABELS[kind]()
    return spec.closed(np.array([0, 1, 2, 7], np.float32))


def schema_of(kind):
    spec = spec_of(kind)
    tasks = [
        pr.Task("click"),
        pr.Task("root", kind=spec),
        pr.Task("child", kind=spec, given="click"),
    ]
    return pr.Schema([pr.SparseFeature("item")], tasks, pr.Keys(weight="w"))


def log_of(kind, rows=ROWS, seed=1):
    """Labels that the kind allows, one in ten missing, and the columns that it reads."""
    spec, rng = spec_of(kind), np.random.default_rng(seed)
    allowed = CANDIDATES[spec.allows(CANDIDATES)]
    click = (rng.random(rows) < 0.6).astype(float)

    def label(where):
        values = rng.choice(allowed, rows)
        return np.where(where & (rng.random(rows) < 0.9), values, np.nan)

    columns = {
        "item": rng.integers(0, 9, rows),
        "w": rng.uniform(0.5, 2, rows),
        "click": click,
        "root": label(np.ones(rows, bool)),
        "child": label(click == 1),
    }
    columns |= {name: rng.uniform(1, 9, rows) for name in spec.reads}
    return pl.DataFrame(columns | {name: rng.integers(0, 2, rows) for name in spec.made_of})


def supervised(kind, rows=ROWS):
    schema, log = schema_of(kind), log_of(kind, rows)
    table = encode(log, schema, Vocab.fit(log, schema))
    generator = torch.Generator().manual_seed(2)
    logits = {
        head.name: torch.randn(
            (rows, head.outputs) if head.outputs > 1 else rows, generator=generator
        ).requires_grad_()
        for head in schema.heads
    }
    labels, extras = torch.from_numpy(table.labels), torch.from_numpy(table.extras)
    return Supervision.of(table), logits, labels, torch.from_numpy(table.weight), extras


@kinds
def test_its_facts_agree_with_each_other(kind):
    spec = spec_of(kind)
    assert LABELS[spec.name] is type(spec)
    assert spec.default_metric in metrics_of(spec)
    assert spec.loss_title
    assert spec.allows(CANDIDATES).any()
    assert len(set(spec.stems("spend"))) == len(spec.stems("spend")) >= 1
    if spec.calibrated is not None:
        assert spec.calibrated in SCALES
        assert any(spec.calibrated in each.scales for each in MAPS.values())
        assert spec.calibrated == "quantiles" or len(spec.stems("y")) == 1  # a map is of one number
        assert spec.calibrated != "logit" or spec.is_event
        assert spec.calibrated != "amount" or spec.is_factor


@kinds
def test_a_label_that_is_not_observed_teaches_nothing(kind):
    supervision, logits, labels, weight, extras = supervised(kind)
    losses, rows = supervision.losses(logits, labels, weight, extras)
    for term in supervision.schema.objective:
        observed = ~labels[
            :, [t.name for t in supervision.schema.tasks].index(term.population.task)
        ].isnan()
        for condition in term.population.conditions:
            assert condition == "click"
            observed &= labels[:, 0] == 1
        if not term.population.label_kind.is_event:
            assert int(rows[term.name]) == int(observed.sum())
        name = term.population.task
        (gradient,) = torch.autograd.grad(losses[term.name], logits[name], retain_graph=True)
        assert gradient.isfinite().all()
        assert not gradient[~observed].any() or term.population.space == "all"


@kinds
def test_the_unit_of_the_weights_does_not_matter_and_a_weight_of_two_is_two_rows(kind):
    supervision, logits, labels, weight, extras = supervised(kind)
    sums = supervision.sums(logits, labels, weight, extras)
    for scale in (0.5, 8.0):
        other = supervision.sums(logits, labels, scale * weight, extras)
        for name, each in sums.items():
            one, two = each.total / each.weight, other[name].total / other[name].weight
            torch.testing.assert_close(one, two, rtol=1e-5, atol=0)
    twice = torch.arange(ROWS).repeat_interleave(2)
    doubled = supervision.sums(
        {name: z[twice] for name, z in logits.items()}, labels[twice], weight[twice], extras[twice]
    )
    by_weight = supervision.sums(logits, labels, 2 * weight, extras)
    for name, each in by_weight.items():
        torch.testing.assert_close(each.total, doubled[name].total, rtol=1e-5, atol=0)


@kinds
def test_a_batch_without_a_row_of_a_term_has_loss_and_gradient_zero(kind):
    supervision, logits, labels, weight, extras = supervised(kind)
    empty = torch.full_like(labels, torch.nan)
    losses, rows = supervision.losses(logits, empty, weight, extras)
    for name, loss in losses.items():
        assert loss.item() == 0
        assert int(rows[name]) == 0
    sum(losses.values()).backward()
    assert not any(z.grad is not None and z.grad.any() for z in logits.values())


@kinds
def test_permuting_the_tasks_permutes_the_losses(kind):
    supervision, logits, labels, weight, extras = supervised(kind)
    schema = supervision.schema
    turned = replace(
        supervision, schema=pr.Schema(schema.features, schema.tasks[::-1], schema.keys)
    )
    one, _ = supervision.losses(logits, labels, weight, extras)
    two, _ = turned.losses(logits, labels.flip(1), weight, extras)
    for name, loss in one.items():
        torch.testing.assert_close(loss, two[name], rtol=1e-6, atol=1e-7)


@kinds
def test_wide_rows_learn_an_output_by_the_gradient_of_its_loss(kind):
    """Up to a factor of the output, and where outputs without wide rows stand at 0."""
    spec = spec_of(kind)
    assert len(spec.curvatures) == spec.outputs
    curved = [output for output, each in enumerate(spec.curvatures) if each is not None]
    schema, log = schema_of(kind), log_of(kind)
    vocab = Vocab.fit(log, schema)
    table = encode(log, schema, vocab)
    supervision = Supervision.of(table)
    run = StageRun(
        train=table, valid=None, likelihoods=supervision.likelihoods, rates=base_rates(table),
        sampling=None, seed=1, steps=1, unseen_rate=0.0, batch_size=ROWS, threads=1,
    )  # fmt: skip
    fit = WideFit(pr.Wide().build(MODEL.layout(schema, vocab)), run)
    columns = [at for at, (head, _) in enumerate(fit.rows.outputs) if head == "root"]
    assert [fit.rows.outputs[at][1] for at in columns] == curved
    if not curved:
        assert "root" not in fit.rows.heads
        return
    z = torch.randn(ROWS, len(fit.rows.outputs), generator=torch.Generator().manual_seed(3))
    mean, curve, noise = (each[:, 0] for each in fit._expected(z[:, None]))
    tasks = [schema.by_name[head] for head in fit.rows.heads]
    targets = targets_of(schema, tasks, supervision.likelihoods, table.labels, table.extras)
    score = ((torch.from_numpy(targets) - mean) / noise)[:, columns].nan_to_num(0)
    logits = torch.zeros(ROWS, spec.outputs)
    logits[:, curved] = z[:, columns]
    of_root = logits.squeeze(1).requires_grad_()
    heads = {head.name: torch.zeros(ROWS, head.outputs).squeeze(1) for head in schema.heads}
    labels, extras = torch.from_numpy(table.labels), torch.from_numpy(table.extras)
    losses, _ = supervision.losses(heads | {"root": of_root}, labels, None, extras)
    (gradient,) = torch.autograd.grad(losses["root @ all"], of_root)
    gradient = gradient.reshape(ROWS, -1)[:, curved]
    assert (curve[:, columns] >= 0).all()
    for found, known in zip(score.T.double(), -gradient.T.double(), strict=True):
        factor = (found @ known) / (found @ found)
        assert factor > 0
        size = float((factor * found).abs().max())
        torch.testing.assert_close(factor * found, known, rtol=1e-4, atol=1e-5 * size)


@kinds
def test_its_loss_can_be_traced_as_a_compiled_step_does(kind):
    supervision, logits, labels, weight, extras = supervised(kind)

    def loss(*z):
        found, _ = supervision.losses(dict(zip(logits, z, strict=True)), labels, weight, extras)
        return sum(found.values())

    values = [each.detach() for each in logits.values()]
    torch.testing.assert_close(make_fx(loss)(*values)(*values), loss(*values))


@pytest.mark.slow
@kinds
def test_it_trains_saves_loads_evaluates_predicts_and_exports(kind, tmp_path):
    schema, log = schema_of(kind), log_of(kind)
    bundle = pr.fit(
        schema, MODEL, train=log, valid=log, epochs=2, batch_size=64, out=tmp_path / "run"
    )
    again = pr.load(tmp_path / "run")
    rows = log_of(kind, 50, seed=9)
    found = bundle.predict(rows)
    assert again.predict(rows).equals(found)
    assert found.columns == [name for task in schema.tasks for name in output_columns(task)]
    spec = spec_of(kind)
    scores = {score.name: score for score in again.evaluate(rows.fill_nan(None))}
    assert spec.default_metric in scores["root @ all"].metrics
    assert scores["root @ all"].kind == spec.name
    export(again, tmp_path / "run" / "bundle", [log])
    engine = pr.Engine(tmp_path / "run")
    answers = [
        engine.predict(rows).to_dict(),
        # As a request has them: lists of plain values, and of no column that prediction lacks.
        engine.predict_columns({name: rows[name].to_list() for name in schema.inputs}).outputs,
    ]
    for name in found.columns:
        for answer in answers:
            np.testing.assert_allclose(answer[name], found[name], rtol=1e-4, atol=1e-5)


class Interrupt(Exception):
    """A run that is killed."""


@kinds
def test_what_its_scores_need_is_measured(kind):
    schema, log = (
        schema_of(kind),
        log_of(kind).with_columns(price=pl.Series(np.random.default_rng(3).normal(size=ROWS))),
    )
    schema = replace(schema, features=[*schema.features, pr.DenseFeature("price")])
    bundle = pr.fit(schema, MODEL, train=log, epochs=1, batch_size=128)
    found = bundle.importance(log, permutations=2)
    assert found.whole.keys() == {where.name for where in populations(schema)}
    assert not found.absent
    assert len(found.drops) == 2 * len(found.whole)
    assert all(np.isfinite(each.value) for each in found.drops)
    assert all((each.low is None) == (each.reason is not None) for each in found.drops)
    curves = bundle.dependence(log, points=3)
    assert set(curves["output"]) >= {"p_click", scored_columns(schema.by_name["root"])[0]}
    assert curves.drop("feature", "output").null_count().sum_horizontal().item() == 0


@kinds
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(kind, tmp_path):
    options = {"train": log_of(kind, 200), "valid": log_of(kind, 200, seed=2), "batch_size": 64}

    def killed(progress):
        if progress.event == "epoch" and progress.epoch == 1:
            raise Interrupt

    straight = pr.fit(schema_of(kind), MODEL, epochs=2, **options)
    with pytest.raises(Interrupt):
        pr.fit(schema_of(kind), MODEL, epochs=2, out=tmp_path / "run", progress=killed, **options)
    resumed = pr.fit(schema_of(kind), MODEL, epochs=2, out=tmp_path / "run", resume=True, **options)
    assert resumed.targets == straight.targets
    rows = log_of(kind, 50, seed=9)
    assert resumed.predict(rows).equals(straight.predict(rows))


@kinds
def test_rows_of_a_sampled_log_stand_for_those_that_were_left_out(kind):
    schema, log = schema_of(kind), log_of(kind)
    table = encode(log, schema, Vocab.fit(log, schema))
    sampling = pr.Sampling("click", 0.5)
    whole = Supervision.of(sampling.weighted(table, "train"))
    assert Supervision.of(table, sampling).fitted == whole.fitted


@kinds
def test_a_label_that_it_does_not_allow_is_refused_with_the_values(kind):
    spec = spec_of(kind)
    log = log_of(kind).with_columns(root=pl.lit(float("inf")))
    with pytest.raises(
        DataError, match=f"'root' must hold .*kind {spec.name!r}.*got inf in {ROWS}"
    ):
        pr.fit(schema_of(kind), MODEL, train=log, epochs=1)


@kinds
def test_a_warm_start_keeps_what_the_kind_has_fitted(kind, tmp_path):
    options = {"epochs": 1, "batch_size": 64}
    first = pr.fit(schema_of(kind), MODEL, train=log_of(kind), **options)
    rows = log_of(kind, seed=2)
    second = pr.fit(schema_of(kind), MODEL, train=rows, start=first, **options)
    assert second.targets == first.targets
    assert not second.predict(rows).equals(first.predict(rows))
    second.save(tmp_path / "bundle")
    assert pr.load(tmp_path / "bundle").predict(rows).equals(second.predict(rows))
