"""Each method's losses and gradients are those of its paper's equation, in float64."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyrank.data.sampling import Sampling
from polyrank.debias import DEBIAS


def log_loss(label, p):
    return -(label * p.log() + (1 - label) * (1 - p).log())


def terms_of(batch, floor):
    """Return what the papers' equations are made of, from probabilities, by brute force."""
    *parents, task = batch.names
    columns = dict(zip(batch.names, batch.labels.unbind(1), strict=True))
    p = torch.stack([batch.z[name].sigmoid() for name in parents]).prod(0)
    happened = torch.stack([columns[name] == 1 for name in parents]).all(0)
    outside = torch.stack([columns[name] == 0 for name in parents]).any(0)
    observed = happened & ~columns[task].isnan()
    s = torch.ones_like(p) if batch.weight is None else batch.weight
    usable = outside | observed
    joint = (batch.labels == 1).all(1)
    return SimpleNamespace(
        o=observed, u=outside, y=columns[task].nan_to_num(), r=batch.z[task].sigmoid(), s=s,
        path=p, usable=usable, total=s[usable].sum(),
        p=p.detach().clamp(min=floor), q=(1 - p.detach()).clamp(min=floor),
        joint=joint.double(), known=joint | (batch.labels == 0).any(1),
        positive=batch.supervision.schema.tasks[-1].positive_weight,
        head={n.partition("#")[2]: z.sigmoid() for n, z in batch.z.items() if "#" in n},
    )  # fmt: skip


def mean(c, rows, values):
    """Return the mean over all usable rows of what is 0 outside some of them."""
    return (c.s * values)[rows].sum() / c.total


def own(c):
    """Return δ(y, r), its positives weighted."""
    return log_loss(c.y, c.r) * (1 + (c.positive - 1) * c.y)


def joint(c):
    loss = log_loss(c.joint, c.path * c.r) * (1 + (c.positive - 1) * c.joint)
    return (c.s * loss)[c.known].sum() / c.s[c.known].sum()


def ips(c, _):
    return {"": mean(c, c.o, own(c) / c.p)}


def self_normalised(c, rows, weight, values):
    return (c.s * weight * values)[rows].sum() / (c.s * weight)[rows].sum()


def snips(c, _):
    return {"": self_normalised(c, c.o, 1 / c.p, own(c))}


def dr(c, options):
    soft = c.head["imputation"].detach()
    imputed = -c.positive * soft * c.r.log() - (1 - soft) * (1 - c.r).log()
    error = own(c) - imputed
    r, y = c.r.detach(), c.y
    squared = (log_loss(y, r) - log_loss(c.head["imputation"], r)).square()
    v = (1 - c.p) / c.p**2 if options.get("mrdr") else 1 / c.p
    return {
        "": mean(c, c.usable, imputed) + mean(c, c.o, error / c.p),
        "imputation": mean(c, c.o, v * squared),
    }


def escm2_ips(c, options):
    return {**ips(c, options), "@ all": joint(c)}


def escm2_dr(c, options):
    return {**dr(c, options), "@ all": joint(c)}


def dcmt(c, options):
    twin = c.head["twin"]
    factual = self_normalised(c, c.o, 1 / c.p, own(c))
    counterfactual = self_normalised(c, c.u, 1 / c.q, log_loss(torch.ones_like(twin), twin))
    constraint = mean(c, c.usable, (c.r + twin - 1).abs())
    tied = factual + counterfactual + options.get("constraint", 0.1) * constraint
    return {"": tied, "@ all": joint(c)}


def nise(c, options):
    rows = c.usable
    happened = c.o.double()
    entropy = log_loss(c.r, c.r)
    plain = torch.where(c.o, log_loss(c.y, c.r), entropy)[rows].mean()
    condition = log_loss(happened, c.path)[rows].mean()
    w = min(float((condition / plain).detach()), options.get("largest", 1.0))
    return {"": w * (mean(c, c.o, own(c)) + mean(c, c.u, entropy))}


def ddpo(c, _):
    soft = c.head["conversion"].detach()
    observed = torch.where(c.y == 1, own(c), log_loss(soft, c.r))
    factual = self_normalised(c, c.o, 1 / c.p, observed)
    counterfactual = self_normalised(c, c.u, 1 / c.q, log_loss(soft, c.r))
    learned = log_loss(c.y, c.head["conversion"]) * (1 + (c.positive - 1) * c.y)
    return {
        "": factual + counterfactual, "conversion": mean(c, c.o, learned), "@ all": joint(c),
    }  # fmt: skip


REFERENCES = {
    "ips": (ips, {}),
    "snips": (snips, {}),
    "dr": (dr, {}, {"mrdr": True}),
    "escm2_ips": (escm2_ips, {}),
    "escm2_dr": (escm2_dr, {}),
    "dcmt": (dcmt, {}, {"constraint": 0.5}),
    "nise": (nise, {"largest": 0.3}, {"largest": 50.0}),
    "ddpo": (ddpo, {}),
}
CASES = [
    pytest.param(name, function, options, id="-".join([name, *map(str, options.values())]))
    for name, (function, *options_of) in REFERENCES.items()
    for options in options_of
]
BY_BATCH = ("snips", "dcmt", "ddpo", "nise")  # whose first terms are normalised within a batch
OPTIONS = [pytest.param(*case.values[::2], id=case.id) for case in CASES]


def test_every_method_has_a_reference():
    assert set(REFERENCES) == set(DEBIAS)


def check(batch, method, function, options):
    """Compare losses and gradients, and return the names of the terms compared."""
    expected = function(terms_of(batch, method.get("floor", 0.01)), options)
    losses = batch.losses()
    *_, parent, task = batch.names
    kind = batch.supervision.schema.tasks[-1].debias.name
    names = {
        part: f"{task} @ all" if part == "@ all" else
        f"{task}|{parent} @ {parent} [{' '.join(filter(None, (kind, part)))}]"
        for part in expected
    }  # fmt: skip
    assert set(losses) - set(names.values()) == {
        term.name for term in batch.supervision.schema.objective if term.population.task != task
    }
    for part, name in names.items():
        torch.testing.assert_close(losses[name], expected[part], rtol=1e-10, atol=1e-13)
        mine, its = batch.gradients(losses[name]), batch.gradients(expected[part])
        for head in batch.z:
            torch.testing.assert_close(mine[head], its[head], rtol=1e-7, atol=1e-13)
    return names


@pytest.mark.parametrize(("name", "function", "options"), CASES)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_are_those_of_the_equation(
    make_batch, name, function, options, depth, weighted
):
    method = {"floor": 0.2} if "floor" in DEBIAS[name].__dataclass_fields__ else {}
    debias = DEBIAS[name](**method, **options)
    batch = make_batch(debias, depth=depth, weighted=weighted, positive_weight=1.7)
    clipped = terms_of(batch, 0.2).path < 0.2
    assert 20 < int(clipped.sum()) < 380
    check(batch, method, function, options)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_no_gradient_reaches_the_heads_above_but_through_the_joint(make_batch, name, options):
    """Propensities are constants, else a click head would learn to make the weights small."""
    batch = make_batch(DEBIAS[name](**options), depth=2)
    for term in batch.supervision.schema.objective:
        if term.method is not None:
            gradients = batch.gradients(batch.losses()[term.name])
            assert not gradients["click"].any()
            assert not gradients["cart"].any()


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_batch_without_the_condition_teaches_nothing_that_is_not_finite(
    make_batch, name, options
):
    batch = make_batch(DEBIAS[name](**options))
    losses = batch.losses(torch.zeros_like(batch.labels))
    weighs = f"buy|click @ click [{name}]"
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    assert all(each.isfinite().all() for each in batch.gradients(total).values())
    if name in ("ips", "snips", "escm2_ips"):
        assert losses[weighs].item() == 0
        assert not any(each.any() for each in batch.gradients(losses[weighs]).values())


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_extreme_logits_keep_losses_and_gradients_finite(make_batch, name, options):
    batch = make_batch(DEBIAS[name](**options), spread=60.0)
    total = torch.stack(list(batch.losses().values())).sum()
    assert total.isfinite()
    assert all(each.isfinite().all() for each in batch.gradients(total).values())


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_validation_sums_are_the_same_mean(make_batch, name, options):
    batch = make_batch(DEBIAS[name](**options), weighted=True)
    sums = batch.supervision.sums(batch.z, batch.labels, batch.weight)
    for term, loss in batch.losses().items():
        found = sums[term].total / sums[term].weight
        torch.testing.assert_close(found, loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_parts_of_a_batch_add_up(make_batch, name, options):
    """Of several processes; self-normalised weights are normalised within a part."""
    debias = DEBIAS[name](**options)
    batch = make_batch(debias)
    whole = batch.losses()
    first, second = (
        batch.supervision.losses(
            {head: each[rows] for head, each in batch.z.items()}, batch.labels[rows], None,
            joined=400,
        )[0]
        for rows in (slice(0, 100), slice(100, 400))
    )  # fmt: skip
    for term, loss in whole.items():
        exact = name not in BY_BATCH or f"[{name}]" not in term
        found, rtol = first[term] + second[term], 1e-10 if exact else 0.3
        torch.testing.assert_close(found, loss, rtol=rtol, atol=1e-12)


floors = st.floats(0.01, 1.0)
seeds = st.integers(0, 10_000)
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(seeds)
def test_at_a_floor_of_one_weights_change_nothing(make_batch, seed):
    """Then IPS is the sum over clicked rows ÷ all rows, and SNIPS the mean over clicked rows."""
    plain, ips, snips = (
        make_batch(debias, count=120, seed=seed)
        for debias in (None, DEBIAS["ips"](floor=1.0), DEBIAS["snips"](floor=1.0))
    )
    expected = plain.losses()["buy|click @ click"]
    c = terms_of(plain, 1.0)
    found = ips.losses()["buy|click @ click [ips]"] * c.total / c.o.sum()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    found = snips.losses()["buy|click @ click [snips]"]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@quick
@given(seeds, floors, st.floats(0.01, 100.0))
def test_snips_ignores_the_unit_of_sample_weights(make_batch, seed, floor, unit):
    batch = make_batch(DEBIAS["snips"](floor=floor), count=120, seed=seed, weighted=True)
    one = batch.losses()["buy|click @ click [snips]"]
    batch.weight = batch.weight * unit
    torch.testing.assert_close(batch.losses()["buy|click @ click [snips]"], one, rtol=1e-9, atol=0)


@quick
@given(seeds, st.sampled_from(sorted(REFERENCES)))
def test_the_order_of_rows_does_not_matter(make_batch, seed, name):
    batch = make_batch(DEBIAS[name](), count=120, seed=seed, weighted=True)
    before = batch.losses()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(120))
    batch.z = {head: each[order] for head, each in batch.z.items()}
    batch.labels, batch.weight = batch.labels[order], batch.weight[order]
    for term, loss in batch.losses().items():
        torch.testing.assert_close(loss, before[term], rtol=1e-9, atol=1e-12)


@quick
@given(seeds, floors, floors)
def test_a_higher_floor_never_raises_the_loss_of_ips(make_batch, seed, one, other):
    low, high = (
        make_batch(DEBIAS["ips"](floor=floor), count=120, seed=seed).losses()
        for floor in sorted((one, other))
    )
    name = "buy|click @ click [ips]"
    assert high[name] <= low[name] * (1 + 1e-12)


def test_propensities_of_sampled_rows_are_those_of_the_sample(make_batch):
    """Where a quarter of the rows without a click was kept, odds of a click are 4 times as high."""
    batch = make_batch(DEBIAS["ips"](floor=0.01), missing=0.0)
    supervision = replace(batch.supervision, sampling=Sampling("click", keep=0.25))
    found = supervision.losses(batch.z, batch.labels, None)[0]["buy|click @ click [ips]"]
    shifted = {**batch.z, "click": batch.z["click"] + np.log(4)}
    expected = batch.supervision.losses(shifted, batch.labels, None)[0]
    torch.testing.assert_close(found, expected["buy|click @ click [ips]"], rtol=1e-12, atol=0)
    use = supervision.propensities(batch.z, batch.labels, None)[0]
    clicked = batch.labels[:, 0] == 1
    w = 1 / shifted["click"].detach().sigmoid()[clicked].clamp(min=0.01)
    assert use.effective_rows == pytest.approx(float(w.sum() ** 2 / (w * w).sum()))
