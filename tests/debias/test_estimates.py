"""What theory says of the estimates, on rows whose probabilities are known.

Truth is the mean log loss of fixed predictions on all rows. Clicks are confounded: where purchases
are likely, so are clicks.
"""

import numpy as np
import pytest
import torch

import polyrank as pr

DRAWS = 300


class World:
    """Rows with known P(click), P(buy|click) and predictions; labels are drawn again and again."""

    def __init__(self, make_batch, method, rows=2_000, seed=7):
        rng = np.random.default_rng(seed)
        x, u = rng.normal(size=rows), rng.normal(size=rows)
        self.rng = rng
        self.p = 1 / (1 + np.exp(-(-1.0 + 1.2 * x)))
        self.q = 1 / (1 + np.exp(-(-1.0 + 0.8 * x + 0.4 * u)))
        z = torch.from_numpy(-0.8 + 0.3 * u)
        self.r = z.sigmoid().numpy()
        self.supervision = make_batch(method, count=rows, missing=0.0).supervision
        self.z = {"click": torch.from_numpy(np.log(self.p / (1 - self.p))), "buy": z}
        self.truth = float(self.loss(self.q).mean())

    def loss(self, label):
        return -(label * np.log(self.r) + (1 - label) * np.log(1 - self.r))

    def draw(self):
        click = self.rng.random(len(self.p)) < self.p
        buy = click & (self.rng.random(len(self.p)) < self.q)
        return np.stack([click, buy], axis=1).astype(float)

    def estimates(self, method, draws=DRAWS):
        name = f"buy|click @ click [{method}]"
        return np.array(
            [
                self.supervision.losses(self.z, torch.from_numpy(self.draw()), None)[0][name]
                for _ in range(draws)
            ]
        )

    def wrong_propensity(self):
        self.z["click"] = self.z["click"] * 0.5 + 0.7

    def impute(self, probability):
        self.z["buy#imputation"] = torch.from_numpy(np.log(probability / (1 - probability)))


def off(estimates, truth):
    """Return the error of the mean in its own standard errors."""
    return (estimates.mean() - truth) / (estimates.std(ddof=1) / np.sqrt(len(estimates)))


def plain(world):
    """Return estimates from clicked rows alone, unweighted."""
    found = []
    for _ in range(DRAWS):
        click, buy = world.draw().T
        found.append(world.loss(buy)[click == 1].mean())
    return np.array(found)


LEAST = 1e-4


def test_clicked_rows_alone_are_biased_and_ips_is_not(make_batch):
    world = World(make_batch, pr.IPS(floor=LEAST))
    assert abs(off(plain(world), world.truth)) > 20
    assert abs(off(world.estimates("ips"), world.truth)) < 3.5


def test_a_floor_biases_ips(make_batch):
    world = World(make_batch, pr.IPS(floor=0.3))
    assert off(world.estimates("ips"), world.truth) < -10


def test_snips_is_right_up_to_its_vanishing_bias_and_varies_less(make_batch):
    world = World(make_batch, pr.SNIPS(floor=LEAST))
    found = world.estimates("snips")
    assert abs(found.mean() - world.truth) < 0.01 * world.truth
    ips = World(make_batch, pr.IPS(floor=LEAST)).estimates("ips")
    assert found.std() < 0.8 * ips.std()


@pytest.mark.parametrize("wrong", ["propensity", "imputation", "neither"])
def test_dr_is_unbiased_if_either_is_right(make_batch, wrong):
    world = World(make_batch, pr.DR(floor=LEAST))
    world.impute(np.full_like(world.q, 0.6) if wrong == "imputation" else world.q)
    if wrong == "propensity":
        world.wrong_propensity()
    assert abs(off(world.estimates("dr"), world.truth)) < 3.5


def test_dr_is_biased_if_both_are_wrong(make_batch):
    world = World(make_batch, pr.DR(floor=LEAST))
    world.impute(np.full_like(world.q, 0.6))
    world.wrong_propensity()
    assert abs(off(world.estimates("dr"), world.truth)) > 20


@pytest.mark.parametrize("wrong", ["propensity", "imputation"])
def test_the_error_of_dr_vanishes_with_rows(make_batch, wrong):
    errors = []
    for rows in (500, 8_000, 128_000):
        world = World(make_batch, pr.DR(floor=LEAST), rows)
        world.impute(np.full_like(world.q, 0.6) if wrong == "imputation" else world.q)
        if wrong == "propensity":
            world.wrong_propensity()
        found = world.estimates("dr", draws=20)
        errors.append(float(np.sqrt(np.mean((found - world.truth) ** 2)) / world.truth))
    # 16 times the rows: a quarter of the error, which 20 draws tell to within a factor of 2.
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.01


def test_dr_varies_less_than_ips_where_the_imputation_is_good(make_batch):
    ips = World(make_batch, pr.IPS(floor=LEAST)).estimates("ips")
    world = World(make_batch, pr.DR(floor=LEAST))
    world.impute(world.q)
    assert world.estimates("dr").std() < 0.8 * ips.std()


def test_the_best_soft_label_of_the_imputation_is_the_conditional_probability(make_batch):
    """Its loss is a weighted square of y − ỹ, of which the mean label is the minimum."""
    world = World(make_batch, pr.DR(floor=LEAST), rows=20_000)
    name, losses = "buy|click @ click [dr imputation]", []
    labels = torch.from_numpy(world.draw())
    for shift in (-0.4, 0.0, 0.4):
        z = np.log(world.q / (1 - world.q)) + shift
        world.z["buy#imputation"] = torch.from_numpy(z)
        losses.append(float(world.supervision.losses(world.z, labels, None)[0][name]))
    assert losses[1] < min(losses[0], losses[2])
