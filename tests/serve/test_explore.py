"""Exploration of predictions: outputs, order and propensities."""

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.calibration import Isotonic, Platt
from polyrank.errors import ConfigError
from polyrank.exploration.posterior import deviation, variance
from polyrank.serve.explore import Explorer, Precisions

SCHEMA = pr.Schema(
    [pr.SparseFeature("item")],
    [
        pr.Task("click"),
        pr.Task("buy", given="click"),
        pr.Task("spend", kind="regression", given="buy"),
    ],
)
ROWS = 9


def outputs(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    click, buy, spend = rng.uniform(0.02, 0.5, (3, rows))
    return {
        "p_click": click, "p_buy_given_click": buy, "p_buy": click * buy,
        "spend_given_buy": 100 * spend, "spend": click * buy * 100 * spend,
        "p_click_sd": rng.uniform(0.1, 1, rows), "p_buy_given_click_sd": rng.uniform(0.1, 1, rows),
    }  # fmt: skip


def explorer(fusion=None, sure=("click", "buy"), maps=()):
    tasks = tuple(SCHEMA.by_name[name] for name in sure)
    return Explorer(SCHEMA, fusion, tasks, dict(maps))


def logit(p):
    return np.log(p / (1 - p))


def test_what_moves_is_each_sure_head_and_what_is_below_it():
    assert explorer().moving == ("p_click", "p_buy_given_click", "p_buy", "spend")
    assert explorer(sure=("buy",)).moving == ("p_buy_given_click", "p_buy", "spend")
    assert explorer(sure=()).moving == ()


def test_outputs_are_moved_and_joints_are_products_again():
    given = outputs()
    found = explorer().explored(pr.UCB(alpha=1.0, by="p_buy"), given, {})
    click = logit(given["p_click"]) + given["p_click_sd"]
    np.testing.assert_allclose(logit(found.outputs["p_click"]), click, rtol=1e-12)
    joint = found.outputs["p_click"] * found.outputs["p_buy_given_click"]
    np.testing.assert_array_equal(found.outputs["p_buy"], joint)
    np.testing.assert_array_equal(found.outputs["spend_given_buy"], given["spend_given_buy"])
    np.testing.assert_array_equal(found.outputs["spend"], joint * given["spend_given_buy"])
    np.testing.assert_array_equal(found.score, found.outputs["p_buy"])
    np.testing.assert_array_equal(found.order, np.argsort(-found.score, kind="stable"))
    assert list(found.outputs) == [name for name in given if not name.endswith("_sd")]
    assert (found.by, found.propensity, found.propensity_from) == ("p_buy", None, None)


@pytest.mark.parametrize("kind", [Platt(0.5, -1.0), Isotonic((-3.0, 0.0), (-4.0, -1.0))])
def test_the_logit_is_moved_before_its_calibration_map(kind):
    given = outputs()
    raw = np.linspace(-5, 1, ROWS)
    given["p_click"] = 1 / (1 + np.exp(-kind.apply(raw)))
    found = explorer(maps={"click": kind}).explored(pr.UCB(alpha=2.0, by="p_click"), given, {})
    expected = kind.apply(raw + 2 * given["p_click_sd"])
    np.testing.assert_allclose(logit(found.outputs["p_click"]), expected, atol=1e-9)


def test_probabilities_of_0_and_1_stay_finite():
    given = outputs(3)
    given["p_click"] = np.array([0.0, 1.0, 0.5])
    found = explorer().explored(pr.Thompson(seed=1, by="p_click"), given, {})
    assert np.isfinite(found.score).all()
    assert found.order.tolist() == [1, 2, 0]


class Weights:
    """Named weights as safetensors reads them."""

    def __init__(self, **weights):
        self._weights = {name.replace("_", "."): each for name, each in weights.items()}

    def keys(self):
        return list(self._weights)

    def get_slice(self, name):
        return self._weights[name]

    def get_tensor(self, name):
        return self._weights[name]


def precisions():
    precision = np.array([[9.0, 7.0], [4.0, 2.0], [16.0, 8.0]])
    weights = Weights(
        wide_precision_user=precision, wide_prior_user=np.array([2.0, 1.0]),
        wide_precision_city=10 * precision,
    )  # fmt: skip
    at = {"click": ("wide", 0), "buy": ("wide", 1)}
    return Precisions(at, {"user": True, "city": False, "item": True}, weights)


def rows_of(user, city, item=(1, 2, 3)):
    return {"user": np.array(user), "city": np.array(city), "item": np.array(item)}


@pytest.mark.parametrize(
    ("rows", "shared", "expected"),
    [
        (rows_of([1, 1, 1], [1, 2, 1]), (), (1 / 4, 1 / 2)),
        (rows_of([1, 1, 1], [2, 2, 2]), (), (1 / 4 + 1 / 160, 1 / 2 + 1 / 80)),
        (rows_of([1, 1, 2], [1, 2, 1]), (), (0, 0)),
        (rows_of([0, 0, 0], [1, 2, 1]), (), (0, 0)),  # three unseen users, for all we know
        (rows_of([0, 0, 0], [1, 2, 1]), ("user",), (1 / 2, 1)),
        (rows_of([2, 2, 1], [0, 0, 0]), (), (1 / 90, 1 / 70)),  # a row of its own, without unseen
        (rows_of([2, 2, 1], [1, 0, 0], [5, 5, 5]), (), (0, 0)),  # without effects
    ],
)
def test_what_all_rows_are_unsure_of_together(rows, shared, expected):
    found = [precisions().common(task, rows, shared) for task in ("click", "buy", "spend")]
    np.testing.assert_allclose(found, [*expected, 0])


def test_only_what_rows_do_not_share_is_explored():
    given, sd = outputs(3), np.array([0.8, 0.9, 1.2])
    given["p_click_sd"] = sd
    made = Explorer(SCHEMA, None, explorer().sure, {}, precisions())
    how = pr.UCB(alpha=1.0, by="p_click")
    found = made.explored(how, given, {}, 1, rows_of([1, 1, 1], [1, 2, 1]))
    own = (variance(sd) - 1 / 4) / variance(sd)
    moved = logit(found.outputs["p_click"]) - logit(given["p_click"])
    np.testing.assert_allclose(moved, sd * np.sqrt(own), rtol=1e-9)
    # Rows of which all is shared keep a hundredth of their deviation, and an order.
    given["p_click_sd"] = deviation(np.full(3, 1 / 4))
    how = pr.Thompson(seed=1, by="p_click")
    found = made.explored(how, given, {}, 1, rows_of([1, 1, 1], [1, 2, 1]))
    assert found.order[0] == np.argmax(given["p_click"])
    assert found.propensity.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("first", [1, 3])
def test_the_integral_and_draws_agree(first):
    given = outputs()
    one = explorer().explored(pr.Thompson(seed=4, by="p_click"), given, {}, first)
    drawn = pr.Thompson(seed=4, by="p_click", draws=50_000)
    other = explorer().explored(drawn, given, {}, first)
    assert (one.propensity_from, other.propensity_from) == ("integral", "draws")
    np.testing.assert_array_equal(one.order, other.order)
    assert one.propensity.sum() == pytest.approx(first, abs=1e-8)
    assert other.propensity.sum() == pytest.approx(first, abs=1e-8)
    # Five standard errors of a share of 50,000 draws.
    np.testing.assert_allclose(one.propensity, other.propensity, atol=5 * 0.5 / 50_000**0.5)


def test_the_row_that_is_shown_first_has_a_propensity():
    given = outputs(200)
    for seed in range(20):
        how = pr.Thompson(seed=seed, by="p_buy", draws=3)
        found = explorer().explored(how, given, {}, 2)
        assert (found.propensity[found.order[:2]] >= 1 / 4).all()


def test_a_request_is_first_as_often_as_its_propensity_says():
    given = outputs()
    how = [pr.Thompson(seed=seed, by="p_click") for seed in range(4_000)]
    firsts = [explorer().explored(each, given, {}).order[0] for each in how]
    share = np.bincount(firsts, minlength=ROWS) / len(how)
    found = explorer().explored(how[0], given, {}).propensity
    np.testing.assert_allclose(share, found, atol=5 * 0.5 / len(how) ** 0.5)


def test_a_fused_score_is_drawn_and_one_head_alone_is_integrated():
    given = outputs()
    columns = {"margin": pl.Series("margin", np.linspace(-1, 1, ROWS))}
    fusion = pr.Fusion({"click": 1.0, "buy": 2.0, "margin": 0.5})
    found = explorer(fusion).explored(pr.Thompson(seed=1), given, columns)
    expected = 1.0 * np.log(found.outputs["p_click"]) + 2.0 * np.log(found.outputs["p_buy"])
    np.testing.assert_allclose(found.score, expected + 0.5 * columns["margin"].to_numpy())
    assert (found.by, found.propensity_from) == ("score", "draws")
    assert found.propensity.sum() == pytest.approx(1)
    alone = explorer(pr.Fusion({"click": 2.0})).explored(pr.Thompson(seed=1), given, {})
    by_click = explorer().explored(pr.Thompson(seed=1, by="p_click"), given, {})
    assert alone.propensity_from == "integral"
    np.testing.assert_array_equal(alone.propensity, by_click.propensity)
    falling = explorer(pr.Fusion({"click": -1.0})).explored(pr.Thompson(seed=1), given, {})
    assert falling.propensity_from == "draws"


@pytest.mark.parametrize(
    ("made", "how", "message"),
    [
        (
            explorer(sure=()), pr.UCB(),
            "explore: the exported model has no deviations: run `polyrank export RUN",
        ),
        (explorer(), pr.UCB(), r"explore: by must say which output to rank by: one of .'p_cl"),
        (
            explorer(), pr.UCB(by="p_clik"),
            "by must be an output that exploration moves, got 'p_clik'; did you mean 'p_click'",
        ),
        (explorer(), pr.UCB(by="spend_given_buy"), "that exploration moves, got 'spend_given_buy'"),
        (
            explorer(pr.Fusion({"click": 1.0})), pr.UCB(by="p_click"),
            "explore: this bundle ranks by its fused score: leave by out, got 'p_click'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_ranked_by_is_refused(made, how, message):
    with pytest.raises(ConfigError, match=message):
        made.explored(how, outputs(), {})


def test_too_many_draws_are_refused():
    with pytest.raises(
        ConfigError,
        match="100,000 draws of 200 rows and 2 heads are more than the 20,000,000 numbers that a r",
    ):
        explorer().explored(pr.Thompson(seed=1, by="p_buy", draws=100_000), outputs(200), {})
