"""Balances of gradients: closed forms, batches without rows, and state that comes back."""

import math

import numpy as np
import pytest
import torch

import polyrank as pr
from polyrank.balance import BalanceTerm, GradNorm, MetaBalance
from polyrank.errors import ConfigError

NAMES = ["click @ all", "buy @ all", "spend|buy @ buy"]


def terms(weights=(1.0, 1.0, 1.0)):
    return [BalanceTerm(name, w, 1.0, 1.0) for name, w in zip(NAMES, weights, strict=True)]


class Problem:
    """loss_i = scale_i · (a·x + b·s)_i + own_i · scale_i: linear, so that gradients are known.

    x and s are shared; own_i is task i's.
    """

    def __init__(self, scales=(1.0, 2.0, 4.0)):
        self.x = torch.tensor([[1.0, 2.0]], requires_grad=True)
        self.s = torch.tensor([0.5], requires_grad=True)
        self.own = [torch.tensor(1.0, requires_grad=True) for _ in scales]
        self.scales = scales
        self.a = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])]
        self.b = [12.0, 1.0, 0.0]

    @property
    def shared(self):
        return [self.x, self.s]

    def losses(self):
        return {
            name: scale * ((self.x[0] * a).sum() + b * self.s[0] + own)
            for name, scale, a, b, own in zip(
                NAMES, self.scales, self.a, self.b, self.own, strict=True
            )
        }

    def gradients(self):
        """Return (of x, of s, of own) for each term."""
        return [
            (scale * a.numpy(), scale * b, scale)
            for scale, a, b in zip(self.scales, self.a, self.b, strict=True)
        ]

    def values(self):
        return np.array([loss.item() for loss in self.losses().values()])


def expected_weights(w, losses, first, norms, alpha, lr):
    """Equations 1-2 and algorithm 1, with the gradient of w divided by the mean norm."""
    own = w * norms
    mean = own.mean()
    ratio = losses / first
    rate = ratio / ratio.mean()
    gradient = np.sign(own - mean * rate**alpha) * norms / mean
    moved = w - lr * gradient
    return moved * len(w) / moved.sum()


def test_gradnorm_is_its_equations_over_several_steps():
    balance = GradNorm(alpha=1.5, lr=0.02).build(terms())
    w, first = np.ones(3), None
    for scales in [(1.0, 2.0, 4.0), (0.9, 0.5, 4.0), (0.3, 1.9, 3.0)]:
        problem = Problem(scales)
        losses = problem.values()
        first = losses if first is None else first
        total = balance.backward(problem.losses(), problem.shared)
        assert total.item() == pytest.approx((w * losses).sum(), rel=1e-5)
        found = problem.gradients()
        for i, own in enumerate(problem.own):
            assert own.grad.item() == pytest.approx(w[i] * found[i][2], rel=1e-5)
        np.testing.assert_allclose(
            problem.x.grad[0].numpy(), sum(w[i] * found[i][0] for i in range(3)), rtol=1e-5
        )
        assert problem.s.grad.item() == pytest.approx(
            sum(w[i] * found[i][1] for i in range(3)), rel=1e-5
        )
        norms = np.array([math.sqrt((x**2).sum() + s**2) for x, s, _ in found])
        w = expected_weights(w, losses, first, norms, 1.5, 0.02)
        np.testing.assert_allclose(balance.weight.numpy(), w, rtol=1e-5)
        assert balance.weight.sum().item() == pytest.approx(3, rel=1e-6)
    np.testing.assert_allclose(balance.first_loss.numpy(), first, rtol=1e-6)


def test_gradnorm_evens_out_the_gradients():
    balance = GradNorm(alpha=0.0, lr=0.01).build(terms())
    for _ in range(2000):
        problem = Problem()
        balance.backward(problem.losses(), problem.shared)
    norms = np.array([math.sqrt((x**2).sum() + s**2) for x, s, _ in problem.gradients()])
    own = balance.weight.numpy() * norms
    assert own.max() / own.min() < 1.3  # a fixed step circles around 1


def test_gradnorm_does_not_depend_on_the_losses_unit():
    weights = []
    for unit in (1.0, 1024.0):
        balance = GradNorm().build(terms())
        for scales in ((1.0, 2.0, 4.0), (2.0, 1.0, 3.0)):
            problem = Problem(tuple(unit * scale for scale in scales))
            balance.backward(problem.losses(), problem.shared)
        weights.append(balance.weight)
    torch.testing.assert_close(*weights)


def test_gradnorm_waits_for_a_term_without_rows():
    """Scale 0 is what a batch without rows gives: loss 0, gradient 0."""
    balance = GradNorm(alpha=1.0, lr=0.02).build(terms())
    problem = Problem((1.0, 2.0, 0.0))
    balance.backward(problem.losses(), problem.shared)
    assert balance.first_loss[2] == 0
    assert balance.weight[2] == 1
    first = problem.values()[:2]
    norms = np.array([math.sqrt((x**2).sum() + s**2) for x, s, _ in problem.gradients()[:2]])
    expected = expected_weights(np.ones(2), first, first, norms, 1.0, 0.02)
    np.testing.assert_allclose(balance.weight[:2].numpy(), expected, rtol=1e-5)
    problem = Problem()
    balance.backward(problem.losses(), problem.shared)
    assert balance.first_loss[2].item() == pytest.approx(problem.values()[2])
    assert balance.weight.sum().item() == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("balance", ["gradnorm", "metabalance"])
def test_a_batch_without_any_rows_changes_nothing(balance, alpha):
    module = (GradNorm(alpha=alpha) if balance == "gradnorm" else MetaBalance()).build(terms())
    for scales in ((0.0, 0.0, 0.0), (1.0, 2.0, 4.0), (0.0, 0.0, 0.0)):
        problem = Problem(scales)
        total = module.backward(problem.losses(), problem.shared)
        assert torch.isfinite(total)
        assert all(torch.isfinite(each.grad).all() for each in problem.shared)
        assert all(torch.isfinite(each).all() for each in module.state_dict().values())
    assert problem.x.grad.abs().sum() == 0


def test_gradnorm_keeps_weights_above_zero():
    balance = GradNorm(lr=10.0).build(terms())
    for _ in range(5):
        problem = Problem((100.0, 1e-3, 1e-3))
        balance.backward(problem.losses(), problem.shared)
        assert (balance.weight > 0).all()
        assert balance.weight.sum().item() == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize("target", [None, "buy @ all"])
def test_metabalance_is_its_formula_over_several_steps(target):
    relax, beta, importance = 0.7, 0.9, (1.0, 2.0, 0.5)
    balance = MetaBalance(target=target, relax=relax, beta=beta).build(terms(importance))
    chief = NAMES.index(target) if target else 0
    m = np.zeros((3, 2))
    for scales in [(1.0, 2.0, 4.0), (0.5, 3.0, 1.0), (2.0, 0.1, 1.0)]:
        problem = Problem(scales)
        found = problem.gradients()
        total = balance.backward(problem.losses(), problem.shared)
        assert total.item() == pytest.approx((problem.values() * importance).sum(), rel=1e-5)
        for i, own in enumerate(problem.own):  # a task's own: the plain weighted gradient
            assert own.grad.item() == pytest.approx(importance[i] * found[i][2], rel=1e-5)
        norms = np.array([[np.linalg.norm(x), abs(s)] for x, s, _ in found])
        m = beta * m + (1 - beta) * norms
        ratio = np.where(m > 0, m[chief] / np.where(m > 0, m, 1), 1)
        factor = np.array(importance)[:, None] * (relax * ratio + 1 - relax)
        np.testing.assert_allclose(
            problem.x.grad[0].numpy(), sum(factor[i, 0] * found[i][0] for i in range(3)), rtol=1e-5
        )
        assert problem.s.grad.item() == pytest.approx(
            sum(factor[i, 1] * found[i][1] for i in range(3)), rel=1e-5
        )


def test_metabalance_leaves_the_gradients_where_the_target_has_none():
    problem = Problem((1.0, 1.0, 0.0))  # the target's batch is empty, and so is its past
    MetaBalance(target=NAMES[2], relax=1.0).build(terms()).backward(
        problem.losses(), problem.shared
    )
    assert problem.x.grad[0].tolist() == [3.0, 5.0]


def test_metabalance_at_zero_is_the_weighted_sum():
    problem, plain = Problem(), Problem()
    MetaBalance(relax=0.0).build(terms((1.0, 2.0, 3.0))).backward(problem.losses(), problem.shared)
    pr.Sum().build(terms((1.0, 2.0, 3.0))).backward(plain.losses(), plain.shared)
    for found, expected in zip(problem.shared, plain.shared, strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("spec", [GradNorm(alpha=1.0), MetaBalance()])
def test_a_tensor_that_a_loss_does_not_reach_is_no_obstacle(spec):
    problem = Problem()
    unused = torch.ones(2, requires_grad=True)
    spec.build(terms()).backward(problem.losses(), [*problem.shared, unused])
    assert unused.grad is None or not unused.grad.any()
    assert problem.x.grad is not None


@pytest.mark.parametrize("spec", [GradNorm(alpha=1.0), MetaBalance()])
def test_state_comes_back(spec):
    """A fresh module with the saved state takes the step that the old one would have taken."""
    one, two = spec.build(terms()), spec.build(terms())
    problem = Problem()
    one.backward(problem.losses(), problem.shared)
    two.load_state_dict(one.state_dict())
    assert list(two.parameters()) == []  # nothing that an optimiser would step
    results = []
    for module in (one, two):
        problem = Problem((0.5, 3.0, 1.0))
        module.backward(problem.losses(), problem.shared)
        results.append([problem.x.grad, problem.s.grad, *module.state_dict().values()])
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("balance", [GradNorm(), MetaBalance()])
@pytest.mark.parametrize("trunk", [pr.Separate(), pr.MMoE(hidden=[4])])
def test_a_resumed_run_takes_the_same_steps(balance, trunk, tmp_path):
    generator = np.random.default_rng(0)
    click = generator.integers(0, 2, 300)
    rows = {"item": generator.integers(0, 9, 300), "click": click}
    rows["buy"] = click * generator.integers(0, 2, 300)
    schema = pr.Schema(
        [pr.SparseFeature("item")], [pr.Task("click"), pr.Task("buy", given="click")]
    )
    model = pr.Model(trunk=trunk, tower=[4], embed_dim=4)
    options = {"train": rows, "epochs": 3, "batch_size": 64, "balance": balance}
    straight = pr.fit(schema, model, **options)

    class Interrupted(Exception):
        pass

    def interrupt(progress):
        if progress.event == "epoch" and progress.epoch == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        pr.fit(schema, model, out=tmp_path / "run", progress=interrupt, **options)
    resumed = pr.fit(schema, model, out=tmp_path / "run", resume=True, **options)
    assert resumed.predict(rows).equals(straight.predict(rows))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradNorm(alpha=-1.0), "GradNorm: alpha must be a number of at least 0, got -1.0"),
        (lambda: GradNorm(lr=math.inf), "GradNorm: lr must be a number of at least 0, got inf"),
        (
            lambda: MetaBalance(relax=1.1),
            "relax must be a number .* at most 1, got 1.1",
        ),
        (lambda: MetaBalance(beta=1.0), "beta must be a number of at least 0 and below 1, got 1.0"),
        (
            lambda: MetaBalance(target="buy @ al").build(terms()),
            "MetaBalance: unknown target 'buy @ al'; did you mean 'buy @ all'",
        ),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
