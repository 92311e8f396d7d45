"""Optimisers against torch's own and a plain loop; schedules."""

from types import SimpleNamespace

import pytest
import torch

from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.nn.embed import PackedEmbedder
from polyrank.schema import DenseFeature, Schema, SparseFeature, Task
from polyrank.train.optim import (
    Adam,
    AdamW,
    Constant,
    Cosine,
    DenseAdam,
    LazyAdam,
    Linear,
    Plateau,
    parameter_groups,
)

SCHEMA = Schema(
    [SparseFeature("a"), SparseFeature("b"), DenseFeature("x", encoding="standard")],
    [Task("click")],
)
LAYOUT = Layout(SCHEMA, SimpleNamespace(rows={"a": 6, "b": 4}, columns={"x": 1}), {"a": 2, "b": 2})


def embedder():
    torch.manual_seed(0)
    return PackedEmbedder(LAYOUT)


def batches(steps=6, size=5):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        a = torch.randint(5, (size,), generator=generator)  # row 5 of a is never touched
        b = torch.randint(6, 10, (size,), generator=generator)
        yield torch.stack([a, b]).int(), torch.randn(size, LAYOUT.width, generator=generator)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_dense_adam_is_torchs(l2):
    embed, reference = embedder(), embedder()
    engine = DenseAdam().build(embed, l2)
    adam = torch.optim.Adam(reference.parameters(), lr=0.01, weight_decay=l2)
    for ids, gradient in batches():
        engine.step(ids, gradient, 0.01)
        adam.zero_grad()
        (reference(ids, torch.zeros(len(gradient), 1)) * gradient).sum().backward()
        adam.step()
    torch.testing.assert_close(embed.pack[0], reference.pack[0])


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_lazy_adam_is_adam_on_touched_rows(l2):
    embed = embedder()
    engine = LazyAdam(betas=(0.8, 0.9), prior=0.0, decay=0.0).build(embed, l2)
    weight = embed.pack[0].detach().clone().double()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, (ids, gradient) in enumerate(batches(), start=1):
        engine.step(ids, gradient, 0.01)
        summed = torch.zeros_like(weight)
        for field in range(2):
            for row, line in zip(ids[field].tolist(), gradient, strict=True):
                summed[row] += line[2 * field : 2 * field + 2].double()
        for row in set(ids.flatten().tolist()):
            g = summed[row] + l2 * weight[row]
            first[row] = 0.8 * first[row] + 0.2 * g
            second[row] = 0.9 * second[row] + 0.1 * g * g
            m, v = first[row] / (1 - 0.8**step), second[row] / (1 - 0.9**step)
            weight[row] -= 0.01 * m / (v.sqrt() + 1e-8)
    torch.testing.assert_close(embed.pack[0].double(), weight, rtol=1e-5, atol=1e-6)


def test_an_untouched_row_stays():
    embed = embedder()
    before = embed.pack[0][5].clone()
    engine = LazyAdam(prior=0.0, decay=0.0).build(embed, 0.5)
    for ids, gradient in batches():
        engine.step(ids, gradient, 0.01)
    assert torch.equal(embed.pack[0][5], before)


@pytest.mark.parametrize("spec", [LazyAdam(prior=0.0, decay=0.0), DenseAdam()])
def test_engines_go_on_from_their_state(spec):
    straight, broken = embedder(), embedder()
    one, two = spec.build(straight, 0.01), spec.build(broken, 0.01)
    for step, (ids, gradient) in enumerate(batches()):
        if step == 3:
            state = {name: tensor.clone() for name, tensor in two.state().items()}
            two = spec.build(broken, 0.01)
            two.load(state)
        one.step(ids, gradient, 0.01)
        two.step(ids, gradient, 0.01)
    assert torch.equal(straight.pack[0], broken.pack[0])


def test_a_model_without_ids_needs_no_embedding_step():
    schema = Schema([DenseFeature("x", encoding="standard")], [Task("click")])
    embed = PackedEmbedder(Layout(schema, SimpleNamespace(rows={}, columns={"x": 1}), {}))
    for spec in (LazyAdam(prior=0.0, decay=0.0), DenseAdam()):
        engine = spec.build(embed, 0.0)
        engine.step(torch.zeros(0, 3, dtype=torch.int32), torch.zeros(3, 1), 0.1)
        engine.load(engine.state())


def test_the_balance_is_not_decayed():
    dense, balance = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = Adam().build(parameter_groups([dense], [balance], 0.1), lr=0.01)
    dense.grad, balance.grad = torch.zeros(1), torch.zeros(1)
    optimizer.step()
    assert dense.item() < 1
    assert balance.item() == 1


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_adamw_is_its_formula(weight_decay):
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    groups = parameter_groups([weight], [], weight_decay)
    optimizer = AdamW(weight_decay=weight_decay, betas=(0.8, 0.9)).build(groups, lr=0.01)
    expected = weight.detach().double()
    first = second = torch.zeros(2, dtype=torch.double)
    for step in range(1, 21):
        g = torch.tensor([0.3 * step, -1.0 / step])
        weight.grad = g.clone()
        optimizer.step()
        expected = expected * (1 - 0.01 * weight_decay)
        first, second = 0.8 * first + 0.2 * g, 0.9 * second + 0.1 * g * g
        m, v = first / (1 - 0.8**step), second / (1 - 0.9**step)
        expected = expected - 0.01 * m / (v.sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LazyAdam(lr=-1), "LazyAdam: lr must be a number above 0, got -1"),
        (lambda: Adam(lr=0), "Adam: lr must be a number above 0"),
        (lambda: DenseAdam(l2=-0.1), "DenseAdam: l2 must be a number of at least 0"),
        (lambda: Adam(weight_decay=-0.1), "Adam: weight_decay must be a number of at least 0"),
        (lambda: LazyAdam(betas=(1.0, 0.9)), "LazyAdam: betas must be two numbers in .0, 1."),
        (lambda: LazyAdam(prior=-1), "LazyAdam: prior must be a number of at least 0, got -1"),
        (lambda: LazyAdam(decay="1"), "LazyAdam: decay must be a number of at least 0, got '1'"),
        (lambda: AdamW(weight_decay=-1), "AdamW: weight_decay must be a number of at least 0"),
        (lambda: Plateau(patience=0), "Plateau: patience must be a whole number of at least 1"),
        (lambda: Linear(warmup=-1), "Linear: warmup must be a number of at least 0 and at most 1"),
        (lambda: Adam(eps=-1), "Adam: eps must be a number of at least 0"),
        (
            lambda: Cosine(warmup=3),
            "Cosine: warmup must be a number of at least 0 and at most 1, got 3",
        ),
    ],
)
def test_values_with_which_nothing_is_learned_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_schedules():
    assert [Constant().factor(step, 10) for step in (0, 5, 10)] == [1, 1, 1]
    factors = [Cosine(warmup=0.5).factor(step, 8) for step in range(9)]
    assert factors[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factors[4] == 1
    assert factors[8] == pytest.approx(0, abs=1e-12)
    assert factors[4:] == sorted(factors[4:], reverse=True)
    factors = [Linear(warmup=0.5).factor(step, 8) for step in range(9)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 0.75, 0.5, 0.25, 0])
    assert [Linear().factor(step, 4) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert [Linear(warmup=1.0).factor(step, 3) for step in range(3)] == [0.25, 0.5, 0.75]


def test_a_plateau_counts_anew_after_each_fall():
    epochs = [True, False, False, False, True, False, False, True]
    one, two = Plateau(shrink=0.5), Plateau(shrink=0.5, patience=2)
    falls = [[0, 0, 1, 2, 3, 3, 4, 5, 5], [0, 0, 0, 1, 1, 1, 1, 2, 2]]
    for schedule, expected in zip((one, two), falls, strict=True):
        found = [schedule.factor(7, 9, epochs[:done]) for done in range(9)]
        assert found == [0.5**count for count in expected]
