"""Balances by inner products of gradients: each against its paper, float64, and torchjd's code."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import polyrank as pr
from polyrank.balance import BALANCES, BalanceTerm
from polyrank.balance.aligned import aligned
from polyrank.balance.cagrad import cagrad, worst
from polyrank.balance.gradients import GradientBalance, Present, cosines, joined_gram, term_gram
from polyrank.balance.imtl_g import imtl_g
from polyrank.balance.mgda import mgda
from polyrank.balance.nash import nash
from polyrank.balance.pcgrad import pcgrad
from polyrank.balance.quadratic import least
from polyrank.balance.upgrad import upgrad
from polyrank.errors import ConfigError
from polyrank.ranks import Ranks

SIZES = [2, 3, 4, 5, 6, 7, 8]
EPS = np.finfo(float).eps
METHODS = {
    name: kind
    for name, kind in BALANCES.items()
    if isinstance(kind().build([BalanceTerm(t, 1.0, 1.0, 1.0) for t in "ab"]), GradientBalance)
}
methods = pytest.mark.parametrize("method", METHODS)


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
        chosen = module.weights(Present(problem.gram, factor, np.zeros(count), 1e-16))
        np.testing.assert_allclose(problem.x.grad.view(-1).numpy(), chosen @ problem.a, rtol=1e-12)
        np.testing.assert_allclose(problem.s.grad.numpy(), chosen @ problem.b, rtol=1e-12)
        np.testing.assert_allclose(problem.own.grad.numpy(), factor, rtol=1e-12)
        assert total.item() == pytest.approx(factor.sum())


@methods
def test_a_term_without_rows_leaves_the_matrix(method):
    """The other terms take the step that they would take without it."""
    whole, part = Linear(3, 4, empty=[1]), Linear(3, 4)
    stepped(METHODS[method](), whole)
    terms = [terms_of(3)[0], terms_of(3)[2]]
    module = METHODS[method]().build(terms).double()
    losses = {name: each for name, each in part.losses().items() if name != "t1 @ all"}
    module.backward(losses, [part.x, part.s])
    torch.testing.assert_close(whole.x.grad, part.x.grad)
    torch.testing.assert_close(whole.s.grad, part.s.grad)


@methods
def test_a_batch_without_any_rows_steps_nothing(method):
    problem = Linear(2, 0, empty=[0, 1])
    stepped(METHODS[method](), problem)
    assert not problem.x.grad.any()
    assert not problem.s.grad.any()


@methods
def test_a_loss_that_is_not_finite_reaches_the_gradients(method):
    """The loop then says which; no balance hides it or hangs."""
    problem = Linear(2, 0)
    problem.a[0, 0] = np.nan
    stepped(METHODS[method](), problem)
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


def test_cosines_are_those_of_the_gradients():
    problem = Linear(3, 7, empty=[1])
    losses = list(problem.losses().values())
    gram = term_gram(losses, [problem.x, problem.s], Ranks())
    assert problem.x.grad is None
    np.testing.assert_allclose(gram, problem.gram, rtol=1e-12)
    joined = np.hstack([problem.a, problem.b])
    expected = joined[0] @ joined[2] / np.linalg.norm(joined[0]) / np.linalg.norm(joined[2])
    assert cosines(gram, problem.names) == {"t0 @ all · t2 @ all": pytest.approx(expected)}


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


@methods
@pytest.mark.parametrize("cosine", [1.0, 1 - 1e-9, 0.0, -1 + 1e-9, -1.0])
@pytest.mark.parametrize("ratio", [1.0, 1e4])
def test_gradients_that_agree_cancel_or_differ_in_size_give_a_finite_step(method, cosine, ratio):
    problem = Linear(3, 0)
    problem.b[:] = 0
    problem.a[0, :], problem.a[1, :] = np.eye(6)[:2]
    problem.a[1] = ratio * (cosine * problem.a[0] + np.sqrt(1 - cosine**2) * problem.a[1])
    problem.a[2] = problem.a[0]
    stepped(METHODS[method](), problem)
    assert problem.x.grad.isfinite().all()


@pytest.mark.parametrize("method", ["mgda", "nash", "imtl_g"])
def test_the_scale_of_a_loss_changes_only_how_long_the_step_is(method):
    """Not plain MGDA, which goes by it, but with the gradients' norms taken out."""
    spec = METHODS[method](**({"scale": "norm"} if method == "mgda" else {}))
    found = []
    for scale in (1.0, 50.0):
        problem = Linear(3, 1)
        problem.a[1] *= scale
        problem.b[1] *= scale
        stepped(spec, problem)
        found.append(problem.x.grad / problem.x.grad.norm())
    torch.testing.assert_close(*found)


@methods
def test_a_fresh_module_with_the_saved_state_goes_on(method):
    one, two = (METHODS[method]().build(terms_of(4)).double() for _ in range(2))
    first = Linear(4, 0)
    one.backward(first.losses(), [first.x, first.s])
    two.load_state_dict(one.state_dict())
    assert list(two.parameters()) == []  # nothing that an optimiser would step
    found = []
    for module in (one, two):
        problem = Linear(4, 1)
        module.backward(problem.losses(), [problem.x, problem.s])
        found.append(problem.x.grad)
    assert torch.equal(*found)


@methods
def test_a_single_term_is_refused(method):
    name = METHODS[method].__name__
    message = f"{name} needs two terms or more to balance, got 't0 @ all': use sum, or add a task"
    with pytest.raises(ConfigError, match=message):
        METHODS[method]().build(terms_of(1))


# -- the small quadratic program ---------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 1.0, 3.0]))
def test_the_quadratic_program_meets_its_conditions(count, seed, whole, spread):
    """w ≥ 0 with a slope that is the same where w > 0, and no less elsewhere."""
    gram = gram_of(count, seed, spread, columns=count + 2)
    linear = np.random.default_rng(seed + 1).normal(size=count) * np.sqrt(np.diag(gram))
    weights = least(gram, linear, total=1.0 if whole else None)
    slope = (gram @ weights + linear) / np.sqrt(np.diag(gram))
    assert (weights >= 0).all()
    level = 0.0
    if whole:
        assert weights.sum() == pytest.approx(1.0, rel=1e-9)
        level = (gram @ weights + linear) @ weights
    excess = slope - level / np.sqrt(np.diag(gram))
    scale = np.abs(linear).max() + np.abs(gram @ weights / np.sqrt(np.diag(gram))).max()
    scale = max(scale, np.abs(level) / np.sqrt(np.diag(gram)).min())
    assert (excess > -1e-8 * scale).all()
    assert (np.abs(excess[weights > 0]) < 1e-8 * scale).all()


# -- MGDA --------------------------------------------------------------------------------------


def test_mgda_of_two_is_torchjds():
    weighting = torchjd_of("MGDAWeighting")()
    for seed in range(100):
        gram = gram_of(2, seed)
        expected = weighting(torch.from_numpy(gram)).numpy()
        np.testing.assert_allclose(mgda(gram), expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            least(gram, np.zeros(2), total=1.0), expected, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("count", SIZES)
def test_mgda_descends_for_every_term_as_far_as_for_the_mean(count):
    """g_i · d ≥ ‖d‖² with equality where w_i > 0: what makes d the shortest."""
    for seed in range(50):
        gram = gram_of(count, seed)
        weights = mgda(gram)
        inner, square = gram @ weights, weights @ gram @ weights
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
        assert (inner >= square * (1 - 1e-9)).all()
        np.testing.assert_allclose(inner[weights > 1e-12], square, rtol=1e-9)


def test_mgdas_scale_is_taken_out_and_named():
    """min over w of ‖Σ w_i g_i / s_i‖; the step is along it."""
    problem = Linear(2, 2)
    norms, losses = np.sqrt(np.diag(problem.gram)), np.ones(2)
    scales = {"none": 1, "norm": norms, "loss": losses, "loss_norm": norms * losses}
    for name, scale in scales.items():
        problem = Linear(2, 2)
        stepped(pr.MGDA(scale=name), problem)
        over = 1 / (np.ones(2) * scale)
        weights = mgda(problem.gram * np.outer(over, over)) * over
        expected = weights * 2 / weights.sum() @ problem.a
        np.testing.assert_allclose(problem.x.grad.view(-1).numpy(), expected, rtol=1e-10)


# -- UPGrad ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", SIZES)
def test_upgrad_is_torchjds(count):
    pytest.importorskip("qpsolvers")
    from torchjd.linalg import QuadprogProjector

    projector = QuadprogProjector(norm_eps=0.0, reg_eps=0.0)
    weighting = torchjd_of("UPGradWeighting")(projector=projector)
    for seed in range(30):
        gram = gram_of(count, seed)
        expected = count * weighting(torch.from_numpy(gram)).numpy()  # it takes the mean
        np.testing.assert_allclose(upgrad(gram), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", SIZES)
def test_upgrad_conflicts_with_no_term(count):
    for seed in range(30):
        gram = gram_of(count, seed)
        size = np.sqrt(np.diag(gram))
        assert (gram @ upgrad(gram) / size >= -1e-10 * size.max()).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_upgrad_of_two_is_pcgrad(seed):
    gram = gram_of(2, seed, columns=2)
    expected = pcgrad(gram, np.array([[0, 1], [0, 1]]))
    np.testing.assert_allclose(upgrad(gram), expected, rtol=1e-10)


# -- IMTL-G ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", SIZES)
def test_imtl_g_is_torchjds_but_for_the_length(count):
    weighting = torchjd_of("IMTLGWeighting")()
    for seed in range(30):
        gram = gram_of(count, seed, spread=0.5)
        expected = weighting(torch.from_numpy(gram)).numpy()
        found = imtl_g(gram, EPS)
        np.testing.assert_allclose(found / found.sum(), expected, rtol=1e-10)


@pytest.mark.parametrize("count", SIZES)
def test_imtl_g_projects_alike_on_every_gradient(count):
    for seed in range(30):
        gram = gram_of(count, seed)
        np.testing.assert_allclose(
            gram @ imtl_g(gram, EPS) / np.sqrt(np.diag(gram)), 1.0, rtol=1e-9
        )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_imtl_g_of_two_is_its_closed_form(seed):
    gram = gram_of(2, seed)
    norms = np.sqrt(np.diag(gram))
    found = imtl_g(gram, EPS)
    np.testing.assert_allclose(found / found.sum(), norms[::-1] / norms.sum(), rtol=1e-10)


# -- Nash --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", SIZES)
def test_nash_is_its_fixed_point(count):
    for seed in range(100):
        gram = gram_of(count, seed, spread=2.0)
        shares = np.random.default_rng(seed).uniform(0.1, 5.0, count)
        weights = nash(gram, shares)
        assert (weights > 0).all()
        np.testing.assert_allclose(weights * (gram @ weights), shares, rtol=1e-10)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_nash_of_two_is_its_closed_form(seed):
    gram = gram_of(2, seed)
    norms = np.sqrt(np.diag(gram))
    cosine = gram[0, 1] / norms.prod()
    expected = 1 / (norms * np.sqrt(1 + cosine))
    np.testing.assert_allclose(nash(gram, np.ones(2)), expected, rtol=1e-10)


# -- Aligned -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["min", "median", "mean"])
@pytest.mark.parametrize("count", SIZES)
def test_aligned_is_torchjds(count, scale):
    theirs = "rmse" if scale == "mean" else scale
    for seed in range(20):
        gram = gram_of(count, seed, spread=0.5)
        shares = np.random.default_rng(seed).uniform(0.5, 2.0, count)
        weighting = torchjd_of("AlignedMTLWeighting")(torch.from_numpy(shares), theirs)
        expected = weighting(torch.from_numpy(gram)).numpy()
        found = aligned(gram, shares, scale, EPS)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", SIZES)
def test_aligned_gradients_are_orthogonal_and_of_one_length(count):
    gram = gram_of(count, 0)
    each = np.stack([aligned(gram, row, "min", EPS) for row in np.eye(count)])
    expected = np.linalg.eigvalsh(gram)[0] * np.eye(count)
    np.testing.assert_allclose(each @ gram @ each.T, expected, atol=1e-9 * expected.max())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_aligned_of_two_is_its_closed_form(seed):
    """G^(−1/2) = (adj G + √det · I) / (√det · √(tr + 2 √det))."""
    gram = gram_of(2, seed, spread=0.5)
    root = np.sqrt(np.linalg.det(gram))
    adjugate = np.array([[gram[1, 1], -gram[0, 1]], [-gram[1, 0], gram[0, 0]]])
    power = (adjugate + root * np.eye(2)) / (root * np.sqrt(np.trace(gram) + 2 * root))
    expected = np.sqrt(np.linalg.eigvalsh(gram)[0]) * power.sum(1)
    np.testing.assert_allclose(aligned(gram, np.ones(2), "min", EPS), expected, rtol=1e-8)


# -- CAGrad ------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("count", SIZES)
def test_cagrads_worst_term_improves_as_its_dual_says(count, c):
    """The primal value, min g_i · d, is the dual's, so both are optimal; and d is in the ball."""
    for seed in range(20):
        gram = gram_of(count, seed)
        mean = np.full(count, 1 / count)
        radius = c * np.sqrt(mean @ gram @ mean)
        weights = worst(gram, gram @ mean, radius)
        dual = mean @ gram @ weights + radius * np.sqrt(weights @ gram @ weights)
        step = cagrad(gram, c, EPS) / count
        primal = (gram @ step).min()
        assert primal == pytest.approx(dual, rel=1e-8, abs=1e-10 * gram.max())
        away = step - mean
        assert np.sqrt(away @ gram @ away) == pytest.approx(radius, rel=1e-9)


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
def test_cagrad_of_two_is_its_closed_form(c):
    """On the line between two gradients ‖g_w‖² is a parabola, whose slope is known."""
    for seed in range(100):
        gram = gram_of(2, seed)
        mean = np.full(2, 0.5)
        linear, radius = gram @ mean, c * np.sqrt(mean @ gram @ mean)
        apart = gram[0, 0] + gram[1, 1] - 2 * gram[0, 1]
        middle = (gram[1, 1] - gram[0, 1]) / apart  # of the first weight
        height = max(np.linalg.det(gram), 0) / apart**2
        slope = linear[0] - linear[1]
        if radius * np.sqrt(apart) > abs(slope):
            shift = slope * np.sqrt(height / (radius**2 * apart - slope**2))
            first = np.clip(middle - shift, 0, 1)
        else:
            first = float(slope < 0)
        found = worst(gram, linear, radius)
        np.testing.assert_allclose(found, [first, 1 - first], rtol=1e-7, atol=1e-9)


def test_cagrad_without_a_radius_is_the_sum():
    problem, plain = Linear(3, 0), Linear(3, 0)
    stepped(pr.CAGrad(c=0), problem)
    pr.Sum().build(terms_of(3)).backward(plain.losses(), [])
    torch.testing.assert_close(problem.x.grad, plain.x.grad)


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pr.UPGrad(normalize="row"),
            "UPGrad: normalize must be true, false or \"rows\", got 'row'",
        ),
        (
            lambda: pr.CAGrad(normalize=2),
            'CAGrad: normalize must be true, false or "rows", got 2',
        ),
        (lambda: pr.CAGrad(c=1.0), "CAGrad: c must be a number of at least 0 and below 1, got 1.0"),
        (
            lambda: pr.MGDA(scale="norms"),
            "MGDA: scale must be one of 'none', 'norm', 'loss', 'loss_norm', got 'norms'; did you "
            "mean 'norm'",
        ),
        (
            lambda: pr.Aligned(scale="rmse"),
            "Aligned: scale must be one of 'min', 'median', 'mean', got 'rmse'",
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
