"""`compile = true`: the same step as the eager one, in one graph.

Compiling takes seconds: the matrix runs the traced graph itself, two tests compile it.
"""

import dataclasses

import numpy as np
import pytest
import torch
from tests.train.conftest import PLAIN

import polyrank as pr
from polyrank.data.read import read
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import ConfigError, TrainingError
from polyrank.models.model import TRUNKS
from polyrank.objective.losses import Supervision
from polyrank.train import step
from polyrank.train.loop import Trainer

ROWS = 300  # batches of 64: four full ones and a ragged one
TASKS = [
    pr.Task("click"),
    pr.Task("buy", given="click", space="all"),
    pr.Task("apply"),  # a method of every module
    pr.Task("spend", kind="regression", given="buy"),
]


class Interrupt(Exception):
    pass


@pytest.fixture
def traced(monkeypatch):
    """The graph as it was traced, run operation by operation."""
    monkeypatch.setattr(step, "compiled", lambda graph: graph)


def log(*, missing):
    generator = np.random.default_rng(0)
    click = (generator.random(ROWS) < 0.5).astype(float)
    buy = click * (generator.random(ROWS) < 0.5)
    apply = (generator.random(ROWS) < 0.4).astype(float)
    if missing:
        buy[click == 0] = np.nan
        apply[::7] = np.nan
    return {
        "item": generator.integers(0, 30, ROWS),
        "price": generator.lognormal(size=ROWS),
        "click": click,
        "buy": buy,
        "apply": apply,
        "spend": np.where(buy == 1, generator.normal(100, 20, ROWS), np.nan),
        "w": np.linspace(0.5, 2, ROWS),
    }


HELD = [
    TASKS[0],
    dataclasses.replace(TASKS[1], hold_ancestors=True),
    pr.Task("apply", given="buy", space=("all", "click"), hold_ancestors=True),
    TASKS[3],
]


ADAM = pr.Adam(weight_decay=1e-3)


def trainer(trunk, *, weighted=False, missing=False, model=(), tasks=TASKS, dense=ADAM, **options):
    rows = log(missing=missing)
    schema = pr.Schema(
        [pr.SparseFeature("item"), pr.DenseFeature("price", encoding="log")],
        tasks,
        pr.Keys(weight="w") if weighted else pr.Keys(),
    )
    frame = read(rows)
    vocab = Vocab.fit(frame, schema)
    table = encode(frame, schema, vocab, orphans="zero")
    spec = pr.Model(trunk=trunk, tower=[5], embed_dim=4, **PLAIN | dict(model))
    torch.manual_seed(0)
    ranker = spec.build(spec.layout(schema, vocab))
    training = pr.Training(epochs=4, batch_size=64, dense=dense, schedule=pr.Cosine(), **options)
    return Trainer(
        ranker, training, Supervision.of(table),
        train=table, valid=None, seed=0,
    )  # fmt: skip


def of(kind):
    """A trunk without norms: before one, a bias's gradient is rounding, which Adam enlarges."""
    return TRUNKS[kind](norm="none")


def compared(trunk, *, tolerance=1e-5, **options):
    """Assert that the graph's steps are the eager ones."""
    found = []
    for compile in (False, True):
        each = trainer(trunk, compile=compile, **options)
        history = [progress.record() for progress in each.run()]
        found.append((each.state(), history))
    (eager, before), (graph, after) = found
    assert_close(eager, graph, tolerance)
    for first, second in zip(before, after, strict=True):
        names = [name for name in first if name.startswith("train")]
        assert [first[name] for name in names] == pytest.approx([second[name] for name in names])
    return eager


def assert_close(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            second[name], tensor, rtol=tolerance, atol=tolerance / 10, msg=lambda m, n=name: n + m
        )


# A balance of losses reads no trunk, so one trunk meets all of them; one of gradients reads the
# trunk's own, so every trunk meets it.
OF_LOSSES = [pr.Uncertainty(), pr.DWA(), pr.STCH(), pr.FAMO()]
STEPS = [
    *((kind, balance) for kind in TRUNKS for balance in (pr.Sum(), pr.PCGrad())),
    *(("mmoe", balance) for balance in OF_LOSSES),
]


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "balance"), STEPS)
def test_twenty_steps_equal_the_eager_ones(kind, balance, weighted):
    trunk = of(kind)
    if kind == "aitm":
        trunk = dataclasses.replace(trunk, chain=("click", "apply"))  # with its penalty
    # FAMO learns from how far losses fell, which is little beside what they are rounded to.
    options = {"tolerance": 1e-3} if isinstance(balance, pr.FAMO) else {}
    if isinstance(balance, pr.PCGrad):
        if kind == "home":
            pytest.skip("its gates' first gradients cancel to rounding, of which Adam makes steps")
        options = {"embeddings": pr.SGD(lr=0.05), "tolerance": 1e-4}
    compared(trunk, balance=balance, weighted=weighted, missing=weighted, **options)


@pytest.mark.usefixtures("traced")
def test_held_ancestors_are_constants_in_the_graph_too():
    held = compared(pr.Separate(), tasks=HELD)
    plain = [dataclasses.replace(task, hold_ancestors=False) for task in HELD]
    moved = compared(pr.Separate(), tasks=plain)
    name = "model.head.click.output.bias"
    assert not torch.equal(held[name], moved[name])


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kind", TRUNKS)
def test_an_interaction_and_dropped_fields_are_as_in_the_eager_step(kind):
    model = {"interaction": pr.Cross(rank=3, layers=2), "field_dropout": 0.3}
    found = []
    for compile in (False, True):
        each = trainer(of(kind), model=model, compile=compile)
        assert list(each.run())
        found.append(each.state())
    assert_close(*found)
    assert found[1]["model.interaction.layer.1.u.weight"].any()


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kind", TRUNKS)
def test_margins_of_a_first_stage_are_as_in_the_eager_step(kind):
    found = compared(of(kind), model={"wide": pr.Wide(folds=2)}, weighted=True, missing=True)
    assert found["model.head.click.output.weight"].any()
    assert found["model.first.stage.wide.effect"].any()


@pytest.mark.usefixtures("traced")
def test_decoupled_decay_is_that_of_the_eager_step():
    options = {"dense": pr.AdamW(weight_decay=0.5), "balance": pr.Uncertainty()}
    eager, graph = (
        trainer(TRUNKS["shared_bottom"](), compile=each, **options) for each in (False, True)
    )
    coupled = trainer(TRUNKS["shared_bottom"](), **options | {"dense": pr.Adam(weight_decay=0.5)})
    for each in (eager, graph, coupled):
        list(each.run())
    assert_close(eager.state(), graph.state())
    with pytest.raises(AssertionError):
        assert_close(eager.state(), coupled.state())


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_buffers_and_unused_parameters_are_as_in_the_eager_step():
    class Spare(pr.TrunkModule):
        def __init__(self, tasks):
            super().__init__()
            self.tasks = [task.name for task in tasks]
            self.spare = torch.nn.Parameter(torch.ones(3))
            self.norm = torch.nn.BatchNorm1d(5)

        def forward(self, x):
            return dict.fromkeys(self.tasks, self.norm(x))

    class Builds:
        def build(self, layout, tasks):
            return Spare(tasks)

    states = []
    for compile in (False, True):
        each = trainer(Builds(), compile=compile)
        assert list(each.run())
        states.append(each.state())
    assert_close(*states)
    assert int(states[1]["model.trunk.norm.num_batches_tracked"]) == 20
    assert not any(name.startswith("dense.0.") for name in states[1])


@pytest.mark.slow
def test_a_compiled_run_is_the_eager_one_and_resumes_to_the_same_bits(funnel, tmp_path):
    train, valid, schema = funnel
    # Without dropout of fields, whose draws are the compiler's own in a compiled graph; torch 2.9's
    # are for every dropout.
    drop = 0.0 if torch.__version__.startswith("2.9.") else 0.1
    model = pr.Model(
        trunk=pr.MMoE(experts=2, hidden=[4]), tower=[4], embed_dim=4, norm="batch", dropout=drop,
        field_dropout=0.0,
    )  # fmt: skip

    def run(model, folder, **options):
        return pr.fit(
            schema, model, train=train, valid=valid, epochs=2, batch_size=256, lr=0.01,
            out=tmp_path / folder, **options,
        )  # fmt: skip

    def interrupt(progress):
        if progress.event == "epoch":
            raise Interrupt

    eager = run(model, "eager")
    straight = run(model, "straight", compile=True)
    # Losses, not weights: a bias before batch norm has no gradient, and Adam steps on its rounding.
    for name in (name for name in eager.history.columns if name.startswith("train")):
        expected = eager.history[name].to_list()
        assert straight.history[name].to_list() == pytest.approx(expected, rel=1e-4)
    state = torch.random.get_rng_state()
    # The dropout of a resumed run, which compiles in another epoch, is the same too.
    dropout = dataclasses.replace(
        model, dropout=0.2, field_dropout=0.2, interaction=pr.Cross(rank=4)
    )
    whole = run(dropout, "whole", compile=True)
    with pytest.raises(Interrupt):
        run(dropout, "broken", compile=True, progress=interrupt)
    resumed = run(dropout, "broken", compile=True, resume=True)
    assert resumed.predict(valid).equals(whole.predict(valid))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("balance", [pr.GradNorm(), pr.MetaBalance()])
def test_a_balance_that_is_no_scalar_is_refused(balance):
    with pytest.raises(ConfigError, match=f"got {type(balance).__name__}: leave compile out"):
        trainer(pr.Separate(), balance=balance, compile=True)


def test_another_optimiser_is_refused():
    class Mine(pr.Adam):
        pass

    mine = trainer(pr.Separate())
    training = dataclasses.replace(mine.training, dense=Mine(), compile=True)
    with pytest.raises(
        ConfigError, match="needs Adam or AdamW for the dense part, got Mine: leave compile out"
    ):
        Trainer(mine.ranker, training, mine.supervision, train=mine.train, valid=None, seed=0)


def test_compile_is_true_or_false():
    with pytest.raises(ConfigError, match="compile must be true or false, got 'yes'"):
        pr.Training(compile="yes")


@pytest.mark.slow
def test_what_cannot_be_compiled_says_how_to_go_on(monkeypatch):
    def broken(_):
        raise RuntimeError("\nNo working C++ compiler found\nmore")

    monkeypatch.setattr(step, "compiled", broken)
    each = trainer(pr.Separate(), compile=True)
    before = {name: tensor.clone() for name, tensor in each.state().items()}
    with pytest.raises(TrainingError, match=r"No working C\+\+ compiler found\. .*compile = false"):
        next(each.run())
    assert_close(before, each.state(), 0.0)


def test_a_trunk_that_looks_at_values_says_how_to_go_on():
    class Looks(pr.TrunkModule):
        def forward(self, x):
            return {task.name: x if x.sum() > 0 or len(x) == 2 else -x for task in TASKS}

    class Builds:
        def build(self, layout, tasks):
            return Looks()

    with pytest.raises(TrainingError, match="do not depend on the values of x; compile = false"):
        next(trainer(Builds(), compile=True).run())
