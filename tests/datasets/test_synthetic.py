import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.metrics import roc_auc_score

from polyrank.datasets.synthetic import PRESETS, synthetic
from polyrank.errors import ConfigError

TRUTH = ["true_p_click", "true_p_buy", "true_p_buy_given_click", "do_p_buy_given_click"]


def whole(*args, **options):
    *frames, schema = synthetic(*args, **options)
    return pl.concat([frame.collect() for frame in frames]), schema


@pytest.fixture(scope="module", params=[(p, h) for p in PRESETS for h in (0.0, 1.0, 2.0)], ids=str)
def log(request):
    preset, hidden = request.param
    return hidden, whole(200_000, preset=preset, hidden=hidden, seed=1)[0]


def test_rates(log):
    _, rows = log
    assert rows["click"].mean() == pytest.approx(0.04, abs=0.003)
    assert rows["buy"].sum() / rows["click"].sum() == pytest.approx(0.10, abs=0.01)
    assert rows["true_p_click"].mean() == pytest.approx(0.04, abs=0.001)
    assert rows["true_p_buy"].sum() / rows["true_p_click"].sum() == pytest.approx(0.10, abs=0.003)


def test_oracles(log):
    hidden, rows = log
    clicked = rows.filter(pl.col("click") == 1)
    click = roc_auc_score(rows["click"], rows["true_p_click"])
    buy = roc_auc_score(rows["buy"], rows["true_p_buy"])
    given = roc_auc_score(clicked["buy"], clicked["true_p_buy_given_click"])
    assert 0.65 <= click <= 0.80
    # a strong hidden cause decides what the features cannot know
    assert (0.70 if hidden < 2 else 0.67) <= buy <= 0.80
    assert given >= (0.65 if hidden < 2 else 0.62)


def test_nobody_buys_what_they_did_not_click(log):
    _, rows = log
    assert (rows["buy"] <= rows["click"]).all()
    assert set(rows["click"].unique()) == set(rows["buy"].unique()) == {0, 1}


def test_the_truth_is_consistent(log):
    hidden, rows = log
    product = rows["true_p_click"] * rows["true_p_buy_given_click"]
    np.testing.assert_allclose(product, rows["true_p_buy"], rtol=1e-12)
    given, forced = rows["true_p_buy_given_click"], rows["do_p_buy_given_click"]
    if hidden:
        assert (given > forced).all()
        assert (given - forced).mean() > 0.04
    else:
        np.testing.assert_array_equal(given, forced)


@pytest.mark.parametrize("score", ["click", "buy", "buy given click"])
def test_labels_follow_the_truth_everywhere(log, score):
    _, rows = log
    label, truth = {
        "click": ("click", "true_p_click"),
        "buy": ("buy", "true_p_buy"),
        "buy given click": ("buy", "true_p_buy_given_click"),
    }[score]
    if score == "buy given click":
        rows = rows.filter(pl.col("click") == 1)
    p, y = rows[truth].to_numpy(), rows[label].to_numpy()
    everything = np.arange(len(p))
    for some in (everything, *np.array_split(np.argsort(p), 5)):
        deviation = np.sqrt((p[some] * (1 - p[some])).sum())
        assert abs(y[some].sum() - p[some].sum()) < 4 * deviation


def test_splits_have_the_rows_asked_for_in_time_order():
    *frames, _ = synthetic(1_001, seed=2, fractions=(0.5, 0.25, 0.25))
    frames = [frame.collect() for frame in frames]
    assert [frame.height for frame in frames] == [500, 251, 250]
    rows = pl.concat(frames)
    assert rows["time"].is_sorted()
    assert rows["request"].is_sorted()
    assert (
        (rows.group_by("request").agg(pl.col("time", "101", "301").n_unique()) == 1)[
            "time", "101", "301"
        ]
        .to_numpy()
        .all()
    )
    ends = [(frame["request"].min(), frame["request"].max()) for frame in frames]
    assert ends[0][1] < ends[1][0]
    assert ends[1][1] < ends[2][0]


def test_the_latent_log_has_the_columns_of_ali_ccp():
    rows, schema = whole(20_000, seed=1)
    names = [feature.name for feature in schema.features]
    assert names == [
        *("101", "121", "122", "124", "125", "126", "127", "128", "129"),
        *("205", "206", "207", "216", "301", "508", "509"),
        *("D109_14", "D127_14", "D508", "D509"),
    ]
    assert set(rows.columns) == {*names, "request", "time", "click", "buy", *TRUTH}
    assert schema.keys.columns == ("101", "request", "time")
    assert [task.space for task in schema.tasks] == [None, None]  # the model's to say
    most = {"121": 98, "122": 14, "124": 3, "125": 8, "126": 4, "127": 4, "128": 3, "129": 5}
    for name, values in most.items():
        assert rows[name].min() >= 1
        assert rows[name].max() <= values
        assert rows[name].dtype == pl.Int32
    assert rows["D508"].dtype == pl.Float32
    assert 0.03 < rows["D508"].null_count() / rows.height < 0.07
    assert not rows["D508"].drop_nulls().is_nan().any()
    assert rows["D508"].mean() > 1.3 * rows["D508"].median()
    assert {rows[name].dtype for name in TRUTH} == {pl.Float64()}
    assert {rows["click"].dtype, rows["buy"].dtype} == {pl.Int8()}


def test_the_additive_log_has_eight_fields_and_nothing_else():
    rows, schema = whole(20_000, preset="additive")
    names = [feature.name for feature in schema.features]
    assert len(names) == 8
    assert "101" not in names
    assert max(rows[name].n_unique() for name in names) <= 24
    fields = rows.group_by(names).agg(pl.col("true_p_buy").max() - pl.col("true_p_buy").min())
    assert fields["true_p_buy"].max() < 1e-15


def test_a_few_users_and_items_are_seen_most():
    rows, _ = whole(50_000)
    for name in ("101", "205"):
        counts = rows[name].value_counts(sort=True)["count"]
        assert counts.head(len(counts) // 10).sum() > 0.25 * rows.height


def test_the_seed_decides_the_log():
    one, again, other = (whole(2_000, seed=seed, hidden=1.0)[0] for seed in (1, 1, 2))
    assert_frame_equal(one, again)
    assert not one["true_p_click"].equals(other["true_p_click"])


def test_the_world_does_not_depend_on_the_rows():
    small, large = whole(3_000, users=500)[0], whole(30_000, users=500)[0]
    columns = ["101", "121", "129", "D109_14"]
    both = small[columns].unique().join(large[columns].unique(), on="101", suffix="_large")
    assert both.height > 100
    for name in columns[1:]:
        assert both[name].equals(both[f"{name}_large"])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [1, 3])
def test_tiny_worlds(preset, size):
    rows, _ = whole(30, preset=preset, users=size, items=size)
    assert rows["101"].max() <= size
    assert rows.select(pl.col(TRUTH).is_between(0, 1).all()).row(0) == (True,) * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "latnet"}, "unknown preset 'latnet'; did you mean 'latent'"),
        ({"hidden": 9}, "hidden must be a number of at least -4 and at most 4, got 9"),
        ({"users": 0}, "users must be a whole number of at least 1, got 0"),
        ({"items": -1}, "items must be a whole number of at least 1, got -1"),
        ({"fractions": (0.8, 0.2)}, "three numbers above 0 that sum to 1"),
        ({"fractions": (0.8, 0.2, 0.0)}, "three numbers above 0 that sum to 1"),
        ({"fractions": (0.8, 0.2, 0.2)}, "three numbers above 0 that sum to 1"),
        ({"rows": 3}, "3 rows leave a split empty"),
        ({"rows": -5}, "-5 rows leave a split empty"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        synthetic(**options)
