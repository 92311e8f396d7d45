"""Parts of a generated world: each truth is the mean of its outcome, and no part moves another."""

import hashlib
from functools import cache
from itertools import permutations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from polyrank.datasets.parts import (
    PARTS,
    Choice,
    Delay,
    Drift,
    Exposure,
    Items,
    Money,
    Part,
    Position,
    Reactions,
    Stars,
    Watch,
    chosen,
)
from polyrank.datasets.parts.position import ranks
from polyrank.datasets.synthetic import PRESETS, synthetic
from polyrank.errors import ConfigError

ROWS = 120_000
# Of one log: no more than one in 10,000 right ones fails a bound, and some hundred are made.
DEVIATIONS = 4.5
EVENTS = ("draw", "event", "log")  # stages whose parts move others' outcomes on purpose


def whole(*parts, rows=ROWS, **options):
    *frames, schema = synthetic(rows, seed=1, parts=parts, **options)
    return pl.concat([frame.collect() for frame in frames]), schema


@cache
def small(*parts):
    return whole(*parts, rows=4_000, preset="latent")[0]


def assert_mean(outcome, mean, variance, weight=1.0):
    """Compare sums over all rows, and over fifths by the mean, in standard deviations."""
    keep = ~np.isnan(outcome)
    outcome, mean = outcome[keep], mean[keep]
    variance = np.broadcast_to(variance, keep.shape)[keep]
    weight = np.broadcast_to(weight, keep.shape)[keep]
    assert keep.sum() > 100
    for some in (np.arange(len(mean)), *np.array_split(np.argsort(mean, kind="stable"), 5)):
        deviation = np.sqrt((weight**2 * variance)[some].sum())
        difference = (weight * (outcome - mean))[some].sum()
        assert abs(difference) < DEVIATIONS * deviation + 1e-9


def column(rows, name):
    return rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


def assert_probability(rows, outcome, truth):
    p = column(rows, truth)
    assert_mean(column(rows, outcome), p, p * (1 - p))


@pytest.mark.parametrize(
    ("preset", "hidden", "digest", "truths"),
    [
        ("latent", 1.0, "20b2ab8d6d2705e1", (118.3011403217546, 12.231865343977939)),
        ("additive", 0.0, "8ff6c13aa84bb582", (110.52832839974708, 10.89073028698032)),
    ],
)
def test_without_parts_a_log_is_what_it_was(preset, hidden, digest, truths):
    *frames, _ = synthetic(3000, seed=5, preset=preset, hidden=hidden)
    rows = pl.concat([frame.collect() for frame in frames])
    whole_numbers = [name for name, kind in rows.schema.items() if kind.is_integer()]
    content = b"".join(rows[name].to_numpy().astype("<i8").tobytes() for name in whole_numbers)
    assert hashlib.sha256(content).hexdigest()[:16] == digest
    sums = [rows[name].sum() for name in ("true_p_click", "true_p_buy")]
    np.testing.assert_allclose(sums, truths, rtol=1e-12)


@pytest.mark.parametrize(("first", "other"), list(permutations(PARTS, 2)))
def test_a_part_leaves_the_draws_of_others_as_they_are(first, other):
    alone, both = small(first), small(*sorted([first, other]))
    kept = PARTS[other].stage not in EVENTS
    base = set(small().columns)
    for name in alone.columns:
        if kept or (name not in base and PARTS[first].stage == "draw"):
            assert both[name].equals(alone[name]), name
        elif PARTS[other].stage != "draw" and name not in ("click", "buy"):
            # What is in both logs was drawn alike; events decide only whether it is there.
            one, two = column(alone, name), column(both, name)
            there = ~(np.isnan(one) | np.isnan(two))
            if name == "spend":  # 0 without a purchase
                there &= (one > 0) & (two > 0)
            if not name.startswith(("true_", "do_", "buy", "elapsed")):
                np.testing.assert_array_equal(one[there], two[there], err_msg=name)


@pytest.mark.parametrize("part", list(PARTS))
@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_seed_decides_a_part_and_tiny_logs_have_it(part, preset):
    one, again = (whole(part, rows=40, preset=preset)[0] for _ in range(2))
    assert_frame_equal(one, again)
    other = synthetic(40, seed=2, preset=preset, parts=[part])[0].collect()
    assert not one[: other.height].equals(other)


@pytest.mark.parametrize("part", list(PARTS))
def test_the_world_of_a_part_does_not_depend_on_the_rows(part):
    """Rows of equal features have equal truths in a short log and in a long one."""
    options = {"preset": "additive", "users": 30}
    short, long = whole(part, rows=2_000, **options)[0], whole(part, rows=9_000, **options)[0]
    fields = ["122", "124", "125", "127", "129", "206", "301", "508"]
    truths = {
        "reactions": ["true_p_like", "true_p_share", "true_p_hide"],
        "stars": ["true_stars_given_click"],
        "items": ["true_items_given_click"],
        "money": ["true_spend_given_buy", "true_spend"],
    }.get(part, [])
    both = short.group_by(fields).first().join(long.group_by(fields).first(), on=fields)
    assert both.height > 50
    for name in truths:
        np.testing.assert_allclose(both[name], both[f"{name}_right"], rtol=1e-12)


def test_reactions():
    rows, schema = whole("reactions", preset="additive")
    for name, rate in (("like", 0.05), ("share", 0.01), ("hide", 0.02)):
        assert_probability(rows, name, f"true_p_{name}")
        assert rows[name].mean() == pytest.approx(rate, rel=0.35)
        assert rows[name].dtype == pl.Int8
    click, hide = (rows[f"true_p_{name}"].log() for name in ("click", "hide"))
    assert np.corrcoef(click, rows["true_p_like"].log())[0, 1] > 0.4
    assert np.corrcoef(click, hide)[0, 1] < -0.3
    assert [task.name for task in schema.tasks] == ["click", "buy", "like", "share", "hide"]
    assert [task.given for task in schema.tasks] == [None, "click", None, None, None]


@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_position(hidden):
    rows, _ = whole("position", hidden=hidden)
    plain = whole(hidden=hidden)[0]
    assert (
        rows.group_by("request")
        .agg(pl.col("position").sort() == pl.int_range(1, pl.len() + 1))["position"]
        .explode(empty_as_null=False)
        .all()
    )
    for name in ("click", "buy"):
        assert_probability(rows, name, f"true_p_{name}")
    clicked = rows.filter(pl.col("click") == 1)
    assert_probability(clicked, "buy", "true_p_buy_given_click")
    np.testing.assert_allclose(rows["true_p_examined"], 1 / rows["position"])
    assert rows["do_p_click"].equals(plain["true_p_click"].rename("do_p_click"))
    first = rows.filter(pl.col("position") == 1)
    assert first["true_p_click"].equals(first["do_p_click"].rename("true_p_click"))
    assert first["do_p_click"].mean() > 1.3 * rows["do_p_click"].mean()  # confounded
    assert (rows["click"] <= plain["click"]).all()


def test_without_decay_position_is_only_a_column():
    rows, plain = whole(Position(power=0.0), rows=3_000)[0], whole(rows=3_000)[0]
    assert_frame_equal(rows[plain.columns], plain)


def test_exposure():
    policy = Exposure()
    rows, _ = whole(policy, "reactions")
    assert_probability(rows, "exposed", "propensity")
    assert rows["exposed"].mean() == pytest.approx(policy.rate, rel=0.1)
    assert rows["propensity"].min() > policy.floor
    assert rows["propensity"].equals(rows["true_p_exposed"].rename("propensity"))
    test = len(rows) - len(rows) // 10
    logged, later = rows[:test], rows[test:]
    for name in ("click", "buy", "like"):
        assert (logged[name].is_null() == (logged["exposed"] == 0)).all()
        assert later[name].null_count() == 0
        assert_probability(rows, name, f"true_p_{name}")
    # Weighted, the shown stand for all candidates; unweighted they do not.
    shown = logged.filter(pl.col("exposed") == 1)
    p, e = column(shown, "true_p_click"), column(shown, "propensity")
    mean, spread = logged["true_p_click"].mean(), np.sqrt(((p / e) ** 2).sum()) / logged.height
    assert abs((p / e).sum() / logged.height - mean) < DEVIATIONS * spread
    assert p.mean() > 1.5 * mean


def test_an_exposure_without_strength_is_at_random():
    rows, _ = whole(Exposure(strength=0.0, rate=0.25), rows=2_000)
    np.testing.assert_allclose(rows["propensity"], 0.25, rtol=1e-6)


@pytest.mark.parametrize("with_position", [False, True])
def test_delay(with_position):
    rows, _ = whole("delay", *(["position"] if with_position else []), fractions=(0.2, 0.1, 0.7))
    assert_probability(rows, "buy", "true_p_buy_seen")
    assert_probability(rows, "buy_eventually", "true_p_buy")
    bought = rows.filter(pl.col("buy_eventually") == 1)
    known = bought.filter(pl.col("buy") == 1)
    assert known.height < bought.height
    assert known["buy_delay_s"].null_count() == 0
    assert rows.filter(pl.col("buy") == 0)["buy_delay_s"].null_count() == rows.height - known.height
    assert ((known["buy_delay_s"] <= known["elapsed_s"]) | known["elapsed_s"].is_null()).all()
    test = rows[rows.height * 3 // 10 :]
    assert test["elapsed_s"].null_count() == test.height
    assert (test["buy"] == test["buy_eventually"]).all()
    # Whole seconds, rounded up: on average half a second above Exp(λ), of about 8,000.
    matured = test.filter(pl.col("buy") == 1)
    mean = column(matured, "true_buy_delay_s")
    assert_mean(column(matured, "buy_delay_s"), mean + 0.5, mean**2)
    assert rows["elapsed_s"].min() == 0


def test_stars():
    rows, _ = whole("stars")
    clicked = rows.filter(pl.col("click") == 1)
    assert (rows["stars"].is_null() == (rows["click"] == 0)).all()
    assert set(clicked["stars"].unique()) == {1, 2, 3, 4, 5}
    levels = np.arange(2, 6)
    p = np.stack([column(clicked, f"true_p_stars_{k}_given_click") for k in levels])
    assert (np.diff(p, axis=0) < 0).all()
    stars, mean = column(clicked, "stars"), column(clicked, "true_stars_given_click")
    for k, each in zip(levels, p, strict=True):
        assert_mean((stars >= k).astype(float), each, each * (1 - each))
    # Var Σ 1[≥ k] = Σ_j Σ_k min(p_j, p_k) − p_j·p_k
    variance = sum(np.minimum(one, two) - one * two for one in p for two in p)
    assert_mean(stars, mean, variance)


@pytest.mark.parametrize("dispersion", [0.0, 0.8])
def test_items(dispersion):
    rows, _ = whole(Items(dispersion=dispersion))
    clicked = rows.filter(pl.col("click") == 1)
    assert (rows["items"].is_null() == (rows["click"] == 0)).all()
    count, mean = column(clicked, "items"), column(clicked, "true_items_given_click")
    variance = mean + dispersion * mean**2
    assert_mean(count, mean, variance)
    assert (count == count.round()).all()
    assert count.min() == 0
    # The mean of (y − μ)² ÷ variance is 1: of 4,800 rows to a few hundredths.
    assert np.mean((count - mean) ** 2 / variance) == pytest.approx(1, abs=0.15)


def test_money():
    money = Money()
    rows, _ = whole(money, fractions=(0.1, 0.1, 0.8))
    bought = rows.filter(pl.col("buy") == 1)
    assert (rows.filter(pl.col("buy") == 0)["spend"] == 0).all()
    mean = column(bought, "true_spend_given_buy")
    # On the scale of logarithms, where it is normal, and in money.
    mu = np.log(mean) - money.sigma**2 / 2
    assert_mean(np.log(column(bought, "spend")), mu, money.sigma**2)
    assert_mean(column(bought, "spend"), mean, mean**2 * np.expm1(money.sigma**2))
    np.testing.assert_allclose(
        rows["true_spend"], rows["true_p_buy"] * rows["true_spend_given_buy"]
    )
    second = column(rows, "true_p_buy") * column(rows, "true_spend_given_buy") ** 2
    p, each = column(rows, "spend"), column(rows, "true_spend")
    assert_mean(p, each, second * np.exp(money.sigma**2) - each**2)


@pytest.mark.parametrize("effect", [True, False])
def test_watch(effect):
    rows, schema = whole(Watch(effect=effect))
    clicked = rows.filter(pl.col("click") == 1)
    assert (rows["watch"].is_null() == (rows["click"] == 0)).all()
    assert "duration_s" in [feature.name for feature in schema.features]
    watch, mean = column(clicked, "watch"), column(clicked, "true_watch_given_click")
    duration = column(clicked, "duration_s")
    # A variable between 0 and d of mean m has at most the variance m·(d − m); else log-normal.
    variance = mean * (duration - mean) if effect else mean**2 * np.expm1(0.6**2)
    assert_mean(watch, mean, variance)
    assert (watch <= duration).all() == effect
    related = np.corrcoef(np.log(duration), np.log(watch))[0, 1]
    assert related > 0.6 if effect else abs(related) < DEVIATIONS / np.sqrt(len(watch))
    assert rows.group_by("205").agg(pl.col("duration_s").n_unique() == 1)["duration_s"].all()


@pytest.mark.parametrize("effect", [True, False])
def test_the_mean_watch_time_is_the_integral(effect):
    rows, _ = whole(Watch(effect=effect), rows=50)
    points, weights = np.polynomial.legendre.leggauss(400)
    normal = np.exp(-((8 * points) ** 2) / 2) * 8 * weights / np.sqrt(2 * np.pi)
    middle = 0.5 * column(rows, "duration_s") if effect else np.full(rows.height, 15.0)
    at = middle * np.exp(0.6 * column(rows, "true_interest"))
    watched = at[:, None] * np.exp(0.6 * 8 * points)
    if effect:
        watched = np.minimum(watched, column(rows, "duration_s")[:, None])
    # The kink at the duration leaves the rule an error of about 1/400².
    np.testing.assert_allclose(rows["true_watch_given_click"], watched @ normal, rtol=1e-4)


def test_choice():
    rows, _ = whole("choice")
    of_request = rows.group_by("request").agg(pl.col("chosen", "true_p_chosen").sum())
    assert (of_request["chosen"] == 1).all()
    np.testing.assert_allclose(of_request["true_p_chosen"], 1, rtol=1e-12)
    # Negatively related within a request, so the variance of independent rows is an upper bound.
    assert_probability(rows, "chosen", "true_p_chosen")
    assert rows["true_p_chosen"].max() > 0.5


def test_drift():
    rows, _ = whole("drift", rows=ROWS, users=2_000)
    plain, _ = whole(rows=ROWS, users=2_000)
    for name in ("click", "buy"):
        assert_probability(rows, name, f"true_p_{name}")
    for day in (0, 5, 9):
        assert_probability(rows.filter(pl.col("day") == day), "click", "true_p_click")
    sizes = rows.group_by("day").len().sort("day")
    assert sizes["day"].to_list() == list(range(10))
    assert sizes["len"].min() > 0.98 * ROWS / 10
    assert rows["time"].is_sorted()
    assert ((rows["time"] - rows["time"][0]) // 86_400 == rows["day"]).all()
    assert (rows["item_day"] <= rows["day"]).all()
    assert rows.filter(pl.col("item_day") > 0).height > 0.05 * ROWS
    assert (rows.filter(pl.col("day") == 0)["true_drift"] == 0).all()
    last = rows.filter(pl.col("day") == 9).group_by("206").agg(pl.col("true_drift").first())
    assert 0.2 < last["true_drift"].std() < 0.9  # 9 steps of .15: .45
    kept = rows["205"] == plain["205"]
    assert 0.7 < kept.mean() < 1
    fields = ["101", "121", "301", "508", "509", "request"]
    assert_frame_equal(rows[fields], plain[fields])
    items = rows.group_by("205").agg(pl.col("206", "207", "D509").n_unique() == 1)
    assert items.select(pl.all_horizontal("206", "207", "D509").all()).item()


def test_parts_act_in_their_order_whatever_the_order_given():
    names = [each.name for each in chosen(tuple(reversed(PARTS)))]
    assert names == [each.name for each in chosen(tuple(PARTS))]
    one, other = (whole(*order, rows=500)[0] for order in (PARTS, tuple(reversed(PARTS))))
    assert_frame_equal(one, other)


def test_a_part_of_ones_own():
    class Constant(Part):
        name, stage = "constant", "outcome"

        def apply(self, log, to_world, to_log):
            return log.adding(true_nothing=np.zeros(log.rows))

    assert "true_nothing" in whole(Constant(), rows=100)[0].columns


def test_ranks_agree_with_a_plain_loop():
    rng = np.random.default_rng(0)
    request, key = np.sort(rng.integers(0, 30, 200)), rng.random(200)
    for row, rank in enumerate(ranks(request, key)):
        own = key[request == request[row]]
        assert rank == 1 + (own < key[row]).sum()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["exposre"], "unknown part 'exposre'; did you mean 'exposure'"),
        ([3], "a part must be a name or a Part, got 3"),
        (["delay", Delay()], "the part 'delay' is given twice"),
    ],
)
def test_what_is_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        synthetic(100, parts=parts)


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (Delay, {"share": 0}, "delay: share must be a number above 0, got 0"),
        (Delay, {"spread": -1}, "delay: spread must be a number of at least 0, got -1"),
        (Exposure, {"floor": 0}, "exposure: floor must be a number above 0 and below 1, got 0"),
        (Exposure, {"rate": 0.01}, "exposure: rate must be a number above 0.02 and below 1"),
        (Exposure, {"noise": -1}, "exposure: noise must be a number of at least 0, got -1"),
        (Exposure, {"strength": "a"}, "exposure: strength must be a finite number, got 'a'"),
        (Choice, {"spread": -1}, "choice: spread must be a number of at least 0, got -1"),
        (Drift, {"days": 1}, "drift: days must be a whole number of at least 2, got 1"),
        (Drift, {"new": 1}, "drift: new must be a number of at least 0 and below 1, got 1"),
        (Drift, {"spread": -1}, "drift: spread must be a number of at least 0, got -1"),
        (Items, {"mean": 0}, "items: mean must be a number above 0 and at most 1000, got 0"),
        (Items, {"spread": -1}, "items: spread must be a number of at least 0, got -1"),
        (Items, {"dispersion": -1}, "items: dispersion must be a number of at least 0, got -1"),
        (Money, {"median": 0}, "money: median must be a number above 0, got 0"),
        (Money, {"spread": -1}, "money: spread must be a number of at least 0, got -1"),
        (Money, {"sigma": 4}, "money: sigma must be a number above 0 and at most 3, got 4"),
        (Reactions, {"spread": -1}, "reactions: spread must be a number of at least 0, got -1"),
        (Stars, {"spread": -1}, "stars: spread must be a number of at least 0, got -1"),
        (Watch, {"interest": -1}, "watch: interest must be a number of at least 0, got -1"),
        (Watch, {"noise": 0}, "watch: noise must be a number above 0, got 0"),
        (Position, {"power": -1}, "position: power must be a number of at least 0, got -1"),
        (Position, {"noise": -1}, "position: noise must be a number of at least 0, got -1"),
    ],
)
def test_what_no_part_may_have(part, options, message):
    with pytest.raises(ConfigError, match=message):
        part(**options)
