"""Balances by inner products of gradients: each against its paper, float64, and torchjd's code."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import polyrank as pr
from polyrank.balance import BalanceTerm
from polyrank.balance.gradients import joined_gram
from polyrank.balance.pcgrad import pcgrad
from polyrank.errors import ConfigError

SIZES = [2, 3, 4, 5, 6, 7, 8]


def gram_of(terms, seed, spread=1.0, columns=40):
    """Inner products of random gradients that have something in common, of very unlike norms."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(terms, columns)) + random.normal() * random.normal(size=columns)
    rows *= np.exp(spread * random.normal(size=(terms, 1)))
    return rows @ rows.T


def terms_of(count, weights=None):
    weights = weights or [1.0] * count
    return [BalanceTerm(f"t{i} @ all", weights[i], 0.5 + i, 1.0, 0.9**i) for i in range(count)]


class Linear:
    """loss_i = a_i · x + b_i · s + own_i: x and the shared s have known gradients."""

    def __init__(self, terms, seed, empty=()):
        random = np.random.default_rng(seed)
        self.a = random.normal(size=(terms, 6))
        self.b = random.normal(size=(terms, 3))
        for i in empty:
            self.a[i], self.b[i] = 0, 0
        self.x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        self.s = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        self.own = torch.zeros(terms, dtype=torch.float64, requires_grad=True)
        self.names = [each.name for each in terms_of(terms)]

    def losses(self):
        of_x = torch.from_numpy(self.a) @ self.x.view(-1)
        total = of_x + torch.from_numpy(self.b) @ self.s + self.own + 1.0
        return dict(zip(self.names, total.unbind(), strict=True))

    @property
    def gram(self):
        return self.a @ self.a.T + self.b @ self.b.T


def torchjd_of(name):
    return getattr(pytest.importorskip("torchjd.aggregation"), name)


# -- the step ----------------------------------------------------------------------------------


def stepped(spec, problem, terms=None):
    module = spec.build(terms or terms_of(len(problem.names))).double()
    total = module.backward(problem.losses(), [problem.x, problem.s])
    return module, total


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shared_gradients_are_weighed_and_others_are_the_sums(count):
    """The weights that the Gram matrix at x and s gives, applied to both."""
    weights = [1.0, 2.0, 0.5, 1.5, 3.0][:count]
    terms = terms_of(count, weights)
    for seed in range(5):
        problem = Linear(count, seed)
        module, total = stepped(pr.PCGrad(normalize=True), problem, terms)
        factor = np.array([each.weight / each.constant_loss for each in terms])
        module.steps.zero_()
        chosen = module.weights(problem.gram, np.arange(count), np.zeros(count))
        np.testing.assert_allclose(problem.x.grad.view(-1).numpy(), chosen @ problem.a, rtol=1e-12)
        np.testing.assert_allclose(problem.s.grad.numpy(), chosen @ problem.b, rtol=1e-12)
        np.testing.assert_allclose(problem.own.grad.numpy(), factor, rtol=1e-12)
        assert total.item() == pytest.approx(factor.sum())


def test_a_term_without_rows_leaves_the_matrix():
    """The other terms take the step that they would take without it."""
    whole, part = Linear(3, 4, empty=[1]), Linear(3, 4)
    stepped(pr.PCGrad(), whole)
    terms = [terms_of(3)[0], terms_of(3)[2]]
    module = pr.PCGrad().build(terms).double()
    losses = {name: each for name, each in part.losses().items() if name != "t1 @ all"}
    module.backward(losses, [part.x, part.s])
    torch.testing.assert_close(whole.x.grad, part.x.grad)
    torch.testing.assert_close(whole.s.grad, part.s.grad)


def test_a_batch_without_any_rows_steps_nothing():
    problem = Linear(2, 0, empty=[0, 1])
    stepped(pr.PCGrad(), problem)
    assert not problem.x.grad.any()
    assert not problem.s.grad.any()


def test_a_loss_that_is_not_finite_reaches_the_gradients():
    """The loop then says which; no balance hides it or hangs."""
    problem = Linear(2, 0)
    problem.a[0, 0] = np.nan
    stepped(pr.PCGrad(), problem)
    assert problem.x.grad.isnan().any()


def test_processes_have_the_gram_matrix_of_the_joined_batch():
    """Rows of x are each process's own; parameters' gradients add up first."""

    class Two:
        several = True

        def __init__(self, others):
            self.others = others

        def total(self, tensors):
            for each, other in zip(tensors, self.others, strict=True):
                each.add_(other)

    generator = torch.Generator().manual_seed(0)
    of_x, of_rest = (torch.randn(2, 3, n, generator=generator).double() for n in (8, 5))
    found = joined_gram(of_x[0], of_rest[0], Two([of_x[1] @ of_x[1].T, of_rest[1]]))
    expected = joined_gram(torch.cat([*of_x], dim=1), of_rest.sum(0))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# -- PCGrad ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", SIZES)
def test_pcgrad_is_torchjds(count, monkeypatch):
    weighting = torchjd_of("PCGradWeighting")()
    for seed in range(20):
        gram = gram_of(count, seed)
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(count), (count, 1)), axis=1)
        left = iter(orders)
        monkeypatch.setattr(torch, "randperm", lambda _, left=left: torch.from_numpy(next(left)))
        expected = weighting(torch.from_numpy(gram)).numpy()
        np.testing.assert_allclose(pcgrad(gram, orders), expected, rtol=1e-10)


@pytest.mark.parametrize("count", SIZES)
def test_pcgrad_projects_vectors(count):
    """Algorithm 1, on the gradients themselves."""
    random = np.random.default_rng(count)
    for _ in range(20):
        rows = random.normal(size=(count, 5)) * np.exp(random.normal(size=(count, 1)))
        orders = random.permuted(np.tile(np.arange(count), (count, 1)), axis=1)
        total = 0
        for i, order in enumerate(orders):
            own = rows[i].copy()
            for j in order:
                if j != i and own @ rows[j] < 0:
                    own -= (own @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
            total = total + own
        found = pcgrad(rows @ rows.T, orders) @ rows
        np.testing.assert_allclose(found, total, rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_pcgrad_of_two_is_its_closed_form(seed):
    gram = gram_of(2, seed, columns=2)
    inner = min(gram[0, 1], 0)
    expected = [1 - inner / gram[0, 0], 1 - inner / gram[1, 1]]
    np.testing.assert_allclose(pcgrad(gram, np.array([[0, 1], [0, 1]])), expected, rtol=1e-12)


def test_pcgrad_without_conflict_is_the_sum():
    problem, plain = Linear(3, 0), Linear(3, 0)
    for each in (problem, plain):
        each.a, each.b = np.abs(each.a), np.abs(each.b)
    stepped(pr.PCGrad(), problem)
    pr.Sum().build(terms_of(3)).backward(plain.losses(), [])
    torch.testing.assert_close(problem.x.grad, plain.x.grad)
    torch.testing.assert_close(problem.own.grad, plain.own.grad)


def test_pcgrads_order_is_drawn_from_the_seed_and_comes_back():
    def run(module, steps):
        found = []
        for _ in range(steps):
            problem = Linear(6, 3)
            module.backward(problem.losses(), [problem.x, problem.s])
            found.append(problem.x.grad)
        return found

    one = pr.PCGrad().build(terms_of(6)).double()
    first = run(one, 4)
    two = pr.PCGrad().build(terms_of(6)).double()
    assert all(map(torch.equal, first, run(two, 4)))
    again = pr.PCGrad().build(terms_of(6)).double()
    again.load_state_dict(one.state_dict())
    assert all(map(torch.equal, run(one, 3), run(again, 3)))
    other = pr.PCGrad().build(terms_of(6)).double()
    other.seed = 1
    assert not all(map(torch.equal, first, run(other, 4)))


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pr.PCGrad().build(terms_of(1)),
            "PCGrad needs two terms or more to balance, got 't0 @ all': use sum, or add a task",
        ),
        (
            lambda: pr.PCGrad(normalize="row"),
            "PCGrad: normalize must be true, false or \"rows\", got 'row'",
        ),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
