"""Each method's losses and gradients are those of its paper's equation, in float64."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.data.delays import with_cut
from polyrank.data.statistics import term_statistics
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.delay import DELAY
from polyrank.errors import DataError, SchemaError
from polyrank.objective.losses import Supervision

DAY = 86_400
W = 5 * DAY
EARLY = [kind for kind in DELAY if kind != "mask"]


def facts(batch, space):
    """Return what the equations are made of, from the raw log and from probabilities."""
    column = {name: torch.tensor(batch.log[name].to_list(), dtype=torch.float64)
              for name in ("time", "click", "buy", "buy_time")}  # fmt: skip
    e = (column["time"].max() - column["time"]) / W
    d = (column["buy_time"] - column["time"]) / W
    bought = (column["buy"] == 1) & (d <= 1)
    clicked, unclicked = column["click"] == 1, column["click"] == 0
    observed = ~column["buy"].isnan()
    r = batch.z["buy"].sigmoid()
    p = r if space == "click" else r * batch.z["click"].sigmoid()
    known_no = observed & ~bought & (e >= 1)
    rows = clicked & observed
    if space == "all":
        rows = rows | unclicked | known_no
    head = {n.partition("#")[2]: z for n, z in batch.z.items() if "#" in n}
    term = next(each for each in batch.supervision.schema.objective if each.method is not None)
    return SimpleNamespace(
        e=e, d=d, bought=bought, rows=rows, clicked=clicked & observed, p=p, head=head,
        w=batch.weight, over=unclicked | known_no, mature=rows & (e >= 1),
        delay=batch.supervision.schema.by_name["buy"].delay, positive=term.positive_weight,
    )  # fmt: skip


def total(c, usable, *parts):
    """Return Σ w·factor·loss over the rows of each part ÷ Σ w over the usable rows."""
    found = sum((c.w * factor * loss)[rows].sum() for rows, factor, loss in parts)
    return found / c.w[usable].sum()


def dfm(c, space):
    rate = torch.nn.functional.softplus(c.head["hazard"]) + 1e-6
    share = 1 - torch.exp(-rate)
    density = rate * torch.exp(-rate * c.d.nan_to_num(0.5)) / share
    survival = (torch.exp(-rate * c.e.clamp(max=1)) - torch.exp(-rate)) / share
    yes = c.clicked & c.bought
    no = c.over & ~yes if space == "all" else c.clicked & ~yes & (c.e >= 1)
    left = c.clicked & ~yes & (c.e < 1)
    return {
        "": total(
            c, c.rows, (yes, c.positive, -(c.p * density).log()), (no, 1, -(1 - c.p).log()),
            (left, 1, -(1 - c.p + c.p * survival).log()),
        )
    }  # fmt: skip


def fnw(c, _):
    p, length = c.p.detach(), c.delay.length
    yes = c.clicked & c.bought & (c.e - c.d <= length)
    entered = c.clicked & (c.e <= length)
    return {
        "": total(
            c, c.rows, (yes, c.positive * (1 + p), -c.p.log()),
            (entered, (1 - p) * (1 + p), -(1 - c.p).log()),
        )
    }  # fmt: skip


def ages(c):
    """Return the rows that entered after the wait, and those that entered again at an age."""
    length = c.delay.length

    def at(age):
        return c.clicked & (c.e >= age) & (c.e - age <= length)

    early = c.bought & (c.d <= c.delay.waited)
    return at, early, c.bought & ~early


def delayed(c):
    head = c.head["delayed"].sigmoid()
    late = ages(c)[2]
    return total(c, c.mature, (c.mature & late, 1, -head.log()),
                 (c.mature & ~late, 1, -(1 - head).log()))  # fmt: skip


def es_dfm(c, _):
    at, early, late = ages(c)
    q, real = c.head["delayed"].sigmoid().detach(), c.head["real_negative"].sigmoid()
    s, entered, again = real.detach(), at(c.delay.waited), late & at(c.d)
    return {
        "": total(
            c, c.rows,
            (entered & early, c.positive * (1 + q), -c.p.log()),
            (again, c.positive * (1 + q), -c.p.log()),
            (entered & ~early, (1 + q) * s, -(1 - c.p).log()),
        ),
        "delayed": delayed(c),
        "real_negative": total(
            c, c.mature, (c.mature & ~c.bought, 1, -real.log()),
            (c.mature & late, 1, -(1 - real).log()),
        ),
    }  # fmt: skip


def defer(c, _):
    at, early, late = ages(c)
    p, q = c.p.detach(), torch.minimum(c.head["delayed"].sigmoid(), c.p).detach()
    positive, negative = c.positive * p / (p - q / 2), (1 - p) / (1 - p + q / 2)
    entered, ended, again = at(c.delay.waited), at(1.0), late & at(c.d)
    yes, no = -c.p.log(), -(1 - c.p).log()
    return {
        "": total(
            c, c.rows, (entered & early, positive, yes), (ended & early, positive, yes),
            (again, positive, yes), (entered & ~early, negative, no),
            (ended & ~early & ~late, negative, no),
        ),
        "delayed": delayed(c),
    }  # fmt: skip


CASES = [
    ("dfm", dfm, {}, "click"), ("dfm", dfm, {}, "all"), ("fnw", fnw, {}, "click"),
    ("fnw", fnw, {"stream": "6d"}, "click"), ("es_dfm", es_dfm, {}, "click"),
    ("es_dfm", es_dfm, {"wait": "1d", "stream": "8d"}, "click"), ("defer", defer, {}, "click"),
    ("defer", defer, {"wait": "2d", "stream": "7d"}, "click"),
]  # fmt: skip


def test_every_method_has_its_equation_here():
    assert {name for name, *_ in CASES} == set(EARLY)


@pytest.mark.parametrize(("kind", "equation", "options", "space"), CASES)
@pytest.mark.parametrize("seed", range(5))
def test_losses_and_gradients_are_those_of_the_equation(
    make_batch, kind, equation, options, space, seed
):
    batch = make_batch(kind, space=space, positive_weight=1.7, seed=seed, **options)
    expected = equation(facts(batch, space), space)
    found = batch.losses()
    names = [term.name for term in batch.supervision.schema.objective if term.method]
    assert [(name.partition("[")[2][len(kind) + 1 : -1]) for name in names] == list(expected)
    for name, theirs in zip(names, expected.values(), strict=True):
        # The batch holds e and d as float32.
        torch.testing.assert_close(found[name], theirs, rtol=1e-6, atol=1e-9)
        mine, its = batch.gradients(found[name]), batch.gradients(theirs)
        for head in mine:
            torch.testing.assert_close(mine[head], its[head], rtol=1e-5, atol=1e-9)
            assert its[head].any() or not mine[head].any()  # what is constant, to the bit


@pytest.mark.parametrize("kind", EARLY)
def test_rows_of_another_population_teach_nothing(make_batch, kind):
    batch = make_batch(kind)
    unclicked = batch.labels.clone()
    unclicked[:, 0] = 0.0
    for term in batch.supervision.schema.objective:
        loss = batch.losses(unclicked)[term.name]
        gradients = batch.gradients(loss)
        assert loss.isfinite()
        if term.method is not None:
            assert loss.item() == 0
            assert not any(each.any() for each in gradients.values())


@pytest.mark.parametrize("kind", EARLY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_keep_losses_and_gradients_finite(make_batch, kind, dtype):
    batch = make_batch(kind, spread=60.0)
    batch.z = {name: z.detach().to(dtype).requires_grad_() for name, z in batch.z.items()}
    batch.weight = batch.weight.to(dtype)
    total = torch.stack(list(batch.losses(batch.labels.to(dtype)).values())).sum()
    assert total.isfinite()
    assert all(each.isfinite().all() for each in batch.gradients(total).values())


@pytest.mark.parametrize("kind", EARLY)
def test_parts_of_a_batch_add_up(make_batch, kind):
    batch = make_batch(kind)
    parts = []
    for rows in (slice(0, 150), slice(150, 400)):
        z = {name: each[rows] for name, each in batch.z.items()}
        losses, _ = batch.supervision.losses(
            z, batch.labels[rows], batch.weight[rows], joined=400
        )  # fmt: skip
        parts.append(losses)
    for name, loss in batch.losses().items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], loss, rtol=1e-9, atol=1e-12)


def test_the_delay_of_dfm_is_a_distribution():
    """f integrates to 1 − S(e), for any rate."""
    for logit in (-40.0, -2.0, 0.0, 3.0, 30.0):
        rate = float(np.logaddexp(logit, 0)) + 1e-6
        grid = np.linspace(0, 1, 200_001)
        density = rate * np.exp(-rate * grid) / -np.expm1(-rate)
        whole = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)]) / 200_000
        survival = (np.exp(-rate * grid) - np.exp(-rate)) / -np.expm1(-rate)
        np.testing.assert_allclose(whole, 1 - survival, atol=1e-6)


@pytest.mark.parametrize("kind", EARLY)
@pytest.mark.parametrize("spread", [0.5, 5.0, 20.0])
def test_float32_is_enough(make_batch, kind, spread):
    """Logarithms of shares are summed, never logarithms of differences that float32 loses."""
    batch = make_batch(kind, spread=spread)
    exact = batch.losses()
    batch.z = {name: z.detach().float() for name, z in batch.z.items()}
    batch.weight = batch.weight.float()
    for name, loss in batch.losses(batch.labels.float()).items():
        torch.testing.assert_close(loss.double(), exact[name].detach(), rtol=2e-5, atol=1e-6)


P, DELAYS = np.array([0.15, 0.5]), np.array([4.0, 1.5]) * DAY  # of two items
WITHIN = P * -np.expm1(-7 * DAY / DELAYS)


def stream(rows, seed, growth=1.0):
    """Return 24 days of two items whose purchases come late, read at the end."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 2, rows)
    time = np.sort(24 * DAY * rng.random(rows) ** (1 / growth))
    bought = time + rng.exponential(DELAYS[item])
    buy = (rng.random(rows) < P[item]) & (bought <= time[-1])
    return pl.DataFrame(
        {"item": item, "time": time, "buy": buy.astype(float),
         "buy_time": np.where(buy, bought, np.nan)}
    )  # fmt: skip


def learned(kind, log):
    """Return p of each item where the objective is least: one number a head and item."""
    delay = DELAY[kind](time="buy_time", window="7d", **({"wait": "1d"} if kind in WAITING else {}))
    schema = pr.Schema(
        [pr.SparseFeature("item")], [pr.Task("buy", delay=delay)], pr.Keys(time="time")
    )  # fmt: skip
    schema = with_cut(schema, log)
    table = encode(log, schema, Vocab.fit(log, schema))
    labels, item = torch.from_numpy(table.labels).double(), torch.tensor(log["item"].to_list())
    supervision = Supervision(schema, term_statistics(table))
    own = {head.name: torch.zeros(2, dtype=torch.float64, requires_grad=True)
           for head in schema.heads}  # fmt: skip
    # Weights are constants of the current heads: solved for again until they stay.
    optimizer = torch.optim.Adam(own.values(), lr=0.1)
    for step in range(400):
        if step == 300:
            optimizer.param_groups[0]["lr"] = 0.01
        optimizer.zero_grad()
        z = {name: each[item] for name, each in own.items()}
        torch.stack(list(supervision.losses(z, labels, None)[0].values())).sum().backward()
        optimizer.step()
    return own["buy"].sigmoid().detach().numpy()


WAITING = ("es_dfm", "defer")
LOG = stream(20_000, seed=8)
# Of the mean of the mature rows, about 7,000 of each item; no method here is to be worse.
ERROR = np.sqrt(WITHIN * (1 - WITHIN) / 7_000)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DELAY)
def test_a_method_recovers_the_rate_of_a_stationary_stream(kind):
    assert (np.abs(learned(kind, LOG) - WITHIN) < 4 * ERROR).all()


def test_naive_labels_are_too_low_and_masking_negatives_alone_is_too_high():
    log = LOG.with_columns(age=LOG["time"].max() - pl.col("time"))
    on_time = (pl.col("buy_time") - pl.col("time") <= 7 * DAY) & (pl.col("buy") == 1)
    log = log.with_columns(label=on_time.fill_null(value=False).cast(pl.Float64))
    naive = log.group_by("item").agg(pl.col("label").mean()).sort("item")["label"].to_numpy()
    assert (naive < WITHIN - 4 * ERROR).all()
    kept = log.filter((pl.col("age") >= 7 * DAY) | (pl.col("label") == 1))
    early = kept.group_by("item").agg(pl.col("label").mean()).sort("item")["label"].to_numpy()
    assert (early > WITHIN + 4 * ERROR).all()


@pytest.mark.slow
def test_growing_traffic_biases_fnw_most_and_dfm_not():
    """The older rows whose events are in the stream are too few for those still missing.

    Of `defer`, as many final labels of young rows are missing, of either kind.
    """
    log = stream(40_000, seed=9, growth=3.0)  # about 7,000 mature rows of each item
    off = {kind: learned(kind, log) - WITHIN for kind in EARLY}
    assert (np.abs(off["dfm"]) < 4 * ERROR).all()
    assert (off["fnw"] < -4 * ERROR).all()
    assert (off["fnw"] < off["es_dfm"]).all()
    assert off["es_dfm"].mean() < 0
    assert (np.abs(off["defer"]) < np.abs(off["fnw"]) / 2).all()


@pytest.mark.parametrize("kind", ["fnw", "es_dfm", "defer"])
def test_a_log_too_short_for_a_stream_is_refused(make_batch, kind):
    message = f"delay '{kind}' needs a log of its stream of '16d' and the window of 432000 before"
    with pytest.raises(DataError, match=f"{message} it, got 20 days"):
        make_batch(kind, stream="16d")
    with pytest.raises(DataError, match="needs a log of a stream and the window of '30d' before"):
        DELAY[kind](time="buy_time", window="30d").closed(0.0, 20 * DAY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pr.FNW(time="t", window="7d", stream="all"),
            "delay 'fnw': stream must be .*'all'",
        ),
        (lambda: pr.ESDFM(time="t", window="7d", wait="x"), "delay 'es_dfm': wait must be .* 'x'"),
        (
            lambda: pr.DEFER(time="t", window="7d", wait="1w"),
            "delay 'defer': wait must be shorter than the window of '7d', got '1w'",
        ),
        (
            lambda: pr.Task("buy", given="click", debias="ips", delay=pr.DFM(time="t", window=1)),
            "delay 'dfm' and debias both replace the loss: leave debias out, or use delay 'mask'",
        ),
        (
            lambda: pr.Task("buy", ranking="pairwise", delay=pr.FNW(time="t", window=1)),
            "delay 'fnw' and ranking both replace the loss",
        ),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(SchemaError, match=message):
        make()


def test_streams_learn_in_their_own_population():
    tasks = [
        pr.Task("click"),
        pr.Task("buy", given="click", space="all", delay=pr.FNW(time="t", window=1)),
    ]  # fmt: skip
    with pytest.raises(SchemaError, match="space must be 'click', got 'all'; or use 'mask'"):
        pr.Schema([pr.SparseFeature("item")], tasks, pr.Keys(time="time"))


def test_esmm_takes_what_learns_on_all_rows():
    def supervised(delay):
        tasks = [pr.Task("click"), pr.Task("buy", given="click", delay=delay)]
        own = pr.Schema([pr.SparseFeature("item")], tasks, pr.Keys(time="time"))
        return [term.name for term in pr.ESMM().supervised(own).objective]

    assert supervised(pr.DFM(time="t", window=1)) == ["click @ all", "buy @ all [dfm]"]
    assert supervised(pr.DelayMask(time="t", window=1)) == ["click @ all", "buy @ all"]
    with pytest.raises(SchemaError, match="space must be 'click', got 'all'"):
        supervised(pr.DEFER(time="t", window=1))
