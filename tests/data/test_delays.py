"""Labels that time decides: maturity by time and never by the label, in every form of times."""

import logging
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import polyrank as pr
from polyrank.data import stream
from polyrank.data.check.log import check
from polyrank.data.delays import Times, cuts, statistics, with_cut
from polyrank.data.statistics import term_labels, term_statistics
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.delay.method import IMMATURE, seconds_of
from polyrank.errors import ConfigError, DataError, PolyrankError, SchemaError
from polyrank.objective.losses import Supervision
from polyrank.terms import joint_label
from polyrank.train.sources import Sources
from polyrank.train.sources import encoded as tables_of

DAY = 86_400
START = datetime(2026, 3, 1)


def schema(window="2d", now=None, parent="click", **task):
    tasks = [pr.Task("click")] if parent else []
    delay = pr.DelayMask(time="buy_time", window=window, now=now)
    tasks.append(pr.Task("buy", given=parent, delay=delay, **task))
    return pr.Schema([pr.SparseFeature("item")], tasks, pr.Keys(time="time"))


def rows(**columns):
    """Six impressions on days 0 to 5; four are clicked, three bought."""
    frame = pl.DataFrame(
        {
            "item": [1, 2, 1, 2, 1, 2],
            "time": [0.0, 1, 2, 3, 4, 5],
            "click": [1, 1, 1, 0, 1, 0],
            "buy": [1, 1, 0, 0, 1, 0],
            "buy_time": [1.0, 4.0, None, None, 4.5, None],
        }
    ).with_columns(pl.col("time", "buy_time") * DAY)
    return frame.with_columns(**columns)


def encoded(frame, found=None):
    found = schema() if found is None else found
    return encode(frame, found, Vocab.fit(frame, found), split="train")


def test_a_label_is_decided_by_time():
    table = encoded(rows())
    inf, nan = IMMATURE, np.nan
    # The cut is day 5. Day 1's purchase came after 3 days; days 4 and 5 are younger than 2.
    np.testing.assert_array_equal(table.labels[:, 1], [1, 0, 0, 0, inf, inf])
    np.testing.assert_array_equal(table.labels[:, 2], [2.5, 2, 1.5, 1, 0.5, 0])
    np.testing.assert_array_equal(table.labels[:, 3], [0.5, 1.5, nan, nan, 0.25, nan])
    assert table.labels.shape == (6, 4)


def test_every_population_with_the_task_on_its_path_loses_young_rows_and_no_other():
    found = schema(space=("all", "click"))
    table = encoded(rows(), found)
    counted = term_statistics(table)
    assert {name: (each.rows, each.positives) for name, each in counted.items()} == {
        "click @ all": (6, 4),
        "buy @ all": (4, 1),  # neither the young click nor the young row without one
        "buy|click @ click": (3, 1),
    }


def test_descendants_lose_them_too():
    tasks = [*schema().tasks, pr.Task("spend", kind="regression", given="buy")]
    found = pr.Schema([pr.SparseFeature("item")], tasks, pr.Keys(time="time"))
    table = encoded(rows(spend=pl.Series([3.0, 4, 5, 6, 7, 8])), found)
    label = term_labels(table, found.objective.terms[2].population)
    np.testing.assert_array_equal(label, [3.0, *[np.nan] * 5])


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), window=st.floats(0.5, 9), weighted=st.booleans(),
    hold=st.booleans(),
)  # fmt: skip
def test_losses_and_gradients_are_those_of_the_mature_rows(seed, window, weighted, hold):
    """In float64, against the same log without its young rows."""
    rng = np.random.default_rng(seed)
    size = 60
    time = rng.integers(0, 10 * DAY, size).astype(float)
    time[:2] = 0, 10 * DAY
    click = rng.random(size) < 0.6
    delay = rng.exponential(2 * DAY, size)
    buy = click & (rng.random(size) < 0.5)
    seconds = round(window * DAY)
    click[:3] = buy[:3] = True
    time[2], delay[2], time[3], click[3], buy[3] = 0, 1, 0, True, False
    frame = pl.DataFrame(
        {
            "item": rng.integers(0, 3, size), "time": time, "click": click.astype(float),
            "buy": buy.astype(float), "buy_time": np.where(buy, time + delay, np.nan),
            "weight": rng.uniform(0.5, 2, size) if weighted else np.ones(size),
        }
    )  # fmt: skip
    keys = pr.Keys(time="time", weight="weight")
    own = pr.Schema(
        [pr.SparseFeature("item")],
        [
            pr.Task("click"),
            pr.Task(
                "buy", given="click", space="all", hold_ancestors=hold,
                delay=pr.DelayMask(time="buy_time", window=seconds),
            ),
        ],
        keys,
    )  # fmt: skip
    mature = frame.filter(frame["time"].max() - pl.col("time") >= seconds).with_columns(
        pl.when(pl.col("buy_time") - pl.col("time") > seconds)
        .then(0.0)
        .otherwise(pl.col("buy"))
        .alias("buy")
    )
    plain = pr.Schema(
        [pr.SparseFeature("item")],
        [pr.Task("click"), pr.Task("buy", given="click", space="all", hold_ancestors=hold)], keys,
    )  # fmt: skip
    if not 0 < mature["buy"].sum() < mature.height:
        return
    logits = {name: torch.from_numpy(rng.normal(size=size)) for name in ("click", "buy")}
    found = []
    for one, log in ((own, frame), (plain, mature)):
        table = encoded(log, one)
        kept = torch.tensor((frame["time"].max() - frame["time"].to_numpy() >= seconds).tolist())
        z = {
            name: (each if log is frame else each[kept]).clone().requires_grad_()
            for name, each in logits.items()
        }
        weight = torch.tensor(log["weight"].to_list(), dtype=torch.float64)
        supervision = Supervision(one, term_statistics(table))
        loss = supervision.losses(z, torch.from_numpy(table.labels).double(), weight)[0]
        loss = loss["buy @ all"]
        gradients = torch.autograd.grad(loss, list(z.values()), materialize_grads=True)
        gradients = [each if log is mature else each[kept] for each in gradients]
        found.append([loss, *gradients])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(labels=st.lists(st.lists(st.sampled_from([0.0, 1.0, np.nan, IMMATURE]), min_size=3,
                                max_size=3), min_size=1, max_size=20))  # fmt: skip
def test_what_is_immature_outweighs_every_other_label(labels):
    columns = np.array(labels).T
    found = joint_label(list(columns))
    for row, joint in zip(labels, found, strict=True):
        if IMMATURE in row:
            assert np.isnan(joint)
        elif 0.0 in row:
            assert joint == 0
        else:
            assert np.isnan(joint) if np.isnan(row).any() else joint == 1
    np.testing.assert_array_equal(np.array(labels).T, columns)  # and changes none


def texts(form, shift=timedelta(0)):
    return lambda seconds: [
        None if each is None else (START + shift + timedelta(seconds=each)).strftime(form)
        for each in seconds
    ]


@pytest.mark.parametrize(
    "write",
    [
        lambda seconds: pl.Series(seconds, dtype=pl.Float64),
        lambda seconds: pl.Series(
            [None if each is None else START + timedelta(seconds=each) for each in seconds]
        ),
        lambda seconds: pl.Series(
            [
                None if each is None else (START + timedelta(seconds=each)).replace(tzinfo=UTC)
                for each in seconds
            ]
        ).dt.convert_time_zone("Asia/Shanghai"),
        texts("%Y-%m-%dT%H:%M:%S"),
        texts("%Y-%m-%d %H:%M"),
        texts("%Y-%m-%dT%H:%M:%S.%f"),
        texts("%Y-%m-%dT%H:%M:%SZ"),
        texts("%Y-%m-%dT%H:%M:%S+08:00", timedelta(hours=8)),
        lambda seconds: [None if each is None else f"{each:.0f}" for each in seconds],
    ],
)
def test_times_are_numbers_dates_or_text(write):
    frame = rows()
    same = frame.with_columns(
        pl.Series("time", write(frame["time"].to_list())),
        pl.Series("buy_time", write(frame["buy_time"].to_list())),
    )
    closed = with_cut(schema(), same)
    np.testing.assert_array_equal(encoded(same, closed).labels, encoded(frame).labels)
    now = closed.by_name["buy"].delay.now
    assert pr.Schema.from_json(closed.to_json()) == closed
    assert now == 5 * DAY or str(now).startswith("2026-03-06T00:00:00")


def test_dates_are_midnights_and_offsets_may_differ_between_the_columns():
    days = Times.of(pl.Series("day", [START.date()]))
    assert days.seconds[0] == START.replace(tzinfo=UTC).timestamp()
    zoned = START.replace(tzinfo=timezone(timedelta(hours=-3, minutes=-30)))
    assert Times.of(pl.Series([zoned.isoformat()])).seconds[0] == zoned.timestamp()


def test_the_cut_is_the_latest_training_row_or_what_is_told():
    assert with_cut(schema(), rows()).by_name["buy"].delay.now == 5 * DAY
    told = schema(now=7 * DAY)
    assert with_cut(told, rows()) == told
    assert not np.isinf(encoded(rows(), told).labels[:, 1]).any()
    # Later rows were read later.
    later = rows(time=pl.col("time") + 30 * DAY)
    assert cuts(later, told, "test") == {"buy": 35 * DAY}
    assert cuts(rows(), told, "test") == {"buy": 7 * DAY}
    with pytest.raises(DataError, match=r"train: delay of task 'buy': now = 86400.0 lies before"):
        cuts(rows(), schema(now=DAY), "train")


def test_an_event_after_the_cut_is_not_known_yet():
    bought = pl.Series([1.0, 4, None, None, 5.5, None]) * DAY
    found = statistics(schema(), encoded(rows(buy_time=bought)).labels)["buy"]
    assert (found.events, found.early_events, found.late_events) == (1, 0, 1)


def test_chunks_of_a_log_are_cut_where_the_log_is():
    own = schema()
    whole = encoded(rows())
    plan = stream.Plan(rows=6, chunk_rows=2)
    parts = stream.encoded_chunks(
        rows(), own, Vocab.fit(rows(), own), plan, "train", orphans="error", carried=(),
        numbers=False,
    )  # fmt: skip
    np.testing.assert_array_equal(np.concatenate([each.labels for each in parts]), whole.labels)


def test_rows_to_predict_need_no_times():
    bundle = pr.fit(
        schema(parent=None), pr.Model(wide=False, trees=False), train=rows(), epochs=1
    )  # fmt: skip
    assert bundle.predict({"item": [1, 2, 3]})["p_buy"].is_between(0, 1).all()


def test_counts_are_told(caplog):
    with caplog.at_level(logging.INFO, "polyrank"):
        encoded(rows())
    assert (
        "train: 2 rows of label 'buy' (task 'buy') with an impression younger than the window of "
        "'2d' at the log's cut: they leave every term whose path has the task" in caplog.text
    )
    assert "1 row of label 'buy' (task 'buy') with an event after the window of '2d'" in caplog.text


def test_counts_are_information_and_no_warning_of_orphans(caplog):
    with caplog.at_level(logging.INFO, "polyrank"):
        tables_of(with_cut(schema(), rows()), Sources(rows()))
    told = [each for each in caplog.records if "younger than the window" in each.getMessage()]
    assert [each.levelname for each in told] == ["INFO"]


def test_the_audit_counts_them():
    found = {each.check: each for each in check(schema(), {"train": rows()}).findings}
    assert found["immature"].numbers == {"rows": 2, "share": 2 / 6}
    assert found["late-event"].numbers["rows"] == 1
    assert not found.keys() & {"no-time", "values"}
    broken = rows(buy_time=pl.lit(None, pl.Float64))
    audit = check(schema(), {"train": broken})
    assert audit.failed
    assert any(each.check == "no-time" for each in audit.findings)
    without = check(schema(), {"train": rows().drop("time")})
    assert any(each.check == "no-time" for each in without.findings)


def test_the_audit_says_how_rows_that_are_too_young_come_to_be_scored():
    newest = rows().filter(pl.col("time") > 3 * DAY)
    audit = check(schema(), {"train": rows(), "valid": newest})
    (found, *_) = [each for each in audit.findings if each.check == "no-labels"]
    assert "'buy @ all' has no row with an observed label: its rows are younger" in found.message
    assert "say by `now` of the delay when the log was read" in found.remedy
    assert "or split at random or by user" in found.remedy


def test_a_position_is_compared_with_the_labels_that_are_known():
    frame = rows().with_columns(position=pl.Series([1, 2, 3, 1, 2, 3]))
    audit = check(schema(), {"train": pl.concat([frame] * 100)})  # numpy warns of what is no number
    (found,) = [each for each in audit.findings if each.check == "position-no-feature"]
    assert np.isfinite(found.numbers["correlation"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"time": pl.lit(None, pl.Float64)}, "needs the time of impressions, and 'time' has none"),
        (
            {"time": pl.when(pl.col("time") > 0).then("time")},
            r"train: 1 row of label 'buy' \(task 'buy'\) with no time 'time' of its impression",
        ),
        ({"buy_time": pl.lit(None, pl.Float64)}, "3 rows .* with no time 'buy_time' of its event"),
        (
            {"buy_time": pl.col("buy_time") - 2 * DAY},
            "2 rows .* with a time 'buy_time' before that of its impression, 'time', the first in "
            "row 0",
        ),
        (
            {"buy_time": pl.when(pl.col("buy") == 1).then(pl.lit("2026-03-09"))},
            "its times 'buy_time' are dates, and the times of impressions in 'time' are numbers",
        ),
        ({"buy_time": pl.lit("soon")}, "the times in 'buy_time' must be numbers, dates, or ISO"),
        ({"time": pl.lit(True)}, "the times in 'time' must be numbers of seconds, dates, .* Bool"),
    ],
)
def test_times_that_cannot_be_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        encoded(rows(**columns))


def test_a_log_without_the_columns_is_refused():
    with pytest.raises(DataError, match="'time' is no column"):
        encoded(rows().drop("time"))
    with pytest.raises(DataError, match="buy_time"):
        encoded(rows().drop("buy_time"))


def test_a_log_younger_than_its_window_is_refused():
    found = schema(window="9d")
    with pytest.raises(
        DataError,
        match=r"term 'buy\|click @ click' has no usable rows in train \(no row has an observed "
        r"label 'buy' where 'click' happened and is older than the window of 'buy'\)",
    ):
        Supervision.of(encoded(rows(), found))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"window": "7d"}, "task.delay: the key 'time' is missing"),
        ({"tme": "t", "window": "7d"}, "task.delay: unknown key 'tme'; did you mean 'time'"),
        ({"kind": "dmf", "time": "t", "window": 1}, "task.delay: unknown kind 'dmf'.*'dfm'"),
        ({"time": "t", "window": "1y"}, "task.delay: delay 'mask': window must be .*, got '1y'"),
    ],
)
def test_what_a_file_cannot_say_is_refused(table, message):
    with pytest.raises(PolyrankError, match=message):
        pr.Task.from_table({"name": "buy", "delay": table})


def test_a_time_without_an_event_is_counted_and_says_nothing(caplog):
    with caplog.at_level(logging.INFO, "polyrank"):
        table = encoded(rows(buy_time=pl.col("time") + 1))
    assert "3 rows of label 'buy' (task 'buy') with a time 'buy_time' and no event" in caplog.text
    assert np.isnan(table.labels[[2, 3, 5], 3]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schema(window="soon"), "window must be a number of seconds above 0 or a text such "
                                        "as .*, got 'soon'"),
        (lambda: schema(window="0d"), "window must be .*, got '0d'"),
        (lambda: schema(window=-1), "window must be a number above 0, got -1"),
        (lambda: schema(window=True), "window must be a number above 0, got True"),
        (lambda: pr.DelayMask(time="", window=1), "delay 'mask': time must name a column, got ''"),
        (lambda: schema(now=float("nan")), "delay 'mask': now must be a finite number, got nan"),
        (lambda: pr.Task("buy", delay="mask"), "delay: 'mask' needs options: write"),
        (lambda: pr.Task("buy", delay="msk"), "unknown kind 'msk'.*'mask'"),
        (lambda: pr.Task("buy", delay=3), "delay must be a name or a Delay, got 3"),
        (
            lambda: pr.Task("spend", kind="regression", delay=pr.DelayMask(time="t", window=1)),
            "task 'spend': delay needs an event, such as kind 'binary', got 'regression'",
        ),
        (
            lambda: pr.Task("buy", delay=pr.DelayMask(time="buy", window=1)),
            "delay reads the time of the event in 'buy', which is its label",
        ),
    ],
)  # fmt: skip
def test_bad_options_are_refused(make, message):
    with pytest.raises(SchemaError, match=message):
        make()


@pytest.mark.parametrize(
    ("features", "keys", "message"),
    [
        (["item"], {}, "task 'buy': delay runs from the time of the impression: name its column"),
        (["item"], {"time": "buy_time"}, "'buy_time' is the time of the impression; name another"),
        (["item", "buy_time"], {"time": "time"}, "'buy_time' is both a feature and what a label"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(features, keys, message):
    tasks = [pr.Task("buy", delay=pr.DelayMask(time="buy_time", window=1))]
    with pytest.raises(SchemaError, match=message):
        pr.Schema([pr.SparseFeature(name) for name in features], tasks, pr.Keys(**keys))
    with pytest.raises(SchemaError, match="the time 'click' of its delay is a label"):
        pr.Schema(
            [pr.SparseFeature("item")],
            [pr.Task("click"), pr.Task("buy", delay=pr.DelayMask(time="click", window=1))],
            pr.Keys(time="time"),
        )


def test_sampling_by_a_late_label_is_refused():
    with pytest.raises(ConfigError, match="sampling: task 'buy' has a delay"):
        pr.Sampling("buy", keep=0.5).check(schema(parent=None))


def test_windows_are_seconds_or_text():
    spans = ("90s", "30m", "12h", "7d", "2w", "1.5 h", 5)
    found = [seconds_of(each, "window") for each in spans]
    assert found == [90, 1_800, 43_200, 604_800, 1_209_600, 5_400, 5]


@pytest.mark.parametrize("more", [{"debias": "ddpo"}, {"ranking": "pairwise"}])
def test_the_mask_stands_beside_other_losses(more):
    rng = np.random.default_rng(0)
    size = 400
    time = rng.integers(0, 10 * DAY, size)
    click = rng.random(size) < 0.6
    buy = click & (rng.random(size) < 0.5)
    frame = pl.DataFrame(
        {
            "item": rng.integers(0, 3, size), "time": time, "request": np.arange(size) // 8,
            "click": click.astype(int), "buy": buy.astype(int),
            "buy_time": np.where(buy, time + DAY, np.nan),
        }
    )  # fmt: skip
    tasks = [
        pr.Task("click"),
        pr.Task("buy", given="click", delay=pr.DelayMask(time="buy_time", window="2d"), **more),
    ]  # fmt: skip
    found = pr.Schema(
        [pr.SparseFeature("item")], tasks, pr.Keys(time="time", request="request")
    )  # fmt: skip
    bundle = pr.fit(found, pr.Model(wide=False, trees=False), train=frame, valid=frame, epochs=1)
    assert bundle.predict(frame)["p_buy"].is_finite().all()
    mature = int((frame["time"].max() - time >= 2 * DAY).sum())
    table = bundle.encode(frame, split="train")
    if "debias" in more:
        statistic = term_statistics(table)["buy|click @ click [ddpo]"]
        assert statistic.weight_share == pytest.approx(mature / size)


def test_times_are_read_by_chunks_of_one_form():
    """A log larger than memory is cut where it ends, wherever its last row is."""
    size = 300_000
    time = np.random.default_rng(0).permutation(size).astype(float)
    frame = pl.DataFrame({"time": time, "item": 1, "click": 1, "buy": 0, "buy_time": None})
    assert cuts(frame.lazy(), schema(), "train") == {"buy": size - 1}


def test_a_log_encoded_on_disk_is_the_one_in_memory(tmp_path, caplog):
    size = 40_000
    rng = np.random.default_rng(0)
    time = rng.integers(0, 10 * DAY, size)
    click = rng.random(size) < 0.6
    buy = click & (rng.random(size) < 0.5)
    frame = pl.DataFrame(
        {
            "item": rng.integers(0, 3, size), "time": time, "click": click.astype(int),
            "buy": buy.astype(int), "buy_time": np.where(buy, time + DAY, np.nan),
        }
    )  # fmt: skip
    frame.write_csv(tmp_path / "rows.csv")
    own = with_cut(schema(), frame)
    sources = Sources(str(tmp_path / "rows.csv"), memory="1MiB")
    with caplog.at_level(logging.INFO, "polyrank"):
        on_disk = tables_of(own, sources, beside=tmp_path)[1]["train"]
    assert "encoded by chunks" in caplog.text
    in_memory = tables_of(own, Sources(frame))[1]["train"]
    np.testing.assert_array_equal(np.array(on_disk.labels), in_memory.labels)
    again = tables_of(own, sources, beside=tmp_path)[1]["train"]  # from the cache
    np.testing.assert_array_equal(np.array(again.labels), in_memory.labels)
