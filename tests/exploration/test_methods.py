"""Ways of exploring: one contract for all of them, and each against its formula."""

from dataclasses import MISSING, dataclass, fields

import numpy as np
import pytest

import polyrank as pr
from polyrank import spec
from polyrank.errors import ConfigError
from polyrank.exploration import EXPLORATIONS, Sure
from polyrank.registry import unregister
from polyrank.serve.app.limits import Refused
from polyrank.serve.app.request import taken

RNG = np.random.default_rng(3)
HEADS = {
    "click": Sure(RNG.normal(-2, 1, 50), RNG.uniform(0.1, 1, 50)),
    "buy": Sure(RNG.normal(-1, 1, 50), RNG.uniform(0.1, 1, 50)),
}


def made(kind, **more):
    table = dict.fromkeys(EXPLORATIONS[kind].required, 3)
    return spec.choose(EXPLORATIONS, {"kind": kind, **table, **more}, "explore")


@pytest.mark.parametrize("kind", EXPLORATIONS)
def test_every_kind_says_its_options(kind):
    cls = EXPLORATIONS[kind]
    own = [each for each in fields(cls) if each.name != "by"]
    assert set(cls.json) == {each.name for each in own}
    assert set(cls.required) == {each.name for each in own if each.default is MISSING}
    how = made(kind, by="p_click")
    assert spec.choose(EXPLORATIONS, spec.chosen(EXPLORATIONS, how), "explore") == how


@pytest.mark.parametrize("kind", EXPLORATIONS)
def test_every_kind_moves_each_head_and_repeats_itself(kind):
    how = made(kind)
    found, again = how.moved(HEADS), how.moved(HEADS)
    assert found.keys() == HEADS.keys()
    for name, each in found.items():
        assert each.shape == (50,)
        assert np.isfinite(each).all()
        np.testing.assert_array_equal(each, again[name])
    if how.random:
        drawn = how.again(HEADS, 4)
        assert all(drawn[name].shape == (4, 50) for name in HEADS)
        assert not (drawn["click"] == found["click"]).any()
    else:
        with pytest.raises(NotImplementedError, match=f"{type(how).__name__} draws nothing"):
            how.again(HEADS, 4)


def test_ucb_is_its_formula_and_alpha_0_is_what_is_served():
    sure = HEADS["click"]
    found = pr.UCB(alpha=1.5).moved(HEADS)["click"]
    np.testing.assert_allclose(found, sure.logit + 1.5 * sure.deviation, rtol=1e-15)
    np.testing.assert_array_equal(pr.UCB(alpha=0).moved(HEADS)["click"], sure.logit)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_thompson_draws_the_posterior_whose_mean_probability_is_served(scale):
    sure = Sure(np.repeat([-4.0, -1.0, 0.5], 60_000), np.full(180_000, 0.8))
    z = pr.Thompson(seed=5, scale=scale).moved({"click": sure})["click"].reshape(3, -1)
    p = 1 / (1 + np.exp(-np.array([-4.0, -1.0, 0.5])))
    sd = scale * 0.8
    # Four standard errors of 60,000 draws.
    np.testing.assert_allclose(
        z.mean(1), np.array([-4.0, -1.0, 0.5]) - (0.5 - p) * sd**2, atol=4 * sd / 60_000**0.5
    )
    np.testing.assert_allclose(z.std(1), sd, rtol=4 / 120_000**0.5)
    drawn = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(drawn.mean(1), p, rtol=0.03)  # of second order in the variance


def test_another_seed_is_another_draw_and_heads_are_drawn_apart():
    one, two = (pr.Thompson(seed=seed).moved(HEADS)["click"] for seed in (1, 2))
    assert not (one == two).any()
    same = {"click": HEADS["click"], "buy": HEADS["click"]}
    found = pr.Thompson(seed=1).moved(same)
    assert not (found["click"] == found["buy"]).any()
    # A head more changes no draw of those before it.
    np.testing.assert_array_equal(
        pr.Thompson(seed=1).moved({"click": HEADS["click"]})["click"], one
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pr.UCB(alpha=-1), "alpha must be a number of at least 0 and at most 100, got -1"),
        (lambda: pr.Thompson(seed=-1), "seed must be a whole number of at least 0 and at most"),
        (
            lambda: pr.Thompson(seed=1.5),
            "seed must be a whole number of at least 0 and .*1.5",
        ),
        (
            lambda: pr.Thompson(seed=1, scale=0),
            "scale must be a number of at least 0.001 and",
        ),
        (
            lambda: pr.Thompson(seed=1, draws=0),
            "draws must be a whole number of at least 1 and",
        ),
    ],
)
def test_a_value_out_of_range_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@dataclass(frozen=True, kw_only=True)
class Upside(pr.Exploration):
    """One of another package: adds a share of the deviation where the logit is below 0."""

    share: float = 0.5

    json = {"share": {"type": "number"}}  # noqa: RUF012  a test's

    def moved(self, heads):
        return {
            name: each.logit + self.share * each.deviation * (each.logit < 0)
            for name, each in heads.items()
        }


def test_another_package_adds_a_way_that_requests_name():
    pr.register("exploration", "upside", Upside)
    try:
        body = {"rows": [{"item": 1}], "explore": {"kind": "upside", "share": 1}}
        assert taken(body, ["item"], 10).explore == Upside(share=1)
    finally:
        unregister("exploration", "upside")
    with pytest.raises(Refused, match="explore: unknown kind 'upside'"):
        taken(body, ["item"], 10)
